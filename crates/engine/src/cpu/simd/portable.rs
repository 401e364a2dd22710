//! Whatever the target has.

use half::{bf16, f16};

use super::super::element::Element;
use super::Simd;

/// Plain arrays, which the compiler turns into whatever vectors the target has.
#[derive(Clone, Copy)]
pub struct Portable;

impl Portable {
    /// Pairs of 16 bits as 32 bits.
    #[inline(always)]
    fn wide(v: [i16; 8]) -> [i32; 4] {
        let one = |i: usize| i32::from(v[2 * i + 1]) << 16 | i32::from(v[2 * i] as u16);
        [one(0), one(1), one(2), one(3)]
    }

    /// 32 bits as pairs of 16.
    #[inline(always)]
    fn narrow(v: [i32; 4]) -> [i16; 8] {
        let (low, high) = (|i: usize| v[i] as i16, |i: usize| (v[i] >> 16) as i16);
        [
            low(0),
            high(0),
            low(1),
            high(1),
            low(2),
            high(2),
            low(3),
            high(3),
        ]
    }

    #[inline(always)]
    fn map(a: [f32; 4], f: impl Fn(f32) -> f32) -> [f32; 4] {
        [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
    }

    #[inline(always)]
    fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
        [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
    }
}

impl Simd for Portable {
    type V = [f32; 4];
    type I = [i16; 8];
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for 4 numbers.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V {
        let mut v = [0.0; 4];
        for (i, x) in v.iter_mut().enumerate().take(n) {
            // SAFETY: the caller vouches for n numbers.
            *x = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for 4 numbers.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for n numbers.
            unsafe { *p.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a call into the C library.
        Self::zip(Self::zip(a, b, |x, y| x * y), c, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn where_positive(x: Self::V, v: Self::V) -> Self::V {
        Self::zip(x, v, |x, v| if x > 0.0 { v } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding and taking away 1.5·2^23 rounds to nearest even without a library call.
        Self::map(a, |x| (x + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn exp2_integer(n: Self::V) -> Self::V {
        Self::map(n, |x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self::V {
        // SAFETY: the caller vouches for 4 numbers.
        let x = unsafe { p.cast::<[bf16; 4]>().read_unaligned() };
        x.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: Self::V) {
        // SAFETY: the caller vouches for 4 numbers.
        unsafe { p.cast::<[bf16; 4]>().write_unaligned(v.map(bf16::narrow)) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (Self::V, Self::V) {
        // SAFETY: the caller vouches for 8 numbers.
        let x = unsafe { p.cast::<[bf16; 8]>().read_unaligned() };
        let x = x.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16));
        ([x[0], x[2], x[4], x[6]], [x[1], x[3], x[5], x[7]])
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::V {
        // SAFETY: the caller vouches for 4 numbers.
        let x = unsafe { p.cast::<[f16; 4]>().read_unaligned() };
        x.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn zero_integers() -> Self::I {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn splat_pair(x: i32) -> Self::I {
        let (low, high) = (x as i16, (x >> 16) as i16);
        [low, high, low, high, low, high, low, high]
    }
    #[inline(always)]
    unsafe fn load_integers(p: *const i16) -> Self::I {
        // SAFETY: the caller vouches for 8 integers.
        unsafe { p.cast::<Self::I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_integers(p: *mut i16, v: Self::I) {
        // SAFETY: the caller vouches for 8 integers.
        unsafe { p.cast::<Self::I>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let mut sums = Self::wide(acc);
        for i in 0..4 {
            let products = i32::from(a[2 * i]) * i32::from(b[2 * i])
                + i32::from(a[2 * i + 1]) * i32::from(b[2 * i + 1]);
            sums[i] += products;
        }
        Self::narrow(sums)
    }
    #[inline(always)]
    unsafe fn to_short(a: Self::V, b: Self::V) -> Self::I {
        // SAFETY: plain arithmetic.
        let (a, b) = unsafe { (Self::round(a), Self::round(b)) };
        let short = |x: f32| x as i32 as i16;
        let clamp = |x: f32| x.clamp(-32768.0, 32767.0);
        let [a, b] = [a.map(clamp), b.map(clamp)];
        [
            short(a[0]),
            short(a[1]),
            short(a[2]),
            short(a[3]),
            short(b[0]),
            short(b[1]),
            short(b[2]),
            short(b[3]),
        ]
    }
    #[inline(always)]
    unsafe fn to_pairs(a: Self::V, b: Self::V) -> Self::I {
        // SAFETY: plain arithmetic.
        let v = unsafe { Self::to_short(a, b) };
        [v[0], v[4], v[1], v[5], v[2], v[6], v[3], v[7]]
    }
    #[inline(always)]
    unsafe fn interleave(a: Self::I, b: Self::I) -> (Self::I, Self::I) {
        (
            [a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]],
            [a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]],
        )
    }
    #[inline(always)]
    unsafe fn in_order(low: Self::I, high: Self::I) -> (Self::I, Self::I) {
        (low, high)
    }
    #[inline(always)]
    unsafe fn to_f32(v: Self::I) -> Self::V {
        Self::wide(v).map(|x| x as f32)
    }
}
