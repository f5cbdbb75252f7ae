//! A ROUTER socket that sends each message back to its sender and says on stdout what happens: the other end of
//! `tests/conformance/test_transport.py`.
//!
//! `link_echo ENDPOINT [NAME=VALUE ...]`; ENDPOINT is `ipc://PATH` or `tcp://127.0.0.1:PORT`, the names are
//! `handshake_millis`, `heartbeat_millis`, `linger_millis` and `pending`.
#![allow(
    clippy::print_stdout,
    reason = "the program that starts this reads its stdout"
)]

use std::net::SocketAddr;
use std::time::Duration;

use slackwater_zmtp::{Config, Event, Heartbeat, Listener, Router, SendError};
use tokio::net::{TcpListener, UnixListener};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().ok_or("ENDPOINT is missing")?;
    let mut config = Config::default();
    for setting in args {
        set(&mut config, &setting)?;
    }
    if let Some(path) = endpoint.strip_prefix("ipc://") {
        let listener = UnixListener::bind(path)?;
        println!("listening ipc://{path}");
        return serve(Router::new(listener, config)).await;
    }
    let address = endpoint
        .strip_prefix("tcp://")
        .ok_or("neither ipc:// nor tcp://")?;
    let address: SocketAddr = address.parse()?;
    if !address.ip().is_loopback() {
        return Err("only loopback is served".into());
    }
    let listener = TcpListener::bind(address).await?;
    println!("listening tcp://{}", listener.local_addr()?);
    serve(Router::new(listener, config)).await
}

fn set(config: &mut Config, setting: &str) -> Result<(), Failure> {
    let (name, value) = setting.split_once('=').ok_or("NAME=VALUE is wanted")?;
    let number: u64 = value.parse()?;
    let span = Duration::from_millis(number);
    match name {
        "handshake_millis" => config.handshake = span,
        "linger_millis" => config.linger = span,
        "pending" => config.max_pending = usize::try_from(number)?,
        "heartbeat_millis" => {
            config.heartbeat = Some(Heartbeat {
                interval: span,
                timeout: span * 10,
            });
        }
        _ => return Err(format!("no setting is called {name}").into()),
    }
    Ok(())
}

async fn serve<L: Listener>(mut router: Router<L>) -> Result<(), Failure> {
    loop {
        match router.recv().await {
            Ok(Event::Connected(id)) => println!("connected {id}"),
            Ok(Event::Message(id, parts)) => {
                if router.try_send(id, parts) == Err(SendError::Full) {
                    println!("overrun {id}");
                }
            }
            Ok(Event::Full(id, full)) => println!("full {id} {full}"),
            Ok(Event::Closed(id, cause)) => println!("closed {id} {cause}"),
            Ok(Event::Refused(cause)) => println!("refused {cause}"),
            Ok(_) => {}
            Err(error) => println!("error {error}"),
        }
    }
}
