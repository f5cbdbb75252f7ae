//! The core's actions on the links, and what workers that are ready say.

use slackwater_core::{Action, Epoch, Event, FenceReason, GoneCause, Origin, RequestId, WorkerId};
use slackwater_wire::messages::{
    Bye, ByeCode, Cancel, Credit, Heartbeat, HexId, RouterHeartbeat, WorkerStats,
};
use slackwater_wire::{Frames, Message};

use super::rig::{QUEUE, Rig, SHORT, bye, ready, say};
use crate::transport::FleetEvent;

const REQUEST: RequestId = RequestId(9);

fn credit(worker: WorkerId, epoch: Epoch) -> Action {
    Action::Credit {
        worker,
        epoch,
        request_id: REQUEST,
        attempt: 1,
        up_to: 64,
    }
}

fn core(event: Event) -> FleetEvent {
    FleetEvent::Core(event)
}

fn gone(worker: WorkerId, epoch: Epoch, cause: GoneCause) -> FleetEvent {
    core(Event::WorkerGone {
        worker,
        epoch: Some(epoch),
        cause,
    })
}

#[tokio::test]
async fn each_message_has_the_next_number_the_goodbye_included() {
    let mut rig = Rig::new(|_| {});
    let (mut peer, worker, epoch) = rig.joined().await;
    rig.fleet.perform(&credit(worker, epoch));
    rig.fleet.heartbeat();
    rig.fleet.perform(&Action::Cancel {
        worker,
        epoch,
        request_id: REQUEST,
        attempt: 1,
    });
    rig.fleet.perform(&Action::Fence {
        worker,
        epoch,
        reason: FenceReason::Silent,
    });
    let request_id = HexId(9);
    let text = "nothing was heard from the worker for too long; say HELLO again";
    for expected in [
        Message::Credit(Credit {
            seq: 1,
            request_id,
            attempt: 1,
            up_to: 64,
        }),
        Message::RouterHeartbeat(RouterHeartbeat { seq: 2 }),
        Message::Cancel(Cancel {
            seq: 3,
            request_id,
            attempt: 1,
        }),
        bye(4, ByeCode::Violation, text),
    ] {
        assert_eq!(rig.answer(&mut peer).await, Some(expected));
    }
    assert_eq!(rig.answer(&mut peer).await, None);
    assert_eq!(rig.fleet.live_workers(), 0);
}

#[tokio::test]
async fn an_action_for_another_link_reaches_nobody() {
    let mut rig = Rig::new(|_| {});
    let (mut peer, worker, epoch) = rig.joined().await;
    let (mut other, second, _) = rig.joined().await;
    rig.fleet.perform(&credit(worker, Epoch(epoch.0 + 100)));
    rig.fleet.perform(&credit(second, epoch));
    rig.fleet.perform(&Action::Restart {
        worker,
        after: SHORT,
    });
    rig.fleet.heartbeat();
    let beat = Some(Message::RouterHeartbeat(RouterHeartbeat { seq: 1 }));
    assert_eq!(rig.answer(&mut peer).await, beat);
    assert_eq!(rig.answer(&mut other).await, beat);
}

#[tokio::test]
async fn figures_go_to_the_core_by_place_and_to_the_metrics_whole() {
    let mut rig = Rig::new(|_| {});
    let (peer, worker, epoch) = rig.joined().await;
    let stats = WorkerStats {
        seq: 2,
        num_running: 1,
        num_waiting: 2,
        kv_blocks_used: 3,
        kv_blocks_total: 4,
        metrics: Vec::new(),
    };
    say(&peer, &Message::WorkerStats(stats.clone())).await;
    let origin = Origin {
        worker,
        epoch,
        seq: 2,
    };
    assert_eq!(rig.fleet.next().await, core(Event::WorkerStats { origin }));
    assert_eq!(rig.fleet.next().await, FleetEvent::Stats { worker, stats });
}

