//! A DEALER's bytes, made by hand and not by the code under test.

use bytes::Bytes;
use slackwater_zmtp::{Connection, Incoming, Limits, ZmtpError};

pub(crate) fn greeting() -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(64, 0);
    bytes
}

pub(crate) fn short(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags, u8::try_from(body.len()).unwrap()];
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn long(flags: u8, length: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flags | 2];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    if body.len() < 256 {
        short(flags, body)
    } else {
        long(flags, body.len() as u64, body)
    }
}

pub(crate) fn property(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(name.len()).unwrap()];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

pub(crate) fn command(name: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::try_from(name.len()).unwrap()];
    body.extend_from_slice(name);
    body.extend_from_slice(data);
    frame(4, &body)
}

pub(crate) fn ready() -> Vec<u8> {
    command(b"READY", &property(b"Socket-Type", b"DEALER"))
}

/// Greeting and READY.
pub(crate) fn hello() -> Vec<u8> {
    [greeting(), ready()].concat()
}

pub(crate) fn message(parts: &[&[u8]]) -> Vec<u8> {
    let last = parts.len() - 1;
    let flags = |at| u8::from(at < last);
    parts
        .iter()
        .enumerate()
        .flat_map(|(at, part)| frame(flags(at), part))
        .collect()
}

pub(crate) fn parts(parts: &[&[u8]]) -> Vec<Bytes> {
    parts
        .iter()
        .map(|part| Bytes::copy_from_slice(part))
        .collect()
}

/// All that the bytes mean, up to the first error.
pub(crate) fn receive(codec: &mut Connection, bytes: &[u8]) -> (Vec<Incoming>, Option<ZmtpError>) {
    let mut input = bytes;
    let mut events = Vec::new();
    loop {
        match codec.receive(&mut input) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => {
                assert!(input.is_empty());
                return (events, None);
            }
            Err(error) => return (events, Some(error)),
        }
    }
}

/// A connection after READY and one small message, so that the larger limits hold.
pub(crate) fn connected(limits: Limits) -> Connection {
    let mut codec = Connection::new(limits);
    let (events, error) = receive(&mut codec, &[hello(), message(&[b"first"])].concat());
    assert_eq!((events.len(), error), (2, None));
    codec.take_outgoing();
    codec
}
