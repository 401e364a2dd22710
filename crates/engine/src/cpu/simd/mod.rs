//! Vectors of f32 and the instruction sets that have them.
//!
//! A kernel is written once, generic over [`Simd`], as a type that implements [`Kernel`];
//! [`Isa::run`] enters it through a function compiled for the instruction set, into which all of
//! it is inlined. The instruction set is an argument of the engine, so one process can run all.

#[cfg(target_arch = "x86_64")]
mod avx2_tile;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

use crate::Dtype;

use super::tile;

pub use portable::Portable;

/// Vector operations of one instruction set. Everything is inlined into [`Kernel::run`].
///
/// # Safety
/// All functions may only be called where the instruction set is available, and pointers must be
/// valid for the elements that are read or written; no alignment is needed.
pub trait Simd: Copy + 'static {
    /// A vector of [`Simd::LANES`] numbers.
    type V: Copy;
    /// As many bits, as LANES integers of 32 bits or twice as many of 16.
    type I: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// Rows of the register tile: `ROWS` x 2 accumulators, two vectors of B and one broadcast
    /// have to fit the registers.
    const ROWS: usize;

    /// All lanes 0.
    unsafe fn zero() -> Self::V;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// LANES numbers.
    unsafe fn load(p: *const f32) -> Self::V;
    /// The first `n` <= LANES numbers, the other lanes 0.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// LANES numbers.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n` <= LANES numbers; nothing beyond is touched.
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize);
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(a, b); b if one of them is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// min(a, b); b if one of them is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// v where x > 0, else 0.
    unsafe fn where_positive(x: Self::V, v: Self::V) -> Self::V;
    /// The nearest integers.
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2^n for integers n in -126..=127.
    unsafe fn exp2_integer(n: Self::V) -> Self::V;
    /// LANES numbers of bf16, widened.
    unsafe fn load_bf16(p: *const bf16) -> Self::V;
    /// LANES numbers, rounded to bf16: to the nearest, ties to even; NaN for NaN.
    unsafe fn store_bf16(p: *mut bf16, v: Self::V);
    /// Twice LANES numbers of bf16, widened: those at even places, and those at odd ones.
    unsafe fn load_bf16_pairs(p: *const bf16) -> (Self::V, Self::V);
    /// LANES numbers of f16, widened.
    unsafe fn load_f16(p: *const f16) -> Self::V;
    /// Asks for a cache line.
    unsafe fn prefetch(p: *const u8);

    /// All bits 0.
    unsafe fn zero_integers() -> Self::I;
    /// All lanes the 32 bits of `x`: a pair of 16-bit integers, the first in the lower half.
    unsafe fn splat_pair(x: i32) -> Self::I;
    /// As it lies.
    unsafe fn load_integers(p: *const i16) -> Self::I;
    /// As it lies.
    unsafe fn store_integers(p: *mut i16, v: Self::I);
    /// For each pair acc + a0·b0 + a1·b1: 16 bits times 16 bits into 32.
    unsafe fn add_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// The nearest 16-bit integers of a and then of b, those too large cut off.
    unsafe fn to_short(a: Self::V, b: Self::V) -> Self::I;
    /// The nearest 16-bit integers, a's as the first and b's as the second of each pair; all must
    /// fit.
    unsafe fn to_pairs(a: Self::V, b: Self::V) -> Self::I;
    /// Pairs (a_i, b_i) of 16-bit integers, in an order that [`Simd::in_order`] undoes.
    unsafe fn interleave(a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// Brings 32-bit sums over the halves of [`Simd::interleave`] into the order of its arguments.
    unsafe fn in_order(low: Self::I, high: Self::I) -> (Self::I, Self::I);
    /// 32-bit integers as f32.
    unsafe fn to_f32(v: Self::I) -> Self::V;

    /// See [`tile::multiply`], which is what it does.
    #[inline(always)]
    unsafe fn multiply<const M: usize, const NV: usize>(
        acc: &mut [[Self::V; NV]; M],
        a: [*const f32; M],
        k: usize,
        b: *const f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tile::multiply::<Self, M, NV>(acc, a, k, b) }
    }

    /// See [`tile::multiply_columns`], which is what it does.
    #[inline(always)]
    unsafe fn multiply_columns<const M: usize, const NV: usize>(
        acc: &mut [[Self::V; NV]; M],
        a: *const f32,
        stride: usize,
        k: usize,
        b: *const f32,
        step: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tile::multiply_columns::<Self, M, NV>(acc, a, stride, k, b, step) }
    }

    /// Sum of the lanes, always in the same order.
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: LANES <= 16.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        let mut n = Self::LANES;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                lanes[i] += lanes[i + n];
            }
        }
        lanes[0]
    }

    /// Largest lane.
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // SAFETY: LANES <= 16.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES]
            .iter()
            .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
    }

    /// ln(1 + e) for e in 0..=1, within 4 units in the last place also where e is tiny.
    ///
    /// 2·artanh(u) with u = e / (2 + e) <= 1/3, by its Taylor series up to u^15, whose remainder is
    /// below 2^-28 of the sum.
    #[inline(always)]
    unsafe fn ln_1p(e: Self::V) -> Self::V {
        // SAFETY: as the caller's.
        unsafe {
            let u = Self::div(e, Self::add(e, Self::splat(2.0)));
            let square = Self::mul(u, u);
            let mut p = Self::splat(2.0 / 15.0);
            for c in [
                2.0 / 13.0,
                2.0 / 11.0,
                2.0 / 9.0,
                2.0 / 7.0,
                2.0 / 5.0,
                2.0 / 3.0,
                2.0,
            ] {
                p = Self::fma(p, square, Self::splat(c));
            }
            Self::mul(p, u)
        }
    }

    /// 2^x within 4 parts in a million, 1 for 0, for x from -126 (what is below is taken for it) to
    /// 127; NaN for NaN.
    ///
    /// x = n + r with |r| <= 1/2, and 2^r by the polynomial of degree 4 with 1 for 0 whose largest
    /// relative error there is least (2.8e-6).
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        // SAFETY: as the caller's.
        unsafe {
            let x = Self::max(Self::splat(-126.0), x);
            let n = Self::round(x);
            let r = Self::sub(x, n);
            let mut p = Self::splat(0.009_582_853);
            for c in [0.055_906_426, 0.240_240_99, 0.693_124_2, 1.0] {
                p = Self::fma(p, r, Self::splat(c));
            }
            Self::mul(p, Self::exp2_integer(n))
        }
    }

    /// e^x, within 2 units in the last place, for x clamped to -87..=88; NaN for NaN.
    ///
    /// x = n·ln 2 + r with |r| <= ln 2 / 2, and e^r by its Taylor polynomial of degree 7, whose
    /// remainder there is below 2^-26.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: as the caller's.
        unsafe {
            let x = Self::min(Self::splat(88.0), Self::max(Self::splat(-87.0), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            // ln 2 in two parts, the first with trailing zeros, so that n times it is exact.
            let r = Self::fma(n, Self::splat(-0.693_359_4), x);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.0 / 5040.0);
            for c in [
                1.0 / 720.0,
                1.0 / 120.0,
                1.0 / 24.0,
                1.0 / 6.0,
                0.5,
                1.0,
                1.0,
            ] {
                p = Self::fma(p, r, Self::splat(c));
            }
            Self::mul(p, Self::exp2_integer(n))
        }
    }
}

