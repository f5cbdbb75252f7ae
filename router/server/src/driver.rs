//! The one task that owns the core: a loop over sockets, sessions, children and the next timeout.
//!
//! It decides nothing. It tells the core what happened and when, and tries what the core wants done; it never waits for
//! a peer, since everybody else would wait with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slackwater_core::{Action, Config, Event, GoneCause, RequestId, Scheduler, WorkerId};
use slackwater_wire::messages::{ByeCode, WorkerStats};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::handle::{Clock, DriverEnds, Input, SessionEvent, Status};
use crate::metrics::Snapshot;
use crate::supervise::{ChildEvent, LaunchError, Supervisor};
use crate::transport::{Fleet, FleetEvent, WorkerLink};

/// Why the driver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverEnd {
    /// Its handles are gone: a stop in order.
    Stopped,
    /// An own worker ended before any worker was ever ready; the code is its exit status.
    WorkerNeverReady {
        /// What the process shall exit with.
        exit_code: i32,
    },
}

/// Settings of the driver.
#[derive(Debug, Clone, Copy)]
pub struct DriverConfig {
    /// How often workers are told that the router is alive, and figures are published.
    pub heartbeat: Duration,
    /// How long own workers get to end by themselves.
    pub worker_exit: Duration,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            worker_exit: Duration::from_secs(5),
        }
    }
}

/// The task's state. Nothing in it is shared.
pub struct Driver<L: WorkerLink> {
    core: Scheduler,
    fleet: Fleet<L>,
    children: Option<Supervisor>,
    ends: DriverEnds,
    sessions: BTreeMap<RequestId, mpsc::Sender<SessionEvent>>,
    stats: BTreeMap<WorkerId, WorkerStats>,
    model_name: String,
    snapshot: watch::Sender<Snapshot>,
    clock: Clock,
    config: DriverConfig,
    was_ready: bool,
    leaving: bool,
}

enum Turn {
    Input(Option<Input>),
    Gone(RequestId),
    Fleet(FleetEvent),
    Child(ChildEvent),
    Beat,
    Timeout,
}

impl<L: WorkerLink> Driver<L> {
    /// A driver of a fresh core.
    pub fn new(
        core: Config,
        fleet: Fleet<L>,
        ends: DriverEnds,
        clock: Clock,
        model_name: &str,
    ) -> (Self, watch::Receiver<Snapshot>) {
        let (snapshot, receiver) = watch::channel(Snapshot::default());
        let driver = Self {
            core: Scheduler::new(core),
            fleet,
            children: None,
            ends,
            sessions: BTreeMap::new(),
            stats: BTreeMap::new(),
            model_name: model_name.to_owned(),
            snapshot,
            clock,
            config: DriverConfig::default(),
            was_ready: false,
            leaving: false,
        };
        (driver, receiver)
    }

    /// Starts own workers under this supervisor.
    ///
    /// # Errors
    /// [`LaunchError`] where the program cannot be run.
    pub fn start_workers(
        &mut self,
        mut supervisor: Supervisor,
        count: u32,
    ) -> Result<(), LaunchError> {
        for worker in (0..count).map(WorkerId) {
            let token = self.fleet.launch_token(worker);
            supervisor.start(worker, &token)?;
            let now = self.clock.now();
            self.core.handle(Event::WorkerStarted { worker }, now);
        }
        self.children = Some(supervisor);
        Ok(())
    }

    /// Runs until every handle is gone, or until own workers have failed to start.
    pub async fn run(mut self) -> DriverEnd {
        let mut beat = interval(self.config.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            let wake = self
                .core
                .next_timeout()
                .map(|time| self.clock.instant(time));
            let turn = tokio::select! {
                event = self.fleet.next() => Turn::Fleet(event),
                gone = self.ends.gone.recv() => match gone {
                    Some(request_id) => Turn::Gone(request_id),
                    None => Turn::Input(None),
                },
                event = next_child(self.children.as_mut()) => Turn::Child(event),
                () = sleep_until(wake) => Turn::Timeout,
                _ = beat.tick() => Turn::Beat,
                input = self.ends.inputs.recv() => Turn::Input(input),
            };
            if let Some(end) = self.turn(turn) {
                break end;
            }
            self.perform_all();
            self.publish_status();
            self.ends.turned.set(self.clock.now());
        };
        self.shut_down().await;
        end
    }

    fn turn(&mut self, turn: Turn) -> Option<DriverEnd> {
        let now = self.clock.now();
        match turn {
            Turn::Input(None) => return Some(DriverEnd::Stopped),
            // A session that is gone already has said so before; nobody would ever cancel its request.
            Turn::Input(Some(Input::Open { events, .. })) if events.is_closed() => {}
            Turn::Input(Some(Input::Open { request, events })) => {
                self.sessions.insert(request.request_id(), events);
                self.core.handle(Event::RequestArrived(request), now);
            }
            Turn::Input(Some(Input::Leaving)) => self.leaving = true,
            Turn::Gone(request_id) => {
                self.sessions.remove(&request_id);
                self.core.handle(Event::ClientGone { request_id }, now);
            }
            Turn::Input(Some(Input::Core(event))) | Turn::Fleet(FleetEvent::Core(event)) => {
                self.core.handle(event, now);
            }
            Turn::Fleet(FleetEvent::Stats { worker, stats }) => {
                self.stats.insert(worker, stats);
            }
            Turn::Child(ChildEvent::Exited { worker, cause }) => {
                return self.child_exited(worker, cause);
            }
            Turn::Child(ChildEvent::Due { worker }) => self.start_again(worker),
            Turn::Beat => {
                self.fleet.heartbeat();
                self.publish_figures();
            }
            Turn::Timeout => self.core.handle_timeout(now),
        }
        None
    }

