//! The worker's side of the simulation: what a process does with what it hears, and what it says.

use std::time::Duration;

use slackwater_core::{Capabilities, Epoch, Event, Output, Placement, Refusal, Time};

use crate::driver::HEARTBEAT;
use crate::faults::Fault;
use crate::net::{Down, Link, Up};
use crate::process::Process;
use crate::sim::{Entry, Sim};

/// From a start to HELLO: the model is loaded.
const LOADING: Duration = Duration::from_millis(300);
/// From Bye to the process's end.
const UNLOADING: Duration = Duration::from_millis(10);
/// Pause before a link is tried again.
const RECONNECT: Duration = Duration::from_millis(100);
/// A worker that hears nothing for so long gives its link up.
const SILENCE: Duration = Duration::from_secs(2);
/// Time that a joined worker's keeper lets it hang.
const KEEPER: Duration = Duration::from_secs(1);

impl Sim {
    pub(crate) fn generation(&self, index: usize) -> u32 {
        self.processes
            .get(index)
            .map_or(0, |process| process.generation)
    }

    /// Something that happens to a process. A frozen one notices when it thaws.
    pub(crate) fn at_process(&mut self, entry: Entry) {
        let index = match &entry {
            Entry::ToWorker(epoch, _) => match self.links.get(epoch) {
                Some(link) => link.process,
                None => return,
            },
            Entry::Start(index, _)
            | Entry::Connect(index, _)
            | Entry::Tick(index, _)
            | Entry::StepEnds(index, _)
            | Entry::Thaw(index, _) => *index,
            _ => return,
        };
        let is_frozen = self
            .processes
            .get(index)
            .is_some_and(|process| process.is_frozen);
        match entry {
            Entry::Thaw(index, generation) => self.thaw(index, generation),
            entry if is_frozen => {
                if let Some(process) = self.processes.get_mut(index) {
                    process.deferred.push(entry);
                }
            }
            Entry::ToWorker(epoch, down) => self.at_worker(index, epoch, down),
            Entry::Start(_, generation) => self.start(index, generation),
            Entry::Connect(_, generation) => self.connect(index, generation),
            Entry::Tick(_, generation) => self.tick(index, generation),
            Entry::StepEnds(_, step) => self.step_ends(index, step),
            _ => {}
        }
    }

    fn start(&mut self, index: usize, generation: u32) {
        let now = self.now();
        if let Some(process) = self.processes.get_mut(index)
            && !process.is_alive
            && process.generation == generation
        {
            process.is_alive = true;
            process.heard = now;
            let own = process.own;
            let at = now + LOADING;
            self.agenda.put(at, Entry::Connect(index, generation));
            self.agenda.put(at, Entry::Tick(index, generation));
            if let Some(worker) = own {
                self.tell(Event::WorkerStarted { worker });
            }
        }
    }

    /// HELLO, WELCOME and READY.
    pub(crate) fn connect(&mut self, index: usize, generation: u32) {
        let now = self.now();
        let is_there = self
            .processes
            .get(index)
            .is_some_and(|process| process.lives(generation) && process.link.is_none());
        if !is_there {
            return;
        }
        let own = self.processes.get(index).and_then(|process| process.own);
        let worker = own.unwrap_or_else(|| self.draw_worker());
        let epoch = Epoch(0x51ac_0000_0000_0000 | self.next_epoch);
        self.next_epoch += 1;
        let latency = Duration::from_micros(self.rng.between(50, 1_500));
        self.links
            .insert(epoch, Link::new(index, worker, epoch, latency));
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        process.link = Some(epoch);
        process.heard = now;
        let ready = Up::Ready(capabilities(process));
        self.say_up(index, ready);
        self.agenda.put(now + latency, Entry::RouterTick(epoch));
    }

    /// Says something on the process's link.
    pub(crate) fn say_up(&mut self, index: usize, up: Up) {
        let now = self.now();
        let Some(link) = self
            .processes
            .get(index)
            .and_then(|process| process.link)
            .and_then(|epoch| self.links.get_mut(&epoch))
        else {
            return;
        };
        if link.is_cut || !link.worker_open {
            return;
        }
        if link.counts_down() {
            let epoch = link.epoch;
            return self.cut(epoch);
        }
        link.seq += 1;
        let at = link.up.arrival(now);
        self.agenda
            .put(at, Entry::ToRouter(link.epoch, up, link.seq));
    }

    fn at_worker(&mut self, index: usize, epoch: Epoch, down: Down) {
        let now = self.now();
        let is_cut = self.links.get(&epoch).is_some_and(|link| link.is_cut);
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        let is_its_own = process.is_alive && process.link == Some(epoch);
        if !is_its_own || is_cut && !matches!(down, Down::Closed) {
            return;
        }
        process.heard = now;
        match down {
            Down::Submit(placement) => self.submitted(index, &placement),
            Down::Cancel(request_id, attempt) => {
                if process.is_hung {
                    process.engine.cancel_later(request_id, attempt);
                } else if let Some(output) = process.engine.cancel(request_id, attempt) {
                    self.say_up(index, Up::Outputs(0, vec![output]));
                }
            }
            Down::Credit(request_id, attempt, up_to) => {
                process.engine.credit(request_id, attempt, up_to);
            }
            Down::Drain => {
                self.say_up(index, Up::Bye);
                let at = now + UNLOADING;
                self.agenda.put(at, Entry::Fault(index, Fault::Exit(0)));
            }
            Down::Heartbeat => {}
            Down::Closed => self.link_lost(index),
        }
        self.kick(index);
    }

