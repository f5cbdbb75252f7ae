//! The model's chat template. It comes with the model and its input with the client, so it is run with a bounded amount of
//! work, nesting and output.

use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use thiserror::Error as ThisError;

/// Instructions of one rendering, and its output. A chat of the largest size takes a few for each message and part.
const FUEL: u64 = 5_000_000;
const OUTPUT_BYTES: usize = 4 << 20;
const RECURSION: usize = 100;
const NAME: &str = "chat_template";

/// Why a template did not give a prompt.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum TemplateError {
    /// It is no template that we can run.
    #[error("the chat template cannot be read: {reason}")]
    Parse {
        /// What is wrong with it.
        reason: String,
    },
    /// It does not take these messages, or takes too much work.
    #[error("{reason}")]
    Render {
        /// What it said.
        reason: String,
    },
}

/// A chat template that is ready to run.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like, as the template names them.
    tokens: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Context<'a, M> {
    messages: &'a [M],
    add_generation_prompt: bool,
}

impl ChatTemplate {
    /// Reads a template's text. `tokens` are variables that it sees, such as `bos_token`.
    ///
    /// # Errors
    /// [`TemplateError::Parse`].
    pub fn new(text: String, tokens: Vec<(String, String)>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_syntax(whitespace()?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, text)
            .map_err(|error| TemplateError::Parse {
                reason: error.to_string(),
            })?;
        Ok(Self {
            environment,
            tokens,
        })
    }

    /// The prompt for these messages, with the opening of the assistant's turn.
    ///
    /// # Errors
    /// [`TemplateError::Render`].
    pub fn render<M: Serialize>(&self, messages: &[M]) -> Result<String, TemplateError> {
        let render = |error: &Error| TemplateError::Render {
            reason: reason(error),
        };
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| render(&error))?;
        let tokens = Value::from_pairs(self.tokens.iter().cloned());
        let chat = Value::from(Serde(Context {
            messages,
            add_generation_prompt: true,
        }));
        let context = minijinja::context! { ..chat, ..tokens };
        let mut output = Capped(Vec::new());
        match template.render_captured_to(context, &mut output) {
            Ok(_) => {}
            Err(error) => return Err(render(&error)),
        }
        String::from_utf8(output.0).map_err(|_| TemplateError::Render {
            reason: "it gave no text".to_owned(),
        })
    }
}

/// The setting of whitespace under which chat templates are written.
fn whitespace() -> Result<SyntaxConfig, TemplateError> {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    syntax.map_err(|error| TemplateError::Parse {
        reason: error.to_string(),
    })
}

/// What a client may be told: the template's own words, not where in it they stand.
fn reason(error: &Error) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    detail.chars().take(300).collect()
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// Output up to a bound; a template may repeat what a client gave.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES {
            return Err(io::Error::other("the rendered chat is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the engine hands arguments over"
)]
/// As Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: models were trained on its spacing, and the engine's
/// own filter escapes for HTML.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut json, formatter,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut json, Spaced,
        )),
    };
    let bad =
        |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    written.map_err(|error| bad(&error))?;
    let text = String::from_utf8(json).map_err(|error| bad(&error))?;
    Ok(Value::from_safe_string(text))
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(text: &str) -> ChatTemplate {
        let tokens = vec![("eos_token".to_owned(), "</s>".to_owned())];
        ChatTemplate::new(text.to_owned(), tokens).unwrap()
    }

    fn reason_of(text: &str) -> String {
        let error = template(text).render(&[json!({"role": "user", "content": "x"})]);
        error.unwrap_err().to_string()
    }

    #[test]
    fn renders_as_the_models_authors_meant() {
        let chatml = "{% for m in messages %}\n    {%- if m['role'].startswith('u') %}\n<|{{ m.role }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n    {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}go{% endif %}\n";
        let messages = [
            json!({"role": "user", "content": " <b>&\"é\" "}),
            json!({"role": "tool"}),
        ];
        assert_eq!(
            template(chatml).render(&messages).unwrap(),
            "<|user|>\n<b>&\"é\"</s>\ngo"
        );
        let dump = "{{ messages[0] | tojson }} {{ [1] | tojson(indent=2) }}";
        assert_eq!(
            template(dump)
                .render(&[json!({"a": [1, "<é>"], "b": null})])
                .unwrap(),
            "{\"a\": [1, \"<é>\"], \"b\": null} [\n  1\n]"
        );
    }

    #[test]
    fn hostile_templates_end() {
        assert_eq!(
            reason_of("{{ raise_exception('roles must alternate') }}"),
            "roles must alternate"
        );
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert_eq!(reason_of(endless), "engine ran out of fuel");
        let deep = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(reason_of(deep).contains("recursion limit exceeded"));
        let wide = "{% for a in range(5000) %}{{ 'x' * 1000 }}{% endfor %}";
        assert!(!reason_of(wide).is_empty());
        assert!(matches!(
            ChatTemplate::new("{% if %}".to_owned(), Vec::new()),
            Err(TemplateError::Parse { .. })
        ));
    }
}
