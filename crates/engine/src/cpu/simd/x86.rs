//! AVX2 and AVX-512.

use super::{Kernel, Simd, avx2_tile};
use crate::cpu::tile;
use half::{bf16, f16};
use std::arch::asm;
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: this function has the features; the rest is the caller's promise.
    unsafe { kernel.run::<Avx2>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
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
    type I = __m256i;
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
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    // The upper half of 32 bits is a number as it stands, but for what is below it.
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (__m256, __m256) {
        unsafe {
            let both = _mm256_loadu_si256(p.cast());
            let even = _mm256_slli_epi32::<16>(both);
            let odd = _mm256_and_si256(both, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
            (_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
            let rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, half));
            // Without the addition, which could carry a NaN's bits away; all ones are a NaN too.
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
            let bits = _mm256_castps_si256(_mm256_or_ps(rounded, nan));
            let upper = _mm256_srli_epi32::<16>(bits);
            let packed = _mm256_packus_epi32(upper, upper);
            let packed = _mm256_permute4x64_epi64::<0b10_00_10_00>(packed);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn zero_integers() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn splat_pair(x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_integers(p: *const i16) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_integers(p: *mut i16, v: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { kept_apart(_mm256_add_epi32(acc, _mm256_madd_epi16(a, b))) }
    }
    // Packing works in lanes of 128 bits: a permutation puts them in order.
    #[inline(always)]
    unsafe fn to_short(a: __m256, b: __m256) -> __m256i {
        unsafe {
            let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
        }
    }
    #[inline(always)]
    unsafe fn to_pairs(a: __m256, b: __m256) -> __m256i {
        unsafe {
            let (a, b) = (_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            _mm256_blend_epi16::<0xAA>(a, _mm256_slli_epi32::<16>(b))
        }
    }
    // Interleaving works in lanes of 128 bits too; what it mixes up stays so until the sums.
    #[inline(always)]
    unsafe fn interleave(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
        unsafe { (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)) }
    }
    #[inline(always)]
    unsafe fn in_order(low: __m256i, high: __m256i) -> (__m256i, __m256i) {
        unsafe {
            (
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            )
        }
    }
    #[inline(always)]
    unsafe fn to_f32(v: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn multiply<const M: usize, const NV: usize>(
        acc: &mut [[__m256; NV]; M],
        a: [*const f32; M],
        k: usize,
        b: *const f32,
    ) {
        // SAFETY: the caller's promise; the arrays are of these very types.
        unsafe {
            if M == 6 && NV == 2 {
                let acc = &mut *(&raw mut *acc).cast::<avx2_tile::Tile>();
                avx2_tile::multiply(acc, &*(&raw const a).cast(), k, b);
            } else {
                tile::multiply::<Self, M, NV>(acc, a, k, b);
            }
        }
    }
    #[inline(always)]
    unsafe fn multiply_columns<const M: usize, const NV: usize>(
        acc: &mut [[__m256; NV]; M],
        a: *const f32,
        stride: usize,
        k: usize,
        b: *const f32,
        step: usize,
    ) {
        // SAFETY: as above.
        unsafe {
            if M == 6 && NV == 2 {
                let acc = &mut *(&raw mut *acc).cast::<avx2_tile::Tile>();
                avx2_tile::multiply_columns(acc, a, stride, k, b, step);
            } else {
                tile::multiply_columns::<Self, M, NV>(acc, a, stride, k, b, step);
            }
        }
    }
}

/// `v`, of which the compiler can't tell that it is a sum: it would add up the products of several
/// steps before it adds them to the accumulator, and hasn't the registers to keep them in.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn kept_apart(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// 32 registers of 16 lanes: a tile of 12 x 32.
#[derive(Clone, Copy)]
pub struct Avx512;

// SAFETY of all functions below: the trait's contract.
#[allow(unused_unsafe)]
impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;
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
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    // The upper half of 32 bits is a number as it stands, but for what is below it.
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const bf16) -> (__m512, __m512) {
        unsafe {
            let both = _mm512_loadu_si512(p.cast());
            let even = _mm512_slli_epi32::<16>(both);
            let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
            (_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut bf16, v: __m512) {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
            // Without the addition, which could carry a NaN's bits away; all ones are a NaN too.
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v);
            let all = _mm512_set1_epi32(-1);
            let bits = _mm512_mask_add_epi32(all, number, bits, half);
            let upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
            _mm256_storeu_si256(p.cast(), upper);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn zero_integers() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn splat_pair(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_integers(p: *const i16) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_integers(p: *mut i16, v: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn add_pairs(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
    }
    // Packing works in lanes of 128 bits: a permutation puts them in order.
    #[inline(always)]
    unsafe fn to_short(a: __m512, b: __m512) -> __m512i {
        unsafe {
            let packed = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed)
        }
    }
    #[inline(always)]
    unsafe fn to_pairs(a: __m512, b: __m512) -> __m512i {
        unsafe {
            let (a, b) = (_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            _mm512_mask_blend_epi16(0xAAAA_AAAA, a, _mm512_slli_epi32::<16>(b))
        }
    }
    // Interleaving works in lanes of 128 bits too; what it mixes up stays so until the sums.
    #[inline(always)]
    unsafe fn interleave(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        unsafe { (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)) }
    }
    #[inline(always)]
    unsafe fn in_order(low: __m512i, high: __m512i) -> (__m512i, __m512i) {
        unsafe {
            (
                _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high),
                _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high),
            )
        }
    }
    #[inline(always)]
    unsafe fn to_f32(v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
}
