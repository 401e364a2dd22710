//! Convolution, NHWC, as an implicit matrix product: nothing is unfolded in memory.
//!
//! A [`Walk`] says where each output pixel finds its inputs, one offset for each kernel position;
//! forward pass and data gradient are the same kernel with other walks and other packed weights (a
//! strided data gradient is one walk for each residue of the pixel, so that no product with a
//! skipped position is computed). `conv2d_weights` runs the same offsets the other way round.
//!
//! Blocking. The inner tile is `S::ROWS` pixels x two vectors of output channels, summed over
//! kernel positions and input channels, with weights packed in panels of two vectors. On large maps
//! the rows of a tile are neighbouring pixels, each with its own offsets and a row of zeros where
//! the padding is; on small maps they are the same pixel of several images, so that positions in
//! the padding are left out. A task is a block of pixels times some panels: a panel of weights
//! stays in L2 while the block's pixels pass.
//!
//! Weights are kept as [kernel position][in][out] (HWIO). A linear layer is a convolution of a
//! 1 x 1 map.

use std::ops::Range;

use npid_network::graph::{Conv2d, Shape};

use super::affine::{Affine, block_statistics};
use super::element::MapElement;
use super::memory::Ptr;
use super::simd::{Isa, Kernel, Simd};
use super::source::Source;
use super::threads::{Parts, parallel};
use super::tile::{by_rows, packed_len, panel, panels, put, split_rows, zeros};
use super::widen::widened;
use super::winograd::Winograd;

/// Maps of up to this many pixels run over images rather than over pixels.
const SMALL_MAP: usize = 64;
/// Numbers of input and output that a task's pixels take, at most about 128 KiB.
const BLOCK_NUMBERS: usize = 32 * 1024;
/// Fewer pixels than this would read the weights too often.
const BLOCK_PIXELS: usize = 192;

/// Where the pixels of an output find their inputs.
struct Walk {
    /// Kernel positions that are used.
    taps: Vec<usize>,
    /// For each pixel and used kernel position the offset into the input image, or -1 outside.
    offsets: Vec<i32>,
    /// The pixels of the output image, if not all in order.
    targets: Option<Vec<u32>>,
    pixels: usize,
    /// Numbers of an input image and of an output image.
    in_len: usize,
    out_len: usize,
    /// Channels read and written.
    k: usize,
    n: usize,
    /// Where its packed weights start.
    packed: usize,
}

impl Walk {
    fn target(&self, pixel: usize) -> usize {
        self.targets.as_ref().map_or(pixel, |t| t[pixel] as usize)
    }

    /// The numbers of the batch's input that some pixels of the batch read.
    fn reads(&self, pixels: Range<usize>) -> Range<usize> {
        let (mut first, mut end) = (usize::MAX, 0);
        for pixel in pixels {
            let (image, pixel) = (pixel / self.pixels, pixel % self.pixels);
            let taps = self.taps.len();
            for &offset in &self.offsets[pixel * taps..][..taps] {
                if offset >= 0 {
                    let at = image * self.in_len + offset as usize;
                    first = first.min(at);
                    end = end.max(at + self.k);
                }
            }
        }
        first.min(end)..end
    }

    /// Pixels of the batch in rows of [`Walk::blocks`].
    fn pixels_of(&self, rows: &Range<usize>) -> Range<usize> {
        let each = if self.pixels <= SMALL_MAP {
            self.pixels
        } else {
            1
        };
        rows.start * each..rows.end * each
    }

    /// Blocks that tasks take: of pixels of the whole batch, or of images on small maps.
    fn blocks(&self, count: usize) -> Parts {
        let pixels = (BLOCK_NUMBERS / self.k.max(self.n)).max(BLOCK_PIXELS);
        if self.pixels <= SMALL_MAP {
            Parts::at_most(count, pixels.div_ceil(self.pixels).next_multiple_of(12))
        } else {
            Parts::at_most(count * self.pixels, pixels)
        }
    }
}

/// A convolution for one image size.
pub struct ConvPlan {
    /// What it is.
    pub conv: Conv2d,
    pub(super) input: Shape,
    pub(super) output: Shape,
    forward: Walk,
    backward: Vec<Walk>,
    /// Forward pass and data gradient in place of the walks, where that pays.
    pub(super) winograd: Option<Winograd>,
    winograd_back: Option<Winograd>,
    /// For each kernel position and output pixel the input offset, or -1.
    pub(super) by_tap: Vec<i32>,
    pub(super) lanes: usize,
    packed_len: usize,
}

