//! `POST /v1/completions`: plain prompts, as text or as token ids, one or several.

use std::sync::Arc;

use serde_json::Value;

use super::app::App;
use super::error::ServerError;
use super::fields::Endpoint;
use super::generate::{self, Prompted, on_text};
use super::json::Object;
use super::readers;
use super::route::{Call, HandlerResult};

/// A prompt as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

const NAME: &str = "prompt";

/// Answers a completion.
///
/// # Errors
/// 4xx for what the client can change, 429 or 5xx for the rest.
pub async fn handle(app: Arc<App>, call: Call) -> HandlerResult {
    let asked = generate::read(&app, call, Endpoint::Completions).await?;
    let prompts = prompts(&asked.body, app.limits.prompts)?;
    let bytes = prompts
        .iter()
        .map(|prompt| match prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Tokens(_) => 0,
        })
        .sum();
    let prompts = on_text(&app, bytes, move |app| {
        prompts
            .into_iter()
            .map(|prompt| match prompt {
                Prompt::Text(text) => {
                    let tokens = app.model.tokenizer().encode(&text, true);
                    let tokens =
                        tokens.map_err(|error| ServerError::invalid(NAME, error.to_string()))?;
                    let text = Some(text);
                    Ok(Prompted { tokens, text })
                }
                Prompt::Tokens(tokens) => Ok(Prompted { tokens, text: None }),
            })
            .collect()
    })
    .await?;
    generate::answer(&app, asked, prompts).await
}

fn prompts(body: &Object, most: usize) -> Result<Vec<Prompt>, ServerError> {
    let wrong = || {
        ServerError::invalid(
            NAME,
            format!("must be a string, a list of token ids, or a list of 1 to {most} of either"),
        )
    };
    let value =
        readers::get(body, NAME).ok_or_else(|| ServerError::invalid(NAME, "is required"))?;
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) => list,
        _ => return Err(wrong()),
    };
    if matches!(list.first(), Some(Value::Number(_))) {
        let tokens = tokens(list).ok_or_else(wrong)?;
        return Ok(vec![Prompt::Tokens(tokens)]);
    }
    if list.is_empty() || list.len() > most {
        return Err(wrong());
    }
    list.iter()
        .map(|value| match value {
            Value::String(text) => Ok(Prompt::Text(text.clone())),
            Value::Array(list) => tokens(list).map(Prompt::Tokens).ok_or_else(wrong),
            _ => Err(wrong()),
        })
        .collect()
}

fn tokens(list: &[Value]) -> Option<Vec<u32>> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    list.iter().map(token).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(prompt: Value) -> Option<Vec<Prompt>> {
        let mut body = Object::new();
        body.insert(NAME.to_owned(), prompt);
        prompts(&body, 2).ok()
    }

    #[test]
    fn reads_every_shape() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let tokens = |ids: &[u32]| Prompt::Tokens(ids.to_vec());
        assert_eq!(read(json!("a")), Some(vec![text("a")]));
        assert_eq!(read(json!(["a", "b"])), Some(vec![text("a"), text("b")]));
        assert_eq!(read(json!([1, 2, 3])), Some(vec![tokens(&[1, 2, 3])]));
        assert_eq!(read(json!([[1], "b"])), Some(vec![tokens(&[1]), text("b")]));
        for wrong in [
            json!(null),
            json!(1),
            json!({}),
            json!([]),
            json!(["a", "b", "c"]),
            json!([1, "a"]),
            json!(["a", 1]),
            json!([1.0]),
            json!([-1]),
            json!([4_294_967_296_u64]),
            json!([[[1]]]),
        ] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
    }
}
