//! Whole random runs. `SLACKWATER_SIM_SEEDS` sets how many, `SLACKWATER_SIM_SEED` runs one.

use slackwater_core::{LostReason, ViolationReason};
use slackwater_sim::{Report, Scenario, Seed};

const SEEDS: u64 = 1_000;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a seed or a count is a number"))
}

fn run(seed: u64) -> Report {
    let scenario = Scenario::random(Seed(seed));
    let report = scenario.run();
    if report.violations.is_empty() {
        return report;
    }
    let traced = scenario.run_traced();
    let faults: Vec<String> = scenario
        .faults
        .iter()
        .map(|(at, process, fault)| format!("{} us, process {process}: {fault:?}", at.as_micros()))
        .collect();
    panic!(
        "seed {seed}\nfaults:\n{}\nlast events:\n{}\nviolations: {:#?}\n{} of them\nreplay: SLACKWATER_SIM_SEED={seed} \
         cargo test -p slackwater-core --test main sim_seeds",
        faults.join("\n"),
        traced.trace.join("\n"),
        report.violations.first(),
        report.violations.len(),
    );
}

#[test]
fn random_runs_break_no_promise() {
    let count = setting("SLACKWATER_SIM_SEEDS").unwrap_or(SEEDS);
    let seeds = match setting("SLACKWATER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    };
    let reports: Vec<Report> = seeds.map(run).collect();
    if (reports.len() as u64) < SEEDS {
        return; // Too few for every kind of fault to come up.
    }
    // The seeds are worth something only if each kind of fault came through to the core.
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    assert!(sum(|report| report.sent_on_closed) > 0);
    assert!(sum(|report| report.counters.tokens_past_end) > 0);
    assert!(sum(|report| report.counters.refused_elsewhere) > 0);
    assert!(sum(|report| report.counters.link_full) > 0);
    for reason in LostReason::ALL
        .iter()
        .filter(|reason| **reason != LostReason::Bye)
    {
        let lost = reports
            .iter()
            .map(|report| report.counters.resumes.get(*reason))
            .sum::<u64>();
        assert!(lost > 0, "no request was resumed after {reason:?}");
    }
    for reason in ViolationReason::ALL {
        let broken = reports
            .iter()
            .map(|report| report.counters.protocol_violations.get(*reason))
            .sum::<u64>();
        assert!(broken > 0, "nobody broke the rule {reason:?}");
    }
}
