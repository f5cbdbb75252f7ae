//! One connection's task: handshake, then reading and writing side by side, then an ending that says why.
//!
//! Reading waits when the owner is behind and writing waits when the peer is behind; neither waits for the other, but
//! for the answers to a peer's PINGs, so that a peer that floods PINGs and reads nothing stops itself.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::codec::{Connection, Incoming};
use crate::command::encode_ping;
use crate::endpoint::{Config, ConnectionId, Heartbeat};
use crate::error::ZmtpError;
use crate::frame::encode_message;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 32 * 1024;
/// Waiting messages are written together up to about this size.
const BATCH_BYTES: usize = 64 * 1024;
/// A write buffer that a large message has grown beyond this is given back.
const KEEP_BYTES: usize = 1024 * 1024;
/// Messages that one connection may have waiting for the owner, whatever their size.
const INBOX_MESSAGES: usize = 256;
/// Answers to PINGs that may wait to be written.
pub(crate) const CONTROLS: usize = 4;

/// Why a connection ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Cause {
    /// The peer closed it, or its process ended.
    #[error("closed by the peer")]
    PeerClosed,
    /// The operating system ended it.
    #[error("{source}")]
    Io {
        /// What it said.
        #[from]
        source: io::Error,
    },
    /// The peer broke the protocol or a limit.
    #[error("{error}")]
    Protocol {
        /// How.
        #[from]
        error: ZmtpError,
    },
    /// Greeting and READY took too long.
    #[error("no handshake within {limit:?}")]
    HandshakeTimeout {
        /// The limit.
        limit: Duration,
    },
    /// Newer connections needed its place before its handshake was done.
    #[error("more than {limit} handshakes at once")]
    Crowded {
        /// The limit.
        limit: usize,
    },
    /// Nothing came for too long although PINGs were sent.
    #[error("silent for {limit:?}")]
    Silent {
        /// The limit.
        limit: Duration,
    },
    /// This side closed it.
    #[error("closed on this side")]
    Local,
    /// Its task ended without saying why: a fault of this program.
    #[error("the connection's task failed")]
    Task,
}

/// What a task has to say to the owner.
pub(crate) enum TaskEvent {
    Ready(ConnectionId),
    Message {
        id: ConnectionId,
        parts: Vec<Bytes>,
        /// Falls with the event, which gives the room back.
        _room: OwnedSemaphorePermit,
    },
    HalfEmpty(ConnectionId),
}

/// What the owner and the task both count.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Whether the owner was told that the queue is full.
    pub(crate) full: AtomicBool,
    /// Bytes queued and not yet written.
    pub(crate) bytes: AtomicUsize,
}

/// The task's ends of everything.
pub(crate) struct Ends {
    pub(crate) id: ConnectionId,
    pub(crate) config: Arc<Config>,
    pub(crate) queue: mpsc::Receiver<Vec<Bytes>>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) events: mpsc::Sender<TaskEvent>,
    pub(crate) closed: oneshot::Receiver<()>,
}

/// Runs a connection to its end.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Send>(
    stream: S,
    mut ends: Ends,
) -> (ConnectionId, Cause) {
    let id = ends.id;
    let (read_half, mut write_half) = tokio::io::split(stream);
    let mut reader = Reader::new(read_half, &ends.config);
    let limit = ends.config.handshake;
    let handshake = timeout(limit, shake_hands(&mut reader, &mut write_half));
    let has_ping = tokio::select! {
        _ = &mut ends.closed => return (id, Cause::Local),
        outcome = handshake => match outcome {
            Ok(Ok(has_ping)) => has_ping,
            Ok(Err(cause)) => return (id, cause),
            Err(_) => return (id, Cause::HandshakeTimeout { limit }),
        },
    };
    if ends.events.send(TaskEvent::Ready(id)).await.is_err() {
        return (id, Cause::Local);
    }
    let heartbeat = ends.config.heartbeat.filter(|_| has_ping);
    (id, traffic(reader, write_half, ends, heartbeat).await)
}

