//! The weight gradient of a convolution: the walk of `conv2d` the other way round.
//!
//! dw[position][in][out] = Σ over pixels of x[pixel at position][in] · dy[pixel][out]. A task sums
//! over a segment of the batch, block by block of its pixels, for a group of output channels and
//! some kernel positions. What it multiplies is first laid out in panels of two vectors of channels,
//! [panel][pixel][two vectors] in f32: the block's dy once for all positions, and for each position
//! the x that it reads there, a few panels at a time (zeros in the padding). So the inner tile,
//! `S::ROWS` input channels x two vectors of output channels, reads neighbouring numbers, whatever
//! the stride, the type of the maps or the number of channels.
//!
//! Where there are few input channels, those of all positions in a row of the kernel are taken as
//! one run of channels, which in NHWC they are.
//!
//! Segments are summed apart, as many as their memory allows, and merged in order; deep layers have
//! few segments and share out channels and positions instead.

use std::ops::Range;

use super::affine::load;
use super::conv2d::ConvPlan;
use super::element::MapElement;
use super::memory::{Ptr, scratch};
use super::simd::{Isa, Kernel, Simd};
use super::source::Source;
use super::threads::{Parts, parallel};
use super::tile::{by_rows, panel_width, put, split_rows, zeros};

/// Pixels of a block: a panel of them is 16 KiB, half of L1.
const BLOCK_PIXELS: usize = 256;
/// Panels of x that are laid out at once: whole runs of memory are read.
const X_PANELS: usize = 4;
/// Panels of dy that a task takes, at most.
const DY_PANELS: usize = 8;
/// Numbers of weight gradients that segments may keep before they are merged.
const SEGMENT_NUMBERS: usize = 2 * 1024 * 1024;
/// Kernels of no more input channels than this are taken row by row.
const FEW_CHANNELS: usize = 8;

impl ConvPlan {
    /// Segments of the batch whose weight gradients are summed apart and then merged in order.
    fn segments(&self, count: usize) -> Parts {
        Parts::exactly(count, (SEGMENT_NUMBERS / self.weights_len()).clamp(1, 16))
    }

    fn weights_len(&self) -> usize {
        self.conv.kernel * self.conv.kernel * self.conv.in_channels * self.conv.out_channels
    }

    /// Whether a row of the kernel is one position with all its columns' channels.
    fn by_rows(&self) -> bool {
        self.conv.kernel > 1 && self.conv.in_channels <= FEW_CHANNELS
    }

    /// Kernel positions, or rows, and their channels.
    fn runs(&self) -> (usize, usize) {
        let (kernel, ci) = (self.conv.kernel, self.conv.in_channels);
        if self.by_rows() {
            (kernel, kernel * ci)
        } else {
            (kernel * kernel, ci)
        }
    }

    /// Numbers of its own that each thread needs for the weight gradient.
    pub(super) fn gradient_scratch(&self) -> usize {
        (DY_PANELS + X_PANELS) * BLOCK_PIXELS * panel_width(self.lanes)
    }

    /// Numbers that [`ConvPlan::weight_gradient`] needs beside its arguments.
    pub(super) fn gradient_workspace(&self, count: usize) -> usize {
        match &self.winograd {
            Some(winograd) => winograd.gradient_workspace(count),
            None => self.segments(count).count() * self.weights_len(),
        }
    }

