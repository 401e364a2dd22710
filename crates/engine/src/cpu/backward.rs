//! The backward pass: activation gradients lie where the training layout says, parameter gradients
//! accumulate.

use std::time::Instant;

use half::bf16;
use npid_network::graph::NodeId;

use super::batch_norm::{self, Backward, Mask};
use super::conv2d::Weights;
use super::element::MapElement;
use super::memory::Ptr;
use super::program::{Fused, Work};
use super::source::Source;
use super::threads::{Parts, parallel};
use super::{Cpu, feature, pooling};
use crate::Dtype;
use crate::{Loss, Objective, What};

impl Cpu {
    /// Loss and backward pass after a forward pass with the batch's statistics.
    pub(super) fn run_backward(&mut self, count: usize, objective: Objective<'_>) -> Vec<Loss> {
        let pool = std::sync::Arc::clone(&self.threads);
        pool.enter(|| {
            // Whether a node's gradient holds anything yet: what comes first writes, the rest add.
            let mut live = vec![false; self.program.shapes.len()];
            let begun = Instant::now();
            self.clock.start();
            let losses = self.objective(objective, count, &mut live);
            self.clock.lap(What::Head, None, count);
            let compared = Instant::now();
            for step in (0..self.program.steps.len()).rev() {
                if live[self.program.steps[step].out.0] {
                    match self.program.dtype(step) {
                        Dtype::F32 => self.backward_step::<f32>(step, count, &mut live),
                        Dtype::Bf16 => self.backward_step::<bf16>(step, count, &mut live),
                    }
                }
            }
            self.timings.bank += compared - begun;
            self.timings.backward += compared.elapsed();
            losses
        })
    }

    /// A step whose maps are of E.
    fn backward_step<E: MapElement>(&mut self, step: usize, count: usize, live: &mut [bool]) {
        let arena = self.arena.ptr();
        let layout = &self.program.train;
        let out = self.program.steps[step].out;
        let value =
            |n: NodeId| arena.map::<E>(layout.values[n.0].expect("written in the forward pass"));
        let gradient =
            |n: NodeId| arena.map::<E>(layout.gradients[n.0].expect("planned with its user"));
        let shape = |n: NodeId| self.program.shapes[n.0];
        let needed = |n: NodeId| self.program.needs_gradient[n.0];
        match self.program.steps[step].work.clone() {
            Work::Input => return,
            // SAFETY (all arms): the layout gives each map its own part of the arena.
            Work::MaxPool(x, window) if needed(x) => {
                let winners = &self.compiled[step].winners;
                let (from, to, add) = (shape(x), shape(out), live[x.0]);
                let (dy, dx) = (gradient(out), gradient(x));
                // SAFETY: as above.
                unsafe {
                    pooling::max_backward(count, window, from, to, dy, winners, dx, add);
                }
                live[x.0] = true;
            }
            Work::Average(x) if needed(x) => {
                let (dy, dx) = (gradient(out).map(0), gradient(x));
                // SAFETY: as above.
                unsafe { pooling::average_backward(count, shape(x), dy, dx, live[x.0]) };
                live[x.0] = true;
            }
            Work::L2Norm(x) if needed(x) => {
                let dim = shape(x).c;
                let len = count * dim;
                // SAFETY: as above.
                unsafe {
                    feature::l2_backward(
                        dim,
                        value(x).slice(len),
                        value(out).slice(len),
                        gradient(out).slice(len),
                        gradient(x).slice_mut(len),
                        live[x.0],
                    );
                }
                live[x.0] = true;
            }
            Work::Fused(fused) => return self.backward_fused::<E>(step, &fused, count, live),
            _ => return,
        }
        let what = match &self.program.steps[step].work {
            Work::L2Norm(_) => What::L2NormGradient,
            _ => What::PoolingGradient,
        };
        self.clock.lap(what, Some(step), count);
    }

