//! Typed reading of the fields that are honoured. A wrong type is 400 naming the field; a number written as a float is no
//! integer, and no float can hold NaN or infinity here, since JSON has neither.

use serde_json::Value;
use sha2::{Digest, Sha256};
use slackwater_core::Class;

use super::error::ServerError;
use super::json::Object;
use crate::limits::ServerLimits;

const MOST_SALT_BYTES: usize = 256;

/// What both endpoints read in the same way.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// The model's name.
    pub model: String,
    /// Whether the answer comes as it is made.
    pub stream: bool,
    /// Whether a stream ends with its usage.
    pub include_usage: bool,
    /// Most output tokens.
    pub max_tokens: Option<u32>,
    /// What the client called that.
    pub max_tokens_name: &'static str,
    /// Output tokens before which nothing ends the text.
    pub min_tokens: u32,
    /// Whether end tokens are ordinary tokens.
    pub ignore_eos: bool,
    /// Sampling temperature.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
    /// Stop strings.
    pub stop: Vec<String>,
    /// The client's seed.
    pub seed: Option<u64>,
    /// Class by `service_tier`, if it names one.
    pub tier: Option<Class>,
    /// The client's name for the request.
    pub request_id: Option<String>,
    /// Which space of the prefix cache it reads and fills; 0 is the shared one.
    pub salt: u64,
}

/// A field's value; `null` is no value.
pub fn get<'b>(body: &'b Object, name: &str) -> Option<&'b Value> {
    body.get(name).filter(|value| !value.is_null())
}

/// Reads them.
///
/// # Errors
/// 400 naming the field.
pub fn common(body: &Object, limits: &ServerLimits) -> Result<Common, ServerError> {
    let stream = boolean(body, "stream")?.unwrap_or(false);
    let (max_tokens, max_tokens_name) = max_tokens(body)?;
    Ok(Common {
        model: string(body, "model")?
            .ok_or_else(|| ServerError::invalid("model", "is required"))?
            .to_owned(),
        stream,
        include_usage: include_usage(body, stream)?,
        max_tokens,
        max_tokens_name,
        min_tokens: unsigned(body, "min_tokens")?.unwrap_or(0),
        ignore_eos: boolean(body, "ignore_eos")?.unwrap_or(false),
        temperature: number(body, "temperature")?.unwrap_or(1.0),
        top_p: number(body, "top_p")?.unwrap_or(1.0),
        stop: stop(body, limits)?,
        seed: seed(body)?,
        tier: tier(body)?,
        request_id: string(body, "request_id")?.map(str::to_owned),
        salt: salt(body)?,
    })
}

/// A space of its own for each text. It is drawn from a cryptographic hash, so that nobody can choose a text whose
/// space is that of another text.
fn salt(body: &Object) -> Result<u64, ServerError> {
    let Some(text) = string(body, "cache_salt")? else {
        return Ok(0);
    };
    if text.is_empty() || text.len() > MOST_SALT_BYTES {
        return Err(ServerError::invalid(
            "cache_salt",
            "must be a text of 1 to 256 bytes",
        ));
    }
    let digest = Sha256::new()
        .chain_update(b"slackwater cache_salt\0")
        .chain_update(text)
        .finalize();
    let first = digest
        .iter()
        .take(8)
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    // 0 is the space of those who ask for none.
    Ok(first.max(1))
}

pub(super) fn boolean(body: &Object, name: &str) -> Result<Option<bool>, ServerError> {
    get(body, name)
        .map(|value| {
            value
                .as_bool()
                .ok_or_else(|| ServerError::invalid(name, "must be true or false"))
        })
        .transpose()
}

fn string<'b>(body: &'b Object, name: &str) -> Result<Option<&'b str>, ServerError> {
    get(body, name)
        .map(|value| {
            value
                .as_str()
                .ok_or_else(|| ServerError::invalid(name, "must be a string"))
        })
        .transpose()
}

pub(super) fn number(body: &Object, name: &str) -> Result<Option<f64>, ServerError> {
    get(body, name)
        .map(|value| {
            value
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| ServerError::invalid(name, "must be a number"))
        })
        .transpose()
}

pub(super) fn unsigned(body: &Object, name: &str) -> Result<Option<u32>, ServerError> {
    get(body, name)
        .map(|value| {
            value
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| {
                    ServerError::invalid(name, format!("must be an integer from 0 to {}", u32::MAX))
                })
        })
        .transpose()
}

/// A signed number of 64 bits; its bits are the key of the generator.
fn seed(body: &Object) -> Result<Option<u64>, ServerError> {
    get(body, "seed")
        .map(|value| {
            value
                .as_i64()
                .map(i64::cast_unsigned)
                .ok_or_else(|| ServerError::invalid("seed", "must be an integer of 64 bits"))
        })
        .transpose()
}

fn max_tokens(body: &Object) -> Result<(Option<u32>, &'static str), ServerError> {
    let old = unsigned(body, "max_tokens")?;
    let new = unsigned(body, "max_completion_tokens")?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => Err(ServerError::invalid(
            "max_completion_tokens",
            "differs from max_tokens",
        )),
        (_, Some(new)) => Ok((Some(new), "max_completion_tokens")),
        (old, None) => Ok((old, "max_tokens")),
    }
}

