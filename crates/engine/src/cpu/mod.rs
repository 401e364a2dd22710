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
mod conv2d;
mod conv2d_weights;
mod feature;
mod forward;
mod heads;
mod memory;
mod parameters;
mod pooling;
mod program;
mod rows;
mod sgd;
mod simd;
mod threads;
mod tile;

use npid_network::init::random_row;
use npid_network::method::{Head, Npid, RowStorage};

use crate::candidates::Candidates;
use crate::mapped::MappedRows;
use crate::state::{self, StateEntry, StateKind};
use crate::{
    BankHealth, Description, Draws, Engine, Error, Images, Info, Loss, Norm, Objective, Output,
    Sizes, check_images, check_objective, check_rows, objective_nodes, output_nodes,
};
use batch_norm::Statistics;
use conv2d::ConvPlan;
use feature::InputTable;
use heads::{Compared, Comparison, Drawn, Nce, Partials};
use memory::Buffer;
use npid_network::graph::{NodeId, Op, Shape};
use parameters::Parameters;
use program::{Program, Work};
use rows::{Element, Rows, View, ViewMut};
pub use simd::Isa;
use threads::Threads;

/// How the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, 0 for one a core.
    pub threads: usize,
    /// The instruction set, one of [`Isa::available`].
    pub isa: Isa,
}

