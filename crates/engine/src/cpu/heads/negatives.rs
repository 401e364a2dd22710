//! Sampled negatives: their rows lie anywhere, so they are asked for a block ahead.

use npid_network::method::{NegativeSampler, Negatives};

use super::super::memory::Ptr;
use super::super::simd::{Kernel, Simd};
use super::super::threads::{Parts, parallel};
use super::nce::judge;
use super::{Comparison, Partials, weigh};
use crate::Draws;

/// Negatives of a block: their rows are read for the logits and again, from L1, for the sum.
const BLOCK_NEGATIVES: usize = 16;

/// Segments of the negatives of one image: at most 16.
pub fn segments(neg_num: usize) -> Parts {
    Parts::at_most(
        neg_num,
        neg_num
            .div_ceil(16)
            .max(256)
            .next_multiple_of(BLOCK_NEGATIVES),
    )
}

/// The negatives of a batch.
#[derive(Clone, Copy)]
pub struct Drawn<'a> {
    /// What draws them.
    pub sampler: &'a NegativeSampler,
    /// Where they come from.
    pub draws: Draws<'a>,
    /// K.
    pub neg_num: usize,
}

/// What is summed up over negatives.
#[derive(Clone, Copy)]
pub enum Work {
    /// Largest logit, Σ exp(s) and Σ exp(s)·v.
    Softmax,
    /// Largest logit and Σ exp(s).
    Estimate,
    /// Σ -ln(1 - h) and Σ h·v for h = σ(s - shift); with `estimate` largest logit and Σ exp(s) too.
    Nce {
        /// ln Z + ln(K/N).
        shift: f32,
        /// Whether the batch's own Z is wanted.
        estimate: bool,
    },
}

impl Comparison<'_> {
    /// Mean contrastive loss against K negatives for each image; `gradient` is overwritten.
    pub fn contrastive(
        &self,
        drawn: Drawn<'_>,
        partials: &mut Partials,
        gradient: &mut [f32],
    ) -> f32 {
        let segments = self.over_negatives(drawn, Work::Softmax, partials);
        self.merge(partials, segments, true, gradient)
    }

    /// Does `work` for all negatives of all images; returns the number of segments.
    pub(super) fn over_negatives(
        &self,
        drawn: Drawn<'_>,
        work: Work,
        partials: &mut Partials,
    ) -> usize {
        let segments = segments(drawn.neg_num);
        let to = self.clear(partials, segments.count());
        let stride = partials.stride;
        let count = self.count();
        parallel(segments.count() * count, |i| {
            let (segment, image) = (i / count, i % count);
            // SAFETY: each segment and image has its own partial sums.
            unsafe {
                self.isa.run(NegativeSegment {
                    comparison: self,
                    drawn,
                    work,
                    image,
                    negatives: segments.range(segment),
                    to: to.add(i * stride),
                })
            }
        });
        segments.count()
    }
}

/// Some negatives of one image.
struct NegativeSegment<'a> {
    comparison: &'a Comparison<'a>,
    drawn: Drawn<'a>,
    work: Work,
    image: usize,
    negatives: std::ops::Range<usize>,
    to: Ptr,
}

impl Kernel for NegativeSegment<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Comparison {
            dim,
            bank,
            features,
            rows,
            temperature,
            ..
        } = *self.comparison;
        let f = &features[self.image * dim..][..dim];
        // SAFETY: this segment's own partial sums.
        let partial = unsafe { self.to.slice_mut(dim + 3) };
        let sampled = match self.drawn.draws {
            Draws::Sampled { epoch, occurrences } => {
                let row = rows[self.image];
                Some((self.drawn.sampler).of(epoch, row, occurrences[self.image]))
            }
            Draws::Given(_) => None,
        };
        let mut next = [bank.as_ptr(); BLOCK_NEGATIVES];
        let mut at = self.negatives.start;
        let mut n = self.fetch::<S>(at, &sampled, &mut next);
        while n > 0 {
            let block = next;
            let here = n;
            at += here;
            n = self.fetch::<S>(at, &sampled, &mut next);
            let mut s = [0f32; BLOCK_NEGATIVES];
            // SAFETY: `block` holds `here` rows of D numbers.
            unsafe {
                dots::<S>(f, &block[..here], &mut s);
                s.iter_mut().for_each(|s| *s /= temperature);
                match self.work {
                    Work::Softmax => weigh::<S>(&mut s, here, partial, dim),
                    Work::Estimate => {
                        weigh::<S>(&mut s, here, partial, 0);
                        continue;
                    }
                    Work::Nce { shift, estimate } => {
                        if estimate {
                            weigh::<S>(&mut s.clone(), here, partial, 0);
                        }
                        partial[dim + 2] += judge::<S>(&mut s, here, shift);
                    }
                }
                add_rows::<S>(&block[..here], &s, &mut partial[2..dim + 2]);
            }
        }
    }
}

