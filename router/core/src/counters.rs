//! What the core has seen and decided, counted since its start. The server renders it; nothing here decides anything.

use std::collections::BTreeMap;

use crate::action::FenceReason;
use crate::event::GoneCause;

/// Counts by reason. A reason that never came has the count 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally<R>(BTreeMap<R, u64>);

impl<R> Default for Tally<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R: Ord + Copy> Tally<R> {
    /// How often this reason came.
    pub fn get(&self, reason: R) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// How often any reason came.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The reasons that came, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (R, u64)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }

    pub(crate) fn add(&mut self, reason: R) {
        *self.0.entry(reason).or_default() += 1;
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$item])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

reasons! {
    /// Why a worker's link ended, and so why its requests were resumed.
    LostReason {
        /// The connection ended.
        LinkClosed = "link_closed",
        /// The worker said Bye.
        Bye = "bye",
        /// The process ended with a code.
        Exited = "exited",
        /// The process was ended by a signal.
        Signalled = "signalled",
        /// Nothing was heard for too long.
        Silent = "silent",
        /// The engine stood still.
        Hung = "hung",
        /// It broke the link's rules.
        Violation = "violation",
        /// A newer link took its place.
        Replaced = "replaced",
    }
}

reasons! {
    /// Why a worker got no new work for a while.
    SuspectReason {
        /// Nothing was heard from it.
        Silent = "silent",
        /// Its link's queue passed the mark.
        LinkFull = "link_full",
    }
}

reasons! {
    /// Which rule of the link was broken.
    ViolationReason {
        /// The codec refused the message.
        Codec = "codec",
        /// A sequence number was left out or came twice.
        Sequence = "sequence",
        /// READY was not the link's first message, or came twice.
        Ready = "ready",
        /// A token id that the worker's model does not have.
        TokenRange = "token_range",
        /// Tokens past the stream's credit.
        Credit = "credit",
        /// Tokens at another position than the next one.
        Start = "start",
        /// An end that cannot be.
        Finish = "finish",
        /// Logprobs that were not asked for, or not all that were.
        Logprobs = "logprobs",
        /// A refusal after the first output.
        Refusal = "refusal",
    }
}

/// Everything that is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Requests that came.
    pub arrivals: u64,
    /// Arrivals under an id that lives already; dropped.
    pub duplicate_arrivals: u64,
    /// Messages and parts of messages from closed links, old attempts or about unknown requests; dropped.
    pub stale_messages: u64,
    /// Tokens that a worker sent for a request that had ended here.
    pub tokens_past_end: u64,
    /// Tokens handed to sessions.
    pub tokens_delivered: u64,
    /// Placements on a worker that lost the request to another.
    pub resumes: Tally<LostReason>,
    /// Resumes on a worker with other numerics than the one before.
    pub resumes_inexact: u64,
    /// Tokens, prompt and history, that resumes had computed again.
    pub tokens_recomputed: u64,
    /// Refusals that sent a request elsewhere.
    pub refused_elsewhere: u64,
    /// Workers that became suspect.
    pub workers_suspect: Tally<SuspectReason>,
    /// Links that ended.
    pub workers_lost: Tally<LostReason>,
    /// Own children that were told to start again.
    pub workers_restarted: u64,
    /// Broken rules.
    pub protocol_violations: Tally<ViolationReason>,
    /// Links whose queue passed the mark; credits should have prevented each.
    pub link_full: u64,
}

impl From<FenceReason> for LostReason {
    fn from(reason: FenceReason) -> Self {
        match reason {
            FenceReason::Silent => Self::Silent,
            FenceReason::Hung => Self::Hung,
            FenceReason::Violation => Self::Violation,
            FenceReason::Replaced => Self::Replaced,
        }
    }
}

impl From<GoneCause> for LostReason {
    fn from(cause: GoneCause) -> Self {
        match cause {
            GoneCause::LinkClosed => Self::LinkClosed,
            GoneCause::Bye => Self::Bye,
            GoneCause::Exited(_) => Self::Exited,
            GoneCause::Signalled(_) => Self::Signalled,
        }
    }
}
