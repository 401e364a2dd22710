//! The reference engine: the method's definition in code.
//!
//! Plain loops on one thread, in f32 or f64, one file for each operation; never tuned. Other
//! engines are held against it, and it is held against finite differences (in f64) and against
//! PyTorch's numbers. Each operation is a public function, so that it can be checked alone.
//!
//! In all of them activations are B x H x W x C with C contiguous, an activation's gradient is
//! returned anew (overwrites), and a parameter's gradient is ADDED to what is there.

pub mod bank;
pub mod batch_norm;
pub mod conv2d;
pub mod cross_entropy;
pub mod elementwise;
mod float;
pub mod l2_norm;
pub mod linear;
pub mod npid;
pub mod pool;
pub mod sgd;
mod walk;

pub use float::Float;

use std::time::Instant;

use npid_network::graph::{NodeId, Shape};
use npid_network::init;
use npid_network::method::{Description, Head, RowStorage};

use crate::candidates::Candidates;
use crate::interface::{
    BankHealth, Draws, Engine, Error, Images, Info, Loss, Norm, Objective, Output, Sizes, Timings,
    check_images, check_objective, check_rows, objective_nodes, output_nodes,
};
use crate::state::{self, StateEntry, StateKind};

/// The engine; see the [module](self).
///
/// `T` is the type of activations, parameters, gradients and bank. Through [`Engine`] all state
/// crosses as f32; [`values`](Reference::values) and [`values_mut`](Reference::values_mut) keep
/// every bit.
pub struct Reference<T> {
    description: Description,
    sizes: Sizes,
    shapes: Vec<Shape>,
    entries: Vec<StateEntry>,
    params: Vec<Vec<T>>,
    statistics: Vec<Vec<T>>,
    /// Empty for parameters that aren't trainable.
    gradients: Vec<Vec<T>>,
    /// Empty where there is no gradient, and all of them without momentum.
    momentum: Vec<Vec<T>>,
    bank: Vec<T>,
    /// The NCE head's ln Z.
    log_z: [T; 1],
    /// For each row, whether it is never drawn or counted.
    candidates: Candidates,
    /// Rows and features that wait for `update_bank`.
    pending: Option<(Vec<u64>, Vec<T>)>,
    losses: Vec<f64>,
    health: Option<BankHealth>,
    timings: Timings,
}

impl<T: Float> Reference<T> {
    /// An engine in its initial state: parameters as their `init` says, statistics at theirs, the
    /// bank's rows random unit vectors, momentum and gradients 0.
    ///
    /// # Errors
    /// If the description doesn't fit itself or the image size, or the batch is 0.
    pub fn compile(description: &Description, sizes: Sizes) -> Result<Self, Error> {
        description.check()?;
        if sizes.batch == 0 {
            return Err(Error::Argument("a batch of 0 images".into()));
        }
        if let Some(method) = &description.method
            && method.memory_bank.storage == RowStorage::File
        {
            return Err(npid_network::Error::Method(
                "memory_bank.storage is \"file\", which the reference engine hasn't; it must be \
                 \"memory\", or the engine another"
                    .into(),
            )
            .into());
        }
        let network = &description.network;
        let shapes = network.shapes(sizes.height, sizes.width)?;
        let seed = description.seed;
        let widen = |values: Vec<f32>| -> Vec<T> {
            values.into_iter().map(|v| T::of(f64::from(v))).collect()
        };
        let zeros = |present: bool, n: usize| vec![T::ZERO; if present { n } else { 0 }];
        let with_momentum = description.optimizer.momentum != 0.0;
        let params = &network.params;
        let mut engine = Reference {
            description: description.clone(),
            sizes,
            shapes,
            entries: state::entries(description),
            params: (0..params.len())
                .map(|i| widen(init::initial_param(network, i, seed)))
                .collect(),
            statistics: (network.statistics.iter())
                .map(|s| widen(vec![s.initial; s.channels]))
                .collect(),
            gradients: (params.iter())
                .map(|p| zeros(p.trainable, p.len()))
                .collect(),
            momentum: (params.iter())
                .map(|p| zeros(p.trainable && with_momentum, p.len()))
                .collect(),
            bank: Vec::new(),
            log_z: [T::of(f64::NEG_INFINITY)],
            candidates: Candidates::new(description)?,
            pending: None,
            losses: Vec::new(),
            health: None,
            timings: Timings::default(),
        };
        if let Some(method) = &description.method {
            let settings = method.memory_bank;
            engine.bank = (0..settings.length as u64)
                .flat_map(|row| widen(init::random_row(row, settings.feat_dim, seed)))
                .map(|x| bank::round(x, settings.dtype))
                .collect();
        }
        Ok(engine)
    }

