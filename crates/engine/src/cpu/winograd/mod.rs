//! Convolutions of 3x3 at stride 1 by Winograd's minimal filtering, F(4x4, 3x3) (Winograd 1980;
//! Lavin and Gray 2016): 36 products for each 4 x 4 pixels and pair of channels instead of 144.
//!
//! y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for a tile of 6 x 6 inputs d and 4 x 4 outputs y, the products
//! summed over input channels: transforms (`points`) around 36 products of matrices, one for each
//! *plane*, of tiles x channels. The data gradient is the same with the weights turned round; the
//! weight gradient is the exact adjoint, Gᵀ[Σ over tiles (Bᵀ d B) ⊙ (A dy Aᵀ)]G (`weights`).
//!
//! Where the weights' planes fit the cache, a task takes a few tiles from input to output (`near`).
//! Else each plane's weights are read once for many tiles, whose planes are kept in between
//! (`staged`).

mod near;
mod points;
mod staged;
mod weights;

use super::affine::{load, store};
use super::conv2d::{After, Weights};
use super::element::MapElement;
use super::memory::Ptr;
use super::simd::{Isa, Simd};
use super::source::Source;
use super::threads::{Parts, parallel};
use super::tile::{packed_len, panel, panels};
use npid_network::graph::Shape;

/// Output pixels of a tile, in each direction.
const OUT: usize = 4;
/// Input pixels, and products.
const IN: usize = 6;
const PLANES: usize = IN * IN;
/// Numbers between planes beside their own, so that they don't share their places in the cache.
const GAP: usize = 16;
/// Numbers of transformed weights that tasks may read again and again: 2.25 MiB, from L3.
const NEAR_WEIGHTS: usize = 576 * 1024;

/// A convolution for one image size, one direction of it.
#[derive(Clone, Copy, Debug)]
pub struct Winograd {
    tiles: Tiles,
    /// Channels read and written.
    k: usize,
    n: usize,
    lanes: usize,
    /// Whether it is a data gradient: the kernel is turned round and maps outputs to inputs.
    turned: bool,
    /// Where its packed weights start, if they are kept.
    packed: usize,
}

/// How tiles cover an image.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    h: usize,
    w: usize,
}

/// Where a tile lies: the image's first pixel and the tile's first row and column of outputs.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    y: usize,
    x: usize,
}

impl Winograd {
    /// Plans for maps of `shape`, from `k` to `n` channels.
    pub fn new(
        shape: Shape,
        (k, n): (usize, usize),
        turned: bool,
        lanes: usize,
        packed: usize,
    ) -> Self {
        Winograd {
            tiles: Tiles {
                h: shape.h,
                w: shape.w,
            },
            k,
            n,
            lanes,
            turned,
            packed,
        }
    }

    /// Whether it serves 3x3 convolutions of stride 1 on maps of this shape better than `direct`
    /// products for each pair of channels: of the few it needs a part goes into transforms, and
    /// tiles reach over the edge.
    pub fn pays(shape: Shape, k: usize, n: usize, direct: usize) -> bool {
        let tiles = shape.h.div_ceil(OUT) * shape.w.div_ceil(OUT);
        k.min(n) >= 16 && 3 * PLANES * tiles <= 2 * direct
    }

    /// Numbers of transformed weights that are kept from pass to pass: none of large ones, which
    /// would be four times the weights, and are transformed again in a small part of the time that
    /// their products take.
    pub fn packed_len(&self) -> usize {
        if self.is_near() {
            self.weights_len()
        } else {
            0
        }
    }

    fn weights_len(&self) -> usize {
        packed_len(PLANES * self.k, self.n, self.lanes)
    }

    fn is_near(&self) -> bool {
        PLANES * self.k * self.n <= NEAR_WEIGHTS
    }

    /// Tile rows of the batch, in blocks: each is neighbouring pixels and has its own statistics.
    pub fn blocks(&self, count: usize) -> Parts {
        let tiles = if self.is_near() {
            near::tiles(self.k)
        } else {
            staged::BLOCK_TILES
        };
        let rows = (tiles / self.tiles.across()).max(1);
        Parts::at_most(count * self.tiles.rows(), rows)
    }

    /// The pixels of the batch that a block writes.
    pub fn block_pixels(&self, count: usize, block: usize) -> std::ops::Range<usize> {
        self.tiles.pixels(self.blocks(count).range(block))
    }

    /// Bytes of its own that each thread needs.
    pub fn scratch_bytes(&self, count: usize) -> usize {
        let near = if self.is_near() {
            self.near_scratch(count)
        } else {
            0
        };
        near.max(self.weights_scratch(count)) * 4
    }

