//! The 64 bytes that both sides begin with: signature, version, mechanism.

use crate::error::{ZmtpError, printable};

/// Size of a greeting in bytes.
pub const GREETING_BYTES: usize = 64;

const SIGNATURE_FIRST: u8 = 0xff;
const SIGNATURE_LAST: u8 = 0x7f;
const VERSION: [u8; 2] = [3, 1];
const MECHANISM_AT: usize = 12;
const MECHANISM_BYTES: usize = 20;
const MECHANISM: &[u8] = b"NULL";

/// This side's greeting: ZMTP 3.1, mechanism NULL.
pub fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    let signature = [SIGNATURE_FIRST, 0, 0, 0, 0, 0, 0, 0, 0, SIGNATURE_LAST];
    let content = signature.iter().chain(&VERSION).chain(MECHANISM);
    for (slot, byte) in bytes.iter_mut().zip(content) {
        *slot = *byte;
    }
    bytes
}

/// The peer's protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerVersion {
    /// At least 3.
    pub major: u8,
    /// From 3.1 on a peer knows PING.
    pub minor: u8,
}

impl PeerVersion {
    /// Whether the peer knows PING and PONG.
    pub const fn has_ping(self) -> bool {
        self.major > 3 || self.minor >= 1
    }
}

/// Collects a peer's greeting and refuses it at the first byte that is wrong.
#[derive(Debug, Clone)]
pub(crate) struct GreetingReader {
    bytes: [u8; GREETING_BYTES],
    filled: usize,
}

impl GreetingReader {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; GREETING_BYTES],
            filled: 0,
        }
    }

    /// Takes what it needs off `input`; the version once the greeting is whole.
    pub(crate) fn receive(&mut self, input: &mut &[u8]) -> Result<Option<PeerVersion>, ZmtpError> {
        while self.filled < GREETING_BYTES {
            let Some((byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            *input = rest;
            self.push(*byte)?;
        }
        let mut tail = self.bytes.iter().skip(VERSION_AT).copied();
        let major = tail.next().unwrap_or_default();
        let minor = tail.next().unwrap_or_default();
        Ok(Some(PeerVersion { major, minor }))
    }

    fn push(&mut self, byte: u8) -> Result<(), ZmtpError> {
        let at = self.filled;
        match at {
            0 if byte != SIGNATURE_FIRST => return Err(ZmtpError::Signature { at, byte }),
            9 if byte != SIGNATURE_LAST => return Err(ZmtpError::Signature { at, byte }),
            VERSION_AT if byte < 3 => return Err(ZmtpError::Version { major: byte }),
            _ => {}
        }
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
        self.filled += 1;
        if self.filled == MECHANISM_AT + MECHANISM_BYTES {
            self.check_mechanism()?;
        }
        Ok(())
    }

    fn check_mechanism(&self) -> Result<(), ZmtpError> {
        let padded = self
            .bytes
            .get(MECHANISM_AT..MECHANISM_AT + MECHANISM_BYTES)
            .unwrap_or_default();
        let (name, padding) = padded
            .split_at_checked(MECHANISM.len())
            .unwrap_or((padded, &[]));
        if name == MECHANISM && padding.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let name: Vec<u8> = padded.iter().copied().take_while(|b| *b != 0).collect();
        Err(ZmtpError::Mechanism {
            name: printable(&name),
        })
    }
}

const VERSION_AT: usize = 10;
