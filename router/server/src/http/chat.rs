//! `POST /v1/chat/completions`: messages, rendered by the model's template.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::app::App;
use super::error::ServerError;
use super::fields::Endpoint;
use super::generate::{self, Prompted, on_text};
use super::json::{Object, short};
use super::readers;
use super::route::{Call, HandlerResult};

/// A message as the template sees it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// Answers a chat.
///
/// # Errors
/// 4xx for what the client can change, 429 or 5xx for the rest.
pub async fn handle(app: Arc<App>, call: Call) -> HandlerResult {
    let asked = generate::read(&app, call, Endpoint::Chat).await?;
    let template = app
        .model
        .template()
        .cloned()
        .ok_or(ServerError::ChatUnsupported)?;
    let messages = messages(&asked.body, app.limits.messages)?;
    let bytes = messages.iter().map(|message| message.content.len()).sum();
    let prompt = on_text(&app, bytes, move |app| {
        let text = template.render(&messages);
        let text = text.map_err(|error| ServerError::Template {
            what: error.to_string(),
        })?;
        let tokens = app.model.tokenizer().encode(&text, false);
        tokens.map_err(|error| ServerError::invalid("messages", error.to_string()))
    })
    .await?;
    let prompt = Prompted {
        tokens: prompt,
        text: None,
    };
    generate::answer(&app, asked, vec![prompt]).await
}

fn messages(body: &Object, most: usize) -> Result<Vec<Message>, ServerError> {
    const NAME: &str = "messages";
    let list = match readers::get(body, NAME) {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(ServerError::invalid(NAME, "must be a list")),
        None => return Err(ServerError::invalid(NAME, "is required")),
    };
    if list.is_empty() || list.len() > most {
        return Err(ServerError::invalid(
            NAME,
            format!("must have 1 to {most} messages"),
        ));
    }
    list.iter()
        .enumerate()
        .map(|(index, value)| message(value, &format!("{NAME}[{index}]")))
        .collect()
}

fn message(value: &Value, at: &str) -> Result<Message, ServerError> {
    let Some(fields) = value.as_object() else {
        return Err(ServerError::invalid(at, "must be an object"));
    };
    let role = role(fields, at)?;
    let mut content = None;
    let mut name = None;
    for (field, value) in fields {
        let param = || format!("{at}.{}", short(field));
        match field.as_str() {
            "role" => {}
            "content" => content = Some(text_of(value, &param())?),
            "name" if value.is_null() => {}
            "name" => {
                let text = value.as_str();
                let text = text.ok_or_else(|| ServerError::invalid(param(), "must be a string"))?;
                name = Some(text.to_owned());
            }
            // What our own answers carry, and what a client sends back with them.
            "refusal" | "audio" | "tool_calls" | "function_call" | "annotations"
            | "tool_call_id" | "reasoning_content" => {
                let nothing = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
                if !nothing {
                    return Err(ServerError::UnsupportedParameter { param: param() });
                }
            }
            _ => return Err(ServerError::UnknownParameter { param: param() }),
        }
    }
    let content =
        content.ok_or_else(|| ServerError::invalid(format!("{at}.content"), "is required"))?;
    Ok(Message {
        role,
        content,
        name,
    })
}

/// Templates know `system`, not its later name `developer`.
fn role(fields: &Object, at: &str) -> Result<&'static str, ServerError> {
    let param = || format!("{at}.role");
    match fields.get("role").and_then(Value::as_str) {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool" | "function") => Err(ServerError::UnsupportedParameter { param: param() }),
        _ => Err(ServerError::invalid(
            param(),
            "must be system, developer, user or assistant",
        )),
    }
}

/// A text, or a list of parts that are texts; parts become lines, as their authors see them apart.
fn text_of(value: &Value, at: &str) -> Result<String, ServerError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) if !parts.is_empty() => {
            let texts: Result<Vec<&str>, ServerError> = parts
                .iter()
                .enumerate()
                .map(|(index, part)| part_text(part, &format!("{at}[{index}]")))
                .collect();
            Ok(texts?.join("\n"))
        }
        _ => Err(ServerError::invalid(
            at,
            "must be a string or a list of text parts",
        )),
    }
}

fn part_text<'v>(part: &'v Value, at: &str) -> Result<&'v str, ServerError> {
    let kind = part.get("type").and_then(Value::as_str);
    match kind {
        Some("text") => {}
        Some("image_url" | "input_audio" | "file" | "refusal" | "video_url" | "audio_url") => {
            return Err(ServerError::UnsupportedParameter {
                param: format!("{at}.type"),
            });
        }
        _ => return Err(ServerError::invalid(format!("{at}.type"), "must be text")),
    }
    let unknown = part
        .as_object()
        .and_then(|part| part.keys().find(|key| *key != "type" && *key != "text"));
    if let Some(key) = unknown {
        return Err(ServerError::UnknownParameter {
            param: format!("{at}.{}", short(key)),
        });
    }
    part.get("text")
        .and_then(Value::as_str)
        .ok_or_else(|| ServerError::invalid(format!("{at}.text"), "must be a string"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(list: Value) -> Result<Vec<Message>, ServerError> {
        let mut body = Object::new();
        body.insert("messages".to_owned(), list);
        messages(&body, 3)
    }

    #[test]
    fn reads_texts_parts_and_our_own_answers() {
        let list = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "", "refusal": null, "tool_calls": [], "annotations": []},
        ]);
        let message = |role, content: &str, name: Option<&str>| Message {
            role,
            content: content.to_owned(),
            name: name.map(str::to_owned),
        };
        assert_eq!(
            read(list).unwrap(),
            [
                message("system", "be brief", None),
                message("user", "a\nb", Some("ann")),
                message("assistant", "", None),
            ]
        );
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let user = json!({"role": "user", "content": "x"});
        let cases = [
            (json!("hi"), "messages"),
            (json!([]), "messages"),
            (json!([user, user, user, user]), "messages"),
            (json!([user, 1]), "messages[1]"),
            (json!([{"content": "x"}]), "messages[0].role"),
            (
                json!([{"role": "king", "content": "x"}]),
                "messages[0].role",
            ),
            (
                json!([{"role": "tool", "content": "x"}]),
                "messages[0].role",
            ),
            (json!([{"role": "user"}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": null}]),
                "messages[0].content",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "messages[0].content[0].type",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": "x", "colour": 1}]),
                "messages[0].colour",
            ),
        ];
        for (list, expected) in cases {
            let param = match read(list).unwrap_err() {
                ServerError::Invalid { param, .. }
                | ServerError::UnknownParameter { param }
                | ServerError::UnsupportedParameter { param } => param,
                other => other.to_string(),
            };
            assert_eq!(param, expected);
        }
    }
}