    /// Numbers that [`Winograd::run`] needs beside its arguments.
    pub fn workspace_len(&self, count: usize) -> usize {
        if self.is_near() {
            0
        } else {
            self.weights_len() + self.staged_workspace(count)
        }
    }

    /// Packs weights that are kept ([`Winograd::transform`]).
    ///
    /// # Safety
    /// `packed` must hold [`Winograd::packed_len`] numbers from this one's place on, exclusively.
    pub unsafe fn pack(&self, isa: Isa, weights: &[f32], packed: Ptr) {
        if self.is_near() {
            // SAFETY: passed on.
            unsafe { self.transform(isa, weights, packed.add(self.packed)) };
        }
    }

    /// Transforms weights of [position][k][n], or of [position][n][k] for a data gradient, in
    /// parallel, to [panel][plane][k][panel's channels].
    ///
    /// # Safety
    /// `to` must hold as many numbers, exclusively.
    unsafe fn transform(&self, isa: Isa, weights: &[f32], to: Ptr) {
        parallel(panels(self.n, self.lanes), |p| {
            // SAFETY: panels are disjoint parts of the packed weights.
            unsafe {
                isa.run(weights::Pack {
                    plan: self,
                    weights,
                    turned: self.turned,
                    panel: p,
                    packed: to,
                });
            }
        });
    }

    /// y = conv(x), or y += if `accumulate`; B x H x W x C each.
    ///
    /// # Safety
    /// The pointers must be valid for `count` images, packed weights and
    /// [`Winograd::workspace_len`] numbers, `y` and `workspace` exclusive.
    pub unsafe fn run<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        x: Source<'_, E>,
        weights: Weights<'_>,
        workspace: Ptr,
        y: Ptr<E>,
        accumulate: bool,
        after: After<'_, E>,
    ) {
        let mut maps = Maps {
            x,
            y,
            packed: weights.packed.add(self.packed),
            accumulate,
            after,
        };
        // SAFETY: passed on; the workspace begins with the weights where they aren't kept.
        unsafe {
            if self.is_near() {
                self.run_near(isa, count, maps);
            } else {
                self.transform(isa, weights.values, workspace);
                maps.packed = workspace;
                self.run_staged(isa, count, maps, workspace.add(self.weights_len()));
            }
        }
    }
}

/// What a convolution reads and writes.
#[derive(Clone, Copy)]
struct Maps<'a, E> {
    x: Source<'a, E>,
    y: Ptr<E>,
    packed: Ptr,
    accumulate: bool,
    after: After<'a, E>,
}

impl<E: MapElement> Maps<'_, E> {
    /// What follows the output of a block, for the panels of one task.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        n: usize,
        of: std::ops::Range<usize>,
        pixels: std::ops::Range<usize>,
        block: usize,
    ) {
        let channels = panel(n, S::LANES, of.start).0..(of.end * 2 * S::LANES).min(n);
        // The affine map has been applied as the output was written.
        let after = After {
            affine: None,
            ..self.after
        };
        // SAFETY: the caller vouches for the pixels and these channels of them.
        unsafe { after.run::<S>(self.y, n, pixels, channels, block) };
    }
}

impl Tiles {
    /// Rows of tiles in an image.
    #[inline(always)]
    fn rows(&self) -> usize {
        self.h.div_ceil(OUT)
    }

    /// Tiles in a row.
    #[inline(always)]
    fn across(&self) -> usize {
        self.w.div_ceil(OUT)
    }

    /// The pixels of the batch under some tile rows of it.
    fn pixels(&self, rows: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let first = |row: usize| {
            let (image, row) = (row / self.rows(), row % self.rows());
            (image * self.h + row * OUT) * self.w
        };
        first(rows.start)..first(rows.end)
    }

    /// Where tile `tile` lies, counted from tile row `row` of the batch.
    #[inline(always)]
    fn place(&self, row: usize, tile: usize) -> Place {
        let row = row + tile / self.across();
        Place {
            image: row / self.rows() * self.h * self.w,
            y: row % self.rows() * OUT,
            x: tile % self.across() * OUT,
        }
    }

    /// Bᵀ d B of `lanes` channels from `c` on: to `to` and on at every multiple of `plane`, `width`
    /// numbers each.
    ///
    /// # Safety
    /// `x` must hold the image's pixels of `k` channels; `to` `width` numbers for each plane.
    #[inline(always)]
    unsafe fn input<S: Simd, E: MapElement>(
        &self,
        x: Source<'_, E>,
        k: usize,
        at: Place,
        c: usize,
        lanes: usize,
        to: Ptr,
        plane: usize,
        width: usize,
    ) {
        // SAFETY: passed on. Known numbers of lanes spare every load and store a choice.
        unsafe {
            if lanes < S::LANES {
                self.input_lanes::<S, E>(x, k, at, c, lanes, to, plane, width);
            } else if x.norm.is_some() {
                self.input_lanes::<S, E>(x, k, at, c, S::LANES, to, plane, S::LANES);
            } else {
                let x = Source::plain(x.map);
                self.input_lanes::<S, E>(x, k, at, c, S::LANES, to, plane, S::LANES);
            }
        }
    }

