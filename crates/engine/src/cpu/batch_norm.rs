//! Batch normalisation in training: its statistics merged from those of blocks, and its gradient
//! in two passes.

use super::affine::{block_statistics, by_vectors, load, store};
use super::element::MapElement;
use super::memory::Ptr;
use super::simd::{Isa, Kernel, Simd};
use super::threads::{Parts, parallel};

/// Numbers that a task takes.
const TASK_NUMBERS: usize = 32 * 1024;

/// What the forward pass leaves for the backward pass, and the map it applies: C numbers each.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// The batch's mean.
    pub mean: Vec<f32>,
    /// The batch's biased variance.
    pub var: Vec<f32>,
    /// 1 / sqrt(var + eps).
    pub inv: Vec<f32>,
    /// γ · inv.
    pub gain: Vec<f32>,
    /// The map's factor: `gain`, or 0 where all values are equal, so that they become β exactly and
    /// not β and a rounding error that an L2 norm would blow up.
    pub scale: Vec<f32>,
    /// β - mean · scale.
    pub shift: Vec<f32>,
}

impl Statistics {
    /// For `channels` channels.
    pub fn new(channels: usize) -> Self {
        let zeros = || vec![0.0; channels];
        Statistics {
            mean: zeros(),
            var: zeros(),
            inv: zeros(),
            gain: zeros(),
            scale: zeros(),
            shift: zeros(),
        }
    }

    /// Merges blocks of [block][mean, squares][C] in their order, by Chan's formula (Chan, Golub
    /// and LeVeque 1983): no difference of large numbers, whatever the mean.
    pub fn merge(&mut self, blocks: &[f32], sizes: impl Fn(usize) -> usize) {
        let channels = self.mean.len();
        for c in 0..channels {
            let (mut count, mut mean, mut squares) = (0f64, 0f64, 0f64);
            for (i, block) in blocks.chunks_exact(2 * channels).enumerate() {
                let n = sizes(i) as f64;
                let delta = f64::from(block[c]) - mean;
                let total = count + n;
                mean += delta * n / total;
                squares += f64::from(block[channels + c]) + delta * delta * count * n / total;
                count = total;
            }
            self.mean[c] = mean as f32;
            self.var[c] = (squares / count) as f32;
        }
    }

    /// The affine map where the statistics are those of the very values it is applied to.
    pub fn normalise_batch(&mut self, gamma: Option<&[f32]>, beta: Option<&[f32]>, eps: f32) {
        self.normalise(gamma, beta, eps);
        for c in 0..self.mean.len() {
            if self.var[c] == 0.0 {
                self.scale[c] = 0.0;
                self.shift[c] = beta.map_or(0.0, |b| b[c]);
            }
        }
    }

    /// Sets the affine map from given statistics.
    pub fn normalise(&mut self, gamma: Option<&[f32]>, beta: Option<&[f32]>, eps: f32) {
        for c in 0..self.mean.len() {
            self.inv[c] = (1.0 / (f64::from(self.var[c]) + f64::from(eps)).sqrt()) as f32;
            self.gain[c] = gamma.map_or(1.0, |g| g[c]) * self.inv[c];
            self.scale[c] = self.gain[c];
            self.shift[c] = beta.map_or(0.0, |b| b[c]) - self.mean[c] * self.scale[c];
        }
    }

    /// Moves running statistics towards the batch's, the variance as the unbiased one. A single
    /// value has no unbiased variance and leaves the running one alone (PyTorch refuses it).
    pub fn track(&self, count: usize, momentum: f32, mean: &mut [f32], var: &mut [f32]) {
        let unbias = count as f32 / (count as f32 - 1.0).max(1.0);
        for c in 0..self.mean.len() {
            mean[c] += momentum * (self.mean[c] - mean[c]);
            if count > 1 {
                var[c] += momentum * (self.var[c] * unbias - var[c]);
            }
        }
    }
}

/// Blocks of pixels of a pass that reduces over pixels.
fn blocks(pixels: usize, channels: usize) -> Parts {
    Parts::at_most(pixels, (TASK_NUMBERS / channels).max(64))
}

/// Numbers of block results that [`statistics`] and [`backward`] need.
pub fn workspace_len(pixels: usize, channels: usize) -> usize {
    blocks(pixels, channels).count() * 2 * channels
}

/// Statistics of a map that no convolution has just written.
///
/// # Safety
/// `x` must hold `pixels` x C numbers, `workspace` [`workspace_len`], exclusively.
pub unsafe fn statistics<E: MapElement>(
    isa: Isa,
    x: Ptr<E>,
    pixels: usize,
    channels: usize,
    workspace: Ptr,
    into: &mut Statistics,
) {
    let blocks = blocks(pixels, channels);
    parallel(blocks.count(), |i| {
        // SAFETY: each task has its own part of the workspace.
        unsafe {
            isa.run(StatisticsBlock {
                x,
                channels,
                pixels: blocks.range(i),
                to: workspace.add(i * 2 * channels),
            })
        }
    });
    // SAFETY: all tasks have ended.
    let all = unsafe { workspace.slice(blocks.count() * 2 * channels) };
    into.merge(all, |i| blocks.range(i).len());
}

