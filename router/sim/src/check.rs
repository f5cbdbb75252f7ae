//! The safety checks. They see each event before the core does and each action that follows, and keep books of their
//! own; whatever the core does that the books do not allow is a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slackwater_core::{
    Config, Ending, Epoch, Event, GoneCause, Origin, Output, Request, RequestId, Scheduler, Time,
    WorkerId,
};

use crate::ledger::{LinkLedger, RequestLedger};
use crate::oracle::Oracle;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Time,
    /// Which promise.
    pub rule: &'static str,
    /// What was seen.
    pub detail: String,
}

/// What made the core act.
#[derive(Debug, Default)]
pub(crate) struct Cause {
    /// Link that a message came on.
    pub(crate) origin: Option<Origin>,
    /// Whether it was the live link's next message.
    pub(crate) is_next: bool,
    /// What it carried.
    pub(crate) outputs: Vec<Output>,
    /// A READY of this worker.
    pub(crate) ready: Option<WorkerId>,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) config: Config,
    pub(crate) oracle: Oracle,
    pub(crate) requests: BTreeMap<RequestId, RequestLedger>,
    /// Live links only.
    pub(crate) links: BTreeMap<Epoch, LinkLedger>,
    /// Every epoch that was ever opened.
    pub(crate) epochs: BTreeSet<Epoch>,
    /// Links on which a rule was broken on purpose.
    pub(crate) guilty: BTreeSet<Epoch>,
    pub(crate) is_draining: bool,
    /// When the router stood still, and for how long.
    pub(crate) pauses: Vec<(Time, Duration)>,
    pub(crate) violations: Vec<Violation>,
}

