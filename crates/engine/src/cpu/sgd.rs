//! SGD's step, in one pass over each parameter, after one for its norms where LARS wants them.

use npid_network::method::Sgd;

use super::memory::Ptr;
use super::threads::{Parts, parallel};

/// One parameter's numbers.
pub struct Update<'a> {
    /// The weights.
    pub value: &'a mut [f32],
    /// The accumulated gradient, cleared.
    pub gradient: &'a mut [f32],
    /// The momentum; empty without one.
    pub momentum: &'a mut [f32],
    /// The learning rate, with the parameter's factor.
    pub lr: f32,
    /// What the gradient is multiplied by.
    pub scale: f32,
    /// The weight decay, with the parameter's factor.
    pub decay: f32,
    /// Whether LARS leaves the learning rate alone.
    pub lars_exclude: bool,
}

/// Numbers of a part.
const PART: usize = 32 * 1024;

/// ‖x‖, summed in parts merged in their order.
fn norm(x: &[f32]) -> f64 {
    let parts = Parts::at_most(x.len(), PART);
    let mut sums = vec![0f32; parts.count()];
    let to = Ptr::of(&mut sums);
    parallel(parts.count(), |i| {
        // Eight sums, which the compiler keeps in vectors.
        let mut sum = [0f64; 8];
        for eight in x[parts.range(i)].chunks(8) {
            for (s, v) in sum.iter_mut().zip(eight) {
                *s += f64::from(*v) * f64::from(*v);
            }
        }
        // SAFETY: each part has its own sum.
        unsafe { to.add(i).slice_mut(1)[0] = sum.iter().sum::<f64>() as f32 };
    });
    sums.iter().map(|s| f64::from(*s)).sum::<f64>().sqrt()
}

/// What multiplies the gradient before it enters the momentum, and what the momentum's step.
fn rates(sgd: Sgd, update: &Update<'_>) -> (f32, f32) {
    match sgd.lars {
        None => (1.0, update.lr),
        Some(_) if update.lars_exclude => (update.lr, 1.0),
        Some(lars) => {
            let weight = norm(update.value);
            let gradient = norm(update.gradient) * f64::from(update.scale);
            if weight == 0.0 || gradient == 0.0 {
                return (update.lr, 1.0);
            }
            let (eta, eps) = (f64::from(lars.eta), f64::from(lars.eps));
            let local = eta * weight / (gradient + f64::from(update.decay) * weight + eps);
            (update.lr * local as f32, 1.0)
        }
    }
}

/// See `npid_network::method::{Sgd, Lars}` for the formulas.
pub fn step(sgd: Sgd, update: Update<'_>) {
    let parts = Parts::at_most(update.value.len(), PART);
    let (inner, outer) = rates(sgd, &update);
    let (scale, decay, mu) = (update.scale, update.decay, sgd.momentum);
    let value = Ptr::of(update.value);
    let gradient = Ptr::of(update.gradient);
    let momentum = Ptr::of(update.momentum);
    let plain = mu == 0.0;
    parallel(parts.count(), |i| {
        let range = parts.range(i);
        // SAFETY: the ranges are disjoint; without momentum its slice is empty.
        let (w, g, u) = unsafe {
            (
                value.add(range.start).slice_mut(range.len()),
                gradient.add(range.start).slice_mut(range.len()),
                (momentum.add(if plain { 0 } else { range.start })).slice_mut(if plain {
                    0
                } else {
                    range.len()
                }),
            )
        };
        if plain {
            for (w, g) in w.iter_mut().zip(g.iter_mut()) {
                *w -= outer * ((*g * scale + decay * *w) * inner);
                *g = 0.0;
            }
        } else {
            for ((w, g), u) in w.iter_mut().zip(g.iter_mut()).zip(u) {
                let d = (*g * scale + decay * *w) * inner;
                *u = mu * *u + d;
                *w -= outer * if sgd.nesterov { d + mu * *u } else { *u };
                *g = 0.0;
            }
        }
    });
}
