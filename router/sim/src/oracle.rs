//! Tokens that can be checked: a hash chain over prompt, seed and every token before. A worker that is given a wrong
//! history, or output folded into the prompt, goes on with tokens that are wrong from there on.

use slackwater_core::{Ending, Request, Sampling};
use xxhash_rust::xxh3::xxh3_64;

/// The bounds of the ids that the chain gives, and which of them end a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oracle {
    /// Smallest id.
    pub first: u32,
    /// One past the largest id.
    pub vocab_size: u32,
    /// Ids that are a multiple of this end the text; 0 for none.
    pub end_every: u32,
}

impl Oracle {
    /// The bounds that tests use; the Python side has the same smallest id.
    pub const fn for_test() -> Self {
        Self {
            first: 256,
            vocab_size: 4_096,
            end_every: 0,
        }
    }

    /// The chain after a prompt.
    pub fn chain(self, prompt: &[u32], seed: u64) -> Chain {
        let mut bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
        bytes.extend_from_slice(&seed.to_le_bytes());
        Chain {
            oracle: self,
            state: xxh3_64(&bytes),
        }
    }

    /// Whether this token ends the text as the request wants it.
    pub const fn ends(self, token: u32, position: u32, sampling: &Sampling) -> bool {
        self.end_every != 0
            && !sampling.ignore_eos
            && position >= sampling.min_tokens
            && token.is_multiple_of(self.end_every)
    }

    /// All the tokens that an undisturbed worker gives, and how it ends.
    pub fn answer(self, request: &Request) -> (Vec<u32>, Ending) {
        let sampling = request.sampling();
        let mut chain = self.chain(request.prompt(), sampling.seed);
        let mut tokens = Vec::new();
        for position in 0..sampling.max_tokens.get() {
            let token = chain.next_token();
            tokens.push(token);
            if self.ends(token, position, sampling) {
                return (tokens, Ending::Stop);
            }
        }
        (tokens, Ending::Length)
    }
}

/// A place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    oracle: Oracle,
    state: u64,
}

impl Chain {
    /// The next token; the chain moves on by it.
    pub fn next_token(&mut self) -> u32 {
        let span = u64::from(
            self.oracle
                .vocab_size
                .saturating_sub(self.oracle.first)
                .max(1),
        );
        let offset = u32::try_from(self.state % span).unwrap_or(0);
        let token = self.oracle.first + offset;
        self.replay(token);
        token
    }

    /// Moves on by a token that was given before.
    pub fn replay(&mut self, token: u32) {
        let mut bytes = [0; 12];
        for (to, from) in bytes.iter_mut().zip(
            self.state
                .to_le_bytes()
                .into_iter()
                .chain(token.to_le_bytes()),
        ) {
            *to = from;
        }
        self.state = xxh3_64(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_tokens_that_the_python_side_gives() {
        let mut chain = Oracle::for_test().chain(&[1, 2, 3], 7);
        let tokens: Vec<u32> = (0..8).map(|_| chain.next_token()).collect();
        assert_eq!(tokens, [446, 3910, 3345, 698, 1211, 327, 3409, 634]);
    }

    #[test]
    fn replaying_the_history_continues_the_chain_and_folding_it_into_the_prompt_does_not() {
        let oracle = Oracle::for_test();
        let prompt = [1, 2, 3];
        let mut whole = oracle.chain(&prompt, 7);
        let tokens: Vec<u32> = (0..8).map(|_| whole.next_token()).collect();
        let mut resumed = oracle.chain(&prompt, 7);
        tokens[..5].iter().for_each(|token| resumed.replay(*token));
        let rest: Vec<u32> = (0..3).map(|_| resumed.next_token()).collect();
        assert_eq!(rest, tokens[5..]);
        let folded = [prompt.as_slice(), &tokens[..5]].concat();
        let mut folded = oracle.chain(&folded, 7);
        let other: Vec<u32> = (0..3).map(|_| folded.next_token()).collect();
        assert_ne!(other, tokens[5..]);
        assert!(tokens.iter().all(|token| (256..4_096).contains(token)));
    }
}
