//! Exact softmax over all rows: every row is read once for all images.

use super::super::memory::Ptr;
use super::super::simd::{Kernel, Simd};
use super::super::threads::{Parts, parallel};
use super::super::tile::{by_rows, multiply, put, split_rows, zeros};
use super::{Comparison, Partials, weigh};

/// Rows of a block of exact softmax: transposed once, then compared with all features.
const BLOCK_ROWS: usize = 64;
/// Segments of the rows of exact softmax: at most 64.
pub fn segments(rows: usize) -> Parts {
    Parts::at_most(
        rows,
        rows.div_ceil(64).max(512).next_multiple_of(BLOCK_ROWS),
    )
}

impl Comparison<'_> {
    /// Mean exact softmax loss over all rows; `gradient` (B x D) is overwritten.
    pub fn softmax(&self, partials: &mut Partials, gradient: &mut [f32]) -> f32 {
        let segments = segments(self.bank.len() / self.dim);
        let to = self.clear(partials, segments.count());
        let stride = partials.stride;
        parallel(segments.count(), |i| {
            // SAFETY: each segment has its own partial sums.
            unsafe {
                self.isa.run(SoftmaxSegment {
                    comparison: self,
                    rows: segments.range(i),
                    to: to.add(i * self.count() * stride),
                    stride,
                })
            }
        });
        self.merge(partials, segments.count(), false, gradient)
    }
}

/// Exact softmax over some rows, for all images.
struct SoftmaxSegment<'a> {
    comparison: &'a Comparison<'a>,
    rows: std::ops::Range<usize>,
    to: Ptr,
    stride: usize,
}

impl Kernel for SoftmaxSegment<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Comparison { dim, bank, .. } = *self.comparison;
        let count = self.comparison.count();
        let step = BLOCK_ROWS;
        // Rows of a block become columns: [D][BLOCK_ROWS].
        let mut transposed = vec![0f32; dim * step];
        let mut logits = [[0f32; BLOCK_ROWS]; 12];
        let mut at = self.rows.start;
        while at < self.rows.end {
            let n = BLOCK_ROWS.min(self.rows.end - at);
            for j in 0..n {
                let row = &bank[(at + j) * dim..][..dim];
                for (d, x) in row.iter().enumerate() {
                    transposed[d * step + j] = *x;
                }
            }
            for (image, rows) in split_rows(count, S::ROWS) {
                // SAFETY: `rows` images from `image`; `to` is this segment's own.
                unsafe {
                    by_rows!(
                        S,
                        rows,
                        2,
                        logit_tiles(&self, image, &transposed, &mut logits)
                    );
                    for (i, s) in logits[..rows].iter_mut().enumerate() {
                        if let Some(excluded) = self.comparison.excluded {
                            for j in 0..n {
                                if excluded[at + j] {
                                    s[j] = f32::NEG_INFINITY;
                                }
                            }
                        }
                        let partial = self.to.add((image + i) * self.stride);
                        let partial = partial.slice_mut(self.stride);
                        weigh::<S>(s, n, partial, dim);
                    }
                    let block = bank.as_ptr().add(at * dim);
                    by_rows!(S, rows, 2, sum_tiles(&self, image, block, n, &logits));
                }
            }
            at += n;
        }
    }
}

/// logits[i][j] = f_{image + i} · v_j / τ for the block's rows.
#[inline(always)]
unsafe fn logit_tiles<S: Simd, const M: usize, const NV: usize>(
    segment: &SoftmaxSegment<'_>,
    image: usize,
    transposed: &[f32],
    logits: &mut [[f32; BLOCK_ROWS]; 12],
) {
    let Comparison {
        dim,
        features,
        temperature,
        ..
    } = *segment.comparison;
    let mut a = [features.as_ptr(); M];
    for (i, a) in a.iter_mut().enumerate() {
        *a = a.wrapping_add((image + i) * dim);
    }
    for j in (0..BLOCK_ROWS).step_by(NV * S::LANES) {
        // SAFETY: D numbers of each feature; `transposed` holds D x BLOCK_ROWS.
        unsafe {
            let mut acc = zeros::<S, M, NV>();
            let b = transposed.as_ptr().add(j);
            multiply::<S, M, NV>(&mut acc, a, dim, b, BLOCK_ROWS);
            let inv = S::splat(1.0 / temperature);
            for i in 0..M {
                for v in 0..NV {
                    let to = logits[i].as_mut_ptr().add(j + v * S::LANES);
                    S::store(to, S::mul(acc[i][v], inv));
                }
            }
        }
    }
}

/// partial[2..] of M images += Σ_j weight_j v_j over the block's n rows.
#[inline(always)]
unsafe fn sum_tiles<S: Simd, const M: usize, const NV: usize>(
    segment: &SoftmaxSegment<'_>,
    image: usize,
    block: *const f32,
    n: usize,
    weights: &[[f32; BLOCK_ROWS]; 12],
) {
    let dim = segment.comparison.dim;
    let mut a = [weights[0].as_ptr(); M];
    for (i, a) in a.iter_mut().enumerate() {
        *a = weights[i].as_ptr();
    }
    let partial = |i: usize| segment.to.add((image + i) * segment.stride + 2).raw();
    let mut d = 0;
    // SAFETY: n rows of D numbers; the partials of this segment hold D numbers from 2 on.
    unsafe {
        while d + NV * S::LANES <= dim {
            let mut acc = zeros::<S, M, NV>();
            multiply::<S, M, NV>(&mut acc, a, n, block.add(d), dim);
            for i in 0..M {
                put::<S, NV>(acc[i], partial(i).add(d), NV * S::LANES, true);
            }
            d += NV * S::LANES;
        }
        for i in 0..M {
            for d in d..dim {
                let mut sum = 0.0;
                for j in 0..n {
                    sum += weights[i][j] * *block.add(j * dim + d);
                }
                *partial(i).add(d) += sum;
            }
        }
    }
}
