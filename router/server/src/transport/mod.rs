//! The link to the workers: connections, the handshake on them, and what the driver holds of both.
//!
//! A link is one connection and one epoch: its messages arrive whole and in order, and the only loss is the loss of the
//! link. Nothing here decides anything about requests; sequence numbers that come in are the core's to check.
//!
//! - [`WorkerLink`]: connections, whatever carries them. [`link`]: over our own ZMTP on a Unix socket, the only file
//!   that names that crate. [`inproc`]: in this process, for tests.
//! - [`tokens`]: who may join. [`handshake`]: HELLO and READY, and the ids and epochs that they get.
//! - [`map`]: wire messages to the core's events and its actions to messages; the only file that knows both.
//! - [`fleet`]: all links together, as the driver sees them; `roster`: their records.
//! - [`error`]: what can be wrong with the socket.

pub mod error;
pub mod fleet;
pub mod handshake;
pub mod inproc;
pub mod link;
mod logprobs;
pub mod map;
mod roster;
mod submit;
#[cfg(test)]
mod tests;
pub mod tokens;

use std::fmt;
use std::future::Future;
use std::io;

use slackwater_wire::{Frames, WireError};
use thiserror::Error;

pub use error::TransportError;
pub use fleet::{Fleet, FleetConfig, FleetEvent};
pub use handshake::Expected;
pub use link::{LinkConfig, UnixLink};

/// One connection; never used again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link{}", self.0)
    }
}

/// Why a connection ended that this side did not close.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// The peer closed it, or its process ended.
    #[error("closed by the peer")]
    PeerClosed,
    /// It could not go on.
    #[error("{message}")]
    Broken {
        /// Why, for the log.
        message: String,
    },
}

/// What happened on the connections.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkEvent {
    /// A peer is there; nobody knows yet who it is.
    Connected(LinkId),
    /// A whole message, taken apart but not yet read.
    Message(LinkId, Frames),
    /// A whole message that is not even four parts within their limits.
    Malformed(LinkId, WireError),
    /// The queue to a peer passed its mark, or is half empty again.
    Full(LinkId, bool),
    /// A connection ended that this side did not close. The last event of it.
    Closed(LinkId, Cause),
    /// A peer did not get as far as a connection.
    Refused(Cause),
}

/// What is wrong with all connections at once.
#[derive(Debug, Error)]
pub enum LinkError {
    /// A new one could not be accepted; those that are there go on, and the next one may be.
    #[error("cannot accept a worker's connection: {source}")]
    Accept {
        /// What the operating system said.
        source: io::Error,
    },
    /// There will be none any more.
    #[error("the link has ended")]
    Ended,
}

/// Why a message was not queued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SendError {
    /// The queue is full: the link is closed, for no message may be left out.
    #[error("the queue to the worker is full")]
    Full,
    /// The link has ended.
    #[error("the link has ended")]
    Gone,
    /// The message is over a limit of the wire.
    #[error("{message}")]
    Invalid {
        /// Which.
        message: String,
    },
}

/// Connections to workers.
pub trait WorkerLink: Send {
    /// Next whole message or link change. Never returns a partial multipart. May be dropped at any await without losing
    /// an event.
    fn recv(&mut self) -> impl Future<Output = Result<LinkEvent, LinkError>> + Send;

    /// Queues or refuses; never awaits a peer. `Ok` says nothing about delivery; after `Full` the link is closed.
    ///
    /// # Errors
    /// See [`SendError`].
    fn try_send(&mut self, link: LinkId, frames: Frames) -> Result<(), SendError>;

    /// Closes a link once what is queued has been written, or after a while. No event of it follows.
    fn close(&mut self, link: LinkId);

    /// Closes all links and waits until what is queued has been written, or for a while.
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
}
