//! From the graph to the steps that run, and where in memory their maps lie.
//!
//! Fusion: a convolution (or linear layer) takes the batch norm, residual sum and ReLU that follow
//! it into its step where nothing else reads what lies between. The sum goes to the branch whose
//! convolution comes first in the graph, which in a ResNet is the block's last one.
//!
//! Memory: each map has a lifetime on a line of 2·S + 1 moments (S forward steps, the loss, S
//! backward steps); [`super::memory::Planner`] gives maps that never live together the same place.
//! For the backward pass a step keeps its convolution's output (which the backward pass turns into
//! its gradient in place) and its own output (the next convolution's input and the ReLU's mask).

use npid_network::graph::{BatchNorm, Conv2d, Network, NodeId, Op, ParamId, Shape, Window};

use super::conv2d;
use super::memory::Planner;
use crate::Dtype;

/// A fused step: [convolution] [batch norm] [+ residual] [ReLU].
#[derive(Clone, Debug)]
pub struct Fused {
    /// The convolution or, on a 1 x 1 map, linear layer.
    pub conv: Option<Conv2d>,
    /// The linear layer's bias.
    pub bias: Option<ParamId>,
    /// What it reads.
    pub x: NodeId,
    /// Batch norm.
    pub norm: Option<BatchNorm>,
    /// What is added.
    pub residual: Option<NodeId>,
    /// Whether ReLU comes last.
    pub relu: bool,
}

impl Fused {
    /// Whether what went into the batch norm says where the ReLU let through.
    pub fn mask_from_norm(&self) -> bool {
        self.norm.is_some() && self.residual.is_none() && self.relu
    }

    /// Whether the convolution's own output is a map of its own in training.
    fn has_raw(&self) -> bool {
        self.conv.is_some() && (self.norm.is_some() || self.residual.is_some() || self.relu)
    }
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Bytes to normalised numbers.
    Input,
    /// See [`Fused`].
    Fused(Fused),
    /// Max pool.
    MaxPool(NodeId, Window),
    /// Global average pool.
    Average(NodeId),
    /// L2 norm.
    L2Norm(NodeId),
}

/// A step and the node whose value it writes.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it does.
    pub work: Work,
    /// The node.
    pub out: NodeId,
}

impl Step {
    fn inputs(&self) -> Vec<NodeId> {
        match &self.work {
            Work::Input => Vec::new(),
            Work::Fused(f) => std::iter::once(f.x).chain(f.residual).collect(),
            Work::MaxPool(x, _) | Work::Average(x) | Work::L2Norm(x) => vec![*x],
        }
    }
}

/// Where maps lie in the arena: offsets in bytes.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// For each node that a step writes, its value.
    pub values: Vec<Option<usize>>,
    /// For each step, its convolution's own output.
    pub raws: Vec<Option<usize>>,
    /// For each node, the gradient of its value.
    pub gradients: Vec<Option<usize>>,
}

/// Everything that is known before the first step.
pub struct Program {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Shapes of all nodes.
    pub shapes: Vec<Shape>,
    /// The type of the numbers of a node's value and of its gradient.
    pub types: Vec<Dtype>,
    /// Whether a gradient flows through a node.
    pub needs_gradient: Vec<bool>,
    /// For each node, the step whose batch norm and ReLU its one reader applies in training: what
    /// lies in its place is the convolution's own output.
    pub unread: Vec<Option<usize>>,
    /// Training, and features by the batch's statistics.
    pub train: Layout,
    /// Features by running statistics.
    pub eval: Layout,
    /// Bytes of the arena.
    pub arena_len: usize,
}

impl Program {
    /// Plans for batches of up to `batch` images whose maps have these shapes, and are of numbers
    /// of `dtype` up to the global average pool.
    pub fn new(network: &Network, shapes: Vec<Shape>, batch: usize, dtype: Dtype) -> Self {
        let steps = fuse(network);
        let types = types(&steps, shapes.len(), dtype);
        let needs_gradient = network.needs_gradient();
        let outputs = outputs(network);
        let mut program = Program {
            steps,
            shapes,
            types,
            needs_gradient,
            unread: Vec::new(),
            train: Layout::default(),
            eval: Layout::default(),
            arena_len: 0,
        };
        program.unread = program.find_unread(&outputs);
        let (train, train_len) = program.plan_train(batch, &outputs);
        let (eval, eval_len) = program.plan_eval(batch, &outputs);
        program.train = train;
        program.eval = eval;
        program.arena_len = train_len.max(eval_len);
        program
    }

    /// The type of the maps that a step works on; a global average pool writes f32 in any case.
    pub fn dtype(&self, step: usize) -> Dtype {
        let step = &self.steps[step];
        let node = match step.work {
            Work::Average(x) => x,
            _ => step.out,
        };
        self.types[node.0]
    }

    /// For each step, whether one of `outputs` depends on it.
    pub fn ancestors(&self, outputs: &[NodeId]) -> Vec<bool> {
        let mut wanted = vec![false; self.shapes.len()];
        outputs.iter().for_each(|node| wanted[node.0] = true);
        let mut steps = vec![false; self.steps.len()];
        for (i, step) in self.steps.iter().enumerate().rev() {
            steps[i] = wanted[step.out.0];
            if steps[i] {
                step.inputs().iter().for_each(|x| wanted[x.0] = true);
            }
        }
        steps
    }

