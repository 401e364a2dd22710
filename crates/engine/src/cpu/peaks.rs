//! What the machine can do at most: the figures that those of operations are held against.

use std::hint::black_box;
use std::time::Instant;

use super::memory::{Buffer, Ptr};
use super::simd::{Isa, Kernel, Simd};
use super::threads::{Parts, Threads, parallel};
use crate::Error;

/// Measured peaks of some threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// 10^9 floating-point operations a second in f32, a fused multiply-add being two, with
    /// operands that never leave the registers.
    pub gflop_per_s: f64,
    /// 10^9 bytes a second read from memory.
    pub read_gb_per_s: f64,
    /// 10^9 bytes a second read and written where memory is copied, both counted.
    pub copy_gb_per_s: f64,
}

/// Numbers of each of the two buffers, far more than caches hold: 256 MB.
const NUMBERS: usize = 64_000_000;
/// The best of so many tries counts: what else runs can only take away.
const TRIES: usize = 7;
/// Multiply-adds of each accumulator in a try.
const ROUNDS: usize = 4_000_000;
/// Accumulators: two units times a latency of four or five are what keeps them busy, and AVX2 has
/// 16 registers.
const ACCUMULATORS: usize = 12;

impl Peaks {
    /// Measures with `threads` threads (0: one a core), in about two seconds and 512 MB.
    ///
    /// # Errors
    /// If the threads or the memory can't be had, or the machine hasn't the instruction set.
    pub fn measure(isa: Isa, threads: usize) -> Result<Self, Error> {
        if !Isa::available().contains(&isa) {
            return Err(Error::Argument(format!(
                "this machine has no {}",
                isa.name()
            )));
        }
        if !Buffer::possible(2 * NUMBERS as u128) {
            return Err(Error::Argument(format!(
                "measuring memory takes {} MB, which the system doesn't give",
                2 * NUMBERS * 4 / 1_000_000
            )));
        }
        let threads = Threads::new(threads)?;
        let n = threads.count();
        let flops = 2 * ROUNDS * ACCUMULATORS * isa.lanes() * n;
        let gflop_per_s = best(&threads, flops, || {
            parallel(n, |_| {
                // SAFETY: the instruction set is there, as checked above.
                black_box(unsafe { isa.run(MultiplyAdd) });
            });
        });
        let (mut from, mut to) = (Buffer::new(NUMBERS), Buffer::new(NUMBERS));
        // Pages that nothing was written to are all the same zeros.
        from.as_mut_slice().fill(1.0);
        let (from, to) = (from.ptr(), to.ptr());
        // Several parts a thread, so that one that is held up leaves its share to others.
        let parts = Parts::exactly(NUMBERS, 16 * n);
        let read_gb_per_s = best(&threads, 4 * NUMBERS, || {
            parallel(parts.count(), |i| {
                let range = parts.range(i);
                let (from, len) = (from.add(range.start), range.len());
                // SAFETY: as above; the range is within the buffer, which nobody writes.
                black_box(unsafe { isa.run(Read { from, len }) });
            });
        });
        let copy_gb_per_s = best(&threads, 2 * 4 * NUMBERS, || {
            parallel(parts.count(), |i| {
                let range = parts.range(i);
                // SAFETY: disjoint parts of two buffers.
                unsafe {
                    let to = to.add(range.start).slice_mut(range.len());
                    to.copy_from_slice(from.add(range.start).slice(range.len()));
                }
            });
        });
        Ok(Peaks {
            gflop_per_s,
            read_gb_per_s,
            copy_gb_per_s,
        })
    }
}

/// 10^9 units a second of the fastest try.
fn best(threads: &Threads, units: usize, work: impl Fn() + Sync + Send) -> f64 {
    let seconds = (0..TRIES).map(|_| {
        let begun = Instant::now();
        threads.enter(&work);
        begun.elapsed().as_secs_f64()
    });
    units as f64 / seconds.fold(f64::INFINITY, f64::min) * 1e-9
}

/// ROUNDS times acc = acc·x + y in each accumulator. Returns their sum, so that none is left out.
struct MultiplyAdd;

impl Kernel for MultiplyAdd {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            // Towards 1, never tiny: denormal numbers are slow.
            let (x, y) = (S::splat(black_box(0.5)), S::splat(black_box(0.5)));
            let mut acc = [S::splat(black_box(0.25)); ACCUMULATORS];
            for _ in 0..ROUNDS {
                for a in &mut acc {
                    *a = S::fma(*a, x, y);
                }
            }
            let mut sum = S::zero();
            for a in acc {
                sum = S::add(sum, a);
            }
            S::sum(sum)
        }
    }
}

/// The sum of `len` numbers.
struct Read {
    from: Ptr,
    len: usize,
}

impl Kernel for Read {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: the caller vouches for the instruction set and the numbers.
        unsafe {
            let mut sums = [S::zero(); 8];
            let step = 8 * S::LANES;
            let mut at = 0;
            while at + step <= self.len {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(self.from.add(at + i * S::LANES).raw()));
                }
                at += step;
            }
            let mut sum = S::zero();
            while at < self.len {
                let n = S::LANES.min(self.len - at);
                sum = S::add(sum, S::load_first(self.from.add(at).raw(), n));
                at += n;
            }
            for s in sums {
                sum = S::add(sum, s);
            }
            S::sum(sum)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_is_computed() {
        for isa in Isa::available() {
            // SAFETY: the instruction sets are available.
            let sum = unsafe { isa.run(MultiplyAdd) };
            // Every lane of every accumulator has come to 1.
            assert_eq!(sum, (ACCUMULATORS * isa.lanes()) as f32, "{}", isa.name());
            let mut numbers: Vec<f32> = (0..1003).map(|i| i as f32).collect();
            let read = Read {
                from: Ptr::of(&mut numbers),
                len: numbers.len(),
            };
            // SAFETY: the instruction sets are available; the numbers are there.
            let sum = unsafe { isa.run(read) };
            assert_eq!(sum, numbers.iter().sum::<f32>(), "{}", isa.name());
        }
    }
}
