//! Each kernel of a convolution against plain loops in f64, over a table of shapes, on every
//! instruction set this machine has.

use half::bf16;
use npid_network::graph::{Conv2d, ParamId, Shape};
use npid_network::philox::{Purpose, Stream};

use super::conv2d::{After, ConvPlan, Weights};
use super::element::{Element, MapElement};
use super::memory::{Buffer, Ptr};
use super::simd::Isa;
use super::source::Source;
use super::threads::Threads;
use crate::reference::conv2d as reference;

/// (channels in and out, height, width, kernel, stride, images).
type Case = (usize, usize, usize, usize, usize, usize, usize);

const CASES: [Case; 22] = [
    // Direct: few channels, other kernels, strides.
    (3, 5, 9, 7, 3, 1, 3),
    (3, 16, 19, 17, 7, 2, 2),
    (15, 17, 9, 9, 3, 1, 2),
    (12, 40, 7, 5, 1, 1, 3),
    (33, 20, 8, 12, 1, 2, 2),
    (18, 33, 11, 12, 3, 2, 3),
    (40, 8, 2, 3, 3, 1, 13),
    (5, 21, 1, 1, 1, 1, 17),
    // Winograd, weights near: whole tiles and ragged edges, whole vectors and rests, one tile row
    // an image and many, more tasks than blocks.
    (16, 16, 8, 8, 3, 1, 2),
    (16, 24, 32, 32, 3, 1, 3),
    (17, 35, 11, 14, 3, 1, 5),
    (20, 16, 4, 4, 3, 1, 29),
    (64, 64, 12, 15, 3, 1, 2),
    (32, 48, 4, 27, 3, 1, 3),
    (40, 16, 35, 7, 3, 1, 1),
    (65, 70, 7, 7, 3, 1, 3),
    // Winograd, weights gradient in planes of their own.
    (80, 96, 14, 8, 3, 1, 3),
    (128, 100, 4, 4, 3, 1, 19),
    // Staged.
    (160, 130, 8, 8, 3, 1, 5),
    (129, 144, 15, 13, 3, 1, 2),
    (140, 136, 7, 7, 3, 1, 64),
    (256, 136, 4, 4, 3, 1, 3),
];

/// Largest and root mean square error, both over the root mean square of what is right.
fn errors(got: &[f32], want: &[f64]) -> (f64, f64) {
    let squares: f64 = want.iter().map(|w| w * w).sum();
    let rms = (squares / want.len() as f64).sqrt();
    let each = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs());
    let sum: f64 = each.clone().map(|e| e * e).sum();
    (
        each.fold(0.0, f64::max) / rms,
        (sum / want.len() as f64).sqrt() / rms,
    )
}

/// What the passes read, and what the data gradient is added to.
struct Maps<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    before: &'a [f32],
}

/// Output, data gradient and weight gradient (of maps of E, as f32), the latter from 1 on.
fn all<E: MapElement>(
    isa: Isa,
    plan: &ConvPlan,
    count: usize,
    maps: &Maps<'_>,
    weights: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let map = |numbers: &[f32]| -> Vec<E> { numbers.iter().map(|x| E::narrow(*x)).collect() };
    let (mut x, mut dy, mut dx) = (map(maps.x), map(maps.dy), map(maps.before));
    let mut y = map(maps.dy);
    let mut dw = vec![1.0; weights.len()];
    let mut packed = Buffer::new(plan.packed_len());
    let mut zeros = Buffer::new(plan.zeros_len());
    let mut workspace = Buffer::new(plan.workspace_len(count));
    let after = After {
        affine: None,
        statistics: None,
    };
    let (px, pdy) = (Ptr::of(&mut x), Ptr::of(&mut dy));
    let (py, pdx) = (Ptr::of(&mut y), Ptr::of(&mut dx));
    let (pk, pz, pw) = (packed.ptr(), zeros.ptr(), workspace.ptr());
    plan.pack(isa, weights, pk);
    let all = Weights {
        values: weights,
        packed: pk,
        zeros: pz,
    };
    // SAFETY: buffers as long as the plan says.
    unsafe {
        plan.forward(isa, count, Source::plain(px), all, pw, py, after);
        plan.data_gradient(isa, count, pdy, all, pw, pdx, true);
        plan.weight_gradient(isa, count, Source::plain(px), pdy, pw, &mut dw);
    }
    let wide = |map: Vec<E>| map.into_iter().map(Element::widen).collect();
    (wide(y), wide(dx), dw)
}

