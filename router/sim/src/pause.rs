//! The router itself stands still for a while: the world goes on, and what it has for the router lies unread.

use std::time::Duration;

use slackwater_core::Time;

use crate::faults::Fault;
use crate::sim::{Entry, Sim};

impl Sim {
    /// The router stands still from now on for so long.
    pub fn pause_router(&mut self, span: Duration) {
        self.pause_router_at(self.now(), span);
    }

    /// The router stands still from then on for so long; nothing more if it does already.
    pub fn pause_router_at(&mut self, at: Time, span: Duration) {
        self.agenda.put(at, Entry::Pause(span));
    }

    pub(crate) fn pause(&mut self, span: Duration) {
        if self.unread.is_none() {
            let now = self.now();
            self.unread = Some(Vec::new());
            self.check.pauses.push((now, span));
            self.agenda.put(now + span, Entry::Wake);
        }
    }

    /// Keeps what is for a router that stands still; gives back all else.
    pub(crate) fn read_now(&mut self, entry: Entry) -> Option<Entry> {
        let is_routers = match &entry {
            Entry::Arrive(..)
            | Entry::Read(_)
            | Entry::HangUp(_)
            | Entry::Tell(_)
            | Entry::ToRouter(..)
            | Entry::LinkEnds(_)
            | Entry::RouterTick(_)
            | Entry::Exited(..)
            | Entry::Fault(_, Fault::LinkFull(_)) => true,
            Entry::Start(index, _) => self
                .processes
                .get(*index)
                .is_some_and(|process| process.own.is_some()),
            _ => false,
        };
        match &mut self.unread {
            Some(unread) if is_routers => {
                unread.push(entry);
                None
            }
            _ => Some(entry),
        }
    }

    /// It goes on, in the order that is hardest: it looks at the clock before it reads.
    pub(crate) fn wake(&mut self) {
        let Some(unread) = self.unread.take() else {
            return;
        };
        self.timeout();
        for entry in unread {
            self.happen(entry);
        }
    }
}
