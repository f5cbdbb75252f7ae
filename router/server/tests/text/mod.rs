//! Tokens to text, and model folders.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use slackwater_server::detokenizer::Detokenizer;
use slackwater_server::model::ServedModel;
use slackwater_server::tokenizer::Tokenizer;

use crate::support::folder::{self, IM_END, IM_START, SPLIT, THE};

fn tokenizer(json: &serde_json::Value) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap())
}

/// What a stream gives after each token, and at its end.
fn streamed(tokenizer: &Arc<Tokenizer>, tokens: &[u32], skip_special: bool) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special);
    let mut pieces: Vec<String> = tokens
        .iter()
        .map(|token| detokenizer.push(*token).unwrap())
        .collect();
    pieces.push(detokenizer.finish().unwrap());
    pieces
}

proptest! {
    #[test]
    fn a_byte_level_stream_equals_the_decoding_of_the_whole(
        tokens in proptest::collection::vec(prop_oneof![0u32..264, 0xe0u32..0xf5, 0x80u32..0xc0], 0..60),
        skip_special: bool,
    ) {
        let tokenizer = tokenizer(&folder::byte_level());
        let whole = tokenizer.decode(&tokens, skip_special).unwrap();
        prop_assert_eq!(streamed(&tokenizer, &tokens, skip_special).concat(), whole);
    }

    #[test]
    fn any_other_stream_equals_the_decoding_of_a_real_text(text in "[ab é漢😀]{0,40}") {
        let tokenizer = tokenizer(&folder::byte_fallback());
        let tokens = tokenizer.encode(&text, true).unwrap();
        let pieces = streamed(&tokenizer, &tokens, true);
        let broken = pieces.iter().any(|piece| piece.contains(char::REPLACEMENT_CHARACTER));
        prop_assert!(!broken);
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn encoding_is_undone_by_decoding(text in "[ -~é漢😀\\n]{0,40}") {
        let tokenizer = tokenizer(&folder::byte_level());
        let tokens = tokenizer.encode(&text, true).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text);
    }
}

#[test]
fn characters_are_given_whole_and_specials_are_not_text() {
    let tokenizer = tokenizer(&folder::byte_level());
    let tokens = [0xe6, SPLIT, 0xa9, THE, IM_END, 0xf0, 0x9f];
    let expected = ["", "漢", "é", " the", "", "", "", "\u{fffd}"];
    assert_eq!(streamed(&tokenizer, &tokens, true), expected);
    assert_eq!(
        streamed(&tokenizer, &[IM_START, 0x68], false),
        ["<|im_start|>", "h", ""]
    );
}

#[test]
fn a_window_that_never_clears_is_shown_in_the_end() {
    let tokenizer = tokenizer(&folder::byte_fallback());
    let pieces = streamed(&tokenizer, &[0xff; 200], true);
    let longest = pieces.iter().map(String::len).max().unwrap();
    assert_eq!(pieces.concat().chars().count(), 200);
    assert!(longest <= 32 * 3, "{longest}");
}

#[test]
fn a_folder_is_read_as_it_lies() {
    let folder = folder::chat_model();
    let model = ServedModel::load("tiny", folder.path()).unwrap();
    assert_eq!(
        (
            model.name(),
            model.eos_token_ids(),
            model.max_position_embeddings(),
            model.tokenizer().vocab_size(),
            model.template().is_some(),
        ),
        ("tiny", [IM_END, IM_START].as_slice(), Some(128), 260, true)
    );
    // The template in the configuration is the same text, so it is the same to the workers; the file has precedence.
    let jinja = folder.path().join("chat_template.jinja");
    let text = fs::read_to_string(&jinja).unwrap();
    let config = folder.path().join("tokenizer_config.json");
    let hash = |name: &str| {
        ServedModel::load(name, folder.path())
            .unwrap()
            .text_hash()
            .to_owned()
    };
    fs::write(&config, r#"{"chat_template": "another"}"#).unwrap();
    assert_eq!(hash("tiny"), model.text_hash());
    fs::remove_file(&jinja).unwrap();
    assert_ne!(hash("tiny"), model.text_hash());
    let named = serde_json::json!({"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": text}]});
    fs::write(&config, named.to_string()).unwrap();
    assert_eq!(hash("other"), model.text_hash());
    fs::write(&config, r#"{"chat_template": "{% if %}"}"#).unwrap();
    let broken = ServedModel::load("tiny", folder.path()).err().unwrap();
    assert!(
        broken
            .to_string()
            .contains("tokenizer_config.json: the chat template")
    );
}
