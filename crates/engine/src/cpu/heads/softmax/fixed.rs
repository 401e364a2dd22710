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
use super::super::super::tile::{by_rows, split_rows};
use super::super::ROW;
use super::{Block, Segment, width};
use crate::cpu::memory::Ptr;

/// Rows of a block: 24 KB of integers at D = 128, twice, and long enough for the sums of a tile to
/// be worth their way to f32.
pub(super) const BLOCK_ROWS: usize = 96;
/// 1 in a row.
const ROW_ONE: f32 = 16384.0;
/// 1 in a feature. Σ over D is at most 1.005 · 32000 · 1.97 · 16384, which is below 2^31.
const FEATURE_ONE: f32 = 32000.0;
/// Squares of the lengths that are taken, of features and of rows.
const LONGEST_FEATURE: f32 = 1.01;
const LONGEST_ROW: f32 = 3.9;
/// The largest weight, with room for what [`Simd::exp2`] is off.
const WEIGHT_ONE: f32 = 32767.0 - 0.5;
/// The largest sum of weights: times 1.97 · 16384, the most a number of a row can be, and with what
/// rounding adds, it is below 2^31.
const WEIGHT_SUM: f32 = 65_000.0;

/// Rows or images of a register tile. Four by two vectors leave registers for products that wait to
/// be added, and 16 images and 64 rows come out even.
const TILE: usize = 4;
/// Steps of a product that are written out; what is multiplied is filled up with zeros to that.
const STEPS: usize = 4;

/// Pairs in a row or feature of D numbers, filled up to whole vectors of 16-bit integers: `width`
/// is their length, which is also that of a panel.
pub(super) const fn pairs(dim: usize, width: usize) -> usize {
    dim.next_multiple_of(width) / 2
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
            let panel = &mut integers[image / width * width * pairs(dim, width) * 2..];
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
    /// Rows as they lie, filled up with zeros to whole vectors.
    rows: Vec<i16>,
    /// [vector of a row][pair of rows][half of `Simd::interleave`]: for a vector's numbers all rows.
    pairs: Vec<i16>,
    /// [pair of rows][image of the panel][2]
    weights: Vec<i16>,
    /// For each image of the panel what makes a sum of a sum of products.
    factors: [f32; 32],
}

impl Integers {
    pub(super) fn new<S: Simd>(dim: usize) -> Self {
        let width = width::<S>();
        let numbers = BLOCK_ROWS * dim.next_multiple_of(width);
        Integers {
            rows: vec![0; numbers],
            pairs: vec![0; numbers],
            weights: vec![0; BLOCK_ROWS * width],
            factors: [0.0; 32],
        }
    }

    /// Takes a block of rows; false if one doesn't fit integers.
    ///
    /// # Safety
    /// The instruction set must be available; the block must hold its n rows of D numbers.
    #[inline(always)]
    pub(super) unsafe fn take<S: Simd, E: Element>(
        &mut self,
        block: &Block<'_, E>,
        dim: usize,
    ) -> bool {
        let width = width::<S>();
        let stride = dim.next_multiple_of(width);
        let whole = dim - dim % width;
        // SAFETY: n rows of D numbers, and room for as many of `stride`.
        unsafe {
            let one = S::splat(ROW_ONE);
            let (mut most, mut sum) = (S::zero(), S::zero());
            for j in (0..block.n).step_by(2) {
                let a = block.rows.as_ptr().add(j * dim);
                // The last row of an odd number stands for the next as well, which weighs nothing.
                let b = if block.n - j > 1 { a.add(dim) } else { a };
                let mut to = Taken::<S> {
                    row: self.rows.as_mut_ptr().add(j * stride),
                    pair: self.pairs.as_mut_ptr().add(j * width),
                    squares: [S::zero(); 4],
                };
                for d in (0..whole).step_by(width) {
                    to.put::<E>(a.add(d), b.add(d), d, stride, one);
                }
                if whole < dim {
                    let mut rest = [[E::narrow(0.0); 32]; 2];
                    for i in whole..dim {
                        rest[0][i - whole] = *a.add(i);
                        rest[1][i - whole] = *b.add(i);
                    }
                    let [a, b] = &rest;
                    to.put::<E>(a.as_ptr(), b.as_ptr(), whole, stride, one);
                }
                let [a0, a1, b0, b1] = to.squares;
                let (a, b) = (S::add(a0, a1), S::add(b0, b1));
                most = S::max(most, S::max(a, b));
                sum = S::add(sum, S::add(a, b));
            }
            // The largest of each lane, summed up, is at least the square of the longest row. A
            // NaN gets past the largest but not past the sum.
            S::sum(most) < LONGEST_ROW && S::sum(sum).is_finite()
        }
    }

