//! A simulated worker process: an engine, the link it holds and what ails it.

use slackwater_core::{Epoch, Time, WorkerId};

use crate::engine::{CostModel, Engine};
use crate::faults::Evil;
use crate::sim::Entry;

/// A process, dead or alive. It keeps its index over restarts.
#[derive(Debug)]
pub(crate) struct Process {
    /// The name of an own child; a worker that joins gets one for each link.
    pub(crate) own: Option<WorkerId>,
    pub(crate) engine: Engine,
    pub(crate) is_alive: bool,
    /// Grows with each death: entries of an earlier life are void.
    pub(crate) generation: u32,
    /// Of the step that runs; entries of an earlier one are void.
    pub(crate) step: u64,
    /// When the step that runs began.
    pub(crate) step_began: Time,
    pub(crate) is_frozen: bool,
    pub(crate) is_hung: bool,
    pub(crate) slowness: u32,
    pub(crate) link: Option<Epoch>,
    /// When it last heard the router.
    pub(crate) heard: Time,
    /// What happened to it while it was frozen.
    pub(crate) deferred: Vec<Entry>,
    pub(crate) evil: Option<Evil>,
    pub(crate) refuse_next: u32,
}

impl Process {
    pub(crate) const fn new(own: Option<WorkerId>, cost: CostModel) -> Self {
        Self {
            own,
            engine: Engine::new(cost),
            is_alive: false,
            generation: 0,
            step: 0,
            step_began: Time::ZERO,
            is_frozen: false,
            is_hung: false,
            slowness: 1,
            link: None,
            heard: Time::ZERO,
            deferred: Vec::new(),
            evil: None,
            refuse_next: 0,
        }
    }

    /// Forgets all requests and the step: the link is over.
    pub(crate) fn drop_requests(&mut self) {
        self.engine.clear();
        self.step += 1;
        self.link = None;
    }

    /// Ends this life.
    pub(crate) fn die(&mut self) {
        self.drop_requests();
        self.is_alive = false;
        self.generation += 1;
        self.is_frozen = false;
        self.is_hung = false;
        self.slowness = 1;
        self.deferred.clear();
        self.evil = None;
        self.refuse_next = 0;
    }

    pub(crate) const fn lives(&self, generation: u32) -> bool {
        self.is_alive && self.generation == generation
    }
}
