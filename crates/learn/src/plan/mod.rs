//! What a run will be, before it is one: network, memory, time, disk. Nothing is written.
//!
//! The engine is made as the run would make it, takes a few steps on made-up pixels, and is thrown
//! away; a few pictures are read and augmented. From these times, the number of pictures and the
//! settings follows how long a run takes; where whole steps would be too long, part of a batch is
//! timed and the rest inferred.

mod measure;
mod time;

use npid_engine::{Description, Dtype, Engine, Sizes, StateEntry, StateKind};
use serde::Serialize;

use crate::bank_file::{self, Shape};
use crate::collections::{Collections, KnnSplit};
use crate::config::{BackboneType, Config};
use crate::derive::{Choice, Facts};
use crate::error::Error;
use crate::feed;
use crate::pretrained;
use crate::trainer::{Options, check};

pub use time::Time;

/// A run, foreseen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What is trained on.
    pub collection: Collection,
    /// What is trained.
    pub network: Network,
    /// What computes.
    pub engine: Engines,
    /// Bytes of memory.
    pub memory: Memory,
    /// Seconds.
    pub time: Time,
    /// Bytes on the disk.
    pub disk: Disk,
    /// Derived settings and why they are so, and what was given; empty where a recipe says it all.
    pub settings: Vec<Choice>,
    /// The whole configuration, resolved.
    pub config: Config,
}

/// The pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Collection {
    /// The kind of source, as a person would name it.
    pub kind: String,
    /// N.
    pub images: usize,
    /// Number of classes; 0 without labels.
    pub classes: usize,
    /// Pictures that vote in the kNN figure; 0 where there is none.
    pub voters: usize,
    /// Pictures that ask.
    pub queries: usize,
    /// What a sample looks like; `None` where none of it can be read.
    pub facts: Option<Facts>,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Network {
    /// In words.
    pub name: String,
    /// Height and width of its images.
    pub size: usize,
    /// Number of weights.
    pub parameters: usize,
    /// D.
    pub feat_dim: usize,
    /// Floating-point operations for one picture, forward.
    pub forward_flops: f64,
    /// The same with the gradient.
    pub step_flops: f64,
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Engines {
    /// Its name.
    pub engine: String,
    /// The device, for people.
    pub device: String,
    /// Type of the activations.
    pub dtype: String,
}

/// Memory, in bytes. The engine's own share is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What the engine takes: the four that follow.
    pub engine: u64,
    /// Activations, their gradients and room to work in.
    pub activations: u64,
    /// Weights and their gradients.
    pub weights: u64,
    /// The optimiser's state.
    pub optimizer: u64,
    /// The memory bank; of one in a file what it may take at most beside the system's cache of
    /// files.
    pub bank: u64,
    /// Pictures on their way, about.
    pub loader: u64,
    /// Names and labels of the pictures, about.
    pub names: u64,
    /// While the bank gets its start or a checkpoint is written: a copy of the largest tensor.
    pub copy: u64,
    /// All of it.
    pub total: u64,
}

/// What a run leaves on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// One checkpoint.
    pub checkpoint: u64,
    /// How many are kept: the latest, and the best where there is a kNN figure.
    pub kept: usize,
    /// The memory bank's file, where it is in one; a checkpoint holds the rows that changed.
    pub bank: u64,
    /// All of them.
    pub total: u64,
}

/// Bytes that the name, label and hash of a picture take, about.
const NAME_BYTES: u64 = 120;

/// Foresees the run of `config` on `collections`. `facts` are those the settings were derived from,
/// if they were; `choices` are those settings.
///
/// # Errors
/// What would keep the run from starting; [`Error::Interrupted`] when asked to stop.
pub fn plan<F>(
    config: &Config,
    collections: &Collections,
    facts: Option<Facts>,
    choices: Vec<Choice>,
    options: &Options<'_>,
    make_engine: F,
) -> Result<Plan, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    config.check()?;
    check::anything_readable(collections)?;
    let mut config = config.resolve(collections.train.len())?;
    let mut engine = check::prepare(&config, collections, options, make_engine)?;
    config.dtype = Dtype::named(engine.info().dtype).or(config.dtype);
    // A file of weights that a run refuses is refused here.
    pretrained::load(engine.as_mut(), &config)?;
    let (split, _) = collections.knn_split(&config, config.evaluation.max_rows);
    let threads = feed::load_options(1, 0, false).threads;
    let train = collections.train.as_ref();
    let facts = facts.or_else(|| Facts::of(train, split.as_ref(), threads));
    let memory = memory(&config, engine.as_ref(), facts.as_ref(), options);
    let disk = disk(&config, engine.as_ref(), split.as_ref());
    let network = network(&config, engine.description())?;
    let info = engine.info();
    let time = time::estimate(
        &config,
        collections,
        split.as_ref(),
        engine.as_mut(),
        options,
        disk,
    )?;
    let description = train.describe();
    Ok(Plan {
        collection: Collection {
            kind: description.kind,
            images: description.images,
            classes: description.classes,
            voters: split.as_ref().map_or(0, |split| split.voters.len()),
            queries: split.as_ref().map_or(0, |split| split.queries.len()),
            facts,
        },
        network,
        engine: Engines {
            engine: info.engine.to_string(),
            device: info.device,
            dtype: info.dtype.to_string(),
        },
        memory,
        time,
        disk,
        settings: choices,
        config,
    })
}

