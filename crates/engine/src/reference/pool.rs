//! Pooling: `torch.nn.MaxPool2d` and the global average (`AdaptiveAvgPool2d(1)`).

use npid_network::graph::{Shape, Window};

use super::float::Float;

/// The largest value of each window, B x H' x W' x C, and for the backward pass the position in
/// `x` that it came from. The border never wins; among equal values the first in reading order
/// does, and NaN beats every number (both as in PyTorch).
pub fn max_forward<T: Float>(
    x: &[T],
    window: &Window,
    batch: usize,
    input: Shape,
    output: Shape,
) -> (Vec<T>, Vec<usize>) {
    let mut y = Vec::with_capacity(batch * output.len());
    let mut winners = Vec::with_capacity(batch * output.len());
    let reach = |o: usize, size: usize| {
        let start = o * window.stride;
        let low = start.saturating_sub(window.padding);
        low..(start + window.kernel)
            .saturating_sub(window.padding)
            .min(size)
    };
    for b in 0..batch {
        for oy in 0..output.h {
            for ox in 0..output.w {
                for c in 0..output.c {
                    let mut best: Option<usize> = None;
                    for iy in reach(oy, input.h) {
                        for ix in reach(ox, input.w) {
                            let at = ((b * input.h + iy) * input.w + ix) * input.c + c;
                            let nan = x[at].f64().is_nan();
                            if best.is_none_or(|best| x[at] > x[best] || nan) {
                                best = Some(at);
                            }
                        }
                    }
                    // Padding of at most half the kernel leaves a pixel in every window.
                    let best = best.unwrap_or_default();
                    y.push(x[best]);
                    winners.push(best);
                }
            }
        }
    }
    (y, winners)
}

/// dx, of `size` elements, overwriting: each window's gradient goes to its winner.
pub fn max_backward<T: Float>(dy: &[T], winners: &[usize], size: usize) -> Vec<T> {
    let mut dx = vec![T::ZERO; size];
    for (&g, &at) in dy.iter().zip(winners) {
        dx[at] += g;
    }
    dx
}

/// The mean over all positions, B x C, of `x`, B x H x W x C. Nothing is saved.
pub fn average_forward<T: Float>(x: &[T], input: Shape) -> Vec<T> {
    let mut y = Vec::new();
    for image in x.chunks_exact(input.len()) {
        for c in 0..input.c {
            let sum: f64 = image.iter().skip(c).step_by(input.c).map(|v| v.f64()).sum();
            y.push(T::of(sum / input.pixels() as f64));
        }
    }
    y
}

/// dx = dy / (H·W) at every position, overwriting.
pub fn average_backward<T: Float>(dy: &[T], input: Shape) -> Vec<T> {
    let pixels = T::of(input.pixels() as f64);
    let mut dx = Vec::with_capacity(dy.len() * input.pixels());
    for image in dy.chunks_exact(input.c) {
        for _ in 0..input.pixels() {
            dx.extend(image.iter().map(|&g| g / pixels));
        }
    }
    dx
}
