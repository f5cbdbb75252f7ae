//! A fleet with an in-process link, and workers that say what a test wants.

use std::time::Duration;

use slackwater_core::{Epoch, WorkerId};
use slackwater_wire::messages::{Bye, ByeCode, Hello, Ready, Welcome};
use slackwater_wire::{Message, decode, encode};

use crate::transport::inproc::{self, InprocHub, InprocLink, InprocPeer};
use crate::transport::{Expected, Fleet, FleetConfig, FleetEvent};

/// Messages that may wait for one worker.
pub(super) const QUEUE: usize = 16;

pub(super) struct Rig {
    pub(super) fleet: Fleet<InprocLink>,
    pub(super) hub: InprocHub,
}

pub(super) fn config() -> FleetConfig {
    FleetConfig::new(Expected {
        model_name: "tiny".to_owned(),
        text_hash: "2222222222222222".to_owned(),
    })
}

pub(super) fn hello(token: &str) -> Message {
    Message::Hello(Hello {
        schema_hash: slackwater_wire::schema::hash().to_owned(),
        token: token.to_owned(),
        pid: 42,
    })
}

pub(super) fn ready() -> Ready {
    Ready {
        seq: 1,
        model_name: "tiny".to_owned(),
        weights_hash: "1111111111111111".to_owned(),
        text_hash: "2222222222222222".to_owned(),
        vocab_size: 512,
        block_size: 16,
        num_blocks: 64,
        max_model_len: 1024,
        slots: 8,
        dtype: "float32".to_owned(),
        numerics: "oracle".to_owned(),
        kv_layout: "none".to_owned(),
        features: Vec::new(),
    }
}

pub(super) fn bye(seq: u64, code: ByeCode, message: &str) -> Message {
    Message::Bye(Bye {
        seq,
        code,
        message: message.to_owned(),
    })
}

impl Rig {
    pub(super) fn new(change: impl FnOnce(&mut FleetConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        let (link, hub) = inproc::link(QUEUE);
        let fleet = Fleet::new(link, config).unwrap();
        Self { fleet, hub }
    }

    pub(super) async fn connect(&self) -> InprocPeer {
        self.hub.connect().await.unwrap()
    }

    /// Waits for what the router says, while the fleet runs and says nothing to the driver.
    pub(super) async fn answer(&mut self, peer: &mut InprocPeer) -> Option<Message> {
        tokio::select! {
            event = self.fleet.next() => panic!("{event:?}"),
            frames = peer.recv() => frames.map(|frames| decode(&frames).unwrap()),
        }
    }

    /// Waits until the router has sent a peer away: its goodbye, then the end.
    pub(super) async fn goodbye(&mut self, peer: &mut InprocPeer) -> (u64, ByeCode) {
        let Some(Message::Bye(bye)) = self.answer(peer).await else {
            panic!("no Bye")
        };
        assert_eq!(self.answer(peer).await, None);
        (bye.seq, bye.code)
    }

    /// Connects and says HELLO.
    pub(super) async fn greet(&mut self, token: &str) -> InprocPeer {
        let peer = self.connect().await;
        say(&peer, &hello(token)).await;
        peer
    }

    /// A worker that was welcomed.
    pub(super) async fn welcomed(&mut self, token: &str) -> (InprocPeer, Welcome) {
        let mut peer = self.greet(token).await;
        let Some(Message::Welcome(welcome)) = self.answer(&mut peer).await else {
            panic!("no WELCOME")
        };
        (peer, welcome)
    }

    /// A worker that the core knows.
    pub(super) async fn live(&mut self, token: &str) -> (InprocPeer, WorkerId, Epoch) {
        let (peer, welcome) = self.welcomed(token).await;
        say(&peer, &Message::Ready(ready())).await;
        let event = self.fleet.next().await;
        let (worker, epoch) = (WorkerId(welcome.worker_id), Epoch(welcome.epoch));
        let FleetEvent::Core(slackwater_core::Event::WorkerReady { origin, .. }) = event else {
            panic!("{event:?}")
        };
        assert_eq!((origin.worker, origin.epoch), (worker, epoch));
        (peer, worker, epoch)
    }

    /// A worker that joined.
    pub(super) async fn joined(&mut self) -> (InprocPeer, WorkerId, Epoch) {
        let token = self.fleet.join_token();
        self.live(&token).await
    }
}

pub(super) async fn say(peer: &InprocPeer, message: &Message) {
    peer.send(encode(message).unwrap()).await.unwrap();
}

/// A time limit that is over at once.
pub(super) const SHORT: Duration = Duration::from_millis(1);