    #[inline(always)]
    unsafe fn input_lanes<S: Simd, E: MapElement>(
        &self,
        x: Source<'_, E>,
        k: usize,
        at: Place,
        c: usize,
        lanes: usize,
        to: Ptr,
        plane: usize,
        width: usize,
    ) {
        let from = x.map.add(at.image * k + c).raw().cast_const();
        // One pixel of padding on each side.
        let inside = Inside::<IN>::new(at.y.wrapping_sub(1), at.x.wrapping_sub(1), self);
        // SAFETY: pixels inside the image only, `lanes` channels of them; planes as promised.
        unsafe {
            let (mut scale, mut shift) = (S::zero(), S::zero());
            if let Some(norm) = x.norm {
                scale = load::<S, _>(norm.scale.as_ptr().add(c), lanes);
                shift = load::<S, _>(norm.shift.as_ptr().add(c), lanes);
            }
            let mut half = [[S::zero(); IN]; IN];
            for (i, half) in half.iter_mut().enumerate() {
                let mut d = [S::zero(); IN];
                for (j, d) in d.iter_mut().enumerate() {
                    *d = load::<S, _>(inside.pixel(from, k, j, i), lanes);
                    if x.norm.is_some() {
                        // The padding's zeros stay: they are of the map after the norm.
                        let one = S::splat(inside.one(j, i));
                        let (scale, shift) = (S::mul(scale, one), S::mul(shift, one));
                        *d = S::max(S::zero(), S::fma(*d, scale, shift));
                    }
                }
                *half = points::input::<S>(d);
            }
            for y in 0..IN {
                let row = column(&half, y);
                for (x, v) in points::input::<S>(row).into_iter().enumerate() {
                    store::<S, _>(to.add((y * IN + x) * plane).raw(), v, width);
                }
            }
        }
    }

    /// A dy Aᵀ of `lanes` channels from `c` on: to `to` and on at every multiple of `plane`, whole
    /// vectors.
    ///
    /// # Safety
    /// `dy` must hold the image's pixels of `n` channels; `to` a vector for each plane.
    #[inline(always)]
    unsafe fn gradient<S: Simd, E: MapElement>(
        &self,
        dy: Ptr<E>,
        n: usize,
        at: Place,
        c: usize,
        lanes: usize,
        to: Ptr,
        plane: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            if lanes == S::LANES {
                self.gradient_lanes::<S, E>(dy, n, at, c, S::LANES, to, plane);
            } else {
                self.gradient_lanes::<S, E>(dy, n, at, c, lanes, to, plane);
            }
        }
    }

    #[inline(always)]
    unsafe fn gradient_lanes<S: Simd, E: MapElement>(
        &self,
        dy: Ptr<E>,
        n: usize,
        at: Place,
        c: usize,
        lanes: usize,
        to: Ptr,
        plane: usize,
    ) {
        let dy = dy.add(at.image * n + c).raw().cast_const();
        let inside = Inside::<OUT>::new(at.y, at.x, self);
        // SAFETY: as above.
        unsafe {
            let mut half = [[S::zero(); IN]; OUT];
            for (i, half) in half.iter_mut().enumerate() {
                let mut d = [S::zero(); OUT];
                for (j, d) in d.iter_mut().enumerate() {
                    *d = load::<S, _>(inside.pixel(dy, n, j, i), lanes);
                }
                *half = points::gradient::<S>(d);
            }
            for y in 0..IN {
                let row = column(&half, y);
                for (x, v) in points::gradient::<S>(row).into_iter().enumerate() {
                    S::store(to.add((y * IN + x) * plane).raw(), v);
                }
            }
        }
    }

    /// Aᵀ m A of `lanes` channels from `c` on, the products at `from` and on at every multiple of
    /// `plane`: the tile's pixels of the output.
    ///
    /// # Safety
    /// `from` must hold a vector for each plane; the output the image's pixels of `n` channels,
    /// these exclusively.
    #[inline(always)]
    unsafe fn output<S: Simd, E: MapElement>(
        &self,
        from: Ptr,
        plane: usize,
        at: Place,
        c: usize,
        lanes: usize,
        n: usize,
        maps: &Maps<'_, E>,
    ) {
        let pixels = Pixels {
            first: (at.image + at.y * self.w + at.x) * n + c,
            down: self.w * n,
            right: n,
            rows: OUT.min(self.h - at.y),
            columns: OUT.min(self.w - at.x),
        };
        // SAFETY: passed on; the tile's pixels inside the image only. What is known spares every
        // store a choice.
        unsafe {
            if lanes == S::LANES && pixels.rows == OUT && pixels.columns == OUT {
                let pixels = Pixels {
                    rows: OUT,
                    columns: OUT,
                    ..pixels
                };
                if maps.accumulate || maps.after.affine.is_some() {
                    pixels.write::<S, E>(from, plane, c, S::LANES, maps);
                } else {
                    let plain = Maps {
                        accumulate: false,
                        after: After {
                            affine: None,
                            ..maps.after
                        },
                        ..*maps
                    };
                    pixels.write::<S, E>(from, plane, c, S::LANES, &plain);
                }
            } else {
                pixels.write::<S, E>(from, plane, c, lanes, maps);
            }
        }
    }
}

