//! What can go wrong. A fault names a process by its index; where that has no link or no life, nothing happens.

use std::time::Duration;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The link ends now; what is under way is lost.
    Cut,
    /// The link ends at the message after so many, either way.
    CutAfter(u32),
    /// What the worker says arrives late, in order.
    LateUp(Duration),
    /// What the router says arrives late, in order.
    LateDown(Duration),
    /// A partition: both.
    LateBoth(Duration),
    /// The process is ended by a signal.
    Signal(i32),
    /// The process ends with a code.
    Exit(i32),
    /// The process stands still and then goes on as if nothing had been.
    Freeze(Duration),
    /// The engine stands still; the IO thread lives.
    Hang,
    /// Steps take so many times as long from now on.
    Slow(u32),
    /// The worker opens a new link without closing the old one.
    Reconnect,
    /// The router's queue to the worker is over its mark for so long.
    LinkFull(Duration),
    /// The worker has no room for the next so many requests.
    RefuseNext(u32),
    /// The worker breaks a rule once, with its next step.
    Evil(Evil),
}

/// How a worker breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evil {
    /// Leaves out a sequence number.
    SeqGap,
    /// Says one twice.
    SeqRepeat,
    /// A token that the model does not have.
    TokenRange,
    /// Tokens for a later position than the next.
    StartAhead,
    /// Tokens for a position that the client has already.
    StartBehind,
    /// Tokens of another attempt, right in all else.
    ForeignAttempt,
    /// Tokens for a request that another worker has.
    ForeignRequest,
    /// Tokens for a request that nobody has.
    UnknownRequest,
    /// More tokens than the stream's credit.
    OverCredit,
    /// Says that a request was cancelled when nobody asked.
    CancelledUnasked,
    /// Says that the length limit was reached when it was not.
    LengthEarly,
    /// Logprobs that nobody asked for.
    LogprobsUnasked,
    /// READY a second time.
    ReadyTwice,
    /// Bytes that the codec refuses.
    Garbage,
    /// Takes back a request that has output.
    RefuseLate,
}

impl Evil {
    /// All ways.
    pub const ALL: [Self; 15] = [
        Self::SeqGap,
        Self::SeqRepeat,
        Self::TokenRange,
        Self::StartAhead,
        Self::StartBehind,
        Self::ForeignAttempt,
        Self::ForeignRequest,
        Self::UnknownRequest,
        Self::OverCredit,
        Self::CancelledUnasked,
        Self::LengthEarly,
        Self::LogprobsUnasked,
        Self::ReadyTwice,
        Self::Garbage,
        Self::RefuseLate,
    ];
}
