//! The heads of NPID, which compare a feature with rows of the memory bank.
//!
//! Two are a softmax: with s_j = f·v_j / τ over a list of candidate rows j, one of which is the
//! image's own row i,
//!
//! loss = ln Σ_j exp(s_j) - s_i, dloss/df = (Σ_j p_j·v_j - v_i) / τ, p = softmax(s).
//!
//! [`nce`] asks of each candidate alone whether it is the own row or noise.
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
    /// Mean over the batch of (Σ w)² / Σ w² over the negatives, w their weights in the gradient; NaN
    /// where there are none.
    pub effective_negatives: f64,
}

/// (Σ w)² / Σ w².
fn effective(weights: impl Iterator<Item = f64> + Clone) -> f64 {
    let sum: f64 = weights.clone().sum();
    sum * sum / weights.map(|w| w * w).sum::<f64>()
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
        let all = own.chain(negatives[i * k..][..k].iter().copied());
        (all.collect(), 0)
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
    over_batch(features, bank, rows, temperature, |i| {
        let own = all.iter().position(|&j| j == rows[i]);
        (all.clone(), own.expect("no image's own row is excluded"))
    })
}

/// `candidates` gives those of an image, and which of them is the positive.
fn over_batch<T: Float>(
    features: &[T],
    bank: &[T],
    rows: &[u64],
    temperature: f32,
    candidates: impl Fn(usize) -> (Vec<u64>, usize),
) -> Loss<T> {
    let (batch, tau) = (rows.len(), f64::from(temperature));
    let dim = features.len() / batch;
    let row = |j: u64| &bank[j as usize * dim..][..dim];
    let (mut value, mut effective_negatives) = (0.0, 0.0);
    let mut gradient = Vec::with_capacity(features.len());
    for (i, f) in features.chunks_exact(dim).enumerate() {
        let (candidates, positive) = candidates(i);
        let own = dot(f, row(rows[i])) / tau;
        let logits: Vec<f64> = candidates.iter().map(|&j| dot(f, row(j)) / tau).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|s| (s - top).exp()).sum();
        value += top + sum.ln() - own;
        let negatives = (0..logits.len()).filter(|&j| j != positive);
        effective_negatives += effective(negatives.map(|j| (logits[j] - top).exp()));
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
        effective_negatives: effective_negatives / batch as f64,
    }
}

/// What [`nce`] is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nce {
    /// τ.
    pub temperature: f32,
    /// λ.
    pub proximal: f32,
    /// ln Z, as it stands.
    pub log_z: f64,
}

/// Noise-contrastive estimation (Wu et al. 2018, equations 6, 7 and 10): with
/// x_j = s_j - ln Z - ln(K/N) and h = 1 / (1 + exp(-x)),
///
/// loss = -ln h_i - Σ_k ln(1 - h_k) + λ‖f - v_i‖²,
/// dloss/df = ((h_i - 1)·v_i + Σ_k h_k·v_k) / τ + 2λ(f - v_i).
///
/// `features` is B x D, `bank` N x D, `rows` B, `negatives` B x K.
pub fn nce<T: Float>(
    features: &[T],
    bank: &[T],
    rows: &[u64],
    negatives: &[u64],
    nce: Nce,
) -> Loss<T> {
    let (batch, tau) = (rows.len(), f64::from(nce.temperature));
    let (dim, k) = (features.len() / batch, negatives.len() / batch);
    let n = (bank.len() / dim) as f64;
    let lambda = f64::from(nce.proximal);
    let shift = nce.log_z + (k as f64 / n).ln();
    let row = |j: u64| &bank[j as usize * dim..][..dim];
    let (mut value, mut effective_negatives) = (0.0, 0.0);
    let mut gradient = Vec::with_capacity(features.len());
    for (i, f) in features.chunks_exact(dim).enumerate() {
        let own = row(rows[i]);
        let h = |&j: &u64| sigmoid(dot(f, row(j)) / tau - shift);
        effective_negatives += effective(negatives[i * k..][..k].iter().map(h));
        let x = dot(f, own) / tau - shift;
        value += softplus(-x);
        let mut df: Vec<f64> = own.iter().map(|v| -sigmoid(-x) * v.f64() / tau).collect();
        for &j in &negatives[i * k..][..k] {
            let x = dot(f, row(j)) / tau - shift;
            value += softplus(x);
            for (d, v) in df.iter_mut().zip(row(j)) {
                *d += sigmoid(x) * v.f64() / tau;
            }
        }
        for ((d, f), v) in df.iter_mut().zip(f).zip(own) {
            let apart = f.f64() - v.f64();
            value += lambda * apart * apart;
            *d += 2.0 * lambda * apart;
        }
        gradient.extend(df.iter().map(|d| T::of(d / batch as f64)));
    }
    Loss {
        value: value / batch as f64,
        gradient,
        effective_negatives: effective_negatives / batch as f64,
    }
}

/// A batch's estimate of ln Z (Wu et al. 2018, equation 8; lemniscate's `NCEAverage`): N times the
/// mean of exp(s) over its B positives and B·K negatives.
pub fn estimate_log_z<T: Float>(
    features: &[T],
    bank: &[T],
    rows: &[u64],
    negatives: &[u64],
    temperature: f32,
) -> f64 {
    let (batch, tau) = (rows.len(), f64::from(temperature));
    let (dim, k) = (features.len() / batch, negatives.len() / batch);
    let row = |j: u64| &bank[j as usize * dim..][..dim];
    let of = |(i, f): (usize, _)| {
        let candidates = [rows[i]]
            .into_iter()
            .chain(negatives[i * k..][..k].to_vec());
        let logits = candidates.map(|j| dot(f, row(j)) / tau);
        logits.collect::<Vec<f64>>()
    };
    let logits: Vec<f64> = features
        .chunks_exact(dim)
        .enumerate()
        .flat_map(of)
        .collect();
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|s| (s - top).exp()).sum();
    let n = (bank.len() / dim) as f64;
    n.ln() + top + (sum / logits.len() as f64).ln()
}

/// ln((1-r)·Z + r·Z_batch) from the logarithms of both.
pub fn running_log_z(log_z: f64, batch: f64, r: f64) -> f64 {
    let top = log_z.max(batch);
    top + ((1.0 - r) * (log_z - top).exp() + r * (batch - top).exp()).ln()
}

/// ln(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    (-softplus(-x)).exp()
}
