//! Messages that must be refused, with the error that says why. The golden file carries them for the other language.

use serde_json::{Value, json};
use slackwater_wire::messages::{Grammar, GrammarKind, WorkerStats};
use slackwater_wire::{Frames, Kind, Message, WireError, decode, encode};

use crate::fixtures;

/// A message that no decoder may take.
pub(crate) struct Refusal {
    pub(crate) name: String,
    pub(crate) parts: Vec<Vec<u8>>,
    /// Whether the error is the right one.
    pub(crate) matches: fn(&WireError) -> bool,
}

fn refusal(name: &str, parts: Vec<Vec<u8>>, matches: fn(&WireError) -> bool) -> Refusal {
    Refusal {
        name: name.to_owned(),
        parts,
        matches,
    }
}

fn parts(message: &Message) -> Vec<Vec<u8>> {
    encode(message).unwrap().into_parts().to_vec()
}

fn body_of(parts: &[Vec<u8>]) -> Value {
    serde_json::from_slice(&parts[1]).unwrap()
}

/// The message with one change in its body.
fn changed(message: &Message, change: impl FnOnce(&mut Value)) -> Vec<Vec<u8>> {
    let mut parts = parts(message);
    let mut body = body_of(&parts);
    change(&mut body);
    parts[1] = serde_json::to_vec(&body).unwrap();
    parts
}

fn is_body(error: &WireError) -> bool {
    matches!(error, WireError::Body { .. })
}

fn is_extent(error: &WireError) -> bool {
    matches!(error, WireError::Extent { .. })
}

fn is_range(error: &WireError) -> bool {
    matches!(error, WireError::OutOfRange { .. })
}

/// All refusals that stand in the golden file.
pub(crate) fn all() -> Vec<Refusal> {
    let mut all = by_frame();
    all.extend(by_body());
    all.extend(by_value());
    all.extend(by_extent());
    all.extend(out_of_range_params());
    all.extend(unknown_fields());
    all
}

fn heartbeat() -> Message {
    fixture("heartbeat")
}

fn fixture(name: &str) -> Message {
    let mut all = fixtures::all();
    let at = all.iter().position(|(this, _)| *this == name).unwrap();
    all.swap_remove(at).1
}

fn by_frame() -> Vec<Refusal> {
    let whole = parts(&heartbeat());
    let submit = parts(&fixture("submit"));
    let with = |parts: &[Vec<u8>], at: usize, bytes: &[u8]| {
        let mut parts = parts.to_vec();
        parts[at] = bytes.to_vec();
        parts
    };
    let part_count = |error: &WireError| matches!(error, WireError::PartCount { .. });
    let kind_length = |error: &WireError| matches!(error, WireError::KindLength { .. });
    let unknown = |error: &WireError| matches!(error, WireError::UnknownKind { .. });
    let misaligned = |error: &WireError| matches!(error, WireError::Misaligned { .. });
    vec![
        refusal("no_parts", Vec::new(), part_count),
        refusal("three_parts", whole[..3].to_vec(), part_count),
        refusal(
            "five_parts",
            [whole.clone(), vec![Vec::new()]].concat(),
            part_count,
        ),
        refusal("kind_empty", with(&whole, 0, &[]), kind_length),
        refusal("kind_two_bytes", with(&whole, 0, &[10, 10]), kind_length),
        refusal("kind_zero", with(&whole, 0, &[0]), unknown),
        refusal("kind_unknown", with(&whole, 0, &[18]), unknown),
        refusal("ids_misaligned", with(&submit, 2, &[1, 2, 3]), misaligned),
        refusal("floats_misaligned", with(&submit, 3, &[0, 0]), misaligned),
        refusal("ids_unused", with(&whole, 2, &[0, 0, 0, 0]), is_extent),
        refusal("floats_unused", with(&whole, 3, &[0, 0, 0, 0]), is_extent),
    ]
}

