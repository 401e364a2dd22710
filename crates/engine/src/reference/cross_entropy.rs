//! Softmax cross entropy with class labels, as `torch.nn.functional.cross_entropy`.

use super::float::Float;
use super::npid::Loss;

/// loss = mean_i (ln Σ_c exp(z_ic) - z_i,label), dz = (softmax(z) - onehot(label)) / B.
///
/// `logits` is B x C; the gradient has the same shape.
pub fn cross_entropy<T: Float>(logits: &[T], labels: &[u32]) -> Loss<T> {
    let batch = labels.len();
    let classes = logits.len() / batch;
    let mut value = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (z, &label) in logits.chunks_exact(classes).zip(labels) {
        let top = z.iter().map(|v| v.f64()).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|v| (v.f64() - top).exp()).sum();
        value += top + sum.ln() - z[label as usize].f64();
        for (c, v) in z.iter().enumerate() {
            let p = (v.f64() - top).exp() / sum;
            let target = if c == label as usize { 1.0 } else { 0.0 };
            gradient.push(T::of((p - target) / batch as f64));
        }
    }
    Loss {
        effective_negatives: f64::NAN,
        value: value / batch as f64,
        gradient,
    }
}
