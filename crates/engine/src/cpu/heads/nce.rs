//! Noise-contrastive estimation: each candidate alone is judged to be the own row or noise.

use super::super::element::Element;
use super::super::simd::Simd;
use super::negatives::{Drawn, Work};
use super::{Compared, Comparison, Partials, ROW, Weights, kept};

/// The head's settings.
#[derive(Clone, Copy)]
pub struct Nce {
    /// Weight of a batch's estimate of Z in its running mean, 0 to keep the first.
    pub z_momentum: f32,
    /// λ.
    pub proximal: f32,
}

impl<E: Element> Comparison<'_, E> {
    /// Mean NCE loss (Wu et al. 2018, equations 7 and 10) against K negatives for each image;
    /// `gradient` is overwritten. `log_z` is ln Z: estimated from this batch first where it is
    /// negative infinity, moved towards the batch's afterwards where a momentum asks for that.
    pub fn nce(
        &self,
        nce: Nce,
        drawn: Drawn<'_>,
        log_z: &mut f32,
        partials: &mut Partials,
        gradient: &mut [f32],
    ) -> Compared {
        let first = *log_z == f32::NEG_INFINITY;
        if first {
            let segments = self.over_negatives(drawn, Work::Estimate, partials);
            *log_z = self.estimate(drawn.neg_num, partials, segments) as f32;
        }
        let n = (self.bank.len() / self.dim) as f64;
        let shift = (f64::from(*log_z) + (drawn.neg_num as f64 / n).ln()) as f32;
        let estimate = !first && nce.z_momentum > 0.0;
        let work = Work::Nce { shift, estimate };
        let segments = self.over_negatives(drawn, work, partials);
        let compared = self.merge_nce(nce, shift, partials, segments, gradient);
        if estimate {
            let batch = self.estimate(drawn.neg_num, partials, segments);
            let (old, r) = (f64::from(*log_z), f64::from(nce.z_momentum));
            let top = old.max(batch);
            let sum = (1.0 - r) * (old - top).exp() + r * (batch - top).exp();
            *log_z = (top + sum.ln()) as f32;
        }
        compared
    }

    /// ln of N times the mean of exp(s) over all positives and negatives.
    fn estimate(&self, neg_num: usize, partials: &Partials, segments: usize) -> f64 {
        let (count, stride) = (self.count(), partials.stride);
        let parts = || partials.buffer.as_slice()[..segments * count * stride].chunks_exact(stride);
        let own: Vec<f64> = (0..count).map(|b| self.own_logit(b)).collect();
        let top = parts().map(|p| f64::from(p[0])).chain(own.iter().copied());
        let top = top.fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = parts()
            .map(|p| f64::from(p[1]) * (f64::from(p[0]) - top).exp())
            .chain(own.iter().map(|s| (s - top).exp()))
            .sum();
        let n = (self.bank.len() / self.dim) as f64;
        let candidates = (count * (neg_num + 1)) as f64;
        n.ln() + top + (sum / candidates).ln()
    }

    /// Merges segments in order, adds the positive and the proximal term.
    fn merge_nce(
        &self,
        nce: Nce,
        shift: f32,
        partials: &Partials,
        segments: usize,
        gradient: &mut [f32],
    ) -> Compared {
        let (count, dim, stride) = (self.count(), self.dim, partials.stride);
        let all = partials.buffer.as_slice();
        self.mean(gradient, |b, f, v, g| {
            let x = self.own_logit(b) - f64::from(shift);
            let e = (-x.abs()).exp();
            // -ln h and 1 - h, without a difference of nearly equal numbers.
            let mut loss = (-x).max(0.0) + e.ln_1p();
            let miss = (if x > 0.0 { e } else { 1.0 } / (1.0 + e)) as f32;
            g.iter_mut().zip(v).for_each(|(g, v)| *g = -miss * v);
            let mut negatives = Weights::default();
            for i in 0..segments {
                let part = &all[(i * count + b) * stride..][..stride];
                loss += f64::from(part[ROW + dim]);
                negatives.add(Weights::of(part[ROW + dim + 1], part[ROW + dim + 2], 1.0));
                (g.iter_mut().zip(&part[ROW..])).for_each(|(g, p)| *g += p);
            }
            let (factor, pull) = (1.0 / self.temperature, 2.0 * nce.proximal);
            let mut square = 0f64;
            for ((g, f), v) in g.iter_mut().zip(f).zip(v) {
                let apart = f - v;
                square += f64::from(apart) * f64::from(apart);
                *g = (*g * factor + pull * apart) / count as f32;
            }
            let loss = loss + f64::from(nce.proximal) * square;
            (loss, negatives.effective())
        })
    }
}

/// Turns `n` logits into h = σ(s - shift), lanes from `n` on into 0; adds Σ -ln(1 - h), Σ h and
/// Σ h² to `sums`.
///
/// With x = s - shift and e = exp(-|x|), all without overflow or cancellation: h is 1/(1+e) for
/// x > 0, else e/(1+e), and -ln(1 - h) = max(x, 0) + ln(1 + e).
///
/// # Safety
/// The instruction set must be available; `s` must be whole vectors, and hold n.
#[inline(always)]
pub(super) unsafe fn judge<S: Simd>(s: &mut [f32], n: usize, shift: f32, sums: &mut [f32]) {
    // SAFETY: every access is within n logits.
    unsafe {
        let (zero, one) = (S::zero(), S::splat(1.0));
        let shift = S::splat(shift);
        let (mut losses, mut weights, mut squares) = (zero, zero, zero);
        let mut j = 0;
        while j < n {
            let p = s.as_mut_ptr().add(j);
            let x = S::sub(S::load(p), shift);
            let e = S::exp(S::sub(zero, S::max(x, S::sub(zero, x))));
            let not_above = S::sub(e, S::where_positive(x, e));
            let above = S::where_positive(x, one);
            let mut h = S::div(S::add(above, not_above), S::add(one, e));
            let mut loss = S::add(S::max(zero, x), S::ln_1p(e));
            // What stands beyond n counts for nothing.
            if n - j < S::LANES {
                S::store(p, loss);
                loss = kept::<S>(p, n - j);
                S::store(p, h);
                h = kept::<S>(p, n - j);
            }
            S::store(p, h);
            losses = S::add(losses, loss);
            weights = S::add(weights, h);
            squares = S::fma(h, h, squares);
            j += S::LANES;
        }
        s[n..].fill(0.0);
        for (sum, x) in sums.iter_mut().zip([losses, weights, squares]) {
            *sum += S::sum(x);
        }
    }
}
