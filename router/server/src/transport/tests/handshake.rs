//! Who is let in, who is sent away and with which words.

use slackwater_core::{Capabilities, Event, GoneCause, Origin, WorkerId};
use slackwater_wire::messages::{ByeCode, Hello, Ready, RouterHeartbeat, Welcome};
use slackwater_wire::{Frames, Message};

use super::rig::{Rig, SHORT, bye, hello, ready, say};
use crate::transport::FleetEvent;

const OWN: WorkerId = WorkerId(1);

#[tokio::test]
async fn an_own_child_is_welcomed_and_known_from_ready_on() {
    let mut rig = Rig::new(|_| {});
    let token = rig.fleet.launch_token(OWN);
    let (peer, welcome) = rig.welcomed(&token).await;
    let expected = Welcome {
        worker_id: 1,
        epoch: welcome.epoch,
        heartbeat_micros: 200_000,
        silence_micros: 2_000_000,
    };
    assert_eq!(welcome, expected);
    assert_eq!(rig.fleet.live_workers(), 0);
    say(&peer, &Message::Ready(ready())).await;
    let ready = Event::WorkerReady {
        origin: Origin {
            worker: OWN,
            epoch: slackwater_core::Epoch(welcome.epoch),
            seq: 1,
        },
        capabilities: Capabilities {
            vocab_size: 512,
            max_model_len: 1024,
            slots: 8,
            numerics: "oracle".to_owned(),
            own: true,
        },
    };
    assert_eq!(rig.fleet.next().await, FleetEvent::Core(ready));
    assert_eq!(rig.fleet.live_workers(), 1);
}

#[tokio::test]
async fn joined_workers_get_ids_and_epochs_of_their_own() {
    let mut rig = Rig::new(|_| {});
    rig.fleet.launch_token(OWN);
    let (_one, first, first_epoch) = rig.joined().await;
    let (_two, second, second_epoch) = rig.joined().await;
    assert_eq!((first, second), (WorkerId(2), WorkerId(3)));
    assert_ne!(first_epoch, second_epoch);
    // The counter fills the lower half, this start's random bits the upper.
    assert_eq!(first_epoch.0 >> 32, second_epoch.0 >> 32);
}

#[tokio::test]
async fn a_second_live_link_on_a_launch_token_is_sent_away_and_the_first_unharmed() {
    let mut rig = Rig::new(|_| {});
    let token = rig.fleet.launch_token(OWN);
    let (mut first, worker, epoch) = rig.live(&token).await;
    let mut second = rig.greet(&token).await;
    assert_eq!(rig.goodbye(&mut second).await, (0, ByeCode::BadToken));
    rig.fleet.heartbeat();
    let beat = Message::RouterHeartbeat(RouterHeartbeat { seq: 1 });
    assert_eq!(rig.answer(&mut first).await, Some(beat));
    drop(first);
    let gone = Event::WorkerGone {
        worker,
        epoch: Some(epoch),
        cause: GoneCause::LinkClosed,
    };
    assert_eq!(rig.fleet.next().await, FleetEvent::Core(gone));
    let (_again, same, other) = rig.live(&token).await;
    assert_eq!(same, worker);
    assert_ne!(other, epoch);
}

#[tokio::test]
async fn a_launch_token_ends_with_its_child() {
    let mut rig = Rig::new(|_| {});
    let token = rig.fleet.launch_token(OWN);
    rig.fleet.child_exited(OWN);
    let mut peer = rig.greet(&token).await;
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::BadToken));
}

#[tokio::test]
async fn a_link_that_never_was_ready_is_no_news_for_the_core() {
    let mut rig = Rig::new(|_| {});
    let token = rig.fleet.launch_token(OWN);
    let (welcomed, _) = rig.welcomed(&token).await;
    let silent = rig.connect().await;
    drop((welcomed, silent));
    // The token is free again, and the next event is this worker's.
    rig.live(&token).await;
}

