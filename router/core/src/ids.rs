//! Names of things. All are ours: what a client or a worker claims is never a key.

use std::fmt;

/// A request: 128 random bits, drawn by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A worker. An own child keeps its id over restarts; a worker that joins gets a new one for each link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

/// One connection of one worker. Compared for equality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Where a message came from and its place there. The core checks both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The worker that the link belongs to.
    pub worker: WorkerId,
    /// The link.
    pub epoch: Epoch,
    /// The message's sequence number on it, from 1.
    pub seq: u64,
}
