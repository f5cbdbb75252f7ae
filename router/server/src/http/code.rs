//! The stable codes of errors, each with its status and whether to try again.

use std::time::Duration;

use hyper::StatusCode;

/// Stable short codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the codes")]
pub enum Code {
    InvalidJson,
    InvalidRequest,
    UnknownParameter,
    UnsupportedParameter,
    ChatUnsupported,
    ContextLengthExceeded,
    KvNeverFits,
    PermissionDenied,
    ModelNotFound,
    UnknownUrl,
    MethodNotAllowed,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    QueueFull,
    MemoryPressure,
    Internal,
    NumericsError,
    GrammarInvalid,
    GrammarTooComplex,
    GrammarDeadEnd,
    ResumeLimit,
    NoWorker,
    Draining,
    QueueTimeout,
    TooManyConnections,
}

/// Whether and when a client should try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    Never,
    AtWill,
    After(Duration),
}

impl Code {
    /// As clients see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidRequest => "invalid_request",
            Self::UnknownParameter => "unknown_parameter",
            Self::UnsupportedParameter => "unsupported_parameter",
            Self::ChatUnsupported => "chat_unsupported",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::KvNeverFits => "kv_never_fits",
            Self::PermissionDenied => "permission_denied",
            Self::ModelNotFound => "model_not_found",
            Self::UnknownUrl => "unknown_url",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::QueueFull => "queue_full",
            Self::MemoryPressure => "memory_pressure",
            Self::Internal => "internal",
            Self::NumericsError => "numerics_error",
            Self::GrammarInvalid => "grammar_invalid",
            Self::GrammarTooComplex => "grammar_too_complex",
            Self::GrammarDeadEnd => "grammar_dead_end",
            Self::ResumeLimit => "resume_limit",
            Self::NoWorker => "no_worker",
            Self::Draining => "draining",
            Self::QueueTimeout => "queue_timeout",
            Self::TooManyConnections => "too_many_connections",
        }
    }

    /// HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidJson
            | Self::InvalidRequest
            | Self::UnknownParameter
            | Self::UnsupportedParameter
            | Self::ChatUnsupported
            | Self::ContextLengthExceeded
            | Self::KvNeverFits
            | Self::GrammarInvalid
            | Self::GrammarTooComplex => StatusCode::BAD_REQUEST,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ModelNotFound | Self::UnknownUrl => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull | Self::MemoryPressure => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal | Self::NumericsError | Self::GrammarDeadEnd | Self::ResumeLimit => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::NoWorker | Self::Draining | Self::QueueTimeout | Self::TooManyConnections => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The broad kind that the API has beside it.
    pub(super) const fn kind(self) -> &'static str {
        match self.status().as_u16() {
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// Whether it blames what the client wrote as a grammar.
    pub(super) const fn is_of_grammar(self) -> bool {
        matches!(self, Self::GrammarInvalid | Self::GrammarTooComplex)
    }

    /// What a worker may say. The table is closed: anything else is a fault of the worker.
    pub(super) fn of_worker(code: &str) -> Self {
        const KNOWN: [Code; 10] = [
            Code::InvalidRequest,
            Code::UnsupportedParameter,
            Code::ContextLengthExceeded,
            Code::KvNeverFits,
            Code::MemoryPressure,
            Code::NumericsError,
            Code::GrammarInvalid,
            Code::GrammarTooComplex,
            Code::GrammarDeadEnd,
            Code::Draining,
        ];
        KNOWN
            .into_iter()
            .find(|known| known.name() == code)
            .unwrap_or(Self::Internal)
    }

    pub(super) fn retry(self) -> Retry {
        match self.status().as_u16() {
            429 | 503 => Retry::After(Duration::from_secs(1)),
            408 => Retry::AtWill,
            500 if matches!(self, Self::Internal | Self::NumericsError) => Retry::AtWill,
            _ => Retry::Never,
        }
    }
}
