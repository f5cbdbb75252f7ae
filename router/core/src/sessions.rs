//! What clients and the operator want: arrivals, hang-ups, reading, shutting down. Also each way in and out of the queue.

use crate::action::{Action, Ending};
use crate::error::Failure;
use crate::event::Command;
use crate::ids::RequestId;
use crate::request::Request;
use crate::scheduler::Scheduler;
use crate::time::Time;
use crate::timers::Timer;
use crate::tracked::{Location, Tracked};

impl Scheduler {
    pub(crate) fn arrive(&mut self, request: Request, now: Time) {
        let request_id = request.request_id();
        let class = request.class();
        if self.requests.contains_key(&request_id) {
            self.counters.duplicate_arrivals += 1;
            return;
        }
        self.counters.arrivals += 1;
        let retry_after = self.config.retry_after;
        let refusal = if self.draining {
            Some(Failure::Draining { retry_after })
        } else if self.queue.len(class) >= self.config.queue_cap {
            Some(Failure::QueueFull { retry_after })
        } else {
            None
        };
        if let Some(failure) = refusal {
            return self.actions.push_back(Action::Reject {
                request_id,
                failure,
            });
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let tracked = Tracked::new(request, sequence, self.config.stream_credit);
        self.requests.insert(request_id, tracked);
        self.enqueue(request_id, now);
    }

    /// Puts a request at the place that its location names, and sets the timers of waiting.
    pub(crate) fn enqueue(&mut self, request_id: RequestId, now: Time) {
        let Some(request) = self.requests.get_mut(&request_id) else {
            return;
        };
        let Location::Queued(place) = request.location else {
            return;
        };
        request.queued_at = now;
        self.queue.push(request.request.class(), place, request_id);
        if let Some(expiry) = request.patience_ends() {
            self.timers.set(Timer::Expiry(request_id), expiry);
        }
        if request.context() > self.longest_context {
            let at = now + self.config.no_worker_wait;
            self.timers.set_earlier(Timer::NoWorker, at);
        }
    }

    /// Takes a request out of its queue, if it is in one.
    pub(crate) fn dequeue(&mut self, request_id: RequestId) {
        let Some(request) = self.requests.get(&request_id) else {
            return;
        };
        if let Location::Queued(place) = request.location {
            self.queue.remove(request.request.class(), place);
            self.timers.stop(Timer::Expiry(request_id));
        }
    }

    /// Ends a request by our own decision: a refusal if no worker ever had it, else a failure.
    pub(crate) fn end(&mut self, request_id: RequestId, failure: Failure) {
        let Some(request) = self.take_out(request_id) else {
            return;
        };
        self.actions.push_back(if request.was_placed() {
            Action::Finish {
                request_id,
                ending: Ending::Failed(failure),
            }
        } else {
            Action::Reject {
                request_id,
                failure,
            }
        });
    }

    /// Removes a request from everywhere. A worker that has it is told to stop; its slot is free at the worker's word.
    fn take_out(&mut self, request_id: RequestId) -> Option<Tracked> {
        self.dequeue(request_id);
        let request = self.requests.remove(&request_id)?;
        if let Location::Placed { worker, epoch } = request.location {
            let is_held = self
                .link_mut(worker, epoch)
                .and_then(|link| link.slots.get(&request_id))
                .is_some_and(|slot| slot.attempt == request.attempt);
            if is_held {
                self.actions.push_back(Action::Cancel {
                    worker,
                    epoch,
                    request_id,
                    attempt: request.attempt,
                });
            }
        }
        Some(request)
    }

    pub(crate) fn client_gone(&mut self, request_id: RequestId) {
        if self.take_out(request_id).is_some() {
            self.actions.push_back(Action::Finish {
                request_id,
                ending: Ending::Cancelled,
            });
        }
    }

    pub(crate) fn stream_taken(&mut self, request_id: RequestId, up_to: u32) {
        let Some(request) = self.requests.get_mut(&request_id) else {
            return;
        };
        let emitted = request.emitted();
        let granted = request.credit.take(up_to, emitted);
        if let (Some(up_to), Location::Placed { worker, epoch }) = (granted, request.location) {
            self.actions.push_back(Action::Credit {
                worker,
                epoch,
                request_id,
                attempt: request.attempt,
                up_to,
            });
        }
    }

    pub(crate) fn operator(&mut self, command: Command) {
        self.draining = true;
        match command {
            Command::Drain => {}
            Command::Abort => self.abort(),
        }
    }

    fn abort(&mut self) {
        let retry_after = self.config.retry_after;
        let live: Vec<RequestId> = self.requests.keys().copied().collect();
        for request_id in live {
            self.end(request_id, Failure::Draining { retry_after });
        }
    }

    /// No worker has begun in time.
    pub(crate) fn expire(&mut self, request_id: RequestId) {
        let retry_after = self.config.retry_after;
        self.end(request_id, Failure::QueueTimeout { retry_after });
    }

    /// Fails those that have waited long enough for a worker that can take them, and looks for the next one.
    pub(crate) fn no_worker(&mut self, now: Time) {
        let wait = self.config.no_worker_wait;
        let stranded = self
            .queue
            .iter()
            .filter_map(|request_id| self.requests.get(&request_id))
            .filter(|request| request.context() > self.longest_context)
            .map(|request| (request.queued_at.max(self.shrunk_at) + wait, request.id()));
        let (due, later): (Vec<_>, Vec<_>) = stranded.partition(|(at, _)| *at <= now);
        for (_, request_id) in due {
            self.end(request_id, Failure::NoWorker { retry_after: wait });
        }
        if let Some((at, _)) = later.into_iter().min() {
            self.timers.set(Timer::NoWorker, at);
        }
    }
}
