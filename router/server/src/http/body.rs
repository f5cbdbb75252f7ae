//! Reads a request's body within its limit of bytes and of time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};

use super::error::ServerError;

/// Refuses by the head alone what need not be read.
///
/// # Errors
/// 413 for a declared length over the limit, 415 for an encoded body.
pub fn check_head(headers: &HeaderMap, limit: u64) -> Result<(), ServerError> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(ServerError::UnsupportedMediaType);
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