    /// Bytes of a node's value for `batch` images.
    fn bytes(&self, node: NodeId, batch: usize) -> usize {
        self.shapes[node.0].len() * batch * self.types[node.0].bytes()
    }

    /// See [`Program::unread`].
    fn find_unread(&self, outputs: &[NodeId]) -> Vec<Option<usize>> {
        let mut unread = vec![None; self.shapes.len()];
        for (time, step) in self.steps.iter().enumerate() {
            let Work::Fused(f) = &step.work else { continue };
            let normed = f.norm.is_some_and(|norm| !norm.frozen) && f.relu;
            if f.conv.is_none() || !normed || f.residual.is_some() || outputs.contains(&step.out) {
                continue;
            }
            let readers = self.steps.iter().filter(|s| s.inputs().contains(&step.out));
            if let [Work::Fused(g)] = readers.map(|s| &s.work).collect::<Vec<_>>()[..]
                && g.residual != Some(step.out)
                && let Some(conv) = g.conv
                && conv2d::serves(conv, self.shapes[step.out.0])
            {
                unread[step.out.0] = Some(time);
            }
        }
        unread
    }

    fn plan_eval(&self, batch: usize, outputs: &[NodeId]) -> (Layout, usize) {
        let mut planner = Planner::default();
        let end = self.steps.len();
        let mut values = vec![None; self.shapes.len()];
        for (time, step) in self.steps.iter().enumerate() {
            for x in step.inputs() {
                planner.keep_until(values[x.0].expect("inputs come first"), time);
            }
            let last = if outputs.contains(&step.out) {
                end
            } else {
                time
            };
            let bytes = self.bytes(step.out, batch);
            values[step.out.0] = Some(planner.request(bytes, time, last));
        }
        let (offsets, total) = planner.solve();
        let place = |r: &Option<usize>| r.map(|r| offsets[r]);
        let layout = Layout {
            values: values.iter().map(place).collect(),
            raws: vec![None; self.steps.len()],
            gradients: vec![None; self.shapes.len()],
        };
        (layout, total)
    }

    fn plan_train(&self, batch: usize, outputs: &[NodeId]) -> (Layout, usize) {
        let mut planner = Planner::default();
        let loss = self.steps.len();
        let backward = |time: usize| 2 * loss - time;
        let bytes = |node: NodeId| self.bytes(node, batch);
        let mut values = vec![None; self.shapes.len()];
        let mut raws = vec![None; self.steps.len()];
        for (time, step) in self.steps.iter().enumerate() {
            for x in step.inputs() {
                planner.keep_until(values[x.0].expect("inputs come first"), time);
            }
            let active = self.needs_gradient[step.out.0];
            let mut last = if outputs.contains(&step.out) {
                loss
            } else {
                time
            };
            match &step.work {
                Work::Fused(f) => {
                    if active && f.relu && !f.mask_from_norm() {
                        last = backward(time);
                    }
                    // The weight gradient reads x; so does the gradient of a lone batch norm.
                    if active && (f.conv.is_some() || f.norm.is_some()) {
                        let x = values[f.x.0].expect("inputs come first");
                        planner.keep_until(x, backward(time));
                    }
                    if f.has_raw() {
                        let kept = active && f.norm.is_some();
                        let until = if kept { backward(time) } else { time };
                        raws[time] = Some(planner.request(bytes(step.out), time, until));
                    }
                }
                Work::L2Norm(x) if active => {
                    planner.keep_until(values[x.0].expect("inputs come first"), backward(time));
                    last = backward(time);
                }
                _ => {}
            }
            values[step.out.0] = match self.unread[step.out.0] {
                Some(step) => raws[step],
                None => Some(planner.request(bytes(step.out), time, last)),
            };
        }
        let mut gradients: Vec<Option<usize>> = vec![None; self.shapes.len()];
        for out in outputs {
            if self.needs_gradient[out.0] {
                gradients[out.0] = Some(planner.request(bytes(*out), loss, loss));
            }
        }
        for (time, step) in self.steps.iter().enumerate().rev() {
            let Some(own) = gradients[step.out.0] else {
                continue;
            };
            let now = backward(time);
            planner.keep_until(own, now);
            for x in step.inputs() {
                if !self.needs_gradient[x.0] {
                    continue;
                }
                match gradients[x.0] {
                    Some(there) => planner.keep_until(there, now),
                    None if shares_gradient(step, x) => gradients[x.0] = Some(own),
                    None => gradients[x.0] = Some(planner.request(bytes(x), now, now)),
                }
            }
        }
        let (offsets, total) = planner.solve();
        let place = |r: &Option<usize>| r.map(|r| offsets[r]);
        let layout = Layout {
            values: values.iter().map(place).collect(),
            raws: raws.iter().map(place).collect(),
            gradients: gradients.iter().map(place).collect(),
        };
        (layout, total)
    }
}

