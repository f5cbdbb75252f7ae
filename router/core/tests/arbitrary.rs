//! Any events in any order: no input makes the core lose count of a request or act on chance.

use std::time::Duration;

use proptest::prelude::*;
use slackwater_core::{
    Action, Capabilities, Config, Epoch, Event, GoneCause, Logprobs, Origin, Output, Refusal,
    RequestId, Scheduler, WorkerFinish, WorkerId,
};

use crate::contract::{at, capabilities, drain, gone, request};

fn any_id() -> impl Strategy<Value = RequestId> {
    (0_u128..4).prop_map(RequestId)
}

fn any_origin() -> impl Strategy<Value = Origin> {
    (1_u32..3, 0_u64..3, 0_u64..6).prop_map(|(worker, epoch, seq)| Origin {
        worker: WorkerId(worker),
        epoch: Epoch(epoch),
        seq,
    })
}

fn any_output() -> impl Strategy<Value = Output> {
    let finish = prop_oneof![
        Just(None),
        Just(Some(WorkerFinish::Stop)),
        Just(Some(WorkerFinish::Length)),
        Just(Some(WorkerFinish::Cancelled)),
    ];
    (any_id(), 0_u32..3, 0_u32..3, 0_usize..3, finish).prop_map(
        |(request_id, attempt, start, tokens, finish)| Output {
            request_id,
            attempt,
            start,
            tokens: vec![5; tokens],
            num_cached_tokens: u32::MAX,
            logprobs: Logprobs::NONE,
            finish,
        },
    )
}

/// Events of any kind about few names, so that they meet each other in all orders.
fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![3 => any_clients_event(), 8 => any_workers_event()]
}

fn any_clients_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_u128..4).prop_map(|id| Event::RequestArrived(request(id))),
        any_id().prop_map(|request_id| Event::ClientGone { request_id }),
        (any_id(), any::<u32>())
            .prop_map(|(request_id, up_to)| Event::StreamTaken { request_id, up_to }),
    ]
}

fn any_workers_event() -> impl Strategy<Value = Event> {
    let cause = prop_oneof![
        Just(GoneCause::LinkClosed),
        Just(GoneCause::Bye),
        any::<i32>().prop_map(GoneCause::Exited),
        any::<i32>().prop_map(GoneCause::Signalled),
    ];
    prop_oneof![
        (1_u32..3).prop_map(|worker| Event::WorkerStarted {
            worker: WorkerId(worker)
        }),
        (1_u32..3, 0_u64..3, any::<bool>()).prop_map(|(worker, epoch, own)| Event::WorkerReady {
            origin: Origin {
                worker: WorkerId(worker),
                epoch: Epoch(epoch),
                seq: 1
            },
            capabilities: Capabilities {
                own,
                ..capabilities()
            },
        }),
        (any_origin(), any_id(), 0_u32..3, any::<bool>()).prop_map(
            |(origin, request_id, attempt, elsewhere)| Event::WorkerRefused {
                origin,
                request_id,
                attempt,
                refusal: Refusal {
                    code: String::new(),
                    message: String::new(),
                    param: None,
                    elsewhere,
                },
            }
        ),
        (
            any_origin(),
            any::<u64>(),
            proptest::collection::vec(any_output(), 0..3)
        )
            .prop_map(|(origin, step_micros, outputs)| Event::WorkerOutputs {
                origin,
                step_micros,
                outputs
            }),
        (any_origin(), any::<u64>(), any::<bool>()).prop_map(|(origin, progress, busy)| {
            Event::Heartbeat {
                origin,
                progress,
                busy,
            }
        }),
        (1_u32..3, 0_u64..3, any::<bool>()).prop_map(|(worker, epoch, full)| Event::LinkFull {
            worker: WorkerId(worker),
            epoch: Epoch(epoch),
            full,
        }),
        (1_u32..3, proptest::option::of(0_u64..3), cause)
            .prop_map(|(worker, epoch, cause)| { gone(worker, epoch.map(Epoch), cause) }),
    ]
}

fn run(events: &[(Event, u64)]) -> (Scheduler, Vec<Action>) {
    let mut core = Scheduler::new(Config::default());
    let mut now = at(0);
    let mut actions = Vec::new();
    for (event, millis) in events {
        now = now + Duration::from_millis(*millis);
        core.handle(event.clone(), now);
        core.handle_timeout(now);
        actions.extend(drain(&mut core));
    }
    (core, actions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_events_give_each_arrival_at_most_one_end_and_equal_events_equal_actions(
        events in proptest::collection::vec((any_event(), 0_u64..700), 0..80)
    ) {
        let (core, actions) = run(&events);
        prop_assert_eq!(&run(&events).1, &actions);
        let ends = actions
            .iter()
            .filter(|action| matches!(action, Action::Reject { .. } | Action::Finish { .. }))
            .count();
        let arrivals = usize::try_from(core.counters().arrivals).unwrap();
        prop_assert_eq!(ends + core.live_requests(), arrivals);
        for view in core.workers() {
            prop_assert!(view.in_flight <= view.slots);
        }
    }
}
