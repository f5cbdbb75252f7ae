//! The order of a shutdown: not ready, settle, refuse, let streams finish, end what is left.

use std::io;
use std::time::Duration;

use slackwater_core::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::ServerArgs;
use crate::handle::CoreHandle;
use crate::http::listener::Phase;

/// What asked for the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C: a person waits.
    Interrupt,
    /// SIGTERM: a supervisor, with probes that must see us go first.
    Terminate,
}

/// The signals that stop the server.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over from their defaults.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

/// Takes the server out of service. A second signal ends the waiting. True if no stream was cut.
pub async fn wait_for_drain(
    handle: &CoreHandle,
    phase: &watch::Sender<Phase>,
    signals: &mut Signals,
    first: StopSignal,
    args: &ServerArgs,
) -> bool {
    tracing::info!(signal = ?first, "shutting down; a second signal ends what still runs");
    // Everybody keeps being served while load balancers learn that we go; with a person at the terminal there are none.
    // The driver is gone only where there is nothing left to drain.
    if handle.leave().await.is_err() {
        return true;
    }
    phase.send_replace(Phase::Draining);
    let settle = if first == StopSignal::Interrupt {
        Duration::ZERO
    } else {
        args.settle
    };
    let mut hurried = tokio::select! {
        () = tokio::time::sleep(settle) => false,
        _ = signals.next() => true,
    };
    if handle.operator(Command::Drain).await.is_err() {
        return true;
    }
    let mut status = handle.watch();
    if !hurried {
        hurried = tokio::select! {
            _ = status.wait_for(|status| status.draining && status.idle) => false,
            () = tokio::time::sleep(args.grace) => true,
            _ = signals.next() => true,
        };
    }
    let clean = !hurried || status.borrow().idle;
    if !clean {
        tracing::warn!("requests that still run are ended with an error");
    }
    let _ = handle.operator(Command::Abort).await;
    clean
}
