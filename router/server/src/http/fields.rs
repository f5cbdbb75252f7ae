//! The closed table of request fields: each is honoured, accepted without effect on the text, or refused. Nothing is dropped
//! or defaulted in silence.

use serde_json::Value;

use super::error::ServerError;
use super::json::{Object, short};

/// An endpoint that reads fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// What becomes of a field. `null` is always the same as leaving it out.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// It is read.
    Honoured,
    /// It has no effect on the text and is listed in the answer's `x-slackwater-ignored`.
    Ignored,
    /// As `Ignored`, if it has a value that asks for nothing; else it is refused.
    IgnoredIf(fn(&Value) -> bool),
    /// It passes with a value that asks for nothing; else it is refused.
    Neutral(fn(&Value) -> bool),
    /// It is refused.
    Refused,
    /// The endpoint does not have it.
    Absent,
}

use Rule::{Absent, Honoured, Ignored, IgnoredIf, Neutral, Refused};

/// Name, rule in chat, rule in completions.
const FIELDS: &[(&str, Rule, Rule)] = &[
    ("model", Honoured, Honoured),
    ("messages", Honoured, Absent),
    ("prompt", Absent, Honoured),
    ("stream", Honoured, Honoured),
    ("stream_options", Honoured, Honoured),
    ("max_tokens", Honoured, Honoured),
    ("max_completion_tokens", Honoured, Honoured),
    ("min_tokens", Honoured, Honoured),
    ("ignore_eos", Honoured, Honoured),
    ("temperature", Honoured, Honoured),
    ("top_p", Honoured, Honoured),
    ("stop", Honoured, Honoured),
    ("seed", Honoured, Honoured),
    ("service_tier", Honoured, Honoured),
    ("request_id", Honoured, Honoured),
    ("cache_salt", Honoured, Honoured),
    // Labels and hints.
    ("user", Ignored, Ignored),
    ("safety_identifier", Ignored, Ignored),
    ("metadata", Ignored, Ignored),
    ("prediction", Ignored, Absent),
    ("prompt_cache_key", Ignored, Ignored),
    ("session_id", Ignored, Ignored),
    ("store", IgnoredIf(is_false), IgnoredIf(is_false)),
    // Sampling.
    ("n", Honoured, Honoured),
    ("best_of", Neutral(is_one), Honoured),
    ("frequency_penalty", Honoured, Honoured),
    ("presence_penalty", Honoured, Honoured),
    ("repetition_penalty", Honoured, Honoured),
    ("top_k", Honoured, Honoured),
    ("min_p", Honoured, Honoured),
    ("logit_bias", Honoured, Honoured),
    ("allowed_token_ids", Honoured, Honoured),
    ("bad_words", Honoured, Honoured),
    ("stop_token_ids", Honoured, Honoured),
    ("include_stop_str_in_output", Honoured, Honoured),
    ("skip_special_tokens", Honoured, Honoured),
    // Our detokeniser never puts spaces between them.
    (
        "spaces_between_special_tokens",
        IgnoredIf(Value::is_boolean),
        IgnoredIf(Value::is_boolean),
    ),
    ("logprobs", Honoured, Honoured),
    ("top_logprobs", Honoured, Absent),
    ("prompt_logprobs", Honoured, Honoured),
    ("return_token_ids", Honoured, Honoured),
    ("echo", Neutral(is_false), Honoured),
    ("suffix", Absent, Neutral(is_empty)),
    ("truncate_prompt_tokens", Honoured, Honoured),
    ("priority", Neutral(is_zero), Neutral(is_zero)),
    ("logits_processors", Neutral(is_empty), Neutral(is_empty)),
    ("use_beam_search", Neutral(is_false), Neutral(is_false)),
    ("kv_transfer_params", Refused, Refused),
    // Shape of the answer.
    ("response_format", Honoured, Honoured),
    ("structured_outputs", Honoured, Honoured),
    ("tools", Neutral(is_empty), Absent),
    ("tool_choice", Neutral(is_no_tool), Absent),
    ("parallel_tool_calls", Neutral(Value::is_boolean), Absent),
    ("functions", Neutral(is_empty), Absent),
    ("function_call", Neutral(is_no_tool), Absent),
    ("audio", Refused, Absent),
    ("modalities", Neutral(is_text_only), Absent),
    ("web_search_options", Refused, Absent),
    ("verbosity", Refused, Absent),
    ("reasoning_effort", Refused, Absent),
    // Template.
    ("chat_template", Refused, Absent),
    ("chat_template_kwargs", Neutral(is_empty), Absent),
    ("documents", Neutral(is_empty), Absent),
    ("add_generation_prompt", Neutral(is_true), Absent),
    ("continue_final_message", Neutral(is_false), Absent),
];

