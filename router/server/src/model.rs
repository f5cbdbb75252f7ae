//! The model that a server serves, as far as text goes: its name, tokeniser, chat template and a few facts of its folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A folder that cannot be served. It names the file and what is wrong with it.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokeniser cannot be used.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The template cannot be used.
    #[error("{}: {source}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TemplateError,
    },
}

/// A model as the server knows it.
pub struct ServedModel {
    name: String,
    tokenizer: Arc<Tokenizer>,
    template: Option<Arc<ChatTemplate>>,
    eos_token_ids: Vec<u32>,
    max_position_embeddings: Option<u64>,
    created_secs: u64,
    text_hash: String,
}

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const NAMED_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

impl ServedModel {
    /// Reads a model folder.
    ///
    /// # Errors
    /// A [`ModelError`] that names the file.
    pub fn load(name: &str, folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(TOKENIZER);
        let bytes = read(&path)?;
        let tokenizer = Tokenizer::from_bytes(&bytes);
        let tokenizer = tokenizer.map_err(|source| ModelError::Tokenizer {
            path: path.clone(),
            source,
        })?;
        let tokenizer_config = json(&folder.join(TOKENIZER_CONFIG))?.unwrap_or(Value::Null);
        let template_text = template_text(folder, &tokenizer_config)?;
        let text_hash = text_hash(
            &bytes,
            template_text.as_ref().map(|(_, text)| text.as_str()),
        );
        let template = match template_text {
            Some((path, text)) => Some(
                ChatTemplate::new(text, named_tokens(&tokenizer_config))
                    .map_err(|source| ModelError::Template { path, source })?,
            ),
            None => None,
        };
        let config = json(&folder.join("config.json"))?.unwrap_or(Value::Null);
        let generation = json(&folder.join("generation_config.json"))?.unwrap_or(Value::Null);
        Ok(Self {
            name: name.to_owned(),
            tokenizer: Arc::new(tokenizer),
            template: template.map(Arc::new),
            eos_token_ids: eos_token_ids(&generation)
                .or_else(|| eos_token_ids(&config))
                .unwrap_or_default(),
            max_position_embeddings: config
                .get("max_position_embeddings")
                .and_then(Value::as_u64),
            created_secs: modified_secs(&path)?,
            text_hash,
        })
    }

    /// As clients name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its tokeniser.
    pub const fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Its chat template, if it has one.
    pub const fn template(&self) -> Option<&Arc<ChatTemplate>> {
        self.template.as_ref()
    }

    /// Its end tokens, from `generation_config.json`, else `config.json`. The workers act on them, we only say them.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The context that its config claims.
    pub const fn max_position_embeddings(&self) -> Option<u64> {
        self.max_position_embeddings
    }

    /// When its tokeniser was last written, in seconds since 1970.
    pub const fn created_secs(&self) -> u64 {
        self.created_secs
    }

    /// What makes text and tokens of router and worker the same: 16 lower-case hexadecimal digits of XXH3-64 (seed 0) over
    /// the bytes of `tokenizer.json`, one zero byte, and the UTF-8 bytes of the chat template's text: all of
    /// `chat_template.jinja` if there is one, else the string `chat_template` of `tokenizer_config.json` (of a list, the
    /// one named `default`), else nothing.
    pub fn text_hash(&self) -> &str {
        &self.text_hash
    }
}

/// See [`ServedModel::text_hash`].
fn text_hash(tokenizer: &[u8], template: Option<&str>) -> String {
    let mut hash = Xxh3::new();
    hash.update(tokenizer);
    hash.update(&[0]);
    hash.update(template.unwrap_or_default().as_bytes());
    format!("{:016x}", hash.digest())
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ModelError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A JSON file's content, if the file is there.
fn json(path: &Path) -> Result<Option<Value>, ModelError> {
    let Some(bytes) = read_if_there(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ModelError::Json {
            path: path.to_owned(),
            reason: error.to_string(),
        })
}

/// The chat template's text and the file that it stands in.
fn template_text(
    folder: &Path,
    tokenizer_config: &Value,
) -> Result<Option<(PathBuf, String)>, ModelError> {
    let path = folder.join(TEMPLATE);
    if let Some(bytes) = read_if_there(&path)? {
        return match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) => Err(ModelError::Json {
                path,
                reason: error.to_string(),
            }),
        };
    }
    let path = folder.join(TOKENIZER_CONFIG);
    match tokenizer_config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((path, text.clone()))),
        Some(Value::Array(named)) => {
            let default = named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .and_then(|entry| entry.get("template"))
                .and_then(Value::as_str);
            Ok(default.map(|text| (path, text.to_owned())))
        }
        Some(_) => Err(ModelError::Json {
            path,
            reason: "chat_template is neither a text nor a list".to_owned(),
        }),
    }
}

/// Tokens that a template may name; each is a text, or an object with the text in `content`.
fn named_tokens(tokenizer_config: &Value) -> Vec<(String, String)> {
    let text_of = |name: &str| {
        let token = tokenizer_config.get(name)?;
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        Some((name.to_owned(), text.to_owned()))
    };
    NAMED_TOKENS.into_iter().filter_map(text_of).collect()
}

fn eos_token_ids(config: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match config.get("eos_token_id")? {
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    }
}

fn modified_secs(path: &Path) -> Result<u64, ModelError> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    let modified = modified.map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(modified
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_hash_is_a_fixed_function() {
        assert_eq!(text_hash(b"{}", None), text_hash(b"{}", Some("")));
        assert_ne!(text_hash(b"{}", Some("a")), text_hash(b"{}", Some("b")));
        assert_eq!(text_hash(b"{}", Some("a")), "1fc3f646afe679be");
    }

    #[test]
    fn a_broken_folder_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = ServedModel::load("m", folder.path()).err().unwrap();
        assert!(missing.to_string().contains("tokenizer.json: No such file"));
        std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
        let broken = ServedModel::load("m", folder.path()).err().unwrap();
        assert!(matches!(broken, ModelError::Tokenizer { .. }));
    }
}
