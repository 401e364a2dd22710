//! Exact softmax over all rows: every row is read once for all images.
//!
//! Images are the lanes. A block of rows is compared with a panel of images (features packed as
//! D x WIDTH, so that rows are read as they lie), the weights exp(s - m) are taken lane by lane,
//! and the same block, still in the cache, is summed up by them.

use super::super::memory::{Buffer, Ptr};
use super::super::simd::{Kernel, Simd};
use super::super::threads::{Parts, parallel};
use super::super::tile::{by_rows, multiply, multiply_columns, put, split_rows, zeros};
use super::{Comparison, Partials};

/// Rows of a block: 32 KB at D = 128.
const BLOCK_ROWS: usize = 64;
/// Stands for "no logit yet": below any that a feature and a row can have, yet a number, so that
/// the difference of two is one.
const LOWEST: f32 = -1e30;

/// Segments of the rows of exact softmax: at most 64.
pub fn segments(rows: usize) -> Parts {
    Parts::at_most(
        rows,
        rows.div_ceil(64).max(512).next_multiple_of(BLOCK_ROWS),
    )
}

/// Images of a panel: two vectors.
const fn width<S: Simd>() -> usize {
    2 * S::LANES
}

impl Comparison<'_> {
    /// Mean exact softmax loss over all rows; `gradient` (B x D) is overwritten. `panels` holds
    /// [`panels_len`] numbers.
    pub fn softmax(
        &self,
        partials: &mut Partials,
        panels: &mut Buffer,
        gradient: &mut [f32],
    ) -> f32 {
        let segments = segments(self.bank.len() / self.dim);
        let to = self.clear(partials, segments.count());
        let stride = partials.stride;
        let width = 2 * self.isa.lanes();
        self.pack(panels.as_mut_slice(), width);
        let packed = panels.as_slice();
        parallel(segments.count(), |i| {
            // SAFETY: each segment has its own partial sums.
            unsafe {
                self.isa.run(SoftmaxSegment {
                    comparison: self,
                    packed,
                    rows: segments.range(i),
                    to: to.add(i * self.count() * stride),
                    stride,
                })
            }
        });
        self.merge(partials, segments.count(), false, gradient)
    }

    /// Features as panels of `width` images, [panel][D][width], over τ; zeros beyond the last.
    fn pack(&self, to: &mut [f32], width: usize) {
        let dim = self.dim;
        let inverse = 1.0 / self.temperature;
        to.fill(0.0);
        for (image, f) in self.features.chunks_exact(dim).enumerate() {
            let panel = &mut to[image / width * width * dim..];
            for (d, x) in f.iter().enumerate() {
                panel[d * width + image % width] = x * inverse;
            }
        }
    }
}

/// Numbers that the packed features of `count` images take.
pub fn panels_len(count: usize, dim: usize, lanes: usize) -> usize {
    count.next_multiple_of(2 * lanes) * dim
}

/// Exact softmax over some rows, for all images.
struct SoftmaxSegment<'a> {
    comparison: &'a Comparison<'a>,
    packed: &'a [f32],
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
        let width = width::<S>();
        let panels = count.div_ceil(width);
        let mut most = vec![LOWEST; panels * width];
        let mut sums = vec![0f32; panels * width];
        // [row of the block][image of the panel]
        let mut weights = vec![0f32; BLOCK_ROWS * width];
        let mut at = self.rows.start;
        while at < self.rows.end {
            let n = BLOCK_ROWS.min(self.rows.end - at);
            let block = &bank[at * dim..][..n * dim];
            for panel in 0..panels {
                let features = &self.packed[panel * width * dim..][..width * dim];
                let images = width.min(count - panel * width);
                let (most, sums) = (
                    &mut most[panel * width..][..width],
                    &mut sums[panel * width..][..width],
                );
                // SAFETY: n rows of D numbers, a panel of D x width, and this segment's own sums
                // of `images` images.
                unsafe {
                    for (row, rows) in split_rows(n, S::ROWS) {
                        let (a, to) = (block[row * dim..].as_ptr(), &mut weights[row * width..]);
                        by_rows!(S, rows, 2, logit_tile(a, features, dim, to));
                    }
                    if let Some(excluded) = self.comparison.excluded {
                        for (j, _) in (excluded[at..at + n].iter().enumerate()).filter(|x| *x.1) {
                            weights[j * width..][..width].fill(f32::NEG_INFINITY);
                        }
                    }
                    let first = self.to.add(panel * width * self.stride);
                    let mut shrink = [1f32; 32];
                    weigh_columns::<S>(&mut weights[..n * width], most, sums, &mut shrink);
                    for (i, shrink) in shrink[..images].iter().enumerate() {
                        if *shrink != 1.0 {
                            let sum = first.add(i * self.stride + 2).slice_mut(dim);
                            sum.iter_mut().for_each(|x| *x *= shrink);
                        }
                    }
                    for (image, images) in split_rows(images, S::ROWS) {
                        let to = first.add(image * self.stride + 2);
                        let weights = weights[image..].as_ptr();
                        by_rows!(
                            S,
                            images,
                            2,
                            sum_tile(weights, block, n, dim, to, self.stride)
                        );
                    }
                }
            }
            at += n;
        }
        for i in 0..count {
            // SAFETY: this segment's own partial sums.
            let partial = unsafe { self.to.add(i * self.stride).slice_mut(2) };
            partial.copy_from_slice(&[most[i], sums[i]]);
        }
    }
}

