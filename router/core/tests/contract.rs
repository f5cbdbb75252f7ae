//! The contract by itself, event by event: what exactly comes out for what goes in.

use std::sync::Arc;
use std::time::Duration;

use slackwater_core::{
    Action, Capabilities, Class, Config, Ending, Epoch, Event, Failure, FenceReason, GoneCause,
    Limits, Logprobs, Origin, Output, Refusal, Request, RequestDraft, RequestId, Scheduler, Time,
    WorkerFinish, WorkerId, WorkerState, WorkerView,
};

pub(crate) const LIMITS: Limits = Limits {
    max_model_len: 100,
    vocab_size: 1_000,
};
pub(crate) const RETRY: Duration = Duration::from_secs(1);

pub(crate) const fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1_000)
}

pub(crate) fn draft(id: u128) -> RequestDraft {
    RequestDraft {
        request_id: RequestId(id),
        prompt: vec![1, 2, 3],
        max_tokens: Some(20),
        min_tokens: 0,
        temperature: 0.0,
        top_p: 1.0,
        seed: 1,
        ignore_eos: false,
        shaping: Arc::default(),
        group: None,
        choice_index: 0,
        class: Class::Interactive,
        salt: 0,
        arrival: at(0),
        expiry: None,
    }
}

pub(crate) fn request(id: u128) -> Request {
    Request::parse(draft(id), &LIMITS).unwrap()
}

pub(crate) const fn origin(worker: u32, seq: u64) -> Origin {
    Origin {
        worker: WorkerId(worker),
        epoch: Epoch(worker as u64),
        seq,
    }
}

pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        vocab_size: 1_000,
        max_model_len: 100,
        slots: 2,
        numerics: "a".to_owned(),
        own: true,
    }
}

pub(crate) fn ready(worker: u32, capabilities: Capabilities) -> Event {
    Event::WorkerReady {
        origin: origin(worker, 1),
        capabilities,
    }
}

pub(crate) fn outputs(worker: u32, seq: u64, outputs: Vec<Output>) -> Event {
    Event::WorkerOutputs {
        origin: origin(worker, seq),
        step_micros: 1_000,
        outputs,
    }
}

pub(crate) fn output(id: u128, attempt: u32, start: u32, tokens: &[u32]) -> Output {
    Output {
        request_id: RequestId(id),
        attempt,
        start,
        tokens: tokens.to_vec(),
        num_cached_tokens: 2,
        logprobs: Logprobs::NONE,
        finish: None,
    }
}

pub(crate) const fn gone(worker: u32, epoch: Option<Epoch>, cause: GoneCause) -> Event {
    Event::WorkerGone {
        worker: WorkerId(worker),
        epoch,
        cause,
    }
}

pub(crate) const fn cut(worker: u32) -> Event {
    gone(worker, Some(Epoch(worker as u64)), GoneCause::LinkClosed)
}

pub(crate) fn tell(core: &mut Scheduler, event: Event, now: Time) -> Vec<Action> {
    core.handle(event, now);
    drain(core)
}

pub(crate) fn drain(core: &mut Scheduler) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_action()).collect()
}

pub(crate) fn core_with(workers: u32) -> Scheduler {
    let mut core = Scheduler::new(Config::default());
    for worker in 1..=workers {
        tell(&mut core, ready(worker, capabilities()), at(0));
    }
    core
}

/// Where requests were placed: (request, worker, attempt, history).
fn placements(actions: &[Action]) -> Vec<(u128, u32, u32, Vec<u32>)> {
    let place = |action: &Action| match action {
        Action::Submit(placement) | Action::Resume(placement) => Some((
            placement.request.request_id().0,
            placement.worker.0,
            placement.attempt,
            placement.history.clone(),
        )),
        _ => None,
    };
    actions.iter().filter_map(place).collect()
}

#[test]
fn requests_go_to_the_least_loaded_worker_and_wait_in_order_when_all_are_full() {
    let mut core = core_with(2);
    let mut placed = Vec::new();
    for id in 1..=6 {
        placed.extend(tell(&mut core, Event::RequestArrived(request(id)), at(1)));
    }
    let workers: Vec<_> = placements(&placed)
        .iter()
        .map(|one| (one.0, one.1))
        .collect();
    assert_eq!(workers, [(1, 1), (2, 2), (3, 1), (4, 2)]);
    assert_eq!(core.queue_depth(Class::Interactive), 2);
    let mut last = output(2, 1, 0, &[7]);
    last.finish = Some(WorkerFinish::Stop);
    let actions = tell(&mut core, outputs(2, 2, vec![last]), at(2));
    assert_eq!(placements(&actions), [(5, 2, 1, vec![])]);
}

#[test]
fn a_lost_worker_puts_its_requests_in_front_with_what_their_clients_have() {
    let mut core = core_with(2);
    for id in 1..=5 {
        tell(&mut core, Event::RequestArrived(request(id)), at(1));
    }
    tell(
        &mut core,
        outputs(1, 2, vec![output(3, 1, 0, &[8, 9])]),
        at(2),
    );
    let actions = tell(&mut core, cut(1), at(3));
    assert_eq!(actions, []);
    let actions = tell(&mut core, ready_as(1, 11, "a"), at(4));
    assert_eq!(
        placements(&actions),
        [(1, 1, 2, vec![]), (3, 1, 2, vec![8, 9])]
    );
    assert!(matches!(actions[0], Action::Resume(_)));
    assert_eq!(core.queue_depth(Class::Interactive), 1);
}

