//! Faults happen: to a process, to its link, or in what it says.

use std::time::Duration;

use slackwater_core::{
    Event, GoneCause, Logprobs, Output, Refusal, RequestId, TokenLogprobs, WorkerFinish,
};

use crate::faults::{Evil, Fault};
use crate::net::Up;
use crate::sim::{Entry, Sim};
use crate::worker::capabilities;

impl Sim {
    pub(crate) fn strike(&mut self, index: usize, fault: Fault) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        let epoch = process.link;
        match fault {
            Fault::Cut => {
                if let Some(epoch) = epoch {
                    self.cut(epoch);
                }
            }
            Fault::CutAfter(messages) => {
                if let Some(link) = epoch.and_then(|epoch| self.links.get_mut(&epoch)) {
                    link.cut_after = Some(messages);
                }
            }
            Fault::LateUp(span) => self.late(index, Some(span), None),
            Fault::LateDown(span) => self.late(index, None, Some(span)),
            Fault::LateBoth(span) => self.late(index, Some(span), Some(span)),
            Fault::Signal(signal) => self.process_dies(index, GoneCause::Signalled(signal)),
            Fault::Exit(code) => self.process_dies(index, GoneCause::Exited(code)),
            Fault::Freeze(span) => {
                if process.is_alive {
                    process.is_frozen = true;
                    let generation = process.generation;
                    self.agenda.put(now + span, Entry::Thaw(index, generation));
                }
            }
            Fault::Hang => process.is_hung = process.is_alive,
            Fault::Slow(times) => process.slowness = times.max(1),
            Fault::Reconnect => {
                if let Some(link) = epoch.and_then(|epoch| self.links.get_mut(&epoch)) {
                    link.worker_open = false; // And the router is not told.
                    process.drop_requests();
                    let generation = process.generation;
                    self.agenda.put(now, Entry::Connect(index, generation));
                }
            }
            Fault::LinkFull(span) => self.link_full(index, span),
            Fault::RefuseNext(requests) => process.refuse_next = requests,
            Fault::Evil(evil) => process.evil = process.is_alive.then_some(evil),
        }
    }

    fn late(&mut self, index: usize, up: Option<Duration>, down: Option<Duration>) {
        let now = self.now();
        if let Some(link) = self.link_of(index) {
            if let Some(span) = up {
                link.up.stalled_until = link.up.stalled_until.max(now + span);
            }
            if let Some(span) = down {
                link.down.stalled_until = link.down.stalled_until.max(now + span);
            }
        }
    }

    fn link_full(&mut self, index: usize, span: Duration) {
        let Some(link) = self
            .processes
            .get(index)
            .and_then(|process| process.link)
            .and_then(|epoch| self.links.get(&epoch))
            .filter(|link| link.router_open)
        else {
            return;
        };
        let (worker, epoch) = (link.worker, link.epoch);
        let event = |full| Event::LinkFull {
            worker,
            epoch,
            full,
        };
        let at = self.now() + span;
        self.agenda.put(at, Entry::Tell(Box::new(event(false))));
        self.tell(event(true));
    }

    pub(crate) fn thaw(&mut self, index: usize, generation: u32) {
        let now = self.now();
        if let Some(process) = self.processes.get_mut(index)
            && process.lives(generation)
            && process.is_frozen
        {
            process.is_frozen = false;
            for entry in std::mem::take(&mut process.deferred) {
                self.agenda.put(now, entry);
            }
        }
    }

    /// Ends every fault that would go on by itself.
    pub fn heal(&mut self) {
        for index in 0..self.processes.len() {
            let generation = self.generation(index);
            self.thaw(index, generation);
            let Some(process) = self.processes.get_mut(index) else {
                continue;
            };
            process.slowness = 1;
            process.evil = None;
            process.refuse_next = 0;
            let was_hung = std::mem::replace(&mut process.is_hung, false);
            let (step, has_link) = (process.step, process.link.is_some());
            if was_hung && has_link {
                self.step_ends(index, step);
            } else if was_hung {
                self.connect(index, generation);
            }
        }
        for link in self.links.values_mut() {
            link.cut_after = None;
        }
    }

    /// Breaks a rule with this step's outputs, if they allow it, else with a later one's.
    pub(crate) fn say_evil(&mut self, index: usize, micros: u64, mut outputs: Vec<Output>) {
        let Some(evil) = self.processes.get(index).and_then(|process| process.evil) else {
            return self.say_outputs(index, micros, outputs);
        };
        let done = match evil {
            Evil::SeqGap => self.skip_seq(index, 1),
            Evil::SeqRepeat => self.skip_seq(index, -1),
            Evil::ForeignRequest => self.foreign_request(index, &mut outputs),
            Evil::UnknownRequest => unknown_request(&mut outputs),
            Evil::OverCredit => self.over_credit(&mut outputs),
            Evil::ReadyTwice => {
                let ready = self.processes.get(index).map(capabilities);
                if let Some(ready) = ready {
                    self.say_up(index, Up::Ready(ready));
                }
                true
            }
            Evil::Garbage => {
                self.say_up(index, Up::Garbage);
                true
            }
            Evil::RefuseLate => {
                self.say_outputs(index, micros, outputs.clone());
                let done = self.refuse_late(index, &outputs);
                outputs.clear(); // Said already: a refusal breaks a rule only behind them.
                done
            }
            Evil::LengthEarly => self.length_early(&mut outputs),
            _ => spoil(evil, &mut outputs),
        };
        if done {
            let process = self.processes.get_mut(index);
            let epoch = process.and_then(|process| {
                process.evil = None;
                process.link
            });
            let is_harmless = matches!(
                evil,
                Evil::ForeignAttempt | Evil::ForeignRequest | Evil::UnknownRequest
            );
            if let Some(epoch) = epoch.filter(|_| !is_harmless) {
                self.check.guilty.insert(epoch);
            }
        }
        self.say_outputs(index, micros, outputs);
    }

    fn skip_seq(&mut self, index: usize, by: i64) -> bool {
        let link = self
            .processes
            .get(index)
            .and_then(|process| process.link)
            .and_then(|epoch| self.links.get_mut(&epoch));
        if let Some(link) = link {
            link.seq = link.seq.saturating_add_signed(by);
        }
        true
    }

    /// Garbage for a request that somebody else has, right in all but its sender.
    fn foreign_request(&self, index: usize, outputs: &mut Vec<Output>) -> bool {
        let own = self.processes.get(index).and_then(|process| process.link);
        let foreign = self.check.requests.iter().find(|(_, ledger)| {
            ledger.end.is_none()
                && ledger.placed.is_some_and(|(_, epoch)| Some(epoch) != own)
                && ledger.emitted() < ledger.granted
        });
        let Some((request_id, ledger)) = foreign else {
            return false;
        };
        outputs.push(Output {
            request_id: *request_id,
            attempt: ledger.attempt,
            start: ledger.emitted(),
            tokens: vec![0],
            num_cached_tokens: 0,
            logprobs: Logprobs::NONE,
            finish: None,
        });
        true
    }

    fn over_credit(&self, outputs: &mut [Output]) -> bool {
        let Some((output, ledger)) = outputs.iter_mut().find_map(|output| {
            let ledger = self.check.requests.get(&output.request_id)?;
            let is_usual = output.finish.is_none() && ledger.end.is_none();
            is_usual.then_some((output, ledger))
        }) else {
            return false;
        };
        // More credit may be under way: no grant reaches past the request's own end.
        let last = ledger.request.sampling().max_tokens.get();
        let tokens = (last + 1).saturating_sub(output.start) as usize;
        output.tokens.resize(tokens, 0);
        true
    }

    fn length_early(&self, outputs: &mut [Output]) -> bool {
        let output = outputs.iter_mut().find(|output| {
            let end = u64::from(output.start) + output.tokens.len() as u64;
            output.finish.is_none()
                && self
                    .check
                    .requests
                    .get(&output.request_id)
                    .is_some_and(|ledger| {
                        end < u64::from(ledger.request.sampling().max_tokens.get())
                    })
        });
        let Some(output) = output else {
            return false;
        };
        output.finish = Some(WorkerFinish::Length);
        true
    }

    fn refuse_late(&mut self, index: usize, outputs: &[Output]) -> bool {
        let Some(output) = outputs
            .iter()
            .find(|output| output.start > 0 && output.finish.is_none())
        else {
            return false;
        };
        let refusal = Refusal {
            code: "inbox_full".to_owned(),
            message: "second thoughts".to_owned(),
            param: None,
            elsewhere: true,
        };
        self.say_up(
            index,
            Up::Refused(output.request_id, output.attempt, refusal),
        );
        true
    }
}

