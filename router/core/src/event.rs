//! What happens to the core. Facts only: every conclusion (suspect, lost, hung) is the core's own.

use crate::ids::{Epoch, Origin, RequestId, WorkerId};
use crate::request::Request;
use crate::shaping::Logprobs;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A client wants this.
    RequestArrived(Request),
    /// The client is gone, or its session has all it wants.
    ClientGone {
        /// Its request.
        request_id: RequestId,
    },
    /// The client has taken the stream's tokens up to here.
    StreamTaken {
        /// Its request.
        request_id: RequestId,
        /// Output position, counted since the request began.
        up_to: u32,
    },
    /// This server has started an own child's process, for the first time or again.
    WorkerStarted {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker has said READY on a new link.
    WorkerReady {
        /// The link; `seq` is READY's.
        origin: Origin,
        /// What the worker can take.
        capabilities: Capabilities,
    },
    /// A worker has taken a `Submit`.
    WorkerAccepted {
        /// The link.
        origin: Origin,
        /// The request.
        request_id: RequestId,
        /// The attempt.
        attempt: u32,
    },
    /// A worker has not taken a `Submit`.
    WorkerRefused {
        /// The link.
        origin: Origin,
        /// The request.
        request_id: RequestId,
        /// The attempt.
        attempt: u32,
        /// What it said.
        refusal: Refusal,
    },
    /// One engine step.
    WorkerOutputs {
        /// The link.
        origin: Origin,
        /// Duration of the step in microseconds; 0 where this was said outside a step.
        step_micros: u64,
        /// What it did.
        outputs: Vec<Output>,
    },
    /// A worker's figures. The core checks their place on the link; the server renders them.
    WorkerStats {
        /// The link.
        origin: Origin,
    },
    /// What a worker's prefix cache holds has changed. The core checks the message's place on the link.
    WorkerBlocks {
        /// The link.
        origin: Origin,
    },
    /// A worker is alive.
    Heartbeat {
        /// The link.
        origin: Origin,
        /// Counts safepoints of the engine.
        progress: u64,
        /// Whether the engine has work.
        busy: bool,
    },
    /// A message that the wire's codec refused: the link cannot be trusted.
    WorkerViolation {
        /// The worker.
        worker: WorkerId,
        /// The link.
        epoch: Epoch,
    },
    /// The link's queue passed its mark; `full` is false once it is half empty again.
    LinkFull {
        /// The worker.
        worker: WorkerId,
        /// The link.
        epoch: Epoch,
        /// Whether it is full now.
        full: bool,
    },
    /// The operating system or a Bye said that the link or the process is gone.
    WorkerGone {
        /// The worker.
        worker: WorkerId,
        /// The link that ended; none where a process ended that had no live link.
        epoch: Option<Epoch>,
        /// What was said.
        cause: GoneCause,
    },
    /// The operator wants this.
    Operator(Command),
}

/// What an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Take no new requests; those that run may end.
    Drain,
    /// End what still runs with [`crate::Failure::Draining`].
    Abort,
}

/// What a worker can take, from its READY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Width of the logits.
    pub vocab_size: u32,
    /// Longest prompt plus output in tokens.
    pub max_model_len: u32,
    /// Requests submitted and not ended.
    pub slots: u32,
    /// Equal ids give equal bits.
    pub numerics: String,
    /// Whether this server started the worker and restarts it.
    pub own: bool,
}

/// Why a worker did not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// Whether another worker may take it.
    pub elsewhere: bool,
}

/// One request's part of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The request.
    pub request_id: RequestId,
    /// The attempt that produced this.
    pub attempt: u32,
    /// Output position of the first token.
    pub start: u32,
    /// The tokens; none with no end is a row in prefill.
    pub tokens: Vec<u32>,
    /// Prompt and history tokens found in the prefix cache.
    pub num_cached_tokens: u32,
    /// Of the tokens, and of prompt positions that were computed.
    pub logprobs: Logprobs,
    /// Set with the last output.
    pub finish: Option<WorkerFinish>,
}

/// How a worker says that it is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerFinish {
    /// An end token.
    Stop,
    /// The length limit.
    Length,
    /// As we asked.
    Cancelled,
    /// It failed there.
    Error {
        /// Stable code.
        code: String,
        /// For people.
        message: String,
    },
}

/// What the operating system or a Bye said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoneCause {
    /// The connection ended.
    LinkClosed,
    /// The worker said Bye.
    Bye,
    /// An own child ended with this exit code.
    Exited(i32),
    /// An own child was ended by this signal.
    Signalled(i32),
}
