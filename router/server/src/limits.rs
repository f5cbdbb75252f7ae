//! Every bound and time limit of the front door, in one table. They are checked before anything is allocated, and each is
//! a value, so that a test can make it small.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use slackwater_core::Class;

/// Bounds of the HTTP side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// From the first byte of a request head (or the connection's start) to its end.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Headers in a request.
    pub max_headers: usize,
    /// Bytes of a request head.
    pub max_header_bytes: usize,
    /// Bytes that hyper buffers in each direction.
    pub max_buffer_bytes: usize,
    /// Bytes asked of the kernel for sending; it doubles them for its own needs.
    pub send_buffer_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address; loopback is not counted.
    pub max_connections_per_address: usize,
    /// Connections over the cap that are being told so at once; more are closed unheard.
    pub max_refusals: usize,
    /// How long a connection that we ended is still drained, so that the peer can read our last words.
    pub linger: Duration,
    /// Pause after an accept that failed, for example for want of file descriptors.
    pub accept_pause: Duration,
    /// Bytes of a JSON body.
    pub json_bytes: u64,
    /// From a request's head to the end of its body.
    pub body_deadline: Duration,
    /// Nesting of JSON.
    pub json_depth: usize,
    /// Values in one JSON body.
    pub json_nodes: usize,
    /// Stop strings in a request.
    pub stop_strings: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
    /// Messages of a chat.
    pub messages: usize,
    /// Prompts of one completions request; with several choices, prompts times choices.
    pub prompts: usize,
    /// Choices of one prompt.
    pub choices: u32,
    /// Words that may not come.
    pub bad_words: usize,
    /// Bytes of one such word.
    pub bad_word_bytes: usize,
    /// Bytes of a grammar.
    pub grammar_bytes: usize,
    /// Prompts times choices times `max_tokens` of one request.
    pub output_tokens: u64,
    /// Bytes of a request id that a client chose.
    pub client_id_bytes: usize,
    /// A client that takes nothing for this long while there is something to take is cut off.
    pub stream_stall: Duration,
    /// Bytes of events gathered into one write.
    pub write_bytes: usize,
    /// How long the headers of a stream wait for the first output.
    pub headers_wait: Duration,
    /// Silence on a stream before a comment is sent.
    pub keep_alive_every: Duration,
    /// How long a request waits for the first worker of all to say what it can take.
    pub no_worker_wait: Duration,
    /// How long ago the driver's loop must have turned for the process to count as alive.
    pub live_within: Duration,
    /// Text up to this size is tokenised where it is, larger on the pool.
    pub inline_text_bytes: usize,
    /// Texts that are tokenised at once on the pool.
    pub text_workers: usize,
    /// Waiting time after which an answer is useless: interactive, standard, offline.
    pub patience: [Duration; 3],
}

/// File descriptors that are not for connections: listeners, worker links, pipes, logs.
const RESERVED_FILES: u64 = 256;

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_headers: 100,
            max_header_bytes: 32 << 10,
            max_buffer_bytes: 64 << 10,
            send_buffer_bytes: 128 << 10,
            max_connections: connections_by_files(),
            max_connections_per_address: 1_024,
            max_refusals: 64,
            linger: Duration::from_secs(1),
            accept_pause: Duration::from_millis(50),
            json_bytes: 8 << 20,
            body_deadline: Duration::from_secs(30),
            json_depth: 64,
            json_nodes: 100_000,
            stop_strings: 16,
            stop_bytes: 256,
            messages: 2_048,
            prompts: 64,
            choices: 16,
            bad_words: 128,
            bad_word_bytes: 256,
            grammar_bytes: 512 << 10,
            output_tokens: 262_144,
            client_id_bytes: 128,
            stream_stall: Duration::from_secs(30),
            write_bytes: 16 << 10,
            headers_wait: Duration::from_secs(10),
            keep_alive_every: Duration::from_secs(15),
            no_worker_wait: Duration::from_secs(5),
            live_within: Duration::from_secs(1),
            inline_text_bytes: 512,
            text_workers: std::thread::available_parallelism().map_or(1, usize::from),
            patience: [
                Duration::from_secs(10),
                Duration::from_mins(1),
                Duration::from_mins(10),
            ],
        }
    }
}

impl ServerLimits {
    /// Sessions that can be open at once: each connection serves one request at a time. Opening one more would wait, and
    /// requests with several prompts could wait for each other.
    pub const fn max_sessions(&self) -> usize {
        self.max_connections.saturating_mul(self.prompts)
    }

    /// How long a request of this class may wait.
    pub fn patience_of(&self, class: Class) -> Duration {
        let [interactive, standard, offline] = self.patience;
        match class {
            Class::Interactive => interactive,
            Class::Standard => standard,
            Class::Offline => offline,
        }
    }
}

fn connections_by_files() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(files.saturating_sub(RESERVED_FILES).max(64)).unwrap_or(64)
}
