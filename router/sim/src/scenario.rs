//! Whole runs from a seed: load, sizes, which faults there are and when, then peace, in which everything must end.

use std::time::Duration;

use slackwater_core::{Class, Command, Config, Counters, Time};

use crate::check::Violation;
use crate::client::{HangUp, Pace, RequestSpec};
use crate::engine::CostModel;
use crate::faults::{Evil, Fault};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::sim::{Seed, Sim};

/// Time after the last fault in which all requests must have ended.
const PEACE: Duration = Duration::from_secs(10);
/// Time in which the closing requests must have ended.
const CLOSING: Duration = Duration::from_secs(5);

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where it came from.
    pub seed: Seed,
    /// The core's settings.
    pub config: Config,
    /// Own children.
    pub own: usize,
    /// Workers that join.
    pub joined: usize,
    /// What all of them cost.
    pub cost: CostModel,
    /// Who asks for what, when.
    pub arrivals: Vec<(Time, RequestSpec)>,
    /// What goes wrong, when, with which process.
    pub faults: Vec<(Time, usize, Fault)>,
    /// When the router itself stands still, and for how long.
    pub pauses: Vec<(Time, Duration)>,
    /// When the operator shuts down, and how.
    pub shutdown: Option<(Time, Command)>,
    /// When nothing goes wrong any more.
    pub peace_at: Time,
}

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Number of actions and their hash.
    pub digest: (u64, u64),
    /// What the core counted.
    pub counters: Counters,
    /// Messages sent on closed links.
    pub sent_on_closed: u64,
    /// The last events and actions, of a traced run.
    pub trace: Vec<String>,
}

impl Scenario {
    /// The run that this seed decides.
    pub fn random(seed: Seed) -> Self {
        let mut rng = Rng::new(seed.0 ^ 0x5ce4_a210);
        let own = usize::try_from(rng.between(0, 4)).unwrap_or(1);
        let joined = usize::try_from(rng.between(u64::from(own == 0), 3)).unwrap_or(1);
        let length = rng.between(1_000, 4_000);
        let peace_at = Time::from_micros(length * 1_000);
        let cost = random_cost(&mut rng);
        let slots = u64::from(cost.slots) * (own + joined) as u64;
        let arrivals = random_arrivals(&mut rng, slots, length);
        let faults = random_faults(&mut rng, own + joined, length);
        let shutdown_at = Time::from_micros(rng.between(0, length * 1_000));
        let shutdown = rng.pick(Command::Drain, &[Command::Abort]);
        Self {
            seed,
            config: random_config(&mut rng),
            own,
            joined,
            cost,
            arrivals,
            faults,
            pauses: random_pauses(seed, length),
            shutdown: rng.percent(8).then_some((shutdown_at, shutdown)),
            peace_at,
        }
    }

    /// Runs it to its end.
    pub fn run(&self) -> Report {
        self.run_in(Sim::new(self.seed))
    }

    /// The same, with the last events kept.
    pub fn run_traced(&self) -> Report {
        self.run_in(Sim::new(self.seed).traced())
    }

    fn run_in(&self, sim: Sim) -> Report {
        let mut sim = sim
            .with_config(self.config.clone())
            .with_workers(self.own, &self.cost)
            .with_joined(self.joined, &self.cost);
        for (at, spec) in &self.arrivals {
            sim.arrive_at(*at, spec.clone());
        }
        for (at, process, fault) in &self.faults {
            sim.inject_at(*at, *process, *fault);
        }
        for (at, span) in &self.pauses {
            sim.pause_router_at(*at, *span);
        }
        if let Some((at, command)) = self.shutdown {
            sim.operator_at(at, command);
        }
        sim.run_for(self.peace_at.since(Time::ZERO));
        sim.heal();
        sim.run_for(PEACE);
        sim.expect_all_ended();
        if self.shutdown.is_none() {
            self.close(&mut sim);
        }
        Report {
            violations: sim.violations().to_vec(),
            digest: sim.digest(),
            counters: sim.core().counters().clone(),
            sent_on_closed: sim.sent_on_closed(),
            trace: sim.trace().map(str::to_owned).collect(),
        }
    }

    /// In peace everything is whole again; then every worker is used once more.
    fn close(&self, sim: &mut Sim) {
        sim.expect_all_ready();
        sim.forget_placements();
        let slots = self.cost.slots as usize * (self.own + self.joined);
        for seed in 0..slots as u64 {
            sim.arrive(RequestSpec {
                max_tokens: 8,
                seed,
                ..RequestSpec::for_test()
            });
        }
        sim.run_for(CLOSING);
        sim.expect_all_ended();
        sim.expect_all_used();
    }
}

