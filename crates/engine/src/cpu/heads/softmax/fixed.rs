//! A block of 16-bit rows in 16-bit integers, multiplied in pairs into 32 bits: two products a lane
//! where a multiplication of floats has one.
//!
//! That is no less exact than the rows are. Unit vectors need no exponent: with 14 bits behind the
//! point a row of bf16 keeps all its bits but those below 2^-15, features get as many, and by
//! Cauchy and Schwarz no sum leaves 32 bits. The weights exp(s - m) of a block are scaled for each
//! image by what the block's largest and their sum allow, so that what is rounded away is measured
//! against the block's own sum; 32-bit sums over a block are added up in f32.
//!
//! A block with a row that is no such vector (longer than 1.97, or not a number) is left to f32.

use super::super::super::element::Element;
use super::super::super::simd::Simd;
use super::super::super::tile::{by_rows, put, split_rows};
use super::super::ROW;
use super::{BLOCK_ROWS, Block, Segment, width};
use crate::cpu::memory::Ptr;

/// 1 in a row.
const ROW_ONE: f32 = 16384.0;
/// 1 in a feature. Σ over D is at most 1.005 · 32000 · 1.97 · 16384, which is below 2^31.
const FEATURE_ONE: f32 = 32000.0;
/// Squares of the lengths that are taken, of features and of rows.
const LONGEST_FEATURE: f32 = 1.01;
const LONGEST_ROW: f32 = 3.9;
/// The largest weight.
const WEIGHT_ONE: f32 = 32767.0;
/// The largest sum of weights: times 1.97 · 16384, the most a number of a row can be, and with what
/// rounding adds, it is below 2^31.
const WEIGHT_SUM: f32 = 65_000.0;

/// Pairs in a row or feature of D numbers.
pub(super) const fn pairs(dim: usize) -> usize {
    dim.div_ceil(2)
}

/// Integers from one row to the next: whole vectors.
fn stride<S: Simd>(dim: usize) -> usize {
    dim.next_multiple_of(2 * S::LANES)
}

/// Features as panels of `width` images, [panel][pairs of D][width][2].
#[derive(Clone, Copy)]
pub(super) struct Features<'a> {
    integers: &'a [i16],
    /// What makes a logit of a sum of products.
    scale: f32,
}

impl<'a> Features<'a> {
    /// Packs them into `to`, which holds `width`-fold images times [`pairs`] numbers; `None` where
    /// one is longer than 1 or not a number.
    pub(super) fn pack(
        features: &[f32],
        dim: usize,
        temperature: f32,
        width: usize,
        to: &'a mut [f32],
    ) -> Option<Self> {
        let square = |f: &[f32]| f.iter().map(|x| x * x).sum::<f32>();
        let unit = |f: &[f32]| square(f) < LONGEST_FEATURE;
        if !features.chunks_exact(dim).all(unit) {
            return None;
        }
        to.fill(0.0);
        let len = 2 * to.len();
        // SAFETY: as many bytes, less strictly aligned; any bits are integers.
        let integers = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), len) };
        for (image, f) in features.chunks_exact(dim).enumerate() {
            let panel = &mut integers[image / width * width * pairs(dim) * 2..];
            for (d, x) in f.iter().enumerate() {
                let at = (d / 2 * width + image % width) * 2 + d % 2;
                panel[at] = (x * FEATURE_ONE).round_ties_even() as i16;
            }
        }
        let scale = 1.0 / (ROW_ONE * FEATURE_ONE * temperature);
        Some(Features { integers, scale })
    }
}

/// A block's rows as integers, and its weights.
pub(super) struct Integers {
    /// Rows as they lie.
    rows: Vec<i16>,
    /// Two rows in turn, for each vector of both the halves of [`Simd::interleave`].
    pairs: Vec<i16>,
    /// [pair of rows][image of the panel][2]
    weights: Vec<i16>,
    /// For each image of the panel what makes a sum of a sum of products.
    factors: [f32; 32],
}

impl Integers {
    pub(super) fn new<S: Simd>(dim: usize) -> Self {
        let numbers = BLOCK_ROWS * stride::<S>(dim);
        Integers {
            rows: vec![0; numbers],
            pairs: vec![0; numbers],
            weights: vec![0; BLOCK_ROWS * width::<S>()],
            factors: [0.0; 32],
        }
    }

