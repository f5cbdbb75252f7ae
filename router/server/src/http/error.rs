//! The one map from what went wrong to what a client is told: status, stable code, parameter, and when to try again.
//!
//! Codes are part of the API: clients and metrics match on them. Texts may change, and never name a worker or an address.

use std::time::Duration;

use hyper::Response;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use serde::Serialize;
use slackwater_core::{Failure, RequestError, RequestId};
use thiserror::Error;

use super::answer::Body;
use super::code::{Code, Retry};

/// Why a request gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServerError {
    /// The body is no JSON that we read.
    #[error("the body is no valid JSON: {what}")]
    InvalidJson {
        /// What is wrong with it.
        what: String,
    },
    /// The body is JSON, but nothing that has fields.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// The head is no HTTP, or over a limit.
    #[error("the request cannot be read: {what}")]
    BadHead {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A field has a wrong type or value.
    #[error("{param}: {message}")]
    Invalid {
        /// The field.
        param: String,
        /// What it should be.
        message: String,
    },
    /// A field that nobody knows.
    #[error("unknown parameter: {param}")]
    UnknownParameter {
        /// The field.
        param: String,
    },
    /// A field that is known, but not with this value.
    #[error("{param} is not supported with this value")]
    UnsupportedParameter {
        /// The field.
        param: String,
    },
    /// The model has no chat template.
    #[error("this model has no chat template; use /v1/completions")]
    ChatUnsupported,
    /// The chat template does not take these messages.
    #[error("the model's chat template does not take these messages: {what}")]
    Template {
        /// What it said.
        what: String,
    },
    /// No such model here.
    #[error("the model {model:?} does not exist here")]
    UnknownModel {
        /// What was asked for.
        model: String,
    },
    /// No such path.
    #[error("unknown URL")]
    UnknownUrl,
    /// The path is there, but not for this method.
    #[error("method not allowed; allowed: {allow}")]
    MethodNotAllowed {
        /// The methods that are.
        allow: String,
    },
    /// The route is not for this caller.
    #[error("permission denied")]
    PermissionDenied,
    /// The body is over its limit.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body is encoded in a way that we do not read, or of a type that we do not take.
    #[error("{what}")]
    UnsupportedMediaType {
        /// What to send instead.
        what: &'static str,
    },
    /// The body did not come in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The connection cap is reached.
    #[error("too many connections")]
    TooManyConnections,
    /// No worker has ever been ready.
    #[error("no worker is available")]
    NoWorker,
    /// The server is going down.
    #[error("the server is shutting down")]
    Draining,
    /// A fault of ours. The text is for the log.
    #[error("internal error")]
    Internal {
        /// What happened.
        what: &'static str,
    },
    /// A draft that is no valid request.
    #[error("{error}")]
    Request {
        /// What is wrong.
        error: RequestError,
        /// What the client calls the prompt and the output limit.
        names: ParamNames,
    },
    /// It was refused or failed after it was made.
    #[error("{0}")]
    Failed(#[from] Failure),
}

/// What an endpoint, or this request, calls the fields that the core checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamNames {
    /// `messages` or `prompt`.
    pub prompt: &'static str,
    /// `max_tokens` or `max_completion_tokens`.
    pub max_tokens: &'static str,
}

/// An error as a client sees it.
#[derive(Debug, Serialize)]
struct ErrorObject {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: &'static str,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    error: ErrorObject,
}

