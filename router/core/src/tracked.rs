//! A request under way: where it is now, what its client has, and what happened to it so far.

use crate::action::Placement;
use crate::credit::StreamCredit;
use crate::ids::{Epoch, RequestId, WorkerId};
use crate::queue::Place;
use crate::request::Request;
use crate::shaping::TokenLogprobs;
use crate::time::Time;

/// Where a request is. It has one at a time, and none of them for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    /// Waits at this place of its class.
    Queued(Place),
    /// A worker has it, under the request's current attempt.
    Placed { worker: WorkerId, epoch: Epoch },
}

/// A request that has not ended.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) request: Request,
    /// Breaks ties between equal arrival times.
    pub(crate) sequence: u64,
    pub(crate) location: Location,
    /// When it last began to wait.
    pub(crate) queued_at: Time,
    /// Of the last placement; 0 before the first.
    pub(crate) attempt: u32,
    /// Tokens that the client's session was given.
    pub(crate) history: Vec<u32>,
    pub(crate) credit: StreamCredit,
    /// Of the first attempt that gave a token.
    pub(crate) num_cached_tokens: Option<u32>,
    /// Of the prompt positions that the current attempt has said; given out with the first tokens.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    /// Numerics of the worker that gave the last tokens.
    pub(crate) numerics: Option<String>,
    /// Workers lost under it in a row without a new token. Bounded by the limit of resumes.
    pub(crate) crashes: u32,
    /// Times that it left a worker that lives. Not bounded: a planned move is no crash.
    pub(crate) moves: u32,
}

/// A request as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestView {
    /// Its worker and link, none while it waits.
    pub placed: Option<(WorkerId, Epoch)>,
    /// Of the last placement; 0 before the first.
    pub attempt: u32,
    /// Output tokens that its session was given.
    pub emitted: u32,
    /// Workers lost under it in a row without a new token.
    pub crashes: u32,
    /// Times that it left a worker that lives.
    pub moves: u32,
}

impl Tracked {
    pub(crate) fn new(request: Request, sequence: u64, window: u32) -> Self {
        let queued_at = request.arrival();
        let place = Place::fresh(request.arrival(), sequence);
        let credit = StreamCredit::new(window, request.sampling().max_tokens.get());
        Self {
            request,
            sequence,
            location: Location::Queued(place),
            queued_at,
            attempt: 0,
            history: Vec::new(),
            credit,
            num_cached_tokens: None,
            prompt_logprobs: Vec::new(),
            numerics: None,
            crashes: 0,
            moves: 0,
        }
    }

    pub(crate) fn id(&self) -> RequestId {
        self.request.request_id()
    }

    /// Output position of the next token.
    pub(crate) fn emitted(&self) -> u32 {
        u32::try_from(self.history.len()).unwrap_or(u32::MAX)
    }

    /// Prompt plus all the output that it may have: what a worker's context must hold.
    pub(crate) fn context(&self) -> u64 {
        self.request.prompt().len() as u64 + u64::from(self.request.sampling().max_tokens.get())
    }

    /// Whether the prompt's logprobs were asked for and have not been given out.
    pub(crate) fn owes_prompt_logprobs(&self) -> bool {
        self.history.is_empty() && self.request.shaping().prompt_logprobs.is_some()
    }

    /// Whether it was ever given to a worker. If not, it never ran.
    pub(crate) const fn was_placed(&self) -> bool {
        self.attempt > 0
    }

    /// When it is too late to begin. None for one that was placed: it goes on however old it is.
    pub(crate) fn patience_ends(&self) -> Option<Time> {
        self.request.expiry().filter(|_| !self.was_placed())
    }

    pub(crate) fn is_placed_at(&self, worker: WorkerId, epoch: Epoch, attempt: u32) -> bool {
        self.location == Location::Placed { worker, epoch } && self.attempt == attempt
    }

    /// Moves it to a worker under a new attempt.
    pub(crate) fn place(&mut self, worker: WorkerId, epoch: Epoch, now: Time) -> Placement {
        let remaining = self.patience_ends().map(|expiry| expiry.since(now));
        self.attempt = self.attempt.saturating_add(1);
        self.location = Location::Placed { worker, epoch };
        self.credit.renew();
        self.prompt_logprobs.clear();
        Placement {
            worker,
            epoch,
            request: self.request.clone(),
            attempt: self.attempt,
            history: self.history.clone(),
            credit_up_to: self.credit.granted(),
            remaining,
        }
    }

    pub(crate) fn view(&self) -> RequestView {
        let placed = match self.location {
            Location::Queued(_) => None,
            Location::Placed { worker, epoch } => Some((worker, epoch)),
        };
        RequestView {
            placed,
            attempt: self.attempt,
            emitted: self.emitted(),
            crashes: self.crashes,
            moves: self.moves,
        }
    }
}
