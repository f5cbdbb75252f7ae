//! The JSON of answers. The parts of a chunk that do not change are written once for each stream; of the text only what JSON
//! must escape is touched.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::app::App;
use super::fields::Endpoint;
use super::generate::{Asked, Prompted};
use super::logprobs::LogprobWriter;
use crate::session::{FinishReason, Step, Usage};

/// What all chunks of an answer, or the answer itself, say alike.
#[derive(Debug, Clone)]
pub struct AnswerHead {
    /// `chatcmpl-...` or `cmpl-...`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// The tier that was given.
    pub service_tier: &'static str,
    /// Which text files the model has.
    pub system_fingerprint: String,
}

/// What the choices of an answer say beside their texts.
pub struct Shape {
    /// Chat or completions.
    pub(super) endpoint: Endpoint,
    /// Says logprobs of tokens, where they were asked for.
    pub(super) logprobs: Option<LogprobWriter>,
    /// Says those of the prompt, so many likeliest ones a token.
    pub(super) prompt_logprobs: Option<(LogprobWriter, usize)>,
    /// Whether token ids are said.
    pub(super) token_ids: bool,
    prompts: Vec<Prompted>,
    /// Choices of each prompt.
    each: usize,
}

impl Shape {
    /// The shape of what was asked for.
    pub(super) fn new(app: &App, asked: &Asked, prompts: Vec<Prompted>) -> Self {
        let wishes = &asked.wishes;
        let writer = |top: u32| {
            let tokenizer = app.model.tokenizer().clone();
            LogprobWriter::new(tokenizer, asked.endpoint, top as usize)
        };
        Self {
            endpoint: asked.endpoint,
            logprobs: wishes.logprobs.map(writer),
            prompt_logprobs: wishes
                .prompt_logprobs
                .map(|top| (writer(top), top as usize)),
            token_ids: wishes.return_token_ids,
            prompts,
            each: wishes.n.max(1) as usize,
        }
    }

    /// A prompt's tokens.
    pub(super) fn prompt_tokens(&self, prompt: usize) -> &[u32] {
        self.prompts
            .get(prompt)
            .map_or(&[], |prompt| &prompt.tokens)
    }
}

/// Writes the events of one stream.
pub struct ChunkWriter {
    shape: Shape,
    /// From `data: ` to the opening bracket of the choices.
    head: Vec<u8>,
    /// From the closing bracket on.
    tail: &'static [u8],
    include_usage: bool,
    /// Which choices have had their first event.
    opened: Vec<bool>,
    /// Characters of each choice's text, for the offsets in its logprobs.
    offsets: Vec<usize>,
}

/// The last event of a stream that went well.
pub const DONE: &[u8] = b"data: [DONE]\n\n";
/// Says that the stream is alive.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

