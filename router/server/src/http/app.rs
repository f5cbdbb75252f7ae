//! What handlers hold, and which routes each listener has.

use std::sync::Arc;

use hyper::Method;

use super::route::{Call, HandlerResult, Policy, Routes, Scope};
use super::{chat, completions, health, models};
use crate::handle::CoreHandle;
use crate::limits::ServerLimits;
use crate::model::ServedModel;
use crate::tokenizer::TextPool;

/// Gives a page when it is asked for.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// What handlers hold.
pub struct App {
    /// The way into the core.
    pub handle: CoreHandle,
    /// The model that is served.
    pub model: Arc<ServedModel>,
    /// Bounds.
    pub limits: Arc<ServerLimits>,
    /// Where long texts are worked on.
    pub texts: TextPool,
    /// `/metrics`, in Prometheus' text format.
    pub metrics: Render,
    /// `/load`, as JSON.
    pub load: Render,
}

impl App {
    /// The state of a server. `metrics` and `load` give those two pages.
    pub fn new(
        handle: CoreHandle,
        model: Arc<ServedModel>,
        limits: Arc<ServerLimits>,
        metrics: Render,
        load: Render,
    ) -> Arc<Self> {
        let texts = TextPool::new(limits.text_workers, limits.inline_text_bytes);
        Arc::new(Self {
            handle,
            model,
            limits,
            texts,
            metrics,
            load,
        })
    }
}

const READY_PATHS: [&str; 6] = [
    "/health",
    "/ready",
    "/readyz",
    "/readiness",
    "/health/ready",
    "/ping",
];
const LIVE_PATHS: [&str; 4] = ["/live", "/livez", "/liveness", "/health/live"];

/// The API's routes; with metrics too where only this host can see them.
pub fn api_routes(app: &Arc<App>, metrics_too: bool) -> Routes {
    let json = app.limits.json_bytes;
    let ask = Policy::Key(Scope::Inference);
    let read = Policy::Key(Scope::Read);
    let routes = health_routes(app)
        .route(
            Method::POST,
            "/v1/chat/completions",
            ask,
            json,
            with(app, chat::handle),
        )
        .route(
            Method::POST,
            "/v1/completions",
            ask,
            json,
            with(app, completions::handle),
        )
        .route(Method::GET, "/v1/models", read, 0, with(app, models::list))
        .route(
            Method::GET,
            "/v1/models/{}",
            read,
            0,
            with(app, models::one),
        );
    if metrics_too {
        metrics_routes(app, routes)
    } else {
        routes
    }
}

/// The routes of the operator's listener: read only.
pub fn ops_routes(app: &Arc<App>) -> Routes {
    metrics_routes(app, health_routes(app))
}

fn health_routes(app: &Arc<App>) -> Routes {
    let mut routes = Routes::new(app.limits.client_id_bytes);
    for path in READY_PATHS {
        routes = routes.route(
            Method::GET,
            path,
            Policy::Public,
            0,
            with(app, health::ready),
        );
    }
    for path in LIVE_PATHS {
        routes = routes.route(
            Method::GET,
            path,
            Policy::Public,
            0,
            with(app, health::live),
        );
    }
    routes.route(
        Method::GET,
        "/version",
        Policy::Public,
        0,
        with(app, health::version),
    )
}

fn metrics_routes(app: &Arc<App>, routes: Routes) -> Routes {
    routes
        .route(
            Method::GET,
            "/metrics",
            Policy::Public,
            0,
            with(app, health::metrics),
        )
        .route(
            Method::GET,
            "/load",
            Policy::Public,
            0,
            with(app, health::load),
        )
}

/// A handler with the server's state as its first argument.
fn with<F, R>(app: &Arc<App>, handler: F) -> impl Fn(Call) -> R + Send + Sync + 'static
where
    F: Fn(Arc<App>, Call) -> R + Send + Sync + 'static,
    R: Future<Output = HandlerResult> + Send + 'static,
{
    let app = app.clone();
    move |call| handler(app.clone(), call)
}