impl ServerError {
    /// A field whose value cannot be.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: param.into(),
            message: message.into(),
        }
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidJson { .. } => Code::InvalidJson,
            Self::NotAnObject
            | Self::BadHead { .. }
            | Self::Invalid { .. }
            | Self::Template { .. } => Code::InvalidRequest,
            Self::UnknownParameter { .. } => Code::UnknownParameter,
            Self::UnsupportedParameter { .. } => Code::UnsupportedParameter,
            Self::ChatUnsupported => Code::ChatUnsupported,
            Self::UnknownModel { .. } => Code::ModelNotFound,
            Self::UnknownUrl => Code::UnknownUrl,
            Self::MethodNotAllowed { .. } => Code::MethodNotAllowed,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::UnsupportedMediaType { .. } => Code::UnsupportedMediaType,
            Self::BodyTimeout => Code::BodyTimeout,
            Self::TooManyConnections => Code::TooManyConnections,
            Self::NoWorker => Code::NoWorker,
            Self::Draining => Code::Draining,
            Self::Internal { .. } => Code::Internal,
            Self::Request { error, .. } => code_of_request(error),
            Self::Failed(failure) => code_of_failure(failure),
        }
    }

    /// The parameter at fault, if one is.
    fn param(&self) -> Option<String> {
        match self {
            Self::Invalid { param, .. }
            | Self::UnknownParameter { param }
            | Self::UnsupportedParameter { param } => Some(param.clone()),
            Self::Template { .. } | Self::ChatUnsupported => Some("messages".to_owned()),
            Self::UnknownModel { .. } => Some("model".to_owned()),
            Self::Request { error, names } => Some(param_of_request(error, *names).to_owned()),
            Self::Failed(Failure::Refused { param, .. }) => param.clone(),
            Self::InvalidJson { .. }
            | Self::NotAnObject
            | Self::BadHead { .. }
            | Self::UnknownUrl
            | Self::MethodNotAllowed { .. }
            | Self::PermissionDenied
            | Self::BodyTooLarge { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::BodyTimeout
            | Self::TooManyConnections
            | Self::NoWorker
            | Self::Draining
            | Self::Internal { .. }
            | Self::Failed(_) => None,
        }
    }

    /// For people. A worker's own words pass only where they are about the request.
    fn message(&self) -> String {
        if let Self::Failed(Failure::Worker { .. } | Failure::Refused { .. }) = self
            && self.code().status().is_server_error()
        {
            return "the worker failed the request".to_owned();
        }
        self.to_string()
    }

    fn retry(&self) -> Retry {
        if let Self::Failed(
            Failure::NoWorker { retry_after }
            | Failure::QueueFull { retry_after }
            | Failure::QueueTimeout { retry_after }
            | Failure::Draining { retry_after },
        ) = self
        {
            return Retry::After(*retry_after);
        }
        self.code().retry()
    }

    /// The API's error object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let code = self.code();
        let body = ErrorBody {
            error: ErrorObject {
                message: self.message(),
                kind: code.kind(),
                param: self.param(),
                code: code.name(),
            },
        };
        serde_json::to_vec(&body).unwrap_or_else(|_| FALLBACK.to_vec())
    }

    /// The event that ends a stream which failed after its headers.
    pub fn to_event(&self) -> Vec<u8> {
        [b"data: ".as_slice(), &self.to_json(), b"\n\n"].concat()
    }

    /// The whole answer. The request's id spreads the times of retries.
    pub fn to_response(&self, request_id: RequestId) -> Response<Body> {
        let mut response = Response::new(Body::full(self.to_json()));
        *response.status_mut() = self.code().status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        retry_headers(headers, self.retry(), request_id);
        match self {
            Self::MethodNotAllowed { allow } => {
                if let Ok(value) = HeaderValue::from_str(allow) {
                    headers.insert(ALLOW, value);
                }
            }
            // What is left of the body is not read.
            Self::BodyTooLarge { .. } | Self::UnsupportedMediaType { .. } | Self::BodyTimeout => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

const FALLBACK: &[u8] =
    br#"{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal"}}"#;

fn code_of_request(error: &RequestError) -> Code {
    match error {
        RequestError::EmptyPrompt
        | RequestError::TokenOutOfVocabulary { .. }
        | RequestError::OutOfRange { .. } => Code::InvalidRequest,
        RequestError::PromptTooLong { .. } | RequestError::OutputTooLong { .. } => {
            Code::ContextLengthExceeded
        }
    }
}

fn param_of_request(error: &RequestError, names: ParamNames) -> &'static str {
    match error {
        RequestError::EmptyPrompt
        | RequestError::TokenOutOfVocabulary { .. }
        | RequestError::PromptTooLong { .. } => names.prompt,
        RequestError::OutputTooLong { .. }
        | RequestError::OutOfRange {
            param: "max_tokens",
        } => names.max_tokens,
        RequestError::OutOfRange { param } => param,
    }
}

fn code_of_failure(failure: &Failure) -> Code {
    match failure {
        Failure::NoWorker { .. } => Code::NoWorker,
        Failure::QueueFull { .. } => Code::QueueFull,
        Failure::QueueTimeout { .. } => Code::QueueTimeout,
        Failure::Draining { .. } => Code::Draining,
        Failure::ResumeLimit { .. } => Code::ResumeLimit,
        Failure::Refused { code, .. } | Failure::Worker { code, .. } => Code::of_worker(code),
    }
}

/// `openai-python` obeys all three, in this order of preference: `retry-after-ms`, `retry-after`, `x-should-retry`.
fn retry_headers(headers: &mut HeaderMap, retry: Retry, request_id: RequestId) {
    let should = !matches!(retry, Retry::Never);
    headers.insert(
        HeaderName::from_static("x-should-retry"),
        HeaderValue::from_static(if should { "true" } else { "false" }),
    );
    if let Retry::After(wait) = retry {
        let millis = spread(wait, request_id);
        headers.insert(RETRY_AFTER, HeaderValue::from(millis.div_ceil(1_000)));
        headers.insert(
            HeaderName::from_static("retry-after-ms"),
            HeaderValue::from(millis),
        );
    }
}

/// 1 to 60 s, and up to a quarter more taken from the request's id, so that refused clients do not return together.
fn spread(wait: Duration, request_id: RequestId) -> u64 {
    let millis = u64::try_from(wait.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1_000, 60_000);
    let [.., last] = request_id.0.to_be_bytes();
    millis + millis * u64::from(last) / 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_pass_only_where_they_are_about_the_request() {
        let refused = |code: &str| {
            ServerError::Failed(Failure::Refused {
                code: code.to_owned(),
                message: "needs 9 blocks of 4".to_owned(),
                param: Some("messages".to_owned()),
            })
        };
        assert_eq!(
            String::from_utf8(refused("kv_never_fits").to_json()).unwrap(),
            r#"{"error":{"message":"needs 9 blocks of 4","type":"invalid_request_error","param":"messages","code":"kv_never_fits"}}"#
        );
        assert_eq!(
            String::from_utf8(refused("/home/x: made up").to_json()).unwrap(),
            r#"{"error":{"message":"the worker failed the request","type":"server_error","param":"messages","code":"internal"}}"#
        );
    }

    #[test]
    fn retries_are_told_three_times_and_spread_by_the_id() {
        let error = ServerError::Failed(Failure::QueueFull {
            retry_after: Duration::from_secs(2),
        });
        let response = error.to_response(RequestId(0xff));
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                header("retry-after"),
                header("retry-after-ms"),
                header("x-should-retry")
            ),
            (429, "3", "2498", "true")
        );
    }
}
