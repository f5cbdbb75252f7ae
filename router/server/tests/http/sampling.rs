//! What shapes the choices of an answer: on its way to the core, and what the answer says of them.

use serde_json::{Value, json};
use slackwater_core::{Ending, Failure, Grammar, GrammarKind, Logprobs, Shaping, TokenLogprobs};
use slackwater_server::handle::SessionEvent;

use crate::support::client::events;
use crate::support::folder::{IM_END, SPLIT, THE};
use crate::support::{Opened, Server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(extra: Value) -> Value {
    merged(
        json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}]}),
        extra,
    )
}

fn completion(extra: Value) -> Value {
    merged(json!({"model": "tiny", "prompt": "ab"}), extra)
}

fn merged(mut body: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else {
        panic!("{extra}")
    };
    body.as_object_mut().unwrap().extend(extra);
    body
}

fn one(logprob: f32, top: &[(u32, f32)]) -> TokenLogprobs {
    TokenLogprobs {
        logprob,
        top: top.to_vec(),
    }
}

fn of_tokens(tokens: &[TokenLogprobs]) -> Logprobs {
    Logprobs {
        tokens: tokens.to_vec(),
        prompt: Vec::new(),
    }
}

async fn end(opened: &Opened, ending: Ending) {
    opened.send(SessionEvent::Ended(ending)).await;
}

#[tokio::test]
async fn all_of_it_reaches_the_core() {
    let mut server = Server::start().await;
    let body = chat(json!({
        "top_k": 40, "min_p": 0.25, "frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 1.5,
        "logit_bias": {"5": -100, "6": 0.5}, "allowed_token_ids": [1, 2], "stop_token_ids": [3],
        "bad_words": ["b", " \n the"], "logprobs": true, "top_logprobs": 2, "prompt_logprobs": 1,
        "structured_outputs": {"regex": "a+", "json": null},
    }));
    let _client = server.post(CHAT, &body).await;
    let opened = server.opened().await;
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    let wanted = Shaping {
        top_k: 40,
        min_p: 0.25,
        frequency_penalty: -2.0,
        presence_penalty: 2.0,
        repetition_penalty: 1.5,
        stop_token_ids: vec![3],
        allowed_token_ids: Some(vec![1, 2]),
        // Behind a space each has one token more.
        bad_words: vec![bytes("b"), bytes("the")],
        logit_bias: vec![(5, -100.0), (6, 0.5)],
        logprobs: Some(2),
        prompt_logprobs: Some(1),
        grammar: Some(Grammar {
            kind: GrammarKind::Regex,
            text: "a+".to_owned(),
        }),
    };
    assert_eq!(**opened.request.shaping(), wanted);
    assert_eq!(
        (opened.request.group(), opened.request.choice_index()),
        (None, 0)
    );
}

#[tokio::test]
async fn each_way_to_say_a_grammar_has_its_kind() {
    let schema = json!({"type": "object", "properties": {"z": {}, "a": {}}});
    let text = r#"{"type":"object","properties":{"z":{},"a":{}}}"#;
    let wrapped = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    let tag = json!({"type": "structural_tag", "structures": [], "triggers": []});
    let cases = [
        (
            json!({"response_format": {"type": "json_object"}}),
            GrammarKind::JsonObject,
            "",
        ),
        (
            json!({"response_format": wrapped}),
            GrammarKind::JsonSchema,
            text,
        ),
        (
            json!({"response_format": tag}),
            GrammarKind::StructuralTag,
            r#"{"type":"structural_tag","structures":[],"triggers":[]}"#,
        ),
        (
            json!({"structured_outputs": {"json": schema}}),
            GrammarKind::JsonSchema,
            text,
        ),
        (
            json!({"structured_outputs": {"json": "{ }"}}),
            GrammarKind::JsonSchema,
            "{ }",
        ),
        (
            json!({"structured_outputs": {"choice": ["a", "b"]}}),
            GrammarKind::Choice,
            r#"["a","b"]"#,
        ),
        (
            json!({"structured_outputs": {"grammar": "start: \"a\""}}),
            GrammarKind::Lark,
            "start: \"a\"",
        ),
        (
            json!({"structured_outputs": {"json_object": true}}),
            GrammarKind::JsonObject,
            "",
        ),
    ];
    let mut server = Server::start().await;
    for (extra, kind, text) in cases {
        let _client = server.post(CHAT, &chat(extra.clone())).await;
        let opened = server.opened().await;
        let text = text.to_owned();
        assert_eq!(
            opened.request.shaping().grammar,
            Some(Grammar { kind, text }),
            "{extra}"
        );
    }
}

