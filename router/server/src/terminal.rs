//! What a person at the terminal reads. Nobody may be there: a line that cannot be written is lost, and no more.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::handle::CoreHandle;

/// A line on standard error.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Says where the server listens.
pub fn say_where(name: &str, api: SocketAddr, ops: SocketAddr, socket: &Path) {
    let version = env!("CARGO_PKG_VERSION");
    let socket = socket.display();
    say(&format!(
        "slackwater {version}: {name}\n  API      http://{api}/v1\n  ops      http://{ops}\n  workers  {socket}\n\
         waiting for a worker to load the model"
    ));
}

/// Says once that requests will be answered, with a line to paste.
pub async fn announce_ready(handle: CoreHandle, name: String, api: SocketAddr) {
    let mut status = handle.watch();
    drop(handle);
    let ready = status.wait_for(|status| status.ready_workers > 0).await;
    if ready.is_err() {
        return;
    }
    let body = serde_json::json!({
        "model": name, "stream": true, "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    say(&format!(
        "ready; try it from another shell (Ctrl-C here stops the server):\n  \
         curl -N http://{api}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    ));
}
