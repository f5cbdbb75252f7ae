//! The way into the driver: what HTTP and transport hold of it, and what a session gets back.
//!
//! A handle is a bounded sender. Whoever opens a session reserves the place of its last word at the same time, so that
//! dropping the session always reaches the core, in whatever state the request is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use slackwater_core::{
    Command, Ending, Event, Failure, Limits, Logprobs, Request, RequestId, Time,
};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

/// The one clock of the router: microseconds since the process's start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// The time, for the core.
    pub fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment as tokio's timers want it.
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.origin + Duration::from_micros(time.as_micros())).into()
    }
}

/// What reaches the driver.
#[derive(Debug)]
pub enum Input {
    /// A session begins.
    Open {
        /// Its request.
        request: Request,
        /// Where its events go.
        events: mpsc::Sender<SessionEvent>,
    },
    /// A fact for the core.
    Core(Event),
    /// The server goes down soon: not ready any more, though it still serves.
    Leaving,
}

/// What a session gets. The last one is `Rejected` or `Ended`.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// Tokens, each exactly once and in order.
    Tokens {
        /// Output position of the first.
        start: u32,
        /// The tokens, at least one.
        tokens: Vec<u32>,
        /// Prompt tokens found in a prefix cache.
        num_cached_tokens: u32,
        /// Those of the tokens; with the first of them those of the prompt too.
        logprobs: Logprobs,
    },
    /// It never ran and never will.
    Rejected(Failure),
    /// It has ended.
    Ended(Ending),
}

/// What the driver tells everybody about itself; changed rarely.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Workers that can be given work now.
    pub ready_workers: usize,
    /// Limits over the live workers; kept after the last one is gone, none before the first.
    pub limits: Option<Limits>,
    /// Whether the server is going down. It may still serve; the core says when it does not.
    pub draining: bool,
    /// Whether it is going down, takes nothing new, and has nothing left to do.
    pub idle: bool,
}

/// The driver has ended: the process is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the server is shutting down")]
pub struct DriverGone;

/// The way into the driver.
#[derive(Debug, Clone)]
pub struct CoreHandle {
    inputs: mpsc::Sender<Input>,
    gone: mpsc::Sender<RequestId>,
    status: watch::Receiver<Status>,
    turned: Turned,
    clock: Clock,
}

/// When the driver's loop last went round.
#[derive(Debug, Clone, Default)]
pub struct Turned(Arc<AtomicU64>);

impl Turned {
    /// It does now.
    pub fn set(&self, now: Time) {
        self.0.store(now.as_micros(), Ordering::Relaxed);
    }

    fn at(&self) -> Time {
        Time::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// The driver's ends of a handle.
#[derive(Debug)]
pub struct DriverEnds {
    /// Sessions that begin, and facts.
    pub inputs: mpsc::Receiver<Input>,
    /// Sessions that ended before their request did.
    pub gone: mpsc::Receiver<RequestId>,
    /// What everybody sees.
    pub status: watch::Sender<Status>,
    /// When the loop last went round.
    pub turned: Turned,
}

/// Events waiting for the driver before senders have to wait.
const INPUTS: usize = 1_024;
/// Events waiting for one session: credit keeps a worker `1,024` tokens ahead at most, and each event has one at least.
const SESSION_EVENTS: usize = 1_024 + 8;

/// Makes a handle and the driver's ends; `max_sessions` bounds the sessions that are open at once.
pub fn channel(clock: Clock, max_sessions: usize) -> (CoreHandle, DriverEnds) {
    let (inputs, input_end) = mpsc::channel(INPUTS);
    let (gone, gone_end) = mpsc::channel(max_sessions.max(1));
    let (status_end, status) = watch::channel(Status::default());
    let turned = Turned::default();
    turned.set(clock.now());
    let handle = CoreHandle {
        inputs,
        gone,
        status,
        turned: turned.clone(),
        clock,
    };
    let ends = DriverEnds {
        inputs: input_end,
        gone: gone_end,
        status: status_end,
        turned,
    };
    (handle, ends)
}

impl CoreHandle {
    /// Begins a session. Waits while the driver is behind.
    ///
    /// # Errors
    /// [`DriverGone`] while the process goes down.
    pub async fn open(&self, request: Request) -> Result<SessionStream, DriverGone> {
        let last_word = self
            .gone
            .clone()
            .reserve_owned()
            .await
            .map_err(|_| DriverGone)?;
        let (events, receiver) = mpsc::channel(SESSION_EVENTS);
        let request_id = request.request_id();
        self.inputs
            .send(Input::Open { request, events })
            .await
            .map_err(|_| DriverGone)?;
        Ok(SessionStream {
            request_id,
            events: receiver,
            inputs: self.inputs.clone(),
            last_word: Some(last_word),
        })
    }

    /// Tells the core a fact. Waits while the driver is behind.
    ///
    /// # Errors
    /// [`DriverGone`] while the process goes down.
    pub async fn tell(&self, event: Event) -> Result<(), DriverGone> {
        self.inputs
            .send(Input::Core(event))
            .await
            .map_err(|_| DriverGone)
    }

    /// Passes on what the operator wants.
    ///
    /// # Errors
    /// [`DriverGone`] while the process goes down.
    pub async fn operator(&self, command: Command) -> Result<(), DriverGone> {
        self.tell(Event::Operator(command)).await
    }

    /// Says that the server goes down soon.
    ///
    /// # Errors
    /// [`DriverGone`] where it has gone down already.
    pub async fn leave(&self) -> Result<(), DriverGone> {
        self.inputs
            .send(Input::Leaving)
            .await
            .map_err(|_| DriverGone)
    }

    /// What the driver last said about itself.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// A view of the status that can be waited on.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Whether the driver's loop went round within this time.
    pub fn turned_within(&self, span: Duration) -> bool {
        self.clock.now().since(self.turned.at()) <= span
    }

    /// The router's clock.
    pub const fn clock(&self) -> Clock {
        self.clock
    }
}

/// One request's way through. Dropping it cancels the request if that has not ended.
#[derive(Debug)]
pub struct SessionStream {
    request_id: RequestId,
    events: mpsc::Receiver<SessionEvent>,
    inputs: mpsc::Sender<Input>,
    last_word: Option<mpsc::OwnedPermit<RequestId>>,
}

impl SessionStream {
    /// The request.
    pub const fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// The next event; none after the last one, or when the driver is gone.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`SessionStream::next`], for those who wait for several sessions.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        let event = ready!(self.events.poll_recv(cx));
        if matches!(
            event,
            Some(SessionEvent::Rejected(_) | SessionEvent::Ended(_)) | None
        ) {
            self.last_word = None; // Ended by itself: there is nothing to cancel.
        }
        Poll::Ready(event)
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<SessionEvent> {
        let event = self.events.try_recv().ok();
        if matches!(
            event,
            Some(SessionEvent::Rejected(_) | SessionEvent::Ended(_))
        ) {
            self.last_word = None;
        }
        event
    }

    /// Says that the client has taken the tokens up to this output position.
    ///
    /// # Errors
    /// [`DriverGone`] while the process goes down.
    pub async fn taken(&self, up_to: u32) -> Result<(), DriverGone> {
        let request_id = self.request_id;
        let event = Event::StreamTaken { request_id, up_to };
        self.inputs
            .send(Input::Core(event))
            .await
            .map_err(|_| DriverGone)
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        if let Some(permit) = self.last_word.take() {
            permit.send(self.request_id);
        }
    }
}