fn random_config(rng: &mut Rng) -> Config {
    Config {
        stream_credit: rng.pick(1_024, &[1, 4, 16, 64]),
        queue_cap: rng.pick(2_048, &[4]),
        restart_after_max: Duration::from_secs(2), // The liveness check waits 10 s in all.
        kill_after: rng.pick(Duration::from_secs(10), &[Duration::from_secs(3)]),
        resume_limit: rng.pick(3, &[1, 8]),
        start_limit: Duration::from_millis(1_500), // Some that are frozen while they load shall be past it.
        ..Config::default()
    }
}

fn random_cost(rng: &mut Rng) -> CostModel {
    CostModel {
        base: rng.millis(2, 12),
        slots: rng.small(1, 9),
        burst: rng.pick(1, &[1, 3]),
        chunk: rng.pick(256, &[16, 2_048]),
        oracle: Oracle {
            end_every: rng.pick(0, &[7, 61]),
            ..Oracle::for_test()
        },
        ..CostModel::for_test()
    }
}

/// No more load than what all slots together get through in the time of peace.
fn random_arrivals(rng: &mut Rng, slots: u64, length: u64) -> Vec<(Time, RequestSpec)> {
    let count = rng.between(3, (4 + 3 * slots).min(32));
    let quirks = rng.between(0, 60);
    (0..count)
        .map(|_| {
            let at = Time::from_micros(rng.between(0, length * 1_000));
            (at, random_request(rng, quirks))
        })
        .collect()
}

fn random_request(rng: &mut Rng, quirks: u64) -> RequestSpec {
    let max_tokens = rng.small(1, 64);
    let pace = match rng.between(0, 2) {
        _ if !rng.percent(quirks) => Pace::Quick,
        0 => Pace::Slow {
            tokens: rng.small(4, 32),
            every: rng.millis(5, 25),
        },
        _ => Pace::Pause {
            at: rng.small(0, max_tokens),
            length: rng.millis(100, 1_200),
        },
    };
    let hang_up = match rng.between(0, 3) {
        _ if !rng.percent(quirks) => HangUp::Never,
        0 => HangUp::AtToken(rng.small(1, max_tokens + 1)),
        _ => HangUp::After(rng.millis(0, 1_500)),
    };
    RequestSpec {
        prompt_tokens: rng.small(1, 100),
        max_tokens,
        min_tokens: rng.small(0, max_tokens / 2 + 1),
        ignore_eos: rng.percent(20),
        seed: rng.bits(),
        class: rng.pick(Class::Interactive, &[Class::Standard, Class::Offline]),
        useful_for: rng.percent(quirks / 2).then(|| rng.millis(50, 5_000)),
        pace,
        hang_up,
    }
}

/// A random choice of kinds, at a random rate; none outlasts the time of faults.
fn random_faults(rng: &mut Rng, processes: usize, length: u64) -> Vec<(Time, usize, Fault)> {
    let kinds = rng.bits();
    let count = rng.between(0, 14);
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = rng.between(0, length);
        let process = usize::try_from(rng.between(0, processes as u64)).unwrap_or(0);
        let kind = rng.between(0, 15);
        let left = Duration::from_millis(length - at);
        let span = rng.millis(20, 3_500).min(left);
        let fault = random_fault(rng, kind, span);
        if kinds >> kind & 1 == 1 {
            let micros = at * 1_000 + rng.between(0, 1_000);
            faults.push((Time::from_micros(micros), process, fault));
        }
    }
    faults.sort_by_key(|(at, ..)| *at);
    faults
}

/// Drawn apart from all else. Peace comes after the last one.
fn random_pauses(seed: Seed, length: u64) -> Vec<(Time, Duration)> {
    let mut rng = Rng::new(seed.0 ^ 0x0a05_e550);
    let count = if rng.percent(30) {
        rng.between(1, 4)
    } else {
        0
    };
    (0..count)
        .map(|_| {
            let at = rng.between(0, length);
            let span = rng.millis(20, 2_500);
            let left = Duration::from_millis(length - at);
            (Time::from_micros(at * 1_000), span.min(left))
        })
        .collect()
}

fn random_fault(rng: &mut Rng, kind: u64, span: Duration) -> Fault {
    match kind {
        0 => Fault::Cut,
        1 => Fault::CutAfter(rng.small(0, 60)),
        2 => Fault::LateUp(span),
        3 => Fault::LateDown(span),
        4 => Fault::LateBoth(span),
        5 => Fault::Signal(rng.pick(9, &[11, 15, 6])),
        6 => Fault::Exit(rng.pick(1, &[0])),
        7 => Fault::Freeze(span),
        8 => Fault::Hang,
        9 => Fault::Slow(rng.small(2, 12)),
        10 => Fault::Reconnect,
        11 => Fault::LinkFull(span),
        12 => Fault::RefuseNext(rng.small(1, 6)),
        _ => {
            let index = usize::try_from(rng.between(0, Evil::ALL.len() as u64)).unwrap_or(0);
            Fault::Evil(Evil::ALL.get(index).copied().unwrap_or(Evil::SeqGap))
        }
    }
}
