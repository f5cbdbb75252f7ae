//! The ROUTER socket: accepts connections, owns their tasks, and gives its owner one stream of events.
//!
//! Sending never waits: a message is queued for its connection or refused. Each connection has its own queue and its
//! own room for what it has said and the owner has not yet taken, so that no peer delays another.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::connection::{self, Cause, Ends, Gauge, TaskEvent};
use crate::error::ZmtpError;
use crate::frame::check_message;
use crate::limits::Limits;
use crate::listener::Listener;

/// Events of all connections that may wait for the owner; each connection's own part is bounded apart from this.
const EVENTS: usize = 1_024;

/// Settings of a [`Router`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What one peer may make this side hold.
    pub limits: Limits,
    /// Time for greeting and READY.
    pub handshake: Duration,
    /// Handshakes at once; the oldest is dropped for a newer one.
    pub max_pending: usize,
    /// Connections at once, those that are ending included; beyond it none is accepted.
    pub max_connections: usize,
    /// Messages that may wait to be written to one peer. The next one closes the connection.
    pub queue: usize,
    /// Waiting messages at which [`Event::Full`] is raised; it is taken back at half of this.
    pub queue_mark: usize,
    /// Bytes that may wait to be written to one peer.
    pub queue_bytes: usize,
    /// Bytes that one peer may have said and the owner has not taken.
    pub inbox_bytes: usize,
    /// Time for the last words of a connection that this side closes.
    pub linger: Duration,
    /// PINGs of this side; none by default.
    pub heartbeat: Option<Heartbeat>,
    /// Pause after the operating system refused to accept.
    pub accept_retry: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            handshake: Duration::from_secs(5),
            max_pending: 64,
            max_connections: 256,
            queue: 512,
            queue_mark: 256,
            queue_bytes: 64 * 1024 * 1024,
            inbox_bytes: 32 * 1024 * 1024,
            linger: Duration::from_secs(1),
            heartbeat: None,
            accept_retry: Duration::from_millis(100),
        }
    }
}

/// PINGs of this side, to peers that know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often a PING is sent.
    pub interval: Duration,
    /// How long after it something must have come.
    pub timeout: Duration,
}

/// A connection; never used again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A handshake is done.
    Connected(ConnectionId),
    /// A whole message.
    Message(ConnectionId, Vec<Bytes>),
    /// The queue to a peer passed its mark, or is half empty again.
    Full(ConnectionId, bool),
    /// A connection ended that this side did not close.
    Closed(ConnectionId, Cause),
    /// A connection ended before its handshake was done.
    Refused(Cause),
}

/// A fault of the endpoint itself. It goes on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The operating system refused a new connection.
    #[error("cannot accept a connection: {source}")]
    Accept {
        /// What it said.
        source: io::Error,
    },
}

/// Why a message was not queued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full; the connection is closed, for no message may be left out.
    #[error("the queue to the peer is full")]
    Full,
    /// There is no such connection any more.
    #[error("the connection has ended")]
    Gone,
    /// The message is over a limit.
    #[error("{error}")]
    Invalid {
        /// Which.
        #[from]
        error: ZmtpError,
    },
}

/// The owner's ends of a connection.
struct Entry {
    queue: mpsc::Sender<Vec<Bytes>>,
    gauge: Arc<Gauge>,
    ready: bool,
    /// Dropped with the entry, which tells the task.
    _close: oneshot::Sender<()>,
}

/// A ROUTER socket over any listener. Dropping it ends all its tasks at once.
pub struct Router<L: Listener> {
    listener: L,
    config: Arc<Config>,
    last_id: u64,
    entries: BTreeMap<ConnectionId, Entry>,
    tasks: JoinSet<(ConnectionId, Cause)>,
    ids: HashMap<task::Id, ConnectionId>,
    events: mpsc::Receiver<TaskEvent>,
    sender: mpsc::Sender<TaskEvent>,
    notices: VecDeque<Event>,
    paused_until: Option<Instant>,
}