/// The CPU engine.
pub struct Cpu {
    description: Description,
    sizes: Sizes,
    isa: Isa,
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

/// The memory bank and what the method needs beside it.
struct Bank {
    rows: Rows,
    /// The NCE head's ln Z.
    log_z: f32,
    partials: Partials,
    /// Packed features of exact softmax.
    panels: Buffer,
    pending_rows: Vec<u64>,
    pending_features: Vec<f32>,
    /// Their own rows as they were.
    own: Vec<f32>,
    gradient: Vec<f32>,
    health: Option<BankHealth>,
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
        let program = Program::new(network, shapes, sizes.batch);
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
                            let blocks = plan.blocks(sizes.batch).count();
                            workspace = workspace.max(blocks * 2 * out.c);
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
            arena: Buffer::new(program.arena_len),
            packed: Buffer::new(packed),
            workspace: Buffer::new(workspace),
            zeros: Buffer::new(zeros),
            parameters: Parameters::new(network, description.optimizer, description.seed),
            packed_valid: false,
            description: description.clone(),
            sizes,
            isa: options.isa,
            threads,
            program,
            compiled,
            bank,
            candidates: Candidates::new(description)?,
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
                plan.pack(weights, to.add(compiled.packed));
            }
        }
        self.packed_valid = true;
    }

    /// The value of a node, after a forward pass.
    fn value(&self, node: NodeId, train: bool, count: usize) -> &[f32] {
        let layout = if train {
            &self.program.train
        } else {
            &self.program.eval
        };
        let at = layout.values[node.0].expect("only outputs of steps are asked for");
        let len = self.program.shapes[node.0].len() * count;
        &self.arena.as_slice()[at..at + len]
    }

    /// Loss and gradients of the network's outputs; says which of them have one.
    fn objective(
        &mut self,
        objective: Objective<'_>,
        count: usize,
        live: &mut [bool],
    ) -> Vec<Loss> {
        let network = &self.description.network;
        let place = |node: NodeId| {
            let at = self.program.train.gradients[node.0];
            let len = self.program.shapes[node.0].len() * count;
            at.map(|at| at..at + len)
        };
        let mut losses = Vec::new();
        match objective {
            Objective::FeatureGradient { gradient } => {
                let embedding = network.embedding.expect("checked: there is an embedding");
                if let Some(range) = place(embedding) {
                    self.arena.as_mut_slice()[range].copy_from_slice(gradient);
                    live[embedding.0] = true;
                }
            }
            Objective::CrossEntropy { labels } => {
                for classifier in &network.classifiers {
                    let node = classifier.logits;
                    let classes = network.node(node).channels;
                    let logits = self.value(node, true, count).to_vec();
                    let mut d = vec![0.0; logits.len()];
                    let value = feature::cross_entropy(classes, &logits, labels, &mut d);
                    losses.push(Loss {
                        name: classifier.name.clone(),
                        value,
                    });
                    if let Some(range) = place(node) {
                        self.arena.as_mut_slice()[range].copy_from_slice(&d);
                        live[node.0] = true;
                    }
                }
            }
            Objective::Npid { rows, draws } => {
                let embedding = network.embedding.expect("checked: there is an embedding");
                let method = self.description.method.expect("checked: there is a method");
                let at = self.program.train.values[embedding.0].expect("the embedding is a step");
                let len = count * method.memory_bank.feat_dim;
                let bank = self.bank.as_mut().expect("a method has a bank");
                bank.pending_rows.clear();
                bank.pending_rows.extend_from_slice(rows);
                bank.pending_features.clear();
                (bank.pending_features).extend_from_slice(&self.arena.as_slice()[at..at + len]);
                let value = bank.compare(&method, self.isa, &self.candidates, draws);
                losses.push(Loss {
                    name: "loss".into(),
                    value,
                });
                if let Some(range) = place(embedding) {
                    self.arena.as_mut_slice()[range].copy_from_slice(&bank.gradient[..len]);
                    live[embedding.0] = true;
                }
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

impl Bank {
    fn new(
        method: &Npid,
        seed: u64,
        batch: usize,
        lanes: usize,
        threads: &Threads,
    ) -> Result<Self, Error> {
        let settings = method.memory_bank;
        let (n, dim) = (settings.length, settings.feat_dim);
        let rows = match settings.storage {
            RowStorage::Memory => {
                let mut rows = Rows::new(settings.dtype, n * dim)?;
                threads.enter(|| rows.fill(dim, |row| random_row(row, dim, seed)));
                rows
            }
            RowStorage::File => Rows::unfilled(settings.dtype, n * dim)?,
        };
        let (segments, panels) = match method.head {
            Head::Softmax { .. } => (
                heads::row_segments(n).count(),
                heads::panels_len(batch, dim, lanes),
            ),
            Head::Contrastive { .. } | Head::Nce { .. } => {
                (heads::negative_segments(method.neg_num).count(), 0)
            }
        };
        Ok(Bank {
            rows,
            log_z: f32::NEG_INFINITY,
            partials: Partials::new(segments, batch, dim),
            panels: Buffer::new(panels),
            pending_rows: Vec::with_capacity(batch),
            pending_features: Vec::with_capacity(batch * dim),
            own: vec![0.0; batch * dim],
            gradient: vec![0.0; batch * dim],
            health: None,
        })
    }

    /// Bytes taken.
    fn bytes(&self) -> usize {
        let floats = self.panels.len() + 2 * self.own.len() + self.gradient.len();
        self.rows.bytes() + self.partials.bytes() + floats * 4
    }

    /// Compares the pending features with the bank: their loss; its gradient is left in `gradient`.
    fn compare(
        &mut self,
        method: &Npid,
        isa: Isa,
        candidates: &Candidates,
        draws: Draws<'_>,
    ) -> f32 {
        let dim = method.memory_bank.feat_dim;
        let len = self.pending_features.len();
        let (rows, own) = (&self.pending_rows, &mut self.own[..len]);
        let view = self.rows.view();
        match view {
            View::F32(bank) => bank::gather(bank, dim, rows, own),
            View::Bf16(bank) => bank::gather(bank, dim, rows, own),
            View::F16(bank) => bank::gather(bank, dim, rows, own),
        }
        let beside = Beside {
            method,
            draws,
            candidates,
            partials: &mut self.partials,
            panels: &mut self.panels,
            log_z: &mut self.log_z,
            gradient: &mut self.gradient[..len],
        };
        let comparison = Comparison {
            isa,
            dim,
            temperature: method.head.temperature(),
            features: &self.pending_features,
            rows,
            bank: &[0f32; 0][..],
            own,
            excluded: candidates.any_excluded(),
        };
        let compared = match view {
            View::F32(bank) => beside.run(comparison.over(bank)),
            View::Bf16(bank) => beside.run(comparison.over(bank)),
            View::F16(bank) => beside.run(comparison.over(bank)),
        };
        let dot = |(f, v): (&f32, &f32)| f64::from(*f) * f64::from(*v);
        let dots: f64 = self.pending_features.iter().zip(&*own).map(dot).sum();
        self.health = Some(BankHealth {
            alignment: (dots / rows.len() as f64) as f32,
            effective_negatives: compared.effective_negatives,
        });
        compared.loss
    }

    /// Commits the pending features, if there are any.
    fn update(&mut self, momentum: f32, dim: usize) -> bool {
        let (rows, features, own) = (&self.pending_rows, &self.pending_features, &self.own);
        let pending = !rows.is_empty();
        match self.rows.view_mut() {
            ViewMut::F32(bank) => bank::update(bank, dim, momentum, rows, features, own),
            ViewMut::Bf16(bank) => bank::update(bank, dim, momentum, rows, features, own),
            ViewMut::F16(bank) => bank::update(bank, dim, momentum, rows, features, own),
        }
        self.pending_rows.clear();
        pending
    }
}

/// What a comparison needs beside features and rows.
struct Beside<'a> {
    method: &'a Npid,
    draws: Draws<'a>,
    candidates: &'a Candidates,
    partials: &'a mut Partials,
    panels: &'a mut Buffer,
    log_z: &'a mut f32,
    gradient: &'a mut [f32],
}

impl Beside<'_> {
    fn run<E: Element>(self, comparison: Comparison<'_, E>) -> Compared {
        let (partials, gradient) = (self.partials, self.gradient);
        let drawn = (self.candidates.sampler()).map(|sampler| Drawn {
            sampler,
            draws: self.draws,
            neg_num: self.method.neg_num,
        });
        let drawn = || drawn.expect("a head that samples has a sampler");
        match self.method.head {
            Head::Softmax { .. } => comparison.softmax(partials, self.panels, gradient),
            Head::Contrastive { .. } => comparison.contrastive(drawn(), partials, gradient),
            Head::Nce {
                z_momentum,
                proximal,
                ..
            } => {
                let nce = Nce {
                    z_momentum,
                    proximal,
                };
                comparison.nce(nce, drawn(), self.log_z, partials, gradient)
            }
        }
    }
}

impl Engine for Cpu {
    fn info(&self) -> Info {
        let bank = self.bank.as_ref().map_or(0, Bank::bytes);
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
            dtype: "f32",
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
            into.extend_from_slice(self.value(node, norm != Norm::Eval, images.count));
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
        self.run_forward(images, Norm::Track, &outputs);
        Ok(self.run_backward(images.count, objective))
    }

    fn apply(&mut self, lr: f32, scale: f32) {
        let (parameters, description) = (&mut self.parameters, &self.description);
        self.threads
            .enter(|| parameters.apply(&description.network, description.optimizer, lr, scale));
        self.packed_valid = false;
    }

    fn update_bank(&mut self) -> Result<(), Error> {
        if let (Some(bank), Some(method)) = (&mut self.bank, &self.description.method) {
            let settings = method.memory_bank;
            if bank.update(settings.momentum, settings.feat_dim) {
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
