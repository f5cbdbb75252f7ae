//! The router's side of the simulation, as dull as the real driver: messages become events, actions become messages.

use std::time::Duration;

use slackwater_core::{Action, Epoch, Event, GoneCause, Origin, RequestId, WorkerId};

use crate::net::{Down, Up};
use crate::sim::{Entry, Sim};

/// How often each side says that it is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(200);
/// From a process's death to the news of it, at most. It may come before the end of the link or after it.
const EXIT_NOTICE_MICROS: u64 = 3_000;

impl Sim {
    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Submit(placement) | Action::Resume(placement) => {
                let epoch = placement.epoch;
                self.say_down(epoch, Down::Submit(Box::new(placement)));
            }
            Action::Cancel {
                epoch,
                request_id,
                attempt,
                ..
            } => self.say_down(epoch, Down::Cancel(request_id, attempt)),
            Action::Credit {
                epoch,
                request_id,
                attempt,
                up_to,
                ..
            } => self.say_down(epoch, Down::Credit(request_id, attempt, up_to)),
            Action::Drain { epoch, .. } => self.say_down(epoch, Down::Drain),
            Action::Fence { epoch, .. } => self.close_at_router(epoch),
            Action::Deliver {
                request_id, tokens, ..
            } => self.client_gets(request_id, tokens.len()),
            Action::Reject { request_id, .. } | Action::Finish { request_id, .. } => {
                if let Some(client) = self.clients.get_mut(&request_id) {
                    client.is_done = true;
                }
            }
            Action::Restart { worker, after } => self.restart(worker, after),
        }
    }

    fn say_down(&mut self, epoch: Epoch, down: Down) {
        let now = self.now();
        let Some(link) = self.links.get_mut(&epoch) else {
            return;
        };
        if !link.router_open || link.is_cut {
            return;
        }
        if link.counts_down() {
            return self.cut(epoch);
        }
        let at = link.down.arrival(now);
        self.agenda.put(at, Entry::ToWorker(epoch, down));
    }

    fn close_at_router(&mut self, epoch: Epoch) {
        self.say_down(epoch, Down::Closed);
        if let Some(link) = self.links.get_mut(&epoch) {
            link.router_open = false;
        }
    }

    /// Ends a link now, for both sides; what is under way is lost.
    pub(crate) fn cut(&mut self, epoch: Epoch) {
        if let Some(link) = self.links.get_mut(&epoch)
            && !link.is_cut
        {
            link.is_cut = true;
            self.agenda.put(self.agenda.now(), Entry::LinkEnds(epoch));
        }
    }

    pub(crate) fn link_ends(&mut self, epoch: Epoch) {
        let Some(link) = self.links.get_mut(&epoch) else {
            return;
        };
        let worker = link.worker;
        let was_open = std::mem::replace(&mut link.router_open, false);
        self.agenda
            .put(self.agenda.now(), Entry::ToWorker(epoch, Down::Closed));
        if was_open {
            self.tell(gone(worker, Some(epoch), GoneCause::LinkClosed));
        }
    }

    pub(crate) fn router_tick(&mut self, epoch: Epoch) {
        if self.links.get(&epoch).is_some_and(|link| link.router_open) {
            self.say_down(epoch, Down::Heartbeat);
            let at = self.now() + HEARTBEAT;
            self.agenda.put(at, Entry::RouterTick(epoch));
        }
    }

    /// A message has come to the router. What was read before its link was closed still reaches the core.
    pub(crate) fn at_router(&mut self, epoch: Epoch, up: Up, seq: u64) {
        let Some(link) = self.links.get_mut(&epoch).filter(|link| !link.is_cut) else {
            return;
        };
        let worker = link.worker;
        let end = match up {
            Up::Closed => Some(GoneCause::LinkClosed),
            Up::Bye => Some(GoneCause::Bye),
            _ => None,
        };
        if let Some(cause) = end {
            if std::mem::replace(&mut link.router_open, false) {
                self.tell(gone(worker, Some(epoch), cause));
            }
            return;
        }
        if !link.router_open {
            self.sent_on_closed += 1;
        }
        let origin = Origin { worker, epoch, seq };
        self.tell(event_of(origin, up));
    }

    /// An own child's end becomes known.
    pub(crate) fn exited(&mut self, process: usize, cause: GoneCause) {
        let Some(worker) = self.processes.get(process).and_then(|process| process.own) else {
            return;
        };
        let live = self
            .links
            .values_mut()
            .find(|link| link.worker == worker && link.router_open);
        let epoch = live.map(|link| {
            link.router_open = false;
            link.epoch
        });
        self.tell(gone(worker, epoch, cause));
    }

    const fn exit_notice(&mut self) -> Duration {
        Duration::from_micros(self.rng.between(0, EXIT_NOTICE_MICROS))
    }

    fn restart(&mut self, worker: WorkerId, after: Duration) {
        let Some(index) = self
            .processes
            .iter()
            .position(|process| process.own == Some(worker))
        else {
            return;
        };
        let was_alive = self.end_process(index);
        if was_alive && self.echoes_kills {
            let at = self.now() + self.exit_notice();
            self.agenda
                .put(at, Entry::Exited(index, GoneCause::Signalled(9)));
        }
        let generation = self.generation(index);
        let at = self.now() + after;
        self.agenda.put(at, Entry::Start(index, generation));
    }

    /// A process dies by itself or by somebody's hand; the news of it follows.
    pub(crate) fn process_dies(&mut self, index: usize, cause: GoneCause) {
        let Some(process) = self.processes.get(index).filter(|process| process.is_alive) else {
            return; // Whoever starts it next is on the way already.
        };
        let is_own = process.own.is_some();
        self.end_process(index);
        let now = self.now();
        if is_own {
            let at = now + self.exit_notice();
            self.agenda.put(at, Entry::Exited(index, cause));
        } else {
            let generation = self.generation(index);
            let after = Duration::from_secs(1); // Somebody else looks after it.
            self.agenda
                .put(now + after, Entry::Start(index, generation));
        }
    }

    pub(crate) fn client_gets(&mut self, request_id: RequestId, tokens: usize) {
        let now = self.now();
        let Some(client) = self.clients.get_mut(&request_id) else {
            return;
        };
        client.delivered += u32::try_from(tokens).unwrap_or(u32::MAX);
        if client.is_fed_up() {
            self.agenda.put(now, Entry::HangUp(request_id));
        }
        if let Some(after) = client.next_read() {
            self.agenda.put(now + after, Entry::Read(request_id));
        }
    }

    pub(crate) fn read(&mut self, request_id: RequestId) {
        let Some(client) = self.clients.get_mut(&request_id) else {
            return;
        };
        let up_to = client.read();
        let next = client.next_read();
        let at = self.now();
        if let Some(after) = next {
            self.agenda.put(at + after, Entry::Read(request_id));
        }
        self.tell(Event::StreamTaken { request_id, up_to });
    }

    pub(crate) fn client_leaves(&mut self, request_id: RequestId) {
        if let Some(client) = self.clients.get_mut(&request_id)
            && !client.is_done
        {
            client.is_done = true;
            self.tell(Event::ClientGone { request_id });
        }
    }
}

const fn gone(worker: WorkerId, epoch: Option<Epoch>, cause: GoneCause) -> Event {
    Event::WorkerGone {
        worker,
        epoch,
        cause,
    }
}

fn event_of(origin: Origin, up: Up) -> Event {
    match up {
        Up::Ready(capabilities) => Event::WorkerReady {
            origin,
            capabilities,
        },
        Up::Accepted(request_id, attempt) => Event::WorkerAccepted {
            origin,
            request_id,
            attempt,
        },
        Up::Refused(request_id, attempt, refusal) => Event::WorkerRefused {
            origin,
            request_id,
            attempt,
            refusal,
        },
        Up::Outputs(step_micros, outputs) => Event::WorkerOutputs {
            origin,
            step_micros,
            outputs,
        },
        Up::Heartbeat { progress, busy } => Event::Heartbeat {
            origin,
            progress,
            busy,
        },
        Up::Stats => Event::WorkerStats { origin },
        Up::Garbage | Up::Bye | Up::Closed => Event::WorkerViolation {
            worker: origin.worker,
            epoch: origin.epoch,
        },
    }
}
