//! Weights: their planes, and their gradient, F(3x3, 4x4).
//!
//! The gradient is the adjoint of the convolution: planes of inputs and of output gradients are
//! multiplied over tiles and transformed to 3 x 3 at the very end. Both are laid out in panels of
//! two vectors of channels, so that the tiles of a panel lie one after the other in L1 while they
//! are summed. Narrow layers have a few segments of the batch, each with planes of sums of its own;
//! in wide layers, whose sums are large, tasks share out planes and channels instead.

use super::{GAP, IN, PLANES, Winograd, points};
use crate::cpu::affine::{load, store};
use crate::cpu::element::MapElement;
use crate::cpu::memory::{Ptr, scratch};
use crate::cpu::simd::{Isa, Kernel, Simd};
use crate::cpu::source::Source;
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::tile::{by_rows, panel, put, split_rows, zeros};

/// Tiles that are transformed before they are multiplied: a panel of them is 12 KiB.
const STAGE_TILES: usize = 192;
/// Segments of the batch, where sums of [`SEGMENT_NUMBERS`] at most are kept for each.
const SEGMENTS: usize = 16;
const SEGMENT_NUMBERS: usize = 192 * 1024;
/// Tiles that a segment must have at least.
const SEGMENT_TILES: usize = 96;
/// Tile rows that a task of a wide layer transforms.
const TASK_TILES: usize = 16;

/// G g Gᵀ of one panel of output channels.
pub(super) struct Pack<'a> {
    pub plan: &'a Winograd,
    /// [position][k][n], or [position][n][k] if `turned`.
    pub weights: &'a [f32],
    /// Whether the kernel is turned round and maps outputs to inputs.
    pub turned: bool,
    pub panel: usize,
    pub packed: Ptr,
}

impl Kernel for Pack<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Winograd { k, n, .. } = *self.plan;
        let (first, width, vectors) = panel(n, S::LANES, self.panel);
        let step = vectors * S::LANES;
        let to = self.packed.add(first * PLANES * k);
        for c in 0..k {
            for v in 0..vectors {
                let lanes = (width - v * S::LANES).min(S::LANES);
                let at = first + v * S::LANES;
                // SAFETY: `lanes` channels from `at` on; the panel's own part of the packed weights.
                unsafe {
                    let mut taps = [S::zero(); 9];
                    for (tap, g) in taps.iter_mut().enumerate() {
                        if self.turned {
                            let mut all = [0f32; 16];
                            let from = &self.weights[((8 - tap) * n + at) * k + c..];
                            for (j, x) in all[..lanes].iter_mut().enumerate() {
                                *x = from[j * k];
                            }
                            *g = S::load(all.as_ptr());
                        } else {
                            let from = &self.weights[(tap * k + c) * n + at..][..lanes];
                            *g = load::<S, _>(from.as_ptr(), lanes);
                        }
                    }
                    let mut half = [[S::zero(); IN]; 3];
                    for (x, half) in half.iter_mut().enumerate() {
                        *half = points::weights::<S>([taps[x], taps[3 + x], taps[6 + x]]);
                    }
                    for y in 0..IN {
                        let row = points::weights::<S>([half[0][y], half[1][y], half[2][y]]);
                        for (x, u) in row.into_iter().enumerate() {
                            let plane = y * IN + x;
                            let to = to.add((plane * k + c) * step + v * S::LANES);
                            S::store(to.raw(), u);
                        }
                    }
                }
            }
        }
    }
}

impl Winograd {
    /// Two vectors, the width of all panels here.
    fn width(&self) -> usize {
        2 * self.lanes
    }

    /// Numbers of the planes of sums: [plane][k][n, whole panels].
    fn sums_len(&self) -> usize {
        PLANES * self.k * self.n.next_multiple_of(self.width())
    }

    /// Whether segments pay: their sums are small, and there are tiles enough for each.
    fn is_narrow(&self, count: usize) -> bool {
        let tiles = count * self.tiles.rows() * self.tiles.across();
        PLANES * self.k * self.n <= SEGMENT_NUMBERS && tiles >= SEGMENTS * SEGMENT_TILES
    }

    /// Tile rows of the batch, in segments with sums of their own.
    fn segments(&self, count: usize) -> Parts {
        let rows = count * self.tiles.rows();
        let segments = if self.is_narrow(count) { SEGMENTS } else { 1 };
        Parts::exactly(rows, segments)
    }

    /// Tile rows that are transformed before they are multiplied.
    fn gradient_stages(&self, rows: usize) -> Parts {
        Parts::at_most(rows, (STAGE_TILES / self.tiles.across()).max(1))
    }

    /// Numbers of the planes of inputs and of output gradients of a stage.
    fn gradient_lens(&self, tiles: usize) -> (usize, usize) {
        let width = self.width();
        (
            PLANES * (tiles * self.k.next_multiple_of(width) + GAP),
            PLANES * (tiles * self.n.next_multiple_of(width) + GAP),
        )
    }

