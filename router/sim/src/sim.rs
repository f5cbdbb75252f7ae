//! The simulation: the very core that serves, simulated clients and workers around it, and one agenda for all of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use slackwater_core::{
    Command, Config, Epoch, Event, Limits, Request, RequestDraft, RequestId, Scheduler, Time,
    WorkerId,
};

use crate::check::{Cause, Checker, Violation};
use crate::client::{Client, HangUp, RequestSpec};
use crate::clock::Agenda;
use crate::digest::Digest;
use crate::engine::CostModel;
use crate::faults::Fault;
use crate::ledger::End;
use crate::net::{Down, Link, Up};
use crate::oracle::Oracle;
use crate::process::Process;
use crate::rng::Rng;

/// What decides everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

/// Longest virtual time that [`Sim::run_until`] waits for something.
const PATIENCE: Duration = Duration::from_mins(2);
/// Events and actions that a traced run keeps.
const TRACE: usize = 200;

/// Something to come.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Arrive(RequestSpec, RequestId),
    Read(RequestId),
    HangUp(RequestId),
    Tell(Box<Event>),
    ToRouter(Epoch, Up, u64),
    ToWorker(Epoch, Down),
    LinkEnds(Epoch),
    RouterTick(Epoch),
    Start(usize, u32),
    Connect(usize, u32),
    Tick(usize, u32),
    StepEnds(usize, u64),
    Thaw(usize, u32),
    Exited(usize, slackwater_core::GoneCause),
    Fault(usize, Fault),
    Pause(Duration),
    Wake,
}

/// How a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What its client was given.
    pub tokens: Vec<u32>,
    /// How it ended, if it has.
    pub end: Option<End>,
    /// Times that it was given to a worker.
    pub submits: u32,
}

/// A simulation.
#[derive(Debug)]
pub struct Sim {
    pub(crate) core: Scheduler,
    pub(crate) agenda: Agenda<Entry>,
    pub(crate) rng: Rng,
    pub(crate) config: Config,
    pub(crate) check: Checker,
    pub(crate) clients: BTreeMap<RequestId, Client>,
    pub(crate) processes: Vec<Process>,
    pub(crate) links: BTreeMap<Epoch, Link>,
    pub(crate) next_worker: u32,
    pub(crate) next_epoch: u64,
    /// Messages that workers sent on links that the router had closed.
    pub(crate) sent_on_closed: u64,
    /// Whether the end of a child that the core had killed is reported as well.
    pub(crate) echoes_kills: bool,
    /// What lies unread while the router stands still.
    pub(crate) unread: Option<Vec<Entry>>,
    requests: u32,
    actions: u64,
    digest: Digest,
    trace: Option<VecDeque<String>>,
}

impl Sim {
    /// A router without workers.
    pub fn new(seed: Seed) -> Self {
        let mut rng = Rng::new(seed.0);
        let config = Config::default();
        let echoes_kills = rng.percent(50);
        Self {
            core: Scheduler::new(config.clone()),
            agenda: Agenda::default(),
            rng,
            check: Checker::new(config.clone(), Oracle::for_test()),
            config,
            clients: BTreeMap::new(),
            processes: Vec::new(),
            links: BTreeMap::new(),
            next_worker: 1,
            next_epoch: 1,
            sent_on_closed: 0,
            echoes_kills,
            unread: None,
            requests: 0,
            actions: 0,
            digest: Digest::default(),
            trace: None,
        }
    }

    /// The same with these settings; to be called first.
    #[must_use]
    pub fn with_config(mut self, config: Config) -> Self {
        self.core = Scheduler::new(config.clone());
        self.check.config = config.clone();
        self.config = config;
        self
    }

    /// Starts own children that cost this. All workers of a simulation share one oracle.
    #[must_use]
    pub fn with_workers(mut self, count: usize, cost: &CostModel) -> Self {
        self.add(count, true, cost);
        self
    }

    /// Starts workers that join by themselves, and that somebody else restarts.
    #[must_use]
    pub fn with_joined(mut self, count: usize, cost: &CostModel) -> Self {
        self.add(count, false, cost);
        self
    }

    fn add(&mut self, count: usize, is_own: bool, cost: &CostModel) {
        self.check.oracle = cost.oracle;
        for _ in 0..count {
            let own = is_own.then(|| self.draw_worker());
            let process = Process::new(own, cost.clone());
            let index = self.processes.len();
            self.processes.push(process);
            self.agenda.put(self.now(), Entry::Start(index, 0));
        }
    }