    /// Turns a panel's weights of the block's n rows, of which `most` is the largest and `sum` the
    /// sum of each image, into integers.
    ///
    /// # Safety
    /// The instruction set must be available; `weights` must hold n rows of two vectors, above 0,
    /// `most` and `sum` two vectors.
    #[inline(always)]
    unsafe fn round_weights<S: Simd>(
        &mut self,
        weights: &[f32],
        n: usize,
        most: &[f32],
        sum: &[f32],
    ) {
        let width = width::<S>();
        for v in (0..width).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let by_most = S::div(S::splat(WEIGHT_ONE), S::load(most.as_ptr().add(v)));
                let by_sum = S::div(S::splat(WEIGHT_SUM), S::load(sum.as_ptr().add(v)));
                // Where all weights are as good as 0 the scale would be infinite.
                let scale = S::min(S::splat(1e30), S::min(by_most, by_sum));
                let factor = S::div(S::splat(1.0 / ROW_ONE), scale);
                S::store(self.factors.as_mut_ptr().add(v), factor);
                let mut from = weights.as_ptr().add(v);
                let mut to = self.weights.as_mut_ptr().add(2 * v);
                for _ in 0..n / 2 {
                    let (a, b) = (S::load(from), S::load(from.add(width)));
                    S::store_integers(to, S::to_pairs(S::mul(a, scale), S::mul(b, scale)));
                    from = from.wrapping_add(2 * width);
                    to = to.wrapping_add(2 * width);
                }
                if !n.is_multiple_of(2) {
                    let a = S::load(from);
                    S::store_integers(to, S::to_pairs(S::mul(a, scale), S::zero()));
                    to = to.wrapping_add(2 * width);
                }
                for _ in n.div_ceil(2)..n.next_multiple_of(2 * STEPS) / 2 {
                    S::store_integers(to, S::zero_integers());
                    to = to.wrapping_add(2 * width);
                }
            }
        }
    }
}

/// Where two rows go.
struct Taken<S: Simd> {
    row: *mut i16,
    pair: *mut i16,
    /// Squares of numbers of the first row and of the second.
    squares: [S::V; 4],
}

impl<S: Simd> Taken<S> {
    /// Takes a vector's numbers of both rows from `d` on.
    ///
    /// # Safety
    /// The instruction set must be available, a vector's numbers at `a` and `b`, and room for
    /// `stride` numbers of each row.
    #[inline(always)]
    unsafe fn put<E: Element>(
        &mut self,
        a: *const E,
        b: *const E,
        d: usize,
        stride: usize,
        one: S::V,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, [a0, a1]) = E::load_fixed::<S>(a, one);
            let (b, [b0, b1]) = E::load_fixed::<S>(b, one);
            for (square, x) in self.squares.iter_mut().zip([a0, a1, b0, b1]) {
                *square = S::fma(x, x, *square);
            }
            S::store_integers(self.row.add(d), a);
            S::store_integers(self.row.add(stride + d), b);
            let (low, high) = S::interleave(a, b);
            let pair = self.pair.add(d * BLOCK_ROWS);
            S::store_integers(pair, low);
            S::store_integers(pair.add(width::<S>()), high);
        }
    }
}

