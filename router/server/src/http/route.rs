//! The table of routes. Each row has a policy and a body limit: there is no way to add one without them, and the policy is
//! that of the row that matched, never of a path's text.

use std::pin::Pin;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use slackwater_core::RequestId;

use super::answer::Body;
use super::body;
use super::error::ServerError;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everybody.
    Public,
    /// A key with this scope. While no keys are configured there is one built-in tenant, which may.
    Key(Scope),
    /// The operator, on the admin listener.
    Admin,
}

/// What a key may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Asking a model.
    Inference,
    /// Looking at what is there.
    Read,
}

/// One request on its way to a handler.
#[derive(Debug)]
pub struct Call {
    /// The path's last part, where the route ends in `{}`.
    pub target: String,
    /// As the client sent them.
    pub headers: HeaderMap,
    /// Not yet read.
    pub body: Incoming,
    /// The route's limit of its bytes.
    pub body_limit: u64,
    /// Our name for the request.
    pub request_id: RequestId,
}

/// What a handler gives.
pub type HandlerResult = Result<Response<Body>, ServerError>;
type Handling = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;
type Handler = Box<dyn Fn(Call) -> Handling + Send + Sync>;

struct Route {
    method: Method,
    path: &'static str,
    policy: Policy,
    body_limit: u64,
    handler: Handler,
}

impl Route {
    /// The part of `path` that `{}` stands for, or nothing for a plain match.
    fn matches<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.strip_suffix("{}") {
            Some(head) => path.strip_prefix(head).filter(|tail| !tail.is_empty()),
            None => (self.path == path).then_some(""),
        }
    }
}

/// All routes of a listener.
pub struct Routes {
    routes: Vec<Route>,
    client_id_bytes: usize,
}

/// The client's own name for a request, echoed.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SLACKWATER_REQUEST_ID: HeaderName = HeaderName::from_static("x-slackwater-request-id");

impl Routes {
    /// No routes yet. A client's own request id is echoed up to this many bytes.
    pub fn new(client_id_bytes: usize) -> Self {
        Self {
            routes: Vec::new(),
            client_id_bytes,
        }
    }

    /// Adds a route. A path that ends in `{}` takes any non-empty rest. A route for GET answers HEAD too.
    #[must_use]
    pub fn route<F, R>(
        mut self,
        method: Method,
        path: &'static str,
        policy: Policy,
        body_limit: u64,
        handler: F,
    ) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = HandlerResult> + Send + 'static,
    {
        self.routes.push(Route {
            method,
            path,
            policy,
            body_limit,
            handler: Box::new(move |call| Box::pin(handler(call))),
        });
        self
    }

    /// One line for each route: method, path, policy.
    pub fn list(&self) -> Vec<String> {
        let line = |route: &Route| format!("{} {} {:?}", route.method, route.path, route.policy);
        self.routes.iter().map(line).collect()
    }

    /// Answers a request, whatever happens.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let label = client_label(request.headers(), self.client_id_bytes);
        let Ok(request_id) = draw_request_id() else {
            let what = "the system gave no random bytes";
            return ServerError::Internal { what }.to_response(RequestId(0));
        };
        let mut response = match self.handle(request, request_id).await {
            Ok(response) => response,
            Err(error) => {
                if let ServerError::Internal { what } = &error {
                    tracing::error!(%request_id, what, "internal error");
                }
                error.to_response(request_id)
            }
        };
        let ours = HeaderValue::from_str(&request_id.to_string()).ok();
        let headers = response.headers_mut();
        if let Some(label) = label.or_else(|| ours.clone()) {
            headers.entry(X_REQUEST_ID).or_insert(label);
        }
        if let Some(ours) = ours {
            headers.insert(X_SLACKWATER_REQUEST_ID, ours);
        }
        response
    }

    async fn handle(&self, request: Request<Incoming>, request_id: RequestId) -> HandlerResult {
        let (head, body) = request.into_parts();
        let (route, target) = self.find(&head.method, head.uri.path())?;
        authorize(route.policy)?;
        body::check_head(&head.method, &head.headers, route.body_limit)?;
        let call = Call {
            target: target.to_owned(),
            headers: head.headers,
            body,
            body_limit: route.body_limit,
            request_id,
        };
        (route.handler)(call).await
    }

    fn find<'p>(&self, method: &Method, path: &'p str) -> Result<(&Route, &'p str), ServerError> {
        let mut allow: Vec<&str> = Vec::new();
        for route in &self.routes {
            let Some(target) = route.matches(path) else {
                continue;
            };
            // hyper leaves the body out of an answer to HEAD.
            if route.method == *method || (route.method == Method::GET && *method == Method::HEAD) {
                return Ok((route, target));
            }
            allow.push(route.method.as_str());
            if route.method == Method::GET {
                allow.push(Method::HEAD.as_str());
            }
        }
        if allow.is_empty() {
            return Err(ServerError::UnknownUrl);
        }
        let allow = allow.join(", ");
        Err(ServerError::MethodNotAllowed { allow })
    }
}

/// There are no keys yet, so the built-in tenant may call everything but the operator's routes.
fn authorize(policy: Policy) -> Result<(), ServerError> {
    match policy {
        Policy::Public | Policy::Key(_) => Ok(()),
        Policy::Admin => Err(ServerError::PermissionDenied),
    }
}

/// A new id of 128 random bits.
///
/// # Errors
/// [`ServerError::Internal`] where the system has no random bytes.
pub fn draw_request_id() -> Result<RequestId, ServerError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| ServerError::Internal {
        what: "the system gave no random bytes",
    })?;
    Ok(RequestId(u128::from_be_bytes(bytes)))
}

/// The client's `x-request-id`, if it is one that can be echoed.
fn client_label(headers: &HeaderMap, longest: usize) -> Option<HeaderValue> {
    let value = headers.get(X_REQUEST_ID)?;
    is_label(value.as_bytes(), longest).then(|| value.clone())
}

/// Whether this can be a request's label: visible ASCII, not too long.
pub fn is_label(bytes: &[u8], longest: usize) -> bool {
    !bytes.is_empty() && bytes.len() <= longest && bytes.iter().all(u8::is_ascii_graphic)
}
