//! What the core knows about a worker: the process that may outlive its links, and the one link that may be live.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::event::Capabilities;
use crate::ids::{Epoch, RequestId, WorkerId};
use crate::liveness::Liveness;
use crate::restart::Backoff;
use crate::scheduler::Scheduler;
use crate::time::Time;

/// A request's hold on one of the worker's slots, from the placement to the worker's last word on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The attempt that holds it.
    pub(crate) attempt: u32,
    /// Whether the worker has output anything for it: then it cannot be refused any more.
    pub(crate) has_output: bool,
}

/// One connection. Goes as a whole: whatever ends it ends every hold on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) epoch: Epoch,
    /// Of the last message that was accepted.
    pub(crate) seq: u64,
    pub(crate) capabilities: Capabilities,
    pub(crate) ready_at: Time,
    pub(crate) liveness: Liveness,
    /// The link's queue passed its mark and is not yet half empty.
    pub(crate) over_mark: bool,
    /// It had no room for a request; until it says something that may have changed that.
    pub(crate) no_room: bool,
    /// It was told to finish and end.
    pub(crate) draining: bool,
    pub(crate) slots: BTreeMap<RequestId, Slot>,
}

impl Link {
    pub(crate) fn in_flight(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Gives a slot back. The worker has room for something now.
    pub(crate) fn release(&mut self, request_id: RequestId) {
        self.slots.remove(&request_id);
        self.no_room = false;
    }

    /// Whether it may be given new work, room apart.
    pub(crate) fn is_ready(&self, config: &Config, now: Time) -> bool {
        !self.draining && !self.over_mark && !self.liveness.is_suspect(config, now)
    }

    /// Whether it has room as well.
    pub(crate) fn has_room(&self, config: &Config, now: Time) -> bool {
        self.is_ready(config, now) && !self.no_room && self.in_flight() < self.capabilities.slots
    }
}

/// A worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Order of joining, which breaks ties.
    pub(crate) sequence: u64,
    /// Whether this server started it, and so may restart it. One that is not is forgotten with its link.
    pub(crate) own: bool,
    pub(crate) backoff: Backoff,
    /// When its next process starts; past or none where one should be alive.
    pub(crate) starts_at: Option<Time>,
    pub(crate) link: Option<Link>,
}

/// State of a worker in one word, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkerState {
    /// Can be given work.
    Ready,
    /// Has a live link but gets no new work for now.
    Suspect,
    /// Finishes what it has.
    Draining,
    /// Has no live link.
    Lost,
}

impl WorkerState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Suspect, Self::Draining, Self::Lost];

    /// The word for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Lost => "lost",
        }
    }
}

/// A worker as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerView {
    /// The worker.
    pub worker: WorkerId,
    /// Its live link, if it has one.
    pub epoch: Option<Epoch>,
    /// Its state.
    pub state: WorkerState,
    /// Slots that are held.
    pub in_flight: u32,
    /// Slots that it has; 0 without a live link.
    pub slots: u32,
}

impl WorkerView {
    pub(crate) fn of(worker_id: WorkerId, worker: &Worker) -> Self {
        let link = worker.link.as_ref();
        let state = match link {
            None => WorkerState::Lost,
            Some(link) if link.draining => WorkerState::Draining,
            Some(link) if link.over_mark || link.liveness.silent => WorkerState::Suspect,
            Some(_) => WorkerState::Ready,
        };
        Self {
            worker: worker_id,
            epoch: link.map(|link| link.epoch),
            state,
            in_flight: link.map_or(0, Link::in_flight),
            slots: link.map_or(0, |link| link.capabilities.slots),
        }
    }
}

impl Scheduler {
    /// The worker's entry, made if this is the first that is heard of it.
    pub(crate) fn known_worker(&mut self, worker_id: WorkerId, own: bool) -> &mut Worker {
        let sequence = self.next_sequence;
        let backoff = Backoff::new(&self.config);
        let worker = self.workers.entry(worker_id).or_insert_with(|| Worker {
            sequence,
            own,
            backoff,
            starts_at: None,
            link: None,
        });
        if worker.sequence == sequence {
            self.next_sequence += 1;
        }
        worker
    }

    /// The live link of a worker, if its epoch is this one.
    pub(crate) fn link_mut(&mut self, worker_id: WorkerId, epoch: Epoch) -> Option<&mut Link> {
        let link = self.workers.get_mut(&worker_id)?.link.as_mut()?;
        (link.epoch == epoch).then_some(link)
    }
}
