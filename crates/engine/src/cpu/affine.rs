//! y = x·scale + shift (+ residual), ReLU: batch normalisation once its statistics are known, the
//! bias of a linear layer, residual sums. And the statistics of a block of pixels.

use super::element::MapElement;
use super::memory::Ptr;
use super::simd::{Isa, Kernel, Simd};
use super::threads::{Parts, parallel};

/// Numbers that a task of an elementwise pass takes.
const TASK_NUMBERS: usize = 32 * 1024;

/// One affine map for each channel, with what may follow it.
#[derive(Clone, Copy)]
pub struct Affine<'a, E> {
    /// C factors, or none for 1.
    pub scale: Option<&'a [f32]>,
    /// C summands, or none for 0.
    pub shift: Option<&'a [f32]>,
    /// Pixels x C, added.
    pub residual: Option<Ptr<E>>,
    /// Whether max(., 0) is taken last.
    pub relu: bool,
    /// C.
    pub channels: usize,
}

impl<E: MapElement> Affine<'_, E> {
    /// Applies it to some channels of some pixels; `x` and `y` may be the same.
    ///
    /// # Safety
    /// The pointers must hold these pixels, and no one else may touch this part of `y`.
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(
        &self,
        x: Ptr<E>,
        y: Ptr<E>,
        pixels: std::ops::Range<usize>,
        channels: std::ops::Range<usize>,
    ) {
        for pixel in pixels {
            let mut c = channels.start;
            while c < channels.end {
                let n = S::LANES.min(channels.end - c);
                let at = pixel * self.channels + c;
                // SAFETY: n channels of this pixel.
                unsafe {
                    let v = load::<S, _>(x.raw().wrapping_add(at), n);
                    let v = self.vector::<S>(v, at, c, n);
                    store::<S, _>(y.raw().wrapping_add(at), v, n);
                }
                c += n;
            }
        }
    }

    /// What becomes of n numbers of channels from c on, which lie at number `at` of the map.
    ///
    /// # Safety
    /// C must be at least c + n, and the residual hold these numbers.
    #[inline(always)]
    pub unsafe fn vector<S: Simd>(&self, v: S::V, at: usize, c: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let mut v = v;
            match (self.scale, self.shift) {
                (Some(scale), Some(shift)) => {
                    let scale = load::<S, _>(scale.as_ptr().add(c), n);
                    v = S::fma(v, scale, load::<S, _>(shift.as_ptr().add(c), n));
                }
                (Some(scale), None) => {
                    v = S::mul(v, load::<S, _>(scale.as_ptr().add(c), n));
                }
                (None, Some(shift)) => {
                    v = S::add(v, load::<S, _>(shift.as_ptr().add(c), n));
                }
                (None, None) => {}
            }
            if let Some(residual) = self.residual {
                v = S::add(v, load::<S, _>(residual.raw().wrapping_add(at), n));
            }
            if self.relu {
                // In this order a NaN stays one, as in PyTorch, and reaches the loss.
                v = S::max(S::zero(), v);
            }
            v
        }
    }

    /// Applies it to all channels of `pixels` pixels, in parallel.
    ///
    /// # Safety
    /// As [`Affine::apply`].
    pub unsafe fn apply_all(&self, isa: Isa, x: Ptr<E>, y: Ptr<E>, pixels: usize) {
        let parts = Parts::at_most(pixels, (TASK_NUMBERS / self.channels).max(1));
        parallel(parts.count(), |i| {
            // SAFETY: the parts are disjoint; the caller's promise.
            unsafe {
                isa.run(ApplyBlock {
                    affine: *self,
                    x,
                    y,
                    pixels: parts.range(i),
                })
            }
        });
    }
}

struct ApplyBlock<'a, E> {
    affine: Affine<'a, E>,
    x: Ptr<E>,
    y: Ptr<E>,
    pixels: std::ops::Range<usize>,
}

impl<E: MapElement> Kernel for ApplyBlock<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = 0..self.affine.channels;
        // SAFETY: passed on.
        unsafe { (self.affine).apply::<S>(self.x, self.y, self.pixels, channels) }
    }
}

/// A whole vector where there is one, else its beginning.
///
/// # Safety
/// `p` must hold n <= LANES numbers.
#[inline(always)]
pub unsafe fn load<S: Simd, E: MapElement>(p: *const E, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        if n == S::LANES {
            E::load::<S>(p)
        } else {
            E::load_first::<S>(p, n)
        }
    }
}