impl NegativeSegment<'_> {
    /// Draws the block of negatives from `at` on and asks for their rows, which lie anywhere;
    /// returns how many there are.
    #[inline(always)]
    fn fetch<S: Simd>(
        &self,
        at: usize,
        sampled: &Option<Negatives<'_>>,
        block: &mut [*const f32; BLOCK_NEGATIVES],
    ) -> usize {
        let dim = self.comparison.dim;
        let n = BLOCK_NEGATIVES.min(self.negatives.end.saturating_sub(at));
        for (j, p) in block[..n].iter_mut().enumerate() {
            let row = match (sampled, self.drawn.draws) {
                (Some(negatives), _) => negatives.get((at + j) as u32),
                (None, Draws::Given(given)) => given[self.image * self.drawn.neg_num + at + j],
                (None, Draws::Sampled { .. }) => unreachable!("sampled draws have a sampler"),
            };
            let row = &self.comparison.bank[row as usize * dim..][..dim];
            *p = row.as_ptr();
            for line in (0..dim).step_by(16) {
                // SAFETY: a prefetch touches nothing.
                unsafe { S::prefetch(row.as_ptr().wrapping_add(line)) };
            }
        }
        n
    }
}

/// s[j] = f · v_j, four rows at a time.
#[inline(always)]
unsafe fn dots<S: Simd>(f: &[f32], rows: &[*const f32], s: &mut [f32]) {
    let dim = f.len();
    let mut j = 0;
    while j < rows.len() {
        let many = (rows.len() - j).min(4);
        // SAFETY: the instruction set is available.
        let mut acc = [unsafe { S::zero() }; 4];
        let mut d = 0;
        while d < dim {
            let n = S::LANES.min(dim - d);
            // SAFETY: n numbers from d on.
            unsafe {
                let x = super::super::affine::load::<S>(f.as_ptr().add(d), n);
                for i in 0..4 {
                    if i < many {
                        let v = super::super::affine::load::<S>(rows[j + i].add(d), n);
                        acc[i] = S::fma(x, v, acc[i]);
                    }
                }
            }
            d += n;
        }
        for i in 0..many {
            // SAFETY: the instruction set is available.
            s[j + i] = unsafe { S::sum(acc[i]) };
        }
        j += many;
    }
}

/// sum += Σ_j weight_j v_j, four vectors of the sum at a time.
#[inline(always)]
unsafe fn add_rows<S: Simd>(rows: &[*const f32], weights: &[f32], sum: &mut [f32]) {
    let dim = sum.len();
    let mut d = 0;
    // SAFETY: all accesses stay below D.
    unsafe {
        while d + 4 * S::LANES <= dim {
            let mut acc = [S::zero(); 4];
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(sum.as_ptr().add(d + v * S::LANES));
            }
            for (row, w) in rows.iter().zip(weights) {
                let w = S::splat(*w);
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(w, S::load(row.add(d + v * S::LANES)), *acc);
                }
            }
            for (v, acc) in acc.iter().enumerate() {
                S::store(sum.as_mut_ptr().add(d + v * S::LANES), *acc);
            }
            d += 4 * S::LANES;
        }
        while d < dim {
            let n = S::LANES.min(dim - d);
            let mut acc = S::load_first(sum.as_ptr().add(d), n);
            for (row, w) in rows.iter().zip(weights) {
                acc = S::fma(S::splat(*w), S::load_first(row.add(d), n), acc);
            }
            S::store_first(sum.as_mut_ptr().add(d), acc, n);
            d += n;
        }
    }
}
