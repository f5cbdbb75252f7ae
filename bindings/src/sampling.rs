//! `slackwater._native.sampling`: the sampler, on numpy arrays and in place.
//!
//! A request's parameters and history live on this side; a call takes only references to them, positions and drafts, and
//! gives back a few numbers a row.

#![allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands arguments over by value"
)]

use numpy::{PyReadonlyArray2, PyReadwriteArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use slackwater_kernels::KernelError as Refused;
use slackwater_kernels::sample::{self, RowRequest, Sampled, SamplingParams};

use crate::kernels::{KernelError, Pool, chosen, guarded, lent, row_major};

/// Fills the module.
pub(crate) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RequestSampler>()?;
    module.add_class::<SampledToken>()?;
    module.add_function(wrap_pyfunction!(prompt_logprobs, module)?)?;
    module.add_function(wrap_pyfunction!(sample_rows, module)?)?;
    module.add(
        "__all__",
        [
            "RequestSampler",
            "SampledToken",
            "prompt_logprobs",
            "sample",
        ],
    )
}

/// A request's parameters and what it has said so far.
#[pyclass(module = "slackwater._native.sampling")]
struct RequestSampler {
    inner: sample::RequestSampler,
}

#[pymethods]
impl RequestSampler {
    #[new]
    #[pyo3(signature = (
        vocab_size, *, seed=0, choice_index=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, frequency_penalty=0.0,
        presence_penalty=0.0, repetition_penalty=1.0, logit_bias=Vec::new(), allowed_token_ids=None, bad_words=Vec::new(),
        min_tokens=0, held_back_ids=Vec::new(), logprobs=None, prompt_ids=Vec::new(), output_ids=Vec::new(),
    ))]
    #[allow(clippy::too_many_arguments, reason = "each by its name in Python")]
    fn new(
        py: Python<'_>,
        vocab_size: usize,
        seed: u64,
        choice_index: u32,
        temperature: f64,
        top_k: i64,
        top_p: f64,
        min_p: f64,
        frequency_penalty: f64,
        presence_penalty: f64,
        repetition_penalty: f64,
        logit_bias: Vec<(u32, f64)>,
        allowed_token_ids: Option<Vec<u32>>,
        bad_words: Vec<Vec<u32>>,
        min_tokens: u32,
        held_back_ids: Vec<u32>,
        logprobs: Option<u32>,
        prompt_ids: Vec<u32>,
        output_ids: Vec<u32>,
    ) -> PyResult<Self> {
        let params = SamplingParams {
            seed,
            choice_index,
            temperature,
            top_k,
            top_p,
            min_p,
            frequency_penalty,
            presence_penalty,
            repetition_penalty,
            logit_bias,
            allowed_token_ids,
            bad_words,
            min_tokens,
            held_back_ids,
            logprobs,
        };
        let inner = guarded(py, false, || {
            sample::RequestSampler::new(vocab_size, params, &prompt_ids, &output_ids)
        })?;
        Ok(Self { inner })
    }

    /// Takes tokens that were accepted.
    fn extend(&mut self, py: Python<'_>, output_ids: Vec<u32>) -> PyResult<()> {
        let inner = &mut self.inner;
        guarded(py, false, || inner.extend(&output_ids))
    }

    /// Output tokens so far.
    #[getter]
    fn num_output_tokens(&self) -> u32 {
        self.inner.num_output_tokens()
    }
}

/// What became of one row.
#[pyclass(frozen, get_all, module = "slackwater._native.sampling")]
struct SampledToken {
    token_id: Option<u32>,
    error: Option<&'static str>,
    logprob: Option<f32>,
    top_ids: Py<pyo3::types::PyTuple>,
    top_logprobs: Py<pyo3::types::PyTuple>,
}

impl SampledToken {
    fn of(py: Python<'_>, sampled: Sampled) -> PyResult<Self> {
        let (ids, logprobs): (Vec<_>, Vec<_>) = sampled.top.into_iter().unzip();
        Ok(Self {
            token_id: sampled.token.ok(),
            error: sampled.token.err().map(sample::RowError::code),
            logprob: sampled.logprob,
            top_ids: pyo3::types::PyTuple::new(py, ids)?.unbind(),
            top_logprobs: pyo3::types::PyTuple::new(py, logprobs)?.unbind(),
        })
    }
}

/// A row: its request, output position, drafts before it, and the index of its mask or -1.
type Row<'py> = (PyRef<'py, RequestSampler>, u32, Vec<u32>, i64);

/// A token for each row of `logits`, which are overwritten.
#[pyfunction]
#[pyo3(name = "sample")]
fn sample_rows(
    py: Python<'_>,
    mut logits: PyReadwriteArray2<'_, f32>,
    rows: Vec<Row<'_>>,
    masks: Option<PyReadonlyArray2<'_, i32>>,
    pool: &Pool,
) -> PyResult<Vec<SampledToken>> {
    let [count, vocab_size] = row_major(&logits, "logits")?;
    if count != rows.len() {
        return Err(KernelError::new_err(format!(
            "logits has {count} rows, expected {}",
            rows.len()
        )));
    }
    let words = masks.as_ref().map(|masks| mask_words(masks, vocab_size));
    let masks = words.transpose()?.unwrap_or_default();
    let logits = lent(logits.as_slice_mut(), "logits")?;
    let rows: Vec<_> = rows
        .iter()
        .map(|(sampler, position, drafts, mask)| RowRequest {
            sampler: &sampler.inner,
            position: *position,
            drafts,
            mask: usize::try_from(*mask).ok(),
        })
        .collect();
    let kernels = chosen();
    let sampled = guarded(py, true, || {
        sample::sample(logits, vocab_size, &rows, masks, kernels, &pool.inner)
    })?;
    let sampled = sampled.into_iter();
    sampled.map(|row| SampledToken::of(py, row)).collect()
}

/// Logprobs of the token that follows each row of `logits`, and of the likeliest ones.
#[pyfunction]
fn prompt_logprobs(
    py: Python<'_>,
    logits: PyReadonlyArray2<'_, f32>,
    next_ids: Vec<u32>,
    top_n: u32,
    pool: &Pool,
) -> PyResult<Vec<SampledToken>> {
    let [count, vocab_size] = row_major(&logits, "logits")?;
    if count != next_ids.len() {
        return Err(KernelError::new_err(format!(
            "logits has {count} rows, expected {}",
            next_ids.len()
        )));
    }
    let logits = lent(logits.as_slice(), "logits")?;
    let kernels = chosen();
    let sampled = guarded(py, true, || {
        sample::prompt_logprobs(logits, vocab_size, &next_ids, top_n, kernels, &pool.inner)
    })?;
    let sampled = sampled.into_iter();
    sampled.map(|row| SampledToken::of(py, row)).collect()
}

/// The words of the masks, whose rows are as wide as the vocabulary asks for.
fn mask_words<'a>(masks: &'a PyReadonlyArray2<'_, i32>, vocab_size: usize) -> PyResult<&'a [i32]> {
    let expected = vocab_size.div_ceil(32);
    match masks.shape() {
        [_, actual] if *actual != expected => {
            let what = "a row of masks";
            let (expected, actual) = (expected, *actual);
            let refused = Refused::Length {
                what,
                expected,
                actual,
            };
            Err(KernelError::new_err(refused.to_string()))
        }
        _ if masks.is_c_contiguous() => lent(masks.as_slice(), "masks"),
        _ => Err(KernelError::new_err("masks is not C-contiguous")),
    }
}
