//! Silence, hangs and deaths are seen in their time, and nobody who lives is cut off.

use slackwater_core::{Config, LostReason, SuspectReason, WorkerState};
use slackwater_sim::{CostModel, Fault, Seed, Sim};

use crate::support::{NONE, millis, run_to_token, sim, strike_worker_of, tokens, whole};

#[test]
fn a_frozen_worker_is_suspect_at_600_ms_and_lost_at_one_second_of_silence() {
    let mut sim = sim(1, 2);
    let request = sim.arrive(tokens(400));
    run_to_token(&mut sim, request, 20);
    let from = sim.now();
    let worker = sim.worker_of(request).unwrap();
    strike_worker_of(&mut sim, request, Fault::Freeze(millis(30_000)));
    let state = |sim: &Sim| sim.core().workers().find(|view| view.worker == worker);
    sim.run_until(|sim| state(sim).is_some_and(|view| view.state == WorkerState::Suspect));
    let suspect_at = sim.now().since(from);
    sim.run_until(|sim| state(sim).is_some_and(|view| view.state == WorkerState::Lost));
    let lost_at = sim.now().since(from);
    // What was under way at the freeze may still have arrived.
    assert!(
        suspect_at >= millis(600) && suspect_at < millis(603),
        "{suspect_at:?}"
    );
    assert!(
        lost_at >= millis(1_000) && lost_at < millis(1_003),
        "{lost_at:?}"
    );
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    let counters = sim.core().counters();
    assert_eq!(counters.workers_suspect.get(SuspectReason::Silent), 1);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_frozen_own_child_is_killed_after_ten_seconds_of_silence_and_comes_back() {
    let mut sim = sim(2, 2);
    sim.run_until(|sim| sim.core().ready_workers() == 2);
    let from = sim.now();
    sim.inject(0, Fault::Freeze(millis(60_000)));
    sim.run_until(|sim| sim.core().counters().workers_restarted == 1);
    let killed_at = sim.now().since(from);
    assert!(
        killed_at > millis(9_700) && killed_at <= millis(10_003),
        "{killed_at:?}"
    );
    sim.run_until(|sim| sim.core().ready_workers() == 2);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_hung_engine_with_a_living_io_thread_is_cut_off_and_restarted() {
    let mut sim = sim(3, 2);
    let request = sim.arrive(tokens(400));
    run_to_token(&mut sim, request, 20);
    let from = sim.now();
    strike_worker_of(&mut sim, request, Fault::Hang);
    sim.run_until(|sim| sim.core().counters().workers_restarted == 1);
    let seen_at = sim.now().since(from);
    assert!(
        seen_at >= millis(1_900) && seen_at < millis(2_300),
        "{seen_at:?}"
    );
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    let lost: Vec<_> = sim.core().counters().workers_lost.iter().collect();
    assert_eq!(lost, [(LostReason::Hung, 1)]);
    sim.run_until(|sim| sim.core().ready_workers() == 2);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn long_steps_and_idle_workers_are_no_hangs() {
    let slow = CostModel {
        base: millis(900),
        ..CostModel::for_test()
    };
    let mut sim = Sim::new(Seed(4)).with_workers(1, &slow);
    let request = sim.arrive(tokens(12));
    sim.run_until_idle();
    sim.run_for(millis(20_000));
    assert_eq!(sim.outcome(request), whole(&sim, request, 1));
    assert_eq!(sim.core().counters().workers_lost.total(), 0);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_partition_either_way_heals_by_itself() {
    for fault in [
        Fault::LateUp(millis(3_000)),
        Fault::LateDown(millis(3_000)),
        Fault::LateBoth(millis(3_000)),
    ] {
        let mut sim = sim(5, 2);
        let request = sim.arrive(tokens(300));
        run_to_token(&mut sim, request, 20);
        strike_worker_of(&mut sim, request, fault);
        sim.run_until_idle();
        let submits = sim.outcome(request).unwrap().submits;
        assert_eq!(sim.outcome(request), whole(&sim, request, submits));
        sim.run_for(millis(6_000));
        assert_eq!(sim.core().ready_workers(), 2);
        assert_eq!(sim.violations(), NONE);
    }
}

#[test]
fn a_full_link_gets_no_new_work_until_it_is_half_empty() {
    let mut sim = sim(6, 2);
    sim.run_until(|sim| sim.core().ready_workers() == 2);
    sim.inject(0, Fault::LinkFull(millis(500)));
    sim.run_for(millis(1));
    assert_eq!(sim.core().ready_workers(), 1);
    let requests: Vec<_> = (0..4).map(|_| sim.arrive(tokens(8))).collect();
    sim.run_until_idle();
    let second = sim.core().workers().nth(1).map(|view| view.worker);
    assert_eq!(second.and_then(|worker| sim.process_of(worker)), Some(1));
    assert!(
        requests
            .iter()
            .all(|id| sim.outcome(*id) == whole(&sim, *id, 1))
    );
    assert_eq!(sim.core().counters().link_full, 1);
    sim.run_for(millis(600));
    assert_eq!(sim.core().ready_workers(), 2);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_child_that_keeps_dying_is_started_ever_later_and_a_good_one_at_once() {
    let mut sim = sim(7, 1);
    let mut waits = Vec::new();
    for signal in [11, 11, 9, 11] {
        sim.run_until(|sim| sim.core().ready_workers() == 1);
        sim.inject(0, Fault::Signal(signal));
        sim.run_until(|sim| sim.core().ready_workers() == 0);
        let from = sim.now();
        sim.run_until(|sim| sim.core().ready_workers() == 1);
        waits.push(sim.now().since(from).as_millis() / 100 * 100);
    }
    assert_eq!(waits, [800, 1_300, 2_300, 2_300]);
    sim.run_for(millis(10_500));
    sim.inject(0, Fault::Exit(1));
    sim.run_until(|sim| sim.core().ready_workers() == 0);
    let from = sim.now();
    sim.run_until(|sim| sim.core().ready_workers() == 1);
    assert_eq!(sim.now().since(from).as_millis() / 100 * 100, 800);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_child_that_dies_before_ready_is_started_again() {
    let config = Config::default();
    let mut sim = Sim::new(Seed(8))
        .with_config(config)
        .with_workers(1, &CostModel::for_test());
    sim.run_for(millis(100));
    sim.inject(0, Fault::Exit(1));
    sim.run_until(|sim| sim.core().ready_workers() == 1);
    assert_eq!(sim.core().counters().workers_restarted, 1);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_child_that_is_not_ready_within_the_limit_is_started_again() {
    let config = Config {
        start_limit: millis(5_000),
        ..Config::default()
    };
    let mut sim = Sim::new(Seed(9))
        .with_config(config)
        .with_workers(1, &CostModel::for_test());
    sim.run_for(millis(100));
    sim.inject(0, Fault::Freeze(millis(60_000)));
    sim.run_until(|sim| sim.core().counters().workers_restarted == 1);
    assert_eq!(sim.now().as_micros(), 5_000_000);
    sim.run_until(|sim| sim.core().ready_workers() == 1);
    sim.run_for(millis(20_000));
    assert_eq!(sim.core().counters().workers_restarted, 1);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_pause_of_the_router_itself_convicts_nobody() {
    let mut sim = sim(10, 2);
    let request = sim.arrive(tokens(400));
    run_to_token(&mut sim, request, 20);
    sim.pause_router(millis(1_300));
    sim.run_for(millis(1_301));
    assert!(sim.delivered(request).len() > 100, "it must have gone on");
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 1));
    let counters = sim.core().counters();
    assert_eq!(
        (
            counters.workers_lost.total(),
            counters.resumes.total(),
            counters.workers_restarted
        ),
        (0, 0, 0)
    );
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_worker_that_is_frozen_or_hung_over_a_pause_is_found_in_its_time_after_it() {
    let cases = [
        (Fault::Freeze(millis(60_000)), LostReason::Silent, 1_000),
        (Fault::Hang, LostReason::Hung, 2_000),
    ];
    for (fault, reason, limit) in cases {
        let mut sim = sim(12, 2);
        let request = sim.arrive(tokens(400));
        run_to_token(&mut sim, request, 20);
        strike_worker_of(&mut sim, request, fault);
        sim.pause_router(millis(1_300));
        sim.run_for(millis(1_300));
        assert_eq!(sim.core().counters().workers_lost.total(), 0);
        let from = sim.now();
        sim.run_until(|sim| sim.core().counters().workers_lost.total() > 0);
        assert!(sim.now().since(from) <= millis(limit));
        sim.run_until_idle();
        assert_eq!(sim.outcome(request), whole(&sim, request, 2));
        let lost: Vec<_> = sim.core().counters().workers_lost.iter().collect();
        assert_eq!(lost, [(reason, 1)]);
        assert_eq!(sim.violations(), NONE);
    }
}
