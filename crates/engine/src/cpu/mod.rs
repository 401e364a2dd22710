//! The CPU engine: fused kernels on all cores, in f32, for AVX-512, AVX2 or whatever there is.
//!
//! `program` fuses the graph into steps and plans their memory; `forward` and `backward` run
//! them; each operation has its own file. After the first step nothing large is allocated. Every
//! reduction has segments fixed by the shape and merged in their order, so the same seed gives the
//! same bits on any number of threads.

mod affine;
mod backward;
mod bank;
mod batch_norm;
#[cfg(test)]
mod bf16_tests;
mod clock;
mod conv2d;
#[cfg(test)]
mod conv2d_tests;
mod conv2d_weights;
mod element;
mod feature;
mod forward;
mod heads;
mod memory;
mod memory_bank;
mod parameters;
mod peaks;
mod pooling;
mod program;
mod rows;
mod sgd;
mod simd;
mod source;
mod threads;
mod tile;
mod widen;
mod winograd;

use std::time::Instant;

use npid_network::method::RowStorage;

use crate::candidates::Candidates;
use crate::mapped::MappedRows;
use crate::state::{self, StateEntry, StateKind};
use crate::{
    BankHealth, Description, Dtype, Engine, Error, Images, Info, Loss, Norm, Objective, Operation,
    Output, Sizes, Timings, What, check_images, check_objective, check_rows, objective_nodes,
    output_nodes,
};
use batch_norm::Statistics;
use clock::Clock;
use conv2d::ConvPlan;
use feature::InputTable;
use memory::Buffer;
use memory_bank::Bank;
use npid_network::graph::{NodeId, Op, Shape};
use parameters::Parameters;
pub use peaks::Peaks;
use program::{Program, Work};
use rows::Rows;
pub use simd::Isa;
use threads::Threads;

/// How the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, 0 for one a core.
    pub threads: usize,
    /// The instruction set, one of [`Isa::available`].
    pub isa: Isa,
    /// What activations and their gradients are made of.
    pub dtype: Dtype,
}

/// The CPU engine.
pub struct Cpu {
    description: Description,
    sizes: Sizes,
    isa: Isa,
    dtype: Dtype,
    threads: std::sync::Arc<Threads>,
    program: Program,
    /// For each step, what its operation needs.
    compiled: Vec<Compiled>,
    input: InputTable,
    arena: Buffer,
    packed: Buffer,
    workspace: Buffer,
    zeros: Buffer,
    parameters: Parameters,
    /// Whether the packed weights are those of `parameters`.
    packed_valid: bool,
    bank: Option<Bank>,
    candidates: Candidates,
    timings: Timings,
    clock: Clock,
}

/// Refuses what can't be had before anything is taken. An estimate from above: every map twice, all
/// parameters with gradient, momentum and both packed forms, the walks' offsets and the bank.
fn check_memory(description: &Description, shapes: &[Shape], sizes: Sizes) -> Result<(), Error> {
    let network = &description.network;
    let big = |n: usize| n as u128;
    let mut numbers = 0u128;
    for (node, shape) in network.nodes.iter().zip(shapes) {
        let image = big(shape.h) * big(shape.w) * big(shape.c);
        if image > i32::MAX as u128 {
            return Err(Error::Argument(format!(
                "{}: a map of {}x{}x{} has more than 2^31 numbers; take smaller images",
                node.name, shape.h, shape.w, shape.c
            )));
        }
        numbers += image * big(sizes.batch);
        if let Op::Conv2d(conv) = &node.op {
            let input = shapes[node.inputs[0].0];
            let taps = big(conv.kernel) * big(conv.kernel);
            numbers += taps * (2 * big(shape.pixels()) + big(input.pixels()));
        }
    }
    for param in &network.params {
        numbers += 5 * param.shape.iter().map(|d| big(*d)).product::<u128>();
    }
    if let Some(method) = &description.method {
        let bank = method.memory_bank;
        let resident = u128::from(bank.storage == RowStorage::Memory);
        numbers += resident
            * (big(bank.length) * big(bank.feat_dim) * big(bank.dtype.bytes())).div_ceil(4);
    }
    if Buffer::possible(numbers) {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "this needs about {:.1} GB of memory, which the system doesn't give: take a smaller batch, \
         smaller images or a narrower network",
        numbers as f64 * 4e-9
    )))
}

/// What a step's operation keeps.
#[derive(Default)]
struct Compiled {
    conv: Option<ConvPlan>,
    /// Where its packed weights lie.
    packed: usize,
    statistics: Statistics,
    /// Winners of a max pool.
    winners: Vec<u8>,
}

