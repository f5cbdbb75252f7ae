//! Frames: a flags byte, a length of one or eight bytes, a body.

use bytes::Bytes;

use crate::error::ZmtpError;
use crate::limits::Limits;

const MORE: u8 = 0b001;
const LONG: u8 = 0b010;
const COMMAND: u8 = 0b100;

/// A body grows by at most this much before its bytes have come.
const RESERVE_BYTES: usize = 64 * 1024;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) more: bool,
    pub(crate) command: bool,
    /// Size of the body in bytes, as announced.
    pub(crate) length: u64,
    /// Size of the header itself in bytes.
    pub(crate) size: usize,
}

/// A frame that has come whole.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
}

/// Collects one header.
#[derive(Debug, Default)]
pub(crate) struct HeaderReader {
    flags: Option<u8>,
    length: u64,
    read: u32,
}

impl HeaderReader {
    /// Takes what it needs off `input`; the header once it is whole.
    pub(crate) fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Header>, ZmtpError> {
        loop {
            let Some((byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            let Some(flags) = self.flags else {
                let known = MORE | LONG | COMMAND;
                if byte & !known != 0 || byte & (MORE | COMMAND) == MORE | COMMAND {
                    return Err(ZmtpError::Flags { flags: *byte });
                }
                self.flags = Some(*byte);
                continue;
            };
            self.length = self.length << 8 | u64::from(*byte);
            self.read += 1;
            let wanted = if flags & LONG == 0 { 1 } else { 8 };
            if self.read == wanted {
                let header = Header {
                    more: flags & MORE != 0,
                    command: flags & COMMAND != 0,
                    length: self.length,
                    size: 1 + if flags & LONG == 0 { 1 } else { 8 },
                };
                *self = Self::default();
                return Ok(Some(header));
            }
        }
    }
}

/// Collects one body, whose length the caller has checked against its limits.
#[derive(Debug)]
pub(crate) struct BodyReader {
    header: Header,
    length: usize,
    body: Vec<u8>,
}

impl BodyReader {
    pub(crate) fn new(header: Header, length: usize) -> Self {
        Self {
            header,
            length,
            body: Vec::new(),
        }
    }

    /// Bytes reserved.
    pub(crate) fn reserved(&self) -> usize {
        self.body.capacity()
    }

    /// Takes what it needs off `input`; whether the body is whole.
    pub(crate) fn receive(&mut self, input: &mut &[u8]) -> bool {
        let missing = self.length - self.body.len();
        let (taken, rest) = input.split_at(missing.min(input.len()));
        if self.body.capacity() < self.body.len() + taken.len() {
            // Doubles what has come, so that a length alone never costs more than the first step.
            let step = self.body.len().max(RESERVE_BYTES).max(taken.len());
            self.body.reserve_exact(step.min(missing));
        }
        self.body.extend_from_slice(taken);
        *input = rest;
        self.body.len() == self.length
    }

    pub(crate) fn finish(self) -> Frame {
        Frame {
            header: self.header,
            body: self.body,
        }
    }
}

/// Checks a message that is to be sent; its size in bytes.
///
/// # Errors
/// [`ZmtpError::NoParts`], [`ZmtpError::TooManyParts`], [`ZmtpError::FrameTooLarge`] or [`ZmtpError::MessageTooLarge`].
pub fn check_message(parts: &[Bytes], limits: &Limits) -> Result<usize, ZmtpError> {
    if parts.is_empty() {
        return Err(ZmtpError::NoParts);
    }
    if parts.len() > limits.max_parts {
        return Err(ZmtpError::TooManyParts {
            limit: limits.max_parts,
        });
    }
    if let Some(part) = parts.iter().find(|part| part.len() > limits.max_frame) {
        return Err(ZmtpError::FrameTooLarge {
            bytes: part.len() as u64,
            limit: limits.max_frame,
        });
    }
    let bytes = parts.iter().map(Bytes::len).sum();
    if bytes > limits.max_message {
        return Err(ZmtpError::MessageTooLarge {
            bytes: bytes as u64,
            limit: limits.max_message,
        });
    }
    Ok(bytes)
}

/// Appends a message to `out`. What may be sent is [`check_message`]'s to say.
pub fn encode_message(parts: &[Bytes], out: &mut Vec<u8>) {
    let last = parts.len().saturating_sub(1);
    for (at, part) in parts.iter().enumerate() {
        encode_frame(if at == last { 0 } else { MORE }, part, out);
    }
}

/// Appends a command frame to `out`.
pub(crate) fn encode_command(body: &[u8], out: &mut Vec<u8>) {
    encode_frame(COMMAND, body, out);
}

fn encode_frame(flags: u8, body: &[u8], out: &mut Vec<u8>) {
    if let Ok(length) = u8::try_from(body.len()) {
        out.extend_from_slice(&[flags, length]);
    } else {
        out.push(flags | LONG);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    }
    out.extend_from_slice(body);
}