fn by_body() -> Vec<Refusal> {
    let text = |body: &[u8]| {
        let mut parts = parts(&heartbeat());
        parts[1] = body.to_vec();
        parts
    };
    let deep = [b"[".repeat(200), b"]".repeat(200)].concat();
    vec![
        refusal("body_empty", text(b""), is_body),
        refusal("body_not_json", text(b"{\"seq\":1,"), is_body),
        refusal("body_not_an_object", text(b"[1,2,true]"), is_body),
        refusal("body_not_utf8", text(b"{\"seq\":1,\"\xff\":0}"), is_body),
        refusal(
            "body_trailing",
            text(b"{\"seq\":1,\"progress\":2,\"busy\":false}x"),
            is_body,
        ),
        refusal("body_deep", text(&deep), is_body),
        refusal(
            "number_negative",
            changed(&heartbeat(), |body| body["progress"] = json!(-1)),
            is_body,
        ),
        refusal(
            "number_fraction",
            changed(&heartbeat(), |body| body["progress"] = json!(1.5)),
            is_body,
        ),
        refusal(
            "number_as_text",
            changed(&heartbeat(), |body| body["seq"] = json!("1")),
            is_body,
        ),
        refusal(
            "bool_as_number",
            changed(&heartbeat(), |body| body["busy"] = json!(1)),
            is_body,
        ),
        refusal(
            "number_over_u32",
            changed(&fixture("accepted"), |body| {
                body["attempt"] = json!(1_u64 << 32);
            }),
            is_body,
        ),
        refusal(
            "id_upper_case",
            changed(&fixture("accepted"), |body| {
                body["request_id"] = json!("0123456789ABCDEF0011223344556677");
            }),
            is_body,
        ),
        refusal(
            "id_short",
            changed(&fixture("accepted"), |body| {
                body["request_id"] = json!("ff");
            }),
            is_body,
        ),
        refusal(
            "enum_unknown",
            changed(&fixture("bye_drain"), |body| body["code"] = json!("later")),
            is_body,
        ),
    ]
}

/// Counts that do not fit the parts, and numbers in the parts that are out of range.
fn by_extent() -> Vec<Refusal> {
    let full = || fixture("submit_full");
    let logprobs = || fixture("step_outputs_logprobs");
    let count = |message: Message, pointer: &'static str, value: Value| {
        changed(&message, move |body| {
            *body.pointer_mut(pointer).unwrap() = value;
        })
    };
    let float = |message: Message, value: f32| {
        let mut parts = parts(&message);
        parts[3][..4].copy_from_slice(&value.to_le_bytes());
        parts
    };
    let mut rest = Vec::new();
    for (name, pointer, value) in [
        ("submit_lists_over_ids", "/num_output_tokens", json!(3)),
        (
            "submit_history_u32_max",
            "/num_output_tokens",
            json!(u32::MAX),
        ),
        ("bias_count", "/params/num_logit_bias", json!(1)),
    ] {
        rest.push(refusal(name, count(full(), pointer, value), is_extent));
    }
    for (name, pointer, value) in [
        ("top_count_low", "/outputs/0/num_top_logprobs", json!(1)),
        ("top_absent", "/outputs/1/num_top_logprobs", Value::Null),
        (
            "prompt_count",
            "/outputs/0/num_prompt_logprobs",
            json!(u32::MAX),
        ),
        (
            "top_prompt_count",
            "/outputs/0/num_top_prompt_logprobs",
            json!(20),
        ),
    ] {
        rest.push(refusal(name, count(logprobs(), pointer, value), is_extent));
    }
    for (name, pointer, value) in [
        ("top_count_high", "/outputs/0/num_top_logprobs", json!(21)),
        (
            "top_prompt_high",
            "/outputs/0/num_top_prompt_logprobs",
            json!(21),
        ),
        (
            "top_prompt_of_none",
            "/outputs/1/num_top_prompt_logprobs",
            json!(1),
        ),
    ] {
        rest.push(refusal(name, count(logprobs(), pointer, value), is_range));
    }
    let stored = || fixture("blocks_stored");
    let removed = || fixture("blocks_removed");
    let blocks = |message, value: u32| count(message, "/num_blocks", json!(value));
    rest.extend([
        refusal("bias_nan", float(full(), f32::NAN), is_range),
        refusal("bias_over", float(full(), 100.5), is_range),
        refusal("logprob_nan", float(logprobs(), f32::NAN), is_range),
        refusal(
            "logprob_infinite",
            float(logprobs(), f32::INFINITY),
            is_range,
        ),
        refusal("stored_count", blocks(stored(), 1), is_extent),
        refusal("stored_count_max", blocks(stored(), u32::MAX), is_extent),
        refusal("removed_count", blocks(removed(), 2), is_extent),
    ]);
    rest
}

