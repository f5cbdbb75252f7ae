//! The JSON of answers. The parts of a chunk that do not change are written once for each stream; of the text only what JSON
//! must escape is touched.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::fields::Endpoint;
use crate::session::{FinishReason, Usage};

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

/// Writes the events of one stream.
pub struct ChunkWriter {
    endpoint: Endpoint,
    /// From `data: ` to the opening bracket of the choices.
    head: Vec<u8>,
    /// From the closing bracket on.
    tail: &'static [u8],
    include_usage: bool,
    /// Which choices have had their role.
    opened: Vec<bool>,
}

/// The last event of a stream that went well.
pub const DONE: &[u8] = b"data: [DONE]\n\n";
/// Says that the stream is alive.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

impl ChunkWriter {
    /// A writer for a stream of this many choices.
    pub fn new(endpoint: Endpoint, head: &AnswerHead, include_usage: bool, choices: usize) -> Self {
        let object = match endpoint {
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
            endpoint,
            head: start.into_bytes(),
            tail: if include_usage {
                b"],\"usage\":null}\n\n"
            } else {
                b"]}\n\n"
            },
            include_usage,
            opened: vec![false; choices],
        }
    }

    /// One event with text of a choice. In chat the first one is led by the event that gives the role.
    pub fn text(&mut self, out: &mut BytesMut, index: usize, text: &str) {
        self.open(out, index);
        let before: &[u8] = match self.endpoint {
            Endpoint::Chat => b",\"delta\":{\"content\":",
            Endpoint::Completions => b",\"text\":",
        };
        let after: &[u8] = match self.endpoint {
            Endpoint::Chat => b"},\"logprobs\":null,\"finish_reason\":null}",
            Endpoint::Completions => b",\"logprobs\":null,\"finish_reason\":null}",
        };
        self.begin(out, index);
        out.put_slice(before);
        put_quoted(out, text);
        out.put_slice(after);
        out.put_slice(self.tail);
    }

    /// The event that ends a choice.
    pub fn finish(&mut self, out: &mut BytesMut, index: usize, reason: FinishReason) {
        self.open(out, index);
        let before: &[u8] = match self.endpoint {
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

    fn open(&mut self, out: &mut BytesMut, index: usize) {
        let first = match self.opened.get_mut(index) {
            Some(opened) => !std::mem::replace(opened, true),
            None => false,
        };
        if first && self.endpoint == Endpoint::Chat {
            self.begin(out, index);
            out.put_slice(
                b",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}",
            );
            out.put_slice(self.tail);
        }
    }

    fn begin(&self, out: &mut BytesMut, index: usize) {
        out.put_slice(&self.head);
        out.put_slice(b"{\"index\":");
        out.put_slice(index.to_string().as_bytes());
    }
}

/// A whole answer: one text and reason for each choice.
pub fn whole(
    endpoint: Endpoint,
    head: &AnswerHead,
    choices: &[(String, FinishReason)],
    usage: Usage,
) -> Vec<u8> {
    let choice = |(index, (text, reason)): (usize, &(String, FinishReason))| match endpoint {
        Endpoint::Chat => json!({
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": null,
            "finish_reason": reason.name(),
        }),
        Endpoint::Completions => json!({
            "index": index,
            "text": text,
            "logprobs": null,
            "finish_reason": reason.name(),
        }),
    };
    let choices: Vec<Value> = choices.iter().enumerate().map(choice).collect();
    let object = match endpoint {
        Endpoint::Chat => "chat.completion",
        Endpoint::Completions => "text_completion",
    };
    json!({
        "id": head.id,
        "object": object,
        "created": head.created,
        "model": head.model,
        "service_tier": head.service_tier,
        "system_fingerprint": head.system_fingerprint,
        "choices": choices,
        "usage": usage_json(usage),
    })
    .to_string()
    .into_bytes()
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
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
