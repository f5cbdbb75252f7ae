//! One connection's state, without any IO: bytes in, events out, bytes to send.
//!
//! Greeting, then READY both ways, then traffic. What is held at any time is one message within the limits; every
//! announced length is checked first. Nothing here recurses: each turn of the loop takes bytes off the input.

use bytes::Bytes;

use crate::command::{self, Command};
use crate::error::{ZmtpError, printable};
use crate::frame::{BodyReader, Frame, Header, HeaderReader};
use crate::greeting::{GreetingReader, PeerVersion, greeting};
use crate::limits::Limits;

/// What a peer's bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The handshake is done.
    Ready(PeerVersion),
    /// A whole message.
    Message(Vec<Bytes>),
    /// A PING came; its answer waits in [`Connection::take_outgoing`].
    Ping,
    /// The peer answered a PING.
    Pong,
}

#[derive(Debug)]
enum Stage {
    Greeting(GreetingReader),
    Handshake { version: PeerVersion, bytes: u64 },
    Traffic,
    Failed(ZmtpError),
}

#[derive(Debug)]
enum Reading {
    Header(HeaderReader),
    Body(BodyReader),
}

/// The server's side of one connection of a ROUTER socket.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    stage: Stage,
    reading: Reading,
    parts: Vec<Bytes>,
    message_bytes: u64,
    is_first_message: bool,
    outgoing: Vec<u8>,
}

impl Connection {
    /// A connection that was just accepted; its greeting is ready to be sent.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Greeting(GreetingReader::new()),
            reading: Reading::Header(HeaderReader::default()),
            parts: Vec::new(),
            message_bytes: 0,
            is_first_message: true,
            outgoing: greeting().to_vec(),
        }
    }

    /// Takes bytes off `input` until they mean something; nothing once they are used up.
    ///
    /// # Errors
    /// Any [`ZmtpError`] about a peer's bytes. From then on each call gives the same error; what is in
    /// [`Connection::take_outgoing`] may still be sent before the connection is closed.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, ZmtpError> {
        let outcome = self.step(input);
        if let Err(error) = &outcome {
            self.parts = Vec::new();
            self.reading = Reading::Header(HeaderReader::default());
            self.stage = Stage::Failed(error.clone());
        }
        outcome
    }

    /// Bytes for the peer that this side owes it: greeting, READY or ERROR, PONG.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Bytes that are reserved for what the peer has begun to say.
    pub fn reserved(&self) -> usize {
        let body = match &self.reading {
            Reading::Header(_) => 0,
            Reading::Body(reader) => reader.reserved(),
        };
        body + self.parts.iter().map(Bytes::len).sum::<usize>()
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, ZmtpError> {
        loop {
            match &mut self.stage {
                Stage::Failed(error) => return Err(error.clone()),
                Stage::Greeting(reader) => match reader.receive(input)? {
                    Some(version) => self.stage = Stage::Handshake { version, bytes: 0 },
                    None => return Ok(None),
                },
                Stage::Handshake { .. } | Stage::Traffic => {
                    let Some(frame) = self.frame(input)? else {
                        return Ok(None);
                    };
                    if let Some(event) = self.take(frame)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    fn frame(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, ZmtpError> {
        if let Reading::Header(reader) = &mut self.reading {
            let Some(header) = reader.receive(input)? else {
                return Ok(None);
            };
            let length = self.admit(header)?;
            self.reading = Reading::Body(BodyReader::new(header, length));
        }
        if let Reading::Body(reader) = &mut self.reading
            && !reader.receive(input)
        {
            return Ok(None);
        }
        let next = Reading::Header(HeaderReader::default());
        match std::mem::replace(&mut self.reading, next) {
            Reading::Body(reader) => Ok(Some(reader.finish())),
            Reading::Header(_) => Ok(None),
        }
    }

    /// Checks a header against all limits, before its body costs anything; the length.
    fn admit(&mut self, header: Header) -> Result<usize, ZmtpError> {
        let limits = &self.limits;
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > limits.max_frame {
            return Err(ZmtpError::FrameTooLarge {
                bytes: header.length,
                limit: limits.max_frame,
            });
        }
        if let Stage::Handshake { bytes, .. } = &mut self.stage {
            *bytes += header.size as u64 + header.length;
            let limit = limits.max_before_ready;
            let bytes = *bytes;
            if bytes > limit as u64 {
                return Err(ZmtpError::HandshakeTooLarge { bytes, limit });
            }
            if !header.command {
                return Err(ZmtpError::MessageBeforeReady);
            }
        }
        if header.command {
            let (bytes, limit) = (header.length, limits.max_command);
            if length > limit {
                return Err(ZmtpError::CommandTooLarge { bytes, limit });
            }
            return Ok(length);
        }
        if self.parts.len() >= limits.max_parts {
            let limit = limits.max_parts;
            return Err(ZmtpError::TooManyParts { limit });
        }
        let limit = if self.is_first_message {
            limits.max_first_message
        } else {
            limits.max_message
        };
        self.message_bytes += header.length;
        let bytes = self.message_bytes;
        if bytes > limit as u64 {
            return Err(ZmtpError::MessageTooLarge { bytes, limit });
        }
        Ok(length)
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Incoming>, ZmtpError> {
        if frame.header.command {
            return self.take_command(&frame.body).map(Some);
        }
        self.parts.push(Bytes::from(frame.body));
        if frame.header.more {
            return Ok(None);
        }
        self.message_bytes = 0;
        self.is_first_message = false;
        Ok(Some(Incoming::Message(std::mem::take(&mut self.parts))))
    }

    /// A command may also stand between the frames of a message: libzmq's PING does.
    fn take_command(&mut self, body: &[u8]) -> Result<Incoming, ZmtpError> {
        let command = Command::parse(body)?;
        let ready = match self.stage {
            Stage::Handshake { version, .. } => Some(version),
            _ => None,
        };
        match (command, ready) {
            (Command::Error { reason }, _) => Err(ZmtpError::PeerRefused { reason }),
            (Command::Ready { socket_type }, Some(version)) => self.greet(&socket_type, version),
            (Command::Ping { context }, None) => {
                command::encode_pong(&context, &mut self.outgoing);
                Ok(Incoming::Ping)
            }
            (Command::Pong, None) => Ok(Incoming::Pong),
            (command, _) => Err(ZmtpError::UnexpectedCommand {
                name: command.name().to_owned(),
            }),
        }
    }

    fn greet(&mut self, socket_type: &[u8], version: PeerVersion) -> Result<Incoming, ZmtpError> {
        if socket_type != b"DEALER" {
            let error = ZmtpError::SocketType {
                name: printable(socket_type),
            };
            command::encode_error(&error.to_string(), &mut self.outgoing);
            return Err(error);
        }
        command::encode_ready(b"ROUTER", &mut self.outgoing);
        self.stage = Stage::Traffic;
        Ok(Incoming::Ready(version))
    }
}
