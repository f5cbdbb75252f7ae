//! A running server, and its end in order: not ready, settle, refuse, let streams finish, end what is left, let workers go.

use std::io;
use std::time::Duration;

use slackwater_core::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cli::ServerArgs;
use crate::driver::DriverEnd;
use crate::handle::CoreHandle;
use crate::http::Phase;

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

/// Time for streams that were ended to carry their error to the client.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// All tasks of a running server. Dropping it ends them.
pub struct Running {
    /// The way into the driver.
    pub handle: CoreHandle,
    /// What the listeners are told.
    pub phase: watch::Sender<Phase>,
    /// The listeners.
    pub fronts: JoinSet<()>,
    /// The driver.
    pub driving: JoinSet<DriverEnd>,
    /// Whoever tells the terminal.
    pub announcing: JoinSet<()>,
}

impl Running {
    /// Serves until a signal or the driver's own end, and gives the exit status: 0 where nothing was cut.
    pub async fn until_the_end(mut self, signals: &mut Signals, args: &ServerArgs) -> i32 {
        tokio::select! {
            ended = self.driving.join_next() => match ended {
                Some(Ok(DriverEnd::WorkerNeverReady { exit_code })) => exit_code,
                other => {
                    tracing::error!(?other, "the driver ended by itself");
                    1
                }
            },
            signal = signals.next() => {
                tracing::info!(?signal, "shutting down; a second signal ends what still runs");
                let clean = self.drain(signals, signal, args).await;
                self.finish(signals, clean).await
            }
        }
    }

    /// Takes the server out of service and waits until the last client has its answer. True if nothing was cut.
    async fn drain(&mut self, signals: &mut Signals, first: StopSignal, args: &ServerArgs) -> bool {
        // Everybody keeps being served while load balancers learn that we go; with a person at the terminal there are none.
        // The driver is gone only where there is nothing left to drain.
        if self.handle.leave().await.is_err() {
            return true;
        }
        self.phase.send_replace(Phase::Draining);
        let settle = match first {
            StopSignal::Interrupt => Duration::ZERO,
            StopSignal::Terminate => args.settle,
        };
        let hurried = timeout(settle, signals.next()).await.is_ok();
        if self.handle.operator(Command::Drain).await.is_err() {
            return true;
        }
        // Even in a hurry the driver gets a moment to say that there is nothing left.
        let grace = if hurried {
            Duration::from_millis(100)
        } else {
            args.grace
        };
        let clean = self.served(signals, Instant::now() + grace, hurried).await;
        if !clean {
            tracing::warn!("requests that still run are ended with an error");
            // A driver that is gone has nothing to end.
            let _ = self.handle.operator(Command::Abort).await;
            self.phase.send_replace(Phase::Stopping);
            let _cut = timeout(LAST_WORDS, self.fronts_ended()).await;
        }
        clean
    }

    /// Waits until the core has no request and every connection has ended: a slow reader may be far behind the core.
    async fn served(&mut self, signals: &mut Signals, deadline: Instant, hurried: bool) -> bool {
        let mut status = self.handle.watch();
        let served = async {
            let idle = status.wait_for(|status| status.idle).await.is_ok();
            self.phase.send_replace(Phase::Stopping);
            self.fronts_ended().await;
            idle
        };
        tokio::select! {
            served = timeout_at(deadline, served) => served.unwrap_or(false),
            _ = signals.next(), if !hurried => false,
        }
    }

    async fn fronts_ended(&mut self) {
        while self.fronts.join_next().await.is_some() {}
    }

    /// Drops every handle, which stops the driver, and waits for it: it says Bye to workers. A signal cuts that short.
    async fn finish(mut self, signals: &mut Signals, clean: bool) -> i32 {
        self.fronts.shutdown().await;
        self.announcing.shutdown().await;
        drop(self.handle);
        let ended = tokio::select! {
            ended = self.driving.join_next() => ended,
            // Dropping the driver kills its workers.
            _ = signals.next() => return 1,
        };
        match ended {
            Some(Ok(_)) => i32::from(!clean),
            other => {
                tracing::error!(?other, "the driver failed");
                1
            }
        }
    }
}
