//! Answers that come as they are made.

use std::time::Duration;

use serde_json::json;
use slackwater_core::{Ending, Failure};
use slackwater_server::handle::SessionEvent;

use crate::support::client::{Client, events};
use crate::support::folder::{IM_END, IM_START};
use crate::support::{Opened, Server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

async fn chat(server: &mut Server, include_usage: bool) -> (Client, Opened) {
    let body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": true,
        "stream_options": {"include_usage": include_usage},
    });
    let client = server.post(CHAT, &body).await;
    (client, server.opened().await)
}

async fn completion(server: &mut Server, extra: serde_json::Value) -> (Client, Opened) {
    let mut body = json!({"model": "tiny", "prompt": "x", "stream": true});
    let object = body.as_object_mut().unwrap();
    object.extend(extra.as_object().unwrap().clone());
    let client = server.post(COMPLETIONS, &body).await;
    (client, server.opened().await)
}

/// One event's data as the tiny model writes it, from its choices on.
fn event(fingerprint: &str, object: &str, rest: &str) -> String {
    let kind = if object == "text_completion" {
        "cmpl"
    } else {
        "chatcmpl"
    };
    format!(
        "{{\"id\":\"{kind}\",\"object\":\"{object}\",\"model\":\"tiny\",\"service_tier\":\"default\",\"system_fingerprint\":\"{fingerprint}\",{rest}}}"
    )
}

fn fingerprint(server_event: &str) -> String {
    let data: serde_json::Value = serde_json::from_str(server_event).unwrap();
    data["system_fingerprint"].as_str().unwrap().to_owned()
}

