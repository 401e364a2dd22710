//! The transforms of F(4x4, 3x3) in one direction, on vectors, and that of a kernel.
//!
//! The points are 0, ±√½, ±√2 and infinity, rather than the usual 0, ±1, ±2: the same operations,
//! with a quarter of the rounding error. A tile of two dimensions is transformed in one direction
//! and then in the other.

use super::{IN, OUT};
use crate::cpu::simd::Simd;

/// √½ and √2, the points.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// Bᵀ d: rows are the polynomials that vanish at all points but one.
#[inline(always)]
pub unsafe fn input<S: Simd>(d: [S::V; IN]) -> [S::V; IN] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let two_and_half = S::splat(-2.5);
        let e = S::fma(S::splat(-2.0), d[2], d[4]);
        let o = S::mul(S::splat(A), S::fma(S::splat(-2.0), d[1], d[3]));
        let f = S::fma(S::splat(-0.5), d[2], d[4]);
        let p = S::mul(S::splat(B), S::fma(S::splat(-0.5), d[1], d[3]));
        [
            S::add(S::fma(two_and_half, d[2], d[4]), d[0]),
            S::add(e, o),
            S::sub(e, o),
            S::add(f, p),
            S::sub(f, p),
            S::add(S::fma(two_and_half, d[3], d[5]), d[1]),
        ]
    }
}

/// Aᵀ m: powers of the points.
#[inline(always)]
pub unsafe fn output<S: Simd>(m: [S::V; IN]) -> [S::V; OUT] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let (s, t) = (S::add(m[1], m[2]), S::add(m[3], m[4]));
        let (d, e) = (S::sub(m[1], m[2]), S::sub(m[3], m[4]));
        let (da, eb) = (S::mul(S::splat(A), d), S::mul(S::splat(B), e));
        [
            S::add(m[0], S::add(s, t)),
            S::add(da, eb),
            // a² = ½, b² = 2
            S::fma(S::splat(0.5), s, S::add(t, t)),
            S::add(S::fma(S::splat(0.5), da, S::add(eb, eb)), m[5]),
        ]
    }
}

/// A y, the adjoint of [`output`]: values of a polynomial at the points.
#[inline(always)]
pub unsafe fn gradient<S: Simd>(y: [S::V; OUT]) -> [S::V; IN] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let e = S::fma(S::splat(0.5), y[2], y[0]);
        let o = S::mul(S::splat(A), S::fma(S::splat(0.5), y[3], y[1]));
        let f = S::fma(S::splat(2.0), y[2], y[0]);
        let p = S::mul(S::splat(B), S::fma(S::splat(2.0), y[3], y[1]));
        [
            y[0],
            S::add(e, o),
            S::sub(e, o),
            S::add(f, p),
            S::sub(f, p),
            y[3],
        ]
    }
}

/// G g of a column of a kernel.
#[inline(always)]
pub unsafe fn weights<S: Simd>(g: [S::V; 3]) -> [S::V; IN] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let (third, sixth) = (S::splat(-2.0 / 3.0), S::splat(1.0 / 6.0));
        let e = S::mul(third, S::fma(S::splat(0.5), g[2], g[0]));
        let o = S::mul(S::mul(third, S::splat(A)), g[1]);
        let f = S::mul(sixth, S::fma(S::splat(2.0), g[2], g[0]));
        let p = S::mul(S::mul(sixth, S::splat(B)), g[1]);
        [
            g[0],
            S::add(e, o),
            S::sub(e, o),
            S::add(f, p),
            S::sub(f, p),
            g[2],
        ]
    }
}

/// Gᵀ m, the adjoint of [`weights`].
#[inline(always)]
pub unsafe fn kernel<S: Simd>(m: [S::V; IN]) -> [S::V; 3] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let third = S::splat(1.0 / 3.0);
        let (s, t) = (S::add(m[1], m[2]), S::add(m[3], m[4]));
        let (d, e) = (S::sub(m[1], m[2]), S::sub(m[3], m[4]));
        // -⅔ s + ⅙ t
        let first = S::fma(S::splat(-2.0 / 3.0), s, S::mul(S::splat(1.0 / 6.0), t));
        let second = S::fma(S::splat(-2.0 / 3.0 * A), d, S::mul(S::splat(B / 6.0), e));
        [
            S::add(m[0], first),
            second,
            S::fma(third, S::sub(t, s), m[5]),
        ]
    }
}
