//! A server on loopback, a client that sees raw bytes, and tiny model folders.

pub(crate) mod client;
pub(crate) mod folder;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use slackwater_core::{Event, Limits, Logprobs, Request, RequestId};
use slackwater_server::handle::{Clock, DriverEnds, Input, SessionEvent, Status, channel};
use slackwater_server::http::{App, Phase, api_routes, run};
use slackwater_server::limits::ServerLimits;
use slackwater_server::model::ServedModel;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use client::{Client, Reply};

/// Longest that any event is waited for; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("nothing happened")
}

/// Every path that tells how the server is.
pub(crate) const HEALTH_PATHS: [&str; 10] = [
    "/health",
    "/ready",
    "/readyz",
    "/readiness",
    "/health/ready",
    "/ping",
    "/live",
    "/livez",
    "/liveness",
    "/health/live",
];

/// What the model of most tests takes.
pub(crate) const MODEL_LIMITS: Limits = Limits {
    max_model_len: 128,
    vocab_size: 300,
};

/// A server whose driver is the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) driver: DriverEnds,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) serving: JoinSet<()>,
    /// Its table of routes.
    pub(crate) routes: Vec<String>,
}

/// A request that reached the driver.
pub(crate) struct Opened {
    pub(crate) request: Request,
    pub(crate) events: mpsc::Sender<SessionEvent>,
}

impl Opened {
    /// Sends one engine step; `start` is its output position.
    pub(crate) async fn tokens(&self, start: u32, tokens: &[u32]) {
        self.tokens_with(start, tokens, Logprobs::NONE).await;
    }

    /// The same with logprobs.
    pub(crate) async fn tokens_with(&self, start: u32, tokens: &[u32], logprobs: Logprobs) {
        let event = SessionEvent::Tokens {
            start,
            tokens: tokens.to_vec(),
            num_cached_tokens: 3,
            logprobs,
        };
        soon(self.events.send(event)).await.unwrap();
    }

    /// Sends each text as one engine step, a token for each byte.
    pub(crate) async fn texts(&self, steps: &[&[u8]]) {
        let mut start = 0;
        for step in steps {
            let tokens: Vec<u32> = step.iter().copied().map(u32::from).collect();
            self.tokens(start, &tokens).await;
            start += u32::try_from(tokens.len()).unwrap();
        }
    }

    pub(crate) async fn send(&self, event: SessionEvent) {
        soon(self.events.send(event)).await.unwrap();
    }
}

impl Server {
    /// A server with one ready worker and default limits.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with one ready worker and changed limits.
    pub(crate) async fn with(change: impl FnOnce(&mut ServerLimits)) -> Self {
        let folder = folder::chat_model();
        let server = Self::serving(ServedModel::load("tiny", folder.path()).unwrap(), change).await;
        server.driver.status.send_replace(Status {
            ready_workers: 1,
            limits: Some(MODEL_LIMITS),
            ..Status::default()
        });
        server
    }

    /// A server of this model whose driver has said nothing yet.
    pub(crate) async fn serving(
        model: ServedModel,
        change: impl FnOnce(&mut ServerLimits),
    ) -> Self {
        let mut limits = ServerLimits {
            // A test is no loop that turns.
            live_within: Duration::from_mins(10),
            ..ServerLimits::default()
        };
        change(&mut limits);
        let limits = Arc::new(limits);
        let (handle, driver) = channel(Clock::start(), limits.max_sessions());
        let metrics = Arc::new(|| "slackwater_up 1\n".to_owned());
        let load = Arc::new(|| r#"{"server_load":0}"#.to_owned());
        let app = App::new(handle, Arc::new(model), limits.clone(), metrics, load);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (phase, phases) = watch::channel(Phase::Serving);
        let mut serving = JoinSet::new();
        let routes = Arc::new(api_routes(&app, true));
        let list = routes.list();
        serving.spawn(run(listener, routes, limits, phases));
        Self {
            address,
            driver,
            phase,
            serving,
            routes: list,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Sends a body and gives the connection, for its answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Client {
        let mut client = self.client().await;
        client.post(path, &[], body.to_string().as_bytes()).await;
        client
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(&self, head: &str, body: &[u8]) -> Reply {
        let mut client = self.client().await;
        client.request(head, &[], body).await;
        client.reply().await
    }

    /// The next request that reaches the driver.
    pub(crate) async fn opened(&mut self) -> Opened {
        loop {
            match soon(self.driver.inputs.recv()).await.unwrap() {
                Input::Open { request, events } => return Opened { request, events },
                Input::Core(_) | Input::Leaving => {}
            }
        }
    }

    /// The next position that the driver is told as taken.
    pub(crate) async fn taken(&mut self) -> u32 {
        match soon(self.driver.inputs.recv()).await.unwrap() {
            Input::Core(Event::StreamTaken { up_to, .. }) => up_to,
            other => panic!("{other:?}"),
        }
    }

    /// The next request that is cancelled.
    pub(crate) async fn gone(&mut self) -> RequestId {
        soon(self.driver.gone.recv()).await.unwrap()
    }

    /// Whether any request has reached the driver so far.
    pub(crate) fn untouched(&mut self) -> bool {
        self.driver.inputs.try_recv().is_err()
    }
}
