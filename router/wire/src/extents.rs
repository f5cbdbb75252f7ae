//! Whether the counts in a body fit the array parts, and whether what these hold is within bounds.

use crate::codec::extent;
use crate::error::WireError;
use crate::messages::{StepOutputs, Submit};
use crate::sampling::MAX_LOGPROBS;

/// Largest bias of a token.
const MAX_BIAS: f32 = 100.0;

/// At least one prompt token must be left once the lists and the history are taken off the end.
pub(crate) fn submit(submit: &Submit, ids: &[u32], floats: &[f32]) -> Result<(), WireError> {
    const KIND: &str = "Submit";
    submit.params.check()?;
    let wanted = u64::from(submit.num_output_tokens) + submit.params.num_list_ids() + 1;
    if wanted > ids.len() as u64 {
        return Err(extent(KIND, "num_output_tokens", "ids", wanted, ids.len()));
    }
    let biases = u64::from(submit.params.num_logit_bias);
    if biases != floats.len() as u64 {
        return Err(extent(
            KIND,
            "num_logit_bias",
            "floats",
            biases,
            floats.len(),
        ));
    }
    let in_range = |bias: &f32| (-MAX_BIAS..=MAX_BIAS).contains(bias);
    if floats.iter().all(in_range) {
        return Ok(());
    }
    Err(WireError::OutOfRange {
        kind: KIND,
        field: "logit_bias",
    })
}

/// Counts are summed as u64 of u32 products, each within bounds, so that nothing wraps.
pub(crate) fn step(step: &StepOutputs, ids: &[u32], floats: &[f32]) -> Result<(), WireError> {
    const KIND: &str = "StepOutputs";
    let out_of_range = |field| WireError::OutOfRange { kind: KIND, field };
    let (mut tokens, mut tops, mut numbers) = (0_u64, 0_u64, 0_u64);
    for output in &step.outputs {
        let top = output.num_top_logprobs.unwrap_or(0);
        let top_prompt = output.num_top_prompt_logprobs;
        if top > MAX_LOGPROBS {
            return Err(out_of_range("num_top_logprobs"));
        }
        if top_prompt > MAX_LOGPROBS || output.num_prompt_logprobs == 0 && top_prompt > 0 {
            return Err(out_of_range("num_top_prompt_logprobs"));
        }
        let here = u64::from(output.num_tokens);
        let prompt = u64::from(output.num_prompt_logprobs);
        let with_logprobs = output.num_top_logprobs.map_or(0, |_| here);
        let listed = here * u64::from(top) + prompt * u64::from(top_prompt);
        tokens = tokens.saturating_add(here);
        tops = tops.saturating_add(listed);
        numbers = numbers.saturating_add(with_logprobs + prompt + listed);
    }
    let wanted = tokens.saturating_add(tops);
    if wanted != ids.len() as u64 {
        return Err(extent(KIND, "num_tokens", "ids", wanted, ids.len()));
    }
    if numbers != floats.len() as u64 {
        return Err(extent(
            KIND,
            "num_top_logprobs",
            "floats",
            numbers,
            floats.len(),
        ));
    }
    // A token that cannot come has minus infinity.
    if floats
        .iter()
        .any(|value| value.is_nan() || *value == f32::INFINITY)
    {
        return Err(out_of_range("logprobs"));
    }
    Ok(())
}

/// So many words a block, exactly.
pub(crate) fn blocks(
    kind: &'static str,
    num_blocks: u32,
    words_each: u64,
    words: &[u32],
) -> Result<(), WireError> {
    let wanted = u64::from(num_blocks) * words_each;
    if wanted == words.len() as u64 {
        return Ok(());
    }
    Err(extent(kind, "num_blocks", "ids", wanted, words.len()))
}