/// A whole vector where there is room, else its beginning.
///
/// # Safety
/// `p` must hold n <= LANES numbers.
#[inline(always)]
pub unsafe fn store<S: Simd, E: MapElement>(p: *mut E, v: S::V, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if n == S::LANES {
            E::store::<S>(p, v);
        } else {
            E::store_first::<S>(p, v, n);
        }
    }
}

/// Parts of `channels` as `(channel, vectors, lanes)`: two whole vectors (often a cache line) where
/// there are, else one of `lanes` numbers.
#[inline(always)]
pub fn by_vectors<S: Simd>(
    channels: std::ops::Range<usize>,
) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut c = channels.start;
    std::iter::from_fn(move || {
        let left = channels.end.checked_sub(c).filter(|left| *left > 0)?;
        let at = c;
        let vectors = if left >= 2 * S::LANES { 2 } else { 1 };
        c += (vectors * S::LANES).min(left);
        Some((at, vectors, left.min(S::LANES)))
    })
}

/// Writes mean and Σ (x - mean)² of each channel over a block of pixels to `to[c]` and
/// `to[all + c]`, in two passes over the block, which is in the cache.
///
/// # Safety
/// `x` must hold the pixels, of `all` channels each; no one else may touch this part of `to`.
#[inline(always)]
pub unsafe fn block_statistics<S: Simd, E: MapElement>(
    x: Ptr<E>,
    all: usize,
    pixels: std::ops::Range<usize>,
    channels: std::ops::Range<usize>,
    to: Ptr,
) {
    for (c, vectors, n) in by_vectors::<S>(channels) {
        // SAFETY: `vectors` vectors, the last of n lanes, of the block's pixels.
        unsafe {
            let pixels = pixels.clone();
            if vectors == 2 {
                statistics_of::<S, E, 2>(x.add(c), all, pixels, n, to.add(c));
            } else {
                statistics_of::<S, E, 1>(x.add(c), all, pixels, n, to.add(c));
            }
        }
    }
}

/// # Safety
/// As [`block_statistics`], for NV vectors of which the last has n lanes.
#[inline(always)]
unsafe fn statistics_of<S: Simd, E: MapElement, const NV: usize>(
    x: Ptr<E>,
    all: usize,
    pixels: std::ops::Range<usize>,
    n: usize,
    to: Ptr,
) {
    let count = pixels.len() as f32;
    // SAFETY: the caller's promise.
    unsafe {
        // Summed around the first value: exact where all are equal, and no large mean is lost.
        let mut mean = [S::zero(); NV];
        for (v, m) in mean.iter_mut().enumerate() {
            *m = load::<S, _>(x.add(pixels.start * all + v * S::LANES).raw(), n);
        }
        let sums = sum_up::<S, E, NV, false>(x, all, pixels.clone(), n, mean);
        for v in 0..NV {
            mean[v] = S::fma(sums[v], S::splat(1.0 / count), mean[v]);
        }
        let squares = sum_up::<S, E, NV, true>(x, all, pixels, n, mean);
        for v in 0..NV {
            store::<S, _>(to.add(v * S::LANES).raw(), mean[v], n);
            store::<S, _>(to.add(all + v * S::LANES).raw(), squares[v], n);
        }
    }
}

/// Σ (x - mean) or Σ (x - mean)² of NV vectors, the last of n lanes. Four sums at once, so that an
/// addition needn't wait for the one before.
///
/// # Safety
/// `x` must hold NV vectors, the last of n lanes, of each of the pixels.
#[inline(always)]
unsafe fn sum_up<S: Simd, E: MapElement, const NV: usize, const SQUARE: bool>(
    x: Ptr<E>,
    all: usize,
    pixels: std::ops::Range<usize>,
    n: usize,
    mean: [S::V; NV],
) -> [S::V; NV] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[S::zero(); NV]; 4];
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let together = (pixels.end - pixel).min(4);
            for (j, sums) in sums.iter_mut().enumerate() {
                if j < together {
                    for v in 0..NV {
                        let at = x.add((pixel + j) * all + v * S::LANES).raw();
                        let d = S::sub(load::<S, _>(at, n), mean[v]);
                        sums[v] = if SQUARE {
                            S::fma(d, d, sums[v])
                        } else {
                            S::add(d, sums[v])
                        };
                    }
                }
            }
            pixel += together;
        }
        let mut total = [S::zero(); NV];
        for v in 0..NV {
            let (a, b) = (
                S::add(sums[0][v], sums[1][v]),
                S::add(sums[2][v], sums[3][v]),
            );
            total[v] = S::add(a, b);
        }
        total
    }
}