    /// The losses of the last gradient, not rounded to f32.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// A state by its name (see [`crate::state`]), as stored; `None` if there is none.
    pub fn values(&self, name: &str) -> Option<&[T]> {
        let entry = self.entries.iter().find(|e| e.name == name)?;
        Some(match entry.kind {
            StateKind::Param(i) => &self.params[i],
            StateKind::Statistic(i) => &self.statistics[i],
            StateKind::Momentum(i) => &self.momentum[i],
            StateKind::Bank => &self.bank,
            StateKind::LogZ => &self.log_z,
            StateKind::Gradient(i) => &self.gradients[i],
        })
    }

    /// As [`values`](Reference::values), to be changed in place.
    pub fn values_mut(&mut self, name: &str) -> Option<&mut [T]> {
        let entry = self.entries.iter().find(|e| e.name == name)?;
        Some(match entry.kind {
            StateKind::Param(i) => &mut self.params[i],
            StateKind::Statistic(i) => &mut self.statistics[i],
            StateKind::Momentum(i) => &mut self.momentum[i],
            StateKind::Bank => &mut self.bank,
            StateKind::LogZ => &mut self.log_z,
            StateKind::Gradient(i) => &mut self.gradients[i],
        })
    }

    /// The output of every node, B x H x W x C each: what an engine that differs can be searched
    /// with, node by node. Running statistics move under [`Norm::Track`].
    ///
    /// # Errors
    /// For a batch that doesn't fit.
    pub fn activations(&mut self, images: Images<'_>, norm: Norm) -> Result<Vec<Vec<T>>, Error> {
        check_images(images, self.sizes, self.description.network.in_channels())?;
        let all: Vec<NodeId> = (0..self.shapes.len()).map(NodeId).collect();
        Ok(self.forward(images, norm, &all).values)
    }

    /// The negatives of a batch, B x K.
    fn negatives(&self, rows: &[u64], draws: Draws<'_>) -> Option<Vec<u64>> {
        let neg_num = self.description.method?.neg_num as u32;
        Some(match draws {
            Draws::Given(given) => given.to_vec(),
            Draws::Sampled { epoch, occurrences } => {
                let sampler = self.candidates.sampler()?;
                let of = |(&row, &occurrence)| {
                    let negatives = sampler.of(epoch, row, occurrence);
                    (0..neg_num).map(move |k| negatives.get(k))
                };
                rows.iter().zip(occurrences).flat_map(of).collect()
            }
        })
    }

    /// The method's loss of the features `f` with its gradient. An NCE head's Z moves.
    fn method_loss(&mut self, f: &[T], rows: &[u64], draws: Draws<'_>) -> Option<npid::Loss<T>> {
        let bank = &self.bank;
        match self.description.method?.head {
            Head::Softmax { temperature } => {
                let excluded = self.candidates.excluded();
                Some(npid::softmax(f, bank, rows, excluded, temperature))
            }
            Head::Contrastive { temperature } => {
                let negatives = self.negatives(rows, draws)?;
                Some(npid::contrastive(f, bank, rows, &negatives, temperature))
            }
            Head::Nce {
                temperature,
                z_momentum,
                proximal,
            } => {
                let negatives = self.negatives(rows, draws)?;
                let estimate = || npid::estimate_log_z(f, bank, rows, &negatives, temperature);
                let first = self.log_z[0].f64() == f64::NEG_INFINITY;
                if first {
                    self.log_z = [T::of(estimate())];
                }
                let log_z = self.log_z[0].f64();
                let nce = npid::Nce {
                    temperature,
                    proximal,
                    log_z,
                };
                let loss = npid::nce(f, bank, rows, &negatives, nce);
                if !first && z_momentum > 0.0 {
                    let r = f64::from(z_momentum);
                    self.log_z = [T::of(npid::running_log_z(log_z, estimate(), r))];
                }
                Some(loss)
            }
        }
    }