/// The texts of a completion's events.
fn texts(body: &[u8]) -> Vec<String> {
    events(body)
        .iter()
        .filter_map(|event| serde_json::from_str::<serde_json::Value>(event).ok())
        .map(|event| event["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_chat_stream_has_the_shape_that_clients_know() {
    let mut server = Server::start().await;
    let (mut client, opened) = chat(&mut server, true).await;
    opened.texts(&[b"H", b"\"i\n"]).await;
    opened.tokens(4, &[IM_END]).await;
    opened.send(SessionEvent::Ended(Ending::Stop)).await;
    let reply = client.reply().await;
    let events = events(&reply.body);
    let fingerprint = fingerprint(&events[0]);
    let chunk = |rest: &str| event(&fingerprint, "chat.completion.chunk", rest);
    let choice = |delta: &str, finish: &str| {
        chunk(&format!(
            "\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}],\"usage\":null"
        ))
    };
    let prompt = opened.request.prompt().len();
    assert_eq!(
        events,
        [
            choice(r#"{"role":"assistant","content":""}"#, "null"),
            choice(r#"{"content":"H"}"#, "null"),
            choice(r#"{"content":"\"i\n"}"#, "null"),
            choice("{}", "\"stop\""),
            chunk(&format!(
                "\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":5,\"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":3}}}}",
                prompt + 5
            )),
            "[DONE]".to_owned(),
        ]
    );
    let header = |name: &str| reply.header(name).unwrap_or("none").to_owned();
    assert_eq!(
        [
            header("content-type"),
            header("cache-control"),
            header("x-accel-buffering"),
            header("x-slackwater-class"),
            header("transfer-encoding"),
        ],
        [
            "text/event-stream; charset=utf-8",
            "no-cache",
            "no",
            "standard",
            "chunked"
        ]
    );
}

#[tokio::test]
async fn the_role_shares_the_write_of_the_first_text_and_usage_is_only_for_who_asks() {
    let mut server = Server::start().await;
    let (mut client, opened) = chat(&mut server, false).await;
    opened.texts(&[b"H"]).await;
    assert_eq!(client.head().await.status, 200);
    let first = client.chunk().await.unwrap();
    assert_eq!(events(&first).len(), 2);
    assert!(!String::from_utf8(first).unwrap().contains("usage"));
    opened.send(SessionEvent::Ended(Ending::Length)).await;
    let last = events(&client.chunk().await.unwrap());
    assert_eq!(last.len(), 2);
    assert!(last[0].contains("\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\""));
    assert_eq!(last[1], "[DONE]");
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn choices_of_several_prompts_are_told_apart() {
    let mut server = Server::start().await;
    let (mut client, first) = completion(&mut server, json!({"prompt": ["a", "b"]})).await;
    let second = server.opened().await;
    second.texts(&[b"two"]).await;
    assert_eq!(client.head().await.status, 200);
    let mut body = client.chunk().await.unwrap();
    second.send(SessionEvent::Ended(Ending::Stop)).await;
    body.extend(client.chunk().await.unwrap());
    first.texts(&[b"one"]).await;
    body.extend(client.chunk().await.unwrap());
    first.send(SessionEvent::Ended(Ending::Length)).await;
    body.extend(client.chunk().await.unwrap());
    assert_eq!(client.chunk().await, None);
    let events = events(&body);
    let fingerprint = fingerprint(&events[0]);
    let choice = |index: u32, text: &str, finish: &str| {
        let rest = format!(
            "\"choices\":[{{\"index\":{index},\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{finish}}}]"
        );
        event(&fingerprint, "text_completion", &rest)
    };
    assert_eq!(
        events,
        [
            choice(1, "two", "null"),
            choice(1, "", "\"stop\""),
            choice(0, "one", "null"),
            choice(0, "", "\"length\""),
            "[DONE]".to_owned(),
        ]
    );
}

#[tokio::test]
async fn characters_and_stop_strings_are_never_cut() {
    let mut server = Server::start().await;
    let (mut client, opened) = completion(&mut server, json!({"stop": "é!"})).await;
    opened
        .texts(&[
            b"a\xe6",
            b"\xbc",
            b"\xa2\xc3",
            b"\xa9",
            b"?",
            b"\xc3",
            b"\xa9",
            b"!b",
        ])
        .await;
    let body = client.reply().await.body;
    assert_eq!(texts(&body), ["a", "漢", "é?", ""]);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .ends_with("\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
    );
    assert_eq!(server.gone().await, opened.request.request_id());
    // What was held back is text when nothing more comes.
    let (mut client, opened) = completion(&mut server, json!({"stop": "é!"})).await;
    opened.texts(&[b"\xc3", b"\xa9"]).await;
    opened.send(SessionEvent::Ended(Ending::Length)).await;
    assert_eq!(texts(&client.reply().await.body), ["é", ""]);
}

#[tokio::test]
async fn a_failure_before_the_first_output_is_a_real_status() {
    let mut server = Server::start().await;
    let (mut client, opened) = chat(&mut server, false).await;
    let retry_after = Duration::from_secs(7);
    opened
        .send(SessionEvent::Rejected(Failure::QueueFull { retry_after }))
        .await;
    let reply = client.reply().await;
    assert_eq!(reply.error(), (429, "queue_full".to_owned(), None));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((7..=9).contains(&seconds));
    assert_eq!(reply.header("x-should-retry"), Some("true"));
}

#[tokio::test]
async fn a_failure_after_the_headers_is_one_event_and_a_proper_end() {
    let mut server = Server::start().await;
    let (mut client, opened) = completion(&mut server, json!({"prompt": ["a", "b"]})).await;
    let other = server.opened().await;
    opened.texts(&[b"a"]).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(texts(&client.chunk().await.unwrap()), ["a"]);
    let failure = Failure::Worker {
        code: "numerics_error".to_owned(),
        message: "NaN in layer 3 of w7".to_owned(),
    };
    opened
        .send(SessionEvent::Ended(Ending::Failed(failure)))
        .await;
    assert_eq!(
        events(&client.chunk().await.unwrap()),
        [
            r#"{"error":{"message":"the worker failed the request","type":"server_error","param":null,"code":"numerics_error"}}"#
        ]
    );
    assert_eq!(client.chunk().await, None);
    assert_eq!(server.gone().await, other.request.request_id());
}

#[tokio::test]
async fn a_long_wait_gets_headers_and_comments_and_then_errors_are_events() {
    let mut server = Server::with(|limits| {
        limits.headers_wait = Duration::from_millis(20);
        limits.keep_alive_every = Duration::from_millis(20);
    })
    .await;
    let (mut client, opened) = chat(&mut server, false).await;
    assert_eq!(client.head().await.status, 200);
    for _ in 0..3 {
        assert_eq!(client.chunk().await.unwrap(), b": keep-alive\n\n");
    }
    let retry_after = Duration::from_secs(1);
    opened
        .send(SessionEvent::Rejected(Failure::QueueTimeout {
            retry_after,
        }))
        .await;
    let mut chunk = client.chunk().await.unwrap();
    while chunk == b": keep-alive\n\n" {
        chunk = client.chunk().await.unwrap();
    }
    let events = events(&chunk);
    assert_eq!(events.len(), 1);
    assert!(events[0].contains("\"code\":\"queue_timeout\""));
    assert_eq!(client.chunk().await, None);
}

#[tokio::test]
async fn tokens_without_text_do_not_put_off_the_comments() {
    let mut server =
        Server::with(|limits| limits.keep_alive_every = Duration::from_millis(300)).await;
    let (mut client, opened) = completion(&mut server, json!({})).await;
    opened.texts(&[b"a"]).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(texts(&client.chunk().await.unwrap()), ["a"]);
    // Special tokens, one after the other as fast as they are taken, for as long as it needs.
    let hold_back = async {
        for start in 1.. {
            opened.tokens(start, &[IM_START]).await;
            server.taken().await;
        }
    };
    tokio::select! {
        chunk = client.chunk() => assert_eq!(chunk.unwrap(), b": keep-alive\n\n"),
        () = hold_back => {}
    }
}

#[tokio::test]
async fn what_a_client_has_taken_is_told_step_by_step() {
    let mut server = Server::start().await;
    let (mut client, opened) = completion(&mut server, json!({})).await;
    opened.texts(&[b"abc"]).await;
    assert_eq!(server.taken().await, 3);
    // Half a character is no text, but it is taken.
    opened.tokens(3, &[0xc3]).await;
    assert_eq!(server.taken().await, 4);
    opened.tokens(4, &[0xa9, 0x21]).await;
    assert_eq!(server.taken().await, 6);
    opened.send(SessionEvent::Ended(Ending::Stop)).await;
    assert_eq!(texts(&client.reply().await.body), ["abc", "é!", ""]);
    assert!(server.driver.gone.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_stream() {
    let mut server = Server::start().await;
    // While it waits, and in the middle.
    for begun in [false, true] {
        let (mut client, opened) = chat(&mut server, false).await;
        if begun {
            opened.texts(&[b"a"]).await;
            client.chunk_after_head().await;
        }
        drop(client);
        assert_eq!(server.gone().await, opened.request.request_id());
    }
}

impl Client {
    async fn chunk_after_head(&mut self) {
        assert_eq!(self.head().await.status, 200);
        assert!(self.chunk().await.is_some());
    }
}

#[tokio::test]
async fn a_reader_that_stalls_holds_the_tokens_back_and_is_cut_off() {
    let mut server = Server::with(|limits| {
        limits.send_buffer_bytes = 4 << 10;
        limits.max_buffer_bytes = 8 << 10;
        limits.stream_stall = Duration::from_millis(300);
    })
    .await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let mut client = Client(tokio::io::BufReader::new(stream));
    let body = json!({"model": "tiny", "prompt": "x", "stream": true}).to_string();
    client.post(COMPLETIONS, &[], body.as_bytes()).await;
    let opened = server.opened().await;
    let id = opened.request.request_id();
    // A worker as far ahead as its credit allows. Each step is an event of some 200 bytes; what is not taken stays here.
    let tokens = 1_024;
    for position in 0..tokens {
        opened.tokens(position, &[0x61]).await;
    }
    assert_eq!(server.gone().await, id);
    let mut taken = 0;
    while let Ok(input) = server.driver.inputs.try_recv() {
        if let slackwater_server::handle::Input::Core(slackwater_core::Event::StreamTaken {
            up_to,
            ..
        }) = input
        {
            taken = up_to;
        }
    }
    assert!(taken < tokens, "{taken}");
}
