//! What a request has said so far, as far as its penalties and forbidden words ask for it.

use std::collections::HashMap;

/// How often one token was seen. In the prompt only: `outputs` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: u32,
    pub(super) outputs: u32,
}

/// Counts by token in the order of first sight, and the end of the output. Each part is kept only where it is needed, so
/// the memory is bounded by the number of distinct tokens.
#[derive(Debug, Default)]
pub(super) struct History {
    counts: bool,
    tail_length: usize,
    seen: Vec<Seen>,
    places: HashMap<u32, usize>,
    tail: Vec<u32>,
    outputs: u32,
}

impl History {
    /// With counts or without, and with the last `tail_length` output tokens.
    pub(super) fn new(counts: bool, tail_length: usize) -> Self {
        Self {
            counts,
            tail_length,
            ..Self::default()
        }
    }

    pub(super) fn add_prompt(&mut self, ids: &[u32]) {
        if self.counts {
            for id in ids {
                self.entry(*id);
            }
        }
    }

    pub(super) fn add_output(&mut self, ids: &[u32]) {
        self.outputs = self
            .outputs
            .saturating_add(u32::try_from(ids.len()).unwrap_or(u32::MAX));
        if self.counts {
            for id in ids {
                self.entry(*id).outputs += 1;
            }
        }
        self.tail
            .extend_from_slice(&ids[ids.len() - ids.len().min(self.tail_length)..]);
        let surplus = self.tail.len().saturating_sub(self.tail_length);
        self.tail.drain(..surplus);
    }

    /// Output tokens so far.
    pub(super) fn outputs(&self) -> u32 {
        self.outputs
    }

    /// Every token that was seen.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// How often a token is in the output, and whether it was seen at all.
    pub(super) fn of(&self, id: u32) -> (u32, bool) {
        match self.places.get(&id) {
            Some(place) => (self.seen[*place].outputs, true),
            None => (0, false),
        }
    }

    /// Whether the output, followed by the drafts, ends in `words`.
    pub(super) fn ends_in(&self, drafts: &[u32], words: &[u32]) -> bool {
        let from_drafts = words.len().min(drafts.len());
        let (before, after) = words.split_at(words.len() - from_drafts);
        drafts.ends_with(after) && self.tail.ends_with(before)
    }

    fn entry(&mut self, id: u32) -> &mut Seen {
        let next = self.seen.len();
        let place = *self.places.entry(id).or_insert(next);
        if place == next {
            self.seen.push(Seen { id, outputs: 0 });
        }
        &mut self.seen[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_tail_are_those_of_the_whole_output() {
        let mut history = History::new(true, 3);
        history.add_prompt(&[5, 6, 5]);
        history.add_output(&[7, 5, 7]);
        history.add_output(&[8]);
        assert_eq!(history.outputs(), 4);
        let seen: Vec<_> = history.seen().iter().map(|s| (s.id, s.outputs)).collect();
        assert_eq!(seen, [(5, 1), (6, 0), (7, 2), (8, 1)]);
        assert_eq!(history.tail, [5, 7, 8]);
        assert_eq!(history.of(6), (0, true));
        assert_eq!(history.of(9), (0, false));
    }

    #[test]
    fn words_end_in_output_and_drafts_together() {
        let mut history = History::new(false, 2);
        history.add_output(&[1, 2, 3]);
        assert!(history.seen().is_empty());
        assert!(history.ends_in(&[], &[2, 3]) && history.ends_in(&[], &[]));
        assert!(history.ends_in(&[4], &[3, 4]) && history.ends_in(&[4, 5], &[5]));
        assert!(!history.ends_in(&[4], &[2, 3]) && !history.ends_in(&[4], &[2, 4]));
    }
}
