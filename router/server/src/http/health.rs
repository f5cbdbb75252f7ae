//! What probes and operators ask.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use super::answer::{json as json_answer, with_type};
use super::app::App;
use super::error::ServerError;
use super::route::{Call, HandlerResult};

/// Whether a request would be served now.
///
/// # Errors
/// 503 `draining` or `no_worker`.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn ready(app: Arc<App>, _call: Call) -> HandlerResult {
    let status = app.handle.status();
    if status.draining {
        return Err(ServerError::Draining);
    }
    if status.ready_workers == 0 {
        return Err(ServerError::NoWorker);
    }
    let body = json!({"status": "ready", "model": app.model.name(), "ready_workers": status.ready_workers});
    Ok(json_answer(StatusCode::OK, body.to_string()))
}

/// Whether the process does its work: an answer alone would not say so, as the driver's loop may hang.
///
/// # Errors
/// 500 `internal` if that loop has not turned for too long.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn live(app: Arc<App>, _call: Call) -> HandlerResult {
    if !app.handle.turned_within(app.limits.live_within) {
        let what = "the driver's loop does not turn";
        return Err(ServerError::Internal { what });
    }
    Ok(json_answer(StatusCode::OK, r#"{"status":"live"}"#))
}

/// Which release this is.
///
/// # Errors
/// None.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn version(_app: Arc<App>, _call: Call) -> HandlerResult {
    let body = json!({"version": env!("CARGO_PKG_VERSION")});
    Ok(json_answer(StatusCode::OK, body.to_string()))
}

/// Figures for Prometheus.
///
/// # Errors
/// None.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn metrics(app: Arc<App>, _call: Call) -> HandlerResult {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(with_type(StatusCode::OK, TYPE, (app.metrics)()))
}

/// How much there is to do.
///
/// # Errors
/// None.
#[allow(clippy::unused_async, reason = "all handlers have one shape")]
pub async fn load(app: Arc<App>, _call: Call) -> HandlerResult {
    Ok(json_answer(StatusCode::OK, (app.load)()))
}
