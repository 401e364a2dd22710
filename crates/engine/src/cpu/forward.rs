//! The forward pass.

use half::bf16;
use npid_network::graph::{BatchNorm, NodeId, ParamId};

use super::affine::Affine;
use super::batch_norm;
use super::conv2d::{After, ConvPlan, Weights};
use super::element::MapElement;
use super::program::{Fused, Work};
use super::source::Source;
use super::{Cpu, feature, pooling};
use crate::Dtype;
use crate::{Images, Norm, What};

impl Cpu {
    /// Runs the steps that `outputs` depend on (no other statistics move); values then lie where
    /// the training or the evaluation layout says.
    pub(super) fn run_forward(&mut self, images: Images<'_>, norm: Norm, outputs: &[NodeId]) {
        let wanted = self.program.ancestors(outputs);
        let pool = std::sync::Arc::clone(&self.threads);
        pool.enter(|| {
            self.clock.start();
            self.pack();
            self.clock.lap(What::Packing, None, images.count);
            for step in 0..self.program.steps.len() {
                if wanted[step] {
                    match self.program.dtype(step) {
                        Dtype::F32 => self.forward_step::<f32>(step, images, norm),
                        Dtype::Bf16 => self.forward_step::<bf16>(step, images, norm),
                    }
                }
            }
        });
    }

    /// A step whose maps are of E.
    fn forward_step<E: MapElement>(&mut self, step: usize, images: Images<'_>, norm: Norm) {
        let count = images.count;
        let arena = self.arena.ptr();
        let layout = if norm == Norm::Eval {
            &self.program.eval
        } else {
            &self.program.train
        };
        let shape = |node: NodeId| self.program.shapes[node.0];
        let value = |node: NodeId| {
            arena.map::<E>(layout.values[node.0].expect("steps write before they are read"))
        };
        let out = self.program.steps[step].out;
        match self.program.steps[step].work.clone() {
            // SAFETY (all arms): the layout gives each map its own part of the arena for as long
            // as it lives, sized for the largest batch.
            Work::Input => unsafe { self.input.apply(images.pixels, value(out)) },
            Work::MaxPool(x, window) => {
                let winners = &mut self.compiled[step].winners;
                let (from, to) = (shape(x), shape(out));
                unsafe {
                    let (x, y) = (value(x), value(out));
                    pooling::max_forward(self.isa, count, window, from, to, x, y, winners);
                }
            }
            Work::Average(x) => unsafe {
                pooling::average_forward(count, shape(x), value(x), value(out).map(0));
            },
            Work::L2Norm(x) => {
                let dim = shape(x).c;
                let (x, y) = unsafe {
                    (
                        value(x).slice(count * dim),
                        value(out).slice_mut(count * dim),
                    )
                };
                feature::l2_forward(dim, x, y);
            }
            Work::Fused(fused) => return self.forward_fused::<E>(step, &fused, count, norm),
        }
        let what = match &self.program.steps[step].work {
            Work::Input => What::Input,
            Work::L2Norm(_) => What::L2Norm,
            _ => What::Pooling,
        };
        self.clock.lap(what, Some(step), count);
    }

