//! The memory bank's update (Wu et al. 2018, section 3; MMSelfSup's `SimpleMemory.update`).

use super::float::Float;
use super::l2_norm;

/// v ← normalise((1-m)·v + m·f) for each of `rows` (B), with the features f, B x D.
///
/// `momentum` m weights the NEW feature. Every feature reads the row as it was before the call,
/// and where a row occurs twice the last one in batch order is kept.
pub fn update<T: Float>(bank: &mut [T], rows: &[u64], features: &[T], momentum: f32) {
    let dim = features.len() / rows.len();
    let m = f64::from(momentum);
    let mut blended = Vec::with_capacity(features.len());
    for (&row, f) in rows.iter().zip(features.chunks_exact(dim)) {
        let old = &bank[row as usize * dim..][..dim];
        let both = old.iter().zip(f);
        blended.extend(both.map(|(v, f)| T::of((1.0 - m) * v.f64() + m * f.f64())));
    }
    let new = l2_norm::forward(&blended, dim);
    for (&row, v) in rows.iter().zip(new.chunks_exact(dim)) {
        bank[row as usize * dim..][..dim].copy_from_slice(v);
    }
}
