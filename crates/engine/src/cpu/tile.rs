//! The register tile that every matrix product here is made of: M rows of A, read one number at a
//! time and broadcast, times NV vectors of B.
//!
//! For AVX2 that is 6 x 16 numbers in 12 registers, two more for B and one for the broadcast; a
//! step of k costs 12 FMAs (6 cycles on two ports) and 8 loads.

use super::affine::{load, store};
use super::element::MapElement;
use super::simd::Simd;

/// Accumulators of M rows and NV vectors.
pub type Acc<S, const M: usize, const NV: usize> = [[<S as Simd>::V; NV]; M];

/// All accumulators 0.
///
/// # Safety
/// The instruction set must be available.
#[inline(always)]
pub unsafe fn zeros<S: Simd, const M: usize, const NV: usize>() -> Acc<S, M, NV> {
    // SAFETY: the caller's promise.
    [[unsafe { S::zero() }; NV]; M]
}

/// acc[i][:] += Σ_c a[i][c] · b[c · NV · LANES ..] for c below `k`. Callers use [`Simd::multiply`].
///
/// # Safety
/// Each `a[i]` must hold `k` numbers, and `b` NV vectors as many times.
#[inline(always)]
pub unsafe fn multiply<S: Simd, const M: usize, const NV: usize>(
    acc: &mut Acc<S, M, NV>,
    a: [*const f32; M],
    k: usize,
    b: *const f32,
) {
    let mut b = b;
    for c in 0..k {
        // SAFETY: c < k, and the caller's promise.
        unsafe {
            let row = vectors::<S, NV>(b);
            for i in 0..M {
                let x = S::splat(*a[i].add(c));
                for v in 0..NV {
                    acc[i][v] = S::fma(x, row[v], acc[i][v]);
                }
            }
            b = b.wrapping_add(NV * S::LANES);
        }
    }
}

#[inline(always)]
unsafe fn vectors<S: Simd, const NV: usize>(from: *const f32) -> [S::V; NV] {
    // SAFETY: the caller vouches for NV vectors.
    unsafe {
        let mut all = [S::zero(); NV];
        for (v, x) in all.iter_mut().enumerate() {
            *x = S::load(from.add(v * S::LANES));
        }
        all
    }
}

/// acc[i][:] += Σ_c a[c · stride + i] · b[c · step ..]: [`multiply`] with A's rows in columns.
/// Callers use [`Simd::multiply_columns`].
///
/// # Safety
/// `a` must hold M numbers at each multiple of `stride` below k·stride, and `b` NV vectors at each
/// multiple of `step` below k·step.
#[inline(always)]
pub unsafe fn multiply_columns<S: Simd, const M: usize, const NV: usize>(
    acc: &mut Acc<S, M, NV>,
    a: *const f32,
    stride: usize,
    k: usize,
    b: *const f32,
    step: usize,
) {
    let (mut a, mut b) = (a, b);
    for _ in 0..k {
        // SAFETY: the caller's promise.
        unsafe {
            let mut row = [S::zero(); NV];
            for (v, r) in row.iter_mut().enumerate() {
                *r = S::load(b.add(v * S::LANES));
            }
            for i in 0..M {
                let x = S::splat(*a.add(i));
                for v in 0..NV {
                    acc[i][v] = S::fma(x, row[v], acc[i][v]);
                }
            }
            a = a.wrapping_add(stride);
            b = b.wrapping_add(step);
        }
    }
}

/// Writes one row of accumulators to `width` numbers (added to what is there if `accumulate`).
///
/// # Safety
/// `to` must hold `width` numbers that no one else touches.
#[inline(always)]
pub unsafe fn put<S: Simd, E: MapElement, const NV: usize>(
    row: [S::V; NV],
    to: *mut E,
    width: usize,
    accumulate: bool,
) {
    for (v, &x) in row.iter().enumerate() {
        // SAFETY: at most `width` numbers are touched.
        unsafe {
            let n = width.saturating_sub(v * S::LANES).min(S::LANES);
            let p = to.wrapping_add(v * S::LANES);
            if n > 0 {
                let x = if accumulate {
                    S::add(load::<S, E>(p, n), x)
                } else {
                    x
                };
                store::<S, E>(p, x, n);
            }
        }
    }
}

/// Splits `n` rows into tiles of at most `most`, as equal as possible (a tile of few rows can't
/// hide the latency of its FMAs): `(first, rows)` of each.
///
/// An iterator rather than a function that takes a closure: a closure is a function of its own,
/// which would be compiled without the instruction set of its surroundings.
#[inline(always)]
pub fn split_rows(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = n.div_ceil(most);
    let mut first = 0;
    (0..tiles).map(move |t| {
        let rows = (n - first).div_ceil(tiles - t);
        first += rows;
        (first - rows, rows)
    })
}

/// Calls `$f::<S, M, NV>($args)` with the constant M that equals `$rows` (1 to `S::ROWS`).
macro_rules! by_rows {
    ($S:ident, $rows:expr, $nv:tt, $f:ident($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $f::<$S, 1, $nv>($($arg),*),
            2 => $f::<$S, 2, $nv>($($arg),*),
            3 => $f::<$S, 3, $nv>($($arg),*),
            4 => $f::<$S, 4, $nv>($($arg),*),
            5 if $S::ROWS > 4 => $f::<$S, 5, $nv>($($arg),*),
            6 if $S::ROWS > 4 => $f::<$S, 6, $nv>($($arg),*),
            7 if $S::ROWS > 6 => $f::<$S, 7, $nv>($($arg),*),
            8 if $S::ROWS > 6 => $f::<$S, 8, $nv>($($arg),*),
            9 if $S::ROWS > 6 => $f::<$S, 9, $nv>($($arg),*),
            10 if $S::ROWS > 6 => $f::<$S, 10, $nv>($($arg),*),
            11 if $S::ROWS > 6 => $f::<$S, 11, $nv>($($arg),*),
            12 if $S::ROWS > 6 => $f::<$S, 12, $nv>($($arg),*),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
pub(crate) use by_rows;

/// Width of a panel of B: two vectors.
pub const fn panel_width(lanes: usize) -> usize {
    2 * lanes
}

/// The panels of `n` columns: `(first column, columns, vectors)`.
pub fn panel(n: usize, lanes: usize, index: usize) -> (usize, usize, usize) {
    let first = index * panel_width(lanes);
    let width = (n - first).min(panel_width(lanes));
    (first, width, width.div_ceil(lanes))
}

/// Number of panels of `n` columns.
pub fn panels(n: usize, lanes: usize) -> usize {
    n.div_ceil(panel_width(lanes))
}

/// Numbers in `k` rows of `n` columns once packed in panels.
pub fn packed_len(k: usize, n: usize, lanes: usize) -> usize {
    k * n.next_multiple_of(lanes)
}
