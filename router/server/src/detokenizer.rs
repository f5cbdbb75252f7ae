//! Tokens to text, as they come. Pure: the HTTP session uses it, and so does the worker's in-process API through the native
//! module.
//!
//! What is given is never half a character. A byte-level tokeniser (GPT-2, Llama 3, Qwen, `SmolLM`) is decoded byte by byte,
//! exactly as the whole would be. Any other decoder may look at neighbours, so it sees a short window of tokens twice, with
//! and without the new ones, and the difference is the text; the window is bounded, so the cost stays linear.

use std::sync::Arc;

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens that a window may hold back before they are shown as they are.
const LONGEST_HOLD: usize = 32;

/// Turns one stream of tokens into text.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    state: State,
}

#[derive(Clone)]
enum State {
    /// The beginning of a character, at most three bytes.
    Bytes(Vec<u8>),
    Window(Window),
}

#[derive(Clone, Default)]
struct Window {
    tokens: Vec<u32>,
    /// Tokens at the window's start that are there only as neighbours: their text has been given.
    given: usize,
}

impl Detokenizer {
    /// A stream's start. `skip_special` leaves out tokens that are no text, such as an end token.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let state = if tokenizer.is_byte_level() {
            State::Bytes(Vec::new())
        } else {
            State::Window(Window::default())
        };
        Self {
            tokenizer,
            skip_special,
            state,
        }
    }

    /// Takes the next token and gives the text that is now certain, often none.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`] if the tokeniser's decoder fails; a byte-level one cannot.
    pub fn push(&mut self, token: u32) -> Result<String, TokenizerError> {
        match &mut self.state {
            State::Bytes(pending) => {
                pending.extend(self.tokenizer.bytes_of(token, self.skip_special));
                Ok(complete_characters(pending))
            }
            State::Window(window) => {
                window.tokens.push(token);
                window.text(&self.tokenizer, self.skip_special, false)
            }
        }
    }

    /// The stream is at its end. A character that was never finished becomes U+FFFD, as in the decoding of the whole.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`], as [`Detokenizer::push`].
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        match &mut self.state {
            State::Bytes(pending) => {
                let rest = std::mem::take(pending);
                Ok(String::from_utf8_lossy(&rest).into_owned())
            }
            State::Window(window) => window.text(&self.tokenizer, self.skip_special, true),
        }
    }
}

/// Takes all but the beginning of a character at the end; bytes that are no text become U+FFFD.
fn complete_characters(pending: &mut Vec<u8>) -> String {
    let mut keep = 0;
    if let Err(error) = std::str::from_utf8(pending) {
        keep = unfinished(pending, &error);
    }
    let rest = pending.split_off(pending.len() - keep);
    let whole = std::mem::replace(pending, rest);
    match String::from_utf8(whole) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

/// Bytes at the end that are the beginning of a character.
fn unfinished(bytes: &[u8], first: &std::str::Utf8Error) -> usize {
    let mut error = *first;
    let mut from = 0;
    loop {
        let at = from + error.valid_up_to();
        let Some(bad) = error.error_len() else {
            return bytes.len() - at;
        };
        from = at + bad;
        match std::str::from_utf8(bytes.get(from..).unwrap_or_default()) {
            Ok(_) => return 0,
            Err(next) => error = next,
        }
    }
}

impl Window {
    fn text(
        &mut self,
        tokenizer: &Tokenizer,
        skip_special: bool,
        last: bool,
    ) -> Result<String, TokenizerError> {
        let (neighbours, new) = self.tokens.split_at(self.given.min(self.tokens.len()));
        if new.is_empty() {
            return Ok(String::new());
        }
        let before = tokenizer.decode(neighbours, skip_special)?;
        let after = tokenizer.decode(&self.tokens, skip_special)?;
        let unclear = after.ends_with('\u{fffd}') || after.len() <= before.len();
        if unclear && !last && new.len() < LONGEST_HOLD {
            return Ok(String::new());
        }
        let text = after.get(before.len()..).unwrap_or_default().to_owned();
        self.tokens.drain(..self.given);
        self.given = self.tokens.len();
        Ok(text)
    }
}
