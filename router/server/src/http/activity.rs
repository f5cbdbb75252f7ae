//! What a connection is doing and since when, and how long it may do that. The watchdog of a connection sleeps until the
//! earliest of these limits and cuts the connection when one has passed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::limits::ServerLimits;

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A request head is awaited or half read; so is a new connection.
    Head,
    /// Between requests.
    Idle,
    /// A request is being served. Handlers have their own limits.
    Busy,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    since: Instant,
    /// Set while the peer takes nothing of what we have for it.
    blocked_since: Option<Instant>,
}

/// Shared by a connection's socket, its service and its watchdog; all run in one task, so the lock is never contended.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

impl Activity {
    pub(super) fn start() -> Self {
        Self(Mutex::new(State {
            mode: Mode::Head,
            since: Instant::now(),
            blocked_since: None,
        }))
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes came in.
    pub(super) fn read(&self) {
        self.with(|state| {
            if state.mode == Mode::Idle {
                state.mode = Mode::Head;
                state.since = Instant::now();
            }
        });
    }

    /// A write went through, or could not.
    pub(super) fn wrote(&self, through: bool) {
        self.with(|state| {
            if through {
                state.blocked_since = None;
            } else if state.blocked_since.is_none() {
                state.blocked_since = Some(Instant::now());
            }
        });
    }

    /// A request's head is complete.
    pub(super) fn busy(&self) {
        self.with(|state| state.mode = Mode::Busy);
    }

    /// Whether a request is being served.
    pub(super) fn is_busy(&self) -> bool {
        self.with(|state| state.mode == Mode::Busy)
    }

    /// An answer has been handed over whole.
    pub(super) fn idle(&self) {
        self.with(|state| {
            state.mode = Mode::Idle;
            state.since = Instant::now();
        });
    }

    /// When the present state has lasted too long.
    fn deadline(&self, limits: &ServerLimits) -> Option<Instant> {
        self.with(|state| {
            let of_mode = match state.mode {
                Mode::Head => Some(state.since + limits.header_timeout),
                Mode::Idle => Some(state.since + limits.idle_timeout),
                Mode::Busy => None,
            };
            let of_peer = state.blocked_since.map(|since| since + limits.stream_stall);
            [of_mode, of_peer].into_iter().flatten().min()
        })
    }

    /// Returns when a limit has passed. It looks again at least once in the shortest limit, so a state that begins while it
    /// sleeps is still met on time.
    pub(super) async fn overdue(&self, limits: &ServerLimits) {
        let shortest = limits
            .header_timeout
            .min(limits.idle_timeout)
            .min(limits.stream_stall)
            .max(Duration::from_millis(1));
        loop {
            let now = Instant::now();
            let next = now + shortest;
            match self.deadline(limits) {
                Some(deadline) if deadline <= now => return,
                Some(deadline) => sleep_until(deadline.min(next)).await,
                None => sleep_until(next).await,
            }
        }
    }
}
