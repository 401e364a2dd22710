//! The memory bank's update.

use super::feature::norm;

/// v ← normalise((1-m)·v + m·f) for each image's row. Every feature reads the old row; of a row
/// that occurs twice the last one in batch order is kept.
pub fn update(
    bank: &mut [f32],
    dim: usize,
    momentum: f32,
    rows: &[u64],
    features: &[f32],
    scratch: &mut [f32],
) {
    for ((&row, f), new) in
        (rows.iter().zip(features.chunks_exact(dim))).zip(scratch.chunks_exact_mut(dim))
    {
        let old = &bank[row as usize * dim..][..dim];
        for ((new, old), f) in new.iter_mut().zip(old).zip(f) {
            *new = (1.0 - momentum) * old + momentum * f;
        }
        let norm = norm(new).max(1e-12);
        new.iter_mut().for_each(|x| *x /= norm);
    }
    for (&row, new) in rows.iter().zip(scratch.chunks_exact(dim)) {
        bank[row as usize * dim..][..dim].copy_from_slice(new);
    }
}
