//! What of a worker's words is believed: each message's place on its link, then each output's place in its request.
//!
//! Three outcomes. Good parts are delivered. Stale ones (a closed link, an old attempt, an unknown request) are counted
//! and dropped: they come with every failover. The rest breaks the link's rules, and then nothing on it is trusted.

use crate::action::{Action, Ending, FenceReason};
use crate::counters::ViolationReason;
use crate::error::Failure;
use crate::event::{Output, Refusal, WorkerFinish};
use crate::ids::{Epoch, Origin, RequestId, WorkerId};
use crate::scheduler::Scheduler;
use crate::shaping::{Logprobs, TokenLogprobs};
use crate::time::Time;
use crate::tracked::Tracked;

/// What an output is.
enum Verdict {
    Good,
    /// Not for anybody who still waits.
    Stale,
    /// For a request that has ended here while the worker still held it.
    PastEnd,
    Violation(ViolationReason),
}

impl Scheduler {
    /// Checks a message's epoch and sequence number. What comes through was said on the live link, and next.
    pub(crate) fn accept(&mut self, origin: Origin, now: Time) -> bool {
        let Some(link) = self.link_mut(origin.worker, origin.epoch) else {
            self.counters.stale_messages += 1;
            return false;
        };
        if link.seq.checked_add(1) != Some(origin.seq) {
            self.violation(origin.worker, ViolationReason::Sequence, now);
            return false;
        }
        link.seq = origin.seq;
        link.liveness.heard(now);
        self.watch(origin.worker);
        true
    }

    /// A worker broke a rule: cut it off.
    pub(crate) fn violation(&mut self, worker_id: WorkerId, reason: ViolationReason, now: Time) {
        self.counters.protocol_violations.add(reason);
        self.fence(worker_id, FenceReason::Violation, now);
    }

    pub(crate) fn codec_violation(&mut self, worker_id: WorkerId, epoch: Epoch, now: Time) {
        if self.link_mut(worker_id, epoch).is_some() {
            self.violation(worker_id, ViolationReason::Codec, now);
        } else {
            self.counters.stale_messages += 1;
        }
    }

    pub(crate) fn outputs(
        &mut self,
        origin: Origin,
        step_micros: u64,
        outputs: Vec<Output>,
        now: Time,
    ) {
        if !self.accept(origin, now) {
            return;
        }
        if let Some(link) = self.link_mut(origin.worker, origin.epoch) {
            link.liveness.step(step_micros, now);
        }
        self.watch(origin.worker);
        for output in outputs {
            match self.judge(origin, &output) {
                Verdict::Good => self.take_output(origin, output),
                Verdict::Stale => self.counters.stale_messages += 1,
                Verdict::PastEnd => self.past_end(origin, &output),
                Verdict::Violation(reason) => return self.violation(origin.worker, reason, now),
            }
        }
    }

    fn judge(&self, origin: Origin, output: &Output) -> Verdict {
        let Some(link) = self
            .workers
            .get(&origin.worker)
            .and_then(|worker| worker.link.as_ref())
        else {
            return Verdict::Stale;
        };
        let slot = link.slots.get(&output.request_id);
        let request = self.requests.get(&output.request_id);
        if request.is_none() && slot.is_none() {
            return Verdict::Stale; // Ids are random: it harms nobody.
        }
        let vocab_size = link.capabilities.vocab_size;
        if ids_of(output).any(|token| token >= vocab_size) {
            return Verdict::Violation(ViolationReason::TokenRange);
        }
        let Some(request) = request else {
            let is_held = slot.is_some_and(|slot| slot.attempt == output.attempt);
            return if is_held {
                Verdict::PastEnd
            } else {
                Verdict::Stale
            };
        };
        let end = u64::from(output.start) + output.tokens.len() as u64;
        if end > u64::from(request.credit.granted()) {
            return Verdict::Violation(ViolationReason::Credit);
        }
        if let Some(finish) = &output.finish
            && !is_legal(finish, request, output, end)
        {
            return Verdict::Violation(ViolationReason::Finish);
        }
        if !request.is_placed_at(origin.worker, origin.epoch, output.attempt) {
            return Verdict::Stale;
        }
        if output.start != request.emitted() {
            return Verdict::Violation(ViolationReason::Start);
        }
        if !has_its_logprobs(request, output) {
            return Verdict::Violation(ViolationReason::Logprobs);
        }
        Verdict::Good
    }

    /// Hands an output's tokens over, and ends the request where it says so.
    fn take_output(&mut self, origin: Origin, output: Output) {
        let Output {
            request_id,
            start,
            tokens,
            finish,
            mut logprobs,
            ..
        } = output;
        let Some(link) = self.link_mut(origin.worker, origin.epoch) else {
            return;
        };
        if let Some(slot) = link.slots.get_mut(&request_id) {
            slot.has_output = true;
        }
        let numerics = link.capabilities.numerics.clone();
        let Some(request) = self.requests.get_mut(&request_id) else {
            return;
        };
        request.prompt_logprobs.append(&mut logprobs.prompt);
        if !tokens.is_empty() {
            let prompt_tokens = u32::try_from(request.request.prompt().len()).unwrap_or(u32::MAX);
            let num_cached_tokens = *request
                .num_cached_tokens
                .get_or_insert(output.num_cached_tokens.min(prompt_tokens));
            request.history.extend_from_slice(&tokens);
            request.crashes = 0;
            request.numerics = Some(numerics);
            self.counters.tokens_delivered += tokens.len() as u64;
            self.actions.push_back(Action::Deliver {
                request_id,
                start,
                tokens,
                num_cached_tokens,
                logprobs: Logprobs {
                    tokens: logprobs.tokens,
                    prompt: std::mem::take(&mut request.prompt_logprobs),
                },
            });
        }
        if let Some(finish) = finish {
            self.release(origin, request_id);
            self.requests.remove(&request_id);
            self.actions.push_back(Action::Finish {
                request_id,
                ending: ending(finish),
            });
        }
    }

