//! What bf16 changes in single operations: maps are read as they are, and what is written is
//! rounded once. Everything else is as in f32, bit for bit.

use half::bf16;
use npid_network::graph::{Shape, Window};
use npid_network::philox::{Purpose, Stream};

use super::affine::Affine;
use super::batch_norm::{self, Backward, Mask, Statistics};
use super::element::{Element, MapElement};
use super::feature::{self, InputTable};
use super::memory::{Buffer, Ptr};
use super::pooling;
use super::simd::{Isa, Kernel, Simd};

/// Random numbers that bf16 has.
fn random(len: usize, tag: u32) -> Vec<f32> {
    let mut stream = Stream::new(3, Purpose::Bench, tag, 0, 0);
    let one = |_| bf16::narrow(stream.normal() as f32).widen();
    (0..len).map(one).collect()
}

fn map<E: Element>(numbers: &[f32]) -> Vec<E> {
    numbers.iter().map(|x| E::narrow(*x)).collect()
}

fn wide<E: Element>(map: &[E]) -> Vec<f32> {
    map.iter().map(|x| x.widen()).collect()
}

fn rounded(numbers: &[f32]) -> Vec<f32> {
    wide(&map::<bf16>(numbers))
}

struct Store<'a> {
    from: &'a [f32],
    to: &'a mut [bf16],
}

impl Kernel for Store<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..self.from.len()).step_by(S::LANES) {
            // SAFETY: both are whole vectors long.
            unsafe {
                let v = S::load(self.from.as_ptr().add(at));
                bf16::store::<S>(self.to.as_mut_ptr().add(at), v);
            }
        }
    }
}

#[test]
fn vectors_are_rounded_to_nearest_even() {
    // Around every rounding of a few numbers, the largest, the smallest, and what is no number.
    let mut all = vec![
        f32::NAN,
        f32::from_bits(0x7F80_0001),
        f32::from_bits(0xFFFF_FFFF),
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        0.0,
        -0.0,
    ];
    for upper in [0x0080u32, 0x3F80, 0x3F81, 0xBF81, 0x7F7F, 0xFF7F, 0x4049] {
        for lower in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
            all.push(f32::from_bits(upper << 16 | lower));
        }
    }
    all.resize(all.len().next_multiple_of(16), 1.0);
    for isa in Isa::available() {
        let mut to = vec![bf16::ZERO; all.len()];
        // SAFETY: the instruction set is available; whole vectors.
        unsafe {
            isa.run(Store {
                from: &all,
                to: &mut to,
            })
        };
        for (x, got) in all.iter().zip(&to) {
            let want = bf16::from_f32(*x);
            assert_eq!(got.is_nan(), want.is_nan(), "{isa:?} {x}");
            assert!(
                want.is_nan() || got.to_bits() == want.to_bits(),
                "{isa:?} {x}"
            );
            assert_eq!(bf16::narrow(*x).is_nan(), want.is_nan(), "{x}");
            assert!(want.is_nan() || bf16::narrow(*x) == want, "{x}");
        }
    }
}

/// Batch norm forward and backward: output, statistics, gradients.
fn normed<E: MapElement>(isa: Isa, pixels: usize, channels: usize, add: bool) -> Vec<Vec<f32>> {
    let len = pixels * channels;
    let (mut x, mut residual) = (map::<E>(&random(len, 1)), map::<E>(&random(len, 2)));
    let (gamma, beta) = (random(channels, 3), random(channels, 4));
    let mut workspace = Buffer::new(batch_norm::workspace_len(pixels, channels));
    let mut saved = Statistics::new(channels);
    let mut y = map::<E>(&random(len, 5));
    let mut dz = map::<E>(&random(len, 6));
    let mut dx = map::<E>(&random(len, 7));
    let (mut dgamma, mut dbeta) = (vec![0.5; channels], vec![0.25; channels]);
    let px = Ptr::of(&mut x);
    // SAFETY: maps of pixels x channels.
    unsafe {
        batch_norm::statistics(isa, px, pixels, channels, workspace.ptr(), &mut saved);
    }
    saved.normalise_batch(Some(&gamma), Some(&beta), 1e-5);
    let affine = Affine {
        scale: Some(&saved.scale),
        shift: Some(&saved.shift),
        residual: Some(Ptr::of(&mut residual)),
        relu: true,
        channels,
    };
    let maps = Backward {
        dz: Ptr::of(&mut dz),
        // The ReLU's mask must not depend on rounding, so it is the same map for both.
        mask: Mask::Out(Ptr::of(&mut residual)),
        x: px,
        dx: Some(Ptr::of(&mut dx)),
        accumulate: add,
        frozen: false,
        pixels,
        channels,
    };
    // SAFETY: as above.
    unsafe {
        affine.apply_all(isa, px, Ptr::of(&mut y), pixels);
        let (dgamma, dbeta) = (Some(&mut dgamma[..]), Some(&mut dbeta[..]));
        batch_norm::backward(isa, maps, &saved, workspace.ptr(), dgamma, dbeta);
    }
    vec![
        rounded(&wide(&y)),
        rounded(&wide(&dx)),
        wide(&dz),
        saved.mean,
        saved.var,
        dgamma,
        dbeta,
    ]
}