struct StatisticsBlock<E> {
    x: Ptr<E>,
    channels: usize,
    pixels: std::ops::Range<usize>,
    to: Ptr,
}

impl<E: MapElement> Kernel for StatisticsBlock<E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on.
        unsafe {
            let channels = 0..self.channels;
            block_statistics::<S, E>(self.x, self.channels, self.pixels, channels, self.to)
        }
    }
}

/// How a ReLU's mask is found.
#[derive(Clone, Copy)]
pub enum Mask<E> {
    /// There was none.
    None,
    /// From what came out. The gradient after it is replaced by that before it.
    Out(Ptr<E>),
    /// From what went into the batch norm, which was all there was before it; nothing is replaced.
    Norm,
}

/// Pointers of one backward pass; maps are pixels x C.
#[derive(Clone, Copy)]
pub struct Backward<E> {
    /// Gradient of what came out after ReLU; see [`Mask`] for what becomes of it.
    pub dz: Ptr<E>,
    /// Where the ReLU let through, if there was one.
    pub mask: Mask<E>,
    /// What went into the batch norm.
    pub x: Ptr<E>,
    /// Where the gradient of `x` goes, if it is wanted: may be `x` itself.
    pub dx: Option<Ptr<E>>,
    /// Whether it is added there.
    pub accumulate: bool,
    /// Whether the statistics were running ones, constants to the gradient.
    pub frozen: bool,
    /// Pixels of the batch.
    pub pixels: usize,
    /// C.
    pub channels: usize,
}

/// Gradient through ReLU, γ, β and the batch's statistics (equations in docs/method.md).
/// Parameter gradients accumulate.
///
/// # Safety
/// The pointers must hold their maps, exclusively where they are written, and `workspace`
/// [`workspace_len`] numbers.
pub unsafe fn backward<E: MapElement>(
    isa: Isa,
    maps: Backward<E>,
    saved: &Statistics,
    workspace: Ptr,
    dgamma: Option<&mut [f32]>,
    dbeta: Option<&mut [f32]>,
) {
    let channels = maps.channels;
    let blocks = blocks(maps.pixels, channels);
    parallel(blocks.count(), |i| {
        // SAFETY: each task has its own pixels and its own part of the workspace.
        unsafe {
            isa.run(ReduceBlock {
                maps,
                saved,
                pixels: blocks.range(i),
                to: workspace.add(i * 2 * channels),
            })
        }
    });
    // SAFETY: all tasks have ended.
    let all = unsafe { workspace.slice(blocks.count() * 2 * channels) };
    let n = maps.pixels as f64;
    let zeros = || vec![0f32; channels];
    let (mut a, mut b, mut s) = (zeros(), zeros(), zeros());
    let (mut dgamma, mut dbeta) = (dgamma, dbeta);
    for c in 0..channels {
        let (mut sum, mut dot) = (0f64, 0f64);
        for block in all.chunks_exact(2 * channels) {
            sum += f64::from(block[c]);
            dot += f64::from(block[channels + c]);
        }
        let inv = f64::from(saved.inv[c]);
        let dot = dot * inv;
        if let Some(d) = &mut dgamma {
            d[c] += dot as f32;
        }
        if let Some(d) = &mut dbeta {
            d[c] += sum as f32;
        }
        // dx = gain·(dz - Σdz/n - x̂·Σ(dz·x̂)/n), written as a·(dz - s) + b·(x - mean): differences
        // first, so that a single value has a gradient of exactly 0.
        let gain = f64::from(saved.gain[c]);
        a[c] = gain as f32;
        if maps.frozen {
            continue; // dx = gain·dz
        }
        b[c] = (-gain * inv * dot / n) as f32;
        s[c] = (sum / n) as f32;
    }
    let Some(dx) = maps.dx else {
        return;
    };
    let (a, b, s) = (&a[..], &b[..], &s[..]);
    parallel(blocks.count(), |i| {
        // SAFETY: each task has its own pixels.
        unsafe {
            isa.run(InputBlock {
                maps,
                saved,
                dx,
                a,
                b,
                s,
                pixels: blocks.range(i),
            })
        }
    });
}

/// Pixels whose channels are summed before the next ones are read: all of a pixel is read at once,
/// as it comes from memory, and sums stay in registers for a while.
const GROUP: usize = 16;

/// dz = dout where the ReLU let through; Σ dz and Σ dz·(x - mean) of each channel.
struct ReduceBlock<'a, E> {
    maps: Backward<E>,
    saved: &'a Statistics,
    pixels: std::ops::Range<usize>,
    to: Ptr,
}

impl<E: MapElement> Kernel for ReduceBlock<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on; the task's own part of the workspace.
        unsafe {
            self.to.slice_mut(2 * self.maps.channels).fill(0.0);
            for first in self.pixels.clone().step_by(GROUP) {
                let pixels = first..self.pixels.end.min(first + GROUP);
                for (c, vectors, n) in by_vectors::<S>(0..self.maps.channels) {
                    match (vectors == 2, n == S::LANES) {
                        (true, _) => self.columns::<S, 2>(pixels.clone(), c, S::LANES),
                        (false, true) => self.columns::<S, 1>(pixels.clone(), c, S::LANES),
                        (false, false) => self.columns::<S, 1>(pixels.clone(), c, n),
                    }
                }
            }
        }
    }
}

