//! Sampled negatives: their rows lie anywhere, so they are asked for a block ahead.

use npid_network::method::{NegativeSampler, Negatives};

use super::super::element::Element;
use super::super::memory::Ptr;
use super::super::simd::{Kernel, Simd};
use super::super::threads::{Parts, parallel};
use super::nce::judge;
use super::{Compared, Comparison, Own, Partials, ROW, weigh};
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

impl<E: Element> Comparison<'_, E> {
    /// Mean contrastive loss against K negatives for each image; `gradient` is overwritten.
    pub fn contrastive(
        &self,
        drawn: Drawn<'_>,
        partials: &mut Partials,
        gradient: &mut [f32],
    ) -> Compared {
        let segments = self.over_negatives(drawn, Work::Softmax, partials);
        self.merge(partials, segments, Own::Beside, gradient)
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
struct NegativeSegment<'a, E> {
    comparison: &'a Comparison<'a, E>,
    drawn: Drawn<'a>,
    work: Work,
    image: usize,
    negatives: std::ops::Range<usize>,
    to: Ptr,
}

impl<E: Element> Kernel for NegativeSegment<'_, E> {
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
        let partial = unsafe { self.to.slice_mut(ROW + dim + 3) };
        let sampled = match self.drawn.draws {
            Draws::Sampled { epoch, occurrences } => {
                let row = rows[self.image];
                Some((self.drawn.sampler).of(epoch, row, occurrences[self.image]))
            }
            Draws::Given(_) => None,
        };
        // Rows lie anywhere: those of the first block are asked for at once, all others while the
        // block before them is worked on, a few at a time, since no more than about 20 lines can
        // be on their way.
        let mut next = Asked {
            rows: [bank.as_ptr(); BLOCK_NEGATIVES],
            bytes: dim * size_of::<E>(),
            asked: 0,
        };
        let mut at = self.negatives.start;
        let mut n = self.draw(at, &sampled, &mut next);
        next.ask::<S>(BLOCK_NEGATIVES);
        while n > 0 {
            let block = next.rows;
            let here = n;
            at += here;
            n = self.draw(at, &sampled, &mut next);
            let mut s = [0f32; BLOCK_NEGATIVES];
            // SAFETY: `block` holds `here` rows of D numbers.
            unsafe {
                dots::<S, E>(f, &block[..here], &mut s, &mut next);
                s.iter_mut().for_each(|s| *s /= temperature);
                match self.work {
                    Work::Softmax => weigh::<S>(&mut s, here, partial, dim),
                    Work::Estimate => {
                        weigh::<S>(&mut s, here, partial, 0);
                        next.ask::<S>(BLOCK_NEGATIVES);
                        continue;
                    }
                    Work::Nce { shift, estimate } => {
                        if estimate {
                            weigh::<S>(&mut s.clone(), here, partial, 0);
                        }
                        judge::<S>(&mut s, here, shift, &mut partial[ROW + dim..]);
                    }
                }
                let sum = &mut partial[ROW..ROW + dim];
                add_rows::<S, E>(&block[..here], &s, sum, &mut next);
            }
            next.ask::<S>(BLOCK_NEGATIVES);
        }
    }
}

/// Rows of a block that are asked for before they are needed.
struct Asked<E> {
    rows: [*const E; BLOCK_NEGATIVES],
    bytes: usize,
    /// How many have been asked for.
    asked: usize,
}

impl<E: Element> Asked<E> {
    /// Asks for `count` more, if there are so many.
    #[inline(always)]
    fn ask<S: Simd>(&mut self, count: usize) {
        let end = (self.asked + count).min(BLOCK_NEGATIVES);
        for row in &self.rows[self.asked..end] {
            for line in (0..self.bytes).step_by(64) {
                // SAFETY: a prefetch touches nothing.
                unsafe { S::prefetch(row.cast::<u8>().wrapping_add(line)) };
            }
        }
        self.asked = end;
    }
}

