//! A deterministic simulator of the router's core: virtual time, one seed, workers with a cost model, clients, faults.
//!
//! The core that runs here is the one that serves. A test drives it through [`Sim`] (named scenarios) or [`Scenario`]
//! (random ones from a seed) and asks for [`Sim::violations`]: the checks keep books of their own beside the core's.
//!
//! - [`clock`], [`rng`]: time and chance.
//! - [`oracle`], [`engine`], [`net`], [`client`], [`faults`]: what the world around the core is made of.
//! - `process`, `worker`, `driver`, `inject`, `pause`: how it moves; `peace`: what must hold once nothing goes wrong.
//! - [`check`] with `check_actions` and [`ledger`]: what must hold.
//! - [`sim`], [`scenario`]: how tests use it.

pub mod check;
mod check_actions;
pub mod client;
pub mod clock;
mod digest;
mod driver;
pub mod engine;
pub mod faults;
mod inject;
pub mod ledger;
pub mod net;
pub mod oracle;
mod pause;
mod peace;
mod process;
pub mod rng;
pub mod scenario;
pub mod sim;
mod worker;

pub use check::Violation;
pub use client::{HangUp, Pace, RequestSpec};
pub use engine::CostModel;
pub use faults::{Evil, Fault};
pub use ledger::End;
pub use oracle::Oracle;
pub use scenario::{Report, Scenario};
pub use sim::{Outcome, Seed, Sim};
