//! Batch normalisation (Ioffe and Szegedy 2015, algorithm 1), as `torch.nn.BatchNorm2d`.
//!
//! x̂ = (x - μ) / sqrt(σ² + ε), y = γ·x̂ + β, channel by channel; in training μ and σ² are the mean
//! and the BIASED variance of the M = B·H·W values of the channel, in evaluation the running ones.

use super::float::Float;

/// Mean and biased variance of each channel: what the backward pass needs besides `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// μ, C.
    pub mean: Vec<f64>,
    /// σ², C, divided by M.
    pub var: Vec<f64>,
    /// M; 0 for running moments, which no value of the batch has a part in.
    pub count: usize,
}

impl Moments {
    /// Of the values `x`, M x C: first the mean, then the mean square distance from it.
    pub fn of<T: Float>(x: &[T], channels: usize) -> Self {
        let count = x.len() / channels;
        let mut mean = vec![0.0; channels];
        for row in x.chunks_exact(channels) {
            for (m, v) in mean.iter_mut().zip(row) {
                *m += v.f64();
            }
        }
        mean.iter_mut().for_each(|m| *m /= count as f64);
        let mut var = vec![0.0; channels];
        for row in x.chunks_exact(channels) {
            for ((s, m), v) in var.iter_mut().zip(&mean).zip(row) {
                *s += (v.f64() - m).powi(2);
            }
        }
        var.iter_mut().for_each(|s| *s /= count as f64);
        Moments { mean, var, count }
    }

    /// The running moments as they stand, for evaluation and frozen layers.
    pub fn running<T: Float>(mean: &[T], var: &[T]) -> Self {
        Moments {
            mean: mean.iter().map(|v| v.f64()).collect(),
            var: var.iter().map(|v| v.f64()).collect(),
            count: 0,
        }
    }

    /// Moves the running moments: r ← (1-a)·r + a·batch, with the UNBIASED variance σ²·M/(M-1).
    ///
    /// A single value (M = 1) has no unbiased variance. PyTorch refuses such a batch; here the
    /// running mean moves and the running variance stays, so that an epoch's last batch may hold
    /// one image. (The normalised value is 0 then, and so is every gradient through it.)
    pub fn track<T: Float>(&self, momentum: f32, mean: &mut [T], var: &mut [T]) {
        let a = f64::from(momentum);
        let blend = |r: &mut T, batch: f64| *r = T::of((1.0 - a) * r.f64() + a * batch);
        mean.iter_mut()
            .zip(&self.mean)
            .for_each(|(r, m)| blend(r, *m));
        if self.count > 1 {
            let unbias = self.count as f64 / (self.count - 1) as f64;
            var.iter_mut()
                .zip(&self.var)
                .for_each(|(r, s)| blend(r, s * unbias));
        }
    }

    fn scale(&self, eps: f32) -> Vec<f64> {
        let eps = f64::from(eps);
        self.var.iter().map(|s| 1.0 / (s + eps).sqrt()).collect()
    }
}

fn at<T: Float>(values: Option<&[T]>, c: usize, missing: f64) -> f64 {
    values.map_or(missing, |v| v[c].f64())
}

/// y, as M x C as `x`. Without γ it is 1, without β it is 0.
pub fn forward<T: Float>(
    x: &[T],
    moments: &Moments,
    eps: f32,
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
) -> Vec<T> {
    let scale = moments.scale(eps);
    let channels = scale.len();
    let normalise = |(j, v): (usize, &T)| {
        let c = j % channels;
        let hat = (v.f64() - moments.mean[c]) * scale[c];
        T::of(at(gamma, c, 1.0) * hat + at(beta, c, 0.0))
    };
    x.iter().enumerate().map(normalise).collect()
}

/// Gradients in training, through the batch's moments. With s = 1/sqrt(σ² + ε):
///
/// dβ = Σ dy, dγ = Σ dy·x̂, dx = γ·s·(dy - dβ/M - x̂·dγ/M).
///
/// Through running moments, which are constants, dx = γ·s·dy.
///
/// Returns dx, overwriting; ADDS to `dgamma` and `dbeta`. `moments` are those of the forward pass.
pub fn backward<T: Float>(
    x: &[T],
    dy: &[T],
    moments: &Moments,
    eps: f32,
    gamma: Option<&[T]>,
    dgamma: Option<&mut [T]>,
    dbeta: Option<&mut [T]>,
) -> Vec<T> {
    let scale = moments.scale(eps);
    let channels = scale.len();
    let hat = |j: usize| (x[j].f64() - moments.mean[j % channels]) * scale[j % channels];
    let mut sum = vec![0.0; channels];
    let mut sum_hat = vec![0.0; channels];
    for (j, g) in dy.iter().enumerate() {
        sum[j % channels] += g.f64();
        sum_hat[j % channels] += g.f64() * hat(j);
    }
    for (into, from) in [(dgamma, &sum_hat), (dbeta, &sum)] {
        if let Some(into) = into {
            into.iter_mut().zip(from).for_each(|(d, s)| *d += T::of(*s));
        }
    }
    let share = match moments.count {
        0 => 0.0,
        count => 1.0 / count as f64,
    };
    let one = |(j, g): (usize, &T)| {
        let c = j % channels;
        let inner = g.f64() - sum[c] * share - hat(j) * sum_hat[c] * share;
        T::of(at(gamma, c, 1.0) * scale[c] * inner)
    };
    dy.iter().enumerate().map(one).collect()
}
