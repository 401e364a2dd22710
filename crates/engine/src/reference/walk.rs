//! The graph, node by node: forward, and backward in reverse.

use npid_network::graph::{BatchNorm, NodeId, Op, ParamId};

use super::float::Float;
use super::{Reference, batch_norm, conv2d, elementwise, l2_norm, linear, pool};
use crate::interface::{Images, Norm};

/// What a forward pass leaves behind.
pub(super) struct Tape<T> {
    /// Output of each node, B x H x W x C; empty for nodes that were not asked for.
    pub values: Vec<Vec<T>>,
    saved: Vec<Saved>,
    batch: usize,
}

/// What an operation keeps for its backward pass besides its input.
enum Saved {
    Nothing,
    Moments(batch_norm::Moments),
    Winners(Vec<usize>),
}

impl<T: Float> Reference<T> {
    /// The nodes that `targets` depend on, themselves included.
    fn below(&self, targets: &[NodeId]) -> Vec<bool> {
        let nodes = &self.description.network.nodes;
        let mut wanted = vec![false; nodes.len()];
        targets.iter().for_each(|t| wanted[t.0] = true);
        for (i, node) in nodes.iter().enumerate().rev() {
            if wanted[i] {
                node.inputs.iter().for_each(|x| wanted[x.0] = true);
            }
        }
        wanted
    }

    fn optional(&self, id: Option<ParamId>) -> Option<&[T]> {
        id.map(|p| self.params[p.0].as_slice())
    }

    /// Computes `targets` and what they depend on, and nothing else: batch norms elsewhere keep
    /// their running statistics even under [`Norm::Track`].
    pub(super) fn forward(
        &mut self,
        images: Images<'_>,
        norm: Norm,
        targets: &[NodeId],
    ) -> Tape<T> {
        let wanted = self.below(targets);
        let batch = images.count;
        let mut tape = Tape {
            values: Vec::with_capacity(wanted.len()),
            saved: Vec::with_capacity(wanted.len()),
            batch,
        };
        for (i, wanted) in wanted.iter().enumerate() {
            let (value, saved) = if *wanted {
                self.compute(i, images, norm, &tape)
            } else {
                (Vec::new(), Saved::Nothing)
            };
            tape.values.push(value);
            tape.saved.push(saved);
        }
        tape
    }

    fn compute(
        &mut self,
        i: usize,
        images: Images<'_>,
        norm: Norm,
        tape: &Tape<T>,
    ) -> (Vec<T>, Saved) {
        let node = &self.description.network.nodes[i];
        let input = |n: usize| &tape.values[node.inputs[n].0];
        let shape_in = node
            .inputs
            .first()
            .map_or(self.shapes[i], |x| self.shapes[x.0]);
        let shape = self.shapes[i];
        let plain = |value| (value, Saved::Nothing);
        match &node.op {
            Op::Input { mean, std } => plain(elementwise::normalise(images.pixels, mean, std)),
            Op::Conv2d(conv) => {
                let w = &self.params[conv.weight.0];
                plain(conv2d::forward(
                    input(0),
                    w,
                    conv,
                    tape.batch,
                    shape_in,
                    shape,
                ))
            }
            Op::BatchNorm(bn) => {
                let bn = *bn;
                let x = input(0);
                let moments = if bn.frozen || norm == Norm::Eval {
                    let (mean, var) = (&self.statistics[bn.mean.0], &self.statistics[bn.var.0]);
                    batch_norm::Moments::running(mean, var)
                } else {
                    batch_norm::Moments::of(x, shape.c)
                };
                let (gamma, beta) = (self.optional(bn.weight), self.optional(bn.bias));
                let y = batch_norm::forward(x, &moments, bn.eps, gamma, beta);
                if norm == Norm::Track && !bn.frozen {
                    self.track(&bn, &moments);
                }
                (y, Saved::Moments(moments))
            }
            Op::Relu => plain(elementwise::relu(input(0))),
            Op::Add => plain(elementwise::add(input(0), input(1))),
            Op::MaxPool(window) => {
                let (y, winners) = pool::max_forward(input(0), window, tape.batch, shape_in, shape);
                (y, Saved::Winners(winners))
            }
            Op::GlobalAvgPool => plain(pool::average_forward(input(0), shape_in)),
            Op::Linear(l) => {
                let (w, b) = (&self.params[l.weight.0], self.optional(l.bias));
                plain(linear::forward(input(0), w, b, l.in_features))
            }
            Op::L2Norm => plain(l2_norm::forward(input(0), shape.c)),
        }
    }

