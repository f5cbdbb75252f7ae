//! What the pool promises: every unit once, no waiting for sleepers, sleep between steps, panics that reach the caller.

use std::sync::mpsc::{Receiver, sync_channel};

use super::*;

fn counts(pool: &Pool, units: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
    pool.run(units, &|unit| {
        counts[unit].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        thread::yield_now();
    }
}

#[test]
fn each_unit_runs_once_in_a_long_row_of_jobs() {
    for threads in [1, 2, 3, 5] {
        let pool = Pool::new(threads).unwrap();
        let guard = pool.step();
        for round in 0..3_000 {
            let units = round % 37;
            assert_eq!(counts(&pool, units), vec![1; units], "{threads} threads");
        }
        drop(guard);
        for units in 0..300 {
            assert_eq!(counts(&pool, units), vec![1; units], "{threads} threads");
        }
    }
}

#[test]
fn results_are_seen_by_the_caller() {
    let pool = Pool::new(4).unwrap();
    let _step = pool.step();
    for round in 0..2_000_usize {
        let cells: Vec<AtomicUsize> = (0..16).map(|_| AtomicUsize::new(0)).collect();
        pool.run(16, &|unit| {
            cells[unit].store(round + unit, Ordering::Relaxed);
        });
        let seen: Vec<usize> = cells.into_iter().map(AtomicUsize::into_inner).collect();
        assert_eq!(seen, (round..round + 16).collect::<Vec<_>>());
    }
}

#[test]
fn a_thread_that_never_wakes_is_not_waited_for() {
    let (open, gate) = sync_channel::<()>(0);
    let gate = Arc::new(Mutex::new(gate));
    let wait = move |_| {
        let gate: &Mutex<Receiver<()>> = &gate;
        // Ends with an error when the test drops its end.
        let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
    };
    let pool = Pool::with_start(3, wait).unwrap();
    for _ in 0..100 {
        assert_eq!(counts(&pool, 64), vec![1; 64]);
    }
    drop(open);
}

#[test]
fn a_thread_that_wakes_late_finds_no_unit_of_an_old_job() {
    let (open, gate) = sync_channel::<()>(0);
    let gate = Arc::new(Mutex::new(gate));
    let wait = move |_| {
        let _ = gate.lock().unwrap_or_else(PoisonError::into_inner).recv();
    };
    let pool = Pool::with_start(2, wait).unwrap();
    assert_eq!(counts(&pool, 64), vec![1; 64]);
    open.send(()).unwrap();
    wait_for(|| pool.num_asleep() == 1);
    assert_eq!(counts(&pool, 64), vec![1; 64]);
}

#[test]
fn pool_threads_help() {
    let pool = Pool::new(2).unwrap();
    let caller = thread::current().id();
    let helped = AtomicBool::new(false);
    // The caller's unit does not end before another thread has run one.
    pool.run(2, &|_| {
        if thread::current().id() == caller {
            wait_for(|| helped.load(Ordering::Acquire));
        } else {
            helped.store(true, Ordering::Release);
        }
    });
    assert!(helped.into_inner());
}

#[test]
fn a_claimed_unit_is_waited_for() {
    let pool = Pool::new(2).unwrap();
    let caller = thread::current().id();
    let (claimed, let_go) = (AtomicBool::new(false), AtomicBool::new(false));
    let result = Arc::new(AtomicUsize::new(0));
    pool.run(2, &|_| {
        if thread::current().id() == caller {
            wait_for(|| claimed.load(Ordering::Acquire));
            let_go.store(true, Ordering::Release);
        } else {
            claimed.store(true, Ordering::Release);
            wait_for(|| let_go.load(Ordering::Acquire));
            // Long enough for the caller to come to the join.
            let result = Arc::clone(&result);
            (0..1_000).for_each(|_| thread::yield_now());
            result.store(7, Ordering::Release);
        }
    });
    assert_eq!(result.load(Ordering::Acquire), 7);
}

#[cfg(target_os = "linux")]
#[test]
fn between_steps_the_system_sees_them_sleep() {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tasks);
    let pool = Pool::with_start(3, move |_| {
        let task = std::fs::read_link("/proc/thread-self").unwrap();
        seen.lock().unwrap().push(task);
    })
    .unwrap();
    drop(pool.step());
    assert_eq!(counts(&pool, 64), vec![1; 64]);
    let asleep = |task: &std::path::PathBuf| {
        let stat = std::fs::read_to_string(std::path::Path::new("/proc").join(task).join("stat"));
        // The state is the word after the name, which is in brackets.
        stat.unwrap()
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" S"))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let all_asleep = || {
        let tasks = tasks.lock().unwrap();
        tasks.len() == 2 && tasks.iter().all(asleep)
    };
    while !all_asleep() {
        assert!(Instant::now() < deadline, "a pool thread does not sleep");
        thread::yield_now();
    }
}

#[test]
fn between_steps_all_sleep() {
    let pool = Pool::new(3).unwrap();
    let guard = pool.step();
    assert_eq!(counts(&pool, 64), vec![1; 64]);
    drop(guard);
    wait_for(|| pool.num_asleep() == 2);
    assert_eq!(pool.shared.steps.load(Ordering::Relaxed), 0);
}

#[test]
fn inside_a_step_they_sleep_too_when_nothing_comes() {
    let pool = Pool::new(2).unwrap();
    let _step = pool.step();
    assert_eq!(counts(&pool, 8), vec![1; 8]);
    wait_for(|| pool.num_asleep() == 1);
    assert_eq!(counts(&pool, 8), vec![1; 8]);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(3).unwrap();
    let ran = AtomicUsize::new(0);
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.run(32, &|unit| {
            ran.fetch_add(1, Ordering::Relaxed);
            assert!(unit != 17, "unit 17");
        });
    }));
    let payload = result.unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"unit 17"));
    assert_eq!(ran.into_inner(), 32);
    assert_eq!(counts(&pool, 32), vec![1; 32]);
}

#[test]
fn callers_that_meet_and_calls_within_calls_get_their_results() {
    let pool = Pool::new(2).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..500 {
                    assert_eq!(counts(&pool, 9), vec![1; 9]);
                }
            });
        }
    });
    pool.run(4, &|_| assert_eq!(counts(&pool, 5), vec![1; 5]));
}

#[test]
fn no_pool_has_no_thread_or_too_many() {
    for threads in [0, MAX_THREADS + 1] {
        assert_eq!(
            Pool::new(threads).unwrap_err(),
            KernelError::OutOfRange {
                what: "the number of threads",
                value: threads,
                limit: MAX_THREADS
            }
        );
    }
}