#[tokio::test]
async fn hello_is_checked() {
    let mut rig = Rig::new(|config| config.max_workers = 1);
    let other_schema = Message::Hello(Hello {
        schema_hash: "0000000000000000".to_owned(),
        token: rig.fleet.join_token(),
        pid: 1,
    });
    let mut peer = rig.connect().await;
    say(&peer, &other_schema).await;
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::SchemaMismatch));
    let mut peer = rig.greet("00112233445566778899aabbccddeeff").await;
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::BadToken));
    let (only, _, _) = rig.joined().await;
    let token = rig.fleet.join_token();
    let mut peer = rig.greet(&token).await;
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::TooManyWorkers));
    drop(only);
    rig.fleet.next().await;
    rig.joined().await;
}

#[tokio::test]
async fn anything_but_hello_first_ends_the_link() {
    let mut rig = Rig::new(|_| {});
    let mut peer = rig.connect().await;
    say(&peer, &Message::Ready(ready())).await;
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::Violation));
    let mut peer = rig.connect().await;
    peer.send(Frames::default()).await.unwrap();
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::Violation));
    let mut peer = rig.connect().await;
    say(&peer, &bye(0, ByeCode::Drain, "never mind")).await;
    assert_eq!(rig.answer(&mut peer).await, None);
}

#[tokio::test]
async fn anything_but_ready_second_ends_the_link() {
    let mut rig = Rig::new(|_| {});
    let token = rig.fleet.join_token();
    let (mut peer, _) = rig.welcomed(&token).await;
    say(&peer, &hello(&token)).await;
    assert_eq!(rig.goodbye(&mut peer).await, (1, ByeCode::Violation));
    let (mut peer, _) = rig.welcomed(&token).await;
    peer.send(Frames::default()).await.unwrap();
    assert_eq!(rig.goodbye(&mut peer).await, (1, ByeCode::Violation));
}

#[tokio::test]
async fn ready_is_checked() {
    let mut rig = Rig::new(|_| {});
    let token = rig.fleet.join_token();
    let changed = |change: fn(&mut Ready)| {
        let mut ready = ready();
        change(&mut ready);
        Message::Ready(ready)
    };
    let cases = [
        (
            changed(|r| r.model_name = "Tiny".to_owned()),
            ByeCode::ModelMismatch,
        ),
        (
            changed(|r| r.text_hash = "0".repeat(16)),
            ByeCode::ModelMismatch,
        ),
        (changed(|r| r.slots = 0), ByeCode::Violation),
        (changed(|r| r.vocab_size = 0), ByeCode::Violation),
        (changed(|r| r.max_model_len = 0), ByeCode::Violation),
    ];
    for (message, code) in cases {
        let (mut peer, _) = rig.welcomed(&token).await;
        say(&peer, &message).await;
        assert_eq!(rig.goodbye(&mut peer).await, (1, code), "{message:?}");
    }
}

#[tokio::test]
async fn deadlines_end_the_handshake() {
    let mut rig = Rig::new(|config| config.hello = SHORT);
    let mut peer = rig.connect().await;
    assert_eq!(rig.goodbye(&mut peer).await, (0, ByeCode::Violation));
    let mut rig = Rig::new(|config| config.ready = SHORT);
    let token = rig.fleet.join_token();
    let (mut peer, _) = rig.welcomed(&token).await;
    assert_eq!(rig.goodbye(&mut peer).await, (1, ByeCode::Violation));
}

#[tokio::test]
async fn the_oldest_silent_connection_makes_room_for_a_newer_one() {
    let mut rig = Rig::new(|config| config.max_pending = 2);
    let mut oldest = rig.connect().await;
    let _second = rig.connect().await;
    let third = rig.connect().await;
    assert_eq!(rig.goodbye(&mut oldest).await, (0, ByeCode::Violation));
    let token = rig.fleet.join_token();
    say(&third, &hello(&token)).await;
    let mut third = third;
    let answer = rig.answer(&mut third).await;
    assert!(matches!(answer, Some(Message::Welcome(_))), "{answer:?}");
}