#[tokio::test]
async fn choices_are_requests_of_one_group_and_the_prompt_is_counted_once() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": ["ab", "c"], "n": 2, "seed": 5, "max_tokens": 4});
    let mut client = server.post(COMPLETIONS, &body).await;
    let mut opened = Vec::new();
    for _ in 0..4 {
        opened.push(server.opened().await);
    }
    let groups: Vec<_> = opened
        .iter()
        .map(|each| each.request.group().unwrap())
        .collect();
    assert!(groups[0] == groups[1] && groups[2] == groups[3] && groups[0] != groups[2]);
    let places: Vec<_> = opened
        .iter()
        .map(|each| (each.request.choice_index(), each.request.sampling().seed))
        .collect();
    assert_eq!(places, [(0, 5), (1, 5), (0, 5), (1, 5)]);
    for (index, each) in opened.iter().enumerate().rev() {
        each.texts(&[index.to_string().as_bytes()]).await;
        end(each, Ending::Length).await;
    }
    let reply = client.reply().await.json();
    let choice = |index: usize| json!({"index": index, "text": index.to_string(), "logprobs": null, "finish_reason": "length"});
    assert_eq!(
        reply["choices"],
        json!([choice(0), choice(1), choice(2), choice(3)])
    );
    assert_eq!(
        reply["usage"],
        json!({
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 6},
        })
    );
}

