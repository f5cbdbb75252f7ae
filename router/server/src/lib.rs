//! All IO of the router: HTTP, ZeroMQ, tokeniser, chat template, worker processes, and the one task that owns the core.
//!
//! - [`handle`]: the way into the driver, and the only clock.

pub mod handle;
