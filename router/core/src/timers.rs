//! All the moments that the core waits for: an enum and a table, no tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::{RequestId, WorkerId};
use crate::time::Time;

/// What a moment is for. Each has at most one moment at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The next threshold of a live link's silence: suspect, then lost.
    Silence(WorkerId),
    /// A busy engine that has not moved until then is hung.
    Hung(WorkerId),
    /// An own child without a link that is not back by then is killed.
    Kill(WorkerId),
    /// An own child that was started and is not READY by then is killed.
    Start(WorkerId),
    /// A request that no worker ever had is useless from then on.
    Expiry(RequestId),
    /// Waiting requests that no live worker can take have waited long enough.
    NoWorker,
}

/// The table: by timer to move one, by time to find the next.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeMap<Timer, Time>,
    order: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// Sets a timer, or moves it.
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        if let Some(old) = self.due.insert(timer, at) {
            self.order.remove(&(old, timer));
        }
        self.order.insert((at, timer));
    }

    /// Sets a timer unless it is due earlier anyway.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: Time) {
        if self.due.get(&timer).is_none_or(|due| at < *due) {
            self.set(timer, at);
        }
    }

    /// Puts the timers that this chooses off.
    pub(crate) fn put_off(&mut self, by: Duration, is_meant: impl Fn(Timer) -> bool) {
        let meant: Vec<_> = self
            .due
            .iter()
            .filter(|(timer, _)| is_meant(**timer))
            .map(|(timer, at)| (*timer, *at + by))
            .collect();
        for (timer, at) in meant {
            self.set(timer, at);
        }
    }

    /// Stops a timer if it runs.
    pub(crate) fn stop(&mut self, timer: Timer) {
        if let Some(at) = self.due.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// The next moment of all.
    pub(crate) fn earliest(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out one timer that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let (_, timer) = *self.order.first().filter(|(at, _)| *at <= now)?;
        self.stop(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    #[test]
    fn a_moved_timer_fires_once_and_at_its_new_moment() {
        let mut timers = Timers::default();
        timers.set(Timer::NoWorker, at(10));
        timers.set(Timer::Hung(WorkerId(1)), at(20));
        timers.set(Timer::NoWorker, at(30));
        assert_eq!(timers.earliest(), Some(at(20)));
        assert_eq!(timers.pop_due(at(30)), Some(Timer::Hung(WorkerId(1))));
        assert_eq!(timers.pop_due(at(30)), Some(Timer::NoWorker));
        assert_eq!(timers.pop_due(at(99)), None);
        assert_eq!(timers.earliest(), None);
    }

    #[test]
    fn only_the_timers_that_are_meant_are_put_off() {
        let mut timers = Timers::default();
        timers.set(Timer::NoWorker, at(10));
        timers.set(Timer::Kill(WorkerId(1)), at(10));
        timers.put_off(Duration::from_micros(5), |timer| timer != Timer::NoWorker);
        assert_eq!(timers.pop_due(at(14)), Some(Timer::NoWorker));
        assert_eq!(timers.pop_due(at(14)), None);
        assert_eq!(timers.pop_due(at(15)), Some(Timer::Kill(WorkerId(1))));
    }

    #[test]
    fn nothing_fires_early_and_a_stopped_timer_never() {
        let mut timers = Timers::default();
        timers.set(Timer::Silence(WorkerId(1)), at(10));
        assert_eq!(timers.pop_due(at(9)), None);
        timers.set_earlier(Timer::Silence(WorkerId(1)), at(15));
        assert_eq!(timers.earliest(), Some(at(10)));
        timers.stop(Timer::Silence(WorkerId(1)));
        assert_eq!(timers.pop_due(at(99)), None);
    }
}