fn include_usage(body: &Object, stream: bool) -> Result<bool, ServerError> {
    const NAME: &str = "stream_options";
    let Some(options) = get(body, NAME) else {
        return Ok(false);
    };
    let Some(options) = options.as_object() else {
        return Err(ServerError::invalid(NAME, "must be an object"));
    };
    if !stream {
        return Err(ServerError::invalid(NAME, "is only for stream: true"));
    }
    let mut include = false;
    for (name, value) in options {
        let param = || format!("{NAME}.{}", super::json::short(name));
        match (name.as_str(), value) {
            ("include_usage", Value::Bool(wanted)) => include = *wanted,
            ("continuous_usage_stats" | "include_obfuscation", Value::Bool(false))
            | ("include_usage" | "continuous_usage_stats" | "include_obfuscation", Value::Null) => {
            }
            ("include_usage", _) => {
                return Err(ServerError::invalid(param(), "must be true or false"));
            }
            ("continuous_usage_stats" | "include_obfuscation", _) => {
                return Err(ServerError::UnsupportedParameter { param: param() });
            }
            _ => return Err(ServerError::UnknownParameter { param: param() }),
        }
    }
    Ok(include)
}

fn stop(body: &Object, limits: &ServerLimits) -> Result<Vec<String>, ServerError> {
    let wrong = || {
        ServerError::invalid(
            "stop",
            format!(
                "must be a string or up to {} strings, each of 1 to {} bytes",
                limits.stop_strings, limits.stop_bytes
            ),
        )
    };
    let values = match get(body, "stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= limits.stop_strings => list.as_slice(),
        Some(Value::Array(_)) => return Err(wrong()),
        Some(one) => std::slice::from_ref(one),
    };
    let read = |value: &Value| {
        value
            .as_str()
            .filter(|stop| !stop.is_empty() && stop.len() <= limits.stop_bytes)
            .map(str::to_owned)
    };
    values
        .iter()
        .map(|value| read(value).ok_or_else(wrong))
        .collect()
}

fn tier(body: &Object) -> Result<Option<Class>, ServerError> {
    const NAME: &str = "service_tier";
    match string(body, NAME)? {
        None | Some("auto") => Ok(None),
        Some("default" | "scale") => Ok(Some(Class::Standard)),
        Some("flex") => Ok(Some(Class::Offline)),
        Some("priority" | "fast") => Ok(Some(Class::Interactive)),
        Some(_) => Err(ServerError::invalid(
            NAME,
            "must be auto, default, flex or priority",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Common, String> {
        let Value::Object(mut body) = body else {
            return Err("no object".to_owned());
        };
        body.insert("model".to_owned(), "m".into());
        common(&body, &ServerLimits::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_what_was_sent() {
        let body = json!({
            "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5, "max_completion_tokens": 5,
            "min_tokens": 2, "ignore_eos": true, "temperature": 0, "top_p": 0.5, "stop": ["a", "é"], "seed": -1,
            "service_tier": "flex", "request_id": null,
        });
        assert_eq!(
            read(body),
            Ok(Common {
                model: "m".to_owned(),
                stream: true,
                include_usage: true,
                max_tokens: Some(5),
                max_tokens_name: "max_completion_tokens",
                min_tokens: 2,
                ignore_eos: true,
                temperature: 0.0,
                top_p: 0.5,
                stop: vec!["a".to_owned(), "é".to_owned()],
                seed: Some(u64::MAX),
                tier: Some(Class::Offline),
                request_id: None,
                salt: 0,
            })
        );
    }

    #[test]
    fn each_salt_is_a_space_of_its_own() {
        let salt = |text: &str| read(json!({"cache_salt": text})).map(|common| common.salt);
        assert_eq!(salt("a"), salt("a"));
        assert_ne!(salt("a"), salt("b"));
        assert_ne!(salt("a"), Ok(0));
        assert_eq!(
            read(json!({"cache_salt": null})).map(|common| common.salt),
            Ok(0)
        );
    }

    #[test]
    fn wrong_types_and_bounds_name_the_field() {
        let cases = [
            ("model", json!({"model": 1})),
            ("stream", json!({"stream": 1})),
            ("stream_options", json!({"stream_options": {}})),
            (
                "stream_options.include_usage",
                json!({"stream": true, "stream_options": {"include_usage": 1}}),
            ),
            ("max_tokens", json!({"max_tokens": 16.0})),
            ("max_tokens", json!({"max_tokens": -1})),
            ("max_tokens", json!({"max_tokens": 4_294_967_296_u64})),
            ("max_tokens", json!({"max_tokens": true})),
            (
                "max_completion_tokens",
                json!({"max_tokens": 1, "max_completion_tokens": 2}),
            ),
            ("temperature", json!({"temperature": "1"})),
            ("stop", json!({"stop": ""})),
            ("stop", json!({"stop": [1]})),
            ("stop", json!({"stop": "x".repeat(257)})),
            ("stop", json!({"stop": vec!["x"; 17]})),
            ("cache_salt", json!({"cache_salt": ""})),
            ("cache_salt", json!({"cache_salt": 7})),
            ("cache_salt", json!({"cache_salt": "x".repeat(257)})),
            ("seed", json!({"seed": 1.0})),
            ("seed", json!({"seed": 9_223_372_036_854_775_808_u64})),
            ("service_tier", json!({"service_tier": "gold"})),
        ];
        for (param, mut body) in cases {
            let object = body.as_object_mut().unwrap();
            object.entry("model").or_insert("m".into());
            match common(object, &ServerLimits::default()) {
                Err(ServerError::Invalid { param: named, .. }) => assert_eq!(named, param),
                other => panic!("{param}: {other:?}"),
            }
        }
    }
}
