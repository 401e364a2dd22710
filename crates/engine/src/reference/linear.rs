//! Fully connected layer, as `torch.nn.functional.linear`: y = W·x + b.

use super::float::{Float, axpy, dot};

/// y, B x O, of `x`, B x I, `weight`, O x I, and `bias`, O. The backward pass needs `x` and
/// `weight`.
pub fn forward<T: Float>(x: &[T], weight: &[T], bias: Option<&[T]>, in_features: usize) -> Vec<T> {
    let mut y = Vec::new();
    for row in x.chunks_exact(in_features) {
        for (o, w) in weight.chunks_exact(in_features).enumerate() {
            y.push(T::of(dot(w, row) + bias.map_or(0.0, |b| b[o].f64())));
        }
    }
    y
}

/// dx = Wᵀ·dy, B x I, overwriting.
pub fn backward_input<T: Float>(dy: &[T], weight: &[T], in_features: usize) -> Vec<T> {
    let out_features = weight.len() / in_features;
    let mut dx = vec![T::ZERO; dy.len() / out_features * in_features];
    for (dx, dy) in dx
        .chunks_exact_mut(in_features)
        .zip(dy.chunks_exact(out_features))
    {
        for (&g, w) in dy.iter().zip(weight.chunks_exact(in_features)) {
            axpy(dx, g, w);
        }
    }
    dx
}

/// ADDS dW = Σ dy ⊗ x to `dw` (O x I).
pub fn backward_weight<T: Float>(x: &[T], dy: &[T], dw: &mut [T], in_features: usize) {
    let out_features = dw.len() / in_features;
    for (x, dy) in x
        .chunks_exact(in_features)
        .zip(dy.chunks_exact(out_features))
    {
        for (&g, dw) in dy.iter().zip(dw.chunks_exact_mut(in_features)) {
            axpy(dw, g, x);
        }
    }
}

/// ADDS db = Σ dy over the batch to `db` (O).
pub fn backward_bias<T: Float>(dy: &[T], db: &mut [T]) {
    for dy in dy.chunks_exact(db.len()) {
        for (d, &g) in db.iter_mut().zip(dy) {
            *d += g;
        }
    }
}
