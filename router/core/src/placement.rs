//! Which worker gets a request. All placement goes through [`Fleet::select`].

use std::collections::BTreeMap;

use crate::config::Config;
use crate::ids::WorkerId;
use crate::time::Time;
use crate::tracked::Tracked;
use crate::worker::{Link, Worker};

/// The workers to choose from, as one looks at them at a moment.
pub(crate) struct Fleet<'a> {
    pub(crate) workers: &'a BTreeMap<WorkerId, Worker>,
    pub(crate) config: &'a Config,
}

impl Fleet<'_> {
    /// Whether anybody has room for anything. Cheaper to ask than request by request.
    pub(crate) fn has_room(&self, now: Time) -> bool {
        self.links()
            .any(|(_, _, link)| link.has_room(self.config, now))
    }

    /// The longest context that any live worker can take; 0 where there is none.
    pub(crate) fn longest_context(&self) -> u64 {
        self.links()
            .map(|(_, _, link)| u64::from(link.capabilities.max_model_len))
            .max()
            .unwrap_or(0)
    }

    fn links(&self) -> impl Iterator<Item = (WorkerId, u64, &Link)> {
        self.workers.iter().filter_map(|(worker_id, worker)| {
            let link = worker.link.as_ref()?;
            Some((*worker_id, worker.sequence, link))
        })
    }

    /// The worker with the fewest requests among those that the filter lets through and that can take this one; the
    /// one that joined first among equals. A request that has tokens prefers a worker that would have computed the
    /// same ones.
    pub(crate) fn select(
        &self,
        request: &Tracked,
        filter: impl Fn(&Link) -> bool,
        now: Time,
    ) -> Option<WorkerId> {
        let context = request.context();
        self.links()
            .filter(|(_, _, link)| {
                link.has_room(self.config, now)
                    && context <= u64::from(link.capabilities.max_model_len)
                    && filter(link)
            })
            .min_by_key(|(_, sequence, link)| {
                let is_inexact = request
                    .numerics
                    .as_ref()
                    .is_some_and(|numerics| *numerics != link.capabilities.numerics);
                (is_inexact, link.in_flight(), *sequence)
            })
            .map(|(worker_id, _, _)| worker_id)
    }
}
