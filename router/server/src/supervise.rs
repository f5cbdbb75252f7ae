//! The router's own worker processes: started, watched, killed, and started again when the core says so.
//!
//! A child's standard input is a pipe that carries one line of JSON and then stays open; its end tells the child that
//! the router is gone. Each child has a process group of its own, so that Ctrl-C reaches the router alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use slackwater_core::{GoneCause, WorkerId};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// How a worker process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Name of the model, for READY.
    pub model_name: String,
    /// Where the child connects to.
    pub endpoint: String,
    /// Children in all; each gets its share of the cores.
    pub workers: u32,
}

/// A worker that could not be started at all.
#[derive(Debug, Error)]
#[error("cannot start {}: {source}", program.display())]
pub struct LaunchError {
    program: PathBuf,
    source: std::io::Error,
}

/// What happened to a child.
#[derive(Debug)]
pub enum ChildEvent {
    /// It ended.
    Exited {
        /// Which one.
        worker: WorkerId,
        /// How.
        cause: GoneCause,
    },
    /// It is due to be started; the caller makes a token and calls [`Supervisor::start`].
    Due {
        /// Which one.
        worker: WorkerId,
    },
}

#[derive(Debug)]
enum State {
    Running {
        kill: Option<oneshot::Sender<()>>,
        restart_after: Option<Duration>,
    },
    Waiting {
        round: u64,
    },
}

#[derive(Debug)]
enum Done {
    Exited(WorkerId, std::io::Result<std::process::ExitStatus>),
    Slept(WorkerId, u64),
}

/// All own children.
#[derive(Debug)]
pub struct Supervisor {
    launch: Launch,
    children: BTreeMap<WorkerId, State>,
    tasks: JoinSet<Done>,
    rounds: u64,
    /// True from the moment on at which the children are to end; it closes their pipes.
    stopping: watch::Sender<bool>,
}

impl Supervisor {
    /// A supervisor without children.
    pub fn new(launch: Launch) -> Self {
        Self {
            launch,
            children: BTreeMap::new(),
            tasks: JoinSet::new(),
            rounds: 0,
            stopping: watch::Sender::new(false),
        }
    }

    /// Starts a child with its launch token.
    ///
    /// # Errors
    /// [`LaunchError`] where the program cannot be run.
    pub fn start(&mut self, worker: WorkerId, token: &str) -> Result<(), LaunchError> {
        let failed = |source| LaunchError {
            program: self.launch.program.clone(),
            source,
        };
        let child = Command::new(&self.launch.program)
            .args(&self.launch.args)
            .env("SLACKWATER_LAUNCHED", "1")
            .env("SLACKWATER_MODEL_NAME", &self.launch.model_name)
            .env("SLACKWATER_WORKERS", self.launch.workers.to_string())
            .stdin(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        tracing::info!(%worker, pid = child.id().unwrap_or_default(), "worker started");
        share_cores(&child, worker, self.launch.workers);
        let line = format!(
            "{}\n",
            serde_json::json!({"endpoint": self.launch.endpoint, "token": token})
        );
        let (kill, killed) = oneshot::channel();
        let stopping = self.stopping.subscribe();
        self.tasks
            .spawn(watch(worker, child, line, killed, stopping));
        self.children.insert(
            worker,
            State::Running {
                kill: Some(kill),
                restart_after: None,
            },
        );
        Ok(())
    }

    /// Kills a child if it lives, and lets it become due after this time.
    pub fn restart(&mut self, worker: WorkerId, after: Duration) {
        match self.children.get_mut(&worker) {
            Some(State::Running {
                kill,
                restart_after,
            }) => {
                *restart_after = Some(after);
                if let Some(kill) = kill.take() {
                    let _already_gone = kill.send(());
                }
            }
            _ => self.schedule(worker, after),
        }
    }

    /// The next thing that happens; pends for ever while there are no children.
    pub async fn next(&mut self) -> ChildEvent {
        loop {
            let Some(done) = self.tasks.join_next().await else {
                return std::future::pending().await;
            };
            match done {
                Ok(Done::Exited(worker, status)) => return self.exited(worker, status),
                Ok(Done::Slept(worker, round)) => {
                    let current = matches!(self.children.get(&worker), Some(State::Waiting { round: now }) if *now == round);
                    if current && !*self.stopping.borrow() {
                        return ChildEvent::Due { worker };
                    }
                }
                Err(error) => tracing::error!(%error, "a task that watches a worker failed"),
            }
        }
    }

    /// Children that live.
    pub fn running(&self) -> usize {
        self.children
            .values()
            .filter(|state| matches!(state, State::Running { .. }))
            .count()
    }

    /// Starts nothing any more, and ends the children's pipes, which tells those that have no link too.
    pub fn stop(&mut self) {
        self.stopping.send_replace(true);
    }

    /// Kills every child that lives.
    pub fn kill_all(&mut self) {
        for state in self.children.values_mut() {
            if let State::Running { kill, .. } = state
                && let Some(kill) = kill.take()
            {
                let _already_gone = kill.send(());
            }
        }
    }

    fn exited(
        &mut self,
        worker: WorkerId,
        status: std::io::Result<std::process::ExitStatus>,
    ) -> ChildEvent {
        let previous = self.children.remove(&worker);
        if let Some(State::Running {
            restart_after: Some(after),
            ..
        }) = previous
        {
            self.schedule(worker, after);
        }
        ChildEvent::Exited {
            worker,
            cause: cause_of(worker, status),
        }
    }

    fn schedule(&mut self, worker: WorkerId, after: Duration) {
        if *self.stopping.borrow() {
            return;
        }
        self.rounds += 1;
        let round = self.rounds;
        self.children.insert(worker, State::Waiting { round });
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            Done::Slept(worker, round)
        });
    }
}

