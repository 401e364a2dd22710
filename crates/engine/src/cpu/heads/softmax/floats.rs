//! A block of rows in f32: two matrix products around the weights.

use super::super::super::memory::Ptr;
use super::super::super::simd::Simd;
use super::super::super::tile::{by_rows, put, split_rows, zeros};
use super::super::ROW;
use super::{Block, Segment, width};

impl Segment {
    /// Takes a block of rows in. `panels` are the features as [`pack`] leaves them; rows
    /// at `next` are asked for on the way.
    ///
    /// # Safety
    /// The instruction set must be available; `panels` must hold this segment's images.
    #[inline(always)]
    pub(super) unsafe fn floats<S: Simd>(&mut self, block: Block<'_, f32>, panels: &[f32]) {
        let (dim, width, n) = (self.dim, width::<S>(), block.n);
        for panel in 0..self.count.div_ceil(width) {
            let features = &panels[panel * width * dim..][..width * dim];
            // SAFETY: n rows of D numbers, a panel of D x width, this segment's own sums.
            unsafe {
                for (row, rows) in split_rows(n, S::ROWS) {
                    if panel == 0 {
                        block.ask::<S>(row, rows, dim);
                    }
                    let a = block.rows[row * dim..].as_ptr();
                    let to = &mut self.weights[row * width..];
                    by_rows!(S, rows, 2, logit_tile(a, features, dim, to));
                }
                self.weigh::<S>(panel, n, block.excluded);
                let first = self.to.add(panel * width * self.stride);
                let images = width.min(self.count - panel * width);
                for (image, images) in split_rows(images, S::ROWS) {
                    let to = first.add(image * self.stride + ROW);
                    let weights = self.weights[image..].as_ptr();
                    by_rows!(
                        S,
                        images,
                        2,
                        sum_tile(weights, block.rows, n, dim, to, self.stride)
                    );
                }
            }
        }
    }
}

/// Features as panels of `width` images, [panel][D][width], over τ; zeros beyond the last.
pub(super) fn pack(features: &[f32], dim: usize, temperature: f32, width: usize, to: &mut [f32]) {
    let inverse = 1.0 / temperature;
    to.fill(0.0);
    for (image, f) in features.chunks_exact(dim).enumerate() {
        let panel = &mut to[image / width * width * dim..];
        for (d, x) in f.iter().enumerate() {
            panel[d * width + image % width] = x * inverse;
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
        S::multiply(&mut acc, rows, dim, features.as_ptr());
        for (i, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                S::store(to.as_mut_ptr().add(i * width::<S>() + v * S::LANES), *x);
            }
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
            S::multiply_columns(&mut acc, weights, width::<S>(), n, b, dim);
            for (i, acc) in acc.iter().enumerate() {
                put::<S, _, NV>(*acc, to.add(i * stride + d).raw(), NV * S::LANES, true);
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
