//! NPID's heads over the memory bank: loss and feature gradient from one streaming pass.
//!
//! For each image the pass keeps the largest logit so far m, Σ exp(s - m) and Σ exp(s - m)·v over
//! a segment of rows (or of negatives); segments are fixed by the shape and merged in their order.
//! No logit and no gathered row outlives its block: extra memory is O(B·D) a segment.

mod nce;
mod negatives;
mod softmax;

use super::element::Element;
use super::memory::{Buffer, Ptr};
use super::simd::{Isa, Simd};
use super::threads::{Parts, parallel};
pub use nce::Nce;
pub use negatives::{Drawn, segments as negative_segments};
pub use softmax::{panels_len, segments as row_segments};

/// What a pass over the bank needs.
pub struct Comparison<'a, E> {
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
    pub bank: &'a [E],
    /// B x D, the images' own rows.
    pub own: &'a [f32],
    /// For each row whether it takes no part, if any does.
    pub excluded: Option<&'a [bool]>,
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// Mean loss.
    pub loss: f32,
    /// Mean over the images of (Σ w)² / Σ w² over their negatives, w being the weight of a negative
    /// in the gradient; NaN if it can't be told for any.
    pub effective_negatives: f32,
}

/// Partial sums of segments, for each segment and image: the largest logit m, Σ exp(s - m),
/// Σ exp(s - m)², D of Σ exp(s - m)·v. Of NCE the D are Σ h·v, and behind them come Σ -ln(1 - h),
/// Σ h and Σ h².
pub struct Partials {
    buffer: Buffer,
    segments: usize,
    count: usize,
    stride: usize,
}

/// Where in partial sums the D numbers begin.
const ROW: usize = 3;

impl Partials {
    /// For at most `segments` segments and `count` images.
    pub fn new(segments: usize, count: usize, dim: usize) -> Self {
        let stride = (ROW + dim + 3).next_multiple_of(16);
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

/// The own row of an image, where it counts among the candidates.
#[derive(Clone, Copy)]
enum Own {
    /// It is one candidate more.
    Beside,
    /// It is among the rows of the segments.
    Among(Parts),
}

impl<E: Element> Comparison<'_, E> {
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

    /// Merges segments in order: the mean of lse - s_i, and its gradient
    /// (Σ_j p_j v_j - v_i) / (τ B).
    fn merge(
        &self,
        partials: &mut Partials,
        segments: usize,
        own: Own,
        gradient: &mut [f32],
    ) -> Compared {
        let (count, stride) = (self.count(), partials.stride);
        let all = partials.buffer.as_slice();
        self.mean(gradient, |b, _, v, g| {
            let s = self.own_logit(b);
            let part = |i: usize| &all[(i * count + b) * stride..][..stride];
            let beside = matches!(own, Own::Beside);
            let mut max = if beside { s } else { f64::NEG_INFINITY };
            for i in 0..segments {
                max = max.max(f64::from(part(i)[0]));
            }
            let positive = (s - max).exp();
            let mut sum = if beside { positive } else { 0.0 };
            g.iter_mut().zip(v).for_each(|(g, v)| *g = sum as f32 * v);
            let mut negatives = Weights::default();
            for i in 0..segments {
                let part = part(i);
                let weight = (f64::from(part[0]) - max).exp();
                sum += weight * f64::from(part[1]);
                for (g, p) in g.iter_mut().zip(&part[ROW..]) {
                    *g += weight as f32 * p;
                }
                let mut here = Weights::of(part[1], part[2], weight);
                if let Own::Among(parts) = own
                    && parts.range(i).contains(&(self.rows[b] as usize))
                {
                    // What is lost to rounding here is the share of this segment at most.
                    here.sum = (here.sum - positive).max(0.0);
                    here.squares = (here.squares - positive * positive).max(0.0);
                }
                negatives.add(here);
            }
            let inv = (1.0 / sum) as f32;
            let factor = 1.0 / (self.temperature * count as f32);
            g.iter_mut()
                .zip(v)
                .for_each(|(g, v)| *g = (*g * inv - v) * factor);
            (max + sum.ln() - s, negatives.effective())
        })
    }

    /// The means of what `of` says of each image (loss and effective negatives), given its number,
    /// feature, own row and the place of its gradient.
    fn mean(
        &self,
        gradient: &mut [f32],
        of: impl Fn(usize, &[f32], &[f32], &mut [f32]) -> (f64, f64) + Sync,
    ) -> Compared {
        let (count, dim) = (self.count(), self.dim);
        let mut all = vec![(0f64, 0f64); count];
        let (to, all_to) = (Ptr::of(gradient), Shared(all.as_mut_ptr()));
        parallel(count, |b| {
            // SAFETY: each image has its own gradient and figures.
            let (g, to) = unsafe { (to.add(b * dim).slice_mut(dim), all_to.at(b)) };
            let (f, v) = self.pair(b);
            *to = of(b, f, v, g);
        });
        let told = all.iter().map(|x| x.1).filter(|x| x.is_finite());
        let (sum, n) = told.fold((0.0, 0), |(sum, n), x| (sum + x, n + 1));
        Compared {
            loss: (all.iter().map(|x| x.0).sum::<f64>() / count as f64) as f32,
            effective_negatives: (sum / f64::from(n)) as f32,
        }
    }

    /// The feature of image b and its own row.
    fn pair(&self, b: usize) -> (&[f32], &[f32]) {
        let range = b * self.dim..(b + 1) * self.dim;
        (&self.features[range.clone()], &self.own[range])
    }

    /// f_b · v_i / τ, the logit of image b's own row.
    fn own_logit(&self, b: usize) -> f64 {
        let (f, v) = self.pair(b);
        f64::from(super::feature::dot(f, v)) / f64::from(self.temperature)
    }
}

/// Sums of negatives' weights and of their squares.
#[derive(Clone, Copy, Default)]
struct Weights {
    sum: f64,
    squares: f64,
}

impl Weights {
    fn of(sum: f32, squares: f32, scale: f64) -> Self {
        Weights {
            sum: f64::from(sum) * scale,
            squares: f64::from(squares) * scale * scale,
        }
    }