impl<E: MapElement> ReduceBlock<'_, E> {
    /// # Safety
    /// As the kernel's, for NV vectors from channel c on, the last of n lanes.
    #[inline(always)]
    unsafe fn columns<S: Simd, const NV: usize>(
        &self,
        pixels: std::ops::Range<usize>,
        c: usize,
        n: usize,
    ) {
        let Backward {
            dz, x, channels, ..
        } = self.maps;
        // SAFETY: NV vectors from channel c, the last of n lanes, of this task's pixels, and this
        // task's own part of the workspace.
        unsafe {
            let mean = load_vectors::<S, NV>(self.saved.mean.as_ptr().add(c), n);
            let scale = load_vectors::<S, NV>(self.saved.scale.as_ptr().add(c), n);
            let shift = load_vectors::<S, NV>(self.saved.shift.as_ptr().add(c), n);
            let to = self.to.add(c);
            let mut sums = load_vectors::<S, NV>(to.raw(), n);
            let mut dots = load_vectors::<S, NV>(to.add(channels).raw(), n);
            for pixel in pixels {
                for v in 0..NV {
                    let at = pixel * channels + c + v * S::LANES;
                    let mut d = load::<S, _>(dz.add(at).raw(), n);
                    let x = load::<S, _>(x.add(at).raw(), n);
                    match self.maps.mask {
                        Mask::None => {}
                        Mask::Out(out) => {
                            d = S::where_positive(load::<S, _>(out.add(at).raw(), n), d);
                            store::<S, _>(dz.add(at).raw(), d, n);
                        }
                        Mask::Norm => d = S::where_positive(S::fma(x, scale[v], shift[v]), d),
                    }
                    sums[v] = S::add(sums[v], d);
                    dots[v] = S::fma(d, S::sub(x, mean[v]), dots[v]);
                }
            }
            for v in 0..NV {
                let to = to.add(v * S::LANES);
                store::<S, _>(to.raw(), sums[v], n);
                store::<S, _>(to.add(channels).raw(), dots[v], n);
            }
        }
    }
}

/// NV vectors, the last of n lanes.
///
/// # Safety
/// `from` must hold them.
#[inline(always)]
unsafe fn load_vectors<S: Simd, const NV: usize>(from: *const f32, n: usize) -> [S::V; NV] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut all = [S::zero(); NV];
        for (v, x) in all.iter_mut().enumerate() {
            *x = load::<S, _>(from.add(v * S::LANES), n);
        }
        all
    }
}

/// n of the numbers that there are for each channel, from c on.
///
/// # Safety
/// `all` must hold them.
#[inline(always)]
unsafe fn channel<S: Simd>(all: &[f32], c: usize, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { load::<S, _>(all.as_ptr().add(c), n) }
}

/// dx = a·(dz - s) + b·(x - mean).
struct InputBlock<'a, E> {
    maps: Backward<E>,
    saved: &'a Statistics,
    dx: Ptr<E>,
    a: &'a [f32],
    b: &'a [f32],
    s: &'a [f32],
    pixels: std::ops::Range<usize>,
}

impl<E: MapElement> Kernel for InputBlock<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.maps.channels;
        let whole = channels - channels % S::LANES;
        for pixel in self.pixels.clone() {
            // SAFETY: these channels of this task's pixels.
            unsafe {
                for c in (0..whole).step_by(S::LANES) {
                    self.vector::<S>(pixel, c, S::LANES);
                }
                if whole < channels {
                    self.vector::<S>(pixel, whole, channels - whole);
                }
            }
        }
    }
}

impl<E: MapElement> InputBlock<'_, E> {
    /// # Safety
    /// As the kernel's, for n lanes from channel c on.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, pixel: usize, c: usize, n: usize) {
        let at = pixel * self.maps.channels + c;
        // SAFETY: n channels of this task's pixels.
        unsafe {
            let mut dz = load::<S, _>(self.maps.dz.add(at).raw(), n);
            let x = load::<S, _>(self.maps.x.add(at).raw(), n);
            if let Mask::Norm = self.maps.mask {
                let z = S::fma(
                    x,
                    channel::<S>(&self.saved.scale, c, n),
                    channel::<S>(&self.saved.shift, c, n),
                );
                dz = S::where_positive(z, dz);
            }
            let dz = S::sub(dz, channel::<S>(self.s, c, n));
            let x = S::sub(x, channel::<S>(&self.saved.mean, c, n));
            let mut v = S::mul(x, channel::<S>(self.b, c, n));
            v = S::fma(dz, channel::<S>(self.a, c, n), v);
            let to = self.dx.add(at).raw();
            if self.maps.accumulate {
                v = S::add(v, load::<S, _>(to, n));
            }
            store::<S, _>(to, v, n);
        }
    }
}
