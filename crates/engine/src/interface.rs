//! The interface every engine implements, and the checks they share.

use std::time::Duration;

use npid_network::graph::{Network, NodeId};
use npid_network::method::Description;

use crate::mapped::MappedRows;
use crate::operation::Operation;
use crate::state::StateEntry;

/// What a program is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// B, the largest batch; shorter ones are allowed.
    pub batch: usize,
    /// Height of the images.
    pub height: usize,
    /// Width of the images.
    pub width: usize,
}

/// The type of the numbers that activations and their gradients are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// The upper 16 bits of them: activations and their gradients in half the memory. Sums,
    /// statistics, parameters and their gradients stay f32.
    Bf16,
}

impl Dtype {
    /// All, with their names.
    pub const NAMED: [(&'static str, Dtype); 2] = [("f32", Dtype::F32), ("bf16", Dtype::Bf16)];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Dtype> {
        let mut all = Dtype::NAMED.into_iter();
        all.find_map(|(known, dtype)| (known == name).then_some(dtype))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }
}

/// A batch of images: bytes, B x H x W x C with C contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// `count * height * width * channels` bytes. The network's input node normalises them.
    pub pixels: &'a [u8],
    /// B.
    pub count: usize,
}

/// How batch norm behaves in [`Engine::features`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By the running statistics; changes nothing.
    Eval,
    /// By the batch's own statistics; changes nothing.
    Batch,
    /// By the batch's own statistics, which also move the running ones: what
    /// `memory_bank.init = "features"` needs. The only case in which `features` changes state.
    Track,
}

/// What [`Engine::features`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The map of a chosen stage (an index of the network's `stages`), B x H x W x C.
    Stage(usize),
    /// The normalised feature, B x D.
    Embedding,
}

/// Where the negatives of a step come from.
#[derive(Clone, Copy, Debug)]
pub enum Draws<'a> {
    /// Drawn from (seed, epoch, row, occurrence); see `npid_network::method::NegativeSampler`.
    Sampled {
        /// The epoch.
        epoch: u32,
        /// For each image, which use of it in this epoch this is (0 for the first).
        occurrences: &'a [u32],
    },
    /// Taken as they are: B x K rows, for tests.
    Given(&'a [u64]),
}

/// What a gradient is taken of.
#[derive(Clone, Copy, Debug)]
pub enum Objective<'a> {
    /// The method's loss; its features become the pending update of the bank.
    Npid {
        /// The bank row of each image.
        rows: &'a [u64],
        /// The negatives; heads that don't sample ignore them.
        draws: Draws<'a>,
    },
    /// Sum of the mean cross entropies of all the network's classifiers.
    CrossEntropy {
        /// The class of each image.
        labels: &'a [u32],
    },
    /// Σ features · gradient, for a loss of one's own.
    FeatureGradient {
        /// B x D, the gradient of that loss with respect to the normalised features.
        gradient: &'a [f32],
    },
}

/// A named loss, a mean over the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// `loss` for the method, else the classifier's name.
    pub name: String,
    /// Its value.
    pub value: f32,
}

/// What a comparison of a batch with the bank says of the bank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BankHealth {
    /// Mean of f·v_i, a feature with its own row, before the row's update: 1 where they agree.
    pub alignment: f32,
    /// Mean over the batch of (Σ w)² / Σ w² over the negatives of an image, w being the weight of a
    /// negative in the gradient (its softmax probability; h of NCE): how many of equal weight they
    /// are worth, from 1 to K or N - 1. NaN where no negative has a weight.
    pub effective_negatives: f32,
}

/// Where the time of training goes: seconds of wall clock in [`Engine::gradient`],
/// [`Engine::update_bank`] and [`Engine::apply`], whether called one by one or as a step.
/// [`Engine::features`] isn't counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// The forward pass, with what it first has to do to weights that have changed.
    pub forward: Duration,
    /// The backward pass from the gradient of the features (or logits) on.
    pub backward: Duration,
    /// Loss and gradient of the features (or logits), and the bank's update.
    pub bank: Duration,
    /// The optimiser.
    pub optimizer: Duration,
}

