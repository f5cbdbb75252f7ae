//! Reads what the output must match: `response_format`, as OpenAI has it, or `structured_outputs`, as vLLM has it.
//!
//! A schema goes on as the client wrote it, its keys in their order, for the order is that of the output. Whether a
//! grammar compiles is the worker's to say.

use serde_json::Value;
use slackwater_core::{Grammar, GrammarKind};

use super::error::ServerError;
use super::json::{Object, short};
use super::readers::get;
use crate::limits::ServerLimits;

const FORMAT: &str = "response_format";
const OUTPUTS: &str = "structured_outputs";
/// What workers call either of them.
pub(super) const PARAM: &str = "grammar";

/// Reads them.
///
/// # Errors
/// 400 naming the field; both at once are too much.
pub(super) fn read(body: &Object, limits: &ServerLimits) -> Result<Option<Grammar>, ServerError> {
    let grammar = match (response_format(body)?, structured_outputs(body)?) {
        (Some(_), Some(_)) => {
            let text = "is not for use together with response_format";
            return Err(ServerError::invalid(OUTPUTS, text));
        }
        (Some(grammar), None) => (FORMAT, grammar),
        (None, Some(grammar)) => (OUTPUTS, grammar),
        (None, None) => return Ok(None),
    };
    let (name, grammar) = grammar;
    if grammar.text.len() > limits.grammar_bytes {
        let text = format!("is longer than {} bytes", limits.grammar_bytes);
        return Err(ServerError::invalid(name, text));
    }
    Ok(Some(grammar))
}

/// The field in which a body has its grammar.
pub(super) fn field(body: &Object) -> Option<&'static str> {
    [FORMAT, OUTPUTS]
        .into_iter()
        .find(|name| get(body, name).is_some())
}

const fn grammar(kind: GrammarKind, text: String) -> Grammar {
    Grammar { kind, text }
}

fn response_format(body: &Object) -> Result<Option<Grammar>, ServerError> {
    let Some(value) = get(body, FORMAT) else {
        return Ok(None);
    };
    let Some(format) = value.as_object() else {
        return Err(ServerError::invalid(FORMAT, "must be an object"));
    };
    let kind = format.get("type").and_then(Value::as_str);
    let known: &[&str] = match kind {
        Some("json_schema") => &["type", "json_schema"],
        Some("structural_tag") => &["type", "structures", "triggers"],
        _ => &["type"],
    };
    only(format, FORMAT, known)?;
    match kind {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(grammar(GrammarKind::JsonObject, String::new()))),
        Some("json_schema") => json_schema(format).map(Some),
        Some("structural_tag") => Ok(Some(grammar(GrammarKind::StructuralTag, value.to_string()))),
        _ => Err(ServerError::invalid(
            format!("{FORMAT}.type"),
            "must be text, json_object, json_schema or structural_tag",
        )),
    }
}

fn json_schema(format: &Object) -> Result<Grammar, ServerError> {
    let at = format!("{FORMAT}.json_schema");
    let Some(wrapped) = format.get("json_schema").and_then(Value::as_object) else {
        return Err(ServerError::invalid(at, "must be an object"));
    };
    only(wrapped, &at, &["name", "description", "schema", "strict"])?;
    match wrapped.get("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            Ok(grammar(GrammarKind::JsonSchema, schema.to_string()))
        }
        _ => Err(ServerError::invalid(
            format!("{at}.schema"),
            "must be a JSON schema",
        )),
    }
}

fn structured_outputs(body: &Object) -> Result<Option<Grammar>, ServerError> {
    let Some(value) = get(body, OUTPUTS) else {
        return Ok(None);
    };
    let Some(wishes) = value.as_object() else {
        return Err(ServerError::invalid(OUTPUTS, "must be an object"));
    };
    let mut found = None;
    for (name, value) in wishes {
        let at = format!("{OUTPUTS}.{}", short(name));
        // What is null or false asks for nothing.
        if value.is_null() || value == &Value::Bool(false) && name != "json" {
            continue;
        }
        let one = structure(name, value, at)?;
        if found.replace(one).is_some() {
            let text = "must have one of json, json_object, regex, choice, grammar, structural_tag";
            return Err(ServerError::invalid(OUTPUTS, text));
        }
    }
    Ok(found)
}

fn structure(name: &str, value: &Value, at: String) -> Result<Grammar, ServerError> {
    let wrong = |what: &str| Err(ServerError::invalid(at.clone(), format!("must be {what}")));
    match (name, value) {
        ("json", Value::String(text)) => Ok(grammar(GrammarKind::JsonSchema, text.clone())),
        ("json", Value::Object(_) | Value::Bool(_)) => {
            Ok(grammar(GrammarKind::JsonSchema, value.to_string()))
        }
        ("json", _) => wrong("a JSON schema, or its text"),
        ("json_object", Value::Bool(true)) => Ok(grammar(GrammarKind::JsonObject, String::new())),
        ("json_object", _) => wrong("true or false"),
        ("regex", Value::String(text)) => Ok(grammar(GrammarKind::Regex, text.clone())),
        ("grammar", Value::String(text)) => Ok(grammar(GrammarKind::Lark, text.clone())),
        ("structural_tag", Value::String(text)) => {
            Ok(grammar(GrammarKind::StructuralTag, text.clone()))
        }
        ("structural_tag", Value::Object(_)) => {
            Ok(grammar(GrammarKind::StructuralTag, value.to_string()))
        }
        ("regex" | "grammar" | "structural_tag", _) => wrong("a string"),
        ("choice", Value::Array(list)) if is_choice(list) => {
            Ok(grammar(GrammarKind::Choice, value.to_string()))
        }
        ("choice", _) => wrong("a list of strings, none of them empty"),
        ("disable_any_whitespace" | "disable_additional_properties" | "whitespace_pattern", _) => {
            Err(ServerError::UnsupportedParameter { param: at })
        }
        _ => Err(ServerError::UnknownParameter { param: at }),
    }
}

fn is_choice(list: &[Value]) -> bool {
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    !list.is_empty() && list.iter().all(is_text)
}

fn only(object: &Object, at: &str, known: &[&str]) -> Result<(), ServerError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(ServerError::UnknownParameter {
            param: format!("{at}.{}", short(key)),
        }),
        None => Ok(()),
    }
}
