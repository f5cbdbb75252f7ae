//! A worker says READY: a new link, which takes the place of an older one of the same worker.

use crate::action::{Action, FenceReason};
use crate::counters::ViolationReason;
use crate::event::Capabilities;
use crate::ids::Origin;
use crate::liveness::Liveness;
use crate::placement::Fleet;
use crate::request::Limits;
use crate::scheduler::Scheduler;
use crate::time::Time;
use crate::timers::Timer;
use crate::worker::Link;

/// READY's place on its link.
const FIRST_SEQ: u64 = 1;

impl Scheduler {
    pub(crate) fn worker_ready(&mut self, origin: Origin, capabilities: Capabilities, now: Time) {
        let Origin { worker, epoch, seq } = origin;
        if self.closed_epochs.contains(&epoch) {
            self.counters.stale_messages += 1;
            return;
        }
        if self.link_mut(worker, epoch).is_some() {
            return self.violation(worker, ViolationReason::Ready, now);
        }
        if seq != FIRST_SEQ {
            // Not this worker's link yet: an older one is none the worse for it.
            self.counters
                .protocol_violations
                .add(ViolationReason::Ready);
            self.close_epoch(epoch);
            return self.actions.push_back(Action::Fence {
                worker,
                epoch,
                reason: FenceReason::Violation,
            });
        }
        self.fence(worker, FenceReason::Replaced, now);
        let entry = self.known_worker(worker, capabilities.own);
        entry.own = capabilities.own;
        entry.starts_at = None;
        entry.link = Some(Link {
            epoch,
            seq,
            capabilities,
            ready_at: now,
            liveness: Liveness::new(now),
            over_mark: false,
            no_room: false,
            draining: false,
            slots: std::collections::BTreeMap::new(),
        });
        self.timers.stop(Timer::Kill(worker));
        self.timers.stop(Timer::Start(worker));
        self.watch(worker);
        self.limits_changed(now);
    }

    /// A link came or went: what can be served may have changed.
    pub(crate) fn limits_changed(&mut self, now: Time) {
        let live = self
            .workers
            .values()
            .filter_map(|worker| worker.link.as_ref())
            .map(|link| &link.capabilities);
        let limits = live.fold(None, |limits: Option<Limits>, one| {
            let known = limits.unwrap_or(Limits {
                max_model_len: 0,
                vocab_size: 0,
            });
            Some(Limits {
                max_model_len: known.max_model_len.max(one.max_model_len),
                vocab_size: known.vocab_size.max(one.vocab_size),
            })
        });
        if limits.is_some() {
            self.limits = limits; // Kept after the last worker is gone: requests can still be checked.
        }
        let fleet = Fleet {
            workers: &self.workers,
            config: &self.config,
        };
        let longest_context = fleet.longest_context();
        if longest_context < self.longest_context {
            self.shrunk_at = now;
            if !self.queue.is_empty() {
                let at = now + self.config.no_worker_wait;
                self.timers.set_earlier(Timer::NoWorker, at);
            }
        }
        self.longest_context = longest_context;
    }
}
