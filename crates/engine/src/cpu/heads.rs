//! NPID's heads over the memory bank: loss and feature gradient from one streaming pass.
//!
//! For each image the pass keeps the largest logit so far m, Σ exp(s - m) and Σ exp(s - m)·v over
//! a segment of rows (or of negatives); segments are fixed by the shape and merged in their order.
//! No logit and no gathered row outlives its block: extra memory is O(B·D) a segment.

use npid_network::method::{NegativeSampler, Negatives};

use super::memory::{Buffer, Ptr};
use super::simd::{Isa, Kernel, Simd};
use super::threads::{Parts, parallel};
use super::tile::{by_rows, multiply, put, split_rows, zeros};
use crate::Draws;

/// Rows of a block of exact softmax: transposed once, then compared with all features.
const BLOCK_ROWS: usize = 64;
/// Negatives of a block: their rows are read for the logits and again, from L1, for the sum.
const BLOCK_NEGATIVES: usize = 16;

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

/// Partial sums of segments: for each segment and image m, Σ exp, and D of Σ exp·v.
pub struct Partials {
    buffer: Buffer,
    segments: usize,
    count: usize,
    stride: usize,
}

impl Partials {
    /// For at most `segments` segments and `count` images.
    pub fn new(segments: usize, count: usize, dim: usize) -> Self {
        let stride = (dim + 2).next_multiple_of(16);
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

/// Segments of the rows of exact softmax: at most 64.
pub fn row_segments(rows: usize) -> Parts {
    Parts::at_most(
        rows,
        rows.div_ceil(64).max(512).next_multiple_of(BLOCK_ROWS),
    )
}

/// Segments of the negatives of one image: at most 16.
pub fn negative_segments(neg_num: usize) -> Parts {
    Parts::at_most(
        neg_num,
        neg_num
            .div_ceil(16)
            .max(256)
            .next_multiple_of(BLOCK_NEGATIVES),
    )
}

impl Comparison<'_> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    /// Mean exact softmax loss over all rows; `gradient` (B x D) is overwritten.
    pub fn softmax(&self, partials: &mut Partials, gradient: &mut [f32]) -> f32 {
        let segments = row_segments(self.bank.len() / self.dim);
        let to = self.clear(partials, segments.count());
        let stride = partials.stride;
        parallel(segments.count(), |i| {
            // SAFETY: each segment has its own partial sums.
            unsafe {
                self.isa.run(SoftmaxSegment {
                    comparison: self,
                    rows: segments.range(i),
                    to: to.add(i * self.count() * stride),
                    stride,
                })
            }
        });
        self.merge(partials, segments.count(), false, gradient)
    }

    /// Mean contrastive loss against K negatives for each image; `gradient` is overwritten.
    pub fn contrastive(
        &self,
        sampler: &NegativeSampler,
        draws: Draws<'_>,
        neg_num: usize,
        partials: &mut Partials,
        gradient: &mut [f32],
    ) -> f32 {
        let segments = negative_segments(neg_num);
        let to = self.clear(partials, segments.count());
        let stride = partials.stride;
        let count = self.count();
        parallel(segments.count() * count, |i| {
            let (segment, image) = (i / count, i % count);
            // SAFETY: each segment and image has its own partial sums.
            unsafe {
                self.isa.run(NegativeSegment {
                    comparison: self,
                    sampler,
                    draws,
                    neg_num,
                    image,
                    negatives: segments.range(segment),
                    to: to.add(i * stride),
                })
            }
        });
        self.merge(partials, segments.count(), true, gradient)
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
        let (count, dim, stride) = (self.count(), self.dim, partials.stride);
        let mut losses = vec![0f64; count];
        let (to, losses_to) = (Ptr::of(gradient), SharedF64(losses.as_mut_ptr()));
        let all = partials.buffer.as_slice();
        parallel(count, |b| {
            // SAFETY: each image has its own gradient and loss.
            let (g, loss) = unsafe { (to.add(b * dim).slice_mut(dim), losses_to.at(b)) };
            let v = &self.bank[self.rows[b] as usize * dim..][..dim];
            let f = &self.features[b * dim..][..dim];
            let s = f64::from(super::feature::dot(f, v)) / f64::from(self.temperature);
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
            *loss = max + sum.ln() - s;
            let inv = (1.0 / sum) as f32;
            let factor = 1.0 / (self.temperature * count as f32);
            g.iter_mut()
                .zip(v)
                .for_each(|(g, v)| *g = (*g * inv - v) * factor);
        });
        (losses.iter().sum::<f64>() / count as f64) as f32
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

/// Exact softmax over some rows, for all images.
struct SoftmaxSegment<'a> {
    comparison: &'a Comparison<'a>,
    rows: std::ops::Range<usize>,
    to: Ptr,
    stride: usize,
}

impl Kernel for SoftmaxSegment<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Comparison { dim, bank, .. } = *self.comparison;
        let count = self.comparison.count();
        let step = BLOCK_ROWS;
        // Rows of a block become columns: [D][BLOCK_ROWS].
        let mut transposed = vec![0f32; dim * step];
        let mut logits = [[0f32; BLOCK_ROWS]; 12];
        let mut at = self.rows.start;
        while at < self.rows.end {
            let n = BLOCK_ROWS.min(self.rows.end - at);
            for j in 0..n {
                let row = &bank[(at + j) * dim..][..dim];
                for (d, x) in row.iter().enumerate() {
                    transposed[d * step + j] = *x;
                }
            }
            for (image, rows) in split_rows(count, S::ROWS) {
                // SAFETY: `rows` images from `image`; `to` is this segment's own.
                unsafe {
                    by_rows!(
                        S,
                        rows,
                        2,
                        logit_tiles(&self, image, &transposed, &mut logits)
                    );
                    for (i, s) in logits[..rows].iter_mut().enumerate() {
                        if let Some(excluded) = self.comparison.excluded {
                            for j in 0..n {
                                if excluded[at + j] {
                                    s[j] = f32::NEG_INFINITY;
                                }
                            }
                        }
                        let partial = self.to.add((image + i) * self.stride);
                        let partial = partial.slice_mut(self.stride);
                        weigh::<S>(s, n, partial, dim);
                    }
                    let block = bank.as_ptr().add(at * dim);
                    by_rows!(S, rows, 2, sum_tiles(&self, image, block, n, &logits));
                }
            }
            at += n;
        }
    }
}