    /// Keeps the last events and actions, see [`Self::trace`].
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.trace = Some(VecDeque::new());
        self
    }

    pub(crate) const fn draw_worker(&mut self) -> WorkerId {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        worker
    }

    /// What time it is.
    pub const fn now(&self) -> Time {
        self.agenda.now()
    }

    /// The core, for its counters and views.
    pub const fn core(&self) -> &Scheduler {
        &self.core
    }

    /// A client sends a request now. Its name is known at once; the core hears of it when the time goes on.
    pub fn arrive(&mut self, spec: RequestSpec) -> RequestId {
        self.arrive_at(self.now(), spec)
    }

    /// A client sends a request then.
    pub fn arrive_at(&mut self, at: Time, spec: RequestSpec) -> RequestId {
        self.requests += 1;
        let noise = u128::from(self.rng.bits());
        let request_id = RequestId((noise << 64) | u128::from(self.requests));
        self.agenda.put(at, Entry::Arrive(spec, request_id));
        request_id
    }

    pub(crate) fn arrives(&mut self, spec: &RequestSpec, request_id: RequestId) {
        let now = self.now();
        let oracle = self.check.oracle;
        let own = u32::try_from(request_id.0 & 0xffff_ffff).unwrap_or(0) % oracle.vocab_size;
        let mut words = Rng::new(spec.seed ^ u64::from(own));
        let rest = (1..spec.prompt_tokens).map(|_| words.small(0, oracle.vocab_size));
        let draft = RequestDraft {
            request_id,
            prompt: std::iter::once(own).chain(rest).collect(),
            max_tokens: Some(spec.max_tokens),
            min_tokens: spec.min_tokens,
            temperature: 1.0,
            top_p: 1.0,
            seed: spec.seed,
            ignore_eos: spec.ignore_eos,
            shaping: Arc::default(),
            group: None,
            choice_index: 0,
            class: spec.class,
            salt: 0,
            arrival: now,
            expiry: spec.useful_for.map(|span| now + span),
        };
        let limits = self.core.limits().unwrap_or(Limits {
            max_model_len: u32::MAX,
            vocab_size: oracle.vocab_size,
        });
        match Request::parse(draft, &limits) {
            Ok(request) => {
                self.check.open(request.clone());
                self.clients.insert(request_id, Client::new(spec));
                if let HangUp::After(span) = spec.hang_up {
                    self.agenda.put(now + span, Entry::HangUp(request_id));
                }
                self.tell(Event::RequestArrived(request));
            }
            Err(error) => self.check.broken("scenario", error.to_string(), now),
        }
    }

    /// The operator wants this now.
    pub fn operator(&mut self, command: Command) {
        self.operator_at(self.now(), command);
    }

    /// The operator wants this then.
    pub fn operator_at(&mut self, at: Time, command: Command) {
        let entry = Entry::Tell(Box::new(Event::Operator(command)));
        self.agenda.put(at, entry);
    }

    /// A client goes away now.
    pub fn hang_up(&mut self, request_id: RequestId) {
        self.agenda.put(self.now(), Entry::HangUp(request_id));
    }

    /// Something goes wrong now with the process of this index, in the order in which they were added.
    pub fn inject(&mut self, process: usize, fault: Fault) {
        self.inject_at(self.now(), process, fault);
    }

    /// Something goes wrong then.
    pub fn inject_at(&mut self, at: Time, process: usize, fault: Fault) {
        self.agenda.put(at, Entry::Fault(process, fault));
    }

    /// A bare kill of whatever process has this name.
    pub fn kill(&mut self, worker: Option<WorkerId>) {
        if let Some(process) = worker.and_then(|worker| self.process_of(worker)) {
            self.inject(process, Fault::Signal(9));
        }
    }

    /// The process at the live end of a worker's link.
    pub fn process_of(&self, worker: WorkerId) -> Option<usize> {
        self.check
            .live(worker)
            .and_then(|epoch| self.links.get(&epoch))
            .map(|link| link.process)
    }

    /// The worker that a request is placed on.
    pub fn worker_of(&self, request_id: RequestId) -> Option<WorkerId> {
        let (worker, _) = self.core.request(request_id)?.placed?;
        Some(worker)
    }

    /// What a client was given so far.
    pub fn delivered(&self, request_id: RequestId) -> &[u32] {
        self.check
            .requests
            .get(&request_id)
            .map_or(&[], |ledger| ledger.tokens())
    }

    /// What an undisturbed worker gives for a request that has arrived.
    pub fn oracle_tokens(&self, request_id: RequestId) -> Vec<u32> {
        self.check
            .requests
            .get(&request_id)
            .map_or_else(Vec::new, |ledger| ledger.answer.clone())
    }

    /// How a request went; none if it has not arrived.
    pub fn outcome(&self, request_id: RequestId) -> Option<Outcome> {
        let ledger = self.check.requests.get(&request_id)?;
        Some(Outcome {
            tokens: ledger.tokens().to_vec(),
            end: ledger.end.clone(),
            submits: ledger.submits,
        })
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.check.requests.keys().copied()
    }

    /// Promises that were broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.check.violations
    }

    /// Messages that workers sent on links that the router had closed: the control of every test of fencing.
    pub const fn sent_on_closed(&self) -> u64 {
        self.sent_on_closed
    }

    /// Actions so far, and a hash of all of them.
    pub fn digest(&self) -> (u64, u64) {
        (self.actions, self.digest.value())
    }

    /// The last events and actions of a traced run.
    pub fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().flatten().map(String::as_str)
    }

    /// Lets the time run until something is so. That it does not come about is a broken promise.
    pub fn run_until(&mut self, mut is_so: impl FnMut(&Self) -> bool) {
        let limit = self.now() + PATIENCE;
        while !is_so(self) {
            if self.now() > limit || !self.step() {
                let now = self.now();
                let detail = format!("after {PATIENCE:?}");
                return self
                    .check
                    .broken("what was waited for never came", detail, now);
            }
        }
    }

    /// Lets the time run until every request that has arrived or is on its way has ended.
    pub fn run_until_idle(&mut self) {
        let expected = self.requests as usize;
        self.run_until(|sim| {
            sim.check.requests.len() == expected
                && sim
                    .check
                    .requests
                    .values()
                    .all(|ledger| ledger.end.is_some())
        });
    }

    /// Lets a span of time pass.
    pub fn run_for(&mut self, span: Duration) {
        let until = self.now() + span;
        while self.next_at().is_some_and(|at| at <= until) && self.step() {}
        self.agenda.jump(until);
    }

    fn next_at(&self) -> Option<Time> {
        let is_awake = self.unread.is_none();
        let timeout = self.core.next_timeout().filter(|_| is_awake);
        let timeout = timeout.map(|at| at.max(self.now()));
        match (self.agenda.next_at(), timeout) {
            (Some(entry), Some(timeout)) => Some(entry.min(timeout)),
            (entry, timeout) => entry.or(timeout),
        }
    }

    /// Jumps to the next thing and does it. False if nothing is to come.
    fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else {
            return false;
        };
        // What happens at the moment of a timeout comes before it: a driver reads before it looks at the clock.
        if self.agenda.next_at() == Some(at) {
            if let Some(entry) = self.agenda.pop() {
                self.happen(entry);
            }
        } else {
            self.agenda.jump(at);
            self.timeout();
        }
        true
    }

    /// The core looks at the clock.
    pub(crate) fn timeout(&mut self) {
        let now = self.now();
        self.note(|| format!("timeout {now:?}"));
        self.core.handle_timeout(now);
        self.drain_actions(&Cause::default());
    }

    pub(crate) fn happen(&mut self, entry: Entry) {
        let Some(entry) = self.read_now(entry) else {
            return;
        };
        match entry {
            Entry::Pause(span) => self.pause(span),
            Entry::Wake => self.wake(),
            Entry::Arrive(spec, request_id) => self.arrives(&spec, request_id),
            Entry::Read(request_id) => self.read(request_id),
            Entry::HangUp(request_id) => self.client_leaves(request_id),
            Entry::Tell(event) => self.tell(*event),
            Entry::ToRouter(epoch, up, seq) => self.at_router(epoch, up, seq),
            Entry::LinkEnds(epoch) => self.link_ends(epoch),
            Entry::RouterTick(epoch) => self.router_tick(epoch),
            Entry::Exited(process, cause) => self.exited(process, cause),
            Entry::Fault(process, fault) => self.strike(process, fault),
            entry => self.at_process(entry),
        }
    }

    /// One event for the core, then all that it wants done.
    pub(crate) fn tell(&mut self, event: Event) {
        let now = self.now();
        self.note(|| format!("{} event {event:?}", now.as_micros()));
        let cause = self.check.event(&event, now);
        self.core.handle(event, now);
        self.drain_actions(&cause);
    }

    fn drain_actions(&mut self, cause: &Cause) {
        let now = self.now();
        while let Some(action) = self.core.poll_action() {
            self.note(|| format!("{} action {action:?}", now.as_micros()));
            self.actions += 1;
            // Writing to a hash cannot fail.
            let _ = write!(self.digest, "{}{action:?}", now.as_micros());
            self.check.action(&action, cause, now);
            self.perform(action);
        }
        self.check.compare(&self.core, cause, now);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(line());
        }
    }
}