impl<E: Element> NegativeSegment<'_, E> {
    /// Draws the block of negatives from `at` on; returns how many there are.
    #[inline(always)]
    fn draw(&self, at: usize, sampled: &Option<Negatives<'_>>, block: &mut Asked<E>) -> usize {
        let n = BLOCK_NEGATIVES.min(self.negatives.end.saturating_sub(at));
        block.asked = 0;
        let rows = match (sampled, self.drawn.draws) {
            _ if n == 0 => return 0,
            (Some(negatives), _) => negatives.many::<BLOCK_NEGATIVES>(at as u32),
            (None, Draws::Given(given)) => {
                let mut rows = [0; BLOCK_NEGATIVES];
                rows[..n].copy_from_slice(&given[self.image * self.drawn.neg_num + at..][..n]);
                rows
            }
            (None, Draws::Sampled { .. }) => unreachable!("sampled draws have a sampler"),
        };
        let Comparison { dim, bank, .. } = *self.comparison;
        for (row, p) in rows.iter().zip(&mut block.rows) {
            *p = bank[*row as usize * dim..][..dim].as_ptr();
        }
        n
    }
}

/// s[j] = f · v_j, four rows at a time; asks for rows of the next block.
#[inline(always)]
unsafe fn dots<S: Simd, E: Element>(
    f: &[f32],
    rows: &[*const E],
    s: &mut [f32],
    next: &mut Asked<E>,
) {
    let mut fours = rows.chunks_exact(4).zip(s.chunks_exact_mut(4));
    for (rows, s) in fours.by_ref() {
        next.ask::<S>(2);
        // SAFETY: four rows of D numbers.
        unsafe { dot_tile::<S, E, 4>(f, rows, s) };
    }
    let whole = rows.len() / 4 * 4;
    for (j, s) in (whole..rows.len()).zip(&mut s[whole..]) {
        // SAFETY: a row of D numbers.
        unsafe { dot_tile::<S, E, 1>(f, &rows[j..], std::slice::from_mut(s)) };
    }
}

/// s[j] = f · v_j for M rows.
#[inline(always)]
unsafe fn dot_tile<S: Simd, E: Element, const M: usize>(
    f: &[f32],
    rows: &[*const E],
    s: &mut [f32],
) {
    let dim = f.len();
    let mut d = 0;
    // SAFETY: LANES numbers, or what is left of D, from d on.
    unsafe {
        let mut acc = [S::zero(); M];
        while d + S::LANES <= dim {
            let x = S::load(f.as_ptr().add(d));
            for i in 0..M {
                acc[i] = S::fma(x, E::load::<S>(rows[i].add(d)), acc[i]);
            }
            d += S::LANES;
        }
        if d < dim {
            let x = S::load_first(f.as_ptr().add(d), dim - d);
            for i in 0..M {
                let v = E::load_first::<S>(rows[i].add(d), dim - d);
                acc[i] = S::fma(x, v, acc[i]);
            }
        }
        for i in 0..M {
            s[i] = S::sum(acc[i]);
        }
    }
}

/// sum += Σ_j weight_j v_j, four vectors of the sum at a time; asks for rows of the next block.
#[inline(always)]
unsafe fn add_rows<S: Simd, E: Element>(
    rows: &[*const E],
    weights: &[f32],
    sum: &mut [f32],
    next: &mut Asked<E>,
) {
    let dim = sum.len();
    let mut d = 0;
    // SAFETY: all accesses stay below D.
    unsafe {
        while d + 4 * S::LANES <= dim {
            next.ask::<S>(2);
            let mut acc = [S::zero(); 4];
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(sum.as_ptr().add(d + v * S::LANES));
            }
            for (row, w) in rows.iter().zip(weights) {
                let w = S::splat(*w);
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(w, E::load::<S>(row.add(d + v * S::LANES)), *acc);
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
                acc = S::fma(S::splat(*w), E::load_first::<S>(row.add(d), n), acc);
            }
            S::store_first(sum.as_mut_ptr().add(d), acc, n);
            d += n;
        }
    }
}
