//! Text to tokens, with the model's own `tokenizer.json`, and the pool on which long texts are worked on.

use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use tokenizers::DecoderWrapper;
use tokio::sync::Semaphore;

/// Why text and tokens could not be turned into each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenizerError {
    /// The file is no tokeniser.
    #[error("{reason}")]
    Load {
        /// What is wrong with it.
        reason: String,
    },
    /// This text cannot be encoded.
    #[error("the tokeniser cannot encode this text: {reason}")]
    Encode {
        /// What it said.
        reason: String,
    },
    /// These tokens cannot be decoded.
    #[error("the tokeniser cannot decode these tokens: {reason}")]
    Decode {
        /// What it said.
        reason: String,
    },
}

/// A model's tokeniser.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    byte_level: bool,
}

impl Tokenizer {
    /// Reads the text of a `tokenizer.json`. Its truncation and padding are left out: lengths are ours to judge.
    ///
    /// # Errors
    /// [`TokenizerError::Load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let load = |error: tokenizers::Error| TokenizerError::Load {
            reason: error.to_string(),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(load)?;
        inner.with_truncation(None).map_err(load)?;
        inner.with_padding(None);
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        Ok(Self { inner, byte_level })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::Load`].
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = std::fs::read(path).map_err(|error| TokenizerError::Load {
            reason: error.to_string(),
        })?;
        Self::from_bytes(&bytes)
    }

    /// Token ids of a text. `add_special` is for plain prompts; a rendered chat has its special tokens already.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, add_special);
        encoding
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TokenizerError::Encode {
                reason: error.to_string(),
            })
    }

    /// The text of all these tokens at once.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let decoded = self.inner.decode(tokens, skip_special);
        decoded.map_err(|error| TokenizerError::Decode {
            reason: error.to_string(),
        })
    }

    /// The bytes of one token by itself, special or not.
    pub fn token_bytes(&self, token: u32) -> Vec<u8> {
        if self.byte_level {
            return self.bytes_of(token, false);
        }
        self.decode(&[token], false)
            .unwrap_or_default()
            .into_bytes()
    }

    /// Number of tokens, those added to the model's own included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether text is no more than the bytes of its tokens, one after the other.
    pub(crate) const fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    /// The bytes of a token of a byte-level tokeniser; none for a token that is not there or is not shown.
    pub(crate) fn bytes_of(&self, token: u32, skip_special: bool) -> Vec<u8> {
        let Some(name) = self.inner.id_to_token(token) else {
            return Vec::new();
        };
        if skip_special && self.inner.get_added_vocabulary().is_special_token(&name) {
            return Vec::new();
        }
        let bytes: Option<Vec<u8>> = name.chars().map(byte_of).collect();
        bytes.unwrap_or_else(|| name.into_bytes())
    }
}

/// Byte-level vocabularies are written with printable characters: a byte that is printable in Latin-1 stands for itself, the
/// 68 others follow from U+0100 on in order of value.
fn byte_of(character: char) -> Option<u8> {
    let value = u32::from(character);
    let byte = match value {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => value,
        0x100..=0x120 => value - 0x100,
        0x121..=0x142 => value - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Where texts are rendered and tokenised: short ones at once, long ones on threads of their own, a few at a time.
#[derive(Debug, Clone)]
pub struct TextPool {
    permits: Arc<Semaphore>,
    inline_bytes: usize,
}

/// The work on a text ended without a result: it panicked, or the process is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the text could not be worked on")]
pub struct TextPoolError;

impl TextPool {
    /// A pool for this many texts at once; texts up to `inline_bytes` are not worth a change of thread.
    pub fn new(workers: usize, inline_bytes: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(workers.max(1))),
            inline_bytes,
        }
    }

    /// Does the work for a text of this size. If the caller goes away, work that has begun goes on to its end and keeps its
    /// place until then.
    ///
    /// # Errors
    /// [`TextPoolError`].
    pub async fn run<T, F>(&self, text_bytes: usize, work: F) -> Result<T, TextPoolError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if text_bytes <= self.inline_bytes {
            return Ok(work());
        }
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| TextPoolError)?;
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        })
        .await
        .map_err(|_| TextPoolError)
    }
}
