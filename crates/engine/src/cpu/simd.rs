//! Vectors of f32 and the instruction sets that have them.
//!
//! A kernel is written once, generic over [`Simd`], as a type that implements [`Kernel`];
//! [`Isa::run`] enters it through a function compiled for the instruction set, into which all of
//! it is inlined. The instruction set is an argument of the engine, so one process can run all.

/// Vector operations of one instruction set. Everything is inlined into [`Kernel::run`].
///
/// # Safety
/// All functions may only be called where the instruction set is available, and pointers must be
/// valid for the elements that are read or written; no alignment is needed.
pub trait Simd: Copy + 'static {
    /// A vector of [`Simd::LANES`] numbers.
    type V: Copy;
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
    /// Asks for a cache line.
    unsafe fn prefetch(p: *const f32);

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
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F.
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
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && all.contains(&Isa::Avx2) {
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

/// Plain arrays, which the compiler turns into whatever vectors the target has.
#[derive(Clone, Copy)]
pub struct Portable;

impl Portable {
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
    unsafe fn prefetch(_: *const f32) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Simd};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: this function has the features; the rest is the caller's promise.
        unsafe { kernel.run::<Avx2>() }
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: this function has the features; the rest is the caller's promise.
        unsafe { kernel.run::<Avx512>() }
    }

    /// 16 registers of 8 lanes: a tile of 6 x 16.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    /// All ones in the first 8 - i lanes when read at i.
    static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    // SAFETY of all functions below: the trait's contract.
    #[allow(unused_unsafe)]
    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const ROWS: usize = 6;

        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m256 {
            unsafe {
                let mask = _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast());
                _mm256_maskload_ps(p, mask)
            }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: __m256, n: usize) {
            unsafe {
                let mask = _mm256_loadu_si256(MASK.as_ptr().add(8 - n).cast());
                _mm256_maskstore_ps(p, mask, v)
            }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn where_positive(x: __m256, v: __m256) -> __m256 {
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_setzero_ps()), v) }
        }
        #[inline(always)]
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn exp2_integer(n: __m256) -> __m256 {
            unsafe {
                let i = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(i))
            }
        }
        // In the order of the default: i and i + 4, then i and i + 2, then the last two.
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
    }

    /// 32 registers of 16 lanes: a tile of 12 x 32.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    // SAFETY of all functions below: the trait's contract.
    #[allow(unused_unsafe)]
    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const ROWS: usize = 12;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, v: __m512, n: usize) {
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as u16, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn where_positive(x: __m512, v: __m512) -> __m512 {
            unsafe {
                let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps());
                _mm512_maskz_mov_ps(mask, v)
            }
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<8>(a) }
        }
        #[inline(always)]
        unsafe fn exp2_integer(n: __m512) -> __m512 {
            unsafe {
                let i = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(i))
            }
        }
        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            unsafe {
                let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
                let low = _mm512_castps512_ps256(v);
                Avx2::sum(_mm256_add_ps(low, _mm256_castpd_ps(upper)))
            }
        }
        #[inline(always)]
        unsafe fn prefetch(p: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ln1p<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Ln1p<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let mut i = 0;
            while i < self.0.len() {
                let n = S::LANES.min(self.0.len() - i);
                // SAFETY: n numbers are left in both.
                unsafe {
                    let y = S::ln_1p(S::load_first(self.0.as_ptr().add(i), n));
                    S::store_first(self.1.as_mut_ptr().add(i), y, n);
                }
                i += n;
            }
        }
    }

    #[test]
    fn ln_1p_is_accurate_also_where_it_is_tiny() {
        let mut x: Vec<f32> = (0..=20_000).map(|i| i as f32 / 20_000.0).collect();
        x.extend((0..400).map(|i| (-0.2 * i as f32).exp()));
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            // SAFETY: an available instruction set, slices of equal length.
            unsafe { isa.run(Ln1p(&x, &mut y)) };
            for (x, y) in x.iter().zip(&y) {
                let want = f64::from(*x).ln_1p();
                assert!(
                    (f64::from(*y) - want).abs() <= want * 3e-7,
                    "{isa:?}: ln_1p({x}) = {y}, {want}"
                );
            }
        }
    }

    struct Exp<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let mut i = 0;
            while i < self.0.len() {
                let n = S::LANES.min(self.0.len() - i);
                // SAFETY: n numbers are left in both.
                unsafe {
                    let y = S::exp(S::load_first(self.0.as_ptr().add(i), n));
                    S::store_first(self.1.as_mut_ptr().add(i), y, n);
                }
                i += n;
            }
        }
    }

    #[test]
    fn exp_is_accurate_on_every_instruction_set() {
        let x: Vec<f32> = (0..35001).map(|i| -87.0 + i as f32 * 0.005).collect();
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            // SAFETY: an available instruction set, slices of equal length.
            unsafe { isa.run(Exp(&x, &mut y)) };
            for (x, y) in x.iter().zip(&y) {
                let want = f64::from(*x).exp();
                assert!(
                    (f64::from(*y) - want).abs() <= want * 4e-7,
                    "{isa:?}: exp({x}) = {y}, {want}"
                );
            }
        }
    }

    struct Sum<'a>(&'a [f32]);

    impl Kernel for Sum<'_> {
        type Out = (f32, f32);
        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> (f32, f32) {
            // SAFETY: the test passes 16 numbers.
            unsafe {
                (
                    S::sum(S::load(self.0.as_ptr())),
                    S::largest(S::load(self.0.as_ptr())),
                )
            }
        }
    }

    #[test]
    fn lanes_are_reduced() {
        let x: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let lanes = isa.lanes();
            // SAFETY: an available instruction set, 16 numbers.
            let (sum, largest) = unsafe { isa.run(Sum(&x)) };
            assert_eq!(
                (sum, largest),
                ((lanes * (lanes + 1) / 2) as f32, lanes as f32)
            );
        }
    }
}
