//! What the core wants done. The driver tries each, and never waits.

use std::time::Duration;

use crate::error::Failure;
use crate::ids::{Epoch, RequestId, WorkerId};
use crate::request::Request;
use crate::shaping::Logprobs;

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give a request to a worker for the first time.
    Submit(Placement),
    /// Give it to a worker again, with the tokens that its client already has.
    Resume(Placement),
    /// Tell a worker to stop a request.
    Cancel {
        /// The worker.
        worker: WorkerId,
        /// The link.
        epoch: Epoch,
        /// The request.
        request_id: RequestId,
        /// The attempt.
        attempt: u32,
    },
    /// Let a stream go on.
    Credit {
        /// The worker.
        worker: WorkerId,
        /// The link.
        epoch: Epoch,
        /// The request.
        request_id: RequestId,
        /// The attempt.
        attempt: u32,
        /// Output position.
        up_to: u32,
    },
    /// Hand tokens to the client's session.
    Deliver {
        /// The request.
        request_id: RequestId,
        /// Output position of the first token.
        start: u32,
        /// The tokens.
        tokens: Vec<u32>,
        /// Cached tokens of the first attempt; the same in each delivery.
        num_cached_tokens: u32,
        /// Those of the tokens; with the request's first tokens those of the whole prompt too.
        logprobs: Logprobs,
    },
    /// The request never ran and never will: refuse it.
    Reject {
        /// The request.
        request_id: RequestId,
        /// Why.
        failure: Failure,
    },
    /// The request has ended.
    Finish {
        /// The request.
        request_id: RequestId,
        /// How.
        ending: Ending,
    },
    /// Cut a worker off: close this link, with a Bye.
    Fence {
        /// The worker.
        worker: WorkerId,
        /// The link.
        epoch: Epoch,
        /// Why.
        reason: FenceReason,
    },
    /// Kill an own child if it lives, and start it again.
    Restart {
        /// The worker.
        worker: WorkerId,
        /// How long to wait before the start.
        after: Duration,
    },
    /// Tell a worker to finish what it has and end.
    Drain {
        /// The worker.
        worker: WorkerId,
        /// The link.
        epoch: Epoch,
    },
}

/// A request's next location, with all that a worker needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The worker.
    pub worker: WorkerId,
    /// The link.
    pub epoch: Epoch,
    /// The request.
    pub request: Request,
    /// Grows with each placement of the request.
    pub attempt: u32,
    /// Tokens that its client already has.
    pub history: Vec<u32>,
    /// Output position up to which the worker may go.
    pub credit_up_to: u32,
    /// Time left until the answer is useless; none for a resume, which goes on however late it is.
    pub remaining: Option<Duration>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// An end token.
    Stop,
    /// The length limit.
    Length,
    /// Its client went away.
    Cancelled,
    /// It failed.
    Failed(Failure),
}

/// Why a worker is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FenceReason {
    /// Nothing was heard from it for too long.
    Silent,
    /// Its engine stands still while it has work.
    Hung,
    /// It broke the link's rules.
    Violation,
    /// A newer link of the same worker took its place.
    Replaced,
}
