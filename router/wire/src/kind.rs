//! The one-byte kind frame: which body follows. Numbers are part of the wire and never reused.

use crate::error::WireError;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $byte:literal,)*) => {
        /// The kind of a message, as its first frame says it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $byte,)* }

        impl Kind {
            /// All kinds, in the order of their bytes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Name of the message, equal to its struct's name in both languages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }

        impl TryFrom<u8> for Kind {
            type Error = WireError;

            fn try_from(byte: u8) -> Result<Self, WireError> {
                match byte { $($byte => Ok(Self::$name),)* _ => Err(WireError::UnknownKind { byte }) }
            }
        }
    };
}

kinds! {
    /// Worker to router: first message on a link.
    Hello = 1,
    /// Router to worker: the answer to `Hello`.
    Welcome = 2,
    /// Worker to router: what the worker is and can.
    Ready = 3,
    /// Router to worker: run this request, perhaps from the middle.
    Submit = 4,
    /// Worker to router: the `Submit` was taken.
    Accepted = 5,
    /// Worker to router: the `Submit` was not taken.
    Refused = 6,
    /// Worker to router: one engine step's results for all its requests.
    StepOutputs = 7,
    /// Router to worker: a stream may go on up to this output position.
    Credit = 8,
    /// Router to worker: stop this request.
    Cancel = 9,
    /// Worker to router: alive, and how far the engine is.
    Heartbeat = 10,
    /// Router to worker: alive.
    RouterHeartbeat = 11,
    /// Worker to router: cumulative metrics and the state of the queue.
    WorkerStats = 12,
    /// Either way: the last message on a link, and why it ends.
    Bye = 13,
    /// Router to worker: say what the prefix cache holds.
    AskBlocks = 14,
    /// Worker to router: blocks that the prefix cache can find from now on.
    BlocksStored = 15,
    /// Worker to router: blocks that it cannot find any more.
    BlocksRemoved = 16,
    /// Worker to router: it is empty.
    BlocksCleared = 17,
}
