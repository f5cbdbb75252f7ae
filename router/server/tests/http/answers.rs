//! Answers that come whole.

use std::time::Duration;

use serde_json::{Value, json};
use slackwater_core::{Class, Ending, Time};
use slackwater_server::handle::SessionEvent;
use tokio::io::AsyncWriteExt as _;

use crate::support::folder::{IM_END, IM_START};
use crate::support::{HEALTH_PATHS, Server, soon};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// The fields that differ each time, taken out.
fn masked(mut body: Value) -> Value {
    let object = body.as_object_mut().unwrap();
    assert!(
        object
            .remove("id")
            .unwrap()
            .as_str()
            .unwrap()
            .contains("cmpl-")
    );
    assert!(object.remove("created").unwrap().as_u64().unwrap() > 1_600_000_000);
    let fingerprint = object.remove("system_fingerprint").unwrap();
    assert_eq!(fingerprint.as_str().unwrap().len(), 3 + 16);
    body
}

#[tokio::test]
async fn a_chat_is_rendered_run_and_answered() {
    let mut server = Server::start().await;
    let body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": "é"}], "max_tokens": 9, "min_tokens": 1,
        "temperature": 0, "top_p": 0.5, "seed": -2, "ignore_eos": true, "service_tier": "priority",
        "user": "ann", "metadata": {},
    });
    let mut client = server.client().await;
    let label = ["x-request-id: mine-1", "x-slackwater-class: offline"];
    client.post(CHAT, &label, body.to_string().as_bytes()).await;
    let opened = server.opened().await;
    let request = &opened.request;
    let mut prompt = vec![IM_START];
    prompt.extend("user\né".bytes().map(u32::from));
    prompt.extend([IM_END, 10, IM_START]);
    prompt.extend("assistant\n".bytes().map(u32::from));
    assert_eq!(request.prompt().to_vec(), prompt);
    let sampling = request.sampling();
    assert_eq!(
        (
            sampling.max_tokens.get(),
            sampling.min_tokens,
            sampling.temperature,
            sampling.top_p,
            sampling.seed,
            sampling.ignore_eos,
            request.class(),
            request.expiry().unwrap().since(request.arrival()).as_secs(),
        ),
        (9, 1, 0.0, 0.5, u64::MAX - 1, true, Class::Offline, 600)
    );
    opened.texts(&[b"Hi\xc3", b"\xa9!"]).await;
    opened.send(SessionEvent::Ended(Ending::Length)).await;
    let reply = client.reply().await;
    assert_eq!(
        masked(reply.json()),
        json!({
            "object": "chat.completion", "model": "tiny", "service_tier": "flex",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": "Hié!", "refusal": null},
                "logprobs": null,
                "finish_reason": "length",
            }],
            "usage": {
                "prompt_tokens": prompt.len(), "completion_tokens": 5, "total_tokens": prompt.len() + 5,
                "prompt_tokens_details": {"cached_tokens": 3},
            },
        })
    );
    let ours = request.request_id().to_string();
    let header = |name: &str| reply.header(name).unwrap_or("none").to_owned();
    assert_eq!(
        [
            header("x-request-id"),
            header("x-slackwater-request-id"),
            header("x-slackwater-class"),
            header("x-slackwater-ignored"),
            header("content-type"),
        ],
        [
            "mine-1",
            &ours,
            "offline",
            "metadata, user",
            "application/json"
        ]
    );
    assert!(header("openai-processing-ms").parse::<u64>().is_ok());
    assert_eq!(server.taken().await, 3);
}

