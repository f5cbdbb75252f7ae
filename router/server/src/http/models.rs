//! `GET /v1/models`.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::answer;
use super::app::App;
use super::error::ServerError;
use super::json::short;
use super::route::{Call, HandlerResult};

/// All models: there is one.
///
/// # Errors
/// None.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn list(app: Arc<App>, _call: Call) -> HandlerResult {
    let body = json!({"object": "list", "data": [describe(&app)]});
    Ok(answer::json(StatusCode::OK, body.to_string()))
}

/// One model by its name.
///
/// # Errors
/// 404 `model_not_found`.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn one(app: Arc<App>, call: Call) -> HandlerResult {
    let name = percent_decoded(&call.target);
    if name.as_deref() != Some(app.model.name()) {
        let model = short(&call.target);
        return Err(ServerError::UnknownModel { model });
    }
    Ok(answer::json(StatusCode::OK, describe(&app).to_string()))
}

fn describe(app: &App) -> Value {
    let status = app.handle.status();
    let claimed = app.model.max_position_embeddings();
    json!({
        "id": app.model.name(),
        "object": "model",
        "created": app.model.created_secs(),
        "owned_by": "slackwater",
        "max_model_len": status.limits.map(|limits| u64::from(limits.max_model_len)).or(claimed),
        "text_hash": app.model.text_hash(),
        "ready_workers": status.ready_workers,
    })
}

/// Clients write a slash in a model's name as `%2F`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}