fn ready_as(worker: u32, epoch: u64, numerics: &str) -> Event {
    Event::WorkerReady {
        origin: Origin {
            worker: WorkerId(worker),
            epoch: Epoch(epoch),
            seq: 1,
        },
        capabilities: Capabilities {
            numerics: numerics.to_owned(),
            ..capabilities()
        },
    }
}

#[test]
fn a_resumed_request_prefers_the_numerics_that_its_tokens_came_from() {
    let mut core = core_with(1);
    tell(&mut core, Event::RequestArrived(request(1)), at(1));
    tell(&mut core, outputs(1, 2, vec![output(1, 1, 0, &[8])]), at(2));
    tell(&mut core, ready_as(2, 2, "b"), at(3));
    tell(&mut core, ready_as(3, 3, "a"), at(3));
    let actions = tell(&mut core, cut(1), at(4));
    assert_eq!(placements(&actions), [(1, 3, 2, vec![8])]);
    let actions = tell(&mut core, cut(3), at(5));
    assert_eq!(placements(&actions), [(1, 2, 3, vec![8])]);
    assert_eq!(core.counters().resumes_inexact, 1);
}

#[test]
fn a_delivery_says_the_cached_tokens_of_the_first_attempt() {
    let mut core = core_with(2);
    tell(&mut core, Event::RequestArrived(request(1)), at(1));
    let first = tell(&mut core, outputs(1, 2, vec![output(1, 1, 0, &[8])]), at(2));
    tell(&mut core, cut(1), at(3));
    let mut second = output(1, 2, 1, &[9]);
    second.num_cached_tokens = 3;
    let second = tell(&mut core, outputs(2, 2, vec![second]), at(4));
    let delivery = |start, token| Action::Deliver {
        request_id: RequestId(1),
        start,
        tokens: vec![token],
        num_cached_tokens: 2,
        logprobs: Logprobs::NONE,
    };
    assert_eq!(
        (first, second),
        (vec![delivery(0, 8)], vec![delivery(1, 9)])
    );
}

#[test]
fn a_full_queue_refuses_only_the_new_ones_of_its_class() {
    let config = Config {
        queue_cap: 1,
        ..Config::default()
    };
    let mut core = Scheduler::new(config);
    assert_eq!(
        tell(&mut core, Event::RequestArrived(request(1)), at(1)),
        []
    );
    let refused = Action::Reject {
        request_id: RequestId(2),
        failure: Failure::QueueFull { retry_after: RETRY },
    };
    let actions = tell(&mut core, Event::RequestArrived(request(2)), at(1));
    assert_eq!(actions, [refused]);
    let mut other = draft(3);
    other.class = Class::Offline;
    let other = Request::parse(other, &LIMITS).unwrap();
    assert_eq!(tell(&mut core, Event::RequestArrived(other), at(1)), []);
}

#[test]
fn limits_are_the_largest_of_the_live_workers_and_outlive_the_last() {
    let mut core = core_with(1);
    let larger = Capabilities {
        max_model_len: 300,
        ..capabilities()
    };
    tell(&mut core, ready(2, larger), at(0));
    let large = Limits {
        max_model_len: 300,
        ..LIMITS
    };
    assert_eq!((core.limits(), core.ready_workers()), (Some(large), 2));
    tell(&mut core, cut(2), at(1));
    assert_eq!((core.limits(), core.ready_workers()), (Some(LIMITS), 1));
    tell(&mut core, cut(1), at(1));
    assert_eq!((core.limits(), core.ready_workers()), (Some(LIMITS), 0));
    let lost = |worker| WorkerView {
        worker: WorkerId(worker),
        epoch: None,
        state: WorkerState::Lost,
        in_flight: 0,
        slots: 0,
    };
    assert_eq!(core.workers().collect::<Vec<_>>(), [lost(1), lost(2)]);
}

#[test]
fn a_request_that_only_a_lost_worker_could_take_waits_for_it_and_then_fails() {
    let mut core = core_with(1);
    let larger = Capabilities {
        max_model_len: 300,
        ..capabilities()
    };
    tell(&mut core, ready(2, larger), at(0));
    let mut long = draft(1);
    long.max_tokens = Some(200);
    let limits = core.limits().unwrap();
    tell(&mut core, cut(2), at(10));
    let long = Request::parse(long, &limits).unwrap();
    assert_eq!(tell(&mut core, Event::RequestArrived(long), at(20)), []);
    assert_eq!(
        placements(&tell(&mut core, Event::RequestArrived(request(2)), at(20))).len(),
        1
    );
    for now in (200..5_020).step_by(200) {
        let heartbeat = Event::Heartbeat {
            origin: origin(1, now / 200 + 1),
            progress: now,
            busy: true,
        };
        core.handle_timeout(at(now));
        assert_eq!(tell(&mut core, heartbeat, at(now)), []);
    }
    core.handle_timeout(at(5_020));
    let failed = Action::Reject {
        request_id: RequestId(1),
        failure: Failure::NoWorker {
            retry_after: Duration::from_secs(5),
        },
    };
    assert_eq!(drain(&mut core), [failed]);
}

