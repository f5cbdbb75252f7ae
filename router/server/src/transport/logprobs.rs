//! A step's logprobs, taken from the parts in the order in which the wire has them.

use slackwater_core::{Logprobs, TokenLogprobs};
use slackwater_wire::messages::RequestOutput;

/// What is left of the two parts.
pub(super) struct Listed<'p> {
    /// Likeliest tokens.
    pub(super) tops: &'p [u32],
    /// Logprobs.
    pub(super) floats: &'p [f32],
}

impl Listed<'_> {
    /// Those of the next output; nothing where the parts end too soon, which the codec has ruled out.
    pub(super) fn of(&mut self, output: &RequestOutput) -> Option<Logprobs> {
        let prompt = self.positions(
            output.num_prompt_logprobs as usize,
            output.num_top_prompt_logprobs as usize,
        )?;
        let tokens = match output.num_top_logprobs {
            Some(top) => self.positions(output.num_tokens as usize, top as usize)?,
            None => Vec::new(),
        };
        Some(Logprobs { tokens, prompt })
    }

    fn positions(&mut self, count: usize, top: usize) -> Option<Vec<TokenLogprobs>> {
        let listed = count.checked_mul(top)?;
        let (ids, tops) = self.tops.split_at_checked(listed)?;
        let (chosen, floats) = self.floats.split_at_checked(count)?;
        let (values, floats) = floats.split_at_checked(listed)?;
        (self.tops, self.floats) = (tops, floats);
        let mut likeliest = ids.iter().copied().zip(values.iter().copied());
        let position = |logprob: &f32| TokenLogprobs {
            logprob: *logprob,
            top: likeliest.by_ref().take(top).collect(),
        };
        Some(chosen.iter().map(position).collect())
    }
}