fn out_of_range_params() -> Vec<Refusal> {
    [
        ("min_p", json!(-0.1)),
        ("min_p", json!(1.1)),
        ("frequency_penalty", json!(2.5)),
        ("presence_penalty", json!(-2.5)),
        ("repetition_penalty", json!(0.0)),
        ("repetition_penalty", json!(10.5)),
        ("logprobs", json!(21)),
        ("prompt_logprobs", json!(21)),
        ("num_stop_token_ids", json!(65)),
        ("num_allowed_token_ids", json!(0)),
        ("num_allowed_token_ids", json!(1_025)),
        ("bad_word_lengths", json!([0])),
        ("bad_word_lengths", json!([65])),
        ("bad_word_lengths", json!(vec![1; 129])),
        ("num_logit_bias", json!(301)),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (name, value))| {
        let parts = changed(&fixture("submit"), |body| body["params"][name] = value);
        refusal(&format!("{name}_{at}"), parts, is_range)
    })
    .collect()
}

fn by_value() -> Vec<Refusal> {
    let submit = || fixture("submit");
    let param = |name: &'static str, value: Value| {
        changed(&fixture("submit"), move |body| body["params"][name] = value)
    };
    let nan_metric = br#"{"seq":7,"num_running":0,"num_waiting":0,"kv_blocks_used":0,"kv_blocks_total":0,"metrics":[{"name":"preemptions","label":null,"value":NaN}]}"#;
    let mut metric_nan = parts(&fixture("worker_stats"));
    metric_nan[1] = nan_metric.to_vec();
    let metric = |value: Value| {
        changed(&fixture("worker_stats"), move |body| {
            body["metrics"][0]["value"] = value;
        })
    };
    let mut no_ids = parts(&submit());
    no_ids[2].clear();
    vec![
        refusal("submit_without_ids", no_ids, is_extent),
        refusal(
            "submit_all_history",
            changed(&submit(), |body| body["num_output_tokens"] = json!(3)),
            is_extent,
        ),
        refusal(
            "step_count_low",
            changed(&fixture("step_outputs"), |body| {
                body["outputs"][0]["num_tokens"] = json!(1);
            }),
            is_extent,
        ),
        refusal(
            "step_count_high",
            changed(&fixture("step_outputs"), |body| {
                body["outputs"][0]["num_tokens"] = json!(u32::MAX);
            }),
            is_extent,
        ),
        refusal(
            "temperature_negative",
            param("temperature", json!(-0.5)),
            is_range,
        ),
        refusal("top_p_zero", param("top_p", json!(0.0)), is_range),
        refusal("top_p_over_one", param("top_p", json!(1.5)), is_range),
        refusal("max_tokens_zero", param("max_tokens", json!(0)), is_range),
        refusal(
            "min_tokens_over_max",
            param("min_tokens", json!(65)),
            is_range,
        ),
        refusal("metric_nan", metric_nan, is_body),
        refusal("metric_null", metric(Value::Null), is_body),
        refusal("metric_text", metric(json!("1")), is_body),
    ]
}

