//! The definition of every message between router and worker, and its codec.
//!
//! These Rust types are the source: `schema.json` is printed from them (`cargo run -p slackwater-wire --bin
//! wire-schema`), and the Python classes in `pyworker/wire/messages.py` are generated from that file. Both are
//! committed, and the gate compares them. A message is four parts, `[kind][body][ids][floats]`.
//!
//! - [`messages`]: the bodies, one struct a message.
//! - [`sampling`]: how tokens are chosen, and its bounds.
//! - [`kind`]: the one-byte kind frame that selects a body.
//! - [`frame`]: the four parts, their limits and the array encodings.
//! - [`codec`]: a typed message to frames and back, with every check a decoder owes its caller.
//! - [`schema`]: the JSON schema of all messages and its hash, which the handshake compares.
//! - [`error`]: what can be wrong with a frame.

pub mod codec;
pub mod error;
mod extents;
pub mod frame;
pub mod kind;
pub mod messages;
pub mod sampling;
pub mod schema;

pub use codec::{Message, decode, encode};
pub use error::WireError;
pub use frame::{Frames, MAX_FRAME_BYTES, MAX_PARTS};
pub use kind::Kind;
