//! Max pooling and global average pooling, forward and backward.

use npid_network::graph::{Shape, Window};

use super::element::MapElement;
use super::memory::{Ptr, scratch};
use super::simd::{Isa, Kernel, Simd};
use super::threads::parallel;

/// y = max pool of x; `winners` (B x output) notes which position of the window won (the first on
/// a tie, as in PyTorch), for the backward pass.
///
/// # Safety
/// The pointers must hold `count` images, `y` exclusively.
pub unsafe fn max_forward<E: MapElement>(
    isa: Isa,
    count: usize,
    window: Window,
    input: Shape,
    output: Shape,
    x: Ptr<E>,
    y: Ptr<E>,
    winners: &mut [u8],
) {
    let winners = SharedBytes(winners.as_mut_ptr());
    parallel(count * output.h, |task| {
        let (image, oy) = (task / output.h, task % output.h);
        let row = output.w * output.c;
        // SAFETY: this image, and this task's row of the output.
        unsafe {
            isa.run(MaxRow {
                window,
                input,
                oy,
                x: x.add(image * input.len()).slice(input.len()),
                y: y.add(image * output.len() + oy * row).slice_mut(row),
                winners: winners.slice(image * output.len() + oy * row, row),
            });
        }
    });
}

/// One row of a max pool's output.
struct MaxRow<'a, E> {
    window: Window,
    input: Shape,
    oy: usize,
    x: &'a [E],
    y: &'a mut [E],
    winners: &'a mut [u8],
}

impl<E: MapElement> Kernel for MaxRow<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.input.c;
        let pixels = self.y.chunks_exact_mut(channels);
        let pixels = pixels.zip(self.winners.chunks_exact_mut(channels));
        for (ox, (out, win)) in pixels.enumerate() {
            let parts = out.chunks_mut(LANES).zip(win.chunks_mut(LANES));
            for (part, (out, win)) in parts.enumerate() {
                // In arrays of a fixed length, which the compiler makes vectors of.
                let (mut most, mut which) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
                for (position, at) in positions(self.window, self.input, self.oy, ox) {
                    let from = &self.x[at + part * LANES..][..out.len()];
                    let mut values = [f32::NEG_INFINITY; LANES];
                    if let Ok(from) = <&[E; LANES]>::try_from(from) {
                        for l in 0..LANES {
                            values[l] = from[l].widen();
                        }
                    } else {
                        for (value, x) in values.iter_mut().zip(from) {
                            *value = x.widen();
                        }
                    }
                    for l in 0..LANES {
                        let (value, old) = (values[l], most[l]);
                        let wins = (value > old) | value.is_nan();
                        most[l] = if wins { value } else { old };
                        which[l] = if wins { position as u32 } else { which[l] };
                    }
                }
                for (l, (out, win)) in out.iter_mut().zip(win).enumerate() {
                    *out = E::narrow(most[l]);
                    *win = which[l] as u8;
                }
            }
        }
    }
}

/// Channels of a max pool that are compared at once.
const LANES: usize = 16;

/// dx = the gradient of the max pool (added if `accumulate`). Rows of the input gather what the
/// windows over them give, in f32, and are rounded once.
///
/// # Safety
/// The pointers must hold `count` images, `dx` exclusively.
pub unsafe fn max_backward<E: MapElement>(
    count: usize,
    window: Window,
    input: Shape,
    output: Shape,
    dy: Ptr<E>,
    winners: &[u8],
    dx: Ptr<E>,
    accumulate: bool,
) {
    let row = input.w * input.c;
    parallel(count * input.h, |task| {
        let (image, iy) = (task / input.h, task % input.h);
        // SAFETY: this thread's scratch, this image, and this task's row of the input.
        let (sums, dy, dx) = unsafe {
            (
                scratch(row).slice_mut(row),
                dy.add(image * output.len()).slice(output.len()),
                dx.add(image * input.len() + iy * row).slice_mut(row),
            )
        };
        if accumulate {
            (sums.iter_mut().zip(&*dx)).for_each(|(s, d)| *s = d.widen());
        } else {
            sums.fill(0.0);
        }
        // Output row oy reads rows oy·stride - padding + ky.
        let first = (iy + window.padding + 1).saturating_sub(window.kernel);
        let last = (iy + window.padding) / window.stride;
        for oy in first.div_ceil(window.stride)..=last.min(output.h - 1) {
            for ox in 0..output.w {
                let at = (oy * output.w + ox) * output.c;
                let win = &winners[image * output.len() + at..][..output.c];
                let d = &dy[at..][..output.c];
                for (position, to) in positions(window, input, oy, ox) {
                    let Some(to) = to.checked_sub(iy * row).filter(|to| *to < row) else {
                        continue;
                    };
                    let to = &mut sums[to..][..output.c];
                    for ((t, w), d) in to.iter_mut().zip(win).zip(d) {
                        if usize::from(*w) == position {
                            *t += d.widen();
                        }
                    }
                }
            }
        }
        (dx.iter_mut().zip(sums)).for_each(|(d, s)| *d = E::narrow(*s));
    });
}

/// Positions of a window that lie inside the input: (position, offset of channel 0).
fn positions(
    window: Window,
    input: Shape,
    oy: usize,
    ox: usize,
) -> impl Iterator<Item = (usize, usize)> {
    (0..window.kernel * window.kernel).filter_map(move |p| {
        let y = (oy * window.stride + p / window.kernel).wrapping_sub(window.padding);
        let x = (ox * window.stride + p % window.kernel).wrapping_sub(window.padding);
        (y < input.h && x < input.w).then(|| (p, (y * input.w + x) * input.c))
    })
}

#[derive(Clone, Copy)]
struct SharedBytes(*mut u8);

// SAFETY: only an address; see `slice`.
unsafe impl Send for SharedBytes {}
// SAFETY: only an address; see `slice`.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// # Safety
    /// The range must be inside the slice it came from and used by one task alone.
    unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// y[b] = mean of x[b] over its pixels, in f32 whatever x is.
///
/// # Safety
/// The pointers must hold `count` images, `y` exclusively.
pub unsafe fn average_forward<E: MapElement>(count: usize, input: Shape, x: Ptr<E>, y: Ptr) {
    parallel(count, |image| {
        // SAFETY: this task's image.
        let (x, y) = unsafe {
            (
                x.add(image * input.len()).slice(input.len()),
                y.add(image * input.c).slice_mut(input.c),
            )
        };
        y.fill(0.0);
        for pixel in x.chunks_exact(input.c) {
            y.iter_mut().zip(pixel).for_each(|(y, x)| *y += x.widen());
        }
        let factor = 1.0 / input.pixels() as f32;
        y.iter_mut().for_each(|y| *y *= factor);
    });
}

/// dx[b] at every pixel = dy[b] / pixels (added if `accumulate`).
///
/// # Safety
/// The pointers must hold `count` images, `dx` exclusively.
pub unsafe fn average_backward<E: MapElement>(
    count: usize,
    input: Shape,
    dy: Ptr,
    dx: Ptr<E>,
    accumulate: bool,
) {
    let factor = 1.0 / input.pixels() as f32;
    parallel(count, |image| {
        // SAFETY: this task's image.
        let (dy, dx) = unsafe {
            (
                dy.add(image * input.c).slice(input.c),
                dx.add(image * input.len()).slice_mut(input.len()),
            )
        };
        for pixel in dx.chunks_exact_mut(input.c) {
            for (x, y) in pixel.iter_mut().zip(dy) {
                let d = y * factor;
                *x = E::narrow(if accumulate { x.widen() + d } else { d });
            }
        }
    });
}