/// to[i][image] = v_i · f_image / τ for M rows and a panel of images.
///
/// # Safety
/// M rows of D numbers at `a`; `features` D x two vectors; `to` M times two vectors.
#[inline(always)]
unsafe fn logit_tile<S: Simd, const M: usize, const NV: usize>(
    a: *const f32,
    features: &[f32],
    dim: usize,
    to: &mut [f32],
) {
    let mut rows = [a; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = row.wrapping_add(i * dim);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        multiply::<S, M, NV>(&mut acc, rows, dim, features.as_ptr(), width::<S>());
        for (i, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                S::store(to.as_mut_ptr().add(i * width::<S>() + v * S::LANES), *x);
            }
        }
    }
}

/// Turns logits, rows of two vectors of images, into exp(s - m), with m each image's largest logit
/// so far, raised if need be; adds them to `sums`, scaled down by `shrink` if m rose. A NaN gets
/// past the largest, but not past the sum.
///
/// # Safety
/// The instruction set must be available; `most`, `sums` and `shrink` hold two vectors, `logits`
/// whole rows of them.
#[inline(always)]
unsafe fn weigh_columns<S: Simd>(
    logits: &mut [f32],
    most: &mut [f32],
    sums: &mut [f32],
    shrink: &mut [f32],
) {
    let width = width::<S>();
    for v in (0..width).step_by(S::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let old = S::load(most.as_ptr().add(v));
            let mut top = old;
            for row in logits.chunks_exact(width) {
                top = S::max(top, S::load(row.as_ptr().add(v)));
            }
            let factor = S::exp(S::sub(old, top));
            S::store(shrink.as_mut_ptr().add(v), factor);
            S::store(most.as_mut_ptr().add(v), top);
            let mut sum = S::mul(S::load(sums.as_ptr().add(v)), factor);
            for row in logits.chunks_exact_mut(width) {
                let e = S::exp(S::sub(S::load(row.as_ptr().add(v)), top));
                S::store(row.as_mut_ptr().add(v), e);
                sum = S::add(sum, e);
            }
            S::store(sums.as_mut_ptr().add(v), sum);
        }
    }
}

/// Sums of M images += Σ_j weight_j v_j over the block's n rows.
///
/// # Safety
/// `weights` holds n rows of two vectors, of which M numbers are read; `block` n rows of D numbers;
/// `to` D numbers at each of M multiples of `stride`.
#[inline(always)]
unsafe fn sum_tile<S: Simd, const M: usize, const NV: usize>(
    weights: *const f32,
    block: &[f32],
    n: usize,
    dim: usize,
    to: Ptr,
    stride: usize,
) {
    let mut d = 0;
    // SAFETY: the caller's promise; d + NV vectors stay below D.
    unsafe {
        while d + NV * S::LANES <= dim {
            let mut acc = zeros::<S, M, NV>();
            let b = block.as_ptr().add(d);
            multiply_columns::<S, M, NV>(&mut acc, weights, width::<S>(), n, b, dim);
            for (i, acc) in acc.iter().enumerate() {
                put::<S, NV>(*acc, to.add(i * stride + d).raw(), NV * S::LANES, true);
            }
            d += NV * S::LANES;
        }
        for i in 0..M {
            for d in d..dim {
                let mut sum = 0.0;
                for j in 0..n {
                    sum += *weights.add(j * width::<S>() + i) * block[j * dim + d];
                }
                *to.add(i * stride + d).raw() += sum;
            }
        }
    }
}
