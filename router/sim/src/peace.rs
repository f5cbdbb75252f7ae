//! The liveness checks: what must be so once nothing goes wrong any more.

use crate::sim::Sim;

impl Sim {
    /// Every request that arrived has ended, and nothing is held for any.
    pub fn expect_all_ended(&mut self) {
        let now = self.now();
        let open: Vec<String> = self
            .check
            .requests
            .iter()
            .filter(|(_, ledger)| ledger.end.is_none())
            .map(|(request_id, ledger)| format!("{request_id}: {ledger:?}"))
            .collect();
        if !open.is_empty() {
            let detail = open.join("; ");
            self.check.broken("a request never ended", detail, now);
        }
        let held: u32 = self.core.workers().map(|view| view.in_flight).sum();
        let rows: usize = self
            .processes
            .iter()
            .map(|process| process.engine.len())
            .sum();
        if held > 0 || rows > 0 || self.core.live_requests() > 0 {
            let detail = format!("{held} slots, {rows} rows");
            self.check
                .broken("something is held for nobody", detail, now);
        }
    }

    /// Every process has a link that the core gives work to.
    pub fn expect_all_ready(&mut self) {
        let now = self.now();
        let ready = self.core.ready_workers();
        if ready != self.processes.len() {
            let detail = format!("{ready} of {}", self.processes.len());
            self.check.broken("a worker did not come back", detail, now);
        }
    }

    /// From here on it counts whether a worker is used.
    pub fn forget_placements(&mut self) {
        for link in self.check.links.values_mut() {
            link.placements = 0;
        }
    }

    /// Every live link got a request since [`Self::forget_placements`].
    pub fn expect_all_used(&mut self) {
        let now = self.now();
        let idle = self
            .check
            .links
            .values()
            .filter(|link| link.placements == 0)
            .count();
        if idle > 0 {
            let detail = format!("{idle} workers");
            self.check
                .broken("a worker was not used again", detail, now);
        }
    }
}
