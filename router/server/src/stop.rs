//! Stop strings in streamed text. Pure: the HTTP session uses it, and so does the worker's in-process API through the native
//! module.
//!
//! The match that is complete first wins; of several complete at the same character, the longest. So the result does not
//! depend on how the text was cut into pieces. One automaton for each string (Knuth, Morris and Pratt) tells both whether
//! it is complete and how much of it the text's end could be, at a cost linear in the text.

use thiserror::Error;

/// A list of stop strings that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StopError {
    /// It would stop everything.
    #[error("a stop string is empty")]
    Empty,
}

/// What became of a piece of text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passed {
    /// Text that can be shown: it is before every possible stop.
    pub text: String,
    /// Whether a stop string is complete. Nothing comes after it.
    pub stopped: bool,
}

/// Looks for stop strings in text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that could be the beginning of a stop string.
    held: String,
    stopped: bool,
    /// Whether the stop string itself is text.
    shows_stop: bool,
}

impl StopMatcher {
    /// A matcher for these strings; with none, all text passes.
    ///
    /// # Errors
    /// [`StopError::Empty`] for an empty string.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, StopError> {
        if stops.iter().any(|stop| stop.as_ref().is_empty()) {
            return Err(StopError::Empty);
        }
        Ok(Self {
            patterns: stops
                .iter()
                .map(|stop| Pattern::new(stop.as_ref()))
                .collect(),
            held: String::new(),
            stopped: false,
            shows_stop: false,
        })
    }

    /// The same matcher, but the stop string that ends the text is its last part.
    #[must_use]
    pub const fn showing_stop(mut self) -> Self {
        self.shows_stop = true;
        self
    }

    /// Takes the next piece of text, and gives what can be shown.
    pub fn push(&mut self, piece: &str) -> Passed {
        if self.stopped {
            return Passed {
                text: String::new(),
                stopped: true,
            };
        }
        let mut end = self.held.len();
        self.held.push_str(piece);
        for byte in piece.bytes() {
            end += 1;
            let complete = self
                .patterns
                .iter_mut()
                .filter_map(|pattern| pattern.step(byte))
                .max();
            if let Some(length) = complete {
                self.stopped = true;
                let hidden = if self.shows_stop { 0 } else { length };
                self.held.truncate(end.saturating_sub(hidden));
                return Passed {
                    text: std::mem::take(&mut self.held),
                    stopped: true,
                };
            }
        }
        let longest = self.patterns.iter().map(|pattern| pattern.matched).max();
        let kept = self
            .held
            .split_off(self.held.len().saturating_sub(longest.unwrap_or(0)));
        Passed {
            text: std::mem::replace(&mut self.held, kept),
            stopped: false,
        }
    }

    /// Lets a piece through without looking for a stop in it; one that began before it is forgotten.
    pub fn pass(&mut self, piece: &str) -> Passed {
        if self.stopped {
            return self.push("");
        }
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        Passed {
            text,
            stopped: false,
        }
    }

    /// The text is at its end: what was held back is text after all.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

/// One stop string and how much of it the text's end is.
#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a match, the longest shorter one that is still a match when the next byte differs.
    shorter: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut pattern = Self {
            shorter: vec![0; bytes.len() + 1],
            bytes,
            matched: 0,
        };
        // The string is matched against itself from its second byte on: what matches so far is the border.
        for length in 2..=pattern.bytes.len() {
            if let Some(byte) = pattern.bytes.get(length - 1).copied() {
                pattern.advance(byte);
            }
            if let Some(border) = pattern.shorter.get_mut(length) {
                *border = pattern.matched;
            }
        }
        pattern.matched = 0;
        pattern
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.bytes.get(self.matched) != Some(&byte) {
            self.matched = self.shorter.get(self.matched).copied().unwrap_or(0);
        }
        if self.bytes.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
    }

    /// Takes a byte; the string's length if it is complete.
    fn step(&mut self, byte: u8) -> Option<usize> {
        self.advance(byte);
        (self.matched == self.bytes.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks at each prefix of the whole text, shortest first.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for (at, character) in text.char_indices() {
            let head = &text[..at + character.len_utf8()];
            let start = stops
                .iter()
                .filter(|stop| head.ends_with(stop.as_str()))
                .map(|stop| head.len() - stop.len())
                .min();
            if let Some(start) = start {
                return (text[..start].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn streamed(pieces: &[&str], stops: &[String]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            text.push_str(&passed.text);
            if passed.stopped {
                return (text, true);
            }
        }
        (text + &matcher.finish(), false)
    }

    fn pieces_of<'t>(text: &'t str, cuts: &[usize]) -> Vec<&'t str> {
        let mut borders: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        borders.retain(|at| cuts.contains(&(at % 7)));
        borders.push(text.len());
        let mut from = 0;
        let mut pieces = Vec::new();
        for to in borders {
            pieces.push(&text[from..to]);
            from = to;
        }
        pieces
    }

    proptest! {
        #[test]
        fn any_split_gives_what_a_naive_search_gives(
            text in "[abé]{0,40}",
            stops in proptest::collection::vec("[abé]{1,6}", 0..4),
            cuts in proptest::collection::vec(0usize..7, 0..7),
        ) {
            prop_assert_eq!(streamed(&pieces_of(&text, &cuts), &stops), naive(&text, &stops));
        }

        #[test]
        fn no_more_is_held_than_could_begin_a_stop(text in "[ab]{0,30}", stop in "[ab]{1,8}") {
            let mut matcher = StopMatcher::new(&[&stop]).unwrap();
            let passed = matcher.push(&text);
            if !passed.stopped {
                let longest = (0..stop.len()).rev().find(|length| text.ends_with(&stop[..*length]));
                prop_assert_eq!(Some(text.len() - passed.text.len()), longest);
            }
        }
    }

    #[test]
    fn the_first_complete_stop_wins_and_ends_the_text() {
        let stops = ["abcd".to_owned(), "bc".to_owned()];
        assert_eq!(streamed(&["xab", "cd"], &stops), ("xa".to_owned(), true));
        let mut matcher = StopMatcher::new(&["é!"]).unwrap();
        assert_eq!(matcher.push("né").text, "n");
        let passed = matcher.push("!more");
        assert_eq!((passed.text.as_str(), passed.stopped), ("", true));
        assert_eq!(matcher.push("more").text, "");
    }

    #[test]
    fn the_stop_itself_is_shown_where_that_is_asked_for() {
        let mut matcher = StopMatcher::new(&["bc"]).unwrap().showing_stop();
        assert_eq!(matcher.push("ab").text, "a");
        let passed = matcher.push("cd");
        assert_eq!((passed.text.as_str(), passed.stopped), ("bc", true));
    }

    #[test]
    fn text_that_passes_unmatched_forgets_what_began_in_it() {
        let mut matcher = StopMatcher::new(&["ab"]).unwrap();
        assert_eq!(matcher.pass("abxa").text, "abxa");
        assert_eq!(matcher.push("b").text, "b");
        assert_eq!(StopMatcher::new(&[""]).unwrap_err(), StopError::Empty);
    }
}