#[tokio::test]
async fn order_and_numbers_are_passed_on_as_they_came() {
    let mut rig = Rig::new(|_| {});
    let (peer, worker, epoch) = rig.joined().await;
    for seq in [2, 3, 3, 9, 1] {
        let beat = Heartbeat {
            seq,
            progress: 5,
            busy: false,
        };
        say(&peer, &Message::Heartbeat(beat)).await;
    }
    for seq in [2, 3, 3, 9, 1] {
        let beat = Event::Heartbeat {
            origin: Origin { worker, epoch, seq },
            progress: 5,
            busy: false,
        };
        assert_eq!(rig.fleet.next().await, core(beat));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_violation_and_nothing_after_it_is_believed() {
    let mut rig = Rig::new(|_| {});
    let mut others = Vec::new();
    let welcome = Message::Welcome(slackwater_wire::messages::Welcome {
        worker_id: 0,
        epoch: 0,
        heartbeat_micros: 1,
        silence_micros: 1,
    });
    for message in [None, Some(Message::Ready(ready())), Some(welcome)] {
        let (mut peer, worker, epoch) = rig.joined().await;
        match &message {
            Some(message) => say(&peer, message).await,
            None => peer.send(Frames::default()).await.unwrap(),
        }
        assert_eq!(
            rig.fleet.next().await,
            core(Event::WorkerViolation { worker, epoch })
        );
        say(&peer, &bye(2, ByeCode::Drain, "too late")).await;
        others.push(rig.joined().await); // By now it has been read, and was no news.
        rig.fleet.perform(&Action::Fence {
            worker,
            epoch,
            reason: FenceReason::Violation,
        });
        assert_eq!(rig.goodbye(&mut peer).await, (1, ByeCode::Violation));
    }
}

#[tokio::test]
async fn a_goodbye_ends_the_link() {
    let mut rig = Rig::new(|_| {});
    let (mut peer, worker, epoch) = rig.joined().await;
    say(&peer, &bye(2, ByeCode::Drain, "done")).await;
    assert_eq!(rig.fleet.next().await, gone(worker, epoch, GoneCause::Bye));
    assert_eq!(rig.answer(&mut peer).await, None);
}

#[tokio::test]
async fn a_worker_that_takes_nothing_loses_its_link_and_no_other_does() {
    let mut rig = Rig::new(|_| {});
    let (_stopped, worker, epoch) = rig.joined().await;
    let (mut healthy, _, _) = rig.joined().await;
    for seq in 1..=QUEUE as u64 + 1 {
        rig.fleet.perform(&credit(worker, epoch));
        rig.fleet.heartbeat();
        if let Message::RouterHeartbeat(beat) = rig_answer(&mut healthy).await {
            assert_eq!(beat.seq, seq);
        }
        if rig.fleet.live_workers() == 1 {
            break;
        }
    }
    assert_eq!(
        rig.fleet.next().await,
        gone(worker, epoch, GoneCause::LinkClosed)
    );
    assert_eq!(rig.fleet.live_workers(), 1);
}

async fn rig_answer(peer: &mut crate::transport::inproc::InprocPeer) -> Message {
    slackwater_wire::decode(&peer.recv().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_drained_worker_may_finish_and_hears_nothing_more() {
    let mut rig = Rig::new(|_| {});
    let (mut peer, worker, epoch) = rig.joined().await;
    rig.fleet.perform(&Action::Drain { worker, epoch });
    rig.fleet.heartbeat();
    let goodbye = bye(1, ByeCode::Drain, "finish and end");
    assert_eq!(rig.answer(&mut peer).await, Some(goodbye));
    let beat = Heartbeat {
        seq: 2,
        progress: 1,
        busy: true,
    };
    say(&peer, &Message::Heartbeat(beat)).await;
    let origin = Origin {
        worker,
        epoch,
        seq: 2,
    };
    let heard = Event::Heartbeat {
        origin,
        progress: 1,
        busy: true,
    };
    assert_eq!(rig.fleet.next().await, core(heard));
    drop(peer);
    assert_eq!(
        rig.fleet.next().await,
        gone(worker, epoch, GoneCause::LinkClosed)
    );
}

#[tokio::test]
async fn a_drained_worker_that_stays_is_cut_off() {
    let mut rig = Rig::new(|config| config.leave = SHORT);
    let (mut peer, worker, epoch) = rig.joined().await;
    rig.fleet.perform(&Action::Drain { worker, epoch });
    rig.fleet.heartbeat();
    assert_eq!(
        rig.fleet.next().await,
        gone(worker, epoch, GoneCause::LinkClosed)
    );
    let goodbye = bye(1, ByeCode::Drain, "finish and end");
    assert_eq!(rig.answer(&mut peer).await, Some(goodbye));
    assert_eq!(rig.answer(&mut peer).await, None);
}

#[tokio::test]
async fn closing_says_goodbye_to_all() {
    let mut rig = Rig::new(|_| {});
    let (mut live, _, _) = rig.joined().await;
    let token = rig.fleet.join_token();
    let (mut welcomed, _) = rig.welcomed(&token).await;
    rig.fleet
        .close_all(ByeCode::Drain, "the router is shutting down");
    for peer in [&mut live, &mut welcomed] {
        let Some(Message::Bye(Bye { seq: 1, code, .. })) = rig.answer(peer).await else {
            panic!("no Bye")
        };
        assert_eq!(code, ByeCode::Drain);
    }
    let mut late = rig.connect().await;
    assert_eq!(rig.answer(&mut late).await, None);
}
