//! What the core is told once, at its start.

use std::time::Duration;

/// Settings of the core. Every time limit is a value here, so that tests set it and assert counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Output tokens that a worker may be ahead of what the client has taken.
    pub stream_credit: u32,
    /// Waiting requests of one class before more are refused.
    pub queue_cap: usize,
    /// How long a request is held while no worker is there.
    pub no_worker_wait: Duration,
    /// Silence after which a worker gets no new work.
    pub suspect_after: Duration,
    /// Silence after which a worker is given up.
    pub lost_after: Duration,
    /// Silence after which an own child that is still alive is killed.
    pub kill_after: Duration,
    /// Least time of standing still while busy that counts as hung.
    pub hung_after: Duration,
    /// Lateness of a timer past which the router itself stood still, so that the time says nothing about workers.
    pub stall_after: Duration,
    /// From an own child's start to its READY; one that takes longer is killed and started again.
    pub start_limit: Duration,
    /// Resumes in a row without a new token before a request fails.
    pub resume_limit: u32,
    /// First delay of a restart; doubled for deaths with evidence.
    pub restart_after: Duration,
    /// Longest delay of a restart.
    pub restart_after_max: Duration,
    /// Time of readiness after which the delay starts again from the first.
    pub restart_reset: Duration,
    /// What a refused client is told to wait before it tries again.
    pub retry_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_credit: 1_024,
            queue_cap: 2_048,
            no_worker_wait: Duration::from_secs(5),
            suspect_after: Duration::from_millis(600),
            lost_after: Duration::from_secs(1),
            kill_after: Duration::from_secs(10),
            hung_after: Duration::from_secs(2),
            stall_after: Duration::from_millis(100),
            start_limit: Duration::from_mins(5),
            resume_limit: 3,
            restart_after: Duration::from_millis(500),
            restart_after_max: Duration::from_secs(30),
            restart_reset: Duration::from_secs(10),
            retry_after: Duration::from_secs(1),
        }
    }
}
