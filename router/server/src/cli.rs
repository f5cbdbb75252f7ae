//! The command line of `slackwater`: each flag is declared here once. Everything after `--` goes to the workers unparsed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Serves a language model to people who wait and to jobs that do not, on the same workers.
#[derive(Debug, Parser)]
#[command(name = "slackwater", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The programs behind the one name.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare MODEL, then run a router and its own workers on it
    Serve(ServeArgs),
    /// Run a router alone; workers connect to its socket
    Router(RouterArgs),
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// smollm2, tiny, a folder with safetensors, or a GGUF file
    pub model: String,
    /// Worker processes; each gets its share of the cores
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Command that starts a worker, split as a shell would; the model folder and what follows `--` are appended
    #[arg(long, value_name = "CMD", default_value = "slackwater-worker")]
    pub worker_command: String,
    /// Flags of the router itself.
    #[command(flatten)]
    pub router: ServerArgs,
    /// Arguments for the workers, passed on unparsed
    #[arg(last = true, value_name = "WORKER ARGS")]
    pub worker_args: Vec<String>,
}

/// Flags of `router`.
#[derive(Debug, Args)]
pub struct RouterArgs {
    /// The model that the workers serve, and the folder with its tokeniser and template
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_model)]
    pub model: (String, PathBuf),
    /// Flags of the router itself.
    #[command(flatten)]
    pub router: ServerArgs,
}

/// Flags that both have.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Address of health and metrics, which answers when the API is full
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    pub ops_listen: SocketAddr,
    /// Serve metrics on the API's address even where that is not loopback
    #[arg(long)]
    pub ops_on_api: bool,
    /// Listen beyond loopback although there are no keys: everybody who reaches the address may use the model
    #[arg(long)]
    pub allow_no_auth: bool,
    /// Socket that workers connect to [default: slackwater/worker.sock in the user's runtime folder]
    #[arg(long, value_name = "PATH")]
    pub worker_socket: Option<PathBuf>,
    /// Folder for what must outlive the process [default: ~/.local/state/slackwater]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// After SIGTERM, how long to go on serving before new requests are refused
    #[arg(long, value_name = "SECS", default_value = "2", value_parser = parse_secs)]
    pub settle: Duration,
    /// After that, how long streams may run before they are ended with an error
    #[arg(long, value_name = "SECS", default_value = "30", value_parser = parse_secs)]
    pub grace: Duration,
    /// How long a request is held while no worker is there
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = parse_secs)]
    pub no_worker_wait: Duration,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
}

fn parse_secs(text: &str) -> Result<Duration, String> {
    let secs: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is wanted".to_owned())?;
    Duration::try_from_secs_f64(secs).map_err(|_| "a number of seconds from 0 is wanted".to_owned())
}

fn parse_model(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), folder.into()))
        }
        _ => Err("NAME=DIR is wanted, such as smollm2=/models/smollm2".to_owned()),
    }
}
