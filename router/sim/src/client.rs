//! Simulated clients: what they ask for, how quickly they read and when they hang up.

use std::time::Duration;

use slackwater_core::Class;

/// How a client reads its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Everything as it comes.
    Quick,
    /// A few tokens at a time.
    Slow {
        /// Tokens at a time.
        tokens: u32,
        /// Time between two reads.
        every: Duration,
    },
    /// Everything as it comes, but for one long pause.
    Pause {
        /// Output position of the pause.
        at: u32,
        /// Its length.
        length: Duration,
    },
}

/// When a client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangUp {
    /// Stays to the end.
    Never,
    /// After so many tokens.
    AtToken(u32),
    /// So long after its request.
    After(Duration),
}

/// A request to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpec {
    /// Prompt length; the first token is the request's own.
    pub prompt_tokens: u32,
    /// Most output tokens.
    pub max_tokens: u32,
    /// Output tokens before an end token.
    pub min_tokens: u32,
    /// Whether end tokens are ordinary ones.
    pub ignore_eos: bool,
    /// Seed of its tokens.
    pub seed: u64,
    /// Its class.
    pub class: Class,
    /// How long its answer is of use.
    pub useful_for: Option<Duration>,
    /// How it is read.
    pub pace: Pace,
    /// When its client goes away.
    pub hang_up: HangUp,
}

impl RequestSpec {
    /// A short chat.
    pub const fn for_test() -> Self {
        Self {
            prompt_tokens: 16,
            max_tokens: 32,
            min_tokens: 0,
            ignore_eos: false,
            seed: 1,
            class: Class::Interactive,
            useful_for: None,
            pace: Pace::Quick,
            hang_up: HangUp::Never,
        }
    }
}

/// A client's end of a session.
#[derive(Debug)]
pub struct Client {
    /// How it reads.
    pub pace: Pace,
    /// When it goes away.
    pub hang_up: HangUp,
    /// Tokens it was given.
    pub delivered: u32,
    /// Tokens it has read.
    pub taken: u32,
    /// A read is on the agenda.
    pub is_reading: bool,
    /// It went away or was told the end.
    pub is_done: bool,
}

impl Client {
    /// A client whose session has just begun.
    pub const fn new(spec: &RequestSpec) -> Self {
        Self {
            pace: spec.pace,
            hang_up: spec.hang_up,
            delivered: 0,
            taken: 0,
            is_reading: false,
            is_done: false,
        }
    }

    /// How long until it reads next, if it has something to read and is not at it.
    pub fn next_read(&mut self) -> Option<Duration> {
        if self.is_reading || self.is_done || self.taken >= self.delivered {
            return None;
        }
        self.is_reading = true;
        Some(match self.pace {
            Pace::Slow { every, .. } => every,
            Pace::Pause { at, length } if self.taken >= at => {
                self.pace = Pace::Quick;
                length
            }
            Pace::Quick | Pace::Pause { .. } => Duration::from_micros(50),
        })
    }

    /// Reads; gives the new position.
    pub fn read(&mut self) -> u32 {
        self.is_reading = false;
        let most = match self.pace {
            Pace::Slow { tokens, .. } => tokens,
            Pace::Quick | Pace::Pause { .. } => u32::MAX,
        };
        self.taken = self.taken.saturating_add(most).min(self.delivered);
        self.taken
    }

    /// Whether it goes away now.
    pub const fn is_fed_up(&self) -> bool {
        matches!(self.hang_up, HangUp::AtToken(tokens) if self.delivered >= tokens) && !self.is_done
    }
}
