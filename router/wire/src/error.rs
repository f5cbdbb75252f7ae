//! What can be wrong with a frame or a body. Every variant carries what an operator needs to find the sender.

use thiserror::Error;

/// A message that cannot be decoded or encoded. The receiver closes the link: nothing on it can be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A message is always four parts.
    #[error("a message has {parts} parts, expected 4")]
    PartCount {
        /// Parts that came.
        parts: usize,
    },
    /// A part is larger than the wire allows.
    #[error("part {part} is {bytes} bytes, the limit is {limit}")]
    PartTooLarge {
        /// Index of the part.
        part: usize,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The kind frame is not one byte.
    #[error("the kind frame is {bytes} bytes, expected 1")]
    KindLength {
        /// Its size in bytes.
        bytes: usize,
    },
    /// No message has this kind byte.
    #[error("unknown message kind {byte}")]
    UnknownKind {
        /// The byte.
        byte: u8,
    },
    /// An array part is not a whole number of four-byte elements.
    #[error("{kind}: the {part} part is {bytes} bytes, not a multiple of 4")]
    Misaligned {
        /// Name of the message.
        kind: &'static str,
        /// `ids` or `floats`.
        part: &'static str,
        /// Its size in bytes.
        bytes: usize,
    },
    /// The body is not the JSON of this message.
    #[error("{kind}: {message} (body begins {preview:?})")]
    Body {
        /// Name of the message.
        kind: &'static str,
        /// The JSON decoder's words.
        message: String,
        /// The first bytes of the body.
        preview: String,
    },
    /// The body's offsets and counts do not fit the array parts.
    #[error("{kind}: {field} says {wanted} elements, the {part} part has {present}")]
    Extent {
        /// Name of the message.
        kind: &'static str,
        /// The field that counts.
        field: &'static str,
        /// `ids` or `floats`.
        part: &'static str,
        /// Elements the body claims.
        wanted: u64,
        /// Elements that came.
        present: u64,
    },
    /// A number that must be finite or within bounds is not.
    #[error("{kind}: {field} is out of range")]
    OutOfRange {
        /// Name of the message.
        kind: &'static str,
        /// The field.
        field: &'static str,
    },
}