#[test]
fn batch_norm_differs_by_the_rounding_of_what_it_writes() {
    for isa in Isa::available() {
        for (pixels, channels) in [(700, 16), (41, 21), (3, 7)] {
            for add in [false, true] {
                let want = normed::<f32>(isa, pixels, channels, add);
                let got = normed::<bf16>(isa, pixels, channels, add);
                assert_eq!(want, got, "{isa:?} {pixels} x {channels}, {add}");
            }
        }
    }
}

fn pooled<E: MapElement>(isa: Isa, add: bool) -> Vec<Vec<f32>> {
    let window = Window {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let (input, output) = (Shape { h: 7, w: 9, c: 5 }, Shape { h: 4, w: 5, c: 5 });
    let count = 3;
    let mut x = map::<E>(&random(count * input.len(), 1));
    let mut y = map::<E>(&random(count * output.len(), 2));
    let mut dy = map::<E>(&random(count * output.len(), 3));
    let mut dx = map::<E>(&random(count * input.len(), 4));
    let mut winners = vec![0; count * output.len()];
    let (mut mean, mut dmean) = (vec![0.0; count * input.c], random(count * input.c, 5));
    let mut dx_mean = map::<E>(&random(count * input.len(), 6));
    let px = Ptr::of(&mut x);
    // SAFETY: `count` images each.
    unsafe {
        let py = Ptr::of(&mut y);
        pooling::max_forward(isa, count, window, input, output, px, py, &mut winners);
        let (pdy, pdx) = (Ptr::of(&mut dy), Ptr::of(&mut dx));
        pooling::max_backward(count, window, input, output, pdy, &winners, pdx, add);
        pooling::average_forward(count, input, px, Ptr::of(&mut mean));
        let (pd, pdx) = (Ptr::of(&mut dmean), Ptr::of(&mut dx_mean));
        pooling::average_backward(count, input, pd, pdx, add);
    }
    let dx = [rounded(&wide(&dx)), rounded(&wide(&dx_mean))].concat();
    vec![wide(&y), dx, mean]
}

#[test]
fn pooling_differs_by_the_rounding_of_what_it_writes() {
    for isa in Isa::available() {
        for add in [false, true] {
            let (want, got) = (pooled::<f32>(isa, add), pooled::<bf16>(isa, add));
            assert_eq!(want, got, "{isa:?} {add}");
        }
    }
}

#[test]
fn input_and_l2_norm_differ_by_the_rounding_of_what_they_write() {
    fn of<E: MapElement>() -> Vec<Vec<f32>> {
        let table = InputTable::new(&[0.4, 0.5, 0.6], &[0.2, 0.3, 0.25]);
        let bytes: Vec<u8> = (0..3 * 256).map(|i| (i * 7 % 256) as u8).collect();
        let mut x = vec![E::narrow(0.0); bytes.len()];
        // SAFETY: as many numbers as bytes.
        unsafe { table.apply(&bytes, Ptr::of(&mut x)) };
        let (from, dy) = (map::<E>(&random(30, 1)), map::<E>(&random(30, 2)));
        let mut y = map::<E>(&random(30, 3));
        feature::l2_forward(10, &from, &mut y);
        let norm = rounded(&wide(&y));
        // The backward pass reads what was written: the same for both.
        let (y, mut dx) = (map::<E>(&norm), map::<E>(&random(30, 4)));
        feature::l2_backward(10, &from, &y, &dy, &mut dx, true);
        vec![rounded(&wide(&x)), norm, rounded(&wide(&dx))]
    }
    assert_eq!(of::<f32>(), of::<bf16>());
}
