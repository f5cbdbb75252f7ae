//! Bad input: each case is refused with its code and parameter, and no worker hears of it.

use std::time::Duration;

use serde_json::{Value, json};
use slackwater_server::model::ServedModel;

use crate::support::{HEALTH_PATHS, Server, folder};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

type Outcome = (u16, String, Option<String>);

fn outcome(status: u16, code: &str, param: Option<&str>) -> Outcome {
    (status, code.to_owned(), param.map(str::to_owned))
}

/// Path, status, code, parameter and body; a word in capitals stands for a value that [`filled`] puts in.
const BAD_FIELDS: &str = r#"
chat        | 400 | invalid_request         | model                 | {"messages": "USER"}
chat        | 400 | invalid_request         | messages              | {"model": "tiny"}
chat        | 404 | model_not_found         | model                 | {"model": "nope", "messages": "USER"}
chat        | 400 | invalid_request         | messages              | {"model": "tiny", "messages": []}
chat        | 400 | context_length_exceeded | messages              | {"model": "tiny", "messages": "LONG"}
chat        | 400 | invalid_request         | max_tokens            | {"model": "tiny", "messages": "USER", "max_tokens": 0}
chat        | 400 | invalid_request         | max_completion_tokens | {"model": "tiny", "messages": "USER", "max_completion_tokens": 0}
chat        | 400 | context_length_exceeded | max_completion_tokens | {"model": "tiny", "messages": "USER", "max_completion_tokens": 128}
chat        | 400 | invalid_request         | min_tokens            | {"model": "tiny", "messages": "USER", "max_tokens": 2, "min_tokens": 3}
chat        | 400 | invalid_request         | temperature           | {"model": "tiny", "messages": "USER", "temperature": 2.1}
chat        | 400 | invalid_request         | temperature           | {"model": "tiny", "messages": "USER", "temperature": -0.1}
chat        | 400 | invalid_request         | temperature           | {"model": "tiny", "messages": "USER", "temperature": 1e300}
chat        | 400 | invalid_request         | top_p                 | {"model": "tiny", "messages": "USER", "top_p": 0}
chat        | 400 | invalid_request         | top_p                 | {"model": "tiny", "messages": "USER", "top_p": 1.5}
chat        | 400 | invalid_request         | n                     | {"model": "tiny", "messages": "USER", "n": 0}
chat        | 400 | invalid_request         | n                     | {"model": "tiny", "messages": "USER", "n": 17}
chat        | 400 | invalid_request         | n                     | {"model": "tiny", "messages": "USER", "n": 2.0}
chat        | 400 | unsupported_parameter   | best_of               | {"model": "tiny", "messages": "USER", "best_of": 2}
chat        | 400 | unsupported_parameter   | echo                  | {"model": "tiny", "messages": "USER", "echo": true}
chat        | 400 | invalid_request         | top_k                 | {"model": "tiny", "messages": "USER", "top_k": -2}
chat        | 400 | invalid_request         | top_k                 | {"model": "tiny", "messages": "USER", "top_k": 301}
chat        | 400 | invalid_request         | min_p                 | {"model": "tiny", "messages": "USER", "min_p": 1.1}
chat        | 400 | invalid_request         | frequency_penalty     | {"model": "tiny", "messages": "USER", "frequency_penalty": 2.1}
chat        | 400 | invalid_request         | presence_penalty      | {"model": "tiny", "messages": "USER", "presence_penalty": -2.1}
chat        | 400 | invalid_request         | repetition_penalty    | {"model": "tiny", "messages": "USER", "repetition_penalty": 0}
chat        | 400 | invalid_request         | repetition_penalty    | {"model": "tiny", "messages": "USER", "repetition_penalty": 10.1}
chat        | 400 | invalid_request         | logit_bias            | {"model": "tiny", "messages": "USER", "logit_bias": [1]}
chat        | 400 | invalid_request         | logit_bias.x          | {"model": "tiny", "messages": "USER", "logit_bias": {"x": 1}}
chat        | 400 | invalid_request         | logit_bias.1          | {"model": "tiny", "messages": "USER", "logit_bias": {"1": 101}}
chat        | 400 | invalid_request         | logit_bias            | {"model": "tiny", "messages": "USER", "logit_bias": {"300": 1}}
chat        | 400 | invalid_request         | allowed_token_ids     | {"model": "tiny", "messages": "USER", "allowed_token_ids": []}
chat        | 400 | invalid_request         | allowed_token_ids     | {"model": "tiny", "messages": "USER", "allowed_token_ids": [300]}
chat        | 400 | invalid_request         | stop_token_ids        | {"model": "tiny", "messages": "USER", "stop_token_ids": [-1]}
chat        | 400 | invalid_request         | stop_token_ids        | {"model": "tiny", "messages": "USER", "stop_token_ids": [300]}
chat        | 400 | invalid_request         | bad_words             | {"model": "tiny", "messages": "USER", "bad_words": [" "]}
chat        | 400 | invalid_request         | bad_words             | {"model": "tiny", "messages": "USER", "bad_words": "a"}
chat        | 400 | invalid_request         | bad_words             | {"model": "tiny", "messages": "USER", "bad_words": ["sixty-five bytes are sixty-five tokens of this tokeniser, too many."]}
chat        | 400 | invalid_request         | logprobs              | {"model": "tiny", "messages": "USER", "logprobs": 1}
chat        | 400 | invalid_request         | top_logprobs          | {"model": "tiny", "messages": "USER", "logprobs": true, "top_logprobs": 21}
chat        | 400 | invalid_request         | top_logprobs          | {"model": "tiny", "messages": "USER", "top_logprobs": 1}
chat        | 400 | invalid_request         | prompt_logprobs       | {"model": "tiny", "messages": "USER", "prompt_logprobs": 21}
chat        | 400 | invalid_request         | prompt_logprobs       | {"model": "tiny", "messages": "USER", "prompt_logprobs": 1, "stream": true}
chat        | 400 | invalid_request         | truncate_prompt_tokens | {"model": "tiny", "messages": "USER", "truncate_prompt_tokens": 0}
chat        | 400 | invalid_request         | include_stop_str_in_output | {"model": "tiny", "messages": "USER", "include_stop_str_in_output": 1}
chat        | 400 | invalid_request         | skip_special_tokens   | {"model": "tiny", "messages": "USER", "skip_special_tokens": "no"}
chat        | 400 | invalid_request         | return_token_ids      | {"model": "tiny", "messages": "USER", "return_token_ids": 1}
chat        | 400 | invalid_request         | response_format       | {"model": "tiny", "messages": "USER", "response_format": "json"}
chat        | 400 | invalid_request         | response_format.type  | {"model": "tiny", "messages": "USER", "response_format": {"type": "xml"}}
chat        | 400 | unknown_parameter       | response_format.x     | {"model": "tiny", "messages": "USER", "response_format": {"type": "text", "x": 1}}
chat        | 400 | invalid_request         | response_format.json_schema | {"model": "tiny", "messages": "USER", "response_format": {"type": "json_schema"}}
chat        | 400 | invalid_request         | response_format.json_schema.schema | {"model": "tiny", "messages": "USER", "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}
chat        | 400 | invalid_request         | structured_outputs    | {"model": "tiny", "messages": "USER", "structured_outputs": 1}
chat        | 400 | invalid_request         | structured_outputs    | {"model": "tiny", "messages": "USER", "structured_outputs": {"regex": "a", "grammar": "b"}}
chat        | 400 | invalid_request         | structured_outputs    | {"model": "tiny", "messages": "USER", "structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}
chat        | 400 | invalid_request         | structured_outputs.regex | {"model": "tiny", "messages": "USER", "structured_outputs": {"regex": 1}}
chat        | 400 | invalid_request         | structured_outputs.choice | {"model": "tiny", "messages": "USER", "structured_outputs": {"choice": []}}
chat        | 400 | unknown_parameter       | structured_outputs.xml | {"model": "tiny", "messages": "USER", "structured_outputs": {"xml": "a"}}
chat        | 400 | unsupported_parameter   | structured_outputs.whitespace_pattern | {"model": "tiny", "messages": "USER", "structured_outputs": {"whitespace_pattern": "a"}}
chat        | 400 | unknown_parameter       | nn                    | {"model": "tiny", "messages": "USER", "nn": 2}
completions | 400 | invalid_request         | prompt                | {"model": "tiny"}
completions | 400 | invalid_request         | prompt                | {"model": "tiny", "prompt": ""}
completions | 400 | invalid_request         | prompt                | {"model": "tiny", "prompt": []}
completions | 400 | invalid_request         | prompt                | {"model": "tiny", "prompt": [300]}
completions | 400 | context_length_exceeded | prompt                | {"model": "tiny", "prompt": "MANY"}
completions | 400 | invalid_request         | max_tokens            | {"model": "tiny", "prompt": "PROMPTS", "max_tokens": 5000}
completions | 400 | invalid_request         | logprobs              | {"model": "tiny", "prompt": "x", "logprobs": 21}
completions | 400 | invalid_request         | logprobs              | {"model": "tiny", "prompt": "x", "logprobs": true}
completions | 400 | invalid_request         | best_of               | {"model": "tiny", "prompt": "x", "n": 3, "best_of": 2}
completions | 400 | invalid_request         | best_of               | {"model": "tiny", "prompt": "x", "best_of": 2, "stream": true}
completions | 400 | invalid_request         | best_of               | {"model": "tiny", "prompt": "PROMPTS", "best_of": 2}
completions | 400 | invalid_request         | n                     | {"model": "tiny", "prompt": "PROMPTS", "n": 2}
"#;

fn filled(body: &str) -> Value {
    let mut body: Value = serde_json::from_str(body).unwrap();
    for value in body.as_object_mut().unwrap().values_mut() {
        *value = match value.as_str() {
            Some("USER") => json!([{"role": "user", "content": "x"}]),
            Some("LONG") => json!([{"role": "user", "content": "x".repeat(200)}]),
            Some("MANY") => json!(vec![1; 128]),
            Some("PROMPTS") => json!(vec!["a"; 64]),
            _ => continue,
        };
    }
    body
}

#[tokio::test]
async fn bad_fields_are_named() {
    let mut server = Server::start().await;
    let rows: Vec<&str> = BAD_FIELDS.trim().lines().collect();
    assert_eq!(rows.len(), 71);
    for row in rows {
        let cells: Vec<&str> = row.splitn(5, '|').map(str::trim).collect();
        let [path, status, code, param, body] = cells[..] else {
            panic!("{row}")
        };
        let path = if path == "chat" { CHAT } else { COMPLETIONS };
        let wanted = outcome(status.parse().unwrap(), code, Some(param));
        let mut client = server.post(path, &filled(body)).await;
        let reply = client.reply().await;
        assert_eq!(reply.error(), wanted, "{body}");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
        assert!(reply.header("x-request-id").is_some());
    }
    assert!(server.untouched());
}

#[tokio::test]
async fn a_prompt_over_the_context_tells_both_counts() {
    let server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": "x".repeat(1_000)}).to_string();
    let reply = server
        .ask(&format!("POST {COMPLETIONS}"), body.as_bytes())
        .await;
    let body = reply.json();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("1000") && message.contains("128"),
        "{message}"
    );
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_refused() {
    let mut server = Server::start().await;
    let deep = format!("{{\"a\":{}}}", "[".repeat(1_000_000));
    let bad: [&[u8]; 5] = [
        b"{",
        b"{\"model\":\"tiny\",\"model\":\"tiny\"}",
        b"{\"model\":\"\\ud800\"}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
    ];
    for body in bad {
        let reply = server.ask(&format!("POST {CHAT}"), body).await;
        assert_eq!(reply.error(), outcome(400, "invalid_json", None));
    }
    let reply = server.ask(&format!("POST {CHAT}"), b"").await;
    assert_eq!(reply.error(), outcome(400, "invalid_json", None));
    for other in ["[]", "1", "\"a\"", "null"] {
        let reply = server.ask(&format!("POST {CHAT}"), other.as_bytes()).await;
        assert_eq!(reply.error(), outcome(400, "invalid_request", None));
    }
    let huge = br#"{"model":"tiny","prompt":"a","temperature":1e999}"#;
    let reply = server.ask(&format!("POST {COMPLETIONS}"), huge).await;
    assert_eq!(
        reply.error(),
        outcome(400, "invalid_request", Some("temperature"))
    );
    assert!(server.untouched());
}

#[tokio::test]
async fn paths_and_methods_are_known_or_not() {
    let server = Server::start().await;
    let cases = [
        ("GET /", 404, "unknown_url"),
        ("POST /v1/chat/completions/", 404, "unknown_url"),
        ("POST /v1/embeddings", 404, "unknown_url"),
        ("GET /v1/models/", 404, "unknown_url"),
        ("GET /admin/workers", 404, "unknown_url"),
        ("GET /v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE /v1/models", 405, "method_not_allowed"),
    ];
    for (head, status, code) in cases {
        let reply = server.ask(head, b"").await;
        assert_eq!(reply.error(), outcome(status, code, None), "{head}");
        let allow = match head {
            "GET /v1/chat/completions" => Some("POST"),
            "DELETE /v1/models" => Some("GET, HEAD"),
            _ => None,
        };
        assert_eq!(reply.header("allow"), allow);
    }
    let reply = server.ask("GET /v1/models/other%2Fone", b"").await;
    assert_eq!(
        reply.error(),
        outcome(404, "model_not_found", Some("model"))
    );
}

#[tokio::test]
async fn bodies_are_bounded_by_their_length_their_count_and_their_time() {
    let mut server = Server::with(|limits| {
        limits.json_bytes = 1_000;
        limits.body_deadline = Duration::from_millis(100);
    })
    .await;
    let too_large = outcome(413, "body_too_large", None);
    // Refused by its length: nothing of the body is sent.
    let mut client = server.client().await;
    client
        .write(
            format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n").as_bytes(),
        )
        .await;
    let reply = client.reply().await;
    assert_eq!(reply.error(), too_large);
    assert_eq!(reply.header("connection"), Some("close"));
    // Refused by its count, while the client sends on: it must be able to end that and read the answer.
    let mut client = server.client().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [b"2000\r\n".as_slice(), &[b' '; 0x2000], b"\r\n"].concat();
    client
        .write(&[head.as_bytes(), &chunk.repeat(1_000)].concat())
        .await;
    assert_eq!(client.reply().await.error(), too_large);
    // Not there in time, though it trickles.
    let mut client = server.client().await;
    client
        .write(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{{").as_bytes())
        .await;
    let reply = client.reply().await;
    assert_eq!(reply.error(), outcome(408, "body_timeout", None));
    assert_eq!(reply.header("x-should-retry"), Some("true"));
    // Encoded.
    let mut client = server.client().await;
    client.post(CHAT, &["content-encoding: gzip"], b"{}").await;
    assert_eq!(
        client.reply().await.error(),
        outcome(415, "unsupported_media_type", None)
    );
    assert!(server.untouched());
}

#[tokio::test]
async fn a_body_that_says_it_is_no_json_is_refused() {
    let mut server = Server::start().await;
    let refused = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/jsonp",
        "",
    ];
    for path in [CHAT, COMPLETIONS] {
        for content_type in refused {
            let mut client = server.client().await;
            let header = format!("content-type: {content_type}");
            client.post(path, &[&header], b"{}").await;
            let reply = client.reply().await;
            assert_eq!(
                reply.error(),
                outcome(415, "unsupported_media_type", None),
                "{content_type}"
            );
            let body = reply.json();
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains("send content-type: application/json"));
        }
    }
    let mut client = server.client().await;
    let two = ["content-type: application/json", "content-type: text/plain"];
    client.post(CHAT, &two, b"{}").await;
    assert_eq!(client.reply().await.status, 415);
    // JSON's own types and none at all come to the fields.
    for header in [
        "content-type: application/json",
        "content-type: Application/JSON ; charset=utf-8",
        "content-type: application/merge-patch+json",
        "x-none: 1",
    ] {
        let mut client = server.client().await;
        client.post(CHAT, &[header], b"{}").await;
        assert_eq!(
            client.reply().await.error(),
            outcome(400, "invalid_request", Some("model")),
            "{header}"
        );
    }
    // Where no body is taken, its type does not matter.
    let mut client = server.client().await;
    client
        .request("GET /live", &["content-type: text/plain"], b"")
        .await;
    assert_eq!(client.reply().await.status, 200);
    assert!(server.untouched());
}

#[tokio::test]
async fn without_a_worker_or_a_template_the_answer_says_so() {
    let folder = folder::plain_model();
    let model = ServedModel::load("tiny", folder.path()).unwrap();
    let server = Server::serving(model, |limits| {
        limits.no_worker_wait = Duration::from_millis(20);
    })
    .await;
    let ask = async |path: &str, body: Value| {
        server
            .ask(&format!("POST {path}"), body.to_string().as_bytes())
            .await
    };
    let reply = ask(COMPLETIONS, json!({"model": "tiny", "prompt": "a"})).await;
    assert_eq!(reply.error(), outcome(503, "no_worker", None));
    assert!(reply.header("retry-after-ms").is_some());
    let user = json!([{"role": "user", "content": "x"}]);
    let reply = ask(CHAT, json!({"model": "tiny", "messages": user})).await;
    assert_eq!(
        reply.error(),
        outcome(400, "chat_unsupported", Some("messages"))
    );
}

#[tokio::test]
async fn a_driver_that_is_gone_is_a_server_that_shuts_down() {
    let Server {
        address,
        driver,
        phase,
        serving,
        ..
    } = Server::start().await;
    drop(driver);
    let mut client = crate::support::client::Client::connect(address).await;
    client
        .post(COMPLETIONS, &[], br#"{"model":"tiny","prompt":"a"}"#)
        .await;
    assert_eq!(client.reply().await.error(), outcome(503, "draining", None));
    drop((phase, serving));
}

#[tokio::test]
async fn every_route_has_the_policy_that_was_decided() {
    let server = Server::start().await;
    let public = HEALTH_PATHS.iter().chain(&["/version"]);
    let mut expected: Vec<String> = public.map(|path| format!("GET {path} Public")).collect();
    expected.extend(
        [
            "POST /v1/chat/completions Key(Inference)",
            "POST /v1/completions Key(Inference)",
            "GET /v1/models Key(Read)",
            "GET /v1/models/{} Key(Read)",
            "GET /metrics Public",
            "GET /load Public",
        ]
        .map(str::to_owned),
    );
    assert_eq!(server.routes, expected);
}
