//! The router itself may stand still: stopped, or starved of its processor. A timer that is handled far too late shows
//! that, and then the time that passed is nobody else's silence: words of healthy workers may lie unread.

use crate::ids::WorkerId;
use crate::scheduler::Scheduler;
use crate::time::Time;
use crate::timers::Timer;

impl Scheduler {
    /// Before anything is judged: takes our own absence out of what is measured of workers.
    ///
    /// The absence begins where we should have acted and did not, so it is never more than it was. Time before the last
    /// call is none, however late the timers are: all that came was read then. So no moment is moved past now.
    pub(crate) fn notice_stall(&mut self, now: Time) {
        let called_at = self.called_at;
        self.called_at = called_at.max(now);
        let Some(due) = self.timers.earliest() else {
            return;
        };
        let absence = now.since(due.max(called_at));
        if absence <= self.config.stall_after {
            return;
        }
        for worker in self.workers.values_mut() {
            if let Some(link) = &mut worker.link {
                link.liveness.excuse(absence);
            }
        }
        let known: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker_id in known {
            self.watch(worker_id);
        }
        self.timers.put_off(absence, |timer| {
            matches!(timer, Timer::Kill(_) | Timer::Start(_))
        });
    }
}