    /// Takes a block of rows; false if one doesn't fit integers. Rows of the next block are asked
    /// for on the way.
    ///
    /// # Safety
    /// The instruction set must be available; the block must hold its n rows of D numbers.
    #[inline(always)]
    pub(super) unsafe fn take<S: Simd, E: Element>(
        &mut self,
        block: &Block<'_, E>,
        dim: usize,
    ) -> bool {
        let (stride, both) = (stride::<S>(dim), 2 * S::LANES);
        // SAFETY: n rows of D numbers, and room for as many of `stride`.
        unsafe {
            let one = S::splat(ROW_ONE);
            let (mut most, mut sum) = (S::zero(), S::zero());
            for j in (0..block.n).step_by(2) {
                let two = block.n - j > 1;
                block.ask::<S>(j, 2, dim);
                let a = block.rows.as_ptr().add(j * dim);
                let b = if two { a.add(dim) } else { a };
                let mut squares = [S::zero(); 4];
                for d in (0..dim).step_by(both) {
                    let left = dim - d;
                    let [a0, a1] = two_vectors::<S, E>(a.add(d), left);
                    let [b0, b1] = two_vectors::<S, E>(b.add(d), left);
                    for (square, x) in squares.iter_mut().zip([a0, a1, b0, b1]) {
                        *square = S::fma(x, x, *square);
                    }
                    let a = S::to_short(S::mul(a0, one), S::mul(a1, one));
                    let b = if two {
                        S::to_short(S::mul(b0, one), S::mul(b1, one))
                    } else {
                        S::zero_integers()
                    };
                    let to = self.rows.as_mut_ptr().add(j * stride + d);
                    S::store_integers(to, a);
                    S::store_integers(to.add(stride), b);
                    let (low, high) = S::interleave(a, b);
                    let to = self.pairs.as_mut_ptr().add(j * stride + 2 * d);
                    S::store_integers(to, low);
                    S::store_integers(to.add(both), high);
                }
                let [a0, a1, b0, b1] = squares;
                let (a, b) = (S::add(a0, a1), S::add(b0, b1));
                most = S::max(most, S::max(a, b));
                sum = S::add(sum, S::add(a, b));
            }
            // The largest of each lane, summed up, is at least the square of the longest row. A
            // NaN gets past the largest but not past the sum.
            S::sum(most) < LONGEST_ROW && S::sum(sum).is_finite()
        }
    }

    /// Rounds the weights of the block's n rows for a panel's images.
    ///
    /// # Safety
    /// The instruction set must be available; `weights` must hold n rows of two vectors, above 0.
    #[inline(always)]
    unsafe fn round_weights<S: Simd>(&mut self, weights: &[f32], n: usize) {
        let width = width::<S>();
        for v in (0..width).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let (mut most, mut sum) = (S::zero(), S::zero());
                for row in weights[..n * width].chunks_exact(width) {
                    let e = S::load(row.as_ptr().add(v));
                    most = S::max(most, e);
                    sum = S::add(sum, e);
                }
                let by_most = S::div(S::splat(WEIGHT_ONE), most);
                let by_sum = S::div(S::splat(WEIGHT_SUM), sum);
                // Where all weights are as good as 0 the scale would be infinite.
                let scale = S::min(S::splat(1e30), S::min(by_most, by_sum));
                let factor = S::div(S::splat(1.0 / ROW_ONE), scale);
                S::store(self.factors.as_mut_ptr().add(v), factor);
                for j in (0..n).step_by(2) {
                    let a = S::load(weights.as_ptr().add(j * width + v));
                    let b = if n - j > 1 {
                        S::load(weights.as_ptr().add((j + 1) * width + v))
                    } else {
                        S::zero()
                    };
                    let pair = S::to_pairs(S::mul(a, scale), S::mul(b, scale));
                    let to = self.weights.as_mut_ptr().add(j * width + 2 * v);
                    S::store_integers(to, pair);
                }
            }
        }
    }
}

/// The next `n` numbers as two vectors, zeros beyond.
#[inline(always)]
unsafe fn two_vectors<S: Simd, E: Element>(p: *const E, n: usize) -> [S::V; 2] {
    // SAFETY: the caller vouches for n numbers and the instruction set.
    unsafe {
        if n >= 2 * S::LANES {
            return [E::load::<S>(p), E::load::<S>(p.add(S::LANES))];
        }
        let first = E::load_first::<S>(p, n.min(S::LANES));
        let second = n.saturating_sub(S::LANES);
        [first, E::load_first::<S>(p.wrapping_add(S::LANES), second)]
    }
}