impl std::ops::AddAssign for Timings {
    fn add_assign(&mut self, other: Timings) {
        self.forward += other.forward;
        self.backward += other.backward;
        self.bank += other.bank;
        self.optimizer += other.optimizer;
    }
}

/// What an engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `reference` or `cpu`.
    pub engine: &'static str,
    /// The device, for people: instruction set and threads, for example.
    pub device: String,
    /// Type of the activations.
    pub dtype: &'static str,
    /// Bytes planned before the first step: activations, parameters, optimiser and bank.
    pub planned_bytes: u64,
}

/// What can go wrong in an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The description can't be compiled.
    #[error(transparent)]
    Description(#[from] npid_network::Error),
    /// An argument doesn't fit the program.
    #[error("{0}")]
    Argument(String),
    /// A state that doesn't exist or has another size.
    #[error("{0}")]
    State(String),
}

/// Compiled programs and the state they work on.
///
/// Parameter gradients ACCUMULATE from one [`Engine::gradient`] to the next until
/// [`Engine::apply`] uses and clears them.
pub trait Engine: Send {
    /// What this engine is.
    fn info(&self) -> Info;

    /// What it was compiled from.
    fn description(&self) -> &Description;

    /// What it was compiled for.
    fn sizes(&self) -> Sizes;

    /// Forward pass: the chosen outputs, each into the vector of the same position (resized).
    ///
    /// # Errors
    /// For a batch that doesn't fit or an output that the network hasn't.
    fn features(
        &mut self,
        images: Images<'_>,
        norm: Norm,
        outputs: &[Output],
        into: &mut [Vec<f32>],
    ) -> Result<(), Error>;

    /// Forward and backward pass in training mode (running statistics move): adds to the
    /// accumulated gradients and returns the losses. NPID's features wait for
    /// [`Engine::update_bank`], replacing any that waited.
    ///
    /// # Errors
    /// For arguments that don't fit; nothing has changed then.
    ///
    /// An NCE head's Z, like running statistics, moves here: see [`npid_network::method::Head`].
    fn gradient(
        &mut self,
        images: Images<'_>,
        objective: Objective<'_>,
    ) -> Result<Vec<Loss>, Error>;

    /// One optimiser step over the accumulated gradients times `scale`; they are cleared. After n
    /// micro-batches a scale of 1/n makes the step that of their mean.
    fn apply(&mut self, lr: f32, scale: f32);

    /// Commits the pending features: v ← normalise((1-m)·v + m·f) for each row of the last NPID
    /// gradient. Every feature reads the old row; where a row occurs twice, the last one in batch
    /// order is kept.
    ///
    /// # Errors
    /// If nothing is pending.
    fn update_bank(&mut self) -> Result<(), Error>;

    /// What the last NPID gradient found of the bank; `None` before the first.
    fn bank_health(&self) -> Option<BankHealth>;

    /// Where the time went since this was last asked; `None` from an engine that can't tell.
    fn take_timings(&mut self) -> Option<Timings> {
        None
    }

    /// What ran since this was last asked, operation by operation, in its order; before the first
    /// call nothing is kept. For benches: what isn't taken piles up. Empty from an engine that
    /// can't tell.
    fn take_operations(&mut self) -> Vec<Operation> {
        Vec::new()
    }

    /// [`gradient`](Engine::gradient), [`apply`](Engine::apply) and, for NPID,
    /// [`update_bank`](Engine::update_bank) in one.
    ///
    /// # Errors
    /// As `gradient`.
    fn step(
        &mut self,
        images: Images<'_>,
        objective: Objective<'_>,
        lr: f32,
    ) -> Result<Vec<Loss>, Error> {
        let losses = self.gradient(images, objective)?;
        self.apply(lr, 1.0);
        if matches!(objective, Objective::Npid { .. }) {
            self.update_bank()?;
        }
        Ok(losses)
    }