#[test]
fn a_final_refusal_and_a_workers_error_end_a_request_with_their_words() {
    let mut core = core_with(1);
    tell(&mut core, Event::RequestArrived(request(1)), at(1));
    tell(&mut core, Event::RequestArrived(request(2)), at(1));
    let refusal = Event::WorkerRefused {
        origin: origin(1, 2),
        request_id: RequestId(1),
        attempt: 1,
        refusal: Refusal {
            code: "bad".to_owned(),
            message: "no".to_owned(),
            param: Some("seed".to_owned()),
            elsewhere: false,
        },
    };
    let mut failed = output(2, 1, 0, &[]);
    failed.finish = Some(WorkerFinish::Error {
        code: "oom".to_owned(),
        message: "out of memory".to_owned(),
    });
    let mut actions = tell(&mut core, refusal, at(2));
    actions.extend(tell(&mut core, outputs(1, 3, vec![failed]), at(2)));
    let end = |id, failure| Action::Finish {
        request_id: RequestId(id),
        ending: Ending::Failed(failure),
    };
    let refused = Failure::Refused {
        code: "bad".to_owned(),
        message: "no".to_owned(),
        param: Some("seed".to_owned()),
    };
    let error = Failure::Worker {
        code: "oom".to_owned(),
        message: "out of memory".to_owned(),
    };
    assert_eq!(actions, [end(1, refused), end(2, error)]);
    assert!(core.is_idle());
}

#[test]
fn a_ready_out_of_place_harms_nobody_else() {
    let mut core = core_with(1);
    tell(&mut core, Event::RequestArrived(request(1)), at(1));
    let second = Event::WorkerReady {
        origin: Origin {
            epoch: Epoch(77),
            ..origin(1, 2)
        },
        capabilities: capabilities(),
    };
    let fence = |epoch, reason| Action::Fence {
        worker: WorkerId(1),
        epoch: Epoch(epoch),
        reason,
    };
    let actions = tell(&mut core, second, at(2));
    assert_eq!(actions, [fence(77, FenceReason::Violation)]);
    assert_eq!(core.ready_workers(), 1);
    // The link that was closed is not opened again by what was read before.
    assert_eq!(tell(&mut core, ready_as(1, 77, "a"), at(2)), []);
    let again = tell(&mut core, ready(1, capabilities()), at(3));
    assert_eq!(again, [fence(1, FenceReason::Violation)]);
    assert_eq!(tell(&mut core, ready(1, capabilities()), at(3)), []);
    assert_eq!(core.ready_workers(), 0);
    assert_eq!(core.counters().stale_messages, 2);
}

#[test]
fn each_death_of_a_child_is_one_restart_however_it_is_told() {
    let mut core = core_with(1);
    let killed = GoneCause::Signalled(9);
    let restart = Action::Restart {
        worker: WorkerId(1),
        after: Duration::from_millis(500),
    };
    assert_eq!(tell(&mut core, cut(1), at(1)), []);
    let first = tell(&mut core, gone(1, None, killed), at(2));
    assert_eq!(first, std::slice::from_ref(&restart));
    // A second word on the same death, then the death of the next process before its READY.
    assert_eq!(tell(&mut core, gone(1, None, killed), at(400)), []);
    let next = tell(&mut core, gone(1, None, killed), at(600));
    assert_eq!(next, std::slice::from_ref(&restart));
    tell(&mut core, ready_as(1, 5, "a"), at(2_000));
    let with_link = tell(&mut core, gone(1, Some(Epoch(5)), killed), at(2_100));
    assert_eq!(with_link, [restart]);
    assert_eq!(core.counters().workers_lost.total(), 2);
}

#[test]
fn a_worker_that_comes_at_the_moment_of_expiry_comes_too_late() {
    let mut core = Scheduler::new(Config::default());
    let mut late = draft(1);
    late.expiry = Some(at(100));
    let late = Request::parse(late, &LIMITS).unwrap();
    tell(&mut core, Event::RequestArrived(late), at(1));
    assert_eq!(core.next_timeout(), Some(at(100)));
    let timeout = Action::Reject {
        request_id: RequestId(1),
        failure: Failure::QueueTimeout { retry_after: RETRY },
    };
    let actions = tell(&mut core, ready(1, capabilities()), at(100));
    assert_eq!(actions, [timeout]);
}

#[test]
fn an_id_that_lives_is_not_taken_twice() {
    let mut core = core_with(1);
    let first = tell(&mut core, Event::RequestArrived(request(1)), at(1));
    let second = tell(&mut core, Event::RequestArrived(request(1)), at(2));
    assert_eq!((first.len(), second.len()), (1, 0));
    assert_eq!(core.counters().duplicate_arrivals, 1);
}
