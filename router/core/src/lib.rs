//! The policy of the router, pure: told what happens and what time it is, it says what to do.
//!
//! Nothing here can name a clock, a socket, a task or a source of randomness; equal inputs give equal actions, so any
//! recorded run can be replayed and every policy runs in the simulator (`slackwater-sim`).
//!
//! - [`time`], [`ids`], [`request`], [`config`], [`error`]: the nouns.
//! - [`event`] and [`action`]: the two halves of the contract.

pub mod action;
pub mod config;
pub mod error;
pub mod event;
pub mod ids;
pub mod request;
pub mod time;

pub use action::{Action, Ending, FenceReason, Placement};
pub use config::Config;
pub use error::{Failure, RequestError};
pub use event::{Capabilities, Command, Event, GoneCause, Output, Refusal, WorkerFinish};
pub use ids::{Epoch, Origin, RequestId, WorkerId};
pub use request::{Class, Limits, Request, RequestDraft, Sampling};
pub use time::Time;
