//! Stochastic gradient descent, as `torch.optim.SGD` with dampening 0.

use npid_network::graph::Param;
use npid_network::method::Sgd;

use super::float::Float;

/// One step for one parameter w with the accumulated gradient g:
///
/// g ← g + wd·decay_mult·w; u ← μ·u + g; w ← w - lr·lr_mult·(g + μ·u if Nesterov, else u).
///
/// `momentum` is u, which starts at 0, so that it is g after the first step; without it (μ = 0)
/// u = g. The gradient itself is left as it is.
pub fn step<T: Float>(
    sgd: &Sgd,
    param: &Param,
    lr: f32,
    w: &mut [T],
    gradient: &[T],
    momentum: Option<&mut [T]>,
) {
    let of = |x: f32| T::of(f64::from(x));
    let (mu, lr) = (of(sgd.momentum), of(lr) * of(param.lr_mult));
    let decay = of(sgd.weight_decay) * of(param.decay_mult);
    match momentum {
        None => {
            for (w, &g) in w.iter_mut().zip(gradient) {
                let g = g + decay * *w;
                *w = *w - lr * g;
            }
        }
        Some(momentum) => {
            for ((w, &g), u) in w.iter_mut().zip(gradient).zip(momentum) {
                let g = g + decay * *w;
                *u = mu * *u + g;
                let direction = if sgd.nesterov { g + mu * *u } else { *u };
                *w = *w - lr * direction;
            }
        }
    }
}
