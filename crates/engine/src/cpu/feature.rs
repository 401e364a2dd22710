//! Small operations on B x D features: L2 norm, cross entropy, bytes to numbers.

use super::element::{Element, MapElement};
use super::memory::Ptr;
use super::threads::{Parts, parallel};

/// Below this norm a feature is divided by it instead.
const SMALLEST_NORM: f32 = 1e-12;

/// y_b = x_b / max(‖x_b‖, 1e-12); all B x D.
pub fn l2_forward<E: MapElement>(dim: usize, x: &[E], y: &mut [E]) {
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        let norm = norm(x).max(SMALLEST_NORM);
        (y.iter_mut().zip(x)).for_each(|(y, x)| *y = E::narrow(x.widen() / norm));
    }
}

/// dx_b = (dy_b - (dy_b·y_b) y_b) / ‖x_b‖, or dy_b / 1e-12 below that norm.
pub fn l2_backward<E: MapElement>(
    dim: usize,
    x: &[E],
    y: &[E],
    dy: &[E],
    dx: &mut [E],
    accumulate: bool,
) {
    for (((x, y), dy), dx) in (x.chunks_exact(dim).zip(y.chunks_exact(dim)))
        .zip(dy.chunks_exact(dim))
        .zip(dx.chunks_exact_mut(dim))
    {
        let norm = norm(x);
        let dot = if norm > SMALLEST_NORM {
            dot(dy, y)
        } else {
            0.0
        };
        let inv = 1.0 / norm.max(SMALLEST_NORM);
        for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
            let d = (dy.widen() - dot * y.widen()) * inv;
            *dx = E::narrow(if accumulate { dx.widen() + d } else { d });
        }
    }
}

/// ‖x‖, summed in f64.
pub fn norm<E: Element>(x: &[E]) -> f32 {
    (x.iter()
        .map(|v| f64::from(v.widen()) * f64::from(v.widen())))
    .sum::<f64>()
    .sqrt() as f32
}

/// a·b, summed in f64.
pub fn dot<E: Element>(a: &[E], b: &[E]) -> f32 {
    (a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(a.widen()) * f64::from(b.widen())))
    .sum::<f64>() as f32
}

/// Mean cross entropy of logits (B x classes), and its gradient, which is overwritten.
pub fn cross_entropy(classes: usize, logits: &[f32], labels: &[u32], d: &mut [f32]) -> f32 {
    let count = labels.len() as f64;
    let mut loss = 0f64;
    for ((s, d), &label) in (logits
        .chunks_exact(classes)
        .zip(d.chunks_exact_mut(classes)))
    .zip(labels)
    {
        let max = s.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let sum: f64 = s.iter().map(|s| f64::from(s - max).exp()).sum();
        loss += sum.ln() - f64::from(s[label as usize] - max);
        for (d, s) in d.iter_mut().zip(s) {
            *d = (f64::from(s - max).exp() / sum / count) as f32;
        }
        d[label as usize] -= (1.0 / count) as f32;
    }
    (loss / count) as f32
}

/// (byte / 255 - mean) / std, by a table of 256 numbers for each channel.
pub struct InputTable {
    table: Vec<[f32; 256]>,
}

impl InputTable {
    /// For these channels.
    pub fn new(mean: &[f32], std: &[f32]) -> Self {
        let one = |mean: f32, std: f32| {
            let mut t = [0f32; 256];
            for (i, t) in t.iter_mut().enumerate() {
                *t = (i as f32 / 255.0 - mean) / std;
            }
            t
        };
        InputTable {
            table: mean.iter().zip(std).map(|(m, s)| one(*m, *s)).collect(),
        }
    }

    /// Converts pixels x C bytes.
    ///
    /// # Safety
    /// `to` must hold as many numbers, exclusively.
    pub unsafe fn apply<E: MapElement>(&self, bytes: &[u8], to: Ptr<E>) {
        let channels = self.table.len();
        let parts = Parts::at_most(bytes.len() / channels, 16 * 1024);
        parallel(parts.count(), |i| {
            let range = parts.range(i);
            let (at, len) = (range.start * channels, range.len() * channels);
            // SAFETY: this task's part.
            let to = unsafe { to.add(at).slice_mut(len) };
            let pixels = to.chunks_exact_mut(channels);
            for (to, from) in pixels.zip(bytes[at..][..len].chunks_exact(channels)) {
                for ((to, from), table) in to.iter_mut().zip(from).zip(&self.table) {
                    *to = E::narrow(table[usize::from(*from)]);
                }
            }
        });
    }
}
