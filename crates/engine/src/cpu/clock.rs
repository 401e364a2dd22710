//! How long each operation takes, where somebody asks: a stopwatch that is read after each of them
//! and does nothing otherwise.

use std::time::{Duration, Instant};

use npid_network::graph::{NodeId, Shape};
use npid_network::method::Head;

use super::Cpu;
use super::program::{Fused, Work};
use crate::{Operation, What};

/// The stopwatch.
#[derive(Default)]
pub struct Clock {
    on: bool,
    since: Option<Instant>,
    laps: Vec<Lap>,
}

/// What was done since the lap before.
struct Lap {
    what: What,
    /// The step of the program, where it is one's.
    step: Option<usize>,
    /// Images.
    count: usize,
    time: Duration,
}

impl Clock {
    /// The next lap begins here.
    pub fn start(&mut self) {
        if self.on {
            self.since = Some(Instant::now());
        }
    }

    /// A lap ends and the next one begins.
    pub fn lap(&mut self, what: What, step: Option<usize>, count: usize) {
        let Some(since) = self.since else { return };
        let now = Instant::now();
        self.laps.push(Lap {
            what,
            step,
            count,
            time: now - since,
        });
        self.since = Some(now);
    }
}

impl Cpu {
    /// See [`crate::Engine::take_operations`].
    pub(super) fn laps(&mut self) -> Vec<Operation> {
        let laps = std::mem::take(&mut self.clock.laps);
        self.clock.on = true;
        laps.into_iter().map(|lap| self.operation(lap)).collect()
    }

    fn operation(&self, lap: Lap) -> Operation {
        let none = Shape { h: 0, w: 0, c: 0 };
        let operation = Operation {
            what: lap.what,
            layer: String::new(),
            window: None,
            input: none,
            output: none,
            count: lap.count,
            flops: 0,
            bytes: 0,
            time: lap.time,
        };
        match lap.step {
            Some(step) => self.of_step(step, operation),
            None => self.of_none(operation),
        }
    }

    fn of_step(&self, step: usize, mut operation: Operation) -> Operation {
        let number = self.program.dtype(step).bytes() as u64;
        let step = &self.program.steps[step];
        let shape = |node: NodeId| self.program.shapes[node.0];
        let map = |shape: Shape| (operation.count * shape.len()) as u64;
        let output = shape(step.out);
        let (name, input) = match &step.work {
            Work::Input => (step.out, output),
            Work::Fused(fused) => (self.first_node(step.out, fused), shape(fused.x)),
            Work::MaxPool(x, _) | Work::Average(x) | Work::L2Norm(x) => (step.out, shape(*x)),
        };
        let (read, written) = (map(input), map(output));
        // Maps passed over by what isn't a product, in numbers.
        let passed = match (&step.work, operation.what) {
            (Work::Input, _) => {
                operation.bytes = written; // what is read: bytes
                written
            }
            (Work::Fused(fused), What::BatchNorm) => {
                2 * written + fused.residual.map_or(0, |_| written)
            }
            // z's gradient, what was normalised, and what becomes its gradient; ReLU's mask.
            (Work::Fused(fused), What::BatchNormGradient) => {
                let norm = if fused.norm.is_some() { 3 } else { 2 };
                (norm + u64::from(fused.relu)) * written
            }
            (Work::Fused(_), What::ResidualGradient) => 2 * written,
            (Work::L2Norm(_), What::L2NormGradient) => 4 * written,
            _ => read + written,
        };
        operation.bytes += number * passed;
        let product = matches!(
            operation.what,
            What::Convolution | What::WeightGradient | What::DataGradient
        );
        operation.input = input;
        match &step.work {
            Work::Fused(Fused {
                conv: Some(conv), ..
            }) if product => {
                operation.window = Some((conv.kernel, conv.stride));
                let weights = conv.kernel * conv.kernel * conv.in_channels * conv.out_channels;
                let products = (operation.count * output.pixels()) as u64 * weights as u64;
                operation.flops = 2 * products;
                operation.bytes += 4 * weights as u64;
            }
            Work::Fused(_) => operation.input = output,
            Work::MaxPool(_, window) => {
                operation.window = Some((window.kernel, window.stride));
                operation.bytes += written; // the winner of each
            }
            _ => {}
        }
        operation.layer = self.description.network.node(name).name.clone();
        operation.output = output;
        operation
    }

    fn of_none(&self, mut operation: Operation) -> Operation {
        let parameters = (self.description.network.params.iter())
            .filter(|p| p.trainable)
            .map(|p| p.len() as u64)
            .sum::<u64>();
        if let What::Packing | What::Optimizer = operation.what {
            let passed = match (operation.what, self.description.optimizer.momentum) {
                (What::Packing, _) => 2,
                // Value and gradient (which is cleared) are read and written, momentum too.
                (_, 0.0) => 4,
                _ => 6,
            };
            operation.layer = "parameters".into();
            operation.bytes = 4 * passed * parameters;
            return operation;
        }
        let Some(method) = self.description.method else {
            return operation;
        };
        let bank = method.memory_bank;
        let (dim, count) = (bank.feat_dim as u64, operation.count as u64);
        let row = dim * bank.dtype.bytes() as u64;
        operation.layer = "memory bank".into();
        operation.input = Shape {
            h: 1,
            w: 1,
            c: bank.feat_dim,
        };
        operation.output = operation.input;
        if operation.what == What::BankUpdate {
            operation.bytes = count * (2 * row + 4 * dim);
        } else {
            // Every row that takes part is multiplied with the feature, and weighed in the
            // gradient.
            let (pairs, rows) = match method.head {
                Head::Softmax { .. } => (count * bank.length as u64, bank.length as u64),
                _ => {
                    let drawn = count * (method.neg_num as u64 + 1);
                    (drawn, drawn)
                }
            };
            operation.flops = 4 * dim * pairs;
            operation.bytes = rows * row + 2 * count * 4 * dim;
        }
        operation
    }

    /// The node that a fused step begins with: its convolution if it has one.
    fn first_node(&self, out: NodeId, fused: &Fused) -> NodeId {
        let nodes = &self.description.network.nodes;
        let mut at = out;
        // Back from the output along the step's own nodes.
        while let Some(&before) = (nodes[at.0].inputs.iter())
            .find(|&&x| Some(x) != fused.residual && x != fused.x && x.0 < at.0)
        {
            at = before;
        }
        at
    }
}
