//! All links together, as the driver sees them: events for the core out, the core's actions in.
//!
//! Everything but [`Fleet::next`] is synchronous and never waits for a peer. Each link goes from HELLO to READY to live;
//! the core hears of it from READY on, and exactly once of its end.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use slackwater_core::{Action, Epoch, Event, GoneCause, Origin, WorkerId};
use slackwater_wire::messages::{ByeCode, Hello, Ready, Welcome, WorkerStats};
use slackwater_wire::{Frames, Message, WireError, decode, encode};
use tokio::time::{Instant, sleep_until};

use super::error::TransportError;
use super::handshake::{Admission, Door, Expected, Refusal};
use super::link::{LinkConfig, UnixLink};
use super::map::{self, Heard};
use super::roster::{Peer, Roster, Stage};
use super::tokens::TokenBook;
use super::{Cause, LinkError, LinkEvent, LinkId, SendError, WorkerLink};

/// Settings of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// The model that workers must serve.
    pub expected: Expected,
    /// How often each side says that it is alive; the worker is told.
    pub heartbeat: Duration,
    /// Silence after which a worker gives the router up; the worker is told.
    pub silence: Duration,
    /// Time from the connection to HELLO.
    pub hello: Duration,
    /// Time from WELCOME to READY.
    pub ready: Duration,
    /// Time for a worker that was told to finish.
    pub leave: Duration,
    /// Workers at once.
    pub max_workers: usize,
    /// Connections without HELLO at once; the oldest is dropped for a newer one.
    pub max_pending: usize,
}

impl FleetConfig {
    /// The usual times and bounds.
    pub const fn new(expected: Expected) -> Self {
        Self {
            expected,
            heartbeat: Duration::from_millis(200),
            silence: Duration::from_secs(2),
            hello: Duration::from_secs(5),
            ready: Duration::from_secs(5),
            leave: Duration::from_secs(30),
            max_workers: 64,
            max_pending: 64,
        }
    }
}

/// What the driver gets.
#[derive(Debug, Clone, PartialEq)]
pub enum FleetEvent {
    /// Something for the core.
    Core(Event),
    /// A worker's figures, for the metrics.
    Stats {
        /// The worker.
        worker: WorkerId,
        /// What it said.
        stats: WorkerStats,
    },
}

/// All links to workers.
pub struct Fleet<L: WorkerLink> {
    link: L,
    config: FleetConfig,
    door: Door,
    roster: Roster,
    events: VecDeque<FleetEvent>,
    ended: bool,
    closing: bool,
}

impl Fleet<UnixLink> {
    /// Listens for workers at this path and writes the join token's file beside it.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn listen(
        socket: &Path,
        link: LinkConfig,
        config: FleetConfig,
    ) -> Result<Self, TransportError> {
        Self::over(UnixLink::bind(socket, link)?, config)
    }

    /// Over a socket that is bound already: writes the join token's file beside it.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn over(link: UnixLink, config: FleetConfig) -> Result<Self, TransportError> {
        let mut fleet = Self::new(link, config)?;
        let token = fleet.door.tokens().join_token().reveal();
        fleet.link.write_token(&token)?;
        Ok(fleet)
    }

    /// What a worker connects to.
    pub fn endpoint(&self) -> String {
        self.link.endpoint()
    }
}

impl<L: WorkerLink> Fleet<L> {
    /// A fleet over this link, with tokens and epochs of its own.
    ///
    /// # Errors
    /// [`TransportError::Random`].
    pub fn new(link: L, config: FleetConfig) -> Result<Self, TransportError> {
        let mut secret = [0; 32];
        let mut start = [0; 4];
        getrandom::fill(&mut secret)
            .and_then(|()| getrandom::fill(&mut start))
            .map_err(|error| TransportError::Random {
                message: error.to_string(),
            })?;
        let door = Door::new(
            config.expected.clone(),
            TokenBook::new(secret),
            config.max_workers,
            u32::from_le_bytes(start),
        );
        Ok(Self {
            link,
            config,
            door,
            roster: Roster::default(),
            events: VecDeque::new(),
            ended: false,
            closing: false,
        })
    }

