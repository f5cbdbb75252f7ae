//! Virtual time: what is to happen, in order. Nothing passes by itself; time jumps to the next thing.

use std::collections::BTreeMap;

use slackwater_core::Time;

/// Things to come. Those of one moment come in the order in which they were put in.
#[derive(Debug)]
pub struct Agenda<T> {
    now: Time,
    entries: BTreeMap<(Time, u64), T>,
    sequence: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            now: Time::ZERO,
            entries: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// The moment that it is.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Puts something in. The past is now.
    pub fn put(&mut self, at: Time, entry: T) {
        self.entries
            .insert((at.max(self.now), self.sequence), entry);
        self.sequence += 1;
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Time> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    /// Jumps to the next thing and takes it out.
    pub fn pop(&mut self) -> Option<T> {
        let ((at, _), entry) = self.entries.pop_first()?;
        self.now = at;
        Some(entry)
    }

    /// Jumps to a moment before which nothing happens.
    pub fn jump(&mut self, at: Time) {
        self.now = self.now.max(at);
    }
}