impl Checker {
    pub(crate) const fn new(config: Config, oracle: Oracle) -> Self {
        Self {
            config,
            oracle,
            requests: BTreeMap::new(),
            links: BTreeMap::new(),
            epochs: BTreeSet::new(),
            guilty: BTreeSet::new(),
            is_draining: false,
            pauses: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Books a broken promise.
    pub(crate) fn broken(&mut self, rule: &'static str, detail: String, now: Time) {
        self.violations.push(Violation {
            at: now,
            rule,
            detail,
        });
    }

    /// A request is on its way to the core.
    pub(crate) fn open(&mut self, request: Request) {
        let (answer, ending) = self.oracle.answer(&request);
        let request_id = request.request_id();
        let ledger = RequestLedger::new(request, answer, ending);
        self.requests.insert(request_id, ledger);
    }

    /// Before the core sees an event.
    pub(crate) fn event(&mut self, event: &Event, now: Time) -> Cause {
        match event {
            Event::WorkerReady {
                origin,
                capabilities,
            } => {
                let ready = Some(origin.worker);
                if origin.seq == 1 && self.epochs.insert(origin.epoch) {
                    let link = LinkLedger {
                        worker: origin.worker,
                        slots: capabilities.slots,
                        max_model_len: capabilities.max_model_len,
                        seq: 1,
                        heard: now,
                        is_full: false,
                        is_draining: false,
                        is_busy: false,
                        progress: 0,
                        moved: now,
                        held: BTreeSet::new(),
                        placements: 0,
                        cancelled: BTreeSet::new(),
                    };
                    self.links.insert(origin.epoch, link);
                }
                Cause {
                    ready,
                    ..Cause::default()
                }
            }
            Event::WorkerOutputs {
                origin,
                step_micros,
                outputs,
            } => self.outputs(*origin, *step_micros, outputs, now),
            Event::WorkerRefused {
                origin,
                request_id,
                attempt,
                ..
            } => {
                let cause = self.message(*origin, now);
                self.released(*origin, *request_id, *attempt, cause.is_next);
                if cause.is_next {
                    self.left(*request_id, *attempt);
                }
                cause
            }
            Event::Heartbeat {
                origin,
                progress,
                busy,
            } => self.heartbeat(*origin, *progress, *busy, now),
            Event::WorkerAccepted { origin, .. }
            | Event::WorkerStats { origin }
            | Event::WorkerBlocks { origin } => self.message(*origin, now),
            _ => {
                self.other(event);
                Cause::default()
            }
        }
    }

    fn other(&mut self, event: &Event) {
        match event {
            Event::WorkerGone {
                worker,
                epoch,
                cause,
            } => {
                let is_process = !matches!(cause, GoneCause::LinkClosed | GoneCause::Bye);
                let gone = epoch.or_else(|| is_process.then(|| self.live(*worker)).flatten());
                if let Some(epoch) = gone {
                    self.close(epoch);
                }
            }
            Event::LinkFull { epoch, full, .. } => {
                if let Some(link) = self.links.get_mut(epoch) {
                    link.is_full = *full;
                }
            }
            Event::StreamTaken { request_id, up_to } => {
                if let Some(ledger) = self.requests.get_mut(request_id) {
                    ledger.taken = ledger.taken.max((*up_to).min(ledger.emitted()));
                }
            }
            Event::ClientGone { request_id } => {
                if let Some(ledger) = self.requests.get_mut(request_id) {
                    ledger.has_hung_up = true;
                }
            }
            Event::Operator(_) => self.is_draining = true,
            _ => {}
        }
    }

    fn message(&mut self, origin: Origin, now: Time) -> Cause {
        let is_next = match self.links.get_mut(&origin.epoch) {
            Some(link) if link.seq + 1 == origin.seq && link.worker == origin.worker => {
                link.seq = origin.seq;
                link.heard = now;
                true
            }
            _ => false,
        };
        Cause {
            origin: Some(origin),
            is_next,
            ..Cause::default()
        }
    }

    fn heartbeat(&mut self, origin: Origin, progress: u64, is_busy: bool, now: Time) -> Cause {
        let cause = self.message(origin, now);
        if cause.is_next
            && let Some(link) = self.links.get_mut(&origin.epoch)
        {
            if progress != link.progress || !link.is_busy {
                link.moved = now;
            }
            link.progress = progress;
            link.is_busy = is_busy;
        }
        cause
    }

    fn outputs(&mut self, origin: Origin, micros: u64, outputs: &[Output], now: Time) -> Cause {
        let mut cause = self.message(origin, now);
        cause.outputs = outputs.to_vec();
        if micros > 0
            && cause.is_next
            && let Some(link) = self.links.get_mut(&origin.epoch)
        {
            link.moved = now;
        }
        for output in outputs.iter().filter(|_| cause.is_next) {
            if let Some(ledger) = self.requests.get_mut(&output.request_id)
                && ledger.placed == Some((origin.worker, origin.epoch))
                && ledger.attempt == output.attempt
            {
                ledger.has_output = true;
            }
        }
        for output in outputs.iter().filter(|output| output.finish.is_some()) {
            self.released(origin, output.request_id, output.attempt, cause.is_next);
        }
        cause
    }

    fn released(&mut self, origin: Origin, request_id: RequestId, attempt: u32, is_next: bool) {
        if is_next && let Some(link) = self.links.get_mut(&origin.epoch) {
            link.held.remove(&(request_id, attempt));
        }
    }

    /// A worker has given a request back.
    fn left(&mut self, request_id: RequestId, attempt: u32) {
        if let Some(ledger) = self.requests.get_mut(&request_id)
            && ledger.attempt == attempt
            && !ledger.has_output
        {
            ledger.placed = None;
        }
    }

    /// The live link of a worker.
    pub(crate) fn live(&self, worker: WorkerId) -> Option<Epoch> {
        self.links
            .iter()
            .find(|(_, link)| link.worker == worker)
            .map(|(epoch, _)| *epoch)
    }

    /// A link is over, and with it every hold and every attempt on it.
    pub(crate) fn close(&mut self, epoch: Epoch) {
        if self.links.remove(&epoch).is_none() {
            return;
        }
        for ledger in self.requests.values_mut() {
            let is_here = ledger.placed.is_some_and(|(_, at)| at == epoch);
            if is_here && ledger.end.is_none() {
                ledger.placed = None;
                ledger.barren += 1;
            }
        }
    }

    /// After the core's last action for an event: its own books must agree.
    pub(crate) fn compare(&mut self, core: &Scheduler, cause: &Cause, now: Time) {
        let mut live = 0;
        for view in core.workers() {
            let Some(epoch) = view.epoch else { continue };
            live += 1;
            let held = self.links.get(&epoch).map(|link| link.held.len() as u64);
            if held != Some(u64::from(view.in_flight)) {
                let detail = format!("{view:?}, by the books {held:?} slots are held");
                self.broken("slots", detail, now);
            }
        }
        if live != self.links.len() {
            let detail = format!("the core has {live} live links, the books {:?}", self.links);
            self.broken("links", detail, now);
        }
        if let Some(origin) = cause.origin
            && !cause.is_next
            && self.links.contains_key(&origin.epoch)
        {
            let detail = format!("{origin:?} was not the next message and its link goes on");
            self.broken("sequence", detail, now);
        }
    }

    /// Whether an end is one that the books allow.
    pub(crate) fn is_earned(&self, ledger: &RequestLedger, ending: &Ending, now: Time) -> bool {
        use slackwater_core::Failure;
        match ending {
            Ending::Stop | Ending::Length => {
                *ending == ledger.ending && ledger.delivered == ledger.answer.len()
            }
            Ending::Cancelled => ledger.has_hung_up,
            Ending::Failed(Failure::QueueTimeout { .. }) => {
                ledger.submits == 0 && ledger.request.expiry().is_some_and(|at| at <= now)
            }
            Ending::Failed(Failure::NoWorker { .. }) => {
                let context = ledger.request.prompt().len() as u64
                    + u64::from(ledger.request.sampling().max_tokens.get());
                self.links
                    .values()
                    .all(|link| u64::from(link.max_model_len) < context)
            }
            Ending::Failed(Failure::ResumeLimit { resumes }) => {
                *resumes == self.config.resume_limit && ledger.barren > *resumes
            }
            Ending::Failed(Failure::Draining { .. }) => self.is_draining,
            Ending::Failed(Failure::QueueFull { .. }) => ledger.submits == 0,
            Ending::Failed(Failure::Refused { .. } | Failure::Worker { .. }) => false,
        }
    }
}