    /// The worker goes on with a request that has ended here, or confirms that it has stopped.
    fn past_end(&mut self, origin: Origin, output: &Output) {
        self.counters.tokens_past_end += output.tokens.len() as u64;
        if output.finish.is_some() {
            self.release(origin, output.request_id);
        }
    }

    pub(crate) fn accepted(
        &mut self,
        origin: Origin,
        request_id: RequestId,
        attempt: u32,
        now: Time,
    ) {
        if self.accept(origin, now) && !self.holds(origin, request_id, attempt) {
            self.counters.stale_messages += 1;
        }
    }

    pub(crate) fn refused(
        &mut self,
        origin: Origin,
        request_id: RequestId,
        attempt: u32,
        refusal: Refusal,
        now: Time,
    ) {
        if !self.accept(origin, now) {
            return;
        }
        if !self.holds(origin, request_id, attempt) {
            self.counters.stale_messages += 1;
            return;
        }
        if !self.requests.contains_key(&request_id) {
            return self.release(origin, request_id); // It ended here meanwhile.
        }
        if self.has_output_from(origin, request_id) {
            return self.violation(origin.worker, ViolationReason::Refusal, now);
        }
        self.release(origin, request_id);
        if refusal.elsewhere {
            if let Some(link) = self.link_mut(origin.worker, origin.epoch) {
                link.no_room = true;
            }
            self.move_elsewhere(request_id, now);
        } else {
            let Refusal {
                code,
                message,
                param,
                ..
            } = refusal;
            let failure = Failure::Refused {
                code,
                message,
                param,
            };
            self.end(request_id, failure);
        }
    }

    fn holds(&mut self, origin: Origin, request_id: RequestId, attempt: u32) -> bool {
        self.link_mut(origin.worker, origin.epoch)
            .and_then(|link| link.slots.get(&request_id))
            .is_some_and(|slot| slot.attempt == attempt)
    }

    fn has_output_from(&mut self, origin: Origin, request_id: RequestId) -> bool {
        self.link_mut(origin.worker, origin.epoch)
            .and_then(|link| link.slots.get(&request_id))
            .is_some_and(|slot| slot.has_output)
    }

    fn release(&mut self, origin: Origin, request_id: RequestId) {
        if let Some(link) = self.link_mut(origin.worker, origin.epoch) {
            link.release(request_id);
        }
    }
}

/// All token ids that an output names.
fn ids_of(output: &Output) -> impl Iterator<Item = u32> {
    let Logprobs { tokens, prompt } = &output.logprobs;
    let tops = tokens.iter().chain(prompt).flat_map(|each| &each.top);
    output.tokens.iter().copied().chain(tops.map(|(id, _)| *id))
}

/// Whether an output has the logprobs that were asked for, and no others: one for each token, and all of the prompt's by
/// the first token.
fn has_its_logprobs(request: &Tracked, output: &Output) -> bool {
    let shaping = request.request.shaping();
    let Logprobs { tokens, prompt } = &output.logprobs;
    let within = |each: &[TokenLogprobs], most: Option<u32>| {
        let most = most.unwrap_or(0) as usize;
        each.iter().all(|one| one.top.len() <= most)
    };
    let wanted = shaping.logprobs.map_or(0, |_| output.tokens.len());
    let said = request.prompt_logprobs.len() + prompt.len();
    let prompt_fits = if request.owes_prompt_logprobs() {
        let all = request.request.prompt().len() - 1; // A prompt has a token at least.
        said == all || said < all && output.tokens.is_empty()
    } else {
        prompt.is_empty()
    };
    tokens.len() == wanted
        && prompt_fits
        && within(tokens, shaping.logprobs)
        && within(prompt, shaping.prompt_logprobs)
}

/// Whether a worker can end this request so, with this output as its last.
fn is_legal(finish: &WorkerFinish, request: &Tracked, output: &Output, end: u64) -> bool {
    let sampling = request.request.sampling();
    let shaping = request.request.shaping();
    let can_stop = !sampling.ignore_eos || !shaping.stop_token_ids.is_empty();
    match finish {
        // A grammar that is at its end wins over the least number of tokens.
        WorkerFinish::Stop if shaping.grammar.is_some() => !output.tokens.is_empty(),
        WorkerFinish::Stop => {
            can_stop && !output.tokens.is_empty() && end >= u64::from(sampling.min_tokens)
        }
        WorkerFinish::Length => end == u64::from(sampling.max_tokens.get()),
        WorkerFinish::Cancelled => false, // Nobody asked: a request that we cancel has ended here.
        WorkerFinish::Error { .. } => true,
    }
}

fn ending(finish: WorkerFinish) -> Ending {
    match finish {
        WorkerFinish::Stop => Ending::Stop,
        WorkerFinish::Length => Ending::Length,
        WorkerFinish::Cancelled => Ending::Cancelled,
        WorkerFinish::Error { code, message } => Ending::Failed(Failure::Worker { code, message }),
    }
}
