//! When an own child that died is started again: soon, and ever later for one that keeps dying by its own fault.

use std::time::Duration;

use crate::action::Action;
use crate::config::Config;
use crate::event::GoneCause;
use crate::ids::WorkerId;
use crate::scheduler::Scheduler;
use crate::time::Time;
use crate::timers::Timer;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// The delay before the next start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(config: &Config) -> Self {
        Self {
            next: config.restart_after,
        }
    }

    /// The child was ready for long enough: what it did before is forgotten.
    pub(crate) const fn reset(&mut self, config: &Config) {
        self.next = config.restart_after;
    }

    /// The delay for this death. Only evidence against the child makes the next one longer.
    pub(crate) fn death(&mut self, evidence: bool, config: &Config) -> Duration {
        let after = self.next;
        if evidence {
            self.next = after.saturating_mul(2).min(config.restart_after_max);
        }
        after
    }
}

/// Whether a death speaks against the child itself. A plain kill or a clean end comes from outside.
pub(crate) const fn is_evidence(cause: GoneCause) -> bool {
    match cause {
        GoneCause::Exited(code) => code != 0,
        GoneCause::Signalled(signal) => signal != SIGKILL && signal != SIGTERM,
        GoneCause::LinkClosed | GoneCause::Bye => false,
    }
}

impl Scheduler {
    /// Asks for an own child's next start, once for each death. In a drain too, as long as there is a request that may
    /// need it.
    pub(crate) fn restart(&mut self, worker_id: WorkerId, evidence: bool, now: Time) {
        let Some(worker) = self.workers.get_mut(&worker_id) else {
            return;
        };
        self.timers.stop(Timer::Kill(worker_id));
        self.timers.stop(Timer::Start(worker_id));
        let is_needed = !self.draining || !self.requests.is_empty();
        if !is_needed || !worker.own {
            return;
        }
        let after = worker.backoff.death(evidence, &self.config);
        worker.starts_at = Some(now + after);
        self.counters.workers_restarted += 1;
        self.actions.push_back(Action::Restart {
            worker: worker_id,
            after,
        });
    }

    /// An own child's process has been started.
    pub(crate) fn worker_started(&mut self, worker_id: WorkerId, now: Time) {
        let at = now + self.config.start_limit;
        self.timers.set(Timer::Start(worker_id), at);
    }

    /// An own child was started long ago and has not said READY: whatever it waits for does not come.
    pub(crate) fn never_ready(&mut self, worker_id: WorkerId, now: Time) {
        // Maybe nothing at all was heard of it so far: only own children are started by us.
        let worker = self.known_worker(worker_id, true);
        if worker.link.is_none() {
            self.restart(worker_id, true, now);
        }
    }

    /// An own child's process has ended; its link, if it had one, is over already.
    pub(crate) fn process_ended(&mut self, worker_id: WorkerId, cause: GoneCause, now: Time) {
        // A child may die before its first READY: only own children have processes that we see end.
        let worker = self.known_worker(worker_id, true);
        let is_being_replaced = worker.starts_at.is_some_and(|at| now < at);
        if !is_being_replaced {
            self.restart(worker_id, is_evidence(cause), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deaths_with_evidence_make_the_delay_longer() {
        let config = Config {
            restart_after_max: Duration::from_secs(2),
            ..Config::default()
        };
        let mut backoff = Backoff::new(&config);
        let deaths = [false, true, false, true, true, true];
        let delays: Vec<u128> = deaths
            .iter()
            .map(|evidence| backoff.death(*evidence, &config).as_millis())
            .collect();
        assert_eq!(delays, [500, 500, 1_000, 1_000, 2_000, 2_000]);
        backoff.reset(&config);
        assert_eq!(backoff.death(false, &config).as_millis(), 500);
    }

    #[test]
    fn a_plain_kill_a_clean_end_and_a_lost_link_are_no_evidence() {
        let innocent = [
            GoneCause::Exited(0),
            GoneCause::Signalled(9),
            GoneCause::Signalled(15),
            GoneCause::LinkClosed,
            GoneCause::Bye,
        ];
        assert!(!innocent.into_iter().any(is_evidence));
        assert!(
            [GoneCause::Exited(1), GoneCause::Signalled(11)]
                .into_iter()
                .all(is_evidence)
        );
    }
}