    fn submitted(&mut self, index: usize, placement: &Placement) {
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        let answer = if let Some(left) = process.refuse_next.checked_sub(1) {
            process.refuse_next = left;
            Err(Refusal {
                code: "inbox_full".to_owned(),
                message: "no room now".to_owned(),
                param: None,
                elsewhere: true,
            })
        } else {
            process.engine.submit(placement)
        };
        let request_id = placement.request.request_id();
        let attempt = placement.attempt;
        self.say_up(
            index,
            match answer {
                Ok(()) => Up::Accepted(request_id, attempt),
                Err(refusal) => Up::Refused(request_id, attempt, refusal),
            },
        );
    }

    /// The worker's link is over: forget everything, and say HELLO on a new one.
    pub(crate) fn link_lost(&mut self, index: usize) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        if let Some(link) = process.link.and_then(|epoch| self.links.get_mut(&epoch)) {
            link.worker_open = false;
        }
        process.drop_requests();
        let generation = process.generation;
        if process.is_hung && process.own.is_none() {
            let at = now + KEEPER;
            self.agenda.put(at, Entry::Fault(index, Fault::Signal(9)));
        } else if !process.is_hung {
            let at = now + RECONNECT;
            self.agenda.put(at, Entry::Connect(index, generation));
        }
    }

    /// The link of a process, if it has one.
    pub(crate) fn link_of(&mut self, index: usize) -> Option<&mut Link> {
        let epoch = self.processes.get(index)?.link?;
        self.links.get_mut(&epoch)
    }

    /// The worker closes its end; the router hears of it after all that was said before.
    pub(crate) fn hang_up_link(&mut self, index: usize) {
        let now = self.now();
        if let Some(link) = self.link_of(index) {
            link.worker_open = false;
            let (at, epoch) = (link.up.arrival(now), link.epoch);
            self.agenda.put(at, Entry::ToRouter(epoch, Up::Closed, 0));
        }
    }

    /// Ends a process; false if it was dead already.
    pub(crate) fn end_process(&mut self, index: usize) -> bool {
        self.hang_up_link(index);
        let Some(process) = self.processes.get_mut(index) else {
            return false;
        };
        let was_alive = process.is_alive;
        process.die();
        was_alive
    }

    fn tick(&mut self, index: usize, generation: u32) {
        let now = self.now();
        let Some(process) = self.processes.get(index) else {
            return;
        };
        if !process.lives(generation) {
            return;
        }
        if process.link.is_some() {
            if now.since(process.heard) >= SILENCE {
                self.hang_up_link(index);
                self.link_lost(index);
            } else {
                let progress = process.engine.progress;
                let busy = process.engine.is_busy();
                self.say_up(index, Up::Heartbeat { progress, busy });
                if self.rng.percent(20) {
                    self.say_up(index, Up::Stats);
                }
            }
        }
        self.agenda
            .put(now + HEARTBEAT, Entry::Tick(index, generation));
    }

    /// Begins a step if there is work.
    pub(crate) fn kick(&mut self, index: usize) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        if !process.is_alive || process.is_hung || process.link.is_none() {
            return;
        }
        if let Some(length) = process.engine.begin_step() {
            process.step += 1;
            process.step_began = now;
            let at = now + length * process.slowness;
            self.agenda.put(at, Entry::StepEnds(index, process.step));
        }
    }

    pub(crate) fn step_ends(&mut self, index: usize, step: u64) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        if !process.is_alive || process.is_hung || process.step != step {
            return;
        }
        let outputs = process.engine.end_step();
        let micros = micros_since(now, process.step_began);
        if process.evil.is_some() {
            self.say_evil(index, micros, outputs);
        } else {
            self.say_outputs(index, micros, outputs);
        }
        self.kick(index);
    }

    pub(crate) fn say_outputs(&mut self, index: usize, micros: u64, outputs: Vec<Output>) {
        if !outputs.is_empty() {
            self.say_up(index, Up::Outputs(micros, outputs));
        }
    }
}

fn micros_since(now: Time, earlier: Time) -> u64 {
    u64::try_from(now.since(earlier).as_micros()).unwrap_or(u64::MAX)
}

/// What READY says.
pub(crate) fn capabilities(process: &Process) -> Capabilities {
    let cost = process.engine.cost();
    Capabilities {
        vocab_size: cost.oracle.vocab_size,
        max_model_len: cost.max_model_len,
        slots: cost.slots,
        numerics: cost.numerics.clone(),
        own: process.own.is_some(),
    }
}
