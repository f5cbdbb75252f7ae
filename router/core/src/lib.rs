//! The policy of the router, pure: told what happens and what time it is, it says what to do.
//!
//! Nothing here can name a clock, a socket, a task or a source of randomness; equal inputs give equal actions, so any
//! recorded run can be replayed and every policy runs in the simulator (`slackwater-sim`).
//!
//! - [`time`], [`ids`], [`request`], [`shaping`], [`config`], [`error`]: the nouns.
//! - [`event`] and [`action`]: the two halves of the contract.
//! - [`scheduler`]: [`Scheduler`], which turns one into the other; one arm for each event, in the files below.
//! - `sessions` (clients and the operator), `joining` (READY), `origin` (what of a worker's words is believed),
//!   `liveness` with `steps` (silence and hangs), `stall` (our own absence), `resume` (a lost link), `restart` (a lost
//!   process).
//! - `queue`, `placement`, `credit`, `timers`: one algorithm each. `tracked` and `worker`: the records.
//! - [`counters`]: what is counted for `/metrics`.

pub mod action;
pub mod config;
pub mod counters;
mod credit;
pub mod error;
pub mod event;
pub mod ids;
mod joining;
mod liveness;
mod origin;
mod placement;
mod queue;
pub mod request;
mod restart;
mod resume;
pub mod scheduler;
mod sessions;
pub mod shaping;
mod stall;
mod steps;
pub mod time;
mod timers;
mod tracked;
mod worker;

pub use action::{Action, Ending, FenceReason, Placement};
pub use config::Config;
pub use counters::{Counters, LostReason, SuspectReason, Tally, ViolationReason};
pub use error::{Failure, RequestError};
pub use event::{Capabilities, Command, Event, GoneCause, Output, Refusal, WorkerFinish};
pub use ids::{Epoch, Origin, RequestId, WorkerId};
pub use request::{Class, Limits, Request, RequestDraft, Sampling};
pub use scheduler::Scheduler;
pub use shaping::{Grammar, GrammarKind, Logprobs, Shaping, TokenLogprobs};
pub use time::Time;
pub use tracked::RequestView;
pub use worker::{WorkerState, WorkerView};
