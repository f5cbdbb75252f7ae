//! Requests outlive their workers: when a link ends, what it held goes elsewhere with the tokens that clients have.

use crate::action::{Action, FenceReason};
use crate::counters::LostReason;
use crate::error::Failure;
use crate::event::GoneCause;
use crate::ids::{Epoch, RequestId, WorkerId};
use crate::queue::Place;
use crate::scheduler::Scheduler;
use crate::time::Time;
use crate::timers::Timer;
use crate::tracked::Location;
use crate::worker::Link;

/// Epochs of closed links that are remembered, so that a late READY opens none of them again.
const CLOSED_EPOCHS: usize = 256;

impl Scheduler {
    /// The operating system or a Bye said that a link or a process is gone.
    pub(crate) fn gone(
        &mut self,
        worker_id: WorkerId,
        epoch: Option<Epoch>,
        cause: GoneCause,
        now: Time,
    ) {
        let live = self
            .workers
            .get(&worker_id)
            .and_then(|worker| worker.link.as_ref())
            .map(|link| link.epoch);
        let has_process_end = matches!(cause, GoneCause::Exited(_) | GoneCause::Signalled(_));
        let is_live_one = live.is_some() && (epoch == live || epoch.is_none() && has_process_end);
        if is_live_one {
            self.end_link(worker_id, cause.into(), now);
        } else if live.is_some() {
            return; // About an earlier link, of which we know already.
        }
        if has_process_end {
            self.process_ended(worker_id, cause, now);
        }
    }

    /// Cuts a worker off and resumes what it held.
    pub(crate) fn fence(&mut self, worker_id: WorkerId, reason: FenceReason, now: Time) {
        let Some(link) = self
            .workers
            .get(&worker_id)
            .and_then(|worker| worker.link.as_ref())
        else {
            return;
        };
        self.actions.push_back(Action::Fence {
            worker: worker_id,
            epoch: link.epoch,
            reason,
        });
        self.end_link(worker_id, reason.into(), now);
    }

    /// The link is over, whoever ended it.
    fn end_link(&mut self, worker_id: WorkerId, reason: LostReason, now: Time) {
        let Some(worker) = self.workers.get_mut(&worker_id) else {
            return;
        };
        let Some(link) = worker.link.take() else {
            return;
        };
        if now.since(link.ready_at) >= self.config.restart_reset {
            worker.backoff.reset(&self.config);
        }
        if worker.own {
            let at = link.liveness.last_heard + self.config.kill_after;
            self.timers.set(Timer::Kill(worker_id), at);
        } else {
            self.workers.remove(&worker_id);
        }
        self.watch(worker_id);
        self.close_epoch(link.epoch);
        self.counters.workers_lost.add(reason);
        self.limits_changed(now);
        self.resume_all(worker_id, &link, reason, now);
    }

    fn resume_all(&mut self, worker_id: WorkerId, link: &Link, reason: LostReason, now: Time) {
        for (request_id, slot) in &link.slots {
            let is_here = self
                .requests
                .get(request_id)
                .is_some_and(|request| request.is_placed_at(worker_id, link.epoch, slot.attempt));
            if is_here {
                self.resume(*request_id, reason, now);
            }
        }
    }

    /// A request has lost its worker.
    fn resume(&mut self, request_id: RequestId, reason: LostReason, now: Time) {
        let Some(request) = self.requests.get_mut(&request_id) else {
            return;
        };
        if request.crashes >= self.config.resume_limit {
            let resumes = request.crashes;
            return self.end(request_id, Failure::ResumeLimit { resumes });
        }
        request.crashes += 1;
        self.counters.resumes.add(reason);
        self.counters.tokens_recomputed +=
            request.request.prompt().len() as u64 + request.history.len() as u64;
        self.wait_again(request_id, now);
    }

    /// A worker that lives had no room for it.
    pub(crate) fn move_elsewhere(&mut self, request_id: RequestId, now: Time) {
        if let Some(request) = self.requests.get_mut(&request_id) {
            request.moves = request.moves.saturating_add(1);
            self.counters.refused_elsewhere += 1;
        }
        self.wait_again(request_id, now);
    }

    /// To the head of its class with its original arrival time. It was admitted once and is never refused.
    fn wait_again(&mut self, request_id: RequestId, now: Time) {
        let Some(request) = self.requests.get_mut(&request_id) else {
            return;
        };
        let place = Place::again(request.request.arrival(), request.sequence);
        request.location = Location::Queued(place);
        self.enqueue(request_id, now);
    }

    pub(crate) fn close_epoch(&mut self, epoch: Epoch) {
        if self.closed_epochs.len() == CLOSED_EPOCHS {
            self.closed_epochs.pop_front();
        }
        self.closed_epochs.push_back(epoch);
    }
}
