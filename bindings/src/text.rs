//! `slackwater._native.text`: the router's own text handling, so that a model used in process gives the same text.

#![allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands arguments over by value"
)]

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use slackwater_server::{detokenizer, stop, tokenizer};

/// Fills the module.
pub(crate) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Detokenizer>()?;
    module.add_class::<StopMatcher>()?;
    module.add("__all__", ["Detokenizer", "StopMatcher"])
}

/// Turns one stream of tokens into text.
#[pyclass(module = "slackwater._native.text")]
struct Detokenizer {
    tokenizer: Arc<tokenizer::Tokenizer>,
    inner: detokenizer::Detokenizer,
}

impl Detokenizer {
    fn start(tokenizer: Arc<tokenizer::Tokenizer>, skip_special: bool) -> Self {
        Self {
            inner: detokenizer::Detokenizer::new(Arc::clone(&tokenizer), skip_special),
            tokenizer,
        }
    }
}

#[pymethods]
impl Detokenizer {
    #[new]
    fn new(py: Python<'_>, tokenizer_json: &str) -> PyResult<Self> {
        let read = || tokenizer::Tokenizer::from_bytes(tokenizer_json.as_bytes());
        let tokenizer = py.detach(read).map_err(|error| value_error(&error))?;
        Ok(Self::start(Arc::new(tokenizer), true))
    }

    /// Another stream's start, with the same tokeniser.
    #[pyo3(signature = (*, skip_special_tokens = true))]
    fn fresh(&self, skip_special_tokens: bool) -> Self {
        Self::start(Arc::clone(&self.tokenizer), skip_special_tokens)
    }

    /// Takes the next tokens; gives the text that is now certain.
    fn push(&mut self, ids: Vec<u32>) -> PyResult<String> {
        ids.into_iter().try_fold(String::new(), |mut text, id| {
            text += &self.inner.push(id).map_err(|error| value_error(&error))?;
            Ok(text)
        })
    }

    /// The text that was held back, at the stream's end.
    fn finish(&mut self) -> PyResult<String> {
        self.inner.finish().map_err(|error| value_error(&error))
    }
}

/// Looks for stop strings in text that comes in pieces.
#[pyclass(module = "slackwater._native.text")]
struct StopMatcher {
    inner: stop::StopMatcher,
}

#[pymethods]
impl StopMatcher {
    #[new]
    #[pyo3(signature = (stops, *, include_stop = false))]
    fn new(stops: Vec<String>, include_stop: bool) -> PyResult<Self> {
        let mut inner = stop::StopMatcher::new(&stops).map_err(|error| value_error(&error))?;
        if include_stop {
            inner = inner.showing_stop();
        }
        Ok(Self { inner })
    }

    /// Takes the next piece; gives what can be shown, and whether a stop is complete.
    fn push(&mut self, text: &str) -> (String, bool) {
        let passed = self.inner.push(text);
        (passed.text, passed.stopped)
    }

    /// What was held back is text after all.
    fn finish(&mut self) -> String {
        self.inner.finish()
    }
}

fn value_error(error: &dyn std::error::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