    /// dw += Σ over the batch of x and dy, dw as the weights.
    ///
    /// # Safety
    /// The pointers must be valid for `count` images and `workspace` for
    /// [`ConvPlan::gradient_workspace`] numbers, exclusively.
    pub unsafe fn weight_gradient<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        x: Source<'_, E>,
        dy: Ptr<E>,
        workspace: Ptr,
        dw: &mut [f32],
    ) {
        if let Some(winograd) = &self.winograd {
            // SAFETY: passed on.
            return unsafe { winograd.weight_gradient(isa, count, x, dy, workspace, dw) };
        }
        let segments = self.segments(count);
        let len = self.weights_len();
        let panels = self.conv.out_channels.div_ceil(panel_width(self.lanes));
        let groups = Parts::at_most(panels, DY_PANELS);
        // Few tasks: share the kernel positions out too.
        let (runs, _) = self.runs();
        let few = segments.count() * groups.count() < 32;
        let run_groups = Parts::exactly(runs, if few { 3 } else { 1 });
        let tasks = segments.count() * groups.count() * run_groups.count();
        parallel(tasks, |i| {
            let segment = i / (groups.count() * run_groups.count());
            let rest = i % (groups.count() * run_groups.count());
            let pixels = self.output.pixels();
            let images = segments.range(segment);
            let panels = groups.range(rest / run_groups.count());
            let gradients = scratch(self.gradient_scratch());
            // SAFETY: tasks write different segments, channels or kernel positions; the scratch is
            // this thread's own.
            unsafe {
                isa.run(Task {
                    plan: self,
                    pixels: images.start * pixels..images.end * pixels,
                    inputs: gradients.add(panels.len() * BLOCK_PIXELS * panel_width(self.lanes)),
                    panels,
                    runs: run_groups.range(rest % run_groups.count()),
                    x,
                    dy,
                    gradients,
                    dw: workspace.add(segment * len),
                });
            }
        });
        let parts = Parts::at_most(len, 16 * 1024);
        let to = Ptr::of(dw);
        parallel(parts.count(), |i| {
            let range = parts.range(i);
            // SAFETY: the ranges are disjoint.
            let sum = unsafe { to.add(range.start).slice_mut(range.len()) };
            for s in 0..segments.count() {
                // SAFETY: all segments are written by now.
                let part = unsafe { workspace.add(s * len + range.start).slice(range.len()) };
                for (a, b) in sum.iter_mut().zip(part) {
                    *a += b;
                }
            }
        });
    }
}

/// One task: some pixels, some panels of output channels, some kernel positions. Writes (not adds
/// to) its part of `dw`.
struct Task<'a, E> {
    plan: &'a ConvPlan,
    /// Of the batch's output.
    pixels: Range<usize>,
    /// Panels of output channels.
    panels: Range<usize>,
    /// Kernel positions, or rows.
    runs: Range<usize>,
    x: Source<'a, E>,
    dy: Ptr<E>,
    /// [panel][pixel][two vectors] of dy and of x.
    gradients: Ptr,
    inputs: Ptr,
    dw: Ptr,
}

