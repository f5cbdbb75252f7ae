//! Slow readers cost a bounded number of tokens, and nothing to anybody else.

use slackwater_core::Config;
use slackwater_sim::{CostModel, Pace, RequestSpec, Seed, Sim};

use crate::support::{NONE, millis, run_to_token, tokens, whole};

fn sim(window: u32) -> Sim {
    let config = Config {
        stream_credit: window,
        ..Config::default()
    };
    Sim::new(Seed(1))
        .with_config(config)
        .with_workers(1, &CostModel::for_test())
}

#[test]
fn a_stream_that_nobody_reads_stops_at_its_credit_and_a_neighbour_goes_on() {
    let mut sim = sim(16);
    let paused = sim.arrive(RequestSpec {
        pace: Pace::Pause {
            at: 0,
            length: millis(4_000),
        },
        ..tokens(100)
    });
    let neighbour = sim.arrive(tokens(100));
    sim.run_until(|sim| sim.delivered(neighbour).len() == 100);
    assert_eq!(sim.delivered(paused).len(), 16);
    sim.run_until_idle();
    assert_eq!(sim.outcome(paused), whole(&sim, paused, 1));
    // A worker that waits for credit is idle, not hung.
    assert_eq!(sim.core().counters().workers_lost.total(), 0);
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_credit_of_one_still_gives_every_token() {
    let mut sim = sim(1);
    let request = sim.arrive(tokens(50));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 1));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn a_resumed_stream_keeps_its_credit() {
    let mut sim = sim(16);
    let request = sim.arrive(RequestSpec {
        pace: Pace::Slow {
            tokens: 4,
            every: millis(100),
        },
        ..tokens(60)
    });
    run_to_token(&mut sim, request, 20);
    sim.kill(sim.worker_of(request));
    sim.run_until_idle();
    assert_eq!(sim.outcome(request), whole(&sim, request, 2));
    assert_eq!(sim.violations(), NONE);
}

#[test]
fn in_flight_never_exceeds_the_slots() {
    let cost = CostModel {
        slots: 3,
        ..CostModel::for_test()
    };
    let mut sim = Sim::new(Seed(2)).with_workers(2, &cost);
    let requests: Vec<_> = (0..20).map(|_| sim.arrive(tokens(20))).collect();
    let mut most = 0;
    sim.run_until(|sim| {
        let held: u32 = sim.core().workers().map(|view| view.in_flight).sum();
        most = most.max(held);
        sim.requests().count() == 20 && sim.core().is_idle()
    });
    assert_eq!(most, 6);
    assert!(
        requests
            .iter()
            .all(|id| sim.outcome(*id) == whole(&sim, *id, 1))
    );
    assert_eq!(sim.violations(), NONE);
}
