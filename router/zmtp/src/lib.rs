//! The router's end of `ZeroMQ`: as much of ZMTP 3.1 as a ROUTER socket with DEALER peers needs, over any byte stream.
//!
//! The peers are hostile until the layer above has seen their token, so every announced length is checked before it
//! costs anything, and the codec knows no sockets: arbitrary bytes can be thrown at it in a test. There is no CURVE, no
//! other socket type, and no connecting side.
//!
//! - [`limits`]: what a peer may make this side hold.
//! - [`greeting`], `frame`, `command`: the three layers of the bytes.
//! - [`codec`]: one connection's state, bytes in and events out.
//! - `connection`: one connection's task.
//! - [`endpoint`]: the ROUTER socket, which owns all connections.
//! - [`error`]: what can be wrong with a peer's bytes.

pub mod codec;
mod command;
mod connection;
pub mod endpoint;
pub mod error;
mod frame;
pub mod greeting;
pub mod limits;
mod listener;

pub use codec::{Connection, Incoming};
pub use connection::Cause;
pub use endpoint::{Config, ConnectionId, EndpointError, Event, Heartbeat, Router, SendError};
pub use error::ZmtpError;
pub use frame::{check_message, encode_message};
pub use limits::Limits;
pub use listener::Listener;