impl ChunkWriter {
    /// A writer for a stream of this many choices.
    pub fn new(head: &AnswerHead, shape: Shape, include_usage: bool, choices: usize) -> Self {
        let object = match shape.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        };
        let start = format!(
            "data: {{\"id\":{},\"object\":\"{object}\",\"created\":{},\"model\":{},\"service_tier\":{},\
             \"system_fingerprint\":{},\"choices\":[",
            quoted(&head.id),
            head.created,
            quoted(&head.model),
            quoted(head.service_tier),
            quoted(&head.system_fingerprint),
        );
        Self {
            shape,
            head: start.into_bytes(),
            tail: if include_usage {
                b"],\"usage\":null}\n\n"
            } else {
                b"]}\n\n"
            },
            include_usage,
            opened: vec![false; choices],
            offsets: vec![0; choices],
        }
    }

    /// One event with a step's text of a choice, and what is said of its tokens. In chat the first one is led by the
    /// event that gives the role.
    pub fn step(&mut self, out: &mut BytesMut, index: usize, step: &Step) {
        let is_first = self.open(out, index);
        let (before, after): (&[u8], &[u8]) = match self.shape.endpoint {
            Endpoint::Chat => (b",\"delta\":{\"content\":", b"}"),
            Endpoint::Completions => (b",\"text\":", b""),
        };
        self.begin(out, index);
        out.put_slice(before);
        put_quoted(out, &step.text);
        out.put_slice(after);
        out.put_slice(b",\"logprobs\":");
        match (&self.shape.logprobs, self.offsets.get_mut(index)) {
            (Some(writer), Some(offset)) if !step.positions.is_empty() => {
                out.put_slice(
                    writer
                        .choice(&step.positions, offset)
                        .to_string()
                        .as_bytes(),
                );
            }
            _ => out.put_slice(b"null"),
        }
        out.put_slice(b",\"finish_reason\":null");
        if self.shape.token_ids {
            put_ids(out, "token_ids", &step.token_ids);
            if is_first && self.shape.endpoint == Endpoint::Completions {
                let prompt = self.shape.prompt_tokens(index / self.shape.each);
                put_ids(out, "prompt_token_ids", prompt);
            }
        }
        out.put_u8(b'}');
        out.put_slice(self.tail);
    }

    /// The event that ends a choice.
    pub fn finish(&mut self, out: &mut BytesMut, index: usize, reason: FinishReason) {
        self.open(out, index);
        let before: &[u8] = match self.shape.endpoint {
            Endpoint::Chat => b",\"delta\":{},\"logprobs\":null,\"finish_reason\":",
            Endpoint::Completions => b",\"text\":\"\",\"logprobs\":null,\"finish_reason\":",
        };
        self.begin(out, index);
        out.put_slice(before);
        put_quoted(out, reason.name());
        out.put_u8(b'}');
        out.put_slice(self.tail);
    }

    /// What comes after all choices have ended: the usage, if it was asked for, and the last event.
    pub fn done(&self, out: &mut BytesMut, usage: Usage) {
        if self.include_usage {
            out.put_slice(&self.head);
            out.put_slice(b"],\"usage\":");
            out.put_slice(usage_json(usage).to_string().as_bytes());
            out.put_slice(b"}\n\n");
        }
        out.put_slice(DONE);
    }

    /// Says once what comes before all else of a choice; whether that was now.
    fn open(&mut self, out: &mut BytesMut, index: usize) -> bool {
        let first = match self.opened.get_mut(index) {
            Some(opened) => !std::mem::replace(opened, true),
            None => false,
        };
        if first && self.shape.endpoint == Endpoint::Chat {
            self.begin(out, index);
            out.put_slice(
                b",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}",
            );
            if self.shape.token_ids && index == 0 {
                out.put_u8(b']');
                put_ids(out, "prompt_token_ids", self.shape.prompt_tokens(0));
                out.put_slice(self.tail.get(1..).unwrap_or_default());
            } else {
                out.put_slice(self.tail);
            }
        }
        first
    }

    fn begin(&self, out: &mut BytesMut, index: usize) {
        out.put_slice(&self.head);
        out.put_slice(b"{\"index\":");
        out.put_slice(index.to_string().as_bytes());
    }
}

/// The object `usage`.
pub(super) fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// A further field with token ids.
fn put_ids(out: &mut BytesMut, name: &str, ids: &[u32]) {
    out.put_slice(b",\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\":");
    out.put_slice(Value::from(ids).to_string().as_bytes());
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A JSON string. Runs of characters that stand for themselves are copied whole.
fn put_quoted(out: &mut BytesMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(text.len() + 2);
    out.put_u8(b'"');
    let mut plain = text.as_bytes();
    while let Some(at) = plain
        .iter()
        .position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\')
    {
        let (before, rest) = plain.split_at(at);
        out.put_slice(before);
        let Some((byte, rest)) = rest.split_first() else {
            break;
        };
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            other => {
                out.put_slice(b"\\u00");
                let [high, low] = [other >> 4, other & 15];
                for digit in [high, low] {
                    out.put_u8(HEX.get(usize::from(digit)).copied().unwrap_or(b'0'));
                }
            }
        }
        plain = rest;
    }
    out.put_slice(plain);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quoted_text_reads_back(text in "[\\x00-\\x7fé漢😀]{0,40}") {
            let mut out = BytesMut::new();
            put_quoted(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