    /// Rows that are never drawn or counted from now on: images that can't be read. Adds to those
    /// excluded before.
    ///
    /// # Errors
    /// For a row that doesn't exist, or if too few would be left.
    fn exclude_rows(&mut self, rows: &[u64]) -> Result<(), Error>;

    /// Copies rows of the bank out, R x D in the order asked for.
    ///
    /// # Errors
    /// If there is no bank, or not such a row.
    fn read_rows(&self, rows: &[u64]) -> Result<Vec<f32>, Error>;

    /// Replaces rows of the bank by `values`, R x D, rounded once.
    ///
    /// # Errors
    /// If there is no bank, or not such a row, or they are of another length; nothing has changed
    /// then.
    fn write_rows(&mut self, rows: &[u64], values: &[f32]) -> Result<(), Error>;

    /// Takes a mapped file's rows for the bank's, where the description says that they are in one
    /// (`RowStorage::File`); until then they are zeros.
    ///
    /// # Errors
    /// If the description doesn't say so, or the rows are others in number or type.
    fn map_rows(&mut self, _rows: MappedRows) -> Result<(), Error> {
        Err(Error::State(
            "this engine keeps the memory bank in memory alone".into(),
        ))
    }

    /// Says that the mapped file now holds the rows `in_file` as they are here, so that memory need
    /// no longer hold them; the rows `newer` it holds as they once were. Both ascend. Changes no
    /// row.
    fn release_rows(&mut self, _in_file: &[u64], _newer: &[u64]) {}

    /// Names, shapes and kinds of all state; see [`crate::state`] for the names.
    fn state(&self) -> Vec<StateEntry>;

    /// Copies a state out, in torchvision's layout.
    ///
    /// # Errors
    /// If there is none of this name.
    fn read(&self, name: &str) -> Result<Vec<f32>, Error>;

    /// Replaces a state.
    ///
    /// # Errors
    /// If there is none of this name, or it has another number of elements.
    fn write(&mut self, name: &str, values: &[f32]) -> Result<(), Error>;
}

/// Checks a batch against what the programs were compiled for.
///
/// # Errors
/// Says which size is wrong.
pub fn check_images(images: Images<'_>, sizes: Sizes, channels: usize) -> Result<(), Error> {
    if images.count == 0 || images.count > sizes.batch {
        return Err(Error::Argument(format!(
            "a batch of {} images; the engine was compiled for 1 to {}",
            images.count, sizes.batch
        )));
    }
    let expected = images.count * sizes.height * sizes.width * channels;
    if images.pixels.len() != expected {
        return Err(Error::Argument(format!(
            "{} bytes for {} images of {}x{}x{channels}; expected {expected}",
            images.pixels.len(),
            images.count,
            sizes.height,
            sizes.width
        )));
    }
    Ok(())
}

