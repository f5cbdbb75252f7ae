//! The core itself: events and moments in, actions out. What each event means is in the file of its concern.

use std::collections::{BTreeMap, VecDeque};

use crate::action::Action;
use crate::config::Config;
use crate::counters::Counters;
use crate::event::Event;
use crate::ids::{Epoch, RequestId, WorkerId};
use crate::placement::Fleet;
use crate::queue::WaitingQueue;
use crate::request::{Class, Limits};
use crate::time::Time;
use crate::timers::{Timer, Timers};
use crate::tracked::{RequestView, Tracked};
use crate::worker::{Slot, Worker, WorkerView};

/// Waiting requests of a class that are passed over in one look because no worker with room can take them.
const PASSED_OVER: usize = 64;

/// The policy of one router. Equal calls give equal actions.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: Config,
    /// Every request that has not ended.
    pub(crate) requests: BTreeMap<RequestId, Tracked>,
    pub(crate) queue: WaitingQueue,
    /// Own children for good, others while their link lives.
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) timers: Timers,
    /// Not yet polled.
    pub(crate) actions: VecDeque<Action>,
    pub(crate) counters: Counters,
    pub(crate) limits: Option<Limits>,
    /// The longest context that a live worker can take; 0 without one.
    pub(crate) longest_context: u64,
    /// When that last became less.
    pub(crate) shrunk_at: Time,
    pub(crate) closed_epochs: VecDeque<Epoch>,
    /// Of the next request or worker.
    pub(crate) next_sequence: u64,
    /// The operator is shutting down. There is no way back.
    pub(crate) draining: bool,
    /// When it was last told anything.
    pub(crate) called_at: Time,
}

impl Scheduler {
    /// A core without workers or requests.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            requests: BTreeMap::new(),
            queue: WaitingQueue::default(),
            workers: BTreeMap::new(),
            timers: Timers::default(),
            actions: VecDeque::new(),
            counters: Counters::default(),
            limits: None,
            longest_context: 0,
            shrunk_at: Time::ZERO,
            closed_epochs: VecDeque::new(),
            next_sequence: 0,
            draining: false,
            called_at: Time::ZERO,
        }
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Time) {
        self.notice_stall(now);
        match event {
            Event::RequestArrived(request) => self.arrive(request, now),
            Event::ClientGone { request_id } => self.client_gone(request_id),
            Event::StreamTaken { request_id, up_to } => self.stream_taken(request_id, up_to),
            Event::WorkerStarted { worker } => self.worker_started(worker, now),
            Event::WorkerReady {
                origin,
                capabilities,
            } => self.worker_ready(origin, capabilities, now),
            Event::WorkerAccepted {
                origin,
                request_id,
                attempt,
            } => self.accepted(origin, request_id, attempt, now),
            Event::WorkerRefused {
                origin,
                request_id,
                attempt,
                refusal,
            } => self.refused(origin, request_id, attempt, refusal, now),
            Event::WorkerOutputs {
                origin,
                step_micros,
                outputs,
            } => self.outputs(origin, step_micros, outputs, now),
            Event::WorkerStats { origin } | Event::WorkerBlocks { origin } => {
                self.accept(origin, now);
            }
            Event::Heartbeat {
                origin,
                progress,
                busy,
            } => self.heartbeat(origin, progress, busy, now),
            Event::WorkerViolation { worker, epoch } => self.codec_violation(worker, epoch, now),
            Event::LinkFull {
                worker,
                epoch,
                full,
            } => self.link_full(worker, epoch, full),
            Event::WorkerGone {
                worker,
                epoch,
                cause,
            } => self.gone(worker, epoch, cause, now),
            Event::Operator(command) => self.operator(command),
        }
        self.dispatch(now);
    }

    /// The next thing to do, in the order in which to do it.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next. Changes with every call.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.earliest()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.notice_stall(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Silence(worker) => self.silence(worker, now),
                Timer::Hung(worker) => self.hung(worker, now),
                Timer::Kill(worker) => self.kill(worker, now),
                Timer::Start(worker) => self.never_ready(worker, now),
                Timer::Expiry(request_id) => self.expire(request_id),
                Timer::NoWorker => self.no_worker(now),
            }
        }
        self.dispatch(now);
    }

    /// Matches waiting requests to workers: the one place that does.
    fn dispatch(&mut self, now: Time) {
        for class in Class::ALL {
            let mut place = None;
            let mut passed_over = 0;
            while passed_over < PASSED_OVER
                && self.fleet().has_room(now)
                && let Some((next, request_id)) = self.queue.after(class, place)
            {
                place = Some(next);
                if !self.try_place(request_id, now) {
                    passed_over += 1;
                }
            }
        }
        if self.draining && self.requests.is_empty() {
            self.drain_workers();
        }
    }

    /// Gives a waiting request to a worker, or ends it if it is too late to begin. False if it goes on waiting.
    fn try_place(&mut self, request_id: RequestId, now: Time) -> bool {
        let Some(request) = self.requests.get(&request_id) else {
            return false;
        };
        if request.patience_ends().is_some_and(|at| at <= now) {
            self.expire(request_id);
            return true;
        }
        let Some(worker_id) = self.fleet().select(request, |_| true, now) else {
            return false;
        };
        self.dequeue(request_id);
        let link = self
            .workers
            .get_mut(&worker_id)
            .and_then(|worker| worker.link.as_mut());
        let (Some(link), Some(request)) = (link, self.requests.get_mut(&request_id)) else {
            return false;
        };
        if let Some(numerics) = &request.numerics
            && *numerics != link.capabilities.numerics
        {
            self.counters.resumes_inexact += 1;
        }
        let is_first = !request.was_placed();
        let placement = request.place(worker_id, link.epoch, now);
        let slot = Slot {
            attempt: placement.attempt,
            has_output: false,
        };
        link.slots.insert(request_id, slot);
        self.actions.push_back(if is_first {
            Action::Submit(placement)
        } else {
            Action::Resume(placement)
        });
        true
    }

    /// Nothing will come any more: workers may end.
    fn drain_workers(&mut self) {
        for (worker_id, worker) in &mut self.workers {
            if let Some(link) = worker.link.as_mut().filter(|link| !link.draining) {
                link.draining = true;
                self.actions.push_back(Action::Drain {
                    worker: *worker_id,
                    epoch: link.epoch,
                });
            }
        }
    }

    fn fleet(&self) -> Fleet<'_> {
        Fleet {
            workers: &self.workers,
            config: &self.config,
        }
    }

    /// Workers that can be given work now, room apart.
    pub fn ready_workers(&self) -> usize {
        self.workers()
            .filter(|view| view.state == crate::WorkerState::Ready)
            .count()
    }

    /// What live workers can take, the largest of each; kept after the last one is gone, none before the first.
    pub const fn limits(&self) -> Option<Limits> {
        self.limits
    }

    /// Whether no request lives and no action waits.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.actions.is_empty()
    }

    /// Whether the operator is shutting down.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// What was counted so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Requests of a class that wait for a worker.
    pub fn queue_depth(&self, class: Class) -> usize {
        self.queue.len(class)
    }

    /// Requests that have not ended.
    pub fn live_requests(&self) -> usize {
        self.requests.len()
    }

    /// The known workers, by id.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> + '_ {
        self.workers
            .iter()
            .map(|(worker_id, worker)| WorkerView::of(*worker_id, worker))
    }

    /// A request that has not ended.
    pub fn request(&self, request_id: RequestId) -> Option<RequestView> {
        self.requests.get(&request_id).map(Tracked::view)
    }
}