impl<L: Listener> Router<L> {
    /// A socket that accepts while [`Router::recv`] is awaited. Needs a tokio runtime with time and IO.
    pub fn new(listener: L, config: Config) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        Self {
            listener,
            config: Arc::new(config),
            last_id: 0,
            entries: BTreeMap::new(),
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            events,
            sender,
            notices: VecDeque::new(),
            paused_until: None,
        }
    }

    /// The next event. May be dropped at any await without losing one.
    ///
    /// # Errors
    /// [`EndpointError::Accept`]; the next call goes on, after a pause of `accept_retry` for new connections.
    pub async fn recv(&mut self) -> Result<Event, EndpointError> {
        loop {
            if let Some(event) = self.notices.pop_front() {
                return Ok(event);
            }
            let paused_until = self.paused_until;
            let has_room = self.tasks.len() < self.config.max_connections;
            let accepts = has_room && paused_until.is_none() && !self.events.is_closed();
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.note(event),
                Some(ended) = self.tasks.join_next_with_id() => self.note_end(ended),
                () = pause(paused_until), if paused_until.is_some() => self.paused_until = None,
                stream = self.listener.accept(), if accepts => match stream {
                    Ok(stream) => self.open(stream),
                    Err(source) => {
                        self.paused_until = Some(Instant::now() + self.config.accept_retry);
                        return Err(EndpointError::Accept { source });
                    }
                },
                else => std::future::pending().await, // After `finish` nothing happens any more.
            }
        }
    }

    /// Queues a message or refuses it; never waits. `Ok` says nothing about its arrival.
    ///
    /// # Errors
    /// [`SendError::Full`], after which the connection is closed and gives no more events; [`SendError::Gone`];
    /// [`SendError::Invalid`] where the message is over a limit.
    pub fn try_send(&mut self, id: ConnectionId, parts: Vec<Bytes>) -> Result<(), SendError> {
        let entry = self.entries.get(&id).ok_or(SendError::Gone)?;
        let bytes = check_message(&parts, &self.config.limits)?;
        let gauge = &entry.gauge;
        let depth = entry.queue.max_capacity() - entry.queue.capacity() + 1;
        // Raised before the message is queued, so that the task, which takes it off, sees the mark.
        if depth >= self.config.queue_mark && !gauge.full.swap(true, Ordering::AcqRel) {
            self.notices.push_back(Event::Full(id, true));
        }
        let queued = gauge.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if queued > self.config.queue_bytes {
            self.close(id);
            return Err(SendError::Full);
        }
        match entry.queue.try_send(parts) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.close(id);
                Err(SendError::Full)
            }
            // The task has ended; the event that says so is on its way.
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError::Gone),
        }
    }

    /// Closes a connection once what is queued has been written, or after `linger`. No event of it follows.
    pub fn close(&mut self, id: ConnectionId) {
        self.entries.remove(&id);
        self.notices.retain(|event| event.connection() != Some(id));
    }

    /// Closes all connections and waits until what is queued has been written, at most twice `linger`.
    pub async fn finish(&mut self) {
        self.entries.clear();
        self.notices.clear();
        self.events.close();
        while self.tasks.join_next().await.is_some() {}
    }

    fn open(&mut self, stream: L::Stream) {
        let mut pending = self.entries.iter().filter(|(_, entry)| !entry.ready);
        let oldest = pending.next().map(|(id, _)| *id);
        let limit = self.config.max_pending;
        if let Some(oldest) = oldest
            && 1 + pending.count() >= limit
        {
            self.entries.remove(&oldest);
            self.notices
                .push_back(Event::Refused(Cause::Crowded { limit }));
        }
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let (queue, queued) = mpsc::channel(self.config.queue.max(1));
        let (close, closed) = oneshot::channel();
        let gauge = Arc::new(Gauge::default());
        let ends = Ends {
            id,
            config: Arc::clone(&self.config),
            queue: queued,
            gauge: Arc::clone(&gauge),
            events: self.sender.clone(),
            closed,
        };
        let task = self.tasks.spawn(connection::run(stream, ends));
        self.ids.insert(task.id(), id);
        let entry = Entry {
            queue,
            gauge,
            ready: false,
            _close: close,
        };
        self.entries.insert(id, entry);
    }

    fn note(&mut self, event: TaskEvent) {
        let (id, event) = match event {
            TaskEvent::Ready(id) => (id, Event::Connected(id)),
            TaskEvent::Message { id, parts, .. } => (id, Event::Message(id, parts)),
            TaskEvent::HalfEmpty(id) => (id, Event::Full(id, false)),
        };
        // A connection that this side closed says nothing any more.
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.ready |= matches!(event, Event::Connected(_));
            self.notices.push_back(event);
        }
    }

    fn note_end(&mut self, ended: Result<(task::Id, (ConnectionId, Cause)), JoinError>) {
        let (task, cause) = match ended {
            Ok((task, (_, cause))) => (task, cause),
            Err(error) => (error.id(), Cause::Task),
        };
        // What the connection said before its end comes before the news of its end.
        for _ in 0..self.events.len() {
            if let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
        }
        if let Some(id) = self.ids.remove(&task)
            && let Some(entry) = self.entries.remove(&id)
        {
            self.notices.push_back(if entry.ready {
                Event::Closed(id, cause)
            } else {
                Event::Refused(cause)
            });
        }
    }
}

impl Event {
    /// The connection that it is about.
    pub const fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connected(id)
            | Self::Message(id, _)
            | Self::Full(id, _)
            | Self::Closed(id, _) => Some(*id),
            Self::Refused(_) => None,
        }
    }
}

async fn pause(until: Option<Instant>) {
    if let Some(until) = until {
        sleep_until(until).await;
    }
}
