//! Threads that work on numbered tasks and hand the results over in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{LoadError, lock};

/// Threads at work on tasks of ascending number, at most `window` of them ahead of the consumer.
pub(super) struct Pool<R> {
    shared: Arc<Shared<R>>,
    threads: Vec<JoinHandle<()>>,
    /// The task whose result is handed over next.
    next: usize,
    end: usize,
    waited: Duration,
}

struct Shared<R> {
    state: Mutex<State<R>>,
    /// There may be work to do, or none ever again.
    work: Condvar,
    /// A result has come, or a thread has died.
    ready: Condvar,
    /// Also read within a task, without the lock.
    stop: AtomicBool,
}

struct State<R> {
    /// The task that a thread takes next.
    next: usize,
    /// Tasks from here on wait until the consumer has moved on.
    limit: usize,
    end: usize,
    results: BTreeMap<usize, R>,
    /// Why a result that is missing will never come.
    failure: Option<String>,
}

impl<R: Send + 'static> Pool<R> {
    /// Starts `threads` threads on `tasks`. Each has a worker of its own, made by `worker`; `run`
    /// does a task with it, and returns `None` only where it saw that it was told to stop.
    pub(super) fn new<W>(
        threads: usize,
        tasks: Range<usize>,
        window: usize,
        worker: impl Fn() -> W + Send + Sync + 'static,
        run: impl Fn(&mut W, usize, &AtomicBool) -> Option<R> + Send + Sync + 'static,
    ) -> Self {
        assert!(threads > 0 && window > 0, "loading needs a thread and room");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                next: tasks.start,
                limit: tasks.end.min(tasks.start + window),
                end: tasks.end,
                results: BTreeMap::new(),
                failure: None,
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let job = Arc::new((worker, run));
        let mut started = Vec::new();
        for _ in 0..threads.min(tasks.len()) {
            let (mine, job) = (shared.clone(), job.clone());
            let thread = thread::Builder::new()
                .name("npid-loader".into())
                .spawn(move || {
                    let _guard = PanicGuard(&mine);
                    let mut worker = (job.0)();
                    while let Some(task) = mine.take() {
                        let Some(result) = (job.1)(&mut worker, task, &mine.stop) else {
                            return;
                        };
                        lock(&mine.state).results.insert(task, result);
                        mine.ready.notify_one();
                    }
                });
            match thread {
                Ok(thread) => started.push(thread),
                // Fewer threads are slower, no more; with none at all nothing would ever come.
                Err(error) if started.is_empty() => {
                    lock(&shared.state).failure = Some(format!("no thread could start: {error}"));
                    break;
                }
                Err(_) => break,
            }
        }
        Pool {
            shared,
            threads: started,
            next: tasks.start,
            end: tasks.end,
            waited: Duration::ZERO,
        }
    }

    /// The next task's result; waits for it. `None` after the last one.
    pub(super) fn next(&mut self) -> Option<Result<R, LoadError>> {
        if self.next >= self.end {
            return None;
        }
        let start = Instant::now();
        let mut state = lock(&self.shared.state);
        let result = loop {
            if let Some(result) = state.results.remove(&self.next) {
                break result;
            }
            if let Some(failure) = &state.failure {
                let error = LoadError::Thread(failure.clone());
                self.next = self.end;
                return Some(Err(error));
            }
            state = self
                .shared
                .ready
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        };
        state.limit = (state.limit + 1).min(state.end);
        drop(state);
        self.shared.work.notify_one();
        self.waited += start.elapsed();
        self.next += 1;
        Some(Ok(result))
    }

    pub(super) fn waited(&self) -> Duration {
        self.waited
    }
}

impl<R> Shared<R> {
    /// The next task, waiting for room; `None` where there is none left or all must stop.
    fn take(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        loop {
            if self.stop.load(Ordering::Relaxed) || state.next >= state.end {
                return None;
            }
            if state.next < state.limit {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

impl<R> Drop for Pool<R> {
    fn drop(&mut self) {
        // Under the lock, so that no thread is between looking and falling asleep.
        {
            let _state = lock(&self.shared.state);
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was reported by the guard already.
            let _ = thread.join();
        }
    }
}

/// Tells the consumer if its thread dies of a panic: it would wait for ever otherwise.
struct PanicGuard<'a, R>(&'a Shared<R>);

impl<R> Drop for PanicGuard<'_, R> {
    fn drop(&mut self) {
        if thread::panicking() {
            lock(&self.0.state).failure = Some("a thread of the loader panicked".into());
            self.0.ready.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_within_the_window() {
        let ahead = Arc::new(Mutex::new((0usize, 0usize)));
        let seen = ahead.clone();
        let mut pool = Pool::new(
            4,
            3..200,
            5,
            || (),
            move |(), task, _| {
                let mut seen = lock(&seen);
                // Tasks begun beyond what the consumer has taken.
                seen.1 = seen.1.max(task + 1 - seen.0.max(3));
                Some(task * 2)
            },
        );
        for task in 3..200 {
            lock(&ahead).0 = task;
            assert_eq!(pool.next(), Some(Ok(task * 2)));
        }
        assert_eq!(pool.next(), None);
        let most = lock(&ahead).1;
        assert!(most <= 6, "{most} tasks ahead");
    }

    #[test]
    fn a_panic_is_an_error_and_not_a_wait_for_ever() {
        let mut pool = Pool::new(
            2,
            0..50,
            4,
            || (),
            |(), task, _| {
                assert!(task != 7, "this test panics on purpose");
                Some(task)
            },
        );
        let results: Vec<_> = std::iter::from_fn(|| pool.next()).collect();
        let good = results.iter().filter(|r| r.is_ok()).count();
        assert!(good <= 7 && matches!(results.last(), Some(Err(LoadError::Thread(_)))));
        assert_eq!(results.len(), good + 1);
    }

    #[test]
    fn dropping_ends_the_threads_in_the_middle_of_a_task() {
        let begun = Arc::new(AtomicBool::new(false));
        let told = begun.clone();
        let pool = Pool::<()>::new(
            2,
            0..10,
            4,
            || (),
            move |(), _, stop| {
                told.store(true, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                None
            },
        );
        while !begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        drop(pool);
        // Joined: nothing else holds what the threads held.
        assert_eq!(Arc::strong_count(&begun), 1);
    }
}
