//! What the engine's tests share: random inputs, tolerances, a table of networks, and bodies that
//! hold any engine against the reference.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod cases;
pub mod compare;
pub mod heads;
pub mod semantics;

use npid_engine::{Description, Engine, Images, Sizes};
use npid_network::philox::{Purpose, Stream};

/// Compiles the engine under test.
pub type Make<'a> = &'a dyn Fn(&Description, Sizes) -> Box<dyn Engine>;

/// A stream of random numbers of its own for each test.
pub fn stream(tag: u64) -> Stream {
    Stream::new(20180505, Purpose::Bench, 0, tag, 0)
}

/// `n` standard normal numbers.
pub fn normal(n: usize, tag: u64) -> Vec<f64> {
    let mut s = stream(tag);
    (0..n).map(|_| s.normal()).collect()
}

/// Random bytes for `count` images.
pub fn pixels(count: usize, sizes: Sizes, channels: usize, tag: u64) -> Vec<u8> {
    let mut s = stream(tag ^ 0x5050);
    let n = count * sizes.height * sizes.width * channels;
    (0..n).map(|_| s.next_u32() as u8).collect()
}

/// A batch of images.
pub fn images(pixels: &[u8], count: usize) -> Images<'_> {
    Images { pixels, count }
}

/// Panics unless |got - want| <= abs + rel·|want| for every element; names the worst one.
#[track_caller]
pub fn assert_close<A, B>(name: &str, got: &[A], want: &[B], abs: f64, rel: f64)
where
    A: Copy + Into<f64>,
    B: Copy + Into<f64>,
{
    assert_eq!(got.len(), want.len(), "{name}: number of elements");
    let mut worst = (0.0, 0);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let (g, w): (f64, f64) = (g.into(), w.into());
        let distance = (g - w).abs();
        let excess = if g == w {
            0.0 // infinities too
        } else if distance.is_nan() {
            f64::INFINITY // NaN would pass every comparison below.
        } else {
            distance / (abs + rel * w.abs())
        };
        if excess > worst.0 {
            worst = (excess, i);
        }
    }
    if worst.0 > 1.0 {
        let (g, w): (f64, f64) = (got[worst.1].into(), want[worst.1].into());
        panic!(
            "{name}: worst at {} of {}: got {g:e}, want {w:e}, {:.3} times the tolerance \
             {abs:e} + {rel:e}·|want|",
            worst.1,
            got.len(),
            worst.0
        );
    }
}

/// The bits of all state, by name, for comparisons that allow no difference.
pub fn bits(engine: &dyn Engine) -> Vec<(String, Vec<u32>)> {
    let of = |name: String| {
        let values = engine.read(&name).unwrap();
        (name, values.iter().map(|v| v.to_bits()).collect())
    };
    engine.state().into_iter().map(|e| of(e.name)).collect()
}

/// Panics, naming the state, unless both have the same bits.
#[track_caller]
pub fn assert_same_bits(what: &str, a: &dyn Engine, b: &dyn Engine) {
    for ((name, x), (other, y)) in bits(a).iter().zip(&bits(b)) {
        assert_eq!(name, other, "{what}");
        let differing = x.iter().zip(y).filter(|(x, y)| x != y).count();
        assert!(
            x.len() == y.len() && differing == 0,
            "{what}: {differing} of {} elements of {name} differ",
            x.len()
        );
    }
}
