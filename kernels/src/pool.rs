//! The threads that share a kernel's units of work.
//!
//! Worker, router and clients share the machine's cores, so nobody here waits for a thread that does not run. Units are
//! claimed one by one; the caller claims too, and then waits for claimed units only. A pool thread that has not woken up
//! is not waited for, and one that lost its core delays the join by at most its one unit. Pool threads spin only inside a
//! step, and not for long; between steps they sleep in the operating system.

use std::any::Any;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::KernelError;

/// How long a pool thread looks for work before it sleeps, inside a step.
const SPIN: Duration = Duration::from_micros(50);
/// Looks between two readings of the clock.
const LOOKS_PER_READING: u32 = 32;
/// The low bits of a ticket count the units that nobody has claimed yet; the rest is the job's number.
const UNITS_BITS: u32 = 24;
const UNITS_MASK: u64 = (1 << UNITS_BITS) - 1;
/// The most units of one job; a larger call is several jobs.
const MAX_UNITS: usize = (1 << UNITS_BITS) - 1;
/// More threads than any machine that this is for has cores.
const MAX_THREADS: usize = 1_024;

/// The work of one job: called with the index of a unit.
type UnitFn<'a> = &'a (dyn Fn(usize) + Sync);

/// A fixed number of threads, of which the caller is the first. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the one caller whose job the threads share.
    turn: Mutex<()>,
    sleepers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included: one thread starts none.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] for no thread or absurdly many, [`KernelError::Thread`] if one cannot be started.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        Self::with_start(threads, |_| ())
    }

    /// `start` runs on each pool thread before it looks for work.
    fn with_start(
        threads: usize,
        start: impl Fn(usize) + Send + Clone + 'static,
    ) -> Result<Self, KernelError> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(KernelError::OutOfRange {
                what: "the number of threads",
                value: threads,
                limit: MAX_THREADS,
            });
        }
        let mut pool = Self {
            shared: Arc::new(Shared::new(threads - 1)),
            turn: Mutex::new(()),
            sleepers: Vec::new(),
            handles: Vec::new(),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let start = start.clone();
            let handle = thread::Builder::new()
                .name(format!("kernels-{index}"))
                .spawn(move || {
                    start(index);
                    shared.serve(index - 1);
                })
                .map_err(|error| KernelError::Thread {
                    index,
                    reason: error.to_string(),
                })?;
            pool.handles.push(handle.thread().clone());
            pool.sleepers.push(handle);
        }
        Ok(pool)
    }

    /// Threads of the pool, the caller included.
    pub fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Says that several calls will follow each other closely: while the guard lives, threads wait awake for a moment
    /// before they sleep.
    pub fn step(&self) -> StepGuard {
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        StepGuard {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Calls `unit` once with each of `0..units`, in any order and on any thread, and returns when all are done.
    ///
    /// While the pool works for another caller, all units run on this one's own thread. A panic in a unit goes on here,
    /// after the others have ended.
    pub fn run(&self, units: usize, unit: UnitFn<'_>) {
        let turn = if units > 1 && !self.handles.is_empty() {
            match self.turn.try_lock() {
                Ok(turn) => Some(turn),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        } else {
            None
        };
        if turn.is_none() {
            (0..units).for_each(unit);
            return;
        }
        let mut first = 0;
        while first < units {
            let count = MAX_UNITS.min(units - first);
            // Claims count down; units that are neighbours in memory are better read upwards.
            self.share(count, &|index| unit(first + count - 1 - index));
            first += count;
        }
    }

    /// One job. The caller holds the turn.
    fn share(&self, units: usize, unit: UnitFn<'_>) {
        self.shared.publish(units, &unit);
        let others = units - 1;
        let asleep = self.handles.iter().zip(&self.shared.asleep);
        for (handle, asleep) in asleep.take(others) {
            if asleep.swap(false, Ordering::SeqCst) {
                handle.unpark();
            }
        }
        while self.shared.work_once() {}
        self.shared.join(units);
        if let Some(payload) = self.shared.take_panic() {
            resume_unwind(payload);
        }
    }

    /// Pool threads that sleep.
    #[cfg(test)]
    fn num_asleep(&self) -> usize {
        let asleep = |flag: &&AtomicBool| flag.load(Ordering::SeqCst);
        self.shared.asleep.iter().filter(asleep).count()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for handle in &self.handles {
            handle.unpark();
        }
        for sleeper in self.sleepers.drain(..) {
            // A pool thread catches the panics of its units, so there is nothing in the result to pass on.
            let _ = sleeper.join();
        }
    }
}

/// A step is on: see [`Pool::step`].
#[derive(Debug)]
pub struct StepGuard {
    shared: Arc<Shared>,
}

impl Drop for StepGuard {
    fn drop(&mut self) {
        self.shared.steps.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something alone on its cache lines (which x86 fetches in pairs): who looks at it is not disturbed by other news.
#[derive(Debug)]
#[repr(align(128))]
struct Alone<T>(T);

impl<T> Deref for Alone<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What the caller and the pool threads have in common.
#[derive(Debug)]
struct Shared {
    /// Number of the job, then its unclaimed units. No unit is claimed but by lowering it, so that a thread which slept
    /// through a whole job finds another number and claims nothing.
    ticket: Alone<AtomicU64>,
    /// Points to the `UnitFn` of the ticket's job. Read before a claim, used only if the claim succeeds.
    job: AtomicPtr<()>,
    /// Units of this job that have been claimed and are done.
    finished: Alone<AtomicUsize>,
    /// What the first unit that panicked threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Steps that are on.
    steps: Alone<AtomicUsize>,
    /// Set once, by the drop of the pool.
    stopping: AtomicBool,
    /// One flag per pool thread: it sleeps, or is about to.
    asleep: Vec<AtomicBool>,
}

impl Shared {
    fn new(pool_threads: usize) -> Self {
        Self {
            ticket: Alone(AtomicU64::new(0)),
            job: AtomicPtr::new(std::ptr::null_mut()),
            finished: Alone(AtomicUsize::new(0)),
            panic: Mutex::new(None),
            steps: Alone(AtomicUsize::new(0)),
            stopping: AtomicBool::new(false),
            asleep: (0..pool_threads).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Offers a job. All units of the one before are done, so its ticket is at zero and nobody has a claim on it.
    fn publish(&self, units: usize, unit: &UnitFn<'_>) {
        self.finished.store(0, Ordering::Relaxed);
        self.job
            .store((&raw const *unit).cast_mut().cast(), Ordering::Relaxed);
        let number = (self.ticket.load(Ordering::Relaxed) >> UNITS_BITS).wrapping_add(1);
        // `run` keeps units within the mask.
        let units = u64::try_from(units).unwrap_or(0) & UNITS_MASK;
        self.ticket
            .store((number << UNITS_BITS) | units, Ordering::SeqCst);
    }

    /// Claims one unit and does it; says whether there was one.
    fn work_once(&self) -> bool {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let unclaimed = ticket & UNITS_MASK;
            if unclaimed == 0 {
                return false;
            }
            let job = self.job.load(Ordering::Relaxed);
            let claim = self.ticket.compare_exchange_weak(
                ticket,
                ticket - 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match claim {
                Ok(_) => {
                    let index = usize::try_from(unclaimed - 1).unwrap_or(0);
                    self.do_unit(job, index);
                    return true;
                }
                Err(now) => ticket = now,
            }
        }
    }

    /// Does a claimed unit of the job that `job` points to.
    fn do_unit(&self, job: *mut (), index: usize) {
        // SAFETY: the claim succeeded, so the ticket was still that of the job whose pointer was read before it: a later
        // job is published only after this unit has been counted as finished. Until then `share` does not return, and the
        // function and all that it borrows stay alive.
        let unit: UnitFn<'_> = unsafe { *job.cast::<UnitFn<'_>>() };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| unit(index))) {
            self.panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(payload);
        }
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// Waits until all units, each claimed by now, are done.
    fn join(&self, units: usize) {
        let done = || self.finished.load(Ordering::Acquire) == units;
        if !spin_until(done) {
            // The claimant has lost its core; perhaps this one is what it waits for.
            while !done() {
                thread::yield_now();
            }
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The life of a pool thread.
    fn serve(&self, slot: usize) {
        let asleep = &self.asleep[slot];
        while !self.stopping.load(Ordering::SeqCst) {
            if self.work_once() {
                continue;
            }
            let in_step = || self.steps.load(Ordering::Relaxed) > 0;
            if in_step() && spin_until(|| self.has_news() || !in_step()) && self.has_news() {
                continue;
            }
            asleep.store(true, Ordering::SeqCst);
            // Whoever publishes after this look sees the flag and wakes us.
            if !self.has_news() {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }

    fn has_news(&self) -> bool {
        self.ticket.load(Ordering::SeqCst) & UNITS_MASK > 0 || self.stopping.load(Ordering::SeqCst)
    }
}

/// Spins until the condition holds, at most [`SPIN`]; says whether it does.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        for _ in 0..LOOKS_PER_READING {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begun.elapsed() >= SPIN {
            return false;
        }
    }
}

#[cfg(test)]
mod tests;
