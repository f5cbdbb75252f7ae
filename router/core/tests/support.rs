//! What the scenarios share.

use std::time::Duration;

use slackwater_core::{Ending, RequestId};
use slackwater_sim::{CostModel, End, Fault, Outcome, RequestSpec, Seed, Sim, Violation};

/// A simulation with own children that cost little.
pub(crate) fn sim(seed: u64, workers: usize) -> Sim {
    Sim::new(Seed(seed)).with_workers(workers, &CostModel::for_test())
}

/// A request for so many tokens.
pub(crate) fn tokens(max_tokens: u32) -> RequestSpec {
    RequestSpec {
        max_tokens,
        ..RequestSpec::for_test()
    }
}

/// Runs until the request has so many tokens.
pub(crate) fn run_to_token(sim: &mut Sim, request: RequestId, count: usize) {
    sim.run_until(|sim| sim.delivered(request).len() >= count);
}

/// What a request must come to: the oracle's tokens, up to its length.
#[allow(
    clippy::unnecessary_wraps,
    reason = "compared with an outcome that may be missing"
)]
pub(crate) fn whole(sim: &Sim, request: RequestId, submits: u32) -> Option<Outcome> {
    Some(Outcome {
        tokens: sim.oracle_tokens(request),
        end: Some(End::Ended(Ending::Length)),
        submits,
    })
}

/// Strikes the process that has the request.
pub(crate) fn strike_worker_of(sim: &mut Sim, request: RequestId, fault: Fault) -> usize {
    let worker = sim.worker_of(request).unwrap();
    let process = sim.process_of(worker).unwrap();
    sim.inject(process, fault);
    process
}

pub(crate) const NONE: [Violation; 0] = [];

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
