//! The memory bank's update (Wu et al. 2018, section 3; MMSelfSup's `SimpleMemory.update`).

use half::{bf16, f16};
use npid_network::method::{MemoryBank, RowType};

use super::float::Float;
use super::l2_norm;

/// The nearest number that a row of this type can hold, ties to even.
pub fn round<T: Float>(x: T, dtype: RowType) -> T {
    match dtype {
        RowType::F32 => x,
        RowType::Bf16 => T::of(bf16::from_f64(x.f64()).to_f64()),
        RowType::F16 => T::of(f16::from_f64(x.f64()).to_f64()),
    }
}

/// v ← normalise((1-m)·v + m·f) for each of `rows` (B), with the features f, B x D.
///
/// `momentum` m weights the NEW feature. Every feature reads the row as it was before the call,
/// and where a row occurs twice the last one in batch order is kept. New rows are rounded once.
pub fn update<T: Float>(bank: &mut [T], rows: &[u64], features: &[T], settings: MemoryBank) {
    let dim = features.len() / rows.len();
    let m = f64::from(settings.momentum);
    let mut blended = Vec::with_capacity(features.len());
    for (&row, f) in rows.iter().zip(features.chunks_exact(dim)) {
        let old = &bank[row as usize * dim..][..dim];
        let both = old.iter().zip(f);
        blended.extend(both.map(|(v, f)| T::of((1.0 - m) * v.f64() + m * f.f64())));
    }
    let new = l2_norm::forward(&blended, dim);
    for (&row, v) in rows.iter().zip(new.chunks_exact(dim)) {
        let to = &mut bank[row as usize * dim..][..dim];
        (to.iter_mut().zip(v)).for_each(|(to, v)| *to = round(*v, settings.dtype));
    }
}