    /// The next event. May be dropped at any await without losing one.
    pub async fn next(&mut self) -> FleetEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let due = self.roster.next_due();
            tokio::select! {
                event = self.link.recv(), if !self.ended => self.take(event),
                () = until(due) => self.expire(),
            }
        }
    }

    /// A fresh launch token for an own child that is about to start; 32 hex digits.
    pub fn launch_token(&mut self, worker: WorkerId) -> String {
        self.door.launch(worker)
    }

    /// The token that any number of workers may join with; 32 hex digits.
    pub fn join_token(&self) -> String {
        self.door.tokens().join_token().reveal()
    }

    /// An own child has exited: its launch token admits nobody any more.
    pub fn child_exited(&mut self, worker: WorkerId) {
        self.door.exited(worker);
    }

    /// Workers that are known to the core.
    pub fn live_workers(&self) -> usize {
        let live = |peer: &Peer| matches!(peer.stage, Stage::Live | Stage::Leaving);
        self.roster.links(live).len()
    }

    /// Does what an action wants on its link. Those for a link that has ended, or for none, do nothing: the core has been
    /// or will be told.
    pub fn perform(&mut self, action: &Action) {
        let Some((worker, epoch)) = map::destination(action) else {
            return;
        };
        let Some(link) = self.roster.find(worker, epoch) else {
            return;
        };
        self.send(link, |seq| map::message(action, seq));
        match action {
            Action::Fence { reason, .. } => {
                tracing::warn!(%worker, ?reason, "worker cut off");
                self.forget(link);
                self.link.close(link);
            }
            Action::Drain { .. } => {
                self.end_in_time(link, Stage::Leaving);
            }
            _ => {}
        }
    }

    /// Tells every worker that was welcomed that the router is alive.
    pub fn heartbeat(&mut self) {
        let links = self.roster.links(|peer| peer.admission.is_some());
        for link in links {
            self.send(link, |seq| Some(map::heartbeat(seq)));
        }
    }

    /// Says Bye to everybody and closes all links, those that still come too; nothing is told to the core.
    /// [`Fleet::finish`] waits until it has been said.
    pub fn close_all(&mut self, code: ByeCode, message: &str) {
        for link in self.roster.links(|_| true) {
            self.bye(link, code, message);
        }
        self.events.clear();
        self.closing = true;
    }

    /// Waits until what is queued has been written, or for a while. After it no worker connects any more.
    pub async fn finish(&mut self) {
        self.link.finish().await;
    }

    fn take(&mut self, event: Result<LinkEvent, LinkError>) {
        match event {
            Ok(LinkEvent::Connected(link)) => self.connected(link),
            Ok(LinkEvent::Message(link, frames)) => self.message(link, &frames),
            Ok(LinkEvent::Malformed(link, error)) => self.unreadable(link, &error),
            Ok(LinkEvent::Full(link, full)) => self.full(link, full),
            Ok(LinkEvent::Closed(link, cause)) => self.closed(link, &cause),
            Ok(LinkEvent::Refused(cause)) => {
                tracing::warn!(%cause, "a connection to the worker socket was refused");
            }
            Err(error @ LinkError::Accept { .. }) => tracing::error!(%error),
            Err(LinkError::Ended) => self.ended = true,
        }
    }

    fn connected(&mut self, link: LinkId) {
        if self.closing {
            return self.link.close(link);
        }
        let pending = self.roster.links(|peer| peer.stage == Stage::Hello);
        if let Some(oldest) = pending.first()
            && pending.len() >= self.config.max_pending
        {
            self.refuse(*oldest, &violation("too many connections without HELLO"));
        }
        self.roster.insert(link, Instant::now() + self.config.hello);
    }

    fn message(&mut self, link: LinkId, frames: &Frames) {
        let Some(peer) = self.roster.get(link) else {
            return;
        };
        let (stage, admission) = (peer.stage, peer.admission);
        if stage == Stage::Broken {
            return;
        }
        let message = match decode(frames) {
            Ok(message) => message,
            Err(error) => return self.unreadable(link, &error),
        };
        match (stage, admission, message) {
            (Stage::Live | Stage::Leaving, Some(admission), message) => {
                self.heard(link, admission, message);
            }
            (_, _, Message::Bye(bye)) => {
                tracing::info!(%link, code = ?bye.code, message = bye.message, "a worker left before it was ready");
                self.forget(link);
                self.link.close(link);
            }
            (Stage::Hello, _, Message::Hello(hello)) => self.hello(link, &hello),
            (Stage::Ready, Some(admission), Message::Ready(ready)) => {
                self.ready(link, admission, &ready);
            }
            (_, _, message) => {
                let text = format!(
                    "{} came where HELLO or READY was due",
                    message.kind().name()
                );
                self.refuse(link, &violation(&text));
            }
        }
    }

    fn hello(&mut self, link: LinkId, hello: &Hello) {
        let admission = match self.door.hello(hello) {
            Ok(admission) => admission,
            Err(refusal) => return self.refuse(link, &refusal),
        };
        let due = Instant::now() + self.config.ready;
        self.roster.admit(link, admission, due);
        let welcome = Message::Welcome(Welcome {
            worker_id: admission.worker.0,
            epoch: admission.epoch.0,
            heartbeat_micros: map::micros(self.config.heartbeat),
            silence_micros: map::micros(self.config.silence),
        });
        self.push(link, &welcome);
    }

    fn ready(&mut self, link: LinkId, admission: Admission, ready: &Ready) {
        let capabilities = match self.door.ready(ready, admission.own) {
            Ok(capabilities) => capabilities,
            Err(refusal) => return self.refuse(link, &refusal),
        };
        let Admission {
            worker,
            epoch,
            own,
            pid,
        } = admission;
        tracing::info!(%worker, %link, own, pid, numerics = ready.numerics, slots = ready.slots, "worker ready");
        self.roster.set_stage(link, Stage::Live, None);
        let origin = Origin {
            worker,
            epoch,
            seq: ready.seq,
        };
        self.core(Event::WorkerReady {
            origin,
            capabilities,
        });
    }

    fn heard(&mut self, link: LinkId, admission: Admission, message: Message) {
        let Admission { worker, epoch, .. } = admission;
        match map::heard(message, worker, epoch) {
            Heard::Core(event) => self.core(event),
            Heard::Stats(event, stats) => {
                self.core(event);
                self.events.push_back(FleetEvent::Stats { worker, stats });
            }
            Heard::Bye(event, bye) => {
                tracing::info!(%worker, code = ?bye.code, message = bye.message, "worker said goodbye");
                self.core(event);
                self.forget(link);
                self.link.close(link);
            }
            Heard::Violation(why) => self.violated(link, worker, epoch, &why),
        }
    }

    fn unreadable(&mut self, link: LinkId, error: &WireError) {
        let Some(peer) = self.roster.get(link) else {
            return;
        };
        match (peer.stage, peer.admission) {
            (Stage::Live | Stage::Leaving, Some(Admission { worker, epoch, .. })) => {
                self.violated(link, worker, epoch, &error.to_string());
            }
            (Stage::Broken, _) => {}
            _ => self.refuse(link, &violation(&error.to_string())),
        }
    }

    /// The core decides what becomes of the worker; until then nothing more of it is believed.
    fn violated(&mut self, link: LinkId, worker: WorkerId, epoch: Epoch, why: &str) {
        tracing::warn!(%worker, %link, why, "a worker's message cannot be read");
        self.end_in_time(link, Stage::Broken);
        self.core(Event::WorkerViolation { worker, epoch });
    }

    fn full(&mut self, link: LinkId, full: bool) {
        if let Some(Peer {
            stage: Stage::Live,
            admission: Some(Admission { worker, epoch, .. }),
            ..
        }) = self.roster.get(link)
        {
            let (worker, epoch) = (*worker, *epoch);
            self.core(Event::LinkFull {
                worker,
                epoch,
                full,
            });
        }
    }

    fn closed(&mut self, link: LinkId, cause: &Cause) {
        if let Some(peer) = self.forget(link) {
            self.tell_gone(&peer, &cause.to_string());
        }
    }

    /// Tells the core of a link's end, if it knows the link.
    fn tell_gone(&mut self, peer: &Peer, why: &str) {
        let Some(Admission { worker, epoch, .. }) = peer.admission else {
            tracing::info!(why, "a connection ended before HELLO");
            return;
        };
        tracing::info!(%worker, why, "a worker's link ended");
        if !matches!(peer.stage, Stage::Hello | Stage::Ready) {
            self.core(map::gone(worker, epoch, GoneCause::LinkClosed));
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(link) = self.roster.pop_due(now) {
            match self.roster.get(link).map(|peer| peer.stage) {
                Some(Stage::Hello) => self.refuse(link, &violation("no HELLO in time")),
                Some(Stage::Ready) => self.refuse(link, &violation("no READY in time")),
                Some(Stage::Leaving | Stage::Broken) => self.cut(link, "did not end in time"),
                Some(Stage::Live) | None => {}
            }
        }
    }

    /// Sends a peer away that the core does not know.
    fn refuse(&mut self, link: LinkId, refusal: &Refusal) {
        tracing::warn!(%link, code = ?refusal.code, reason = refusal.message, "a worker was refused");
        self.bye(link, refusal.code, &refusal.message);
    }

    fn bye(&mut self, link: LinkId, code: ByeCode, message: &str) {
        self.send(link, |seq| Some(map::bye(seq, code, message)));
        self.forget(link);
        self.link.close(link);
    }

    /// Ends a link that the core knows.
    fn cut(&mut self, link: LinkId, why: &str) {
        if let Some(peer) = self.forget(link) {
            self.link.close(link);
            self.tell_gone(&peer, why);
        }
    }

    /// Gives a message its number and queues it. A link that cannot take it is lost.
    fn send(&mut self, link: LinkId, message: impl FnOnce(u64) -> Option<Message>) {
        let Some(peer) = self.roster.get_mut(link) else {
            return;
        };
        if peer.stage == Stage::Leaving {
            return; // Bye was the last word.
        }
        // Before WELCOME nothing is counted.
        let seq = peer.seq + u64::from(peer.admission.is_some());
        if let Some(message) = message(seq) {
            peer.seq = seq;
            self.push(link, &message);
        }
    }

    fn push(&mut self, link: LinkId, message: &Message) {
        let sent = match encode(message) {
            Ok(frames) => self.link.try_send(link, frames),
            Err(error) => Err(SendError::Invalid {
                message: error.to_string(),
            }),
        };
        match sent {
            // Its end is already on its way here.
            Ok(()) | Err(SendError::Gone) => {}
            Err(error) => {
                tracing::error!(%link, kind = message.kind().name(), %error, "a message to a worker was not sent");
                self.cut(link, &error.to_string());
            }
        }
    }

    fn core(&mut self, event: Event) {
        self.events.push_back(FleetEvent::Core(event));
    }

    /// The link is to end; if it has not by then, it is cut.
    fn end_in_time(&mut self, link: LinkId, stage: Stage) {
        let due = Instant::now() + self.config.leave;
        self.roster.set_stage(link, stage, Some(due));
    }

    fn forget(&mut self, link: LinkId) -> Option<Peer> {
        let peer = self.roster.remove(link)?;
        if let Some(admission) = &peer.admission {
            self.door.left(admission);
        }
        Some(peer)
    }
}

fn violation(message: &str) -> Refusal {
    Refusal {
        code: ByeCode::Violation,
        message: message.to_owned(),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
