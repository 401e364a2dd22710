//! Convolution (cross-correlation, as in `torch.nn.functional.conv2d` without bias).
//!
//! y[b, oy, ox, o] = Σ_{i, ky, kx} x[b, oy·s + ky - p, ox·s + kx - p, i] · w[o, i, ky, kx],
//! where positions outside the image count as 0.
//!
//! Activations are B x H x W x C, weights torchvision's O x I x k x k. For loops over contiguous
//! channels the weights are repacked in each call.

use npid_network::graph::{Conv2d, Shape};

use super::float::{Float, axpy};

/// Calls `visit(x offset, y offset, tap)` for every pair of an input pixel and an output pixel
/// that tap `ky * kernel + kx` joins; offsets are in elements.
fn taps(
    conv: &Conv2d,
    batch: usize,
    input: Shape,
    output: Shape,
    mut visit: impl FnMut(usize, usize, usize),
) {
    let k = conv.kernel;
    for b in 0..batch {
        for oy in 0..output.h {
            for ox in 0..output.w {
                let y_at = ((b * output.h + oy) * output.w + ox) * output.c;
                for ky in 0..k {
                    let iy = (oy * conv.stride + ky).wrapping_sub(conv.padding);
                    if iy >= input.h {
                        continue;
                    }
                    for kx in 0..k {
                        let ix = (ox * conv.stride + kx).wrapping_sub(conv.padding);
                        if ix < input.w {
                            let x_at = ((b * input.h + iy) * input.w + ix) * input.c;
                            visit(x_at, y_at, ky * k + kx);
                        }
                    }
                }
            }
        }
    }
}

/// The output, B x H' x W' x O. `x` is B x H x W x I, `weight` O x I x k x k.
///
/// The backward pass needs `x` and `weight`; nothing else is saved.
pub fn forward<T: Float>(
    x: &[T],
    weight: &[T],
    conv: &Conv2d,
    batch: usize,
    input: Shape,
    output: Shape,
) -> Vec<T> {
    let (ci, co, area) = (input.c, output.c, conv.kernel * conv.kernel);
    let mut packed = vec![T::ZERO; weight.len()]; // k·k x I x O
    for o in 0..co {
        for i in 0..ci {
            for t in 0..area {
                packed[(t * ci + i) * co + o] = weight[(o * ci + i) * area + t];
            }
        }
    }
    let mut y = vec![T::ZERO; batch * output.len()];
    taps(conv, batch, input, output, |x_at, y_at, t| {
        for i in 0..ci {
            let row = (t * ci + i) * co;
            axpy(&mut y[y_at..][..co], x[x_at + i], &packed[row..][..co]);
        }
    });
    y
}

/// The gradient of the input, B x H x W x I, overwriting: dx = Σ dy·w over the same taps.
pub fn backward_input<T: Float>(
    dy: &[T],
    weight: &[T],
    conv: &Conv2d,
    batch: usize,
    input: Shape,
    output: Shape,
) -> Vec<T> {
    let (ci, co, area) = (input.c, output.c, conv.kernel * conv.kernel);
    let mut packed = vec![T::ZERO; weight.len()]; // k·k x O x I
    for o in 0..co {
        for i in 0..ci {
            for t in 0..area {
                packed[(t * co + o) * ci + i] = weight[(o * ci + i) * area + t];
            }
        }
    }
    let mut dx = vec![T::ZERO; batch * input.len()];
    taps(conv, batch, input, output, |x_at, y_at, t| {
        for o in 0..co {
            let row = (t * co + o) * ci;
            axpy(&mut dx[x_at..][..ci], dy[y_at + o], &packed[row..][..ci]);
        }
    });
    dx
}

/// ADDS the gradient of the weight to `dw` (O x I x k x k): dw = Σ x·dy over the same taps.
pub fn backward_weight<T: Float>(
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    conv: &Conv2d,
    batch: usize,
    input: Shape,
    output: Shape,
) {
    let (ci, co, area) = (input.c, output.c, conv.kernel * conv.kernel);
    let mut packed = vec![T::ZERO; dw.len()]; // k·k x I x O
    taps(conv, batch, input, output, |x_at, y_at, t| {
        for i in 0..ci {
            let row = (t * ci + i) * co;
            axpy(&mut packed[row..][..co], x[x_at + i], &dy[y_at..][..co]);
        }
    });
    for o in 0..co {
        for i in 0..ci {
            for t in 0..area {
                dw[(o * ci + i) * area + t] += packed[(t * ci + i) * co + o];
            }
        }
    }
}