/// Checks each field of a body against the table, and gives the names of those that were accepted without effect.
///
/// # Errors
/// 400 `unknown_parameter` or `unsupported_parameter`, naming the field.
pub fn check(body: &Object, endpoint: Endpoint) -> Result<Vec<&'static str>, ServerError> {
    let tools_unused = body.get("tool_choice").and_then(Value::as_str) == Some("none");
    let mut ignored = Vec::new();
    for (name, value) in body {
        let Some((name, rule)) = rule_of(name, endpoint) else {
            let param = short(name);
            return Err(ServerError::UnknownParameter { param });
        };
        let refused = match rule {
            _ if value.is_null() => false,
            Honoured => false,
            Ignored => {
                ignored.push(name);
                false
            }
            IgnoredIf(neutral) if neutral(value) => {
                ignored.push(name);
                false
            }
            // Tools that the model is told not to use.
            Neutral(_) if name == "tools" && tools_unused => {
                ignored.push(name);
                false
            }
            Neutral(neutral) => !neutral(value),
            IgnoredIf(_) | Refused | Absent => true,
        };
        if refused {
            return Err(ServerError::UnsupportedParameter {
                param: name.to_owned(),
            });
        }
    }
    ignored.sort_unstable();
    Ok(ignored)
}

fn rule_of(name: &str, endpoint: Endpoint) -> Option<(&'static str, Rule)> {
    let (name, chat, completions) = FIELDS.iter().find(|(known, ..)| *known == name)?;
    let rule = match endpoint {
        Endpoint::Chat => *chat,
        Endpoint::Completions => *completions,
    };
    (!matches!(rule, Absent)).then_some((*name, rule))
}

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true)
}

#[allow(clippy::float_cmp, reason = "only the exact value asks for nothing")]
fn is_number(value: &Value, number: f64) -> bool {
    value.as_f64() == Some(number)
}

fn is_zero(value: &Value) -> bool {
    is_number(value, 0.0)
}

fn is_one(value: &Value) -> bool {
    is_number(value, 1.0)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_no_tool(value: &Value) -> bool {
    matches!(value.as_str(), Some("none" | "auto"))
}

fn is_text_only(value: &Value) -> bool {
    value.as_array().is_some_and(|list| {
        list.iter()
            .all(|modality| modality.as_str() == Some("text"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(body: &Value, endpoint: Endpoint) -> Result<Vec<&'static str>, String> {
        check(body.as_object().unwrap(), endpoint)
            .map_err(|error| format!("{} {error}", error.code().name()))
    }

    #[test]
    fn each_name_stands_once() {
        let mut names: Vec<_> = FIELDS.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn neutral_values_pass_and_hints_are_listed() {
        let body = json!({
            "model": "m", "messages": [], "n": 1, "best_of": 1, "echo": false, "priority": 0,
            "response_format": {"type": "text"}, "tools": [{"type": "function"}], "tool_choice": "none",
            "user": "u", "store": false, "metadata": null, "audio": null, "spaces_between_special_tokens": true,
        });
        assert_eq!(
            outcome(&body, Endpoint::Chat),
            Ok(vec![
                "spaces_between_special_tokens",
                "store",
                "tools",
                "user"
            ])
        );
        let body = json!({"model": "m", "prompt": "", "logprobs": false});
        assert_eq!(outcome(&body, Endpoint::Completions), Ok(Vec::new()));
    }

    #[test]
    fn all_else_is_refused_by_name() {
        let cases = [
            (
                json!({"best_of": 2}),
                Endpoint::Chat,
                "unsupported_parameter",
                "best_of",
            ),
            (
                json!({"store": true}),
                Endpoint::Chat,
                "unsupported_parameter",
                "store",
            ),
            (
                json!({"tools": [{}]}),
                Endpoint::Chat,
                "unsupported_parameter",
                "tools",
            ),
            (
                json!({"top_logprobs": 0}),
                Endpoint::Completions,
                "unknown_parameter",
                "top_logprobs",
            ),
            (
                json!({"echo": true}),
                Endpoint::Chat,
                "unsupported_parameter",
                "echo",
            ),
            (
                json!({"messages": []}),
                Endpoint::Completions,
                "unknown_parameter",
                "messages",
            ),
            (
                json!({"prompt": ""}),
                Endpoint::Chat,
                "unknown_parameter",
                "prompt",
            ),
            (
                json!({"temprature": 1}),
                Endpoint::Chat,
                "unknown_parameter",
                "temprature",
            ),
        ];
        for (body, endpoint, code, param) in cases {
            let error = outcome(&body, endpoint).unwrap_err();
            assert!(
                error.starts_with(code) && error.contains(param),
                "{body}: {error}"
            );
        }
    }
}