/// Pixels of a map: number of the first one's channel, numbers to the next row and to the next pixel.
#[derive(Clone, Copy)]
struct Pixels {
    first: usize,
    down: usize,
    right: usize,
    rows: usize,
    columns: usize,
}

impl Pixels {
    /// Writes Aᵀ m A there, through the affine map where there is one.
    ///
    /// # Safety
    /// As [`Tiles::output`].
    #[inline(always)]
    unsafe fn write<S: Simd, E: MapElement>(
        &self,
        from: Ptr,
        plane: usize,
        c: usize,
        lanes: usize,
        maps: &Maps<'_, E>,
    ) {
        // SAFETY: products and pixels as promised, `lanes` channels of them.
        unsafe {
            let mut half = [[S::zero(); OUT]; IN];
            for (i, half) in half.iter_mut().enumerate() {
                let mut m = [S::zero(); IN];
                for (j, m) in m.iter_mut().enumerate() {
                    *m = load::<S, _>(from.add((j * IN + i) * plane).raw(), lanes);
                }
                *half = points::output::<S>(m);
            }
            for j in 0..self.rows {
                let row = points::output::<S>(column(&half, j));
                for (i, v) in row.into_iter().enumerate().take(self.columns) {
                    let at = self.first + j * self.down + i * self.right;
                    let to = maps.y.add(at).raw();
                    let mut v = v;
                    if maps.accumulate {
                        v = S::add(load::<S, _>(to, lanes), v);
                    }
                    if let Some(affine) = &maps.after.affine {
                        v = affine.vector::<S>(v, at, c, lanes);
                    }
                    store::<S, _>(to, v, lanes);
                }
            }
        }
    }
}

/// Element `i` of each.
#[inline(always)]
fn column<V: Copy, const N: usize, const M: usize>(half: &[[V; N]; M], i: usize) -> [V; M] {
    let mut column = [half[0][i]; M];
    for (to, row) in column.iter_mut().zip(half) {
        *to = row[i];
    }
    column
}

/// A vector of zeros of any type of map.
static ZEROS: [f32; 16] = [0.0; 16];

/// Which rows and columns of N x N pixels lie inside an image, and where.
struct Inside<const N: usize> {
    rows: [(usize, bool); N],
    columns: [(usize, bool); N],
}

impl<const N: usize> Inside<N> {
    /// Of the pixels from row y and column x on, which may wrap below 0.
    #[inline(always)]
    fn new(y: usize, x: usize, tiles: &Tiles) -> Self {
        let (mut rows, mut columns) = ([(0, false); N], [(0, false); N]);
        for i in 0..N {
            let (y, x) = (y.wrapping_add(i), x.wrapping_add(i));
            rows[i] = (y.wrapping_mul(tiles.w), y < tiles.h);
            columns[i] = (x, x < tiles.w);
        }
        Inside { rows, columns }
    }

    /// 1 for a pixel inside, else 0.
    #[inline(always)]
    fn one(&self, j: usize, i: usize) -> f32 {
        f32::from(u8::from(self.rows[j].1 & self.columns[i].1))
    }

    /// Where a pixel of `channels` lies from the image's first number on, or zeros: an address is
    /// chosen, so that nothing branches.
    #[inline(always)]
    fn pixel<E: MapElement>(
        &self,
        image: *const E,
        channels: usize,
        j: usize,
        i: usize,
    ) -> *const E {
        let ((row, above), (column, beside)) = (self.rows[j], self.columns[i]);
        let at = image.wrapping_add(row.wrapping_add(column).wrapping_mul(channels));
        if above & beside {
            at
        } else {
            ZEROS.as_ptr().cast()
        }
    }
}
