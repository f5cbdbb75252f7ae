//! Reads a request's body within its limit of bytes and of time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::error::ServerError;

/// Refuses by the head alone what need not be read.
///
/// # Errors
/// 413 for a declared length over the limit, 415 for an encoded body or, where one is taken at all, for one that says it
/// is no JSON: a web page may send such a body to any server without asking it first, JSON it may not.
pub fn check_head(method: &Method, headers: &HeaderMap, limit: u64) -> Result<(), ServerError> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        let what = "request bodies with Content-Encoding are not accepted";
        return Err(ServerError::UnsupportedMediaType { what });
    }
    if method == Method::POST && !headers.get_all(CONTENT_TYPE).iter().all(is_json) {
        let what = "the body must be JSON: send content-type: application/json";
        return Err(ServerError::UnsupportedMediaType { what });
    }
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(ServerError::BodyTooLarge { limit });
    }
    Ok(())
}

/// Whether a content type is JSON's, or one that is written in JSON.
fn is_json(content_type: &HeaderValue) -> bool {
    let Ok(text) = content_type.to_str() else {
        return false;
    };
    let media_type = text.split(';').next().unwrap_or_default().trim();
    let media_type = media_type.to_ascii_lowercase();
    media_type
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// Reads the whole body. The deadline is for all of it: a limit for each read is evaded by a trickle.
///
/// # Errors
/// 413, 408, or 400 for a body that ends early.
pub async fn read(body: Incoming, limit: u64, deadline: Duration) -> Result<Bytes, ServerError> {
    tokio::time::timeout(deadline, read_all(body, limit))
        .await
        .unwrap_or(Err(ServerError::BodyTimeout))
}

async fn read_all(mut body: Incoming, limit: u64) -> Result<Bytes, ServerError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ServerError::InvalidJson {
            what: "the body ended early".to_owned(),
        })?;
        let Ok(data) = frame.into_data() else {
            continue; // Trailers say nothing that we need.
        };
        if (whole.len() + data.len()) as u64 > limit {
            return Err(ServerError::BodyTooLarge { limit });
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