#[tokio::test]
async fn several_prompts_are_several_requests_and_choices() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": ["ab", [1, 2, 3]], "request_id": "label", "max_tokens": null});
    let mut client = server.post(COMPLETIONS, &body).await;
    let first = server.opened().await;
    let second = server.opened().await;
    assert_eq!(first.request.prompt().to_vec(), [97, 98]);
    assert_eq!(second.request.prompt().to_vec(), [1, 2, 3]);
    assert_ne!(first.request.request_id(), second.request.request_id());
    assert_ne!(
        first.request.sampling().seed,
        second.request.sampling().seed
    );
    assert_eq!(second.request.sampling().max_tokens.get(), 16);
    second.texts(&[b"two"]).await;
    second.send(SessionEvent::Ended(Ending::Stop)).await;
    first.texts(&[b"one"]).await;
    first.send(SessionEvent::Ended(Ending::Length)).await;
    let reply = client.reply().await;
    assert_eq!(
        masked(reply.json()),
        json!({
            "object": "text_completion", "model": "tiny", "service_tier": "default",
            "choices": [
                {"index": 0, "text": "one", "logprobs": null, "finish_reason": "length"},
                {"index": 1, "text": "two", "logprobs": null, "finish_reason": "stop"},
            ],
            "usage": {
                "prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11,
                "prompt_tokens_details": {"cached_tokens": 6},
            },
        })
    );
    assert_eq!(reply.header("x-request-id"), Some("label"));
}

#[tokio::test]
async fn a_chat_without_a_limit_gets_the_rest_of_the_context() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "messages": [{"role": "user", "content": ""}]});
    let _client = server.post(CHAT, &body).await;
    let request = server.opened().await.request;
    let rest = 128 - u32::try_from(request.prompt().len()).unwrap();
    assert_eq!(request.sampling().max_tokens.get(), rest);
    assert_eq!(request.class(), Class::Standard);
}

#[tokio::test]
async fn a_stop_string_ends_the_text_and_cancels_the_request() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": "x", "stop": ["END", "\n\n"], "min_tokens": 3});
    let mut client = server.post(COMPLETIONS, &body).await;
    let opened = server.opened().await;
    // The first stop string lies before min_tokens and does not count.
    opened.texts(&[b"END", b" a E", b"ND b"]).await;
    let reply = client.reply().await.json();
    assert_eq!(
        (
            &reply["choices"][0]["text"],
            &reply["choices"][0]["finish_reason"],
            &reply["usage"]["completion_tokens"]
        ),
        (&json!("END a "), &json!("stop"), &json!(9))
    );
    assert_eq!(server.gone().await, opened.request.request_id());
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_request() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": ["a", "b"]});
    // Before any output.
    let client = server.post(COMPLETIONS, &body).await;
    let opened = [server.opened().await, server.opened().await];
    drop(client);
    let mut gone = [server.gone().await, server.gone().await];
    gone.sort();
    let mut expected = opened.map(|opened| opened.request.request_id());
    expected.sort();
    assert_eq!(gone, expected);
    // In the middle.
    let client = server
        .post(COMPLETIONS, &json!({"model": "tiny", "prompt": "a"}))
        .await;
    let opened = server.opened().await;
    opened.texts(&[b"x"]).await;
    assert_eq!(server.taken().await, 1);
    drop(client);
    assert_eq!(server.gone().await, opened.request.request_id());
}

#[tokio::test]
async fn a_hang_up_is_seen_behind_bytes_that_nobody_reads_yet() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": "a"}).to_string();
    let request = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for behind in ["\r\n", request.as_str()] {
        // Closed, and closed for sending alone: that too counts as gone.
        for whole in [true, false] {
            let mut client = server.client().await;
            client.write(request.as_bytes()).await;
            let opened = server.opened().await;
            client.write(behind.as_bytes()).await;
            if whole {
                drop(client);
                assert_eq!(server.gone().await, opened.request.request_id());
            } else {
                soon(client.0.shutdown()).await.unwrap();
                assert_eq!(server.gone().await, opened.request.request_id());
                assert_eq!(client.rest().await, b"");
            }
        }
    }
    // The requests behind were never begun.
    assert!(server.untouched());
    // The next request of a connection is watched as the first was.
    let mut client = server.client().await;
    client.write((request.clone() + &request).as_bytes()).await;
    let first = server.opened().await;
    first.send(SessionEvent::Ended(Ending::Stop)).await;
    assert_eq!(client.reply().await.status, 200);
    let second = server.opened().await;
    drop(client);
    assert_eq!(server.gone().await, second.request.request_id());
}