    fn backward_fused<E: MapElement>(
        &mut self,
        step: usize,
        fused: &Fused,
        count: usize,
        live: &mut [bool],
    ) {
        let arena = self.arena.ptr();
        let layout = &self.program.train;
        let out = self.program.steps[step].out;
        let shape = self.program.shapes[out.0];
        let pixels = count * shape.pixels();
        let len = pixels * shape.c;
        let value =
            |n: NodeId| arena.map::<E>(layout.values[n.0].expect("written in the forward pass"));
        let gradient =
            |n: NodeId| arena.map::<E>(layout.gradients[n.0].expect("planned with its user"));
        let needed = |n: NodeId| self.program.needs_gradient[n.0];
        let workspace = self.workspace.ptr();
        let zeros = self.zeros.ptr();
        let compiled = &self.compiled[step];
        let packed = self.packed.ptr().add(compiled.packed);
        let dz = gradient(out);
        let (parameters, network) = (&mut self.parameters, &self.description.network);

        // Gradient of what the convolution wrote: in place of it, or dz itself.
        let mut dy = dz;
        if let Some(norm) = &fused.norm {
            let raw = layout.raws[step].map(|at| arena.map::<E>(at));
            let mask = if fused.mask_from_norm() {
                Mask::Norm
            } else if fused.relu {
                Mask::Out(value(out))
            } else {
                Mask::None
            };
            let mut maps = Backward {
                dz,
                mask,
                x: raw.unwrap_or_else(|| value(fused.x)),
                dx: None,
                accumulate: false,
                frozen: norm.frozen,
                pixels,
                channels: shape.c,
            };
            if let Some(raw) = raw {
                dy = raw;
                maps.dx = Some(raw);
            } else if needed(fused.x) {
                maps.dx = Some(gradient(fused.x));
                maps.accumulate = live[fused.x.0];
                live[fused.x.0] = true;
            }
            let mut take = |p: Option<npid_network::graph::ParamId>| {
                let p = p.filter(|p| network.param(*p).trainable)?;
                Some((p, std::mem::take(&mut parameters.gradients[p.0])))
            };
            let (mut gamma, mut beta) = (take(norm.weight), take(norm.bias));
            // SAFETY: maps as laid out; the workspace is large enough.
            unsafe {
                batch_norm::backward(
                    self.isa,
                    maps,
                    &compiled.statistics,
                    workspace,
                    gamma.as_mut().map(|g| &mut g.1[..]),
                    beta.as_mut().map(|b| &mut b.1[..]),
                );
            }
            for (p, gradient) in [gamma, beta].into_iter().flatten() {
                parameters.gradients[p.0] = gradient;
            }
        } else if fused.relu {
            // SAFETY: maps as laid out.
            unsafe { mask(dz, value(out), len) };
        }
        if fused.norm.is_some() || fused.relu {
            self.clock.lap(What::BatchNormGradient, Some(step), count);
        }

        if let Some(residual) = fused.residual.filter(|r| needed(*r)) {
            let to = gradient(residual);
            if to != dz {
                // SAFETY: maps as laid out.
                unsafe { pass_on(dz, to, len, live[residual.0]) };
                self.clock.lap(What::ResidualGradient, Some(step), count);
            }
            live[residual.0] = true;
        }

        let Some(plan) = &compiled.conv else {
            if fused.norm.is_none() && needed(fused.x) {
                // SAFETY: maps as laid out.
                unsafe { pass_on(dz, gradient(fused.x), len, live[fused.x.0]) };
                self.clock.lap(What::ResidualGradient, Some(step), count);
                live[fused.x.0] = true;
            }
            return;
        };
        if let Some(bias) = fused.bias.filter(|b| network.param(*b).trainable) {
            // SAFETY: maps as laid out.
            let dy = unsafe { dy.slice(len) };
            let d = &mut parameters.gradients[bias.0];
            for row in dy.chunks_exact(shape.c) {
                (d.iter_mut().zip(row)).for_each(|(d, y)| *d += y.widen());
            }
        }
        let weight = plan.conv.weight;
        if network.param(weight).trainable {
            let dw = &mut parameters.gradients[weight.0];
            let x = Source {
                map: value(fused.x),
                norm: self.program.unread[fused.x.0].map(|p| &self.compiled[p].statistics),
            };
            // SAFETY: maps as laid out; the workspace is large enough.
            unsafe { plan.weight_gradient(self.isa, count, x, dy, workspace, dw) };
            self.clock.lap(What::WeightGradient, Some(step), count);
        }
        if needed(fused.x) {
            let (dx, add) = (gradient(fused.x), live[fused.x.0]);
            let weights = Weights {
                values: &parameters.values[weight.0],
                packed,
                zeros,
            };
            // SAFETY: maps as laid out.
            unsafe { plan.data_gradient(self.isa, count, dy, weights, workspace, dx, add) };
            self.clock.lap(What::DataGradient, Some(step), count);
            live[fused.x.0] = true;
        }
    }
}

/// d = 0 where out isn't positive.
///
/// # Safety
/// Both must hold `len` numbers, `d` exclusively.
unsafe fn mask<E: MapElement>(d: Ptr<E>, out: Ptr<E>, len: usize) {
    let parts = Parts::at_most(len, 64 * 1024);
    parallel(parts.count(), |i| {
        let range = parts.range(i);
        // SAFETY: the ranges are disjoint.
        let (d, out) = unsafe {
            (
                d.add(range.start).slice_mut(range.len()),
                out.add(range.start).slice(range.len()),
            )
        };
        for (d, out) in d.iter_mut().zip(out) {
            let kept = out.widen() > 0.0;
            *d = E::narrow(if kept { d.widen() } else { 0.0 });
        }
    });
}

/// to = d, or to += d; they may be the same.
///
/// # Safety
/// Both must hold `len` numbers, `to` exclusively.
unsafe fn pass_on<E: MapElement>(d: Ptr<E>, to: Ptr<E>, len: usize, add: bool) {
    let parts = Parts::at_most(len, 64 * 1024);
    parallel(parts.count(), |i| {
        for at in parts.range(i) {
            // SAFETY: the ranges are disjoint.
            unsafe {
                let (d, to) = (d.add(at).raw(), to.add(at).raw());
                *to = if add {
                    E::narrow((*to).widen() + (*d).widen())
                } else {
                    *d
                };
            }
        }
    });
}
