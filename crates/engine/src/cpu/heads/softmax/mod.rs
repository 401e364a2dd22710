//! Exact softmax over all rows: every row is read once for all images.
//!
//! Images are the lanes. A block of rows is compared with a panel of images (features packed as
//! D x WIDTH, so that rows are read as they lie), the weights exp(s - m) are taken lane by lane,
//! and the same block, still in the cache, is summed up by them. Rows of f32 are multiplied as
//! they are (`floats`), those of 16 bits as integers (`fixed`), which is twice as fast.

mod fixed;
mod floats;

use super::super::element::Element;
use super::super::memory::{Buffer, Ptr};
use super::super::simd::{Kernel, Simd};
use super::super::threads::{Parts, parallel};
use super::{Compared, Comparison, Own, Partials, ROW};

/// Rows of a block of f32: 32 KB at D = 128.
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

/// Numbers that the packed features of `count` images take, in both forms.
pub fn panels_len(count: usize, dim: usize, lanes: usize) -> usize {
    let images = count.next_multiple_of(2 * lanes);
    images * dim + images * fixed::pairs(dim, 2 * lanes)
}

/// Features as blocks of rows are compared with.
#[derive(Clone, Copy)]
struct Panels<'a> {
    floats: &'a [f32],
    /// None where they can't be had as integers.
    fixed: Option<fixed::Features<'a>>,
}

impl<E: Element> Comparison<'_, E> {
    /// Mean exact softmax loss over all rows; `gradient` (B x D) is overwritten. `panels` holds
    /// [`panels_len`] numbers.
    pub fn softmax(
        &self,
        partials: &mut Partials,
        panels: &mut Buffer,
        gradient: &mut [f32],
    ) -> Compared {
        let segments = segments(self.bank.len() / self.dim);
        let to = self.clear(partials, segments.count());
        let stride = partials.stride;
        let width = 2 * self.isa.lanes();
        let images = self.count().next_multiple_of(width);
        let (features, dim, tau) = (self.features, self.dim, self.temperature);
        let (floats, rest) = panels.as_mut_slice().split_at_mut(images * dim);
        floats::pack(features, dim, tau, width, floats);
        let fixed = if E::plain(self.bank).is_none() {
            fixed::Features::pack(features, dim, tau, width, rest)
        } else {
            None
        };
        let panels = Panels { floats, fixed };
        parallel(segments.count(), |i| {
            // SAFETY: each segment has its own partial sums.
            unsafe {
                self.isa.run(SoftmaxSegment {
                    comparison: self,
                    panels,
                    rows: segments.range(i),
                    to: to.add(i * self.count() * stride),
                    stride,
                })
            }
        });
        self.merge(partials, segments.count(), Own::Among(segments), gradient)
    }
}

/// Exact softmax over some rows, for all images.
struct SoftmaxSegment<'a, E> {
    comparison: &'a Comparison<'a, E>,
    panels: Panels<'a>,
    rows: std::ops::Range<usize>,
    to: Ptr,
    stride: usize,
}

impl<E: Element> Kernel for SoftmaxSegment<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Comparison {
            dim,
            bank,
            excluded,
            ..
        } = *self.comparison;
        let narrow = E::plain(bank).is_none();
        let most = if narrow {
            fixed::BLOCK_ROWS
        } else {
            BLOCK_ROWS
        };
        let (count, to) = (self.comparison.count(), self.to);
        let mut segment = Segment::new::<S>(count, dim, most, to, self.stride);
        let mut wide = vec![0f32; if narrow { most * dim } else { 0 }];
        let mut integers = self.panels.fixed.map(|_| fixed::Integers::new::<S>(dim));
        let mut at = self.rows.start;
        while at < self.rows.end {
            let n = most.min(self.rows.end - at);
            let rows = &bank[at * dim..][..n * dim];
            let block = Block {
                rows,
                n,
                next: rows.as_ptr_range().end.cast(),
                bytes: size_of::<E>(),
                excluded: excluded.map(|all| &all[at..at + n]),
            };
            // SAFETY: rows and panels of this comparison, sums of this segment.
            unsafe {
                if let (Some(integers), Some(features)) = (&mut integers, self.panels.fixed)
                    && integers.take::<S, E>(&block, dim)
                {
                    segment.fixed::<S, E>(integers, &block, features);
                } else if let Some(rows) = E::plain(rows) {
                    segment.floats::<S>(block.of(rows), self.panels.floats);
                } else {
                    (wide.iter_mut().zip(rows)).for_each(|(to, x)| *to = x.widen());
                    let block = block.of(&wide[..n * dim]);
                    segment.floats::<S>(block, self.panels.floats);
                }
            }
            at += n;
        }
        segment.finish();
    }
}

/// Rows that are taken in together.
#[derive(Clone, Copy)]
struct Block<'a, E> {
    /// n x D.
    rows: &'a [E],
    n: usize,
    /// Where the next block begins, if there is one.
    next: *const u8,
    /// Bytes of a number there.
    bytes: usize,
    /// Which of them take no part, if any does.
    excluded: Option<&'a [bool]>,
}