/// Greeting and READY, both ways; whether the peer knows PING.
async fn shake_hands<S: AsyncRead + AsyncWrite>(
    reader: &mut Reader<S>,
    writer: &mut WriteHalf<S>,
) -> Result<bool, Cause> {
    writer.write_all(&reader.codec.take_outgoing()).await?;
    let outcome = reader.next(None).await;
    // READY, or an ERROR that says why there is none.
    let written = writer.write_all(&reader.codec.take_outgoing()).await;
    match outcome? {
        Incoming::Ready(version) => written.map(|()| version.has_ping()).map_err(Cause::from),
        _ => Err(Cause::Protocol {
            error: ZmtpError::MessageBeforeReady,
        }),
    }
}

async fn traffic<S: AsyncRead + AsyncWrite>(
    mut reader: Reader<S>,
    mut write_half: WriteHalf<S>,
    ends: Ends,
    heartbeat: Option<Heartbeat>,
) -> Cause {
    let Ends {
        id,
        config,
        queue,
        gauge,
        events,
        mut closed,
    } = ends;
    let (control, controls) = mpsc::channel(CONTROLS);
    let inbox = Inbox {
        id,
        events: events.clone(),
        control,
        room: Arc::new(Semaphore::new(config.inbox_bytes)),
        bytes: config.inbox_bytes,
        silence: heartbeat.map(|beat| beat.interval + beat.timeout),
    };
    let outbox = Outbox {
        id,
        queue,
        controls,
        gauge,
        events,
        low: config.queue_mark / 2,
        ticks: heartbeat.map(ticks),
        ttl_tenths: heartbeat.map_or(0, ttl_tenths),
    };
    let cause = {
        let mut reading = pin!(inbox.fill(&mut reader));
        let mut writing = pin!(outbox.empty(&mut write_half));
        tokio::select! {
            cause = &mut reading => cause,
            cause = &mut writing => {
                // A peer that has gone cannot be written to, but what it said before is still read.
                if matches!(cause, Cause::Io { .. }) {
                    timeout(config.linger, &mut reading).await.ok();
                }
                cause
            }
            _ = &mut closed => {
                timeout(config.linger, &mut writing).await.ok();
                Cause::Local
            }
        }
    };
    if matches!(cause, Cause::Local) {
        timeout(config.linger, part(&mut reader, &mut write_half))
            .await
            .ok();
    }
    cause
}

/// Ends the stream in order: what was written arrives although the peer may still be sending.
async fn part<S: AsyncRead + AsyncWrite>(reader: &mut Reader<S>, writer: &mut WriteHalf<S>) {
    if writer.shutdown().await.is_ok() {
        while let Ok(1..) = reader.half.read(&mut reader.buffer).await {}
    }
}

