//! The memory bank's update.

use super::element::Element;
use super::feature::norm;

/// v ← normalise((1-m)·v + m·f) for each image's row, rounded once. Every feature reads the old
/// row, which `own` holds; of a row that occurs twice the last one in batch order is kept.
pub fn update<E: Element>(
    bank: &mut [E],
    dim: usize,
    momentum: f32,
    rows: &[u64],
    features: &[f32],
    own: &[f32],
) {
    let images = features.chunks_exact(dim).zip(own.chunks_exact(dim));
    let mut new = vec![0f32; dim];
    for (&row, (f, old)) in rows.iter().zip(images) {
        for ((new, old), f) in new.iter_mut().zip(old).zip(f) {
            *new = (1.0 - momentum) * old + momentum * f;
        }
        let norm = norm(&new).max(1e-12);
        let to = &mut bank[row as usize * dim..][..dim];
        (to.iter_mut().zip(&new)).for_each(|(to, x)| *to = E::narrow(x / norm));
    }
}

/// Widens each image's own row into `own`, B x D.
pub fn gather<E: Element>(bank: &[E], dim: usize, rows: &[u64], own: &mut [f32]) {
    for (&row, to) in rows.iter().zip(own.chunks_exact_mut(dim)) {
        let row = &bank[row as usize * dim..][..dim];
        (to.iter_mut().zip(row)).for_each(|(to, x)| *to = x.widen());
    }
}