    fn child_exited(&mut self, worker: WorkerId, cause: GoneCause) -> Option<DriverEnd> {
        self.fleet.child_exited(worker);
        if !self.was_ready && self.core.ready_workers() == 0 {
            // The worker has said why, in its own line.
            let exit_code = match cause {
                GoneCause::Exited(code) if code != 0 => code,
                _ => 1,
            };
            return Some(DriverEnd::WorkerNeverReady { exit_code });
        }
        tracing::warn!(%worker, ?cause, "worker ended");
        self.core.handle(
            Event::WorkerGone {
                worker,
                epoch: None,
                cause,
            },
            self.clock.now(),
        );
        None
    }

    fn start_again(&mut self, worker: WorkerId) {
        let Some(children) = &mut self.children else {
            return;
        };
        let token = self.fleet.launch_token(worker);
        match children.start(worker, &token) {
            Ok(()) => {
                let now = self.clock.now();
                self.core.handle(Event::WorkerStarted { worker }, now);
            }
            Err(error) => {
                tracing::error!(%worker, %error, "worker not started; trying again");
                children.restart(worker, Duration::from_secs(30));
            }
        }
    }

    fn perform_all(&mut self) {
        while let Some(action) = self.core.poll_action() {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Deliver {
                request_id,
                start,
                tokens,
                num_cached_tokens,
                logprobs,
            } => {
                let event = SessionEvent::Tokens {
                    start,
                    tokens,
                    num_cached_tokens,
                    logprobs,
                };
                self.tell_session(request_id, event);
            }
            Action::Reject {
                request_id,
                failure,
            } => self.end_session(request_id, SessionEvent::Rejected(failure)),
            Action::Finish { request_id, ending } => {
                self.end_session(request_id, SessionEvent::Ended(ending));
            }
            Action::Restart { worker, after } => {
                if let Some(children) = &mut self.children {
                    tracing::warn!(%worker, after_millis = after.as_millis(), "worker will be started again");
                    children.restart(worker, after);
                }
            }
            link_action => self.fleet.perform(&link_action),
        }
    }

    /// Credit keeps a session's channel from ever being full; should it be, the stream would have a hole, so it ends.
    fn tell_session(&mut self, request_id: RequestId, event: SessionEvent) {
        let Some(events) = self.sessions.get(&request_id) else {
            return;
        };
        let Err(error) = events.try_send(event) else {
            return;
        };
        if matches!(error, mpsc::error::TrySendError::Full(_)) {
            tracing::error!(%request_id, "a session's queue is full although credit bounds it; the session is ended");
        }
        self.sessions.remove(&request_id);
        self.core
            .handle(Event::ClientGone { request_id }, self.clock.now());
    }

    /// The core has ended the request; whether the session still listens does not matter any more.
    fn end_session(&mut self, request_id: RequestId, event: SessionEvent) {
        if let Some(events) = self.sessions.remove(&request_id)
            && let Err(mpsc::error::TrySendError::Full(_)) = events.try_send(event)
        {
            tracing::error!(%request_id, "a session's queue is full although credit bounds it; its end is lost");
        }
    }

    fn publish_status(&mut self) {
        let status = Status {
            ready_workers: self.core.ready_workers(),
            limits: self.core.limits(),
            draining: self.leaving || self.core.is_draining(),
            idle: self.core.is_draining() && self.core.live_requests() == 0,
        };
        self.was_ready |= status.ready_workers > 0;
        self.ends.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    fn publish_figures(&mut self) {
        // A worker without a link has no state; what it counted ended with its process.
        let live: BTreeSet<WorkerId> = self
            .core
            .workers()
            .filter(|view| view.epoch.is_some())
            .map(|view| view.worker)
            .collect();
        self.stats.retain(|worker, _| live.contains(worker));
        self.snapshot
            .send_replace(Snapshot::of(&self.core, &self.model_name, &self.stats));
    }

    /// Says Bye to every worker, and waits for own children, at most for a while.
    async fn shut_down(&mut self) {
        self.fleet
            .close_all(ByeCode::Drain, "the router is shutting down");
        self.fleet.finish().await;
        let Some(children) = &mut self.children else {
            return;
        };
        children.stop();
        let deadline = tokio::time::Instant::now() + self.config.worker_exit;
        while children.running() > 0 {
            tokio::select! {
                _ = children.next() => {}
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!(workers = children.running(), "workers did not end by themselves and are killed");
                    children.kill_all();
                    while children.running() > 0 {
                        children.next().await;
                    }
                }
                // The Bye goes out while the link's tasks run.
                _ = self.fleet.next() => {}
            }
        }
    }
}

async fn next_child(children: Option<&mut Supervisor>) -> ChildEvent {
    match children {
        Some(children) => children.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