impl<E> Block<'_, E> {
    /// The same block with its rows in another form.
    fn of<'b, F>(&'b self, rows: &'b [F]) -> Block<'b, F> {
        Block {
            rows,
            n: self.n,
            next: self.next,
            bytes: self.bytes,
            excluded: self.excluded,
        }
    }

    /// Asks for the rows of the next block that are where `count` from `row` on are in this.
    #[inline(always)]
    fn ask<S: Simd>(&self, row: usize, count: usize, dim: usize) {
        let bytes = dim * self.bytes;
        for line in (row * bytes..(row + count) * bytes).step_by(64) {
            // SAFETY: a prefetch touches nothing.
            unsafe { S::prefetch(self.next.wrapping_add(line)) };
        }
    }
}

/// What a segment has found out so far.
struct Segment {
    dim: usize,
    /// Images.
    count: usize,
    /// For each image the largest logit, Σ exp(s - m) and Σ exp(s - m)².
    most: Vec<f32>,
    sums: Vec<f32>,
    squares: Vec<f32>,
    /// [row of the block][image of the panel]
    weights: Vec<f32>,
    /// Partial sums.
    to: Ptr,
    stride: usize,
}

impl Segment {
    /// For `count` images and blocks of at most `rows` rows.
    fn new<S: Simd>(count: usize, dim: usize, rows: usize, to: Ptr, stride: usize) -> Self {
        let images = count.next_multiple_of(width::<S>());
        Segment {
            dim,
            count,
            most: vec![LOWEST; images],
            sums: vec![0.0; images],
            squares: vec![0.0; images],
            weights: vec![0.0; rows * width::<S>()],
            to,
            stride,
        }
    }

    /// Turns the logits of the block's n rows and a panel's images into weights, and scales down
    /// what the panel's images have summed up if their largest logit rose.
    ///
    /// # Safety
    /// The instruction set must be available.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(&mut self, panel: usize, n: usize, excluded: Option<&[bool]>) {
        let width = width::<S>();
        self.exclude(width, excluded);
        let logits = &mut self.weights[..n * width];
        let at = panel * width;
        let mut shrink = [1f32; 32];
        // SAFETY: two vectors of each, whole rows of logits; this segment's own sums.
        unsafe {
            weigh_columns::<S>(
                logits,
                &mut self.most[at..],
                &mut self.sums[at..],
                &mut self.squares[at..],
                &mut shrink,
            );
            self.shrink(at, &shrink[..width.min(self.count - at)]);
        }
    }

    /// Takes excluded rows of the block out of its logits.
    #[inline(always)]
    fn exclude(&mut self, width: usize, excluded: Option<&[bool]>) {
        for (j, _) in (excluded.iter().flat_map(|all| all.iter()).enumerate()).filter(|x| *x.1) {
            self.weights[j * width..][..width].fill(f32::NEG_INFINITY);
        }
    }

    /// Multiplies what images from `at` on have summed up, each by its own number.
    ///
    /// # Safety
    /// There must be as many images.
    #[inline(always)]
    unsafe fn shrink(&mut self, at: usize, by: &[f32]) {
        for (i, by) in by.iter().enumerate().filter(|x| *x.1 != 1.0) {
            // SAFETY: this segment's own sums.
            let sum = unsafe {
                self.to
                    .add((at + i) * self.stride + ROW)
                    .slice_mut(self.dim)
            };
            sum.iter_mut().for_each(|x| *x *= by);
        }
    }

    /// Writes down what isn't yet among the partial sums.
    fn finish(self) {
        for i in 0..self.count {
            // SAFETY: this segment's own partial sums.
            let partial = unsafe { self.to.add(i * self.stride).slice_mut(ROW) };
            partial.copy_from_slice(&[self.most[i], self.sums[i], self.squares[i]]);
        }
    }
}

/// Turns logits, rows of two vectors of images, into exp(s - m), with m each image's largest logit
/// so far, raised if need be; adds them and their squares to `sums` and `squares`, scaled down by
/// `shrink` if m rose. A NaN gets past the largest, but not past the sum.
///
/// # Safety
/// The instruction set must be available; `most`, `sums`, `squares` and `shrink` hold two
/// vectors, `logits` whole rows of them.
#[inline(always)]
unsafe fn weigh_columns<S: Simd>(
    logits: &mut [f32],
    most: &mut [f32],
    sums: &mut [f32],
    squares: &mut [f32],
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
            let shrunk = S::mul(S::load(squares.as_ptr().add(v)), factor);
            let mut square = S::mul(shrunk, factor);
            for row in logits.chunks_exact_mut(width) {
                let e = S::exp(S::sub(S::load(row.as_ptr().add(v)), top));
                S::store(row.as_mut_ptr().add(v), e);
                sum = S::add(sum, e);
                square = S::fma(e, e, square);
            }
            S::store(sums.as_mut_ptr().add(v), sum);
            S::store(squares.as_mut_ptr().add(v), square);
        }
    }
}
