//! Golden vectors: `tests/wire/golden/messages.json` holds each fixture as both languages must read and write it.
//!
//! `UPDATE_GOLDEN=1 cargo test -p slackwater-wire --test main golden` writes the file from the fixtures; the plain test
//! compares. A change of the file is a change of the wire.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use slackwater_wire::{Frames, Kind, Message, decode, encode};

use crate::{fixtures, refusals};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/wire/golden/messages.json")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap();
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).unwrap())
        .collect()
}

fn parts_of(case: &Value) -> Vec<Vec<u8>> {
    let frames = case["frames"].as_array().unwrap();
    frames
        .iter()
        .map(|part| unhex(part.as_str().unwrap()))
        .collect()
}

fn ids_of(message: &Message) -> &[u32] {
    match message {
        Message::Submit(_, ids, _)
        | Message::StepOutputs(_, ids, _)
        | Message::BlocksStored(_, ids)
        | Message::BlocksRemoved(_, ids) => ids,
        _ => &[],
    }
}

/// The floats part by its bits, which JSON cannot lose.
fn bits_of(message: &Message) -> Vec<u32> {
    match message {
        Message::Submit(_, _, floats) | Message::StepOutputs(_, _, floats) => {
            floats.iter().map(|value| value.to_bits()).collect()
        }
        _ => Vec::new(),
    }
}

fn rendered() -> Value {
    let messages: Vec<Value> = fixtures::all()
        .into_iter()
        .map(|(name, message)| {
            let parts = encode(&message).unwrap().into_parts();
            json!({
                "name": name,
                "message": message.kind().name(),
                "kind": message.kind() as u8,
                "body": String::from_utf8(parts[1].clone()).unwrap(),
                "ids": ids_of(&message),
                "float_bits": bits_of(&message),
                "frames": parts.iter().map(|part| hex(part)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let refused: Vec<Value> = refusals::all()
        .into_iter()
        .map(|refusal| {
            json!({
                "name": refusal.name,
                "frames": refusal.parts.iter().map(|part| hex(part)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "about": "Written by UPDATE_GOLDEN=1 cargo test -p slackwater-wire --test main golden; read by the tests of both \
                  languages. `messages`: decode of frames = body, ids and floats, and back; `refused`: decode must fail.",
        "messages": messages,
        "refused": refused,
    })
}

fn committed() -> Value {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(&rendered()).unwrap() + "\n";
        std::fs::write(path(), text).unwrap();
    }
    serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap()
}

#[test]
fn golden_file_is_what_the_fixtures_give() {
    assert_eq!(committed(), rendered());
}

#[test]
fn golden_frames_decode_to_the_fixtures() {
    let committed = committed();
    let cases = committed["messages"].as_array().unwrap();
    let fixtures = fixtures::all();
    assert_eq!(cases.len(), fixtures.len());
    for (case, (name, message)) in cases.iter().zip(fixtures) {
        assert_eq!(case["name"], name);
        let frames = Frames::from_parts(&parts_of(case)).unwrap();
        assert_eq!(decode(&frames).unwrap(), message, "{name}");
    }
}

#[test]
fn fixtures_encode_to_the_golden_frames() {
    let committed = committed();
    let cases = committed["messages"].as_array().unwrap();
    for (case, (name, message)) in cases.iter().zip(fixtures::all()) {
        let parts = encode(&message).unwrap().into_parts();
        assert_eq!(parts.to_vec(), parts_of(case), "{name}");
    }
}

#[test]
fn golden_refusals_are_refused() {
    let committed = committed();
    let cases = committed["refused"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let outcome = Frames::from_parts(&parts_of(case)).and_then(|frames| decode(&frames));
        assert!(outcome.is_err(), "{}: {outcome:?}", case["name"]);
    }
}

#[test]
fn every_kind_has_a_fixture() {
    let mut bytes: Vec<u8> = fixtures::all()
        .iter()
        .map(|(_, m)| m.kind() as u8)
        .collect();
    bytes.sort_unstable();
    bytes.dedup();
    let kinds: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
    assert_eq!(bytes, kinds);
}