impl Segment {
    /// Takes a block of n rows in that [`Integers::take`] has taken.
    ///
    /// # Safety
    /// The instruction set must be available; `features` must hold this segment's images.
    #[inline(always)]
    pub(super) unsafe fn fixed<S: Simd>(
        &mut self,
        integers: &mut Integers,
        n: usize,
        excluded: Option<&[bool]>,
        features: Features<'_>,
    ) {
        let (dim, width) = (self.dim, width::<S>());
        let (stride, pairs) = (stride::<S>(dim), pairs(dim));
        for panel in 0..self.count.div_ceil(width) {
            let panel_features = features.integers[panel * width * pairs * 2..].as_ptr();
            // SAFETY: n rows of `stride` integers, a panel of D x width, this segment's own sums.
            unsafe {
                for (row, rows) in split_rows(n, S::ROWS) {
                    let a = integers.rows[row * stride..].as_ptr();
                    let to = &mut self.weights[row * width..];
                    by_rows!(
                        S,
                        rows,
                        2,
                        logit_tile(a, stride, panel_features, pairs, features.scale, to)
                    );
                }
                self.weigh::<S>(panel, n, excluded);
                integers.round_weights::<S>(&self.weights, n);
                let first = self.to.add(panel * width * self.stride + ROW);
                let images = width.min(self.count - panel * width);
                for (image, images) in split_rows(images, S::ROWS) {
                    let sum = Sum {
                        weights: integers.weights[2 * image..].as_ptr(),
                        factors: &integers.factors[image..],
                        rows: integers.pairs.as_ptr(),
                        pairs: n.div_ceil(2),
                        dim,
                        to: first.add(image * self.stride),
                        stride: self.stride,
                    };
                    by_rows!(S, images, 2, sum_tile(sum));
                }
            }
        }
    }
}

/// to[i][image] = scale · v_i · f_image for M rows and a panel of images.
///
/// # Safety
/// M rows of at least `pairs` pairs at `a`, each `stride` from the last; `features` as many times
/// two vectors; `to` M times two vectors.
#[inline(always)]
unsafe fn logit_tile<S: Simd, const M: usize, const NV: usize>(
    a: *const i16,
    stride: usize,
    features: *const i16,
    pairs: usize,
    scale: f32,
    to: &mut [f32],
) {
    let mut rows = [a; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = row.wrapping_add(i * stride);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::zero_integers(); NV]; M];
        let mut b = features;
        for c in 0..pairs {
            let mut images = [S::zero_integers(); NV];
            for (v, x) in images.iter_mut().enumerate() {
                *x = S::load_integers(b.add(v * 2 * S::LANES));
            }
            for i in 0..M {
                let x = S::splat_pair(rows[i].add(2 * c).cast::<i32>().read_unaligned());
                for v in 0..NV {
                    acc[i][v] = S::add_pairs(acc[i][v], x, images[v]);
                }
            }
            b = b.wrapping_add(2 * width::<S>());
        }
        let scale = S::splat(scale);
        for (i, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                let logits = S::mul(S::to_f32(*x), scale);
                S::store(to.as_mut_ptr().add(i * width::<S>() + v * S::LANES), logits);
            }
        }
    }
}

/// What [`sum_tile`] sums up.
#[derive(Clone, Copy)]
struct Sum<'a> {
    /// [pair of rows][image of the panel][2], from the first of the images on.
    weights: *const i16,
    /// For each image.
    factors: &'a [f32],
    /// The block as [`Integers`] has it in `pairs`.
    rows: *const i16,
    /// Pairs of rows.
    pairs: usize,
    dim: usize,
    /// D numbers for each image, `stride` apart.
    to: Ptr,
    stride: usize,
}

/// Sums of M images += Σ_j weight_j v_j over the block's rows.
///
/// # Safety
/// The pointers must hold what [`Sum`] says, for M images.
#[inline(always)]
unsafe fn sum_tile<S: Simd, const M: usize, const NV: usize>(sum: Sum<'_>) {
    let both = 2 * S::LANES;
    let stride = stride::<S>(sum.dim);
    for d in (0..sum.dim).step_by(both) {
        // SAFETY: the caller's promise; at most D numbers of each sum are touched.
        unsafe {
            let mut acc = [[S::zero_integers(); 2]; M];
            let mut rows = sum.rows.add(2 * d);
            let mut weights = sum.weights;
            for _ in 0..sum.pairs {
                let low = S::load_integers(rows);
                let high = S::load_integers(rows.add(both));
                for i in 0..M {
                    let x = S::splat_pair(weights.add(2 * i).cast::<i32>().read_unaligned());
                    acc[i][0] = S::add_pairs(acc[i][0], x, low);
                    acc[i][1] = S::add_pairs(acc[i][1], x, high);
                }
                rows = rows.wrapping_add(2 * stride);
                weights = weights.wrapping_add(2 * width::<S>());
            }
            for (i, [low, high]) in acc.into_iter().enumerate() {
                let factor = S::splat(sum.factors[i]);
                let (a, b) = S::in_order(low, high);
                let row = [S::mul(S::to_f32(a), factor), S::mul(S::to_f32(b), factor)];
                let to = sum.to.add(i * sum.stride + d).raw();
                put::<S, _, 2>(row, to, both.min(sum.dim - d), true);
            }
        }
    }
}
