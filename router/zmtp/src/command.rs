//! Commands: READY with its properties, ERROR, PING, PONG.

use crate::error::{ZmtpError, printable};
use crate::frame::encode_command;

/// Most bytes of a PING's context, as the protocol has it.
const MAX_CONTEXT: usize = 16;

/// The name under which a peer says its socket's type.
const SOCKET_TYPE: &[u8] = b"Socket-Type";

/// A command from a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// The socket type, from the properties. An identity that a peer claims is ignored.
    Ready { socket_type: Vec<u8> },
    /// The peer gives up.
    Error { reason: String },
    /// To be answered by PONG with the same context.
    Ping { context: Vec<u8> },
    /// The answer to a PING of ours.
    Pong,
}

impl Command {
    /// Reads a command frame's body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ZmtpError> {
        let mut rest = body;
        let name = take_short(&mut rest).ok_or(malformed("its name is cut off"))?;
        match name {
            b"READY" => parse_ready(rest),
            b"ERROR" => {
                let reason = take_short(&mut rest).ok_or(malformed("ERROR has no reason"))?;
                let reason = printable(reason);
                Ok(Self::Error { reason })
            }
            b"PING" => match rest.split_at_checked(2) {
                Some((_, context)) if context.len() <= MAX_CONTEXT => Ok(Self::Ping {
                    context: context.to_vec(),
                }),
                Some(_) => Err(malformed("PING's context is over 16 bytes")),
                None => Err(malformed("PING has no time to live")),
            },
            b"PONG" if rest.len() <= MAX_CONTEXT => Ok(Self::Pong),
            b"PONG" => Err(malformed("PONG's context is over 16 bytes")),
            _ => Err(ZmtpError::UnexpectedCommand {
                name: printable(name),
            }),
        }
    }

    /// Its name, for errors.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "READY",
            Self::Error { .. } => "ERROR",
            Self::Ping { .. } => "PING",
            Self::Pong => "PONG",
        }
    }
}

const fn malformed(reason: &'static str) -> ZmtpError {
    ZmtpError::Command { reason }
}

/// A string with a length of one byte.
fn take_short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first()?;
    let (value, after) = after.split_at_checked(usize::from(*length))?;
    *rest = after;
    Some(value)
}

/// A string with a length of four bytes.
fn take_long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (value, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(value)
}

fn parse_ready(mut rest: &[u8]) -> Result<Command, ZmtpError> {
    let mut socket_type = None;
    while !rest.is_empty() {
        let name = take_short(&mut rest).ok_or(malformed("a property's name is cut off"))?;
        let value = take_long(&mut rest).ok_or(malformed("a property's value is cut off"))?;
        if name.is_empty() {
            return Err(malformed("a property has no name"));
        }
        if name.eq_ignore_ascii_case(SOCKET_TYPE) && socket_type.replace(value).is_some() {
            return Err(malformed("Socket-Type is said twice"));
        }
    }
    let socket_type = socket_type.ok_or(malformed("READY has no Socket-Type"))?;
    Ok(Command::Ready {
        socket_type: socket_type.to_vec(),
    })
}

fn put_short(value: &[u8], out: &mut Vec<u8>) {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend(value.iter().take(usize::from(length)));
}

fn named(name: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    put_short(name, &mut body);
    body
}

/// Appends READY for a socket of this type.
pub(crate) fn encode_ready(socket_type: &[u8], out: &mut Vec<u8>) {
    let mut body = named(b"READY");
    put_short(SOCKET_TYPE, &mut body);
    let length = u32::try_from(socket_type.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(socket_type);
    encode_command(&body, out);
}

/// Appends ERROR; a reason over 255 bytes is cut.
pub(crate) fn encode_error(reason: &str, out: &mut Vec<u8>) {
    let mut body = named(b"ERROR");
    put_short(reason.as_bytes(), &mut body);
    encode_command(&body, out);
}

/// Appends PING; `ttl_tenths` asks the peer to give up after so many tenths of a second of silence, 0 for never.
pub(crate) fn encode_ping(ttl_tenths: u16, out: &mut Vec<u8>) {
    let mut body = named(b"PING");
    body.extend_from_slice(&ttl_tenths.to_be_bytes());
    encode_command(&body, out);
}

/// Appends PONG.
pub(crate) fn encode_pong(context: &[u8], out: &mut Vec<u8>) {
    let mut body = named(b"PONG");
    body.extend_from_slice(context);
    encode_command(&body, out);
}