    fn forward_fused<E: MapElement>(
        &mut self,
        step: usize,
        fused: &Fused,
        count: usize,
        norm: Norm,
    ) {
        let eval = norm == Norm::Eval;
        let layout = if eval {
            &self.program.eval
        } else {
            &self.program.train
        };
        let out = self.program.steps[step].out;
        let shape = self.program.shapes[out.0];
        let pixels = count * shape.pixels();
        let arena = self.arena.ptr();
        let value = |node: NodeId| {
            arena.map::<E>(layout.values[node.0].expect("steps write before they are read"))
        };
        let (x, y) = (value(fused.x), value(out));
        let raw = layout.raws[step].map_or(y, |at| arena.map(at));
        let bias = fused.bias.map(|b| &self.parameters.values[b.0][..]);
        let workspace = self.workspace.ptr();
        let zeros = self.zeros.ptr();
        let (earlier, rest) = self.compiled.split_at_mut(step);
        let compiled = &mut rest[0];
        let packed = self.packed.ptr().add(compiled.packed);
        let values = &self.parameters.values;
        let weights = |plan: &ConvPlan| Weights {
            values: &values[plan.conv.weight.0],
            packed,
            zeros,
        };
        let statistics = &mut compiled.statistics;
        let unread = |node: NodeId| self.program.unread[node.0].filter(|_| !eval);
        let source = Source {
            map: x,
            norm: unread(fused.x).map(|p| &earlier[p].statistics),
        };
        let affine = Affine {
            scale: None,
            shift: None,
            residual: fused.residual.map(value),
            relu: fused.relu,
            channels: shape.c,
        };
        // Running statistics, the batch's own having no part: fused with the convolution where no
        // backward pass will ask for what it wrote.
        let frozen = fused.norm.is_some_and(|norm| norm.frozen);
        let running = eval || frozen && !self.program.needs_gradient[out.0];
        let gamma_beta = |norm: &BatchNorm| {
            let of = |p: Option<ParamId>| p.map(|p| &self.parameters.values[p.0][..]);
            (of(norm.weight), of(norm.bias))
        };

        if let Some(norm) = fused.norm.as_ref().filter(|_| eval || frozen) {
            let stored = &self.parameters.statistics;
            statistics.mean.copy_from_slice(&stored[norm.mean.0]);
            statistics.var.copy_from_slice(&stored[norm.var.0]);
            let (gamma, beta) = gamma_beta(norm);
            statistics.normalise(gamma, beta, norm.eps);
        }
        if running {
            if fused.norm.is_some()
                && let Some(bias) = bias
            {
                for (c, b) in bias.iter().enumerate() {
                    statistics.shift[c] += b * statistics.scale[c];
                }
            }
            let normed = fused.norm.is_some();
            let affine = Affine {
                scale: normed.then_some(&statistics.scale[..]),
                shift: if normed {
                    Some(&statistics.shift[..])
                } else {
                    bias
                },
                ..affine
            };
            // SAFETY: maps as laid out; see `forward_step`.
            unsafe {
                match &compiled.conv {
                    Some(plan) => {
                        let weights = weights(plan);
                        let after = After {
                            affine: Some(affine),
                            statistics: None,
                        };
                        plan.forward(self.isa, count, source, weights, workspace, y, after);
                    }
                    None => affine.apply_all(self.isa, x, y, pixels),
                }
            }
            let what = match &compiled.conv {
                Some(_) => What::Convolution,
                None => What::BatchNorm,
            };
            self.clock.lap(what, Some(step), count);
            return;
        }

        if let Some(plan) = &compiled.conv {
            let after = After {
                affine: bias.map(|bias| Affine {
                    scale: None,
                    shift: Some(bias),
                    residual: None,
                    relu: false,
                    channels: shape.c,
                }),
                statistics: (fused.norm.is_some() && !frozen).then_some(workspace),
            };
            // SAFETY: maps as laid out; the workspace holds the statistics of every block.
            unsafe {
                let weights = weights(plan);
                let rest = workspace.add(plan.statistics_len(count));
                plan.forward(self.isa, count, source, weights, rest, raw, after);
            }
            if fused.norm.is_some() && !frozen {
                let blocks = plan.blocks(count).count();
                // SAFETY: the forward pass has ended.
                let all = unsafe { workspace.slice(blocks * 2 * shape.c) };
                statistics.merge(all, |i| plan.block_pixels(count, i).len());
            }
            self.clock.lap(What::Convolution, Some(step), count);
        } else if fused.norm.is_some() && !frozen {
            // SAFETY: maps as laid out; the workspace is large enough.
            unsafe {
                batch_norm::statistics(self.isa, x, pixels, shape.c, workspace, statistics);
            }
        }
        let from = if compiled.conv.is_some() { raw } else { x };
        if let Some(bn) = &fused.norm {
            let (gamma, beta) = gamma_beta(bn);
            if !frozen {
                statistics.normalise_batch(gamma, beta, bn.eps);
            }
            let affine = Affine {
                scale: Some(&statistics.scale),
                shift: Some(&statistics.shift),
                ..affine
            };
            let apply = unread(out).is_none();
            if apply {
                // SAFETY: maps as laid out.
                unsafe { affine.apply_all(self.isa, from, y, pixels) };
            }
            if norm == Norm::Track && !frozen {
                let mut mean = std::mem::take(&mut self.parameters.statistics[bn.mean.0]);
                let var = &mut self.parameters.statistics[bn.var.0];
                statistics.track(pixels, bn.momentum, &mut mean, var);
                self.parameters.statistics[bn.mean.0] = mean;
            }
            if apply {
                self.clock.lap(What::BatchNorm, Some(step), count);
            }
        } else if from != y {
            // SAFETY: maps as laid out.
            unsafe { affine.apply_all(self.isa, from, y, pixels) };
            self.clock.lap(What::BatchNorm, Some(step), count);
        }
    }
}
