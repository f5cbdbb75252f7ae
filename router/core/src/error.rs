//! Why a request cannot be made, and why one that was made fails. One file of the server maps them to HTTP.

use std::time::Duration;

use thiserror::Error;

/// A draft that is no valid request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No prompt tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id that the model does not have.
    #[error("token id {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfVocabulary {
        /// The id.
        token: u32,
        /// Width of the logits.
        vocab_size: u32,
    },
    /// The prompt leaves no room for one output token.
    #[error(
        "the prompt has {prompt_tokens} tokens; with at least one output token the limit is {max_model_len}"
    )]
    PromptTooLong {
        /// Its length.
        prompt_tokens: u64,
        /// Prompt plus output.
        max_model_len: u32,
    },
    /// Prompt plus wanted output are over the context.
    #[error(
        "{prompt_tokens} prompt tokens and max_tokens {max_tokens} together exceed the limit of {max_model_len}"
    )]
    OutputTooLong {
        /// Its length.
        prompt_tokens: u64,
        /// What was asked for.
        max_tokens: u32,
        /// Prompt plus output.
        max_model_len: u32,
    },
    /// A parameter outside its bounds.
    #[error("{param} is out of range")]
    OutOfRange {
        /// Its name.
        param: &'static str,
    },
}

/// Why a request was refused or failed after it was made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// No worker is there to serve it.
    #[error("no worker is available")]
    NoWorker {
        /// When to try again.
        retry_after: Duration,
    },
    /// Too many requests of its class wait.
    #[error("the queue is full")]
    QueueFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// It waited past its expiry.
    #[error("the request waited too long for a worker")]
    QueueTimeout {
        /// When to try again.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining {
        /// When to try again.
        retry_after: Duration,
    },
    /// It was resumed too often without a new token.
    #[error("the request was resumed {resumes} times without progress")]
    ResumeLimit {
        /// How often.
        resumes: u32,
    },
    /// A worker said that no worker would take it.
    #[error("{message}")]
    Refused {
        /// The worker's stable code.
        code: String,
        /// For people.
        message: String,
        /// The parameter at fault.
        param: Option<String>,
    },
    /// The worker failed it.
    #[error("{message}")]
    Worker {
        /// The worker's stable code.
        code: String,
        /// For people.
        message: String,
    },
}
