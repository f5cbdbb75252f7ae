//! All IO of the router: HTTP, ZeroMQ, tokeniser, chat template, worker processes, and the one task that owns the core.
//!
//! - [`handle`]: the way into the driver, and the only clock;
//! - [`start`]: from the command line ([`cli`], [`folders`]) to a running server and back ([`shutdown`]);
//! - [`driver`]: the one task that owns the core; [`supervise`]: its worker processes; [`metrics`];
//! - [`transport`]: the link to the workers;
//! - [`http`]: the front door, with [`limits`];
//! - [`model`], [`template`], [`tokenizer`], [`detokenizer`], [`stop`], [`session`]: text.

pub mod cli;
pub mod detokenizer;
pub mod driver;
pub mod folders;
pub mod handle;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod prepare;
pub mod session;
pub mod shutdown;
pub mod start;
pub mod stop;
pub mod supervise;
pub mod template;
pub mod terminal;
mod text_stream;
pub mod tokenizer;
pub mod transport;

pub use start::run;