    /// Numbers of the longest stage's planes.
    fn gradient_stage(&self, count: usize) -> usize {
        let segments = self.segments(count);
        let most = (0..segments.count()).map(|i| segments.range(i).len()).max();
        let stages = self.gradient_stages(most.unwrap_or(0));
        let most = (0..stages.count()).map(|i| stages.range(i).len()).max();
        // Other segments' stages may be a row longer.
        let (x, dy) = self.gradient_lens((most.unwrap_or(0) + 1) * self.tiles.across());
        x + dy
    }

    /// Numbers of its own that each thread needs for the weight gradient.
    pub(super) fn weights_scratch(&self, count: usize) -> usize {
        if self.is_narrow(count) {
            self.gradient_stage(count)
        } else {
            0
        }
    }

    /// Numbers that [`Winograd::weight_gradient`] needs beside its arguments.
    pub fn gradient_workspace(&self, count: usize) -> usize {
        let sums = self.segments(count).count() * self.sums_len();
        if self.is_narrow(count) {
            sums
        } else {
            sums + self.gradient_stage(count)
        }
    }

    /// dw += Σ over the batch of x and dy, dw as [position][k][n].
    ///
    /// # Safety
    /// The pointers must be valid for `count` images and `workspace` for
    /// [`Winograd::gradient_workspace`] numbers, exclusively.
    pub unsafe fn weight_gradient<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        x: Source<'_, E>,
        dy: Ptr<E>,
        workspace: Ptr,
        dw: &mut [f32],
    ) {
        let segments = self.segments(count);
        let stage = |rows: std::ops::Range<usize>, planes: Ptr, sums: Ptr, first: bool| {
            let tiles = rows.len() * self.tiles.across();
            Stage {
                plan: self,
                x,
                dy,
                rows,
                tiles,
                inputs: planes,
                gradients: planes.add(self.gradient_lens(tiles).0),
                sums,
                first,
            }
        };
        if self.is_narrow(count) {
            parallel(segments.count(), |i| {
                let rows = segments.range(i);
                let planes = scratch(self.gradient_stage(count));
                let stages = self.gradient_stages(rows.len());
                for s in 0..stages.count() {
                    let part = stages.range(s);
                    let part = rows.start + part.start..rows.start + part.end;
                    let sums = workspace.add(i * self.sums_len());
                    // SAFETY: each segment has sums of its own, each thread its scratch.
                    unsafe { isa.run(Whole(stage(part, planes, sums, s == 0))) };
                }
            });
        } else {
            let planes = workspace.add(self.sums_len());
            let stages = self.gradient_stages(segments.range(0).len());
            let panels = self.n.div_ceil(self.width());
            let groups = Parts::exactly(panels, 4);
            for s in 0..stages.count() {
                let stage = &stage(stages.range(s), planes, workspace, s == 0);
                let parts =
                    Parts::at_most(stage.rows.len(), (TASK_TILES / self.tiles.across()).max(1));
                // SAFETY: tasks write different tiles, and then different planes or channels.
                parallel(parts.count(), |i| unsafe {
                    isa.run(Transform(stage, parts.range(i)));
                });
                parallel(PLANES * groups.count(), |i| unsafe {
                    let panels = groups.range(i % groups.count());
                    isa.run(Multiply(stage, i / groups.count(), panels));
                });
            }
        }
        let parts = Parts::at_most(self.k, 8);
        let to = Ptr::of(dw);
        parallel(parts.count(), |i| {
            // SAFETY: tasks write different input channels.
            unsafe {
                isa.run(Merge {
                    plan: self,
                    sums: workspace,
                    segments: segments.count(),
                    channels: parts.range(i),
                    dw: to,
                });
            }
        });
    }
}

/// Some tiles, transformed and multiplied.
struct Stage<'a, E> {
    plan: &'a Winograd,
    x: Source<'a, E>,
    dy: Ptr<E>,
    /// Tile rows of the batch.
    rows: std::ops::Range<usize>,
    tiles: usize,
    /// [plane][panel][tile][two vectors] of input channels, and of output channels.
    inputs: Ptr,
    gradients: Ptr,
    /// [plane][k][n, whole panels]
    sums: Ptr,
    /// Whether these are the first that are summed.
    first: bool,
}