impl<E: MapElement> Kernel for Task<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let co = self.plan.conv.out_channels;
        let width = panel_width(S::LANES);
        let (_, channels) = self.plan.runs();
        let blocks = Parts::at_most(self.pixels.len(), BLOCK_PIXELS);
        for block in 0..blocks.count() {
            let range = blocks.range(block);
            let n = range.len();
            let first = self.pixels.start + range.start;
            // SAFETY: this block's pixels, this thread's scratch, this task's part of dw.
            unsafe {
                for (i, p) in self.panels.clone().enumerate() {
                    let to = self.gradients.add(i * n * width);
                    self.lay_out_gradients::<S>(first, n, p * width, to);
                }
                for run in self.runs.clone() {
                    for c in (0..channels).step_by(X_PANELS * width) {
                        let some = c..channels.min(c + X_PANELS * width);
                        self.lay_out_inputs::<S>(first, n, run, some.clone());
                        for (i, p) in self.panels.clone().enumerate() {
                            let b = self.gradients.add(i * n * width).raw().cast_const();
                            for from in some.clone().step_by(width) {
                                let a = self.inputs.add((from - c) * n);
                                let rows = width.min(some.end - from);
                                for (row, rows) in split_rows(rows, S::ROWS) {
                                    let a = a.add(row).raw().cast_const();
                                    let at = run * channels + from + row;
                                    let to = self.dw.add(at * co + p * width).raw();
                                    let columns = width.min(co - p * width);
                                    let first = block == 0;
                                    by_rows!(
                                        S,
                                        rows,
                                        2,
                                        gradient_tile(a, n, b, to, co, columns, !first)
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

impl<E: MapElement> Task<'_, E> {
    /// dy of n pixels, the panel of channels from c on.
    #[inline(always)]
    unsafe fn lay_out_gradients<S: Simd>(&self, first: usize, n: usize, c: usize, to: Ptr) {
        let co = self.plan.conv.out_channels;
        let width = panel_width(S::LANES);
        for j in 0..n {
            // SAFETY: the pixel's channels up to the last; whole vectors of the scratch.
            unsafe {
                let from = self.dy.add((first + j) * co + c).raw().cast_const();
                let to = to.add(j * width).raw();
                if co - c >= width {
                    S::store(to, E::load::<S>(from));
                    S::store(to.add(S::LANES), E::load::<S>(from.add(S::LANES)));
                } else {
                    for v in [0, S::LANES] {
                        let lanes = (co - c).saturating_sub(v).min(S::LANES);
                        S::store(to.add(v), load::<S, E>(from.wrapping_add(v), lanes));
                    }
                }
            }
        }
    }

    /// x of n pixels at a kernel position, or row: some of its channels, from the first panel of
    /// the scratch on.
    #[inline(always)]
    unsafe fn lay_out_inputs<S: Simd>(
        &self,
        first: usize,
        n: usize,
        run: usize,
        channels: Range<usize>,
    ) {
        let plan = self.plan;
        let (kernel, ci, pixels) = (
            plan.conv.kernel,
            plan.conv.in_channels,
            plan.output.pixels(),
        );
        let width = panel_width(S::LANES);
        let (mut image, mut pixel) = (first / pixels, first % pixels);
        for j in 0..n {
            let x = self.x.map.add(image * plan.input.len());
            for c in channels.clone().step_by(width) {
                let to = self.inputs.add((c - channels.start) * n + j * width).raw();
                let some = c..channels.end.min(c + width);
                // SAFETY: offsets are of pixels inside the image, of ci channels each; whole
                // vectors of the scratch.
                unsafe {
                    if plan.by_rows() {
                        // Inside from the first to the last column: one run of numbers.
                        if self.x.norm.is_none()
                            && self.tap(run, 0, pixel) >= 0
                            && self.tap(run, kernel - 1, pixel) >= 0
                        {
                            let from = x
                                .add(self.tap(run, 0, pixel) as usize + c)
                                .raw()
                                .cast_const();
                            for v in [0, S::LANES] {
                                let lanes = some.len().saturating_sub(v).min(S::LANES);
                                S::store(to.add(v), load::<S, E>(from.wrapping_add(v), lanes));
                            }
                            continue;
                        }
                        S::store(to, S::zero());
                        S::store(to.add(S::LANES), S::zero());
                        for (i, k) in some.enumerate() {
                            let offset = self.tap(run, k / ci, pixel);
                            if offset >= 0 {
                                let at = x.add(offset as usize + k % ci).raw();
                                *to.add(i) = self.normed(*at, k % ci);
                            }
                        }
                        continue;
                    }
                    let offset = plan.by_tap[run * pixels + pixel];
                    for v in [0, S::LANES] {
                        let lanes = some.len().saturating_sub(v).min(S::LANES);
                        let mut value = S::zero();
                        if offset >= 0 {
                            let from = x.add(offset as usize + c + v).raw().cast_const();
                            value = load::<S, E>(from, lanes);
                            if let Some(norm) = self.x.norm {
                                let scale =
                                    load::<S, _>(norm.scale.as_ptr().wrapping_add(c + v), lanes);
                                let shift =
                                    load::<S, _>(norm.shift.as_ptr().wrapping_add(c + v), lanes);
                                value = S::max(S::zero(), S::fma(value, scale, shift));
                            }
                        }
                        S::store(to.add(v), value);
                    }
                }
            }
            pixel += 1;
            if pixel == pixels {
                (image, pixel) = (image + 1, 0);
            }
        }
    }

    /// Where an output pixel reads at a row and column of the kernel, or -1.
    #[inline(always)]
    fn tap(&self, row: usize, column: usize, pixel: usize) -> i32 {
        let tap = row * self.plan.conv.kernel + column;
        self.plan.by_tap[tap * self.plan.output.pixels() + pixel]
    }

    /// A number of channel c as it is to be read.
    #[inline(always)]
    fn normed(&self, x: E, c: usize) -> f32 {
        let x = x.widen();
        let Some(norm) = self.x.norm else { return x };
        let z = x.mul_add(norm.scale[c], norm.shift[c]);
        if z < 0.0 { 0.0 } else { z }
    }
}

/// M input channels x NV vectors of output channels, summed over n pixels.
///
/// # Safety
/// `a` and `b` must hold two vectors for each of n pixels, `a` from some of them on M numbers; `to`
/// `columns` numbers at each of M multiples of `stride`.
#[inline(always)]
unsafe fn gradient_tile<S: Simd, const M: usize, const NV: usize>(
    a: *const f32,
    n: usize,
    b: *const f32,
    to: *mut f32,
    stride: usize,
    columns: usize,
    accumulate: bool,
) {
    let width = panel_width(S::LANES);
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        S::multiply_columns(&mut acc, a, width, n, b, width);
        for (i, acc) in acc.iter().enumerate() {
            let to = to.wrapping_add(i * stride);
            put::<S, _, NV>(*acc, to, columns, accumulate);
        }
    }
}
