//! SGD's step, in one pass over each parameter.

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
    /// The weight decay, with the parameter's factor.
    pub decay: f32,
}

/// See `npid_network::method::Sgd` for the formula.
pub fn step(sgd: Sgd, update: Update<'_>) {
    let parts = Parts::at_most(update.value.len(), 32 * 1024);
    let (lr, decay, mu) = (update.lr, update.decay, sgd.momentum);
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
                *w -= lr * (*g + decay * *w);
                *g = 0.0;
            }
        } else {
            for ((w, g), u) in w.iter_mut().zip(g.iter_mut()).zip(u) {
                let d = *g + decay * *w;
                *u = mu * *u + d;
                *w -= lr * if sgd.nesterov { d + mu * *u } else { *u };
                *g = 0.0;
            }
        }
    });
}