impl<E: MapElement> Stage<'_, E> {
    /// Numbers between planes of inputs and of gradients.
    #[inline(always)]
    fn strides<S: Simd>(&self) -> (usize, usize) {
        let Winograd { k, n, .. } = *self.plan;
        let width = 2 * S::LANES;
        (
            self.tiles * k.next_multiple_of(width) + GAP,
            self.tiles * n.next_multiple_of(width) + GAP,
        )
    }

    /// Transforms some of its tile rows.
    #[inline(always)]
    unsafe fn transform<S: Simd>(&self, rows: std::ops::Range<usize>) {
        let Winograd { k, n, tiles: t, .. } = *self.plan;
        let width = 2 * S::LANES;
        let (input, gradient) = self.strides::<S>();
        for tile in rows.start * t.across()..rows.end * t.across() {
            let at = t.place(self.rows.start, tile);
            let place = |c: usize| c / width * width * self.tiles + tile * width + c % width;
            // SAFETY: these tiles of the planes, which `gradient_lens` has room for; beyond the last
            // channel no lanes are read, and zeros are written.
            unsafe {
                for c in (0..k.next_multiple_of(width)).step_by(S::LANES) {
                    let lanes = k.saturating_sub(c).min(S::LANES);
                    let to = self.inputs.add(place(c));
                    t.input::<S, E>(self.x, k, at, c, lanes, to, input, S::LANES);
                }
                for c in (0..n.next_multiple_of(width)).step_by(S::LANES) {
                    let lanes = n.saturating_sub(c).min(S::LANES);
                    let to = self.gradients.add(place(c));
                    t.gradient::<S, E>(self.dy, n, at, c, lanes, to, gradient);
                }
            }
        }
    }

    /// Multiplies some panels of output channels of one plane.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, plane: usize, panels: std::ops::Range<usize>) {
        let Winograd { k, n, .. } = *self.plan;
        let width = 2 * S::LANES;
        let (input, gradient) = self.strides::<S>();
        let stride = n.next_multiple_of(width);
        for p in panels {
            let b = (self.gradients).add(plane * gradient + p * width * self.tiles);
            let b = b.raw().cast_const();
            for first in (0..k).step_by(width) {
                let a = self.inputs.add(plane * input + first * self.tiles);
                for (c, rows) in split_rows(width.min(k - first), S::ROWS) {
                    let a = a.add(c).raw().cast_const();
                    let to = (self.sums).add((plane * k + first + c) * stride + p * width);
                    // SAFETY: this task's plane and channels.
                    unsafe {
                        by_rows!(
                            S,
                            rows,
                            2,
                            sum_tile(a, self.tiles, b, to.raw(), stride, !self.first)
                        );
                    }
                }
            }
        }
    }
}

/// All of a stage.
struct Whole<'a, E>(Stage<'a, E>);

impl<E: MapElement> Kernel for Whole<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let panels = self.0.plan.n.div_ceil(2 * S::LANES);
        // SAFETY: passed on.
        unsafe {
            self.0.transform::<S>(0..self.0.rows.len());
            for plane in 0..PLANES {
                self.0.multiply::<S>(plane, 0..panels);
            }
        }
    }
}

/// A part of a stage's first half: some of its tile rows.
struct Transform<'a, E>(&'a Stage<'a, E>, std::ops::Range<usize>);

impl<E: MapElement> Kernel for Transform<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on.
        unsafe { self.0.transform::<S>(self.1) }
    }
}

/// A part of its second half: some panels of a plane.
struct Multiply<'a, E>(&'a Stage<'a, E>, usize, std::ops::Range<usize>);

impl<E: MapElement> Kernel for Multiply<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on.
        unsafe { self.0.multiply::<S>(self.1, self.2) }
    }
}

/// M input channels x NV vectors of output channels, summed over tiles.
///
/// # Safety
/// `a` and `b` must hold two vectors for each of `tiles`, `a` from some of them on M numbers; `to`
/// NV vectors at each of M multiples of `stride`.
#[inline(always)]
unsafe fn sum_tile<S: Simd, const M: usize, const NV: usize>(
    a: *const f32,
    tiles: usize,
    b: *const f32,
    to: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let width = 2 * S::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        S::multiply_columns(&mut acc, a, width, tiles, b, width);
        for (i, acc) in acc.iter().enumerate() {
            put::<S, _, NV>(*acc, to.add(i * stride), width, accumulate);
        }
    }
}

/// The segments' sums of some input channels, merged in order, as weights: dw += Gᵀ m G.
struct Merge<'a> {
    plan: &'a Winograd,
    sums: Ptr,
    segments: usize,
    channels: std::ops::Range<usize>,
    dw: Ptr,
}

impl Kernel for Merge<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Winograd { k, n, .. } = *self.plan;
        let stride = n.next_multiple_of(2 * S::LANES);
        let len = PLANES * k * stride;
        for c in self.channels {
            for at in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - at);
                // SAFETY: whole vectors of sums; this task's channels of dw.
                unsafe {
                    let mut half = [[S::zero(); 3]; IN];
                    for (x, half) in half.iter_mut().enumerate() {
                        let mut column = [S::zero(); IN];
                        for (y, m) in column.iter_mut().enumerate() {
                            let from = (self.sums).add(((y * IN + x) * k + c) * stride + at);
                            *m = S::load(from.raw());
                            for s in 1..self.segments {
                                *m = S::add(*m, S::load(from.add(s * len).raw()));
                            }
                        }
                        *half = points::kernel::<S>(column);
                    }
                    for y in 0..3 {
                        let row = std::array::from_fn(|x| half[x][y]);
                        for (x, d) in points::kernel::<S>(row).into_iter().enumerate() {
                            let to = self.dw.add(((y * 3 + x) * k + c) * n + at).raw();
                            store::<S, _>(to, S::add(load::<S, _>(to, lanes), d), lanes);
                        }
                    }
                }
            }
        }
    }
}
