//! The contract about time: what is no reason to end a request, to convict a worker, or to wait for one for ever.

use std::time::Duration;

use slackwater_core::{
    Action, Command, Config, Epoch, Event, FenceReason, GoneCause, Placement, Request, Scheduler,
    SuspectReason, WorkerId,
};

use crate::contract::{LIMITS, at, capabilities, core_with, cut, draft, drain, gone, origin};
use crate::contract::{ready, request, tell};

fn beat(worker: u32, seq: u64, progress: u64) -> Event {
    Event::Heartbeat {
        origin: origin(worker, seq),
        progress,
        busy: true,
    }
}

fn timeout(core: &mut Scheduler, millis: u64) -> Vec<Action> {
    core.handle_timeout(at(millis));
    drain(core)
}

const fn fence(worker: u32, reason: FenceReason) -> Action {
    Action::Fence {
        worker: WorkerId(worker),
        epoch: Epoch(worker as u64),
        reason,
    }
}

const fn restart(worker: u32, after: u64) -> Action {
    Action::Restart {
        worker: WorkerId(worker),
        after: Duration::from_millis(after),
    }
}

const fn started(worker: u32) -> Event {
    Event::WorkerStarted {
        worker: WorkerId(worker),
    }
}

#[test]
fn the_first_placement_says_what_time_is_left_and_a_resume_does_not_ask() {
    let mut core = core_with(2);
    let mut hurried = draft(1);
    hurried.expiry = Some(at(100));
    let hurried = Request::parse(hurried, &LIMITS).unwrap();
    let placement = |worker: u32, attempt, remaining| Placement {
        worker: WorkerId(worker),
        epoch: Epoch(worker.into()),
        request: hurried.clone(),
        attempt,
        history: vec![],
        credit_up_to: 20,
        remaining,
    };
    let first = tell(&mut core, Event::RequestArrived(hurried.clone()), at(40));
    let left = Some(Duration::from_millis(60));
    assert_eq!(first, [Action::Submit(placement(1, 1, left))]);
    let second = tell(&mut core, cut(1), at(300));
    assert_eq!(second, [Action::Resume(placement(2, 2, None))]);
}

#[test]
fn our_own_absence_is_neither_silence_nor_standing_still() {
    let mut core = core_with(2);
    for worker in [1, 2] {
        tell(&mut core, beat(worker, 2, 1), at(100));
        tell(&mut core, beat(worker, 3, 1), at(200));
    }
    // Silence was due at 800: the absence is 1,300, which leaves 600 of silence and 700 of standing still.
    assert_eq!(timeout(&mut core, 2_100), []);
    let suspects = &core.counters().workers_suspect;
    assert_eq!(suspects.get(SuspectReason::Silent), 2);
    // The first is heard again but its engine does not move; of the second nothing more is heard.
    for (seq, now) in [(4, 2_150), (5, 2_400)] {
        assert_eq!(tell(&mut core, beat(1, seq, 1), at(now)), []);
    }
    assert_eq!(timeout(&mut core, 2_499), []);
    assert_eq!(timeout(&mut core, 2_500), [fence(2, FenceReason::Silent)]);
    for (seq, now) in [(6, 2_800), (7, 3_200)] {
        assert_eq!(tell(&mut core, beat(1, seq, 1), at(now)), []);
    }
    assert_eq!(timeout(&mut core, 3_399), []);
    assert_eq!(
        timeout(&mut core, 3_400),
        [fence(1, FenceReason::Hung), restart(1, 500)]
    );
}

#[test]
fn a_timer_that_is_late_while_others_are_heard_excuses_nobody() {
    let mut core = core_with(2);
    for (seq, now) in (2..).zip((100..1_300).step_by(100)) {
        assert_eq!(tell(&mut core, beat(1, seq, seq), at(now)), []);
    }
    assert_eq!(timeout(&mut core, 1_300), [fence(2, FenceReason::Silent)]);
}

#[test]
fn a_lateness_within_the_bound_is_no_absence() {
    let mut core = core_with(1);
    assert_eq!(timeout(&mut core, 700), []);
    assert_eq!(timeout(&mut core, 1_000), [fence(1, FenceReason::Silent)]);
}

#[test]
fn a_child_that_never_gets_ready_is_killed_and_started_again_ever_later() {
    let mut core = Scheduler::new(Config::default());
    assert_eq!(tell(&mut core, started(1), at(1_000)), []);
    assert_eq!(core.next_timeout(), Some(at(301_000)));
    assert_eq!(timeout(&mut core, 301_000), [restart(1, 500)]);
    // The end of what was killed is no news.
    let killed = gone(1, None, GoneCause::Signalled(9));
    assert_eq!(tell(&mut core, killed, at(301_002)), []);
    assert_eq!(core.next_timeout(), None);
    assert_eq!(tell(&mut core, started(1), at(301_500)), []);
    assert_eq!(timeout(&mut core, 601_500), [restart(1, 1_000)]);
}

#[test]
fn ready_and_an_exit_each_end_the_wait_for_a_start() {
    let mut core = Scheduler::new(Config {
        start_limit: Duration::from_millis(100),
        ..Config::default()
    });
    tell(&mut core, started(1), at(0));
    tell(&mut core, started(2), at(0));
    tell(&mut core, ready(1, capabilities()), at(10));
    let exit = gone(2, None, GoneCause::Exited(1));
    assert_eq!(tell(&mut core, exit, at(20)), [restart(2, 500)]);
    tell(&mut core, cut(1), at(30));
    // What is left is the kill of the one that has lost its link and may come back by itself.
    assert_eq!(timeout(&mut core, 100), []);
    assert_eq!(core.next_timeout(), Some(at(10_010)));
    assert_eq!(timeout(&mut core, 10_010), [restart(1, 500)]);
    assert_eq!(core.next_timeout(), None);
}

#[test]
fn an_absence_is_taken_out_of_the_time_for_a_start() {
    let mut core = core_with(1);
    tell(&mut core, started(2), at(0));
    tell(&mut core, cut(1), at(0));
    assert_eq!(timeout(&mut core, 12_000), [restart(1, 500)]);
    // It was alone in being due, so the absence is the 2,000 by which it was late.
    assert_eq!(core.next_timeout(), Some(at(302_000)));
}

#[test]
fn a_drain_restarts_a_child_only_while_a_request_lives() {
    let mut core = core_with(1);
    tell(&mut core, Event::RequestArrived(request(1)), at(1));
    tell(&mut core, Event::Operator(Command::Drain), at(2));
    let killed = |epoch: Option<Epoch>| gone(1, epoch, GoneCause::Signalled(9));
    let first = tell(&mut core, killed(Some(Epoch(1))), at(3));
    assert_eq!(first, [restart(1, 500)]);
    let ended = tell(&mut core, Event::Operator(Command::Abort), at(4));
    assert_eq!(ended.len(), 1);
    assert_eq!(tell(&mut core, killed(None), at(1_000)), []);
}
