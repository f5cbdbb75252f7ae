//! From the command line to a running server and back: everything that must hold before the first request is checked here,
//! cheapest first, and each failure is one line and an exit status.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use slackwater_core::Config;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::{Cli, Command, RouterArgs, ServeArgs, ServerArgs};
use crate::driver::Driver;
use crate::folders::{NoHome, Variables};
use crate::handle::{Clock, channel};
use crate::http::listener::{self, Phase};
use crate::http::{App, api_routes, ops_routes};
use crate::limits::ServerLimits;
use crate::model::{ModelError, ServedModel};
use crate::prepare::prepare_model;
use crate::shutdown::{Running, Signals};
use crate::supervise::{Launch, LaunchError, Supervisor, find_program};
use crate::terminal::{announce_ready, complain, say_where};
use crate::transport::{Expected, Fleet, FleetConfig, LinkConfig, TransportError, UnixLink};

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address that cannot be listened on.
    #[error("{flag} {address}: {source}; choose another with {flag}, or stop what is there")]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// An open address without keys.
    #[error(
        "{flag} {address} is not loopback and there are no keys: everybody who reaches it could use the model; \
             --allow-no-auth accepts that"
    )]
    OpenWithoutKeys {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A worker command that no shell would split.
    #[error("--worker-command {command:?} cannot be split: a quote is not closed, or it is empty")]
    WorkerCommand {
        /// The command.
        command: String,
    },
    /// No folder for the socket.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// The workers' socket cannot be made.
    #[error(transparent)]
    Link(#[from] TransportError),
    /// A program that cannot be run.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// `prepare` could not be run, or said something that is not its answer.
    #[error("{}: {what}", program.display())]
    Prepare {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        what: String,
    },
    /// `prepare` ended with an error, and has said which.
    #[error("the model could not be prepared")]
    NotPrepared {
        /// Its exit status.
        exit_code: i32,
    },
    /// A signal came before the server was up.
    #[error("stopped before the start was over")]
    Interrupted,
    /// The model's folder cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The runtime could not be made.
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
}

impl StartError {
    const fn exit_code(&self) -> i32 {
        match self {
            Self::NotPrepared { exit_code } => *exit_code,
            Self::Model(_) => 3,
            Self::Interrupted => 130,
            Self::Runtime(_) | Self::Prepare { .. } | Self::Launch(_) => 1,
            Self::Listen { .. }
            | Self::OpenWithoutKeys { .. }
            | Self::WorkerCommand { .. }
            | Self::NoHome(_)
            | Self::Link(_) => 2,
        }
    }
}

/// Runs the program with these arguments, the first being the name that it was called by, and gives its exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.into_iter().collect();
    let called_as = PathBuf::from(args.first().cloned().unwrap_or_default());
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be told where not even this can be printed.
            let _ = error.print();
            return error.exit_code();
        }
    };
    match start(cli, &called_as) {
        Ok(status) => status,
        Err(error) => {
            // `prepare` has said its own line.
            if !matches!(error, StartError::NotPrepared { .. }) {
                complain(&format!("slackwater: error: {error}"));
            }
            error.exit_code()
        }
    }
}

