//! All connections: how far each has come, what it is called, and when it must have come further.

use std::collections::{BTreeMap, BTreeSet};

use slackwater_core::{Epoch, WorkerId};
use tokio::time::Instant;

use super::LinkId;
use super::handshake::Admission;

/// How far a link has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connected; HELLO is due.
    Hello,
    /// Welcomed; READY is due.
    Ready,
    /// Known to the core.
    Live,
    /// Said something that cannot be read; the core is about to cut it off.
    Broken,
    /// Was told to finish; nothing more is sent.
    Leaving,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stage: Stage,
    /// Set once its HELLO was taken.
    pub(super) admission: Option<Admission>,
    /// Last number that was given to a message of ours.
    pub(super) seq: u64,
    due: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Roster {
    peers: BTreeMap<LinkId, Peer>,
    by_epoch: BTreeMap<Epoch, LinkId>,
    due: BTreeSet<(Instant, LinkId)>,
}

impl Roster {
    /// A connection begins; HELLO is due at this moment.
    pub(super) fn insert(&mut self, link: LinkId, due: Instant) {
        let peer = Peer {
            stage: Stage::Hello,
            admission: None,
            seq: 0,
            due: None,
        };
        self.peers.insert(link, peer);
        self.set_stage(link, Stage::Hello, Some(due));
    }

    pub(super) fn get(&self, link: LinkId) -> Option<&Peer> {
        self.peers.get(&link)
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Peer> {
        self.peers.get_mut(&link)
    }

    /// Its HELLO was taken; READY is due at this moment.
    pub(super) fn admit(&mut self, link: LinkId, admission: Admission, due: Instant) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.admission = Some(admission);
            self.by_epoch.insert(admission.epoch, link);
            self.set_stage(link, Stage::Ready, Some(due));
        }
    }

    /// It has come further; the next step is due at this moment, or never.
    pub(super) fn set_stage(&mut self, link: LinkId, stage: Stage, due: Option<Instant>) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.stage = stage;
            if let Some(old) = peer.due.take() {
                self.due.remove(&(old, link));
            }
            peer.due = due;
            self.due.extend(due.map(|due| (due, link)));
        }
    }

    /// It has ended.
    pub(super) fn remove(&mut self, link: LinkId) -> Option<Peer> {
        let peer = self.peers.remove(&link)?;
        if let Some(due) = peer.due {
            self.due.remove(&(due, link));
        }
        if let Some(admission) = &peer.admission {
            self.by_epoch.remove(&admission.epoch);
        }
        Some(peer)
    }

    /// The link of this worker with this epoch, while it lives.
    pub(super) fn find(&self, worker: WorkerId, epoch: Epoch) -> Option<LinkId> {
        let link = *self.by_epoch.get(&epoch)?;
        let admission = self.peers.get(&link)?.admission?;
        (admission.worker == worker).then_some(link)
    }

    /// All links for which this holds, oldest first.
    pub(super) fn links(&self, holds: impl Fn(&Peer) -> bool) -> Vec<LinkId> {
        let chosen = self.peers.iter().filter(|(_, peer)| holds(peer));
        chosen.map(|(link, _)| *link).collect()
    }

    /// When the next one must have come further.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// One that should have come further by now; it is not named again.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<LinkId> {
        let (due, link) = self.due.first().copied()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        Some(link)
    }
}
