//! The safety checks of actions: may the core want this now?

use std::time::Duration;

use slackwater_core::{Action, Ending, Epoch, FenceReason, Placement, RequestId, Time, WorkerId};

use crate::check::{Cause, Checker};
use crate::ledger::End;

impl Checker {
    /// The core wants something.
    pub(crate) fn action(&mut self, action: &Action, cause: &Cause, now: Time) {
        match action {
            Action::Submit(placement) => self.placement(placement, true, now),
            Action::Resume(placement) => self.placement(placement, false, now),
            Action::Cancel {
                worker,
                epoch,
                request_id,
                attempt,
            } => self.cancel((*worker, *epoch), (*request_id, *attempt), now),
            Action::Credit {
                worker,
                epoch,
                request_id,
                attempt,
                up_to,
            } => self.credit((*worker, *epoch), (*request_id, *attempt), *up_to, now),
            Action::Deliver {
                request_id,
                start,
                tokens,
                ..
            } => self.deliver(*request_id, *start, tokens, cause, now),
            Action::Reject {
                request_id,
                failure,
            } => self.end(*request_id, End::Rejected(failure.clone()), now),
            Action::Finish { request_id, ending } => {
                self.end(*request_id, End::Ended(ending.clone()), now);
            }
            Action::Fence {
                worker,
                epoch,
                reason,
            } => self.fence(*worker, *epoch, *reason, cause, now),
            Action::Drain { epoch, .. } => {
                if !self.is_draining || !self.is_idle() {
                    self.broken("drain", format!("{action:?} while there is work"), now);
                }
                if let Some(link) = self.links.get_mut(epoch) {
                    link.is_draining = true;
                }
            }
            Action::Restart { worker, .. } => {
                let is_useless = self.is_draining && self.is_idle();
                if is_useless || self.live(*worker).is_some() {
                    self.broken("restart", format!("{action:?}"), now);
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.values().all(|ledger| ledger.end.is_some())
    }

    /// How much of the time since a moment the router stood still: all of it, and what of it the core must have
    /// noticed, for it may be that nothing was due before the first threshold of silence.
    fn absence(&self, since: Time) -> (Duration, Duration) {
        let unnoticed = self.config.suspect_after;
        let spans = || self.pauses.iter().filter(move |(from, _)| *from >= since);
        let all = spans().map(|(_, span)| *span).sum();
        let noticed = spans()
            .filter(|(_, span)| *span > unnoticed + self.config.stall_after)
            .map(|(_, span)| span.saturating_sub(unnoticed))
            .sum();
        (all, noticed)
    }

    fn placement(&mut self, placement: &Placement, is_first: bool, now: Time) {
        let request_id = placement.request.request_id();
        let hold = (request_id, placement.attempt);
        let heard = self.links.get(&placement.epoch).map(|link| link.heard);
        let (absence, _) = self.absence(heard.unwrap_or(now));
        let suspect_after = self.config.suspect_after + absence;
        let is_fit = self.links.get_mut(&placement.epoch).is_some_and(|link| {
            link.held.insert(hold);
            link.placements += 1;
            link.worker == placement.worker
                && !link.is_full
                && !link.is_draining
                && now.since(link.heard) < suspect_after
                && link.held.len() as u64 <= u64::from(link.slots)
        });
        if !is_fit {
            let detail = format!("{request_id} to {}: {:?}", placement.worker, self.links);
            self.broken("placed on a worker that may not have it", detail, now);
        }
        let window = self.config.stream_credit;
        let Some(ledger) = self.requests.get_mut(&request_id) else {
            return self.broken("unknown request placed", request_id.to_string(), now);
        };
        let credit_due = (ledger.taken + window).min(ledger.request.sampling().max_tokens.get());
        let is_right = ledger.end.is_none()
            && ledger.placed.is_none()
            && !ledger.has_hung_up
            && is_first == (ledger.submits == 0)
            && placement.attempt > ledger.attempt
            && placement.request == ledger.request
            && placement.history == ledger.tokens()
            && placement.credit_up_to == credit_due.max(ledger.granted)
            && placement
                .remaining
                .is_none_or(|left| is_first && !left.is_zero());
        ledger.attempt = placement.attempt;
        ledger.placed = Some((placement.worker, placement.epoch));
        ledger.has_output = false;
        ledger.granted = placement.credit_up_to;
        ledger.submits += 1;
        if !is_right {
            let detail = format!("{placement:?} against {:?}", self.requests.get(&request_id));
            self.broken("a placement is wrong", detail, now);
        }
    }

    fn deliver(
        &mut self,
        request_id: RequestId,
        start: u32,
        tokens: &[u32],
        cause: &Cause,
        now: Time,
    ) {
        let window = self.config.stream_credit;
        let Some(ledger) = self.requests.get_mut(&request_id) else {
            return self.broken("unknown request delivered", request_id.to_string(), now);
        };
        let is_from_holder = cause.is_next
            && cause.origin.is_some_and(|origin| {
                ledger.placed == Some((origin.worker, origin.epoch))
                    && cause.outputs.iter().any(|output| {
                        output.request_id == request_id && output.attempt == ledger.attempt
                    })
            });
        let expected = ledger
            .answer
            .get(ledger.delivered..ledger.delivered + tokens.len());
        let is_right = expected == Some(tokens) && start == ledger.emitted();
        let is_open = ledger.end.is_none() && !ledger.has_hung_up && !tokens.is_empty();
        ledger.delivered = (ledger.delivered + tokens.len()).min(ledger.answer.len());
        ledger.barren = 0;
        let ahead = ledger.emitted().saturating_sub(ledger.taken);
        let is_within =
            ledger.emitted() <= ledger.granted && u64::from(ahead) <= u64::from(window.max(1));
        for (holds, rule) in [
            (is_from_holder, "accepted from an old epoch or attempt"),
            (is_right, "tokens lost, repeated or crossed"),
            (is_open, "delivered to nobody"),
            (is_within, "credit exceeded"),
        ] {
            if !holds {
                let detail = format!("{request_id} from {start}: {tokens:?}, cause {cause:?}");
                self.broken(rule, detail, now);
            }
        }
    }

    fn end(&mut self, request_id: RequestId, end: End, now: Time) {
        let Some(ledger) = self.requests.get(&request_id) else {
            return self.broken("unknown request ended", request_id.to_string(), now);
        };
        let is_earned = match &end {
            End::Rejected(failure) => {
                ledger.submits == 0 && self.is_earned(ledger, &Ending::Failed(failure.clone()), now)
            }
            End::Ended(ending) => self.is_earned(ledger, ending, now),
        };
        let ended_before = ledger.end.is_some();
        if !is_earned {
            let detail = format!("{end:?} against {ledger:?}");
            self.broken("an end that was not earned", detail, now);
        }
        if ended_before {
            self.broken("ended twice", format!("{request_id}: {end:?}"), now);
        }
        if let Some(ledger) = self.requests.get_mut(&request_id) {
            ledger.end.get_or_insert(end);
        }
    }

    fn cancel(&mut self, at: (WorkerId, Epoch), hold: (RequestId, u32), now: Time) {
        let is_held = self.links.get_mut(&at.1).is_some_and(|link| {
            let is_first = link.cancelled.insert(hold);
            is_first && link.worker == at.0 && link.held.contains(&hold)
        });
        if !is_held {
            self.broken(
                "cancelled where it is not, or twice",
                format!("{hold:?} at {at:?}"),
                now,
            );
        }
    }

    fn credit(&mut self, at: (WorkerId, Epoch), hold: (RequestId, u32), up_to: u32, now: Time) {
        let window = self.config.stream_credit;
        let Some(ledger) = self.requests.get_mut(&hold.0) else {
            return self.broken("credit for nobody", format!("{hold:?}"), now);
        };
        let is_right = ledger.end.is_none()
            && ledger.placed == Some(at)
            && ledger.attempt == hold.1
            && up_to > ledger.granted
            && up_to <= ledger.taken.saturating_add(window)
            && up_to <= ledger.request.sampling().max_tokens.get();
        ledger.granted = ledger.granted.max(up_to);
        if !is_right {
            self.broken("a wrong credit", format!("{hold:?} up to {up_to}"), now);
        }
    }

    fn fence(
        &mut self,
        worker: WorkerId,
        epoch: Epoch,
        reason: FenceReason,
        cause: &Cause,
        now: Time,
    ) {
        let is_guilty = self.guilty.contains(&epoch);
        let is_earned = self.links.get(&epoch).is_some_and(|link| match reason {
            FenceReason::Silent => {
                let (_, absence) = self.absence(link.heard);
                now.since(link.heard) >= self.config.lost_after + absence
            }
            FenceReason::Hung => {
                let (_, absence) = self.absence(link.moved);
                link.is_busy && now.since(link.moved) >= self.config.hung_after + absence
            }
            FenceReason::Violation => is_guilty,
            FenceReason::Replaced => cause.ready == Some(worker),
        });
        if !is_earned {
            let detail = format!("{worker} {epoch:?} {reason:?}, cause {cause:?}");
            self.broken("an innocent was cut off", detail, now);
        }
        self.close(epoch);
    }
}
