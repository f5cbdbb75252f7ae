//! Model folders whose tokenisers have one token for each byte.

use std::fs;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) const IM_START: u32 = 258;
pub(crate) const IM_END: u32 = 259;
/// An ordinary token of several bytes: ` the`.
pub(crate) const THE: u32 = 256;
/// The last two of the three bytes of U+6F22 and the first of the two of U+00E9.
pub(crate) const SPLIT: u32 = 257;

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A byte-level tokeniser with the bytes as tokens 0 to 255.
pub(crate) fn byte_level() -> Value {
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        vocab.insert(printable(byte).to_string(), byte.into());
    }
    let written = |bytes: &[u8]| -> String { bytes.iter().copied().map(printable).collect() };
    vocab.insert(written(b" the"), THE.into());
    vocab.insert(written(b"\xbc\xa2\xc3"), SPLIT.into());
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(IM_START, "<|im_start|>"), special(IM_END, "<|im_end|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

/// A tokeniser of the other kind: words begin with U+2581, characters that it lacks are written as bytes.
pub(crate) fn byte_fallback() -> Value {
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        vocab.insert(format!("<0x{byte:02X}>"), byte.into());
    }
    for (id, name) in (256u32..).zip(["\u{2581}", "a", "b", "\u{2581}a", "\u{2581}ab"]) {
        vocab.insert(name.to_owned(), id.into());
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                  "merges": [["\u{2581}", "a"], ["\u{2581}a", "b"]]},
    })
}

/// How byte-level vocabularies write a byte.
fn printable(byte: u8) -> char {
    let own = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if own(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|before| !own(*before)).count();
    char::from_u32(256 + u32::try_from(place).unwrap()).unwrap()
}

/// A folder with a tokeniser and no chat template.
pub(crate) fn plain_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", &byte_level());
    write(
        "config.json",
        &json!({"max_position_embeddings": 128, "eos_token_id": IM_END}),
    );
    write(
        "generation_config.json",
        &json!({"eos_token_id": [IM_END, IM_START]}),
    );
    folder
}

/// A folder with a tokeniser and a chat template.
pub(crate) fn chat_model() -> TempDir {
    let folder = plain_model();
    fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    folder
}