#[test]
fn all_directions_are_the_references() {
    let pool = Threads::new(2).unwrap();
    for isa in Isa::available() {
        for case in CASES {
            let (ci, co, h, w, kernel, stride, count) = case;
            let padding = kernel / 2;
            let out = |n: usize| (n + 2 * padding - kernel) / stride + 1;
            let input = Shape { h, w, c: ci };
            let output = Shape {
                h: out(h),
                w: out(w),
                c: co,
            };
            let conv = Conv2d {
                weight: ParamId(0),
                in_channels: ci,
                out_channels: co,
                kernel,
                stride,
                padding,
            };
            let plan = ConvPlan::new(conv, input, output, true, isa.lanes());
            let mut stream = Stream::new(7, Purpose::Bench, 0, 0, 0);
            // Numbers of bf16, so that maps of either type hold the same.
            let mut random = |len: usize| -> Vec<f32> {
                let one = |_| bf16::narrow(stream.normal() as f32).widen();
                (0..len).map(one).collect()
            };
            let x = random(count * input.len());
            let dy = random(count * output.len());
            let before = random(count * input.len());
            let taps = kernel * kernel;
            let theirs = random(taps * ci * co); // [out][in][position]
            let mut weights = vec![0.0; theirs.len()]; // [position][in][out]
            for o in 0..co {
                for i in 0..ci {
                    for t in 0..taps {
                        weights[(t * ci + i) * co + o] = theirs[(o * ci + i) * taps + t];
                    }
                }
            }
            let maps = Maps {
                x: &x,
                dy: &dy,
                before: &before,
            };
            let (y, dx, dw) = pool.enter(|| all::<f32>(isa, &plan, count, &maps, &weights));
            // In bf16 maps are read as they are, and each number that is written is rounded once.
            let halves = pool.enter(|| all::<bf16>(isa, &plan, count, &maps, &weights));
            let rounded =
                |x: &[f32]| -> Vec<f32> { x.iter().map(|x| bf16::narrow(*x).widen()).collect() };
            assert!(halves.0 == rounded(&y), "{isa:?} {case:?} y in bf16");
            assert!(halves.1 == rounded(&dx), "{isa:?} {case:?} dx in bf16");
            assert!(halves.2 == dw, "{isa:?} {case:?} dw in bf16");
            let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
            let (x64, dy64, w64) = (wide(&x), wide(&dy), wide(&theirs));
            let before = wide(&before);
            let want_y = reference::forward(&x64, &w64, &conv, count, input, output);
            let mut want_dx = reference::backward_input(&dy64, &w64, &conv, count, input, output);
            want_dx.iter_mut().zip(before).for_each(|(d, b)| *d += b);
            let mut want_dw = vec![0.0; theirs.len()];
            reference::backward_weight(&x64, &dy64, &mut want_dw, &conv, count, input, output);
            let want_dw: Vec<f64> = (0..taps * ci * co)
                .map(|at| {
                    let (t, i, o) = (at / co / ci, at / co % ci, at % co);
                    want_dw[(o * ci + i) * taps + t] + 1.0
                })
                .collect();
            // docs/method.md states these.
            let (most, mean) = if plan.winograd.is_some() {
                (3e-5, 2e-6)
            } else {
                (1e-5, 1e-6)
            };
            for (what, got, want) in [
                ("y", &y, &want_y),
                ("dx", &dx, &want_dx),
                ("dw", &dw, &want_dw),
            ] {
                let (largest, rms) = errors(got, want);
                println!("{isa:?} {case:?} {what}: {largest:.1e}, {rms:.1e}");
                assert!(
                    largest < most && rms < mean,
                    "{isa:?} {case:?} {what}: off by {largest:.1e}, {rms:.1e}"
                );
            }
        }
    }
}