#[tokio::test]
async fn models_health_and_pages() {
    let server = Server::start().await;
    let model = server.ask("GET /v1/models/tiny", b"").await.json();
    assert_eq!(
        (
            &model["id"],
            &model["max_model_len"],
            &model["ready_workers"]
        ),
        (&json!("tiny"), &json!(128), &json!(1))
    );
    let list = server.ask("GET /v1/models", b"").await.json();
    assert_eq!(list, json!({"object": "list", "data": [model]}));
    let version = server.ask("GET /version", b"").await.json();
    assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION")}));
    let metrics = server.ask("GET /metrics", b"").await;
    assert_eq!(
        (metrics.status, metrics.body.as_slice()),
        (200, b"slackwater_up 1\n".as_slice())
    );
    let load = server.ask("GET /load", b"").await.json();
    assert_eq!(load, json!({"server_load": 0}));
    for path in HEALTH_PATHS {
        assert_eq!(
            server.ask(&format!("GET {path}"), b"").await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn probes_may_ask_for_the_head_alone() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (path, status) in [
        ("/health", 200),
        ("/live", 200),
        ("/version", 200),
        ("/", 404),
    ] {
        let whole = server.ask(&format!("GET {path}"), b"").await;
        client.request(&format!("HEAD {path}"), &[], b"").await;
        let head = client.head().await;
        assert_eq!((whole.status, head.status), (status, status), "{path}");
        for name in ["content-type", "content-length"] {
            assert_eq!(head.header(name), whole.header(name), "{path}");
        }
    }
    // Nothing came behind the heads.
    client
        .request("GET /live", &["connection: close"], b"")
        .await;
    assert_eq!(client.reply().await.body, br#"{"status":"live"}"#);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_driver_that_stands_still_is_not_alive() {
    let server = Server::with(|limits| limits.live_within = Duration::from_millis(50)).await;
    let stuck = soon(async {
        loop {
            let reply = server.ask("GET /live", b"").await;
            if reply.status != 200 {
                return reply;
            }
        }
    });
    assert_eq!(stuck.await.error(), (500, "internal".to_owned(), None));
    server.driver.turned.set(Time::from_micros(u64::MAX));
    assert_eq!(server.ask("GET /livez", b"").await.status, 200);
}

#[tokio::test]
async fn readiness_follows_the_driver() {
    let server = Server::start().await;
    let code = async |workers, draining| {
        server.driver.status.send_modify(|status| {
            status.ready_workers = workers;
            status.draining = draining;
        });
        let reply = server.ask("GET /ready", b"").await;
        assert!(reply.header("retry-after").is_some());
        assert_eq!(server.ask("GET /live", b"").await.status, 200);
        reply.error()
    };
    assert_eq!(code(0, false).await, (503, "no_worker".to_owned(), None));
    assert_eq!(code(1, true).await, (503, "draining".to_owned(), None));
}

#[tokio::test]
async fn a_request_waits_for_the_first_worker() {
    let folder = crate::support::folder::chat_model();
    let model = slackwater_server::model::ServedModel::load("tiny", folder.path()).unwrap();
    let mut server = Server::serving(model, |_| {}).await;
    let body = json!({"model": "tiny", "prompt": "a"});
    let _client = server.post(COMPLETIONS, &body).await;
    // The status has receivers that wait only once the request has come so far.
    soon(async {
        while server.driver.status.receiver_count() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.driver.status.send_modify(|status| {
        status.ready_workers = 1;
        status.limits = Some(crate::support::MODEL_LIMITS);
    });
    assert_eq!(server.opened().await.request.prompt().to_vec(), [97]);
}