impl Cpu {
    /// Compiles the programs, plans and takes the memory, and sets the initial state.
    ///
    /// # Errors
    /// If the description doesn't fit itself or the image size, or the instruction set isn't there.
    pub fn compile(
        description: &Description,
        sizes: Sizes,
        options: Options,
    ) -> Result<Self, Error> {
        description.check()?;
        if !Isa::available().contains(&options.isa) {
            return Err(Error::Argument(format!(
                "this machine has no {}",
                options.isa.name()
            )));
        }
        if sizes.batch == 0 {
            return Err(Error::Argument("a batch of 0 images".into()));
        }
        let network = &description.network;
        let Some(Op::Input { mean, std }) = network.nodes.first().map(|n| &n.op) else {
            return Err(Error::Argument("the network has no input".into()));
        };
        let shapes = network.shapes(sizes.height, sizes.width)?;
        check_memory(description, &shapes, sizes)?;
        let threads = std::sync::Arc::new(Threads::new(options.threads)?);
        let program = Program::new(network, shapes, sizes.batch, options.dtype);
        let lanes = options.isa.lanes();
        let (mut packed, mut workspace, mut zeros) = (0, 0, 64);
        let compiled = (program.steps.iter())
            .map(|step| {
                let out = program.shapes[step.out.0];
                let mut compiled = Compiled::default();
                match &step.work {
                    Work::Fused(f) => {
                        if let Some(conv) = f.conv {
                            let dx = program.needs_gradient[f.x.0];
                            let plan = ConvPlan::new(conv, program.shapes[f.x.0], out, dx, lanes);
                            compiled.packed = packed;
                            packed += plan.packed_len().next_multiple_of(16);
                            zeros = zeros.max(plan.zeros_len());
                            workspace = workspace.max(plan.workspace_len(sizes.batch));
                            compiled.conv = Some(plan);
                        }
                        if f.norm.is_some() {
                            compiled.statistics = Statistics::new(out.c);
                            let pixels = sizes.batch * out.pixels();
                            workspace = workspace.max(batch_norm::workspace_len(pixels, out.c));
                        }
                    }
                    Work::MaxPool(_, window) => {
                        if window.kernel > 15 {
                            return Err(Error::Argument("a max pool above 15x15".into()));
                        }
                        compiled.winners = vec![0; out.len() * sizes.batch];
                    }
                    _ => {}
                }
                Ok(compiled)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let bank = (description.method.as_ref())
            .map(|m| Bank::new(m, description.seed, sizes.batch, lanes, &threads))
            .transpose()?;
        Ok(Cpu {
            input: InputTable::new(mean, std),
            arena: Buffer::new(program.arena_len.div_ceil(size_of::<f32>())),
            packed: Buffer::new(packed),
            workspace: Buffer::new(workspace),
            zeros: Buffer::new(zeros),
            parameters: Parameters::new(network, description.optimizer, description.seed),
            packed_valid: false,
            description: description.clone(),
            sizes,
            isa: options.isa,
            dtype: options.dtype,
            threads,
            program,
            compiled,
            bank,
            candidates: Candidates::new(description)?,
            timings: Timings::default(),
            clock: Clock::default(),
        })
    }

    /// Packs the weights for the convolutions, if they have changed.
    fn pack(&mut self) {
        if self.packed_valid {
            return;
        }
        let to = self.packed.ptr();
        for compiled in &self.compiled {
            if let Some(plan) = &compiled.conv {
                let weights = &self.parameters.values[plan.conv.weight.0];
                plan.pack(self.isa, weights, to.add(compiled.packed));
            }
        }
        self.packed_valid = true;
    }

    /// Appends the value of a node, after a forward pass.
    fn read_value(&self, node: NodeId, train: bool, count: usize, into: &mut Vec<f32>) {
        let layout = if train {
            &self.program.train
        } else {
            &self.program.eval
        };
        let at = layout.values[node.0].expect("only outputs of steps are asked for");
        let len = self.program.shapes[node.0].len() * count;
        (self.arena).read_map(self.program.types[node.0], at, len, into);
    }

    /// Writes the gradient of a node, if one is wanted; says whether it is.
    fn write_gradient(&mut self, node: NodeId, gradient: &[f32]) -> bool {
        let Some(at) = self.program.train.gradients[node.0] else {
            return false;
        };
        (self.arena).write_map(self.program.types[node.0], at, gradient);
        true
    }

    /// Loss and gradients of the network's outputs; says which of them have one.
    fn objective(
        &mut self,
        objective: Objective<'_>,
        count: usize,
        live: &mut [bool],
    ) -> Vec<Loss> {
        let network = &self.description.network;
        let embedding = || network.embedding.expect("checked: there is an embedding");
        let mut losses = Vec::new();
        match objective {
            Objective::FeatureGradient { gradient } => {
                let node = embedding();
                live[node.0] = self.write_gradient(node, gradient);
            }
            Objective::CrossEntropy { labels } => {
                for classifier in network.classifiers.clone() {
                    let node = classifier.logits;
                    let classes = self.program.shapes[node.0].c;
                    let mut logits = Vec::new();
                    self.read_value(node, true, count, &mut logits);
                    let mut d = vec![0.0; logits.len()];
                    let value = feature::cross_entropy(classes, &logits, labels, &mut d);
                    losses.push(Loss {
                        name: classifier.name,
                        value,
                    });
                    live[node.0] = self.write_gradient(node, &d);
                }
            }
            Objective::Npid { rows, draws } => {
                let node = embedding();
                let method = self.description.method.expect("checked: there is a method");
                let mut bank = self.bank.take().expect("a method has a bank");
                bank.pending_rows.clear();
                bank.pending_rows.extend_from_slice(rows);
                bank.pending_features.clear();
                self.read_value(node, true, count, &mut bank.pending_features);
                let value = bank.compare(&method, self.isa, &self.candidates, draws);
                losses.push(Loss {
                    name: "loss".into(),
                    value,
                });
                let len = bank.pending_features.len();
                live[node.0] = self.write_gradient(node, &bank.gradient[..len]);
                self.bank = Some(bank);
            }
        }
        losses
    }

    fn entry(&self, name: &str) -> Result<StateEntry, Error> {
        (state::entries(&self.description)
            .into_iter()
            .find(|e| e.name == name))
        .ok_or_else(|| Error::State(format!("there is no state named '{name}'")))
    }
}

impl Engine for Cpu {
    fn info(&self) -> Info {
        let bank = self.bank.as_ref().map_or(0, Bank::bytes);
        let scratch = |c: &Compiled| c.conv.as_ref().map(|c| c.scratch_bytes(self.sizes.batch));
        let scratch = self.compiled.iter().filter_map(scratch).max().unwrap_or(0);
        let bank = bank + scratch * self.threads.count();
        let buffers = self.arena.len() + self.packed.len() + self.workspace.len();
        let bank = bank + self.candidates.excluded().len();
        Info {
            engine: "cpu",
            device: format!(
                "cpu ({}, {} thread{})",
                self.isa.name(),
                self.threads.count(),
                if self.threads.count() == 1 { "" } else { "s" }
            ),
            dtype: self.dtype.name(),
            planned_bytes: buffers as u64 * 4 + bank as u64 + self.parameters.bytes(),
        }
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn features(
        &mut self,
        images: Images<'_>,
        norm: Norm,
        outputs: &[Output],
        into: &mut [Vec<f32>],
    ) -> Result<(), Error> {
        check_images(images, self.sizes, self.description.network.in_channels())?;
        let nodes = output_nodes(&self.description.network, outputs, into.len())?;
        self.run_forward(images, norm, &nodes);
        for (node, into) in nodes.into_iter().zip(into) {
            into.clear();
            self.read_value(node, norm != Norm::Eval, images.count, into);
        }
        Ok(())
    }

    fn gradient(
        &mut self,
        images: Images<'_>,
        objective: Objective<'_>,
    ) -> Result<Vec<Loss>, Error> {
        check_images(images, self.sizes, self.description.network.in_channels())?;
        check_objective(objective, &self.description, images.count)?;
        self.candidates.check(objective)?;
        let outputs = objective_nodes(&self.description.network, objective);
        let begun = Instant::now();
        self.run_forward(images, Norm::Track, &outputs);
        self.timings.forward += begun.elapsed();
        Ok(self.run_backward(images.count, objective))
    }

    fn apply(&mut self, lr: f32, scale: f32) {
        let begun = Instant::now();
        self.clock.start();
        let (parameters, description) = (&mut self.parameters, &self.description);
        self.threads
            .enter(|| parameters.apply(&description.network, description.optimizer, lr, scale));
        self.packed_valid = false;
        self.timings.optimizer += begun.elapsed();
        self.clock.lap(What::Optimizer, None, 0);
    }

    fn update_bank(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        self.clock.start();
        if let (Some(bank), Some(method)) = (&mut self.bank, &self.description.method) {
            let settings = method.memory_bank;
            let count = bank.pending_rows.len();
            if bank.update(settings.momentum, settings.feat_dim) {
                self.timings.bank += begun.elapsed();
                self.clock.lap(What::BankUpdate, None, count);
                return Ok(());
            }
        }
        Err(Error::Argument(
            "no features are pending: take an NPID gradient first".into(),
        ))
    }

    fn bank_health(&self) -> Option<BankHealth> {
        self.bank.as_ref()?.health
    }

    fn take_timings(&mut self) -> Option<Timings> {
        Some(std::mem::take(&mut self.timings))
    }

    fn take_operations(&mut self) -> Vec<Operation> {
        self.laps()
    }

    fn exclude_rows(&mut self, rows: &[u64]) -> Result<(), Error> {
        self.candidates.exclude(rows)
    }

    fn read_rows(&self, rows: &[u64]) -> Result<Vec<f32>, Error> {
        check_rows(&self.description, rows, None)?;
        let dim = self.description.network.feat_dim();
        Ok((self.bank.as_ref()).map_or(Vec::new(), |bank| bank.rows.gather(dim, rows)))
    }

    fn write_rows(&mut self, rows: &[u64], values: &[f32]) -> Result<(), Error> {
        check_rows(&self.description, rows, Some(values))?;
        let dim = self.description.network.feat_dim();
        if let Some(bank) = &mut self.bank {
            bank.rows.scatter(dim, rows, values);
        }
        Ok(())
    }

    fn map_rows(&mut self, rows: MappedRows) -> Result<(), Error> {
        let Some((bank, method)) = self.bank.as_mut().zip(self.description.method) else {
            return Err(Error::State("there is no memory bank".into()));
        };
        let settings = method.memory_bank;
        let fits = rows.len() == bank.rows.len() && rows.dtype() == settings.dtype;
        if settings.storage != RowStorage::File || !fits {
            return Err(Error::State(format!(
                "a file of {} numbers of type {} for a memory bank of {} of type {}, kept {}",
                rows.len(),
                rows.dtype().name(),
                bank.rows.len(),
                settings.dtype.name(),
                match settings.storage {
                    RowStorage::File => "in a file",
                    RowStorage::Memory => "in memory",
                }
            )));
        }
        if method.head.samples() {
            rows.read_anywhere();
        }
        bank.rows = Rows::mapped(rows);
        Ok(())
    }

    fn release_rows(&mut self, in_file: &[u64], newer: &[u64]) {
        let dim = self.description.network.feat_dim();
        if let Some(bank) = &mut self.bank {
            bank.rows.release(dim, in_file, newer);
        }
    }

    fn state(&self) -> Vec<StateEntry> {
        state::entries(&self.description)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, Error> {
        let p = &self.parameters;
        Ok(match self.entry(name)?.kind {
            StateKind::Param(i) => p.outward(i, &p.values[i]),
            StateKind::Gradient(i) => p.outward(i, &p.gradients[i]),
            StateKind::Momentum(i) => p.outward(i, &p.momenta[i]),
            StateKind::Statistic(i) => p.statistics[i].clone(),
            StateKind::Bank => {
                (self.bank.as_ref()).map_or(Vec::new(), |b| b.rows.read(0..b.rows.len()))
            }
            StateKind::LogZ => self.bank.iter().map(|b| b.log_z).collect(),
        })
    }

    fn write(&mut self, name: &str, values: &[f32]) -> Result<(), Error> {
        let entry = self.entry(name)?;
        if entry.len() != values.len() {
            return Err(Error::State(format!(
                "{} numbers for '{name}', which has {}",
                values.len(),
                entry.len()
            )));
        }
        let p = &mut self.parameters;
        match entry.kind {
            StateKind::Param(i) => {
                p.values[i] = p.inward(i, values);
                self.packed_valid = false;
            }
            StateKind::Gradient(i) => p.gradients[i] = p.inward(i, values),
            StateKind::Momentum(i) => p.momenta[i] = p.inward(i, values),
            StateKind::Statistic(i) => p.statistics[i].copy_from_slice(values),
            StateKind::Bank => {
                if let Some(bank) = &mut self.bank {
                    bank.rows.write(0, values);
                }
            }
            StateKind::LogZ => {
                if let Some(bank) = &mut self.bank {
                    bank.log_z = values[0];
                }
            }
        }
        Ok(())
    }
}