/// The weights of a convolution.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// [position][in][out]
    pub values: &'a [f32],
    /// The same as [`ConvPlan::pack`] left them.
    pub packed: Ptr,
    /// A row of [`ConvPlan::zeros_len`] zeros.
    pub zeros: Ptr,
}

/// What is done with the output while it is in the cache.
#[derive(Clone, Copy)]
pub struct After<'a, E> {
    /// y·scale + shift (+ residual), ReLU; in place.
    pub affine: Option<Affine<'a, E>>,
    /// Mean and sum of squared deviations of each channel, for each block: [block][2][C].
    pub statistics: Option<Ptr>,
}

/// Whether Winograd's kernels serve a convolution of maps of shape `input`, in all directions. They
/// can read through a batch norm ([`Source`]).
pub fn serves(conv: Conv2d, input: Shape) -> bool {
    // Numbers of one direction that are inside: small maps leave out products with the padding.
    let inside = |n: usize| {
        if input.pixels() <= SMALL_MAP {
            3 * n - 2
        } else {
            3 * n
        }
    };
    let direct = inside(input.h) * inside(input.w);
    (conv.kernel, conv.stride, conv.padding) == (3, 1, 1)
        && Winograd::pays(input, conv.in_channels, conv.out_channels, direct)
}

impl ConvPlan {
    /// Plans for maps of shape `input`. `needs_dx` says whether a data gradient will be asked for.
    pub fn new(conv: Conv2d, input: Shape, output: Shape, needs_dx: bool, lanes: usize) -> Self {
        let (ci, co) = (conv.in_channels, conv.out_channels);
        let taps = conv.kernel * conv.kernel;
        let mut by_tap = vec![-1; taps * output.pixels()];
        let mut offsets = vec![-1; taps * output.pixels()];
        for y in 0..output.h {
            for x in 0..output.w {
                for tap in 0..taps {
                    let (ky, kx) = (tap / conv.kernel, tap % conv.kernel);
                    let iy = (y * conv.stride + ky).wrapping_sub(conv.padding);
                    let ix = (x * conv.stride + kx).wrapping_sub(conv.padding);
                    if iy < input.h && ix < input.w {
                        let offset = ((iy * input.w + ix) * ci) as i32;
                        offsets[(y * output.w + x) * taps + tap] = offset;
                        by_tap[tap * output.pixels() + y * output.w + x] = offset;
                    }
                }
            }
        }
        let forward = Walk {
            taps: (0..taps).collect(),
            offsets,
            targets: None,
            pixels: output.pixels(),
            in_len: input.len(),
            out_len: output.len(),
            k: ci,
            n: co,
            packed: 0,
        };
        let mut plan = ConvPlan {
            conv,
            input,
            output,
            forward,
            backward: Vec::new(),
            winograd: None,
            winograd_back: None,
            by_tap,
            lanes,
            packed_len: packed_len(taps * ci, co, lanes),
        };
        if serves(conv, input) {
            let forward = Winograd::new(input, (ci, co), false, lanes, 0);
            plan.packed_len = forward.packed_len();
            plan.winograd = Some(forward);
            if needs_dx {
                let back = Winograd::new(input, (co, ci), true, lanes, plan.packed_len);
                plan.packed_len += back.packed_len();
                plan.winograd_back = Some(back);
            }
        } else if needs_dx {
            plan.plan_backward();
        }
        plan
    }

    /// One walk for each residue of the input pixel modulo the stride.
    fn plan_backward(&mut self) {
        let Conv2d {
            kernel,
            stride,
            padding,
            in_channels: ci,
            out_channels: co,
            ..
        } = self.conv;
        for ry in 0..stride.min(self.input.h) {
            for rx in 0..stride.min(self.input.w) {
                // Input pixel y reads output row (y + padding - ky) / stride where that divides.
                let fits =
                    |r: usize, k: usize| (r + padding + stride * kernel - k).is_multiple_of(stride);
                let taps: Vec<usize> = (0..kernel * kernel)
                    .filter(|t| fits(ry, t / kernel) && fits(rx, t % kernel))
                    .collect();
                let mut offsets = Vec::new();
                let mut targets = Vec::new();
                for y in (ry..self.input.h).step_by(stride) {
                    for x in (rx..self.input.w).step_by(stride) {
                        targets.push((y * self.input.w + x) as u32);
                        for &tap in &taps {
                            let oy = (y + padding).wrapping_sub(tap / kernel);
                            let ox = (x + padding).wrapping_sub(tap % kernel);
                            let inside = oy < isize::MAX as usize
                                && ox < isize::MAX as usize
                                && oy / stride < self.output.h
                                && ox / stride < self.output.w;
                            offsets.push(if inside {
                                ((oy / stride * self.output.w + ox / stride) * co) as i32
                            } else {
                                -1
                            });
                        }
                    }
                }
                let len = packed_len(taps.len() * co, ci, self.lanes);
                self.backward.push(Walk {
                    pixels: targets.len(),
                    taps,
                    offsets,
                    targets: (stride > 1).then_some(targets),
                    in_len: self.output.len(),
                    out_len: self.input.len(),
                    k: co,
                    n: ci,
                    packed: self.packed_len,
                });
                self.packed_len += len;
            }
        }
    }

