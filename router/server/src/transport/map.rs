//! Wire messages to the core's events, and its actions to wire messages. The only file that knows both.

use std::time::Duration;

use slackwater_core::{
    Action, Capabilities, Epoch, Event, FenceReason, GoneCause, Origin, Output, Refusal, RequestId,
    WorkerFinish, WorkerId,
};
use slackwater_wire::Message;
use slackwater_wire::messages::{
    Bye, ByeCode, Cancel, Credit, Finish, HexId, Ready, Refused, RefusedScope, RequestOutput,
    RouterHeartbeat, StepOutputs, WorkerStats,
};

use super::logprobs::Listed;
use super::submit::submit;

/// What a message from a worker that is ready comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Something for the core.
    Core(Event),
    /// The worker's figures, and their place on the link for the core.
    Stats(Event, WorkerStats),
    /// The worker says goodbye.
    Bye(Event, Bye),
    /// A message that has no place here; the text says which.
    Violation(String),
}

/// Reads a message from a worker that is ready.
pub fn heard(message: Message, worker: WorkerId, epoch: Epoch) -> Heard {
    let kind = message.kind().name();
    let at = |seq| Origin { worker, epoch, seq };
    match message {
        Message::Accepted(accepted) => Heard::Core(Event::WorkerAccepted {
            origin: at(accepted.seq),
            request_id: RequestId(accepted.request_id.0),
            attempt: accepted.attempt,
        }),
        Message::Refused(refused) => Heard::Core(Event::WorkerRefused {
            origin: at(refused.seq),
            request_id: RequestId(refused.request_id.0),
            attempt: refused.attempt,
            refusal: refusal(refused),
        }),
        Message::StepOutputs(step, ids, floats) => {
            let origin = at(step.seq);
            let step_micros = step.step_micros;
            match outputs(step, &ids, &floats) {
                Some(outputs) => Heard::Core(Event::WorkerOutputs {
                    origin,
                    step_micros,
                    outputs,
                }),
                None => Heard::Violation("an output's end and its error do not fit".to_owned()),
            }
        }
        Message::Heartbeat(beat) => Heard::Core(Event::Heartbeat {
            origin: at(beat.seq),
            progress: beat.progress,
            busy: beat.busy,
        }),
        Message::WorkerStats(stats) => {
            let origin = at(stats.seq);
            Heard::Stats(Event::WorkerStats { origin }, stats)
        }
        Message::BlocksStored(blocks, _) => Heard::Core(changed(at(blocks.seq))),
        Message::BlocksRemoved(blocks, _) => Heard::Core(changed(at(blocks.seq))),
        Message::BlocksCleared(cleared) => Heard::Core(changed(at(cleared.seq))),
        Message::Bye(bye) => Heard::Bye(gone(worker, epoch, GoneCause::Bye), bye),
        Message::Hello(_)
        | Message::Welcome(_)
        | Message::Ready(_)
        | Message::Submit(..)
        | Message::Credit(_)
        | Message::Cancel(_)
        | Message::RouterHeartbeat(_)
        | Message::AskBlocks(_) => Heard::Violation(format!("{kind} has no place here")),
    }
}

const fn changed(origin: Origin) -> Event {
    Event::WorkerBlocks { origin }
}

/// The event of a link that ended.
pub const fn gone(worker: WorkerId, epoch: Epoch, cause: GoneCause) -> Event {
    Event::WorkerGone {
        worker,
        epoch: Some(epoch),
        cause,
    }
}

/// What a READY says that the core needs.
pub fn capabilities(ready: &Ready, own: bool) -> Capabilities {
    Capabilities {
        vocab_size: ready.vocab_size,
        max_model_len: ready.max_model_len,
        slots: ready.slots,
        numerics: ready.numerics.clone(),
        own,
    }
}

fn refusal(refused: Refused) -> Refusal {
    Refusal {
        code: refused.code,
        message: refused.message,
        param: refused.param,
        elsewhere: refused.scope == RefusedScope::Worker,
    }
}