fn unknown_request(outputs: &mut Vec<Output>) -> bool {
    outputs.push(Output {
        request_id: RequestId(u128::MAX),
        attempt: 1,
        start: 0,
        tokens: vec![u32::MAX],
        num_cached_tokens: 0,
        logprobs: Logprobs::NONE,
        finish: Some(WorkerFinish::Stop),
    });
    true
}

/// Spoils one output with tokens; false if there is none that can be spoilt so.
fn spoil(evil: Evil, outputs: &mut Vec<Output>) -> bool {
    let Some(index) = outputs
        .iter()
        .position(|output| output.finish.is_none() && !output.tokens.is_empty())
    else {
        return false;
    };
    let Some(output) = outputs.get_mut(index) else {
        return false;
    };
    match evil {
        Evil::TokenRange => output.tokens.push(u32::MAX),
        Evil::StartAhead => output.start += 1,
        Evil::StartBehind if output.start == 0 => return false,
        Evil::StartBehind => output.start -= 1,
        Evil::LogprobsUnasked => {
            let unasked = TokenLogprobs::default();
            output.logprobs.tokens = vec![unasked; output.tokens.len()];
        }
        Evil::CancelledUnasked => output.finish = Some(WorkerFinish::Cancelled),
        Evil::ForeignAttempt => {
            let mut foreign = output.clone();
            foreign.attempt += 1;
            foreign.tokens.fill(0);
            outputs.insert(index, foreign);
        }
        _ => return false,
    }
    true
}
