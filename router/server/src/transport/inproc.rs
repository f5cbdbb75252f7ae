//! A link within this process: the fleet can be tested without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slackwater_wire::Frames;
use tokio::sync::mpsc;

use super::{Cause, LinkError, LinkEvent, LinkId, SendError, WorkerLink};

/// Events that may wait for the router's side.
const EVENTS: usize = 1_024;

enum Word {
    Connected(LinkId, mpsc::Sender<Frames>),
    Message(LinkId, Frames),
    Closed(LinkId),
}

/// The router's side.
pub struct InprocLink {
    words: mpsc::Receiver<Word>,
    peers: BTreeMap<LinkId, mpsc::Sender<Frames>>,
}

/// Where workers connect to.
#[derive(Debug, Clone)]
pub struct InprocHub {
    words: mpsc::Sender<Word>,
    last_id: Arc<AtomicU64>,
    queue: usize,
}

/// A worker's side of one connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct InprocPeer {
    id: LinkId,
    words: mpsc::Sender<Word>,
    frames: mpsc::Receiver<Frames>,
    last_word: Option<mpsc::OwnedPermit<Word>>,
}

/// The peer's other side is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the router's side is gone")]
pub struct RouterGone;

/// A link and the hub that workers connect to; `queue` messages may wait for each worker.
pub fn link(queue: usize) -> (InprocLink, InprocHub) {
    let (words, receiver) = mpsc::channel(EVENTS);
    let link = InprocLink {
        words: receiver,
        peers: BTreeMap::new(),
    };
    let hub = InprocHub {
        words,
        last_id: Arc::new(AtomicU64::new(0)),
        queue,
    };
    (link, hub)
}

impl InprocHub {
    /// Connects a worker.
    ///
    /// # Errors
    /// [`RouterGone`].
    pub async fn connect(&self) -> Result<InprocPeer, RouterGone> {
        let id = LinkId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, frames) = mpsc::channel(self.queue);
        let words = self.words.clone();
        let connected = Word::Connected(id, sender);
        words.send(connected).await.map_err(|_| RouterGone)?;
        let last_word = words.clone().reserve_owned().await;
        Ok(InprocPeer {
            id,
            words,
            frames,
            last_word: Some(last_word.map_err(|_| RouterGone)?),
        })
    }
}

impl InprocPeer {
    /// Sends a message.
    ///
    /// # Errors
    /// [`RouterGone`].
    pub async fn send(&self, frames: Frames) -> Result<(), RouterGone> {
        let word = Word::Message(self.id, frames);
        self.words.send(word).await.map_err(|_| RouterGone)
    }

    /// The next message; nothing once the router has closed the link.
    pub async fn recv(&mut self) -> Option<Frames> {
        self.frames.recv().await
    }
}

impl Drop for InprocPeer {
    fn drop(&mut self) {
        if let Some(permit) = self.last_word.take() {
            permit.send(Word::Closed(self.id));
        }
    }
}

impl WorkerLink for InprocLink {
    async fn recv(&mut self) -> Result<LinkEvent, LinkError> {
        loop {
            match self.words.recv().await.ok_or(LinkError::Ended)? {
                Word::Connected(id, sender) => {
                    self.peers.insert(id, sender);
                    return Ok(LinkEvent::Connected(id));
                }
                Word::Message(id, frames) if self.peers.contains_key(&id) => {
                    return Ok(LinkEvent::Message(id, frames));
                }
                Word::Closed(id) if self.peers.remove(&id).is_some() => {
                    return Ok(LinkEvent::Closed(id, Cause::PeerClosed));
                }
                Word::Message(..) | Word::Closed(_) => {} // Closed on this side before.
            }
        }
    }

    fn try_send(&mut self, link: LinkId, frames: Frames) -> Result<(), SendError> {
        let peer = self.peers.get(&link).ok_or(SendError::Gone)?;
        match peer.try_send(frames) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError::Gone),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.peers.remove(&link);
                Err(SendError::Full)
            }
        }
    }

    fn close(&mut self, link: LinkId) {
        self.peers.remove(&link);
    }

    async fn finish(&mut self) {
        self.peers.clear();
    }
}
