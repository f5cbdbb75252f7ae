//! What can be wrong with a peer's bytes, or with a message that this side wants to send.

use thiserror::Error;

/// A connection's bytes that are no ZMTP, or over a limit. The connection is closed: there is no way to find the next
/// frame in what follows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ZmtpError {
    /// The greeting does not begin as one.
    #[error("byte {at} of the greeting is {byte:#04x}: the peer does not speak ZMTP")]
    Signature {
        /// Which byte.
        at: usize,
        /// Its value.
        byte: u8,
    },
    /// The peer's protocol is older than 3.0.
    #[error("the peer speaks ZMTP {major}, at least 3 is needed")]
    Version {
        /// Its major version.
        major: u8,
    },
    /// The peer wants another security mechanism than NULL.
    #[error("the peer asks for mechanism {name:?}, only \"NULL\" is served")]
    Mechanism {
        /// What it asks for.
        name: String,
    },
    /// A frame's flags have no meaning.
    #[error("frame flags {flags:#04x} are not allowed here")]
    Flags {
        /// The flags.
        flags: u8,
    },
    /// A frame is over the limit.
    #[error("a frame of {bytes} bytes is announced, the limit is {limit}")]
    FrameTooLarge {
        /// Its announced size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message's frames together are over the limit.
    #[error("a message of {bytes} bytes or more is announced, the limit is {limit}")]
    MessageTooLarge {
        /// Sum of the announced sizes so far, in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message has more frames than the limit.
    #[error("a message has more than {limit} frames")]
    TooManyParts {
        /// The limit.
        limit: usize,
    },
    /// A message has no frame at all; only this side can want that.
    #[error("a message needs at least one frame")]
    NoParts,
    /// More came before READY than READY needs.
    #[error("{bytes} bytes are announced before READY, the limit is {limit}")]
    HandshakeTooLarge {
        /// Announced so far, in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message frame came before READY.
    #[error("a message came before READY")]
    MessageBeforeReady,
    /// A command is over the limit.
    #[error("a command of {bytes} bytes is announced, the limit is {limit}")]
    CommandTooLarge {
        /// Its announced size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A command's inside is broken.
    #[error("a command is malformed: {reason}")]
    Command {
        /// What is wrong.
        reason: &'static str,
    },
    /// A command that has no place here.
    #[error("command {name:?} is not expected here")]
    UnexpectedCommand {
        /// Its name.
        name: String,
    },
    /// The peer's socket is of a type that is not served.
    #[error("a {name:?} socket is not served here, only \"DEALER\"")]
    SocketType {
        /// The type that it names.
        name: String,
    },
    /// The peer sent ERROR.
    #[error("the peer refused: {reason:?}")]
    PeerRefused {
        /// The reason that it gives.
        reason: String,
    },
}

/// A peer's bytes as printable text for an error, cut at 64 characters.
pub(crate) fn printable(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(64)
        .flat_map(|byte| std::ascii::escape_default(*byte))
        .map(char::from)
        .collect()
}