/// Splits a step's parts among its outputs, which the codec has counted; nothing where an end and its error do not fit.
fn outputs(step: StepOutputs, ids: &[u32], floats: &[f32]) -> Option<Vec<Output>> {
    let sampled: usize = step
        .outputs
        .iter()
        .map(|each| each.num_tokens as usize)
        .sum();
    let (mut rest, tops) = ids.split_at_checked(sampled)?;
    let mut listed = Listed { tops, floats };
    step.outputs
        .into_iter()
        .map(|output| {
            let (tokens, after) = rest.split_at_checked(output.num_tokens as usize)?;
            rest = after;
            Some(Output {
                request_id: RequestId(output.request_id.0),
                attempt: output.attempt,
                start: output.start,
                tokens: tokens.to_vec(),
                num_cached_tokens: output.num_cached_tokens,
                logprobs: listed.of(&output)?,
                finish: finish(output)?,
            })
        })
        .collect()
}

#[allow(
    clippy::option_option,
    reason = "the outer one says that the output contradicts itself"
)]
fn finish(output: RequestOutput) -> Option<Option<WorkerFinish>> {
    match (output.finish, output.error) {
        (None, None) => Some(None),
        (Some(Finish::Stop), None) => Some(Some(WorkerFinish::Stop)),
        (Some(Finish::Length), None) => Some(Some(WorkerFinish::Length)),
        (Some(Finish::Cancelled), None) => Some(Some(WorkerFinish::Cancelled)),
        (Some(Finish::Error), Some(error)) => Some(Some(WorkerFinish::Error {
            code: error.code,
            message: error.message,
        })),
        (Some(Finish::Error), None) | (_, Some(_)) => None,
    }
}

/// The link that an action is for, if it is for one.
pub const fn destination(action: &Action) -> Option<(WorkerId, Epoch)> {
    match action {
        Action::Submit(placement) | Action::Resume(placement) => {
            Some((placement.worker, placement.epoch))
        }
        Action::Cancel { worker, epoch, .. }
        | Action::Credit { worker, epoch, .. }
        | Action::Fence { worker, epoch, .. }
        | Action::Drain { worker, epoch } => Some((*worker, *epoch)),
        Action::Deliver { .. }
        | Action::Reject { .. }
        | Action::Finish { .. }
        | Action::Restart { .. } => None,
    }
}

/// The message that an action is on the wire, if it is one.
pub fn message(action: &Action, seq: u64) -> Option<Message> {
    match action {
        Action::Submit(placement) | Action::Resume(placement) => Some(submit(placement, seq)),
        Action::Cancel {
            request_id,
            attempt,
            ..
        } => Some(Message::Cancel(Cancel {
            seq,
            request_id: HexId(request_id.0),
            attempt: *attempt,
        })),
        Action::Credit {
            request_id,
            attempt,
            up_to,
            ..
        } => Some(Message::Credit(Credit {
            seq,
            request_id: HexId(request_id.0),
            attempt: *attempt,
            up_to: *up_to,
        })),
        Action::Fence { reason, .. } => Some(bye(seq, ByeCode::Violation, fence_text(*reason))),
        Action::Drain { .. } => Some(bye(seq, ByeCode::Drain, "finish and end")),
        Action::Deliver { .. }
        | Action::Reject { .. }
        | Action::Finish { .. }
        | Action::Restart { .. } => None,
    }
}

/// The router's sign of life.
pub const fn heartbeat(seq: u64) -> Message {
    Message::RouterHeartbeat(RouterHeartbeat { seq })
}

/// A goodbye.
pub fn bye(seq: u64, code: ByeCode, message: &str) -> Message {
    Message::Bye(Bye {
        seq,
        code,
        message: message.to_owned(),
    })
}

const fn fence_text(reason: FenceReason) -> &'static str {
    match reason {
        FenceReason::Silent => "nothing was heard from the worker for too long; say HELLO again",
        FenceReason::Hung => "the worker's engine stands still while it has work",
        FenceReason::Violation => "the worker broke the link's rules",
        FenceReason::Replaced => "a newer link of the same worker took this one's place",
    }
}

/// A span as it travels.
pub fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