fn network(config: &Config, description: &Description) -> Result<Network, Error> {
    let backbone = &config.model.backbone;
    let size = config.data.size;
    let multiplications = description.network.multiplications(size, size)?;
    let stem = match backbone.kind {
        BackboneType::ResNet => "ImageNet stem",
        BackboneType::ResNetCifar => "CIFAR stem",
    };
    Ok(Network {
        name: format!(
            "ResNet-{}, {stem}, {} channels",
            backbone.depth, backbone.base_channels
        ),
        size,
        parameters: description.network.parameter_count(),
        feat_dim: description.network.feat_dim(),
        forward_flops: 2.0 * multiplications as f64,
        step_flops: 6.0 * multiplications as f64,
    })
}

/// Bytes of a state as it is stored.
fn entry_bytes(entry: &StateEntry) -> u64 {
    (entry.dtype.bytes() * entry.len()) as u64
}

fn memory(
    config: &Config,
    engine: &dyn Engine,
    facts: Option<&Facts>,
    options: &Options<'_>,
) -> Memory {
    let bytes = |of: fn(StateKind) -> bool| -> u64 {
        let entries = engine.state();
        let entries = entries.iter().filter(|entry| of(entry.kind));
        entries.map(entry_bytes).sum()
    };
    // A gradient for each weight; the engine may or may not name it as state.
    let weights = 2 * bytes(|kind| matches!(kind, StateKind::Param(_)))
        + bytes(|kind| matches!(kind, StateKind::Statistic(_)));
    let optimizer = bytes(|kind| matches!(kind, StateKind::Momentum(_)));
    let bank = bytes(|kind| kind == StateKind::Bank);
    let in_file = Shape::of(config).is_some();
    let entries = engine.state();
    let copied = |entry: &&StateEntry| !(in_file && entry.kind == StateKind::Bank);
    // A tensor is copied as 32-bit numbers, whatever it is stored as.
    let largest = (entries.iter().filter(copied)).map(|entry| 4 * entry.len() as u64);
    let copy = largest.max().unwrap_or(0);
    let mut planned = engine.info().planned_bytes;
    let bank = match in_file {
        true => bank.min(bank_file::max_dirty_bytes(config)),
        false => bank,
    };
    if in_file {
        planned += bank;
    }

    let data = &config.data;
    let workers = options.workers.unwrap_or(data.workers);
    let load = feed::load_options(data.batch_size, workers, false);
    let batch = (data.batch_size * data.size * data.size * 3) as u64;
    // Encoded bytes and what the decoder keeps are about as much again as the pixels.
    let picture = facts.map_or(0, |facts| (facts.width * facts.height * 3 * 2) as u64);
    let loader = batch * (load.ahead as u64 + 2) + picture * load.threads as u64;
    let names = config.model.memory_bank.length.unwrap_or(0) as u64 * NAME_BYTES;
    Memory {
        engine: planned,
        activations: planned.saturating_sub(weights + optimizer + bank),
        weights,
        optimizer,
        bank,
        loader,
        names,
        copy,
        total: planned + loader + names + copy,
    }
}

fn disk(config: &Config, engine: &dyn Engine, split: Option<&KnnSplit>) -> Disk {
    let saved = engine.state();
    let saved = saved.iter().filter(|entry| entry.saved());
    let whole: u64 = saved.map(entry_bytes).sum();
    let (bank, changes) = bank_file::disk_bytes(config);
    let checkpoint = whole - bank + changes;
    let written = config.runner.max_epochs / config.checkpoint.interval + 2;
    let kept = (config.checkpoint.keep + usize::from(split.is_some())).min(written as usize);
    Disk {
        checkpoint,
        kept,
        bank,
        total: bank + checkpoint * kept as u64,
    }
}