/// Owns one child until it has ended. The pipe is held open until it shall end: the pipe's end is a message.
async fn watch(
    worker: WorkerId,
    mut child: Child,
    line: String,
    mut killed: oneshot::Receiver<()>,
    mut stopping: watch::Receiver<bool>,
) -> Done {
    let mut pipe = child.stdin.take();
    if let Some(pipe) = &mut pipe
        && let Err(error) = pipe.write_all(line.as_bytes()).await
    {
        tracing::warn!(%worker, %error, "the worker closed its standard input");
    }
    let mut killable = true;
    loop {
        tokio::select! {
            status = child.wait() => return Done::Exited(worker, status),
            kill = &mut killed, if killable => {
                killable = false;
                if kill.is_ok() && let Err(error) = child.start_kill() {
                    tracing::warn!(%worker, %error, "the worker could not be killed");
                }
            }
            _ = stopping.wait_for(|stopping| *stopping), if pipe.is_some() => pipe = None,
        }
    }
}

fn cause_of(worker: WorkerId, status: std::io::Result<std::process::ExitStatus>) -> GoneCause {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => GoneCause::Exited(code),
            (None, Some(signal)) => GoneCause::Signalled(signal),
            (None, None) => GoneCause::LinkClosed,
        },
        Err(error) => {
            tracing::error!(%worker, %error, "the worker's exit status could not be read");
            GoneCause::LinkClosed
        }
    }
}

/// Gives a child its share of the cores that this process may use: cores/N each, at least one, in the order of ids.
fn share_cores(child: &Child, worker: WorkerId, workers: u32) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    let Ok(all) = sched_getaffinity(None) else {
        return;
    };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| all.is_set(*core))
        .collect();
    if workers < 2 || cores.is_empty() {
        return;
    }
    let share = (cores.len() / workers as usize).max(1);
    let mut mine = CpuSet::new();
    for core in cores
        .iter()
        .cycle()
        .skip(worker.0 as usize * share)
        .take(share)
    {
        mine.set(*core);
    }
    if let Err(error) = sched_setaffinity(pid, &mine) {
        tracing::warn!(%worker, %error, "the worker's cores could not be set");
    }
}

/// Finds the worker program: beside the program that was called (a script lies beside its interpreter), then on PATH,
/// which is left to the system.
pub fn find_program(name: &str, called_as: &std::path::Path) -> PathBuf {
    let beside = called_as
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| folder.join(name));
    match beside {
        Some(found) if !name.contains('/') && found.is_file() => found,
        _ => name.into(),
    }
}