impl Segment {
    /// Takes a block in whose rows [`Integers::take`] has taken. Rows of the next are asked for on
    /// the way.
    ///
    /// # Safety
    /// The instruction set must be available; `features` must hold this segment's images.
    #[inline(always)]
    pub(super) unsafe fn fixed<S: Simd, E: Element>(
        &mut self,
        integers: &mut Integers,
        block: &Block<'_, E>,
        features: Features<'_>,
    ) {
        let (dim, width, n) = (self.dim, width::<S>(), block.n);
        let pairs = pairs(dim, width);
        for panel in 0..self.count.div_ceil(width) {
            let panel_features = features.integers[panel * width * pairs * 2..].as_ptr();
            // SAFETY: n rows of whole vectors, a panel of as many x width, this segment's own sums.
            unsafe {
                for (row, rows) in split_rows(n, TILE) {
                    if panel == 0 {
                        block.ask::<S>(row, rows, dim);
                    }
                    let a = integers.rows[row * pairs * 2..].as_ptr();
                    let to = &mut self.weights[row * width..];
                    by_rows!(S, rows, 2, logit_tile(a, panel_features, pairs, to));
                }
                self.weigh_fixed::<S>(integers, panel, n, block.excluded, features.scale);
                let first = self.to.add(panel * width * self.stride + ROW);
                let images = width.min(self.count - panel * width);
                for d in (0..dim).step_by(width) {
                    for (image, images) in split_rows(images, TILE) {
                        let sum = Sum {
                            weights: integers.weights[2 * image..].as_ptr(),
                            factors: &integers.factors[image..],
                            rows: integers.pairs[d * BLOCK_ROWS..].as_ptr(),
                            steps: n.div_ceil(2 * STEPS),
                            count: width.min(dim - d),
                            to: first.add(image * self.stride + d),
                            stride: self.stride,
                        };
                        by_rows!(S, images, 2, sum_tile(sum));
                    }
                }
            }
        }
    }

    /// Turns the sums of products of the block's n rows and a panel's images into weights, as
    /// [`Segment::weigh`] does with logits, `scale` times as much, and those into integers. As these
    /// have 15 bits, it suffices that exponentials are right to 2^-18.
    ///
    /// # Safety
    /// The instruction set must be available.
    #[inline(always)]
    unsafe fn weigh_fixed<S: Simd>(
        &mut self,
        integers: &mut Integers,
        panel: usize,
        n: usize,
        excluded: Option<&[bool]>,
        scale: f32,
    ) {
        let width = width::<S>();
        let at = panel * width;
        self.exclude(width, excluded);
        let (mut shrink, mut top, mut sum) = ([1f32; 32], [0f32; 32], [0f32; 32]);
        for v in (0..width).step_by(S::LANES) {
            // SAFETY: whole rows of two vectors, and two vectors of each image's numbers.
            unsafe {
                let products = self.weights.as_mut_ptr().add(v);
                let mut largest = S::load(products);
                for j in 1..n {
                    largest = S::max(largest, S::load(products.add(j * width)));
                }
                let old = S::load(self.most.as_ptr().add(at + v));
                let most = S::max(old, S::mul(largest, S::splat(scale)));
                let factor = S::exp(S::sub(old, most));
                S::store(shrink.as_mut_ptr().add(v), factor);
                S::store(self.most.as_mut_ptr().add(at + v), most);
                // exp(scale · x - most) is 2^(by · x + from).
                let by = S::splat(scale * std::f32::consts::LOG2_E);
                let from = S::mul(most, S::splat(-std::f32::consts::LOG2_E));
                S::store(top.as_mut_ptr().add(v), S::exp2(S::fma(largest, by, from)));
                let (mut added, mut squares) = (S::zero(), S::zero());
                for j in 0..n {
                    let p = products.add(j * width);
                    let e = S::exp2(S::fma(S::load(p), by, from));
                    S::store(p, e);
                    added = S::add(added, e);
                    squares = S::fma(e, e, squares);
                }
                S::store(sum.as_mut_ptr().add(v), added);
                let p = self.sums.as_mut_ptr().add(at + v);
                S::store(p, S::fma(S::load(p), factor, added));
                let p = self.squares.as_mut_ptr().add(at + v);
                let shrunk = S::mul(S::load(p), factor);
                S::store(p, S::fma(shrunk, factor, squares));
            }
        }
        // SAFETY: n rows of weights; this segment's own sums.
        unsafe {
            integers.round_weights::<S>(&self.weights, n, &top, &sum);
            self.shrink(at, &shrink[..width.min(self.count - at)]);
        }
    }
}

