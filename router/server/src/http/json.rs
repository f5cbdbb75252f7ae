//! Reads a JSON body under bounds: depth, number of values, no duplicate keys, no NUL. Everything is checked as it is met,
//! before it is stored, so that a hostile body costs no more than its bytes.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::ServerError;
use crate::limits::ServerLimits;

/// A JSON object.
pub type Object = Map<String, Value>;

/// Reads a body that must be one JSON object.
///
/// # Errors
/// [`ServerError::InvalidJson`], [`ServerError::NotAnObject`], or [`ServerError::Invalid`] naming the field of a number that no float can hold.
pub fn parse(bytes: &[u8], limits: &ServerLimits) -> Result<Object, ServerError> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(invalid("it begins with a byte order mark"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))?;
    let mut budget = Budget {
        nodes: limits.json_nodes,
        field: None,
        out_of_bounds: false,
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let seed = Seed {
        budget: &mut budget,
        levels: limits.json_depth,
        top: true,
    };
    let value = seed
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ServerError::NotAnObject),
        Err(error) => Err(classify(&error, budget)),
    }
}

fn invalid(what: impl Into<String>) -> ServerError {
    ServerError::InvalidJson { what: what.into() }
}

/// `serde_json` reads `1e999` as an error of its grammar; to a client it is a number out of range, in a field.
fn classify(error: &serde_json::Error, budget: Budget) -> ServerError {
    let text = error.to_string();
    match budget.field {
        Some(field) if !budget.out_of_bounds && text.starts_with("number out of range") => {
            ServerError::invalid(field, "the number is out of range")
        }
        _ => invalid(text),
    }
}

/// What is left, and where we are.
struct Budget {
    nodes: usize,
    /// The field of the outermost object whose value is being read.
    field: Option<String>,
    out_of_bounds: bool,
}

struct Seed<'a> {
    budget: &'a mut Budget,
    /// Levels of nesting that may still be opened.
    levels: usize,
    top: bool,
}

impl Seed<'_> {
    fn spend<E: serde::de::Error>(&mut self) -> Result<(), E> {
        match self.budget.nodes.checked_sub(1) {
            Some(left) => {
                self.budget.nodes = left;
                Ok(())
            }
            None => Err(self.refuse("too many values")),
        }
    }

    fn refuse<E: serde::de::Error>(&mut self, what: &str) -> E {
        self.budget.out_of_bounds = true;
        E::custom(what)
    }

    fn text<E: serde::de::Error>(&mut self, text: String) -> Result<String, E> {
        if text.contains('\0') {
            return Err(self.refuse("a string holds NUL"));
        }
        Ok(text)
    }

    fn deeper<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(levels),
            None => Err(self.refuse("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Value, D::Error> {
        self.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: serde::de::Error>(mut self, value: &str) -> Result<Value, E> {
        self.text(value.to_owned()).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let levels = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Seed {
            budget: self.budget,
            levels,
            top: false,
        })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let levels = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let key = self.text(key)?;
            if object.contains_key(&key) {
                self.budget.out_of_bounds = true;
                return Err(A::Error::custom(format_args!(
                    "duplicate key {}",
                    short(&key)
                )));
            }
            if self.top {
                self.budget.field = Some(key.clone());
            }
            let value = entries.next_value_seed(Seed {
                budget: self.budget,
                levels,
                top: false,
            })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A client's word, short enough to be told back.
pub fn short(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &[u8]) -> (&'static str, String) {
        match parse(body, &ServerLimits::default()) {
            Ok(_) => ("ok", String::new()),
            Err(error) => (error.code().name(), error.to_string()),
        }
    }

    fn nested(levels: usize) -> Vec<u8> {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(levels - 1),
            "]".repeat(levels - 1)
        )
        .into_bytes()
    }

    #[test]
    fn bounds_hold_at_their_edge() {
        assert_eq!(code(&nested(64)).0, "ok");
        assert!(code(&nested(65)).1.contains("nested too deeply"));
        assert_eq!(code(&nested(1_000_000)).0, "invalid_json");
        let list = |items: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(items - 1)).into_bytes();
        assert_eq!(code(&list(99_998)).0, "ok");
        assert!(code(&list(99_999)).1.contains("too many values"));
    }

    #[test]
    fn what_is_no_clean_json_object_is_refused() {
        for other in ["[]", "\"a\"", "1", "null"] {
            assert_eq!(code(other.as_bytes()).0, "invalid_request", "{other}");
        }
        let bad: [&[u8]; 12] = [
            b"",
            b"{",
            b"{} {}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\xc0\xaf\"}",
            br#"{"a":"\u0000"}"#,
            br#"{"\u0000":1}"#,
            br#"{"a":"\ud800"}"#,
            br#"{"a":1,"a":2}"#,
            br#"{"b":{"a":1,"\u0061":2}}"#,
            br#"{"a":NaN}"#,
        ];
        let codes: Vec<_> = bad.iter().map(|body| code(body).0).collect();
        assert_eq!(codes, ["invalid_json"; 12]);
    }

    #[test]
    fn a_huge_number_names_its_field() {
        assert_eq!(
            parse(br#"{"b":0,"a":[1e999]}"#, &ServerLimits::default()),
            Err(ServerError::invalid("a", "the number is out of range"))
        );
    }
}