/// A field that this side does not know is a schema of which this side knows nothing.
fn unknown_fields() -> Vec<Refusal> {
    let extended = |name: &str| changed(&fixture(name), |body| body["extra"] = json!(null));
    let nested = changed(&fixture("submit"), |body| {
        body["params"]["extra"] = json!(0);
    });
    let in_grammar = changed(&fixture("submit_full"), |body| {
        body["params"]["grammar"]["extra"] = json!(0);
    });
    Kind::ALL
        .iter()
        .map(|kind| {
            let (name, _) = fixtures::all()
                .into_iter()
                .find(|(_, message)| message.kind() == *kind)
                .unwrap();
            refusal(&format!("unknown_field_{name}"), extended(name), is_body)
        })
        .chain([
            refusal("unknown_field_params", nested, is_body),
            refusal("unknown_field_grammar", in_grammar, is_body),
        ])
        .collect()
}

#[test]
fn each_refusal_says_why() {
    for refusal in all() {
        let outcome = Frames::from_parts(&refusal.parts).and_then(|frames| decode(&frames));
        match outcome {
            Err(error) => assert!((refusal.matches)(&error), "{}: {error:?}", refusal.name),
            Ok(message) => panic!("{}: decoded {message:?}", refusal.name),
        }
    }
}

#[test]
fn a_missing_field_is_an_error_everywhere_nullable_or_not() {
    for (name, message) in fixtures::all() {
        let parts = parts(&message);
        let body = body_of(&parts);
        for pointer in fields("", &body) {
            let mut cut = body.clone();
            remove(&mut cut, &pointer);
            let mut parts = parts.clone();
            parts[1] = serde_json::to_vec(&cut).unwrap();
            let outcome = Frames::from_parts(&parts).and_then(|frames| decode(&frames));
            assert!(
                matches!(outcome, Err(WireError::Body { .. })),
                "{name} without {pointer}: {outcome:?}"
            );
        }
    }
}

/// Pointers to all fields of all objects in a body.
fn fields(prefix: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, inner)| {
                let pointer = format!("{prefix}/{key}");
                let mut all = fields(&pointer, inner);
                all.push(pointer);
                all
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(at, item)| fields(&format!("{prefix}/{at}"), item))
            .collect(),
        _ => Vec::new(),
    }
}

fn remove(value: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let object = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    assert!(object.remove(key).is_some());
}

#[test]
fn a_number_that_is_not_finite_is_not_sent() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut stats: WorkerStats = fixtures::stats();
        stats.metrics[0].value = value;
        assert_eq!(
            encode(&Message::WorkerStats(stats)),
            Err(WireError::OutOfRange {
                kind: "WorkerStats",
                field: "metrics.value"
            })
        );
    }
    for value in [f32::NAN, f32::INFINITY] {
        let mut submit = fixtures::submit();
        submit.params.temperature = value;
        assert_eq!(
            encode(&Message::Submit(submit, vec![1], Vec::new())),
            Err(WireError::OutOfRange {
                kind: "Submit",
                field: "temperature"
            })
        );
    }
}

#[test]
fn a_grammar_has_a_longest_text() {
    for (bytes, is_good) in [(512 * 1_024, true), (512 * 1_024 + 1, false)] {
        let mut submit = fixtures::submit();
        submit.params.grammar = Some(Grammar {
            kind: GrammarKind::Regex,
            text: "x".repeat(bytes),
        });
        let encoded = encode(&Message::Submit(submit, vec![1], Vec::new()));
        assert_eq!(encoded.is_ok(), is_good, "{bytes}");
    }
}

#[test]
fn a_number_too_large_for_its_type_is_refused_and_not_infinite() {
    for (field, text) in [("temperature", "1e39"), ("top_p", "1e999")] {
        let mut parts = parts(&fixture("submit"));
        let body = String::from_utf8(parts[1].clone()).unwrap();
        let name = format!("\"{field}\":");
        let start = body.find(&name).unwrap() + name.len();
        let end = start + body[start..].find([',', '}']).unwrap();
        parts[1] = [&body[..start], text, &body[end..]].concat().into_bytes();
        let outcome = Frames::from_parts(&parts).and_then(|frames| decode(&frames));
        assert!(outcome.is_err(), "{field}: {outcome:?}");
    }
}
