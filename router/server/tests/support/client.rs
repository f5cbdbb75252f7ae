//! An HTTP client that shows what really came over the socket.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::soon;

pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Status, code and parameter of an error.
    pub(crate) fn error(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        let error = &body["error"];
        assert!(error["message"].is_string() && error["type"].is_string());
        assert_eq!(error.as_object().unwrap().len(), 4);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (
            self.status,
            text(&error["code"]).expect("a code"),
            text(&error["param"]),
        )
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(BufReader::new(
            soon(TcpStream::connect(address)).await.unwrap(),
        ))
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.0.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn post(&mut self, path: &str, headers: &[&str], body: &[u8]) {
        self.request(&format!("POST {path}"), headers, body).await;
    }

    /// `head` is method and path.
    pub(crate) async fn request(&mut self, head: &str, headers: &[&str], body: &[u8]) {
        let mut text = format!("{head} HTTP/1.1\r\nhost: test\r\n");
        for header in headers {
            text += header;
            text += "\r\n";
        }
        if !body.is_empty() {
            let length = format!("content-length: {}\r\n", body.len());
            text += &length;
        }
        text += "\r\n";
        self.write(&[text.as_bytes(), body].concat()).await;
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.0.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The head of an answer; its body is empty.
    pub(crate) async fn head(&mut self) -> Reply {
        let status = self.line().await;
        let status = status.split(' ').nth(1).expect("a status line");
        let mut reply = Reply {
            status: status.parse().unwrap(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                Some((name, value)) => reply.headers.push((name.to_owned(), value.to_owned())),
                None => return reply,
            }
        }
    }

    /// The next chunk of a chunked body; none at its proper end.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line().await;
        let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
        let mut bytes = vec![0; size + 2];
        soon(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes.truncate(size);
        (size > 0).then_some(bytes)
    }

    /// A whole answer.
    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        if let Some(length) = reply.header("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            soon(self.0.read_exact(&mut reply.body)).await.unwrap();
        } else {
            while let Some(chunk) = self.chunk().await {
                reply.body.extend(chunk);
            }
        }
        reply
    }

    /// What the server still sends until it closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest
    }
}

/// The data of a stream's events. Fields that differ each time are masked.
pub(crate) fn events(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).expect("UTF-8");
    assert!(text.ends_with("\n\n"));
    text.split_terminator("\n\n")
        .map(|event| match event.strip_prefix("data: ") {
            Some(data) => mask(data),
            None => event.to_owned(),
        })
        .collect()
}

fn mask(data: &str) -> String {
    let Some((start, rest)) = data.split_once("\"id\":\"") else {
        return data.to_owned();
    };
    let (id, rest) = rest.split_once('"').unwrap();
    let (kind, hex) = id.split_once('-').unwrap();
    assert_eq!(hex.len(), 32);
    let (middle, rest) = rest.split_once("\"created\":").unwrap();
    let (_, rest) = rest.split_once(',').unwrap();
    format!("{start}\"id\":\"{kind}\"{middle}{rest}")
}