    /// Numbers that the packed weights take.
    pub fn packed_len(&self) -> usize {
        self.packed_len
    }

    /// Blocks of the forward pass, each with its own statistics.
    pub fn blocks(&self, count: usize) -> Parts {
        match &self.winograd {
            Some(winograd) => winograd.blocks(count),
            None => self.forward.blocks(count),
        }
    }

    /// Bytes that each thread needs for itself.
    pub fn scratch_bytes(&self, count: usize) -> usize {
        let both = [&self.winograd, &self.winograd_back].into_iter().flatten();
        let winograd = both.map(|w| w.scratch_bytes(count)).max();
        winograd.unwrap_or(self.gradient_scratch() * 4)
    }

    /// First pixel of the batch in each block and the number of pixels, as ranges.
    pub fn block_pixels(&self, count: usize, block: usize) -> Range<usize> {
        if let Some(winograd) = &self.winograd {
            return winograd.block_pixels(count, block);
        }
        self.forward.pixels_of(&self.blocks(count).range(block))
    }

    /// Numbers that the statistics of all blocks take, in whole cache lines.
    pub fn statistics_len(&self, count: usize) -> usize {
        (self.blocks(count).count() * 2 * self.conv.out_channels).next_multiple_of(16)
    }

    /// Numbers that any of the three passes needs beside its arguments, the forward pass after the
    /// statistics of its blocks.
    pub fn workspace_len(&self, count: usize) -> usize {
        let of = |w: &Option<Winograd>| w.as_ref().map_or(0, |w| w.workspace_len(count));
        let forward = self.statistics_len(count) + of(&self.winograd);
        (forward.max(of(&self.winograd_back))).max(self.gradient_workspace(count))
    }

    /// Numbers of a row of zeros that all walks can read.
    pub fn zeros_len(&self) -> usize {
        self.conv.in_channels.max(self.conv.out_channels) + 16
    }

    /// Packs the weights ([position][in][out]) for all walks, in parallel.
    pub fn pack(&self, isa: Isa, weights: &[f32], packed: Ptr) {
        let (ci, co) = (self.conv.in_channels, self.conv.out_channels);
        let lanes = self.lanes;
        if let Some(winograd) = &self.winograd {
            // SAFETY: each has its own part of the packed weights.
            unsafe {
                winograd.pack(isa, weights, packed);
                if let Some(back) = &self.winograd_back {
                    back.pack(isa, weights, packed);
                }
            }
            return;
        }
        let ranges: Vec<(&Walk, usize)> = std::iter::once(&self.forward)
            .chain(&self.backward)
            .flat_map(|w| (0..panels(w.n, lanes)).map(move |p| (w, p)))
            .collect();
        parallel(ranges.len(), |i| {
            let (walk, p) = ranges[i];
            let (first, width, vectors) = panel(walk.n, lanes, p);
            let step = vectors * lanes;
            let rows = walk.taps.len() * walk.k;
            // SAFETY: panels are disjoint parts of the packed weights.
            let to = unsafe {
                packed
                    .add(walk.packed + first * rows)
                    .slice_mut(rows * step)
            };
            let forward = std::ptr::eq(walk, &self.forward);
            for (t, &tap) in walk.taps.iter().enumerate() {
                let w = &weights[tap * ci * co..][..ci * co];
                for c in 0..walk.k {
                    let row = &mut to[(t * walk.k + c) * step..][..step];
                    if forward {
                        row[..width].copy_from_slice(&w[c * co + first..][..width]);
                    } else {
                        for (j, r) in row[..width].iter_mut().enumerate() {
                            *r = w[(first + j) * co + c];
                        }
                    }
                    row[width..].fill(0.0);
                }
            }
        });
    }