/// A piece of work that any instruction set can do.
pub trait Kernel {
    /// What comes out.
    type Out;
    /// The work; implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The instruction set must be available, and what the kernel's own fields demand must hold.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Whatever the target has; vectors of 4.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F and BW.
    Avx512,
}

impl Isa {
    /// Its name, as `NPID_CPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// What activations are best made of: bf16 where it is native.
    pub fn best_dtype(self) -> Dtype {
        Dtype::F32
    }

    /// Numbers in a vector.
    pub(super) fn lanes(self) -> usize {
        match self {
            Isa::Portable => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::Avx512::LANES,
            #[cfg(not(target_arch = "x86_64"))]
            _ => Portable::LANES,
        }
    }

    /// All that this machine has, the best last.
    pub fn available() -> Vec<Isa> {
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                all.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && all.contains(&Isa::Avx2)
            {
                all.push(Isa::Avx512);
            }
        }
        all
    }

    /// The one that the environment variable `NPID_CPU` names, else the best of this machine.
    ///
    /// # Errors
    /// If `NPID_CPU` names one that doesn't exist or that this machine hasn't.
    pub fn detect() -> Result<Isa, crate::Error> {
        let all = Isa::available();
        let names: Vec<_> = all.iter().map(|i| i.name()).collect();
        match std::env::var("NPID_CPU") {
            Ok(name) if !name.is_empty() => (all.iter().copied().find(|i| i.name() == name))
                .ok_or_else(|| {
                    crate::Error::Argument(format!(
                        "NPID_CPU is '{name}'; this machine has {}",
                        names.join(", ")
                    ))
                }),
            _ => Ok(all.last().copied().unwrap_or(Isa::Portable)),
        }
    }

    /// Runs a kernel on this instruction set.
    ///
    /// # Safety
    /// This instruction set must come from [`Isa::available`], and what the kernel demands of its
    /// fields must hold.
    #[inline]
    pub unsafe fn run<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: the caller vouches for the instruction set and the kernel.
        unsafe {
            match self {
                Isa::Portable => kernel.run::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::run_avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86::run_avx512(kernel),
                #[cfg(not(target_arch = "x86_64"))]
                _ => kernel.run::<Portable>(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