    fn add(&mut self, other: Weights) {
        self.sum += other.sum;
        self.squares += other.squares;
    }

    /// How many negatives of equal weight they are worth; not finite if there are none.
    fn effective(self) -> f64 {
        self.sum * self.sum / self.squares
    }
}

/// Two figures of each image.
#[derive(Clone, Copy)]
struct Shared(*mut (f64, f64));

// SAFETY: only an address; see `at`.
unsafe impl Send for Shared {}
// SAFETY: only an address; see `at`.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `i` must be inside the slice and used by one task alone.
    unsafe fn at<'a>(self, i: usize) -> &'a mut (f64, f64) {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.add(i) }
    }
}

/// The first `n` numbers at `p` as a vector, the other lanes 0, also in memory, where there is room
/// for all lanes.
///
/// # Safety
/// `p` must hold LANES numbers.
#[inline(always)]
unsafe fn kept<S: Simd>(p: *mut f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        for lane in n..S::LANES {
            *p.add(lane) = 0.0;
        }
        S::load(p)
    }
}

/// Turns `n` logits into exp(s - m), where m is the partial's largest logit, raised (and what it
/// has summed scaled down) if one is larger; adds them to its sums. Lanes from `n` on become 0.
///
/// # Safety
/// The instruction set must be available; `s` must be whole vectors and hold n; `partial` ROW + D.
#[inline(always)]
unsafe fn weigh<S: Simd>(s: &mut [f32], n: usize, partial: &mut [f32], dim: usize) {
    // SAFETY: all accesses stay within the logits and the partial's ROW + D numbers.
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
            partial[1..ROW + dim].iter_mut().for_each(|x| *x *= shrink);
            partial[2] *= shrink;
        }
        let m = S::splat(partial[0]);
        let (mut sum, mut squares) = (S::zero(), S::zero());
        let mut j = 0;
        while j < n {
            let p = s.as_mut_ptr().add(j);
            let mut e = S::exp(S::sub(S::load(p), m));
            S::store(p, e);
            if n - j < S::LANES {
                e = kept::<S>(p, n - j);
            }
            sum = S::add(sum, e);
            squares = S::fma(e, e, squares);
            j += S::LANES;
        }
        partial[1] += S::sum(sum);
        partial[2] += S::sum(squares);
        s[n..].fill(0.0);
    }
}