    /// y = conv(x), B x H x W x C each; y is overwritten.
    ///
    /// # Safety
    /// The pointers must be valid for `count` images and the weights, `y` and `workspace`
    /// ([`ConvPlan::workspace_len`]) exclusive.
    pub unsafe fn forward<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        x: Source<'_, E>,
        weights: Weights<'_>,
        workspace: Ptr,
        y: Ptr<E>,
        after: After<'_, E>,
    ) {
        if let Some(winograd) = &self.winograd {
            // SAFETY: passed on.
            return unsafe { winograd.run(isa, count, x, weights, workspace, y, false, after) };
        }
        assert!(x.norm.is_none(), "walks read maps as they lie");
        // SAFETY: passed on.
        unsafe { self.walk(isa, &self.forward, count, x.map, weights, y, false, after) };
    }

    /// dx = conv^T(dy), or dx += if `accumulate`.
    ///
    /// # Safety
    /// As [`ConvPlan::forward`], with `dx` exclusive.
    pub unsafe fn data_gradient<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        dy: Ptr<E>,
        weights: Weights<'_>,
        workspace: Ptr,
        dx: Ptr<E>,
        accumulate: bool,
    ) {
        let after = After {
            affine: None,
            statistics: None,
        };
        if let Some(winograd) = &self.winograd_back {
            // SAFETY: passed on.
            return unsafe {
                winograd.run(
                    isa,
                    count,
                    Source::plain(dy),
                    weights,
                    workspace,
                    dx,
                    accumulate,
                    after,
                )
            };
        }
        for walk in &self.backward {
            if walk.taps.is_empty() && accumulate {
                continue;
            }
            // SAFETY: passed on; the walks write different pixels.
            unsafe {
                self.walk(isa, walk, count, dy, weights, dx, accumulate, after);
            }
        }
    }

    /// # Safety
    /// As [`ConvPlan::forward`], for the walk's own inputs and outputs.
    unsafe fn walk<E: MapElement>(
        &self,
        isa: Isa,
        walk: &Walk,
        count: usize,
        x: Ptr<E>,
        weights: Weights<'_>,
        y: Ptr<E>,
        accumulate: bool,
        after: After<'_, E>,
    ) {
        let blocks = walk.blocks(count);
        let all = panels(walk.n, self.lanes);
        // Few blocks: share their panels out too, so that many cores find work.
        let groups = Parts::exactly(all, 64usize.div_ceil(blocks.count()));
        parallel(blocks.count() * groups.count(), |i| {
            let (block, group) = (i / groups.count(), i % groups.count());
            let rows = blocks.range(block);
            // SAFETY: tasks write different pixels or different channels; the caller vouches for
            // the pointers.
            unsafe {
                isa.run(WalkBlock {
                    walk,
                    panels: groups.range(group),
                    x: widened(isa, x, || walk.reads(walk.pixels_of(&rows))),
                    rows,
                    packed: weights.packed.add(walk.packed),
                    zeros: weights.zeros,
                    y,
                    accumulate,
                    after,
                    block,
                })
            }
        });
    }
}

/// One task of a forward pass or data gradient.
struct WalkBlock<'a, E> {
    walk: &'a Walk,
    /// Pixels of the batch, or images on small maps.
    rows: Range<usize>,
    panels: Range<usize>,
    x: Ptr,
    packed: Ptr,
    zeros: Ptr,
    y: Ptr<E>,
    accumulate: bool,
    after: After<'a, E>,
    block: usize,
}

impl<E: MapElement> Kernel for WalkBlock<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let walk = self.walk;
        for p in self.panels.clone() {
            let (first, _, vectors) = panel(walk.n, S::LANES, p);
            let b = self
                .packed
                .add(first * walk.taps.len() * walk.k)
                .raw()
                .cast_const();
            if walk.pixels <= SMALL_MAP {
                for pixel in 0..walk.pixels {
                    for (image, rows) in split_rows(self.rows.len(), S::ROWS) {
                        let image = self.rows.start + image;
                        // SAFETY: rows lie in this task's images; the caller's promise.
                        unsafe {
                            if vectors == 2 {
                                by_rows!(S, rows, 2, image_tile(&self, image, pixel, p, b));
                            } else {
                                by_rows!(S, rows, 1, image_tile(&self, image, pixel, p, b));
                            }
                        }
                    }
                }
            } else {
                for (row, rows) in split_rows(self.rows.len(), S::ROWS) {
                    let row = self.rows.start + row;
                    // SAFETY: rows lie in this task's pixels; the caller's promise.
                    unsafe {
                        if vectors == 2 {
                            by_rows!(S, rows, 2, pixel_tile(&self, row, p, b));
                        } else {
                            by_rows!(S, rows, 1, pixel_tile(&self, row, p, b));
                        }
                    }
                }
            }
        }
        let pixels = walk.pixels_of(&self.rows);
        let channels = panel(walk.n, S::LANES, self.panels.start).0
            ..(self.panels.end * 2 * S::LANES).min(walk.n);
        // SAFETY: the task's own pixels and channels.
        unsafe {
            self.after
                .run::<S>(self.y, walk.n, pixels, channels, self.block);
        }
    }
}

