//! Each request ends once, with the right tokens, whatever becomes of its workers and its client.

use slackwater_core::{Ending, Failure, LostReason, ViolationReason, WorkerState};
use slackwater_sim::{CostModel, End, Evil, Fault, HangUp, Outcome, RequestSpec, Seed, Sim};

use crate::support::{NONE, millis, run_to_token, sim, strike_worker_of, tokens, whole};

#[test]
fn a_killed_worker_hands_its_request_over_without_losing_a_token() {
    let mut sim = sim(7, 2);
    let request = sim.arrive(tokens(64));
    run_to_token(&mut sim, request, 20);
    sim.kill(sim.worker_of(request));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    assert_eq!(sim.core().counters().resumes.total(), 1);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_link_cut_at_any_message_loses_no_token() {
    for messages in 0..90 {
        let mut sim = sim(messages, 2);
        let request = sim.arrive(tokens(24));
        sim.run_until(|sim| sim.worker_of(request).is_some());
        let cut = Fault::CutAfter(u32::try_from(messages).unwrap());
        strike_worker_of(&mut sim, request, cut);
        sim.run_until_idle();
        let submits = sim.outcome(request).unwrap().submits;
        assert_eq!(sim.outcome(request), whole(&sim, request, submits));
        assert_eq!(sim.violations(), NONE);
    }
}

#[test]
fn a_request_that_gives_no_new_token_is_resumed_three_times_and_then_fails() {
    let mut sim = sim(3, 4);
    let request = sim.arrive(RequestSpec {
        prompt_tokens: 2_000,
        ..tokens(8)
    });
    for _ in 0..4 {
        sim.run_until(|sim| sim.worker_of(request).is_some());
        sim.kill(sim.worker_of(request));
        sim.run_for(millis(5));
    }
    sim.run_until_idle();
    let failed = Outcome {
        tokens: vec![],
        end: Some(End::Ended(Ending::Failed(Failure::ResumeLimit {
            resumes: 3,
        }))),
        submits: 4,
    };
    assert_eq!(sim.outcome(request), Some(failed));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn kills_between_which_there_are_tokens_never_end_a_request() {
    let mut sim = sim(3, 3);
    let request = sim.arrive(tokens(80));
    for count in 1..9 {
        run_to_token(&mut sim, request, count * 8);
        sim.kill(sim.worker_of(request));
        sim.run_for(millis(5));
    }
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 9));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn the_only_worker_is_waited_for_and_its_request_goes_on() {
    let mut sim = sim(5, 1);
    let request = sim.arrive(tokens(40));
    run_to_token(&mut sim, request, 10);
    sim.kill(sim.worker_of(request));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn requests_without_any_worker_fail_after_the_wait() {
    let mut sim = Sim::new(Seed(1));
    let request = sim.arrive(tokens(8));
    sim.run_until_idle();
    assert_eq!(sim.now().as_micros(), 5_000_000);
    let refused = Outcome {
        tokens: vec![],
        end: Some(End::Rejected(Failure::NoWorker {
            retry_after: millis(5_000),
        })),
        submits: 0,
    };
    assert_eq!(sim.outcome(request), Some(refused));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_client_that_hangs_up_frees_its_slot_by_the_workers_word() {
    let one = CostModel {
        slots: 1,
        ..CostModel::for_test()
    };
    for after in [0, 1, 8, 9, 10, 50, 100] {
        let mut sim = Sim::new(Seed(after)).with_workers(1, &one);
        sim.run_until(|sim| sim.core().ready_workers() == 1);
        let first = sim.arrive(RequestSpec {
            hang_up: HangUp::After(millis(after)),
            ..tokens(64)
        });
        let second = sim.arrive(tokens(8));
        sim.run_until_idle();
        let first = sim.outcome(first).unwrap();
        assert_eq!(first.end, Some(End::Ended(Ending::Cancelled)));
        assert_eq!(sim.outcome(second), whole(&sim, second, 1));
        assert_eq!(sim.violations(), NONE);
        sim.run_for(millis(50));
        sim.expect_all_ended();
        assert_eq!(sim.violations(), NONE);
    }
}

#[test]
fn a_client_that_hangs_up_in_the_queue_costs_no_worker_anything() {
    let mut sim = Sim::new(Seed(2));
    let request = sim.arrive(tokens(8));
    sim.run_for(millis(10));
    sim.hang_up(request);
    sim.run_until_idle();
    let gone = Outcome {
        tokens: vec![],
        end: Some(End::Ended(Ending::Cancelled)),
        submits: 0,
    };
    assert_eq!(sim.outcome(request), Some(gone));
    assert_eq!(sim.digest().0, 1);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_zombie_is_heard_and_nothing_that_it_says_is_delivered() {
    let mut sim = sim(11, 2);
    let request = sim.arrive(tokens(200));
    run_to_token(&mut sim, request, 20);
    strike_worker_of(&mut sim, request, Fault::Freeze(millis(1_500)));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    let counters = sim.core().counters();
    assert_eq!(counters.workers_lost.get(LostReason::Silent), 1);
    assert!(sim.sent_on_closed() > 0, "the fault must have bitten");
    assert_eq!(counters.stale_messages, sim.sent_on_closed());
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_second_link_of_a_worker_replaces_the_first() {
    let mut sim = sim(13, 1);
    let request = sim.arrive(tokens(40));
    run_to_token(&mut sim, request, 10);
    strike_worker_of(&mut sim, request, Fault::Reconnect);
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    let lost = &sim.core().counters().workers_lost;
    assert_eq!(lost.iter().collect::<Vec<_>>(), [(LostReason::Replaced, 1)]);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn each_broken_rule_closes_the_link_and_each_stale_word_is_only_counted() {
    let cases = [
        (Evil::SeqGap, Some(ViolationReason::Sequence)),
        (Evil::SeqRepeat, Some(ViolationReason::Sequence)),
        (Evil::TokenRange, Some(ViolationReason::TokenRange)),
        (Evil::StartAhead, Some(ViolationReason::Start)),
        (Evil::StartBehind, Some(ViolationReason::Start)),
        (Evil::OverCredit, Some(ViolationReason::Credit)),
        (Evil::CancelledUnasked, Some(ViolationReason::Finish)),
        (Evil::LengthEarly, Some(ViolationReason::Finish)),
        (Evil::LogprobsUnasked, Some(ViolationReason::Logprobs)),
        (Evil::ReadyTwice, Some(ViolationReason::Ready)),
        (Evil::Garbage, Some(ViolationReason::Codec)),
        (Evil::RefuseLate, Some(ViolationReason::Refusal)),
        (Evil::ForeignAttempt, None),
        (Evil::ForeignRequest, None),
        (Evil::UnknownRequest, None),
    ];
    assert_eq!(cases.len(), Evil::ALL.len());
    for (evil, reason) in cases {
        let mut sim = sim(17, 2);
        sim.run_until(|sim| sim.core().ready_workers() == 2);
        let other = sim.arrive(tokens(60));
        let request = sim.arrive(tokens(60));
        run_to_token(&mut sim, request, 10);
        run_to_token(&mut sim, other, 10);
        strike_worker_of(&mut sim, request, Fault::Evil(evil));
        sim.run_until_idle();
        let submits = if reason.is_some() { 2 } else { 1 };
        assert_eq!(sim.outcome(request), whole(&sim, request, submits));
        assert_eq!(sim.outcome(other), whole(&sim, other, 1));
        let counters = sim.core().counters();
        let broken: Vec<_> = counters.protocol_violations.iter().collect();
        assert_eq!(broken, Vec::from_iter(reason.map(|reason| (reason, 1))));
        assert!(reason.is_some() || counters.stale_messages == 1, "{evil:?}");
        assert_eq!(sim.violations(), NONE, "{evil:?}");
    }
}

#[test]
fn a_worker_without_room_is_not_asked_again_at_once() {
    let mut sim = sim(19, 2);
    sim.run_until(|sim| sim.core().ready_workers() == 2);
    sim.inject(0, Fault::RefuseNext(2));
    let first = sim.arrive(tokens(30));
    let second = sim.arrive(tokens(30));
    sim.run_until_idle();
    let submits = [first, second].map(|id| sim.outcome(id).unwrap().submits);
    assert_eq!(submits, [2, 1]);
    assert_eq!(sim.core().counters().refused_elsewhere, 1);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_refusal_by_all_workers_is_asked_again_at_the_pace_of_heartbeats() {
    let mut sim = sim(23, 1);
    sim.run_until(|sim| sim.core().ready_workers() == 1);
    sim.inject(0, Fault::RefuseNext(3));
    let request = sim.arrive(tokens(4));
    let from = sim.now();
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 4));
    assert!(sim.now().since(from) >= millis(400));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_drain_lets_live_requests_end_and_refuses_new_ones() {
    let mut sim = sim(29, 2);
    let request = sim.arrive(tokens(60));
    run_to_token(&mut sim, request, 10);
    sim.operator(slackwater_core::Command::Drain);
    sim.run_for(millis(1));
    let late = sim.arrive(tokens(8));
    sim.kill(sim.worker_of(request));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    let draining = Failure::Draining {
        retry_after: millis(1_000),
    };
    let refused = sim.outcome(late).unwrap().end;
    assert_eq!(refused, Some(End::Rejected(draining)));
    // It was killed while there was work; with nothing left to do the other was told to end, said Bye, and stays away.
    assert_eq!(sim.core().counters().workers_restarted, 1);
    sim.run_for(millis(50));
    let states: Vec<_> = sim.core().workers().map(|view| view.state).collect();
    assert_eq!(states, [WorkerState::Lost, WorkerState::Lost]);
    let lost: Vec<_> = sim.core().counters().workers_lost.iter().collect();
    assert_eq!(lost, [(LostReason::LinkClosed, 1), (LostReason::Bye, 1)]);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_kill_in_a_drain_does_not_end_the_only_workers_stream() {
    let mut sim = sim(30, 1);
    let request = sim.arrive(tokens(60));
    run_to_token(&mut sim, request, 10);
    sim.operator(slackwater_core::Command::Drain);
    sim.run_for(millis(1));
    sim.kill(sim.worker_of(request));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    assert_eq!(sim.core().counters().workers_restarted, 1);
    // Nobody needs the next one: this kill comes before the worker has read that it shall end.
    sim.inject(0, Fault::Signal(9));
    sim.run_for(millis(3_000));
    assert_eq!(sim.core().counters().workers_restarted, 1);
    let states: Vec<_> = sim.core().workers().map(|view| view.state).collect();
    assert_eq!(states, [WorkerState::Lost]);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn an_abort_ends_everything_at_once() {
    let one = CostModel {
        slots: 1,
        ..CostModel::for_test()
    };
    let mut sim = Sim::new(Seed(31)).with_workers(1, &one);
    let running = sim.arrive(tokens(60));
    let waiting = sim.arrive(tokens(60));
    run_to_token(&mut sim, running, 10);
    sim.operator(slackwater_core::Command::Abort);
    sim.run_until_idle();
    let draining = Failure::Draining {
        retry_after: millis(1_000),
    };
    let ends = [running, waiting].map(|id| sim.outcome(id).unwrap().end);
    let failed = End::Ended(Ending::Failed(draining.clone()));
    assert_eq!(ends, [Some(failed), Some(End::Rejected(draining))]);
    sim.run_for(millis(100));
    sim.expect_all_ended();
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_stream_that_has_begun_goes_on_after_a_death_however_old_it_is() {
    // Alone it waits past its expiry for the next process; beside another worker it is placed at once.
    for workers in [1, 2] {
        let mut sim = sim(36, workers);
        let request = sim.arrive(RequestSpec {
            useful_for: Some(millis(500)),
            ..tokens(200)
        });
        sim.run_for(millis(700));
        let begun = sim.delivered(request).len();
        assert!(begun > 0 && begun < 200, "{begun}");
        sim.kill(sim.worker_of(request));
        sim.run_until_idle();
        assert_eq!(sim.outcome(request), whole(&sim, request, 2));
        assert_eq!(sim.violations(), NONE);
    }
}

#[test]
fn a_request_that_waits_past_its_expiry_is_refused_at_that_moment() {
    let one = CostModel {
        slots: 1,
        ..CostModel::for_test()
    };
    let mut sim = Sim::new(Seed(37)).with_workers(1, &one);
    let first = sim.arrive(tokens(200));
    run_to_token(&mut sim, first, 1);
    let second = sim.arrive(RequestSpec {
        useful_for: Some(millis(100)),
        ..tokens(8)
    });
    let from = sim.now();
    sim.run_until(|sim| {
        sim.outcome(second)
            .is_some_and(|outcome| outcome.end.is_some())
    });
    assert_eq!(sim.now().since(from), millis(100));
    let timeout = Failure::QueueTimeout {
        retry_after: millis(1_000),
    };
    let end = sim.outcome(second).unwrap().end;
    assert_eq!(end, Some(End::Rejected(timeout)));
    assert_eq!(sim.violations(), NONE);
}
