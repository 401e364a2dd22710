//! The inner loops of the 6 x 16 tile for AVX2, in assembly.
//!
//! Twelve accumulators, two vectors of B and one broadcast of A take 15 of the 16 registers. LLVM's
//! allocator doesn't find that: it keeps two accumulators on the stack and moves the others round in
//! every pass, at half the speed. A pass of these loops is 12 FMAs, 6 cycles on two ports.

use std::arch::asm;
use std::arch::x86_64::__m256;

/// Accumulators of 6 rows and two vectors.
pub type Tile = [[__m256; 2]; 6];

/// One row: c0 and c1 += the number at `$a` times B.
macro_rules! row {
    ($a:literal, $c0:literal, $c1:literal) => {
        concat!(
            "vbroadcastss {x}, dword ptr [",
            $a,
            "]\n",
            "vfmadd231ps {",
            $c0,
            "}, {x}, {b0}\n",
            "vfmadd231ps {",
            $c1,
            "}, {x}, {b1}\n",
        )
    };
}

/// acc[i][:] += Σ_c a[i][c] · b[16 · c ..], for c below k.
///
/// # Safety
/// Each `a[i]` must hold `k` numbers and `b` 16 times as many.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub unsafe fn multiply(acc: &mut Tile, a: &[*const f32; 6], k: usize, b: *const f32) {
    if k == 0 {
        return;
    }
    let [c0, c1, c2, c3, c4, c5] = acc;
    // SAFETY: k passes, each of which reads one number of each row and 16 of B; nothing is written.
    unsafe {
        asm!(
            "2:",
            "vmovups {b0}, ymmword ptr [{b}]",
            "vmovups {b1}, ymmword ptr [{b} + 32]",
            row!("{a0} + 4*{i}", "c00", "c01"),
            row!("{a1} + 4*{i}", "c10", "c11"),
            row!("{a2} + 4*{i}", "c20", "c21"),
            row!("{a3} + 4*{i}", "c30", "c31"),
            row!("{a4} + 4*{i}", "c40", "c41"),
            row!("{a5} + 4*{i}", "c50", "c51"),
            "add {b}, 64",
            "inc {i}",
            "cmp {i}, {k}",
            "jb 2b",
            a0 = in(reg) a[0], a1 = in(reg) a[1], a2 = in(reg) a[2],
            a3 = in(reg) a[3], a4 = in(reg) a[4], a5 = in(reg) a[5],
            b = inout(reg) b => _,
            i = inout(reg) 0usize => _,
            k = in(reg) k,
            c00 = inout(ymm_reg) c0[0], c01 = inout(ymm_reg) c0[1],
            c10 = inout(ymm_reg) c1[0], c11 = inout(ymm_reg) c1[1],
            c20 = inout(ymm_reg) c2[0], c21 = inout(ymm_reg) c2[1],
            c30 = inout(ymm_reg) c3[0], c31 = inout(ymm_reg) c3[1],
            c40 = inout(ymm_reg) c4[0], c41 = inout(ymm_reg) c4[1],
            c50 = inout(ymm_reg) c5[0], c51 = inout(ymm_reg) c5[1],
            b0 = out(ymm_reg) _, b1 = out(ymm_reg) _, x = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }
}

/// acc[i][:] += Σ_c a[c · stride + i] · b[c · step ..], for c below k.
///
/// # Safety
/// `a` must hold 6 numbers at each multiple of `stride` below k·stride, and `b` 16 at each multiple
/// of `step` below k·step.
#[target_feature(enable = "avx2,fma")]
#[inline]
pub unsafe fn multiply_columns(
    acc: &mut Tile,
    a: *const f32,
    stride: usize,
    k: usize,
    b: *const f32,
    step: usize,
) {
    if k == 0 {
        return;
    }
    let [c0, c1, c2, c3, c4, c5] = acc;
    // SAFETY: k passes, each of which reads 6 numbers of A and 16 of B; nothing is written.
    unsafe {
        asm!(
            "2:",
            "vmovups {b0}, ymmword ptr [{b}]",
            "vmovups {b1}, ymmword ptr [{b} + 32]",
            row!("{a}", "c00", "c01"),
            row!("{a} + 4", "c10", "c11"),
            row!("{a} + 8", "c20", "c21"),
            row!("{a} + 12", "c30", "c31"),
            row!("{a} + 16", "c40", "c41"),
            row!("{a} + 20", "c50", "c51"),
            "add {a}, {stride}",
            "add {b}, {step}",
            "dec {k}",
            "jnz 2b",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            k = inout(reg) k => _,
            stride = in(reg) 4 * stride, step = in(reg) 4 * step,
            c00 = inout(ymm_reg) c0[0], c01 = inout(ymm_reg) c0[1],
            c10 = inout(ymm_reg) c1[0], c11 = inout(ymm_reg) c1[1],
            c20 = inout(ymm_reg) c2[0], c21 = inout(ymm_reg) c2[1],
            c30 = inout(ymm_reg) c3[0], c31 = inout(ymm_reg) c3[1],
            c40 = inout(ymm_reg) c4[0], c41 = inout(ymm_reg) c4[1],
            c50 = inout(ymm_reg) c5[0], c51 = inout(ymm_reg) c5[1],
            b0 = out(ymm_reg) _, b1 = out(ymm_reg) _, x = out(ymm_reg) _,
            options(nostack, readonly),
        );
    }
}
