//! Simulated links: whole and in order until they are cut, and then what is under way is lost with them.

use std::time::Duration;

use slackwater_core::{Capabilities, Epoch, Output, Placement, Refusal, RequestId, Time, WorkerId};

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub enum Up {
    /// It can take work.
    Ready(Capabilities),
    /// It has taken a request.
    Accepted(RequestId, u32),
    /// It has not.
    Refused(RequestId, u32, Refusal),
    /// A step has ended, or a word outside one.
    Outputs(u64, Vec<Output>),
    /// Alive.
    Heartbeat {
        /// Safepoints passed.
        progress: u64,
        /// Whether it has work.
        busy: bool,
    },
    /// Figures.
    Stats,
    /// It ends in order.
    Bye,
    /// Bytes that the codec refuses.
    Garbage,
    /// The end of what it said.
    Closed,
}

/// What the router says.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// Run this.
    Submit(Box<Placement>),
    /// Stop this.
    Cancel(RequestId, u32),
    /// Go on up to here.
    Credit(RequestId, u32, u32),
    /// Alive.
    Heartbeat,
    /// Finish and end.
    Drain,
    /// The end of what it said.
    Closed,
}

/// One direction of a link. Later messages never arrive before earlier ones.
#[derive(Debug, Clone, Copy)]
pub struct Pipe {
    latency: Duration,
    /// Nothing arrives before this moment.
    pub stalled_until: Time,
    last: Time,
}

impl Pipe {
    const fn new(latency: Duration) -> Self {
        Self {
            latency,
            stalled_until: Time::ZERO,
            last: Time::ZERO,
        }
    }

    /// When something that is sent now arrives.
    pub fn arrival(&mut self, now: Time) -> Time {
        self.last = (now + self.latency).max(self.stalled_until).max(self.last);
        self.last
    }
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Index of the process at its end.
    pub process: usize,
    /// Name that the router knows it by.
    pub worker: WorkerId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Worker to router.
    pub up: Pipe,
    /// Router to worker.
    pub down: Pipe,
    /// The router has not closed it and not seen its end.
    pub router_open: bool,
    /// The same of the worker.
    pub worker_open: bool,
    /// Whatever is under way is lost.
    pub is_cut: bool,
    /// Messages until it is cut by itself.
    pub cut_after: Option<u32>,
    /// Sequence number of the worker's last message.
    pub seq: u64,
}

impl Link {
    /// A link that has just been made.
    pub const fn new(process: usize, worker: WorkerId, epoch: Epoch, latency: Duration) -> Self {
        Self {
            process,
            worker,
            epoch,
            up: Pipe::new(latency),
            down: Pipe::new(latency),
            router_open: true,
            worker_open: true,
            is_cut: false,
            cut_after: None,
            seq: 0,
        }
    }

    /// Counts a message towards the cut; true for the one at which it comes.
    pub fn counts_down(&mut self) -> bool {
        let Some(left) = self.cut_after else {
            return false;
        };
        self.cut_after = left.checked_sub(1);
        left == 0
    }
}