fn ticks(heartbeat: Heartbeat) -> Interval {
    let mut ticks = interval_at(Instant::now() + heartbeat.interval, heartbeat.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn ttl_tenths(heartbeat: Heartbeat) -> u16 {
    let silence = heartbeat.interval + heartbeat.timeout;
    u16::try_from(silence.as_millis() / 100).unwrap_or(u16::MAX)
}

/// The stream's reading half with the codec behind it.
struct Reader<S> {
    half: ReadHalf<S>,
    codec: Connection,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<S: AsyncRead> Reader<S> {
    fn new(half: ReadHalf<S>, config: &Config) -> Self {
        Self {
            half,
            codec: Connection::new(config.limits),
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// The next thing that the peer says; `silence` is how long it may say nothing.
    async fn next(&mut self, silence: Option<Duration>) -> Result<Incoming, Cause> {
        loop {
            let mut input = self.buffer.get(self.start..self.end).unwrap_or_default();
            let incoming = self.codec.receive(&mut input);
            self.start = self.end - input.len();
            if let Some(incoming) = incoming? {
                return Ok(incoming);
            }
            let read = self.half.read(&mut self.buffer);
            let count = match silence {
                Some(limit) => timeout(limit, read)
                    .await
                    .map_err(|_| Cause::Silent { limit })??,
                None => read.await?,
            };
            if count == 0 {
                return Err(Cause::PeerClosed);
            }
            (self.start, self.end) = (0, count);
        }
    }
}

/// From the peer to the owner.
struct Inbox {
    id: ConnectionId,
    events: mpsc::Sender<TaskEvent>,
    control: mpsc::Sender<Vec<u8>>,
    room: Arc<Semaphore>,
    bytes: usize,
    silence: Option<Duration>,
}

impl Inbox {
    async fn fill<S: AsyncRead>(self, reader: &mut Reader<S>) -> Cause {
        loop {
            match reader.next(self.silence).await {
                Ok(Incoming::Message(parts)) => {
                    if self.hand_over(parts).await.is_none() {
                        return Cause::Local;
                    }
                }
                Ok(Incoming::Ping) => {
                    let answer = reader.codec.take_outgoing();
                    if self.control.send(answer).await.is_err() {
                        return Cause::Local;
                    }
                }
                Ok(Incoming::Pong | Incoming::Ready(_)) => {}
                Err(cause) => return cause,
            }
        }
    }

    /// Waits until the owner has room for the message; nothing once the owner is gone.
    async fn hand_over(&self, parts: Vec<Bytes>) -> Option<()> {
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        let least = self.bytes / INBOX_MESSAGES;
        let cost = u32::try_from(bytes.max(least).min(self.bytes)).ok()?;
        let room = Arc::clone(&self.room);
        let event = TaskEvent::Message {
            id: self.id,
            parts,
            _room: room.acquire_many_owned(cost).await.ok()?,
        };
        self.events.send(event).await.ok()
    }
}

/// From the owner to the peer.
struct Outbox {
    id: ConnectionId,
    queue: mpsc::Receiver<Vec<Bytes>>,
    controls: mpsc::Receiver<Vec<u8>>,
    gauge: Arc<Gauge>,
    events: mpsc::Sender<TaskEvent>,
    low: usize,
    ticks: Option<Interval>,
    ttl_tenths: u16,
}

impl Outbox {
    /// Writes until the owner has closed the queue and all of it is written.
    async fn empty<S: AsyncWrite>(mut self, writer: &mut WriteHalf<S>) -> Cause {
        let mut buffer = Vec::new();
        loop {
            let taken = tokio::select! {
                biased;
                Some(answer) = self.controls.recv() => {
                    buffer.extend_from_slice(&answer);
                    0
                }
                message = self.queue.recv() => match message {
                    Some(parts) => self.batch(parts, &mut buffer),
                    None => return Cause::Local,
                },
                () = tick(self.ticks.as_mut()) => {
                    encode_ping(self.ttl_tenths, &mut buffer);
                    0
                }
            };
            if let Err(source) = write(writer, &buffer).await {
                return Cause::Io { source };
            }
            buffer.clear();
            buffer.shrink_to(KEEP_BYTES);
            self.gauge.bytes.fetch_sub(taken, Ordering::Relaxed);
            if self.queue.len() <= self.low
                && self.gauge.full.swap(false, Ordering::AcqRel)
                && self
                    .events
                    .send(TaskEvent::HalfEmpty(self.id))
                    .await
                    .is_err()
            {
                return Cause::Local;
            }
        }
    }

    /// Encodes a message and those that wait behind it; the bytes taken off the queue.
    fn batch(&mut self, first: Vec<Bytes>, buffer: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        let mut next = Some(first);
        while let Some(parts) = next {
            taken += parts.iter().map(Bytes::len).sum::<usize>();
            encode_message(&parts, buffer);
            next = if buffer.len() < BATCH_BYTES {
                self.queue.try_recv().ok()
            } else {
                None
            };
        }
        taken
    }
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, buffer: &[u8]) -> io::Result<()> {
    writer.write_all(buffer).await?;
    writer.flush().await
}

async fn tick(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}
