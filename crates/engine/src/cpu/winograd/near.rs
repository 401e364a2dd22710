//! Convolutions whose transformed weights are small: a task takes a run of tile rows (each 4 pixel
//! rows of an image) from input to output. It transforms its tiles into 36 planes of tiles x
//! channels, which stay in L2, and then, for one panel of output channels after the other,
//! multiplies plane by plane and transforms back.

use super::{GAP, Maps, PLANES, Winograd};
use crate::cpu::element::MapElement;
use crate::cpu::memory::{Ptr, scratch};
use crate::cpu::simd::{Isa, Kernel, Simd};
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::tile::{by_rows, panel, panels, put, split_rows, zeros};

/// Numbers of transformed input that a task keeps: 432 KiB.
const TASK_NUMBERS: usize = 108 * 1024;

/// Tiles that a task takes, of `k` channels.
pub(super) fn tiles(k: usize) -> usize {
    (TASK_NUMBERS / (PLANES * k)).clamp(6, 48)
}

impl Winograd {
    /// Numbers of the planes, and of those of a panel's products.
    fn near_lens(&self, tiles: usize) -> (usize, usize) {
        (
            PLANES * (tiles * self.k + GAP),
            PLANES * (tiles * 2 * self.lanes + GAP),
        )
    }

    /// Numbers of its own that each thread needs.
    pub(super) fn near_scratch(&self, count: usize) -> usize {
        let blocks = self.blocks(count);
        let rows = (0..blocks.count()).map(|i| blocks.range(i).len()).max();
        let (planes, products) = self.near_lens(rows.unwrap_or(0) * self.tiles.across());
        planes + products
    }

    /// # Safety
    /// As [`Winograd::run`].
    pub(super) unsafe fn run_near<E: MapElement>(&self, isa: Isa, count: usize, maps: Maps<'_, E>) {
        let blocks = self.blocks(count);
        let all = panels(self.n, self.lanes);
        // Few blocks: share their panels out too; each task then transforms the input again.
        let groups = Parts::exactly(all, 16usize.div_ceil(blocks.count()));
        parallel(blocks.count() * groups.count(), |i| {
            let (block, group) = (i / groups.count(), i % groups.count());
            let rows = blocks.range(block);
            let (planes, products) = self.near_lens(rows.len() * self.tiles.across());
            let planes_at = scratch(planes + products);
            // SAFETY: tasks write different pixels or channels; the scratch is this thread's own.
            unsafe {
                isa.run(Task {
                    plan: self,
                    rows,
                    panels: groups.range(group),
                    maps,
                    block,
                    pixels: self.block_pixels(count, block),
                    planes: planes_at,
                    products: planes_at.add(planes),
                })
            }
        });
    }
}

/// One task: some tile rows, some panels of output channels.
struct Task<'a, E> {
    plan: &'a Winograd,
    /// Tile rows of the batch.
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    maps: Maps<'a, E>,
    block: usize,
    pixels: std::ops::Range<usize>,
    /// [plane][tile][channel]
    planes: Ptr,
    /// [plane][tile][two vectors]
    products: Ptr,
}

impl<E: MapElement> Kernel for Task<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Winograd { k, n, tiles: t, .. } = *self.plan;
        let Maps { x, packed, .. } = self.maps;
        let tiles = self.rows.len() * t.across();
        let plane = tiles * k + GAP;
        let product = tiles * 2 * S::LANES + GAP;
        // SAFETY: planes and products hold what `near_lens` says; the caller's promise.
        unsafe {
            for tile in 0..tiles {
                let at = t.place(self.rows.start, tile);
                for c in (0..k).step_by(S::LANES) {
                    let lanes = S::LANES.min(k - c);
                    let to = self.planes.add(tile * k + c);
                    t.input::<S, E>(x, k, at, c, lanes, to, plane, lanes);
                }
            }
            for p in self.panels.clone() {
                let (first, _, vectors) = panel(n, S::LANES, p);
                let b = packed.add(first * PLANES * k).raw().cast_const();
                let step = vectors * S::LANES;
                for i in 0..PLANES {
                    let from = self.planes.add(i * plane).raw().cast_const();
                    let b = b.add(i * k * step);
                    let to = self.products.add(i * product).raw();
                    for (tile, rows) in split_rows(tiles, S::ROWS) {
                        let (a, to) = (from.add(tile * k), to.add(tile * 2 * S::LANES));
                        let stride = 2 * S::LANES;
                        if vectors == 2 {
                            by_rows!(S, rows, 2, product_tile(a, k, b, to, stride));
                        } else {
                            by_rows!(S, rows, 1, product_tile(a, k, b, to, stride));
                        }
                    }
                }
                for tile in 0..tiles {
                    let at = t.place(self.rows.start, tile);
                    for v in 0..vectors {
                        let c = first + v * S::LANES;
                        let lanes = S::LANES.min(n - c);
                        let from = self.products.add(tile * 2 * S::LANES + v * S::LANES);
                        t.output::<S, E>(from, product, at, c, lanes, n, &self.maps);
                    }
                }
            }
            (self.maps).finish::<S>(n, self.panels, self.pixels, self.block);
        }
    }
}

/// M tiles x NV vectors of one plane's products.
///
/// # Safety
/// M rows of k numbers at `a`; `b` k times NV vectors; `to` NV vectors at each of M multiples of
/// `stride`.
#[inline(always)]
pub(super) unsafe fn product_tile<S: Simd, const M: usize, const NV: usize>(
    a: *const f32,
    k: usize,
    b: *const f32,
    to: *mut f32,
    stride: usize,
) {
    let mut rows = [a; M];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = a.wrapping_add(i * k);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        S::multiply(&mut acc, rows, k, b);
        for (i, acc) in acc.iter().enumerate() {
            put::<S, _, NV>(*acc, to.add(i * stride), NV * S::LANES, false);
        }
    }
}