    /// Where a row of the bank lies.
    fn span(&self, row: u64) -> std::ops::Range<usize> {
        let method = self.description.method;
        let dim = method.map_or(0, |method| method.memory_bank.feat_dim);
        row as usize * dim..(row as usize + 1) * dim
    }

    /// What the features `f` say of the bank.
    fn health(&self, f: &[T], rows: &[u64], effective_negatives: f64) -> BankHealth {
        let dim = f.len() / rows.len();
        let own = |j: u64| &self.bank[j as usize * dim..][..dim];
        let dots = (f.chunks_exact(dim).zip(rows)).map(|(f, &j)| float::dot(f, own(j)));
        BankHealth {
            alignment: (dots.sum::<f64>() / rows.len() as f64) as f32,
            effective_negatives: effective_negatives as f32,
        }
    }

    fn check(&self, images: Images<'_>, objective: Objective<'_>) -> Result<(), Error> {
        check_images(images, self.sizes, self.description.network.in_channels())?;
        check_objective(objective, &self.description, images.count)?;
        self.candidates.check(objective)
    }
}

impl<T: Float> Engine for Reference<T> {
    fn info(&self) -> Info {
        let stored: usize = (self.params.iter())
            .chain(&self.statistics)
            .chain(&self.gradients)
            .chain(&self.momentum)
            .chain([&self.bank])
            .map(Vec::len)
            .sum();
        // Every activation is kept for the backward pass; its gradient lives for a moment.
        let activations: usize = self.shapes.iter().map(Shape::len).sum();
        let elements = stored + self.sizes.batch * activations;
        Info {
            engine: "reference",
            device: "CPU, 1 thread".into(),
            dtype: T::NAME,
            planned_bytes: (elements * size_of::<T>()) as u64,
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
        let tape = self.forward(images, norm, &nodes);
        for (node, into) in nodes.iter().zip(into) {
            into.clear();
            into.extend(tape.values[node.0].iter().map(|v| v.f64() as f32));
        }
        Ok(())
    }

    fn gradient(
        &mut self,
        images: Images<'_>,
        objective: Objective<'_>,
    ) -> Result<Vec<Loss>, Error> {
        self.check(images, objective)?;
        let network = &self.description.network;
        let classifiers = network.classifiers.clone();
        let targets = objective_nodes(network, objective);
        let begun = Instant::now();
        let tape = self.forward(images, Norm::Track, &targets);
        let forward = Instant::now();
        let mut losses: Vec<(String, f64)> = Vec::new();
        let mut seeds = Vec::new();
        match objective {
            Objective::Npid { rows, draws } => {
                for &node in &targets {
                    let f = &tape.values[node.0];
                    let Some(loss) = self.method_loss(f, rows, draws) else {
                        continue;
                    };
                    losses.push(("loss".into(), loss.value));
                    self.health = Some(self.health(f, rows, loss.effective_negatives));
                    seeds.push((node, loss.gradient));
                    self.pending = Some((rows.to_vec(), f.clone()));
                }
            }
            Objective::CrossEntropy { labels } => {
                for c in classifiers {
                    let loss = cross_entropy::cross_entropy(&tape.values[c.logits.0], labels);
                    losses.push((c.name, loss.value));
                    seeds.push((c.logits, loss.gradient));
                }
            }
            Objective::FeatureGradient { gradient } => {
                let widened: Vec<T> = gradient.iter().map(|&g| T::of(f64::from(g))).collect();
                seeds.extend(targets.iter().map(|&node| (node, widened.clone())));
            }
        }
        let compared = Instant::now();
        self.backward(&tape, seeds);
        self.timings += Timings {
            forward: forward - begun,
            bank: compared - forward,
            backward: compared.elapsed(),
            ..Timings::default()
        };
        self.losses = losses.iter().map(|(_, value)| *value).collect();
        let single = |(name, value)| Loss {
            name,
            value: value as f32,
        };
        Ok(losses.into_iter().map(single).collect())
    }

    /// Every trainable parameter moves, also one that no gradient has reached since the last call:
    /// its gradient counts as 0, so decay and momentum still act on it.
    fn apply(&mut self, lr: f32, scale: f32) {
        let begun = Instant::now();
        for (i, param) in self.description.network.params.iter().enumerate() {
            if !param.trainable {
                continue;
            }
            let (w, gradient) = (&mut self.params[i], &mut self.gradients[i]);
            let momentum = &mut self.momentum[i];
            let momentum = (!momentum.is_empty()).then_some(momentum.as_mut_slice());
            sgd::step(
                &self.description.optimizer,
                param,
                sgd::Step { lr, scale },
                w,
                gradient,
                momentum,
            );
            gradient.fill(T::ZERO);
        }
        self.timings.optimizer += begun.elapsed();
    }

    fn update_bank(&mut self) -> Result<(), Error> {
        let (Some((rows, features)), Some(method)) = (self.pending.take(), self.description.method)
        else {
            return Err(Error::Argument(
                "no features wait for the bank; an NPID gradient leaves them".into(),
            ));
        };
        let begun = Instant::now();
        bank::update(&mut self.bank, &rows, &features, method.memory_bank);
        self.timings.bank += begun.elapsed();
        Ok(())
    }

    fn bank_health(&self) -> Option<BankHealth> {
        self.health
    }

    fn take_timings(&mut self) -> Option<Timings> {
        Some(std::mem::take(&mut self.timings))
    }

    fn exclude_rows(&mut self, rows: &[u64]) -> Result<(), Error> {
        self.candidates.exclude(rows)
    }

    fn read_rows(&self, rows: &[u64]) -> Result<Vec<f32>, Error> {
        check_rows(&self.description, rows, None)?;
        let row = |&row: &u64| self.bank[self.span(row)].iter().map(|v| v.f64() as f32);
        Ok(rows.iter().flat_map(row).collect())
    }

    fn write_rows(&mut self, rows: &[u64], values: &[f32]) -> Result<(), Error> {
        check_rows(&self.description, rows, Some(values))?;
        let Some(method) = self.description.method else {
            return Ok(()); // refused above
        };
        let settings = method.memory_bank;
        for (&row, values) in rows.iter().zip(values.chunks_exact(settings.feat_dim)) {
            let span = self.span(row);
            for (into, &v) in self.bank[span].iter_mut().zip(values) {
                *into = bank::round(T::of(f64::from(v)), settings.dtype);
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<StateEntry> {
        self.entries.clone()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, Error> {
        let values = self.values(name).ok_or_else(|| unknown(name))?;
        Ok(values.iter().map(|v| v.f64() as f32).collect())
    }

    fn write(&mut self, name: &str, values: &[f32]) -> Result<(), Error> {
        let into = self.values_mut(name).ok_or_else(|| unknown(name))?;
        if into.len() != values.len() {
            return Err(Error::State(format!(
                "{name} has {} elements, not {}",
                into.len(),
                values.len()
            )));
        }
        for (into, &v) in into.iter_mut().zip(values) {
            *into = T::of(f64::from(v));
        }
        if name == state::BANK
            && let Some(method) = self.description.method
        {
            let rounded = |x: &mut T| *x = bank::round(*x, method.memory_bank.dtype);
            self.bank.iter_mut().for_each(rounded);
        }
        Ok(())
    }
}

fn unknown(name: &str) -> Error {
    Error::State(format!("there is no state named {name}"))
}