impl<E: MapElement> After<'_, E> {
    /// Does it to some channels of some pixels of the output, the block number `block`.
    ///
    /// # Safety
    /// The pointers must hold these pixels of `n` channels, and no one else may touch this part.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(
        &self,
        y: Ptr<E>,
        n: usize,
        pixels: Range<usize>,
        channels: Range<usize>,
        block: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(affine) = self.affine {
                affine.apply::<S>(y, y, pixels.clone(), channels.clone());
            }
            if let Some(statistics) = self.statistics {
                let to = statistics.add(block * 2 * n);
                block_statistics::<S, E>(y, n, pixels, channels, to);
            }
        }
    }
}

/// M neighbouring pixels, each with its own offsets.
#[inline(always)]
unsafe fn pixel_tile<S: Simd, const M: usize, const NV: usize>(
    task: &WalkBlock<'_, impl MapElement>,
    row: usize,
    p: usize,
    b: *const f32,
) {
    let walk = task.walk;
    let taps = walk.taps.len();
    let zero = task.zeros.raw().cast_const();
    let mut base = [zero; M];
    let mut table = [walk.offsets.as_ptr(); M];
    let mut to = [task.y.raw(); M];
    let (mut image, mut pixel) = (row / walk.pixels, row % walk.pixels);
    let column = p * 2 * S::LANES;
    for i in 0..M {
        base[i] = task.x.raw().cast_const().wrapping_add(image * walk.in_len);
        table[i] = walk.offsets.as_ptr().wrapping_add(pixel * taps);
        let target = walk.target(pixel);
        to[i] = (task.y.raw()).wrapping_add(image * walk.out_len + target * walk.n + column);
        pixel += 1;
        if pixel == walk.pixels {
            (image, pixel) = (image + 1, 0);
        }
    }
    // SAFETY: offsets are inside the image or replaced by the zeros; `to` are this task's pixels.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        let mut b = b;
        for t in 0..taps {
            let mut a = [zero; M];
            for i in 0..M {
                let offset = *table[i].add(t);
                a[i] = if offset < 0 {
                    zero
                } else {
                    base[i].wrapping_add(offset as usize)
                };
            }
            S::multiply(&mut acc, a, walk.k, b);
            b = b.wrapping_add(walk.k * NV * S::LANES);
        }
        for i in 0..M {
            put::<S, _, NV>(acc[i], to[i], walk.n - column, task.accumulate);
        }
    }
}

/// The same pixel of M images: kernel positions in the padding are left out.
#[inline(always)]
unsafe fn image_tile<S: Simd, const M: usize, const NV: usize>(
    task: &WalkBlock<'_, impl MapElement>,
    image: usize,
    pixel: usize,
    p: usize,
    b: *const f32,
) {
    let walk = task.walk;
    let taps = walk.taps.len();
    let table = &walk.offsets[pixel * taps..][..taps];
    let column = p * 2 * S::LANES;
    // SAFETY: offsets are inside the image; `to` are this task's pixels.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        for (t, &offset) in table.iter().enumerate() {
            if offset < 0 {
                continue;
            }
            let mut a = [task.x.raw().cast_const(); M];
            for (i, a) in a.iter_mut().enumerate() {
                *a = a.wrapping_add((image + i) * walk.in_len + offset as usize);
            }
            let b = b.wrapping_add(t * walk.k * NV * S::LANES);
            S::multiply(&mut acc, a, walk.k, b);
        }
        let to = (task.y.raw()).wrapping_add(walk.target(pixel) * walk.n + column);
        for i in 0..M {
            let to = to.wrapping_add((image + i) * walk.out_len);
            put::<S, _, NV>(acc[i], to, walk.n - column, task.accumulate);
        }
    }
}
