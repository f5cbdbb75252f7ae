//! How likely tokens were, in the API's three shapes: chat's, completions', and the prompt's.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use slackwater_core::TokenLogprobs;

use super::fields::Endpoint;
use crate::session::Position;
use crate::tokenizer::Tokenizer;

/// What stands for minus infinity, which JSON has not.
const LEAST: f32 = -9_999.0;

/// Says what is known of tokens.
#[derive(Clone)]
pub struct LogprobWriter {
    tokenizer: Arc<Tokenizer>,
    endpoint: Endpoint,
    /// Likeliest tokens that were asked for.
    top: usize,
}

impl LogprobWriter {
    /// A writer for one answer.
    pub const fn new(tokenizer: Arc<Tokenizer>, endpoint: Endpoint, top: usize) -> Self {
        Self {
            tokenizer,
            endpoint,
            top,
        }
    }

    /// The object `logprobs` of a choice. `offset` is where its text was, in characters, and is moved on.
    pub fn choice(&self, positions: &[Position], offset: &mut usize) -> Value {
        match self.endpoint {
            Endpoint::Chat => {
                let content: Vec<Value> = positions.iter().map(|each| self.entry(each)).collect();
                json!({"content": content, "refusal": null})
            }
            Endpoint::Completions => self.lists(positions, offset),
        }
    }

    fn entry(&self, position: &Position) -> Value {
        let Some(known) = &position.logprobs else {
            return self.token(position.token, LEAST);
        };
        let top: Vec<Value> = known
            .top
            .iter()
            .take(self.top)
            .map(|(token, logprob)| self.token(*token, *logprob))
            .collect();
        let mut entry = self.token(position.token, known.logprob);
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("top_logprobs".to_owned(), top.into());
        }
        entry
    }

    fn token(&self, token: u32, logprob: f32) -> Value {
        let bytes = self.tokenizer.token_bytes(token);
        let text = String::from_utf8_lossy(&bytes);
        json!({"token": text, "logprob": finite(logprob), "bytes": bytes})
    }

    fn lists(&self, positions: &[Position], offset: &mut usize) -> Value {
        let mut tokens = Vec::with_capacity(positions.len());
        let mut offsets = Vec::with_capacity(positions.len());
        for position in positions {
            let text = self.text(position.token);
            offsets.push(*offset);
            *offset += text.chars().count();
            tokens.push(text);
        }
        let known = |position: &Position| position.logprobs.as_ref().map(|one| finite(one.logprob));
        let logprobs: Vec<Option<f32>> = positions.iter().map(known).collect();
        let top: Vec<Value> = positions.iter().map(|each| self.by_text(each)).collect();
        json!({
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": top,
            "text_offset": offsets,
        })
    }

    /// The likeliest tokens by their texts; the one that stands there is always among them.
    fn by_text(&self, position: &Position) -> Value {
        let Some(known) = &position.logprobs else {
            return Value::Null;
        };
        let mut map = Map::new();
        for (token, logprob) in known.top.iter().take(self.top) {
            map.entry(self.text(*token))
                .or_insert_with(|| json!(finite(*logprob)));
        }
        map.entry(self.text(position.token))
            .or_insert_with(|| json!(finite(known.logprob)));
        map.into()
    }

    /// `prompt_logprobs`: nothing for the first token, then one object a token, by id.
    pub fn prompt(&self, tokens: &[u32], known: &[TokenLogprobs], top: usize) -> Value {
        let mut all = vec![Value::Null];
        for (token, position) in tokens.iter().skip(1).zip(known) {
            let mut map = Map::new();
            let rank = position.top.iter().position(|(id, _)| id == token);
            map.insert(
                token.to_string(),
                self.ranked(*token, position.logprob, rank),
            );
            for (rank, (id, logprob)) in position.top.iter().enumerate().take(top) {
                map.entry(id.to_string())
                    .or_insert_with(|| self.ranked(*id, *logprob, Some(rank)));
            }
            all.push(map.into());
        }
        all.into()
    }

    /// A rank is known only of the likeliest.
    fn ranked(&self, token: u32, logprob: f32, rank: Option<usize>) -> Value {
        let rank = rank.map(|rank| rank + 1);
        json!({"logprob": finite(logprob), "rank": rank, "decoded_token": self.text(token)})
    }

    fn text(&self, token: u32) -> String {
        String::from_utf8_lossy(&self.tokenizer.token_bytes(token)).into_owned()
    }
}

const fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST)
}
