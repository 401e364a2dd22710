//! Tasks on several threads.

use rayon::prelude::*;

use crate::Error;

/// More only cost time to start.
const MOST_THREADS: usize = 1024;

/// A pool of threads that sleep when there is nothing to do.
pub struct Threads {
    pool: rayon::ThreadPool,
    count: usize,
}

impl Threads {
    /// `count` threads, or one a core for 0.
    ///
    /// # Errors
    /// If the system can't start them.
    pub fn new(count: usize) -> Result<Self, Error> {
        let count = if count == 0 {
            std::thread::available_parallelism().map_or(1, usize::from)
        } else {
            count
        };
        if count > MOST_THREADS {
            return Err(Error::Argument(format!(
                "{count} threads; at most {MOST_THREADS} can be used"
            )));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("npid-cpu-{i}"))
            .build()
            .map_err(|e| Error::Argument(format!("can't start {count} threads: {e}")))?;
        Ok(Threads { pool, count })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `work` inside the pool, so that its parallel loops start without a hand-over.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

/// Runs `task(0)` to `task(n - 1)` on the threads of the current pool, in any order: every task
/// writes its own part of the result, so that the number of threads can't change a bit.
pub fn parallel(n: usize, task: impl Fn(usize) + Sync + Send) {
    if n == 1 {
        return task(0);
    }
    (0..n).into_par_iter().with_max_len(1).for_each(task);
}

/// Consecutive parts of `0..n`, each of at most `most` and as equal as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    n: usize,
    count: usize,
}

impl Parts {
    /// Parts of at most `most`.
    pub fn at_most(n: usize, most: usize) -> Self {
        Parts {
            n,
            count: n.div_ceil(most.max(1)).max(1),
        }
    }

    /// `count` parts, or fewer if there aren't so many elements.
    pub fn exactly(n: usize, count: usize) -> Self {
        Parts {
            n,
            count: count.clamp(1, n.max(1)),
        }
    }

    /// Number of parts.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements of part `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        let at = |i: usize| (self.n as u128 * i as u128 / self.count as u128) as usize;
        at(i)..at(i + 1)
    }
}
