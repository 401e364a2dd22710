//! Convolutions whose transformed weights are large: some hundred tiles go through three passes, so
//! that the weights are read once for all of them. Their inputs are transformed into planes of
//! tiles x channels, each plane is multiplied by its weights, and the products are transformed back.

use super::near::product_tile;
use super::{GAP, Maps, PLANES, Winograd};
use crate::cpu::element::MapElement;
use crate::cpu::memory::Ptr;
use crate::cpu::simd::{Isa, Kernel, Simd};
use crate::cpu::threads::{Parts, parallel};
use crate::cpu::tile::{by_rows, panel, panels, split_rows};

/// Tiles whose planes are kept at once.
const STAGE_TILES: usize = 192;
/// Tiles that a task transforms.
pub(super) const BLOCK_TILES: usize = 16;

impl Winograd {
    /// Blocks that go through the passes together.
    fn stages(&self, count: usize) -> Parts {
        let blocks = self.blocks(count);
        let tiles = blocks.range(0).len().max(1) * self.tiles.across();
        Parts::at_most(blocks.count(), (STAGE_TILES / tiles).max(1))
    }

    /// Tile rows of the batch that a stage's blocks take.
    fn stage_rows(&self, count: usize, blocks: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let all = self.blocks(count);
        all.range(blocks.start).start..all.range(blocks.end - 1).end
    }

    /// Numbers of a stage's planes of input and of products.
    fn stage_lens(&self, tiles: usize) -> (usize, usize) {
        let width = self.n.next_multiple_of(self.lanes);
        (
            PLANES * (tiles * self.k + GAP),
            PLANES * (tiles * width + GAP),
        )
    }

    /// Numbers that [`Winograd::run_staged`] needs beside its arguments.
    pub(super) fn staged_workspace(&self, count: usize) -> usize {
        let stages = self.stages(count);
        let rows = (0..stages.count()).map(|i| self.stage_rows(count, stages.range(i)).len());
        let (planes, products) = self.stage_lens(rows.max().unwrap_or(0) * self.tiles.across());
        planes + products
    }

    /// # Safety
    /// As [`Winograd::run`].
    pub(super) unsafe fn run_staged<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        maps: Maps<'_, E>,
        workspace: Ptr,
    ) {
        let (all, stages) = (self.blocks(count), self.stages(count));
        // More tasks than planes, so that many cores find work.
        let groups = Parts::exactly(panels(self.n, self.lanes), 4);
        for stage in 0..stages.count() {
            let blocks = stages.range(stage);
            let rows = self.stage_rows(count, blocks.clone());
            let tiles = rows.len() * self.tiles.across();
            let (planes, _) = self.stage_lens(tiles);
            let task = Stage {
                plan: self,
                maps,
                first: rows.start,
                tiles,
                planes: workspace,
                products: workspace.add(planes),
            };
            // SAFETY: tasks of a pass write different tiles, planes or channels; the caller vouches
            // for the pointers.
            parallel(blocks.len(), |i| unsafe {
                let rows = all.range(blocks.start + i);
                isa.run(Input { task, rows });
            });
            parallel(PLANES * groups.count(), |i| unsafe {
                isa.run(Product {
                    task,
                    plane: i / groups.count(),
                    panels: groups.range(i % groups.count()),
                });
            });
            parallel(blocks.len(), |i| unsafe {
                let block = blocks.start + i;
                isa.run(Output {
                    task,
                    rows: all.range(block),
                    block,
                    pixels: self.block_pixels(count, block),
                });
            });
        }
    }
}

#[derive(Clone, Copy)]
struct Stage<'a, E> {
    plan: &'a Winograd,
    maps: Maps<'a, E>,
    /// Its first tile row of the batch.
    first: usize,
    tiles: usize,
    /// [plane][tile][channel]
    planes: Ptr,
    /// [plane][tile][channel, whole vectors]
    products: Ptr,
}

impl<E> Stage<'_, E> {
    /// The stage's own number of the first tile of a tile row.
    #[inline(always)]
    fn tile(&self, row: usize) -> usize {
        (row - self.first) * self.plan.tiles.across()
    }
}

/// Some tile rows' inputs into planes.
struct Input<'a, E> {
    task: Stage<'a, E>,
    rows: std::ops::Range<usize>,
}

impl<E: MapElement> Kernel for Input<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let task = self.task;
        let Winograd { k, tiles: t, .. } = *task.plan;
        let plane = task.tiles * k + GAP;
        let first = task.tile(self.rows.start);
        for tile in 0..self.rows.len() * t.across() {
            let at = t.place(self.rows.start, tile);
            for c in (0..k).step_by(S::LANES) {
                let lanes = S::LANES.min(k - c);
                let to = task.planes.add((first + tile) * k + c);
                // SAFETY: this task's tiles of planes as `stage_lens` says; the caller's promise.
                unsafe { t.input::<S, E>(task.maps.x, k, at, c, lanes, to, plane, lanes) };
            }
        }
    }
}

/// One plane's products, of some panels of output channels.
struct Product<'a, E> {
    task: Stage<'a, E>,
    plane: usize,
    panels: std::ops::Range<usize>,
}

impl<E: MapElement> Kernel for Product<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Stage { plan, tiles, .. } = self.task;
        let Winograd { k, n, .. } = *plan;
        let stride = n.next_multiple_of(S::LANES);
        let from = self.task.planes.add(self.plane * (tiles * k + GAP));
        let to = (self.task.products).add(self.plane * (tiles * stride + GAP));
        for p in self.panels {
            let (first, _, vectors) = panel(n, S::LANES, p);
            let at = first * PLANES * k + self.plane * k * vectors * S::LANES;
            let b = self.task.maps.packed.add(at).raw().cast_const();
            for (tile, rows) in split_rows(tiles, S::ROWS) {
                let a = from.add(tile * k).raw().cast_const();
                let to = to.add(tile * stride + first).raw();
                // SAFETY: this task's plane and channels, as `stage_lens` says.
                unsafe {
                    if vectors == 2 {
                        by_rows!(S, rows, 2, product_tile(a, k, b, to, stride));
                    } else {
                        by_rows!(S, rows, 1, product_tile(a, k, b, to, stride));
                    }
                }
            }
        }
    }
}

/// Some tile rows' products into output.
struct Output<'a, E> {
    task: Stage<'a, E>,
    rows: std::ops::Range<usize>,
    block: usize,
    pixels: std::ops::Range<usize>,
}

impl<E: MapElement> Kernel for Output<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let task = self.task;
        let Winograd { n, tiles: t, .. } = *task.plan;
        let stride = n.next_multiple_of(S::LANES);
        let plane = task.tiles * stride + GAP;
        let first = task.tile(self.rows.start);
        // SAFETY: products as `stage_lens` says, this task's pixels; the caller's promise.
        unsafe {
            for tile in 0..self.rows.len() * t.across() {
                let at = t.place(self.rows.start, tile);
                for c in (0..n).step_by(S::LANES) {
                    let lanes = S::LANES.min(n - c);
                    let from = task.products.add((first + tile) * stride + c);
                    t.output::<S, E>(from, plane, at, c, lanes, n, &task.maps);
                }
            }
            let all = 0..panels(n, S::LANES);
            task.maps.finish::<S>(n, all, self.pixels, self.block);
        }
    }
}