/// Checks an objective against a description and a batch of `count` images.
///
/// # Errors
/// Says which argument doesn't fit.
pub fn check_objective(
    objective: Objective<'_>,
    description: &Description,
    count: usize,
) -> Result<(), Error> {
    let fail = |message: String| Err(Error::Argument(message));
    let network = &description.network;
    match objective {
        Objective::Npid { rows, draws } => {
            let Some(method) = &description.method else {
                return fail("the NPID objective needs a description with a method".into());
            };
            let n = method.memory_bank.length as u64;
            if rows.len() != count {
                return fail(format!("{} rows for {count} images", rows.len()));
            }
            if let Some(bad) = rows.iter().find(|&&r| r >= n) {
                return fail(format!("row {bad} of a bank of {n}"));
            }
            if method.head.samples() {
                match draws {
                    Draws::Sampled { occurrences, .. } if occurrences.len() != count => {
                        return fail(format!(
                            "{} occurrences for {count} images",
                            occurrences.len()
                        ));
                    }
                    Draws::Given(given) if given.len() != count * method.neg_num => {
                        return fail(format!(
                            "{} given negatives; expected {count} x {}",
                            given.len(),
                            method.neg_num
                        ));
                    }
                    Draws::Given(given) => {
                        if let Some(bad) = given.iter().find(|&&r| r >= n) {
                            return fail(format!("negative {bad} of a bank of {n}"));
                        }
                    }
                    Draws::Sampled { .. } => {}
                }
            }
        }
        Objective::CrossEntropy { labels } => {
            if labels.len() != count {
                return fail(format!("{} labels for {count} images", labels.len()));
            }
            if network.classifiers.is_empty() {
                return fail("cross entropy needs a network with a classifier".into());
            }
            for classifier in &network.classifiers {
                let classes = network.node(classifier.logits).channels;
                if let Some(bad) = labels.iter().find(|&&l| l as usize >= classes) {
                    return fail(format!(
                        "label {bad}, but {} has {classes} classes",
                        classifier.name
                    ));
                }
            }
        }
        Objective::FeatureGradient { gradient } => {
            let dim = network.feat_dim();
            if dim == 0 {
                return fail("the network has no embedding".into());
            }
            if gradient.len() != count * dim {
                return fail(format!(
                    "a feature gradient of {} numbers; expected {count} x {dim}",
                    gradient.len()
                ));
            }
        }
    }
    Ok(())
}

/// Checks rows of the bank, and the numbers that are to be written to them.
///
/// # Errors
/// Says what doesn't fit.
pub fn check_rows(
    description: &Description,
    rows: &[u64],
    values: Option<&[f32]>,
) -> Result<(), Error> {
    let Some(method) = &description.method else {
        return Err(Error::State("there is no memory bank".into()));
    };
    let (n, dim) = (method.memory_bank.length, method.memory_bank.feat_dim);
    if let Some(bad) = rows.iter().find(|&&row| row >= n as u64) {
        return Err(Error::State(format!("row {bad} of a bank of {n}")));
    }
    match values {
        Some(values) if values.len() != rows.len() * dim => Err(Error::State(format!(
            "{} numbers for {} rows of {dim}",
            values.len(),
            rows.len()
        ))),
        _ => Ok(()),
    }
}

/// The nodes of the outputs that [`Engine::features`] is asked for, `into` vectors waiting.
///
/// # Errors
/// If the network hasn't one of them, or the vectors aren't as many.
pub fn output_nodes(
    network: &Network,
    outputs: &[Output],
    into: usize,
) -> Result<Vec<NodeId>, Error> {
    if outputs.len() != into {
        let n = outputs.len();
        return Err(Error::Argument(format!("{n} outputs into {into} vectors")));
    }
    let node = |output: &Output| match output {
        Output::Embedding => {
            (network.embedding).ok_or_else(|| "the network has no embedding".to_string())
        }
        Output::Stage(index) => {
            let stage = network.stages.iter().find(|s| s.0 == *index);
            stage.map(|s| s.1).ok_or_else(|| {
                let known: Vec<usize> = network.stages.iter().map(|s| s.0).collect();
                format!("stage {index} is not among the network's out_indices {known:?}")
            })
        }
    };
    let nodes = outputs.iter().map(node).collect::<Result<_, _>>();
    nodes.map_err(Error::Argument)
}

/// The nodes that an objective's loss is a function of; nothing else runs for it.
pub fn objective_nodes(network: &Network, objective: Objective<'_>) -> Vec<NodeId> {
    match objective {
        Objective::CrossEntropy { .. } => network.classifiers.iter().map(|c| c.logits).collect(),
        Objective::Npid { .. } | Objective::FeatureGradient { .. } => {
            network.embedding.into_iter().collect()
        }
    }
}
