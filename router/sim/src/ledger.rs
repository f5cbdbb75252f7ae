//! What the checks know by themselves, from events and actions alone: requests and links, as they should be.

use std::collections::BTreeSet;

use slackwater_core::{Ending, Epoch, Failure, Request, RequestId, Time, WorkerId};

/// How a request ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It never ran.
    Rejected(Failure),
    /// It ended so.
    Ended(Ending),
}

/// One request.
#[derive(Debug)]
pub(crate) struct RequestLedger {
    pub(crate) request: Request,
    /// What an undisturbed worker gives.
    pub(crate) answer: Vec<u32>,
    pub(crate) ending: Ending,
    /// Tokens of the answer that were delivered.
    pub(crate) delivered: usize,
    pub(crate) taken: u32,
    pub(crate) granted: u32,
    pub(crate) attempt: u32,
    pub(crate) placed: Option<(WorkerId, Epoch)>,
    /// The present worker has output something for it.
    pub(crate) has_output: bool,
    /// Links lost under it since its last token.
    pub(crate) barren: u32,
    pub(crate) submits: u32,
    pub(crate) has_hung_up: bool,
    pub(crate) end: Option<End>,
}

impl RequestLedger {
    pub(crate) const fn new(request: Request, answer: Vec<u32>, ending: Ending) -> Self {
        Self {
            request,
            answer,
            ending,
            delivered: 0,
            taken: 0,
            granted: 0,
            attempt: 0,
            placed: None,
            has_output: false,
            barren: 0,
            submits: 0,
            has_hung_up: false,
            end: None,
        }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        self.answer.get(..self.delivered).unwrap_or(&[])
    }

    pub(crate) fn emitted(&self) -> u32 {
        u32::try_from(self.delivered).unwrap_or(u32::MAX)
    }
}

/// One live link.
#[derive(Debug)]
pub(crate) struct LinkLedger {
    pub(crate) worker: WorkerId,
    pub(crate) slots: u32,
    pub(crate) max_model_len: u32,
    pub(crate) seq: u64,
    pub(crate) heard: Time,
    pub(crate) is_full: bool,
    pub(crate) is_draining: bool,
    pub(crate) is_busy: bool,
    pub(crate) progress: u64,
    /// When its engine moved last.
    pub(crate) moved: Time,
    /// Attempts that hold a slot.
    pub(crate) held: BTreeSet<(RequestId, u32)>,
    /// Placements that it ever got.
    pub(crate) placements: u64,
    /// Attempts that it was told to stop.
    pub(crate) cancelled: BTreeSet<(RequestId, u32)>,
}