/// Whether the gradient of the step's output, once masked, may serve as that of input `x`: it is
/// the residual, and the step itself reads the gradient no more once it has been passed on.
fn shares_gradient(step: &Step, x: NodeId) -> bool {
    match &step.work {
        Work::Fused(f) => {
            f.residual == Some(x) && f.x != x && (f.conv.is_none() || f.norm.is_some())
        }
        _ => false,
    }
}

/// The type of each node's numbers. What follows a global average pool is small and is what losses
/// are made of: it stays in f32. Every step but that pool reads and writes one type, so where a
/// graph mixes the two all become f32.
fn types(steps: &[Step], nodes: usize, dtype: Dtype) -> Vec<Dtype> {
    let mut types = vec![dtype; nodes];
    let (pools, others): (Vec<&Step>, Vec<&Step>) =
        (steps.iter()).partition(|step| matches!(step.work, Work::Average(_)));
    pools.iter().for_each(|s| types[s.out.0] = Dtype::F32);
    loop {
        let before = types.clone();
        for step in &others {
            let mut all = step.inputs();
            all.push(step.out);
            if all.iter().any(|n| types[n.0] == Dtype::F32) {
                all.iter().for_each(|n| types[n.0] = Dtype::F32);
            }
        }
        if types == before {
            return types;
        }
    }
}

/// Nodes that someone outside may ask for.
fn outputs(network: &Network) -> Vec<NodeId> {
    (network.stages.iter().map(|s| s.1))
        .chain(network.embedding)
        .chain(network.classifiers.iter().map(|c| c.logits))
        .collect()
}

fn fuse(network: &Network) -> Vec<Step> {
    let outputs = outputs(network);
    let mut users: Vec<Vec<NodeId>> = vec![Vec::new(); network.nodes.len()];
    for (i, node) in network.nodes.iter().enumerate() {
        for x in &node.inputs {
            users[x.0].push(NodeId(i));
        }
    }
    let mut taken = vec![false; network.nodes.len()];
    let mut steps = Vec::new();
    for (i, node) in network.nodes.iter().enumerate() {
        if std::mem::replace(&mut taken[i], true) {
            continue;
        }
        let mut out = NodeId(i);
        let x = node.inputs.first().copied().unwrap_or(out);
        let mut fused = Fused {
            conv: None,
            bias: None,
            x,
            norm: None,
            residual: None,
            relu: false,
        };
        let work = match &node.op {
            Op::Input { .. } => Work::Input,
            Op::MaxPool(window) => Work::MaxPool(x, *window),
            Op::GlobalAvgPool => Work::Average(x),
            Op::L2Norm => Work::L2Norm(x),
            op => {
                match op {
                    Op::Conv2d(conv) => fused.conv = Some(*conv),
                    Op::Linear(linear) => {
                        fused.conv = Some(Conv2d {
                            weight: linear.weight,
                            in_channels: linear.in_features,
                            out_channels: linear.out_features,
                            kernel: 1,
                            stride: 1,
                            padding: 0,
                        });
                        fused.bias = linear.bias;
                    }
                    Op::BatchNorm(norm) => fused.norm = Some(*norm),
                    Op::Add => fused.residual = Some(node.inputs[1]),
                    _ => fused.relu = true,
                }
                while let [next] = users[out.0][..] {
                    if fused.relu || taken[next.0] || outputs.contains(&out) {
                        break;
                    }
                    let after = network.node(next);
                    match &after.op {
                        Op::BatchNorm(norm) if fused.norm.is_none() && fused.residual.is_none() => {
                            fused.norm = Some(*norm);
                        }
                        Op::Add if fused.residual.is_none() => {
                            let other = after.inputs.iter().find(|n| **n != out);
                            fused.residual = other.copied();
                        }
                        Op::Relu => fused.relu = true,
                        _ => break,
                    }
                    taken[next.0] = true;
                    out = next;
                }
                Work::Fused(fused)
            }
        };
        steps.push(Step { work, out });
    }
    // A step runs where its last node stood: all it reads has been written by then.
    steps.sort_by_key(|s| s.out);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::neck::{Neck, embed};
    use npid_network::resnet::{ResNet, Stem};

    #[test]
    fn a_resnet_fuses_into_one_step_a_convolution() {
        let mut net = Network::new();
        let x = net.input(&[0.5; 3], &[0.5; 3]).unwrap();
        let resnet = ResNet {
            out_indices: vec![0, 2],
            ..ResNet::new(18, Stem::ImageNet, 8)
        };
        let x = resnet.build(&mut net, x, "").unwrap();
        embed(&mut net, x, Some(&Neck::linear(16, true))).unwrap();
        let steps = fuse(&net);
        // Input, 20 convolutions, max pool, average pool, linear with its norm, L2 norm.
        assert_eq!(steps.len(), 1 + 20 + 1 + 1 + 1 + 1);
        let sums = steps.iter().filter(
            |s| matches!(&s.work, Work::Fused(f) if f.residual.is_some() && f.relu && f.conv.is_some()),
        );
        assert_eq!(sums.count(), 8);
        for step in &steps {
            assert!(step.inputs().iter().all(|x| *x < step.out));
        }
    }
}
