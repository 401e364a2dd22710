//! The two heads of NPID: a softmax over rows of the memory bank.
//!
//! With s_j = f·v_j / τ over a list of candidate rows j, one of which is the image's own row i:
//!
//! loss = ln Σ_j exp(s_j) - s_i, dloss/df = (Σ_j p_j·v_j - v_i) / τ, p = softmax(s).
//!
//! Losses and gradients are means over the batch. The bank is a constant here.

use super::float::{Float, dot};

/// Mean loss and its gradient with respect to the features.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss<T> {
    /// The batch mean.
    pub value: f64,
    /// B x D, already divided by B.
    pub gradient: Vec<T>,
}

/// MMSelfSup's `ContrastiveHead` on a bank: the candidates of image i are its own row and its K
/// negatives, which may repeat and, without `ensure_neg`, hit the own row.
///
/// `features` is B x D, `bank` N x D, `rows` B, `negatives` B x K.
pub fn contrastive<T: Float>(
    features: &[T],
    bank: &[T],
    rows: &[u64],
    negatives: &[u64],
    temperature: f32,
) -> Loss<T> {
    let k = negatives.len() / rows.len();
    over_batch(features, bank, rows, temperature, |i| {
        let own = std::iter::once(rows[i]);
        own.chain(negatives[i * k..][..k].iter().copied()).collect()
    })
}

/// Exact softmax (Wu et al. 2018, equation 2): the candidates are all N rows but the excluded.
///
/// `features` is B x D, `bank` N x D, `rows` B (none of them excluded), `excluded` N.
pub fn softmax<T: Float>(
    features: &[T],
    bank: &[T],
    rows: &[u64],
    excluded: &[bool],
    temperature: f32,
) -> Loss<T> {
    let all: Vec<u64> = (0..excluded.len())
        .filter(|&j| !excluded[j])
        .map(|j| j as u64)
        .collect();
    over_batch(features, bank, rows, temperature, |_| all.clone())
}

fn over_batch<T: Float>(
    features: &[T],
    bank: &[T],
    rows: &[u64],
    temperature: f32,
    candidates: impl Fn(usize) -> Vec<u64>,
) -> Loss<T> {
    let (batch, tau) = (rows.len(), f64::from(temperature));
    let dim = features.len() / batch;
    let row = |j: u64| &bank[j as usize * dim..][..dim];
    let mut value = 0.0;
    let mut gradient = Vec::with_capacity(features.len());
    for (i, f) in features.chunks_exact(dim).enumerate() {
        let candidates = candidates(i);
        let own = dot(f, row(rows[i])) / tau;
        let logits: Vec<f64> = candidates.iter().map(|&j| dot(f, row(j)) / tau).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|s| (s - top).exp()).sum();
        value += top + sum.ln() - own;
        let mut df: Vec<f64> = row(rows[i]).iter().map(|v| -v.f64()).collect();
        for (&j, s) in candidates.iter().zip(&logits) {
            let p = (s - top).exp() / sum;
            for (d, v) in df.iter_mut().zip(row(j)) {
                *d += p * v.f64();
            }
        }
        gradient.extend(df.iter().map(|d| T::of(d / (tau * batch as f64))));
    }
    Loss {
        value: value / batch as f64,
        gradient,
    }
}
