//! The core under the simulator: named scenarios, whole random runs by the seed, and the contract itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are not `in tests` for clippy"
)]

mod arbitrary;
mod contract;
mod contract_shaping;
mod contract_time;
mod determinism;
mod sim_credits;
mod sim_liveness;
mod sim_requests;
mod sim_seeds;
mod support;
