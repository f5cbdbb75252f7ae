//! Connections: their limits, their reuse and their end.

use std::time::Duration;

use serde_json::json;
use slackwater_core::Ending;
use slackwater_server::handle::SessionEvent;
use slackwater_server::http::Phase;

use crate::support::{Server, soon};

const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn a_head_that_trickles_is_cut_off() {
    let server = Server::with(|limits| limits.header_timeout = Duration::from_millis(100)).await;
    // One that says nothing, one that says half.
    let mut silent = server.client().await;
    let mut slow = server.client().await;
    slow.write(b"GET /live HT").await;
    assert_eq!(silent.rest().await, b"");
    assert_eq!(slow.rest().await, b"");
    // The second head of a connection has the same limit, though it may idle for longer before.
    let mut second = server.client().await;
    second.request("GET /live", &[], b"").await;
    assert_eq!(second.reply().await.status, 200);
    second.write(b"G").await;
    assert_eq!(second.rest().await, b"");
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_its_own_time() {
    let server = Server::with(|limits| {
        limits.header_timeout = Duration::from_millis(50);
        limits.idle_timeout = Duration::from_millis(400);
    })
    .await;
    let mut client = server.client().await;
    client.request("GET /live", &[], b"").await;
    assert_eq!(client.reply().await.status, 200);
    let since = std::time::Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(since.elapsed() > Duration::from_millis(300));
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let mut server = Server::start().await;
    let mut client = server.client().await;
    for text in ["one", "two"] {
        let body = json!({"model": "tiny", "prompt": "a"}).to_string();
        client.post(COMPLETIONS, &[], body.as_bytes()).await;
        let opened = server.opened().await;
        opened.texts(&[text.as_bytes()]).await;
        opened.send(SessionEvent::Ended(Ending::Stop)).await;
        assert_eq!(client.reply().await.json()["choices"][0]["text"], text);
    }
    client.request("GET /nothing", &[], b"").await;
    assert_eq!(client.reply().await.status, 404);
    client
        .request("GET /live", &["connection: close"], b"")
        .await;
    assert_eq!(client.reply().await.status, 200);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn over_the_cap_a_connection_is_told_so() {
    let server = Server::with(|limits| limits.max_connections = 1).await;
    let mut first = server.client().await;
    first.request("GET /live", &[], b"").await;
    assert_eq!(first.reply().await.status, 200);
    let mut second = server.client().await;
    second.request("GET /live", &[], b"").await;
    let reply = second.reply().await;
    assert_eq!(
        reply.error(),
        (503, "too_many_connections".to_owned(), None)
    );
    assert_eq!(
        (reply.header("connection"), reply.header("retry-after")),
        (Some("close"), Some("1"))
    );
    assert_eq!(second.rest().await, b"");
    // The first one is not disturbed.
    first.request("GET /live", &[], b"").await;
    assert_eq!(first.reply().await.status, 200);
}

#[tokio::test]
async fn a_head_that_cannot_be_read_gets_an_error_of_the_api() {
    let server = Server::start().await;
    let long = format!(
        "GET /live HTTP/1.1\r\nx-long: {}\r\n\r\n",
        "a".repeat(32 << 10)
    );
    let many = format!("GET /live HTTP/1.1\r\n{}\r\n", "x-many: 1\r\n".repeat(101));
    let two = "POST /v1/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n";
    let cases = [
        (long.as_str(), 431),
        (&many, 431),
        (two, 400),
        ("\x16\x03\x01garbage\r\n\r\n", 400),
    ];
    for (head, status) in cases {
        // On a new connection, behind an answer, and with the request before it in one write.
        for before in ["", "apart", "together"] {
            let mut client = server.client().await;
            let good = "GET /live HTTP/1.1\r\nhost: a\r\n\r\n";
            match before {
                "apart" => {
                    client.write(good.as_bytes()).await;
                    assert_eq!(client.reply().await.status, 200);
                    client.write(head.as_bytes()).await;
                }
                "together" => {
                    client.write((good.to_owned() + head).as_bytes()).await;
                    assert_eq!(client.reply().await.status, 200);
                }
                _ => client.write(head.as_bytes()).await,
            }
            let reply = client.reply().await;
            assert_eq!(
                reply.error(),
                (status, "invalid_request".to_owned(), None),
                "{before}"
            );
            assert_eq!(
                [reply.header("connection"), reply.header("content-type")],
                [Some("close"), Some("application/json")]
            );
            assert_eq!(client.rest().await, b"");
        }
    }
}

#[tokio::test]
async fn while_draining_each_answer_is_the_last_of_its_connection() {
    let mut server = Server::start().await;
    let body = json!({"model": "tiny", "prompt": "a", "stream": true});
    let mut streaming = server.post(COMPLETIONS, &body).await;
    let opened = server.opened().await;
    opened.texts(&[b"a"]).await;
    assert_eq!(streaming.head().await.header("connection"), None);
    assert!(streaming.chunk().await.is_some());
    let mut idle = server.client().await;
    idle.request("GET /live", &[], b"").await;
    assert_eq!(idle.reply().await.header("connection"), None);
    server.phase.send_replace(Phase::Draining);
    // Both an old and a new connection are served once more; the listener stays open.
    let mut new = server.client().await;
    for client in [&mut idle, &mut new] {
        client.request("GET /live", &[], b"").await;
        let reply = client.reply().await;
        assert_eq!(
            (reply.status, reply.header("connection")),
            (200, Some("close"))
        );
        assert_eq!(client.rest().await, b"");
    }
    // Told to stop, the server waits for the stream that runs.
    let mut kept = server.client().await;
    server.phase.send_replace(Phase::Stopping);
    assert_eq!(kept.rest().await, b"");
    opened.send(SessionEvent::Ended(Ending::Stop)).await;
    assert!(
        streaming
            .chunk()
            .await
            .unwrap()
            .ends_with(b"data: [DONE]\n\n")
    );
    assert_eq!(streaming.chunk().await, None);
    assert_eq!(streaming.rest().await, b"");
    soon(server.serving.join_next()).await.unwrap().unwrap();
}
