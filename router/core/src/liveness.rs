//! Whether a worker is alive, from what is heard of it: silence shows a freeze or a partition, a busy engine that does
//! not move shows a hang. Process death is no business of this file; the operating system says that.

use std::time::Duration;

use crate::action::FenceReason;
use crate::config::Config;
use crate::counters::SuspectReason;
use crate::ids::{Epoch, Origin, WorkerId};
use crate::scheduler::Scheduler;
use crate::steps::StepTimes;
use crate::time::Time;
use crate::timers::Timer;

/// Steps of usual length that a hang must outlast: one long step is no hang.
const HUNG_STEPS: u64 = 10;

/// What was heard on one link.
#[derive(Debug)]
pub(crate) struct Liveness {
    pub(crate) last_heard: Time,
    /// Silence passed the first threshold; any message ends it.
    pub(crate) silent: bool,
    progress: u64,
    busy: bool,
    /// When the engine last moved, or became busy.
    moved_at: Time,
    steps: StepTimes,
}

impl Liveness {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            last_heard: now,
            silent: false,
            progress: 0,
            busy: false,
            moved_at: now,
            steps: StepTimes::default(),
        }
    }

    pub(crate) fn heard(&mut self, now: Time) {
        self.last_heard = now;
        self.silent = false;
    }

    pub(crate) fn heartbeat(&mut self, progress: u64, busy: bool, now: Time) {
        if progress != self.progress || !self.busy {
            self.moved_at = now;
        }
        self.progress = progress;
        self.busy = busy;
    }

    /// A step that took this long has ended; 0 is a word of the IO thread and shows nothing of the engine.
    pub(crate) fn step(&mut self, step_micros: u64, now: Time) {
        if step_micros > 0 {
            self.steps.add(step_micros);
            self.moved_at = now;
        }
    }

    /// Nobody listened for this long: that is no silence of the worker, and no standing still.
    pub(crate) fn excuse(&mut self, absence: Duration) {
        self.last_heard = self.last_heard + absence;
        self.moved_at = self.moved_at + absence;
    }

    /// Whether it is silent for too long to get new work, whether or not the timer has fired yet.
    pub(crate) fn is_suspect(&self, config: &Config, now: Time) -> bool {
        self.silent || now.since(self.last_heard) >= config.suspect_after
    }

    /// When silence means the next thing.
    pub(crate) fn silence_due(&self, config: &Config) -> Time {
        let after = if self.silent {
            config.lost_after
        } else {
            config.suspect_after
        };
        self.last_heard + after
    }

    /// When standing still means a hang; never while idle.
    pub(crate) fn hung_due(&self, config: &Config) -> Option<Time> {
        let steps = Duration::from_micros(self.steps.p99_micros().saturating_mul(HUNG_STEPS));
        self.busy
            .then(|| self.moved_at + config.hung_after.max(steps))
    }
}

impl Scheduler {
    /// Sets a worker's timers by what is known of its link now.
    pub(crate) fn watch(&mut self, worker_id: WorkerId) {
        let link = self
            .workers
            .get(&worker_id)
            .and_then(|worker| worker.link.as_ref());
        let silence = link.map(|link| link.liveness.silence_due(&self.config));
        let hung = link.and_then(|link| link.liveness.hung_due(&self.config));
        for (timer, due) in [
            (Timer::Silence(worker_id), silence),
            (Timer::Hung(worker_id), hung),
        ] {
            match due {
                Some(at) => self.timers.set(timer, at),
                None => self.timers.stop(timer),
            }
        }
    }

    pub(crate) fn heartbeat(&mut self, origin: Origin, progress: u64, busy: bool, now: Time) {
        if !self.accept(origin, now) {
            return;
        }
        if let Some(link) = self.link_mut(origin.worker, origin.epoch) {
            link.liveness.heartbeat(progress, busy, now);
            link.no_room = false; // A full inbox is asked again at this pace.
        }
        self.watch(origin.worker);
    }

    /// A link's silence has passed a threshold: first suspect, then lost.
    pub(crate) fn silence(&mut self, worker_id: WorkerId, now: Time) {
        let lost_after = self.config.lost_after;
        let Some(link) = self
            .workers
            .get_mut(&worker_id)
            .and_then(|worker| worker.link.as_mut())
        else {
            return;
        };
        if !link.liveness.silent {
            link.liveness.silent = true;
            self.counters.workers_suspect.add(SuspectReason::Silent);
        }
        if now.since(link.liveness.last_heard) >= lost_after {
            self.fence(worker_id, FenceReason::Silent, now);
        } else {
            self.watch(worker_id);
        }
    }

    /// A busy engine has stood still for too long. It never ends by itself.
    pub(crate) fn hung(&mut self, worker_id: WorkerId, now: Time) {
        self.fence(worker_id, FenceReason::Hung, now);
        self.restart(worker_id, true, now);
    }

    /// An own child has not come back: whatever holds it up holds its memory too.
    pub(crate) fn kill(&mut self, worker_id: WorkerId, now: Time) {
        self.restart(worker_id, true, now);
    }

    pub(crate) fn link_full(&mut self, worker_id: WorkerId, epoch: Epoch, full: bool) {
        let Some(link) = self.link_mut(worker_id, epoch) else {
            self.counters.stale_messages += 1;
            return;
        };
        let begins = full && !link.over_mark;
        link.over_mark = full;
        if begins {
            self.counters.link_full += 1;
            self.counters.workers_suspect.add(SuspectReason::LinkFull);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1_000)
    }

    #[test]
    fn silence_is_suspect_first_and_any_message_ends_it() {
        let config = Config::default();
        let mut liveness = Liveness::new(at(0));
        assert_eq!(liveness.silence_due(&config), at(600));
        assert!(!liveness.is_suspect(&config, at(599)));
        assert!(liveness.is_suspect(&config, at(600)));
        liveness.silent = true;
        assert_eq!(liveness.silence_due(&config), at(1_000));
        liveness.heard(at(700));
        assert!(!liveness.is_suspect(&config, at(700)));
        assert_eq!(liveness.silence_due(&config), at(1_300));
    }

    #[test]
    fn only_a_busy_engine_can_hang_and_long_steps_get_longer() {
        let config = Config::default();
        let mut liveness = Liveness::new(at(0));
        liveness.heartbeat(0, false, at(200));
        assert_eq!(liveness.hung_due(&config), None);
        liveness.heartbeat(0, true, at(400));
        assert_eq!(liveness.hung_due(&config), Some(at(2_400)));
        liveness.heartbeat(0, true, at(600));
        assert_eq!(liveness.hung_due(&config), Some(at(2_400)));
        liveness.heartbeat(1, true, at(800));
        assert_eq!(liveness.hung_due(&config), Some(at(2_800)));
        liveness.step(0, at(900));
        assert_eq!(liveness.hung_due(&config), Some(at(2_800)));
        liveness.step(400_000, at(1_000));
        assert_eq!(liveness.hung_due(&config), Some(at(5_000)));
    }
}
