//! Stochastic gradient descent, as `torch.optim.SGD` with dampening 0, and MMSelfSup's `LARS`.

use npid_network::graph::Param;
use npid_network::method::Sgd;

use super::float::Float;

/// What a step is taken with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The learning rate.
    pub lr: f32,
    /// What the accumulated gradient is multiplied by.
    pub scale: f32,
}

/// One step for one parameter w with the accumulated gradient g, first multiplied by the scale:
///
/// g ← g + wd·decay_mult·w; u ← μ·u + g; w ← w - lr·lr_mult·(g + μ·u if Nesterov, else u).
///
/// With LARS, where the parameter isn't excluded, lr is multiplied by
/// η·‖w‖ / (‖g‖ + wd·‖w‖ + ε) (g before decay; by 1 if a norm is 0), and lr is part of g before
/// it enters u: g ← lr·(g + wd·w); u ← μ·u + g; w ← w - (g + μ·u if Nesterov, else u).
///
/// `momentum` is u, which starts at 0, so that it is g after the first step; without it (μ = 0)
/// u = g. The gradient itself is left as it is.
pub fn step<T: Float>(
    sgd: &Sgd,
    param: &Param,
    step: Step,
    w: &mut [T],
    gradient: &[T],
    momentum: Option<&mut [T]>,
) {
    let of = |x: f32| T::of(f64::from(x));
    let (mu, lr, scale) = (
        of(sgd.momentum),
        of(step.lr) * of(param.lr_mult),
        of(step.scale),
    );
    let decay = of(sgd.weight_decay) * of(param.decay_mult);
    // What multiplies the gradient before the momentum, and after it.
    let (inner, outer) = match sgd.lars {
        None => (T::of(1.0), lr),
        Some(_) if param.lars_exclude => (lr, T::of(1.0)),
        Some(lars) => {
            let norm = |values: &[T]| -> f64 {
                values.iter().map(|v| v.f64() * v.f64()).sum::<f64>().sqrt()
            };
            let (weight, grad) = (norm(w), norm(gradient) * f64::from(step.scale));
            let local = if weight == 0.0 || grad == 0.0 {
                1.0
            } else {
                let (eta, eps) = (f64::from(lars.eta), f64::from(lars.eps));
                eta * weight / (grad + decay.f64() * weight + eps)
            };
            (lr * T::of(local), T::of(1.0))
        }
    };
    match momentum {
        None => {
            for (w, &g) in w.iter_mut().zip(gradient) {
                let g = (g * scale + decay * *w) * inner;
                *w = *w - outer * g;
            }
        }
        Some(momentum) => {
            for ((w, &g), u) in w.iter_mut().zip(gradient).zip(momentum) {
                let g = (g * scale + decay * *w) * inner;
                *u = mu * *u + g;
                let direction = if sgd.nesterov { g + mu * *u } else { *u };
                *w = *w - outer * direction;
            }
        }
    }
}