/// logits[i][j] = f_{image + i} · v_j / τ for the block's rows.
#[inline(always)]
unsafe fn logit_tiles<S: Simd, const M: usize, const NV: usize>(
    segment: &SoftmaxSegment<'_>,
    image: usize,
    transposed: &[f32],
    logits: &mut [[f32; BLOCK_ROWS]; 12],
) {
    let Comparison {
        dim,
        features,
        temperature,
        ..
    } = *segment.comparison;
    let mut a = [features.as_ptr(); M];
    for (i, a) in a.iter_mut().enumerate() {
        *a = a.wrapping_add((image + i) * dim);
    }
    for j in (0..BLOCK_ROWS).step_by(NV * S::LANES) {
        // SAFETY: D numbers of each feature; `transposed` holds D x BLOCK_ROWS.
        unsafe {
            let mut acc = zeros::<S, M, NV>();
            let b = transposed.as_ptr().add(j);
            multiply::<S, M, NV>(&mut acc, a, dim, b, BLOCK_ROWS);
            let inv = S::splat(1.0 / temperature);
            for i in 0..M {
                for v in 0..NV {
                    let to = logits[i].as_mut_ptr().add(j + v * S::LANES);
                    S::store(to, S::mul(acc[i][v], inv));
                }
            }
        }
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

/// partial[2..] of M images += Σ_j weight_j v_j over the block's n rows.
#[inline(always)]
unsafe fn sum_tiles<S: Simd, const M: usize, const NV: usize>(
    segment: &SoftmaxSegment<'_>,
    image: usize,
    block: *const f32,
    n: usize,
    weights: &[[f32; BLOCK_ROWS]; 12],
) {
    let dim = segment.comparison.dim;
    let mut a = [weights[0].as_ptr(); M];
    for (i, a) in a.iter_mut().enumerate() {
        *a = weights[i].as_ptr();
    }
    let partial = |i: usize| segment.to.add((image + i) * segment.stride + 2).raw();
    let mut d = 0;
    // SAFETY: n rows of D numbers; the partials of this segment hold D numbers from 2 on.
    unsafe {
        while d + NV * S::LANES <= dim {
            let mut acc = zeros::<S, M, NV>();
            multiply::<S, M, NV>(&mut acc, a, n, block.add(d), dim);
            for i in 0..M {
                put::<S, NV>(acc[i], partial(i).add(d), NV * S::LANES, true);
            }
            d += NV * S::LANES;
        }
        for i in 0..M {
            for d in d..dim {
                let mut sum = 0.0;
                for j in 0..n {
                    sum += weights[i][j] * *block.add(j * dim + d);
                }
                *partial(i).add(d) += sum;
            }
        }
    }
}

/// Some negatives of one image.
struct NegativeSegment<'a> {
    comparison: &'a Comparison<'a>,
    sampler: &'a NegativeSampler,
    draws: Draws<'a>,
    neg_num: usize,
    image: usize,
    negatives: std::ops::Range<usize>,
    to: Ptr,
}

impl Kernel for NegativeSegment<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Comparison {
            dim,
            bank,
            features,
            rows,
            temperature,
            ..
        } = *self.comparison;
        let f = &features[self.image * dim..][..dim];
        // SAFETY: this segment's own partial sums.
        let partial = unsafe { self.to.slice_mut(dim + 2) };
        let sampled = match self.draws {
            Draws::Sampled { epoch, occurrences } => {
                let row = rows[self.image];
                Some(self.sampler.of(epoch, row, occurrences[self.image]))
            }
            Draws::Given(_) => None,
        };
        let mut next = [bank.as_ptr(); BLOCK_NEGATIVES];
        let mut at = self.negatives.start;
        let mut n = self.fetch::<S>(at, &sampled, &mut next);
        while n > 0 {
            let block = next;
            let here = n;
            at += here;
            n = self.fetch::<S>(at, &sampled, &mut next);
            let mut s = [0f32; BLOCK_NEGATIVES];
            // SAFETY: `block` holds `here` rows of D numbers.
            unsafe {
                dots::<S>(f, &block[..here], &mut s);
                s.iter_mut().for_each(|s| *s /= temperature);
                weigh::<S>(&mut s, here, partial, dim);
                add_rows::<S>(&block[..here], &s, &mut partial[2..]);
            }
        }
    }
}