    fn track(&mut self, bn: &BatchNorm, moments: &batch_norm::Moments) {
        let mut mean = std::mem::take(&mut self.statistics[bn.mean.0]);
        moments.track(bn.momentum, &mut mean, &mut self.statistics[bn.var.0]);
        self.statistics[bn.mean.0] = mean;
    }

    /// Adds the parameter gradients of a training-mode `tape`, given the gradients of some nodes.
    ///
    /// Goes no further down than the lowest trainable parameter.
    pub(super) fn backward(&mut self, tape: &Tape<T>, seeds: Vec<(NodeId, Vec<T>)>) {
        let needs = self.description.network.needs_gradient();
        let mut grads: Vec<Vec<T>> = vec![Vec::new(); tape.values.len()];
        for (node, gradient) in seeds {
            accumulate(&mut grads[node.0], gradient);
        }
        for i in (0..grads.len()).rev() {
            let dy = std::mem::take(&mut grads[i]);
            if dy.is_empty() || !needs[i] {
                continue;
            }
            let inputs = self.description.network.nodes[i].inputs.clone();
            let wanted = inputs.first().is_some_and(|x| needs[x.0]);
            if let Op::Add = self.description.network.nodes[i].op {
                for x in inputs {
                    accumulate(&mut grads[x.0], dy.clone());
                }
            } else if let Some(dx) = self.backward_node(i, tape, dy, wanted) {
                accumulate(&mut grads[inputs[0].0], dx);
            }
        }
    }

    /// Adds the gradients of node `i`'s own parameters; returns its input's if `wanted`.
    fn backward_node(
        &mut self,
        i: usize,
        tape: &Tape<T>,
        dy: Vec<T>,
        wanted: bool,
    ) -> Option<Vec<T>> {
        let node = &self.description.network.nodes[i];
        let from = *node.inputs.first()?;
        let (x, shape_in, shape) = (&tape.values[from.0], self.shapes[from.0], self.shapes[i]);
        let trainable = |p: ParamId| self.description.network.param(p).trainable;
        match &node.op {
            Op::Conv2d(conv) => {
                let p = conv.weight;
                if trainable(p) {
                    let dw = &mut self.gradients[p.0];
                    conv2d::backward_weight(x, &dy, dw, conv, tape.batch, shape_in, shape);
                }
                let w = &self.params[p.0];
                wanted.then(|| conv2d::backward_input(&dy, w, conv, tape.batch, shape_in, shape))
            }
            Op::BatchNorm(bn) => {
                let Saved::Moments(moments) = &tape.saved[i] else {
                    return None;
                };
                // Taken out and put back: γ's and β's gradients are borrowed at the same time.
                let ids = [bn.weight, bn.bias].map(|p| p.filter(|p| trainable(*p)));
                let mut taken = ids.map(|p| p.map(|p| std::mem::take(&mut self.gradients[p.0])));
                let [dgamma, dbeta] = &mut taken;
                let gamma = bn.weight.map(|p| self.params[p.0].as_slice());
                let dx = batch_norm::backward(
                    x,
                    &dy,
                    moments,
                    bn.eps,
                    gamma,
                    dgamma.as_deref_mut(),
                    dbeta.as_deref_mut(),
                );
                for (p, gradient) in ids.into_iter().zip(taken) {
                    if let (Some(p), Some(gradient)) = (p, gradient) {
                        self.gradients[p.0] = gradient;
                    }
                }
                Some(dx)
            }
            Op::Relu => Some(elementwise::relu_backward(x, &dy)),
            Op::MaxPool(_) => {
                let Saved::Winners(winners) = &tape.saved[i] else {
                    return None;
                };
                Some(pool::max_backward(&dy, winners, x.len()))
            }
            Op::GlobalAvgPool => Some(pool::average_backward(&dy, shape_in)),
            Op::Linear(l) => {
                if trainable(l.weight) {
                    let dw = &mut self.gradients[l.weight.0];
                    linear::backward_weight(x, &dy, dw, l.in_features);
                }
                if let Some(b) = l.bias.filter(|b| trainable(*b)) {
                    linear::backward_bias(&dy, &mut self.gradients[b.0]);
                }
                let w = &self.params[l.weight.0];
                wanted.then(|| linear::backward_input(&dy, w, l.in_features))
            }
            Op::L2Norm => Some(l2_norm::backward(x, &dy, shape.c)),
            Op::Input { .. } | Op::Add => None,
        }
    }
}

/// The gradient of a node read by several others is the sum over them.
fn accumulate<T: Float>(into: &mut Vec<T>, gradient: Vec<T>) {
    if into.is_empty() {
        *into = gradient;
    } else {
        into.iter_mut().zip(gradient).for_each(|(a, b)| *a += b);
    }
}