/// to[i][image] = v_i · f_image, in integers, for M rows and a panel of images.
///
/// # Safety
/// M rows of `pairs` pairs at `a`, a multiple of [`STEPS`]; `features` as many times two vectors;
/// `to` M times two vectors.
#[inline(always)]
unsafe fn logit_tile<S: Simd, const M: usize, const NV: usize>(
    a: *const i16,
    features: *const i16,
    pairs: usize,
    to: &mut [f32],
) {
    let mut rows = [a; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = row.wrapping_add(i * pairs * 2);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::zero_integers(); NV]; M];
        let mut b = features;
        for c in (0..pairs).step_by(STEPS) {
            for u in 0..STEPS {
                let mut images = [S::zero_integers(); NV];
                for (v, x) in images.iter_mut().enumerate() {
                    *x = S::load_integers(b.add((u * NV + v) * 2 * S::LANES));
                }
                for i in 0..M {
                    let x = rows[i].add(2 * (c + u)).cast::<i32>().read_unaligned();
                    let x = S::splat_pair(x);
                    for v in 0..NV {
                        acc[i][v] = S::add_pairs(acc[i][v], x, images[v]);
                    }
                }
            }
            b = b.wrapping_add(STEPS * NV * 2 * S::LANES);
        }
        for (i, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                let at = (i * NV + v) * S::LANES;
                S::store(to.as_mut_ptr().add(at), S::to_f32(*x));
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
    /// A vector's numbers of all rows, as [`Integers`] has them in `pairs`.
    rows: *const i16,
    /// Pairs of rows, [`STEPS`] at a time.
    steps: usize,
    /// Numbers.
    count: usize,
    /// As many for each image, `stride` apart.
    to: Ptr,
    stride: usize,
}

/// Sums of M images += Σ_j weight_j v_j over the block's rows, for a vector of a row's numbers.
///
/// # Safety
/// The pointers must hold what [`Sum`] says, for M images.
#[inline(always)]
unsafe fn sum_tile<S: Simd, const M: usize, const NV: usize>(sum: Sum<'_>) {
    let width = width::<S>();
    // SAFETY: the caller's promise; `count` numbers of each sum are touched.
    unsafe {
        let mut acc = [[S::zero_integers(); 2]; M];
        let (mut rows, mut weights) = (sum.rows, sum.weights);
        for _ in 0..sum.steps {
            for u in 0..STEPS {
                let low = S::load_integers(rows.add(u * 2 * width));
                let high = S::load_integers(rows.add(u * 2 * width + width));
                for i in 0..M {
                    let x = weights.add(u * 2 * width + 2 * i).cast::<i32>();
                    let x = S::splat_pair(x.read_unaligned());
                    acc[i][0] = S::add_pairs(acc[i][0], x, low);
                    acc[i][1] = S::add_pairs(acc[i][1], x, high);
                }
            }
            rows = rows.wrapping_add(STEPS * 2 * width);
            weights = weights.wrapping_add(STEPS * 2 * width);
        }
        let whole = sum.count == width;
        for (i, [low, high]) in acc.into_iter().enumerate() {
            let factor = S::splat(sum.factors[i]);
            let (a, b) = S::in_order(low, high);
            let (a, b) = (S::to_f32(a), S::to_f32(b));
            let to = sum.to.add(i * sum.stride).raw();
            if whole {
                let next = to.add(S::LANES);
                S::store(to, S::fma(a, factor, S::load(to)));
                S::store(next, S::fma(b, factor, S::load(next)));
            } else {
                let mut rest = [0f32; 32];
                S::store(rest.as_mut_ptr(), S::mul(a, factor));
                S::store(rest.as_mut_ptr().add(S::LANES), S::mul(b, factor));
                for (d, x) in rest[..sum.count].iter().enumerate() {
                    *to.add(d) += x;
                }
            }
        }
    }
}