#[tokio::test]
async fn the_best_of_several_are_given_in_their_order() {
    let mut server = Server::start().await;
    let body = completion(json!({"n": 2, "best_of": 3}));
    let mut client = server.post(COMPLETIONS, &body).await;
    for (text, logprob) in [(b"x", -3.0), (b"y", -1.0), (b"z", -0.5)] {
        let opened = server.opened().await;
        assert_eq!(opened.request.shaping().logprobs, Some(0));
        let token = u32::from(text[0]);
        opened
            .tokens_with(0, &[token], of_tokens(&[one(logprob, &[])]))
            .await;
        end(&opened, Ending::Length).await;
    }
    let reply = client.reply().await.json();
    let texts: Vec<_> = [0, 1].map(|at| reply["choices"][at]["text"].clone()).into();
    assert_eq!(texts, ["z", "y"]);
    assert_eq!(reply["choices"][0]["logprobs"], Value::Null);
    assert_eq!(reply["choices"].as_array().unwrap().len(), 2);
    assert_eq!(reply["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn a_choice_that_fails_ends_all_and_the_others_are_cancelled() {
    let mut server = Server::start().await;
    let mut client = server.post(COMPLETIONS, &completion(json!({"n": 3}))).await;
    let opened = [
        server.opened().await,
        server.opened().await,
        server.opened().await,
    ];
    opened[0].texts(&[b"a"]).await;
    let failure = Failure::Worker {
        code: "grammar_dead_end".to_owned(),
        message: "no token".to_owned(),
    };
    end(&opened[1], Ending::Failed(failure)).await;
    let reply = client.reply().await;
    assert_eq!(reply.error(), (500, "grammar_dead_end".to_owned(), None));
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let mut gone = [server.gone().await, server.gone().await];
    gone.sort_unstable();
    let mut wanted = [
        opened[0].request.request_id(),
        opened[2].request.request_id(),
    ];
    wanted.sort_unstable();
    assert_eq!(gone, wanted);
}

#[tokio::test]
async fn what_a_worker_says_of_a_grammar_has_its_status() {
    let mut server = Server::start().await;
    let param = Some("response_format".to_owned());
    for (code, status, param, stream) in [
        ("grammar_invalid", 400, param.clone(), false),
        ("grammar_too_complex", 400, param, true),
        ("grammar_dead_end", 500, None, false),
    ] {
        let body = chat(json!({"response_format": {"type": "json_object"}, "stream": stream}));
        let mut client = server.post(CHAT, &body).await;
        let failure = Failure::Worker {
            code: code.to_owned(),
            message: "why".to_owned(),
        };
        end(&server.opened().await, Ending::Failed(failure)).await;
        let reply = client.reply().await;
        assert_eq!(reply.error(), (status, code.to_owned(), param));
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    let body = chat(json!({"structured_outputs": {"regex": "a"}}));
    let mut client = server.post(CHAT, &body).await;
    let refused = Failure::Refused {
        code: "unsupported_parameter".to_owned(),
        message: "why".to_owned(),
        param: Some("grammar".to_owned()),
    };
    end(&server.opened().await, Ending::Failed(refused)).await;
    let param = Some("structured_outputs".to_owned());
    let expected = (400, "unsupported_parameter".to_owned(), param);
    assert_eq!(client.reply().await.error(), expected);
}

#[tokio::test]
async fn chat_logprobs_have_texts_bytes_and_the_likeliest() {
    let mut server = Server::start().await;
    let body = chat(json!({"logprobs": true, "top_logprobs": 2}));
    let mut client = server.post(CHAT, &body).await;
    let opened = server.opened().await;
    let logprobs = of_tokens(&[
        one(-0.5, &[(97, -0.25), (THE, -0.5)]),
        one(f32::NEG_INFINITY, &[(98, -1.0), (99, -2.0)]),
    ]);
    opened.tokens_with(0, &[THE, SPLIT], logprobs).await;
    end(&opened, Ending::Length).await;
    let entry = |token: &str, logprob: f64, bytes: &[u8]| json!({"token": token, "logprob": logprob, "bytes": bytes});
    let with_top = |mut entry: Value, top: Value| {
        entry["top_logprobs"] = top;
        entry
    };
    let the = entry(" the", -0.5, b" the");
    let first = with_top(the.clone(), json!([entry("a", -0.25, b"a"), the]));
    let split = entry("\u{fffd}\u{fffd}\u{fffd}", -9999.0, b"\xbc\xa2\xc3");
    let second = with_top(
        split,
        json!([entry("b", -1.0, b"b"), entry("c", -2.0, b"c")]),
    );
    let reply = client.reply().await.json();
    assert_eq!(
        reply["choices"][0]["logprobs"],
        json!({"content": [first, second], "refusal": null})
    );
}

#[tokio::test]
async fn an_echo_has_the_prompt_before_the_text_and_its_logprobs_before_the_others() {
    let mut server = Server::start().await;
    let body = completion(json!({"echo": true, "logprobs": 1}));
    let mut client = server.post(COMPLETIONS, &body).await;
    let opened = server.opened().await;
    assert_eq!(opened.request.shaping().prompt_logprobs, Some(1));
    let logprobs = Logprobs {
        tokens: vec![one(-0.5, &[(100, -0.25)])],
        prompt: vec![one(-2.0, &[(99, -1.0)])],
    };
    opened.tokens_with(0, &[THE], logprobs).await;
    end(&opened, Ending::Length).await;
    let reply = client.reply().await.json();
    assert_eq!(
        reply["choices"][0],
        json!({
            "index": 0, "text": "ab the", "finish_reason": "length",
            "logprobs": {
                "tokens": ["a", "b", " the"],
                "token_logprobs": [null, -2.0, -0.5],
                "top_logprobs": [null, {"c": -1.0, "b": -2.0}, {"d": -0.25, " the": -0.5}],
                "text_offset": [0, 1, 2],
            },
        })
    );
}

#[tokio::test]
async fn an_echo_of_tokens_or_of_a_cut_prompt_is_the_text_of_what_is_left() {
    let mut server = Server::start().await;
    for (prompt, left) in [(json!([97, 98, 99]), "bc"), (json!("xbc"), "bc")] {
        let body =
            json!({"model": "tiny", "prompt": prompt, "echo": true, "truncate_prompt_tokens": 2});
        let mut client = server.post(COMPLETIONS, &body).await;
        let opened = server.opened().await;
        assert_eq!(opened.request.prompt().to_vec(), [98, 99]);
        opened.texts(&[b"!"]).await;
        end(&opened, Ending::Length).await;
        let text = client.reply().await.json()["choices"][0]["text"].clone();
        assert_eq!(text, format!("{left}!"));
    }
}

#[tokio::test]
async fn prompt_logprobs_and_token_ids_are_parts_of_their_own() {
    let mut server = Server::start().await;
    let body = completion(json!({"prompt_logprobs": 1, "return_token_ids": true}));
    let mut client = server.post(COMPLETIONS, &body).await;
    let opened = server.opened().await;
    let logprobs = Logprobs {
        tokens: Vec::new(),
        prompt: vec![one(-2.0, &[(99, -1.0)])],
    };
    opened.tokens_with(0, &[120, IM_END], logprobs).await;
    end(&opened, Ending::Stop).await;
    let reply = client.reply().await.json();
    assert_eq!(
        reply["choices"][0],
        json!({
            "index": 0, "text": "x", "logprobs": null, "finish_reason": "stop",
            "token_ids": [120, IM_END], "prompt_token_ids": [97, 98],
            "prompt_logprobs": [null, {
                "98": {"logprob": -2.0, "rank": null, "decoded_token": "b"},
                "99": {"logprob": -1.0, "rank": 1, "decoded_token": "c"},
            }],
        })
    );
}

#[tokio::test]
async fn a_stop_token_is_no_text_unless_stops_are_to_be_shown() {
    let mut server = Server::start().await;
    for (extra, text) in [
        (json!({"stop_token_ids": [33]}), "hi"),
        (
            json!({"stop_token_ids": [33], "include_stop_str_in_output": true}),
            "hi!",
        ),
    ] {
        let mut client = server.post(CHAT, &chat(extra)).await;
        let opened = server.opened().await;
        opened.texts(&[b"hi!"]).await;
        end(&opened, Ending::Stop).await;
        let reply = client.reply().await.json();
        assert_eq!(reply["choices"][0]["message"]["content"], text);
        assert_eq!(reply["usage"]["completion_tokens"], 3);
    }
}

#[tokio::test]
async fn a_stop_string_and_special_tokens_are_shown_to_those_who_ask() {
    let mut server = Server::start().await;
    let shown = json!({"stop": "lo", "include_stop_str_in_output": true});
    let mut client = server.post(CHAT, &chat(shown)).await;
    let opened = server.opened().await;
    opened.texts(&[b"hel", b"lower"]).await;
    let reply = client.reply().await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "hello");
    let special = json!({"skip_special_tokens": false, "ignore_eos": true});
    let mut client = server.post(CHAT, &chat(special)).await;
    let opened = server.opened().await;
    opened.tokens(0, &[104, IM_END]).await;
    end(&opened, Ending::Length).await;
    let reply = client.reply().await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "h<|im_end|>");
}

/// The choices of all events, less those of the usage and of the roles.
fn choices_of(body: &[u8]) -> Vec<Value> {
    let parsed = events(body)
        .into_iter()
        .filter_map(|event| serde_json::from_str::<Value>(&event).ok());
    parsed.map(|event| event["choices"][0].clone()).collect()
}

#[tokio::test]
async fn streamed_choices_are_told_apart_by_index_and_each_ends_once() {
    let mut server = Server::start().await;
    let body = completion(
        json!({"n": 2, "stream": true, "logprobs": 0, "echo": true, "return_token_ids": true}),
    );
    let mut client = server.post(COMPLETIONS, &body).await;
    let opened = [server.opened().await, server.opened().await];
    let prompt = || vec![one(-2.0, &[])];
    let first = Logprobs {
        tokens: vec![one(-0.5, &[])],
        prompt: prompt(),
    };
    opened[1].tokens_with(0, &[120], first.clone()).await;
    opened[1]
        .tokens_with(1, &[121], of_tokens(&[one(-0.25, &[])]))
        .await;
    end(&opened[1], Ending::Length).await;
    opened[0].tokens_with(0, &[122], first).await;
    end(&opened[0], Ending::Stop).await;
    let reply = client.reply().await;
    let found = choices_of(&reply.body);
    let of = |index: u64| -> Vec<Value> {
        found
            .iter()
            .filter(|choice| choice["index"] == index)
            .cloned()
            .collect()
    };
    let begun = |index: u64, text: &str, token: u32| {
        let last = text.chars().last().unwrap().to_string();
        json!({
            "index": index, "text": text, "finish_reason": null, "token_ids": [token], "prompt_token_ids": [97, 98],
            "logprobs": {
                "tokens": ["a", "b", last], "token_logprobs": [null, -2.0, -0.5], "text_offset": [0, 1, 2],
                "top_logprobs": [null, {"b": -2.0}, {last.clone(): -0.5}],
            },
        })
    };
    let ended = |index: u64, reason: &str| json!({"index": index, "text": "", "logprobs": null, "finish_reason": reason});
    let second = json!({
        "index": 1, "text": "y", "finish_reason": null, "token_ids": [121],
        "logprobs": {"tokens": ["y"], "token_logprobs": [-0.25], "text_offset": [3], "top_logprobs": [{"y": -0.25}]},
    });
    assert_eq!(of(0), [begun(0, "abz", 122), ended(0, "stop")]);
    assert_eq!(of(1), [begun(1, "abx", 120), second, ended(1, "length")]);
    assert_eq!(events(&reply.body).last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_all_choices() {
    let mut server = Server::start().await;
    let body = chat(json!({"n": 3, "stream": true}));
    let client = server.post(CHAT, &body).await;
    let mut wanted = Vec::new();
    let mut opened = Vec::new();
    for _ in 0..3 {
        let each = server.opened().await;
        wanted.push(each.request.request_id());
        opened.push(each);
    }
    drop(client);
    let mut gone = Vec::new();
    for _ in 0..3 {
        gone.push(server.gone().await);
    }
    wanted.sort_unstable();
    gone.sort_unstable();
    assert_eq!(gone, wanted);
}