fn start(cli: Cli, called_as: &Path) -> Result<i32, StartError> {
    let args = match &cli.command {
        Command::Serve(serve) => serve.router.clone(),
        Command::Router(router) => router.router.clone(),
    };
    // A second call in one process keeps the first one's logger.
    let _ = tracing_subscriber::fmt()
        .with_max_level(args.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Whoever read the log may go away; the server goes on without it.
        .log_internal_errors(false)
        .try_init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let status = runtime.block_on(async {
        let mut signals = Signals::listen().map_err(StartError::Runtime)?;
        let doors = Doors::open(args).await?;
        match cli.command {
            Command::Serve(serve) => doors.serve(&serve, called_as, &mut signals).await,
            Command::Router(router) => doors.route(&router, &mut signals).await,
        }
    });
    // A blocking task (a long tokenisation) must not hold the process back.
    runtime.shutdown_background();
    status
}

/// What is bound before anything slow begins, so that a taken port is known at once.
struct Doors {
    api: TcpListener,
    ops: TcpListener,
    socket: PathBuf,
    link: UnixLink,
    args: ServerArgs,
}

impl Doors {
    async fn open(args: ServerArgs) -> Result<Self, StartError> {
        let api = listen("--listen", args.listen, args.allow_no_auth).await?;
        let ops = listen("--ops-listen", args.ops_listen, args.allow_no_auth).await?;
        let socket = Variables::of_process()
            .worker_socket(args.worker_socket.clone(), args.state_dir.clone())?;
        let link = UnixLink::bind(&socket, LinkConfig::default())?;
        Ok(Self {
            api,
            ops,
            socket,
            link,
            args,
        })
    }

    async fn serve(
        self,
        serve: &ServeArgs,
        called_as: &Path,
        signals: &mut Signals,
    ) -> Result<i32, StartError> {
        let bad_command = || StartError::WorkerCommand {
            command: serve.worker_command.clone(),
        };
        let mut words = shlex::split(&serve.worker_command)
            .ok_or_else(bad_command)?
            .into_iter();
        let program = find_program(&words.next().ok_or_else(bad_command)?, called_as);
        let prepare = find_program("slackwater-worker", called_as);
        let prepared = tokio::select! {
            prepared = prepare_model(&prepare, &serve.model) => prepared?,
            _ = signals.next() => return Err(StartError::Interrupted),
        };
        let model_dir = prepared.model_dir.to_string_lossy().into_owned();
        let launch = Launch {
            program,
            args: words
                .chain([model_dir])
                .chain(serve.worker_args.iter().cloned())
                .collect(),
            model_name: prepared.name.clone(),
            endpoint: format!("ipc://{}", self.socket.display()),
            workers: serve.workers,
        };
        self.run(
            &prepared.name,
            &prepared.model_dir,
            Some((launch, serve.workers)),
            signals,
        )
        .await
    }

    async fn route(self, router: &RouterArgs, signals: &mut Signals) -> Result<i32, StartError> {
        let (name, folder) = &router.model;
        self.run(name, folder, None, signals).await
    }

    async fn run(
        self,
        name: &str,
        folder: &Path,
        own: Option<(Launch, u32)>,
        signals: &mut Signals,
    ) -> Result<i32, StartError> {
        let model = Arc::new(ServedModel::load(name, folder)?);
        let limits = Arc::new(ServerLimits {
            no_worker_wait: self.args.no_worker_wait,
            ..ServerLimits::default()
        });
        let clock = Clock::start();
        let (handle, ends) = channel(clock, limits.max_sessions());
        let core = Config {
            no_worker_wait: self.args.no_worker_wait,
            ..Config::default()
        };
        let expected = Expected {
            model_name: name.to_owned(),
            text_hash: model.text_hash().to_owned(),
        };
        let fleet = Fleet::over(self.link, FleetConfig::new(expected))?;
        let (mut driver, figures) = Driver::new(core, fleet, ends, clock, name);
        if let Some((launch, count)) = own {
            driver.start_workers(Supervisor::new(launch), count)?;
        }
        let api_address = self.api.local_addr().map_err(StartError::Runtime)?;
        let ops_address = self.ops.local_addr().map_err(StartError::Runtime)?;
        let metrics_too = api_address.ip().is_loopback() || self.args.ops_on_api;
        let (phase, phases) = watch::channel(Phase::Serving);
        let mut fronts = JoinSet::new();
        {
            // Ends here: what still held a handle of the driver when all else is gone would keep it from ending.
            let load = figures.clone();
            let app = App::new(
                handle.clone(),
                model,
                Arc::clone(&limits),
                Arc::new(move || figures.borrow().render()),
                Arc::new(move || load.borrow().load()),
            );
            let api = Arc::new(api_routes(&app, metrics_too));
            fronts.spawn(listener::run(
                self.api,
                api,
                Arc::clone(&limits),
                phases.clone(),
            ));
            let ops = Arc::new(ops_routes(&app));
            fronts.spawn(listener::run(self.ops, ops, limits, phases));
        }
        let mut driving = JoinSet::new();
        driving.spawn(driver.run());
        say_where(name, api_address, ops_address, &self.socket);
        let mut announcing = JoinSet::new();
        announcing.spawn(announce_ready(handle.clone(), name.to_owned(), api_address));
        let running = Running {
            handle,
            phase,
            fronts,
            driving,
            announcing,
        };
        Ok(running.until_the_end(signals, &self.args).await)
    }
}

async fn listen(
    flag: &'static str,
    address: SocketAddr,
    allow_no_auth: bool,
) -> Result<TcpListener, StartError> {
    if !address.ip().is_loopback() && !allow_no_auth {
        return Err(StartError::OpenWithoutKeys { flag, address });
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen {
            flag,
            address,
            source,
        })
}
