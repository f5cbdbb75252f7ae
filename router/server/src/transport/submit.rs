//! A placement as the message `Submit`: numbers in the body, prompt, history and lists in the ids part.

use slackwater_core::{Class, GrammarKind, Placement, Request};
use slackwater_wire::Message;
use slackwater_wire::messages::{self as wire, HexId, RequestClass, SamplingParams, Submit};

use super::map::micros;

/// The message of a placement.
pub(super) fn submit(placement: &Placement, seq: u64) -> Message {
    let request = &placement.request;
    let shaping = request.shaping();
    let submit = Submit {
        seq,
        request_id: HexId(request.request_id().0),
        attempt: placement.attempt,
        group: request.group().map(|group| HexId(group.0)),
        choice_index: request.choice_index(),
        class: class(request.class()),
        salt: request.salt(),
        num_output_tokens: len(&placement.history),
        credit_up_to: placement.credit_up_to,
        remaining_micros: placement.remaining.map(micros),
        params: params(request, placement.history.is_empty()),
    };
    let mut ids = request.prompt().to_vec();
    ids.extend(&placement.history);
    ids.extend(&shaping.stop_token_ids);
    ids.extend(shaping.allowed_token_ids.iter().flatten());
    ids.extend(shaping.bad_words.iter().flatten());
    let (tokens, biases): (Vec<u32>, Vec<f32>) = shaping.logit_bias.iter().copied().unzip();
    ids.extend(tokens);
    Message::Submit(submit, ids, biases)
}

/// Who has a token has the prompt's logprobs, so a resume does not ask for them.
fn params(request: &Request, is_new: bool) -> SamplingParams {
    let sampling = request.sampling();
    let shaping = request.shaping();
    SamplingParams {
        max_tokens: sampling.max_tokens.get(),
        min_tokens: sampling.min_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: shaping.top_k,
        min_p: narrow(shaping.min_p),
        frequency_penalty: narrow(shaping.frequency_penalty),
        presence_penalty: narrow(shaping.presence_penalty),
        repetition_penalty: narrow(shaping.repetition_penalty),
        seed: sampling.seed,
        ignore_eos: sampling.ignore_eos,
        logprobs: shaping.logprobs,
        prompt_logprobs: shaping.prompt_logprobs.filter(|_| is_new),
        grammar: shaping.grammar.as_ref().map(|grammar| wire::Grammar {
            kind: kind(grammar.kind),
            text: grammar.text.clone(),
        }),
        num_stop_token_ids: len(&shaping.stop_token_ids),
        num_allowed_token_ids: shaping.allowed_token_ids.as_deref().map(len),
        bad_word_lengths: shaping.bad_words.iter().map(|word| len(word)).collect(),
        num_logit_bias: u32::try_from(shaping.logit_bias.len()).unwrap_or(u32::MAX),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the core has checked the range, which an f32 holds"
)]
const fn narrow(value: f64) -> f32 {
    value as f32
}

fn len(ids: &[u32]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}

const fn kind(kind: GrammarKind) -> wire::GrammarKind {
    match kind {
        GrammarKind::JsonSchema => wire::GrammarKind::JsonSchema,
        GrammarKind::JsonObject => wire::GrammarKind::JsonObject,
        GrammarKind::Regex => wire::GrammarKind::Regex,
        GrammarKind::Choice => wire::GrammarKind::Choice,
        GrammarKind::Lark => wire::GrammarKind::Lark,
        GrammarKind::StructuralTag => wire::GrammarKind::StructuralTag,
    }
}

const fn class(class: Class) -> RequestClass {
    match class {
        Class::Interactive => RequestClass::Interactive,
        Class::Standard => RequestClass::Standard,
        Class::Offline => RequestClass::Offline,
    }
}
