//! Numbers as they lie in memory: those of the network's maps (f32 or bf16) and of the bank's rows
//! (f16 too). All arithmetic is in f32.

use half::{bf16, f16};

use super::simd::Simd;
use crate::Dtype;

/// A number in memory.
pub trait Element: Copy + Send + Sync + 'static {
    /// As f32, exactly.
    fn widen(self) -> f32;
    /// The nearest to `x`, ties to even; NaN for NaN.
    fn narrow(x: f32) -> Self;
    /// The numbers themselves if they are f32.
    fn plain(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// LANES numbers, widened.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
    /// Twice LANES numbers times `one`, rounded to 16-bit integers where all of them fit, and the
    /// numbers themselves in whatever order.
    ///
    /// # Safety
    /// As [`Simd::load`].
    #[inline(always)]
    unsafe fn load_fixed<S: Simd>(p: *const Self, one: S::V) -> (S::I, [S::V; 2]) {
        // SAFETY: the caller vouches for twice LANES numbers.
        unsafe {
            let (a, b) = (Self::load::<S>(p), Self::load::<S>(p.add(S::LANES)));
            (S::to_short(S::mul(a, one), S::mul(b, one)), [a, b])
        }
    }
    /// The first `n` <= LANES numbers, the other lanes 0.
    ///
    /// # Safety
    /// As [`Simd::load_first`].
    #[inline(always)]
    unsafe fn load_first<S: Simd>(p: *const Self, n: usize) -> S::V {
        let mut wide = [0f32; 16];
        for (i, x) in wide[..n].iter_mut().enumerate() {
            // SAFETY: the caller vouches for n numbers.
            *x = unsafe { *p.add(i) }.widen();
        }
        // SAFETY: LANES <= 16.
        unsafe { S::load(wide.as_ptr()) }
    }
}

/// An [`Element`] that maps may be made of: it is written in vectors too.
///
/// # Safety
/// Any bits must be a number, and its alignment at most that of f32: maps lie in a buffer of those.
pub unsafe trait MapElement: Element {
    /// Which it is.
    const DTYPE: Dtype;
    /// LANES numbers, each rounded as by [`Element::narrow`].
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V);
    /// The first `n` <= LANES of them; nothing beyond is touched.
    ///
    /// # Safety
    /// As [`Simd::store_first`].
    unsafe fn store_first<S: Simd>(p: *mut Self, v: S::V, n: usize);
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn plain(numbers: &[Self]) -> Option<&[f32]> {
        Some(numbers)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(p: *const Self, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_first(p, n) }
    }
}

// SAFETY: any bits are a number.
unsafe impl MapElement for f32 {
    const DTYPE: Dtype = Dtype::F32;

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first<S: Simd>(p: *mut Self, v: S::V, n: usize) {
        // SAFETY: the caller's promise.
        unsafe { S::store_first(p, v, n) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// Half of the last place kept, less one where that is even, carries over into it; without a
    /// branch, so that loops become vectors.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
        let quiet = bits | 0x0040_0000;
        bf16::from_bits(((if x.is_nan() { quiet } else { rounded }) >> 16) as u16)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(p) }
    }
    // Numbers at even and odd places are had without moving any from its place.
    #[inline(always)]
    unsafe fn load_fixed<S: Simd>(p: *const Self, one: S::V) -> (S::I, [S::V; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            let (even, odd) = S::load_bf16_pairs(p);
            let integers = S::to_pairs(S::mul(even, one), S::mul(odd, one));
            (integers, [even, odd])
        }
    }
}

// SAFETY: any bits are a number.
unsafe impl MapElement for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;

    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store_bf16(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first<S: Simd>(p: *mut Self, v: S::V, n: usize) {
        let mut all = [bf16::ZERO; 16];
        // SAFETY: LANES <= 16, and the caller vouches for n numbers.
        unsafe {
            S::store_bf16(all.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
        }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        f16::from_f32(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p) }
    }
}