impl NegativeSegment<'_> {
    /// Draws the block of negatives from `at` on and asks for their rows, which lie anywhere;
    /// returns how many there are.
    #[inline(always)]
    fn fetch<S: Simd>(
        &self,
        at: usize,
        sampled: &Option<Negatives<'_>>,
        block: &mut [*const f32; BLOCK_NEGATIVES],
    ) -> usize {
        let dim = self.comparison.dim;
        let n = BLOCK_NEGATIVES.min(self.negatives.end.saturating_sub(at));
        for (j, p) in block[..n].iter_mut().enumerate() {
            let row = match (sampled, self.draws) {
                (Some(negatives), _) => negatives.get((at + j) as u32),
                (None, Draws::Given(given)) => given[self.image * self.neg_num + at + j],
                (None, Draws::Sampled { .. }) => unreachable!("sampled draws have a sampler"),
            };
            let row = &self.comparison.bank[row as usize * dim..][..dim];
            *p = row.as_ptr();
            for line in (0..dim).step_by(16) {
                // SAFETY: a prefetch touches nothing.
                unsafe { S::prefetch(row.as_ptr().wrapping_add(line)) };
            }
        }
        n
    }
}

/// s[j] = f · v_j, four rows at a time.
#[inline(always)]
unsafe fn dots<S: Simd>(f: &[f32], rows: &[*const f32], s: &mut [f32]) {
    let dim = f.len();
    let mut j = 0;
    while j < rows.len() {
        let many = (rows.len() - j).min(4);
        // SAFETY: the instruction set is available.
        let mut acc = [unsafe { S::zero() }; 4];
        let mut d = 0;
        while d < dim {
            let n = S::LANES.min(dim - d);
            // SAFETY: n numbers from d on.
            unsafe {
                let x = super::affine::load::<S>(f.as_ptr().add(d), n);
                for i in 0..4 {
                    if i < many {
                        let v = super::affine::load::<S>(rows[j + i].add(d), n);
                        acc[i] = S::fma(x, v, acc[i]);
                    }
                }
            }
            d += n;
        }
        for i in 0..many {
            // SAFETY: the instruction set is available.
            s[j + i] = unsafe { S::sum(acc[i]) };
        }
        j += many;
    }
}

/// sum += Σ_j weight_j v_j, four vectors of the sum at a time.
#[inline(always)]
unsafe fn add_rows<S: Simd>(rows: &[*const f32], weights: &[f32], sum: &mut [f32]) {
    let dim = sum.len();
    let mut d = 0;
    // SAFETY: all accesses stay below D.
    unsafe {
        while d + 4 * S::LANES <= dim {
            let mut acc = [S::zero(); 4];
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(sum.as_ptr().add(d + v * S::LANES));
            }
            for (row, w) in rows.iter().zip(weights) {
                let w = S::splat(*w);
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(w, S::load(row.add(d + v * S::LANES)), *acc);
                }
            }
            for (v, acc) in acc.iter().enumerate() {
                S::store(sum.as_mut_ptr().add(d + v * S::LANES), *acc);
            }
            d += 4 * S::LANES;
        }
        while d < dim {
            let n = S::LANES.min(dim - d);
            let mut acc = S::load_first(sum.as_ptr().add(d), n);
            for (row, w) in rows.iter().zip(weights) {
                acc = S::fma(S::splat(*w), S::load_first(row.add(d), n), acc);
            }
            S::store_first(sum.as_mut_ptr().add(d), acc, n);
            d += n;
        }
    }
}

/// v ← normalise((1-m)·v + m·f) for each image's row. Every feature reads the old row; of a row
/// that occurs twice the last one in batch order is kept.
pub fn update_bank(
    bank: &mut [f32],
    dim: usize,
    momentum: f32,
    rows: &[u64],
    features: &[f32],
    scratch: &mut [f32],
) {
    for ((&row, f), new) in
        (rows.iter().zip(features.chunks_exact(dim))).zip(scratch.chunks_exact_mut(dim))
    {
        let old = &bank[row as usize * dim..][..dim];
        for ((new, old), f) in new.iter_mut().zip(old).zip(f) {
            *new = (1.0 - momentum) * old + momentum * f;
        }
        let norm = super::feature::norm(new).max(1e-12);
        new.iter_mut().for_each(|x| *x /= norm);
    }
    for (&row, new) in rows.iter().zip(scratch.chunks_exact(dim)) {
        bank[row as usize * dim..][..dim].copy_from_slice(new);
    }
}
