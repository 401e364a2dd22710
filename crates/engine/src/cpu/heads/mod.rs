//! NPID's heads over the memory bank: loss and feature gradient from one streaming pass.
//!
//! For each image the pass keeps the largest logit so far m, Σ exp(s - m) and Σ exp(s - m)·v over
//! a segment of rows (or of negatives); segments are fixed by the shape and merged in their order.
//! No logit and no gathered row outlives its block: extra memory is O(B·D) a segment.

mod nce;
mod negatives;
mod softmax;

use super::memory::{Buffer, Ptr};
use super::simd::{Isa, Simd};
use super::threads::parallel;
pub use nce::Nce;
pub use negatives::{Drawn, segments as negative_segments};
pub use softmax::{panels_len, segments as row_segments};

/// What a pass over the bank needs.
pub struct Comparison<'a> {
    /// Instruction set.
    pub isa: Isa,
    /// D.
    pub dim: usize,
    /// τ.
    pub temperature: f32,
    /// B x D normalised features.
    pub features: &'a [f32],
    /// The row of each image.
    pub rows: &'a [u64],
    /// N x D.
    pub bank: &'a [f32],
    /// For each row whether it takes no part, if any does.
    pub excluded: Option<&'a [bool]>,
}

/// Partial sums of segments: for each segment and image m, Σ exp, D of Σ exp·v and, for NCE, whose
/// D are Σ h·v, one of Σ -ln(1 - h).
pub struct Partials {
    buffer: Buffer,
    segments: usize,
    count: usize,
    stride: usize,
}

impl Partials {
    /// For at most `segments` segments and `count` images.
    pub fn new(segments: usize, count: usize, dim: usize) -> Self {
        let stride = (dim + 3).next_multiple_of(16);
        Partials {
            buffer: Buffer::new(segments * count * stride),
            segments,
            count,
            stride,
        }
    }

    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        self.buffer.len() * 4
    }
}

impl Comparison<'_> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn clear(&self, partials: &mut Partials, segments: usize) -> Ptr {
        assert!(segments <= partials.segments && self.count() <= partials.count);
        let used = segments * self.count() * partials.stride;
        for one in partials.buffer.as_mut_slice()[..used].chunks_exact_mut(partials.stride) {
            one.fill(0.0);
            one[0] = f32::NEG_INFINITY;
        }
        partials.buffer.ptr()
    }

    /// Merges segments in order (with the positive as one more logit if `positive`): the mean of
    /// lse - s_i, and its gradient (Σ_j p_j v_j - v_i) / (τ B).
    fn merge(
        &self,
        partials: &mut Partials,
        segments: usize,
        positive: bool,
        gradient: &mut [f32],
    ) -> f32 {
        let (count, stride) = (self.count(), partials.stride);
        let all = partials.buffer.as_slice();
        self.mean_loss(gradient, |b, _, v, g| {
            let s = self.own_logit(b);
            let part = |i: usize| &all[(i * count + b) * stride..][..stride];
            let mut max = if positive { s } else { f64::NEG_INFINITY };
            for i in 0..segments {
                max = max.max(f64::from(part(i)[0]));
            }
            let own = if positive { (s - max).exp() } else { 0.0 };
            let mut sum = own;
            g.iter_mut().zip(v).for_each(|(g, v)| *g = own as f32 * v);
            for i in 0..segments {
                let part = part(i);
                let weight = (f64::from(part[0]) - max).exp();
                sum += weight * f64::from(part[1]);
                for (g, p) in g.iter_mut().zip(&part[2..]) {
                    *g += weight as f32 * p;
                }
            }
            let inv = (1.0 / sum) as f32;
            let factor = 1.0 / (self.temperature * count as f32);
            g.iter_mut()
                .zip(v)
                .for_each(|(g, v)| *g = (*g * inv - v) * factor);
            max + sum.ln() - s
        })
    }

    /// The mean of what `loss` says of each image, given its number, feature, own row and the place
    /// of its gradient.
    fn mean_loss(
        &self,
        gradient: &mut [f32],
        loss: impl Fn(usize, &[f32], &[f32], &mut [f32]) -> f64 + Sync,
    ) -> f32 {
        let (count, dim) = (self.count(), self.dim);
        let mut losses = vec![0f64; count];
        let (to, losses_to) = (Ptr::of(gradient), SharedF64(losses.as_mut_ptr()));
        parallel(count, |b| {
            // SAFETY: each image has its own gradient and loss.
            let (g, to) = unsafe { (to.add(b * dim).slice_mut(dim), losses_to.at(b)) };
            let (f, v) = self.pair(b);
            *to = loss(b, f, v, g);
        });
        (losses.iter().sum::<f64>() / count as f64) as f32
    }

    /// The feature of image b and its own row.
    fn pair(&self, b: usize) -> (&[f32], &[f32]) {
        let dim = self.dim;
        let v = &self.bank[self.rows[b] as usize * dim..][..dim];
        (&self.features[b * dim..][..dim], v)
    }

    /// f_b · v_i / τ, the logit of image b's own row.
    fn own_logit(&self, b: usize) -> f64 {
        let (f, v) = self.pair(b);
        f64::from(super::feature::dot(f, v)) / f64::from(self.temperature)
    }
}

#[derive(Clone, Copy)]
struct SharedF64(*mut f64);

// SAFETY: only an address; see `at`.
unsafe impl Send for SharedF64 {}
// SAFETY: only an address; see `at`.
unsafe impl Sync for SharedF64 {}

impl SharedF64 {
    /// # Safety
    /// `i` must be inside the slice and used by one task alone.
    unsafe fn at<'a>(self, i: usize) -> &'a mut f64 {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.add(i) }
    }
}

/// Turns `n` logits into exp(s - m), where m is the partial's largest logit, raised (and what it
/// has summed scaled down) if one is larger; adds them to its sum. Lanes from `n` on become 0.
#[inline(always)]
unsafe fn weigh<S: Simd>(s: &mut [f32], n: usize, partial: &mut [f32], dim: usize) {
    // SAFETY: all accesses stay within n logits and the partial's 2 + D numbers.
    unsafe {
        let mut most = f32::NEG_INFINITY;
        let mut most_v = S::splat(most);
        let mut j = 0;
        while j + S::LANES <= n {
            most_v = S::max(most_v, S::load(s.as_ptr().add(j)));
            j += S::LANES;
        }
        most = most.max(S::largest(most_v));
        for x in &s[j..n] {
            most = most.max(*x);
        }
        if most == f32::NEG_INFINITY {
            s.fill(0.0);
            return;
        }
        if most > partial[0] {
            let shrink = (partial[0] - most).exp();
            partial[0] = most;
            partial[1..2 + dim].iter_mut().for_each(|x| *x *= shrink);
        }
        let m = S::splat(partial[0]);
        let mut sum = S::zero();
        let mut j = 0;
        while j < n {
            let lanes = S::LANES.min(n - j);
            let x = S::load_first(s.as_ptr().add(j), lanes);
            let e = S::exp(S::sub(x, m));
            S::store_first(s.as_mut_ptr().add(j), e, lanes);
            let e = S::load_first(s.as_ptr().add(j), lanes);
            sum = S::add(sum, e);
            j += lanes;
        }
        partial[1] += S::sum(sum);
        s[n..].fill(0.0);
    }
}
