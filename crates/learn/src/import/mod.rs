//! Somebody else's run as a run of npid's: `npid import`.
//!
//! lemniscate's and MMSelfSup's NPID checkpoints bring a network, an optimiser, where they stand
//! and, most of them, the memory bank. Row i of that bank is picture i of the collection it was
//! trained on; that the pictures given now are those, in that order, nothing in the file says. So
//! their number must be the bank's, and features of some pictures are compared with their rows.
//!
//! A file with a network alone becomes a run that can embed and be measured, not be gone on with.

mod found;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use npid_data::source::{self, Source};
use npid_engine::state::{BANK, LOG_Z, MOMENTUM, StateKind};
use npid_engine::{Description, Dtype, Engine, Norm, Sizes};
use npid_weights::resnet::{self, Matched};
use serde::Serialize;
use toml::Table;

use crate::checkpoint::{self, Cursor, Figures, LossSum, Meta};
use crate::collections::Collections;
use crate::config::{Config, Paths, Storage, load};
use crate::error::Error;
use crate::health::Health;
use crate::images::ImageTable;
use crate::knn::{Reading, embed_each};
use crate::pretrained;
use crate::progress::Progress;
use crate::recipes::{self, Recipe};
use crate::run::RunFolder;
use crate::{method, neg_weights, trainer};

use found::{Found, Kind};

/// Pictures whose features are compared with their rows of the bank.
const ASKED: usize = 64;

/// What is to be imported.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The file of weights.
    pub file: &'a Path,
    /// What comes before the network's names in it; found where not given.
    pub prefix: Option<&'a str>,
    /// The pictures that it was trained on, or that are to be embedded.
    pub data: &'a Paths,
    /// Labelled pictures that ask in the kNN figure; what `data` holds for it if `None`.
    pub val: Option<&'a Paths>,
    /// The run's folder; see [`RunFolder::create`].
    pub out: &'a Path,
    /// Where settings come from that the file doesn't hold; the nearest embedded recipe if `None`.
    pub recipe: Option<Recipe>,
    /// `KEY=VALUE`, after all else.
    pub sets: &'a [String],
}

/// How it is done; nothing here changes a result.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Threads that load pictures, in place of `data.workers`.
    pub workers: Option<usize>,
    /// Set (by Ctrl-C) to stop.
    pub stop: &'a std::sync::atomic::AtomicBool,
}

/// Where the memory bank of an imported run comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BankOrigin {
    /// From the file.
    Kept,
    /// The features of the pictures: the file has none.
    Computed,
    /// There is none: the run can't be gone on with.
    None,
}

/// How many of some pictures are nearest to their own row of the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OwnRows {
    /// Pictures whose features were compared with the rows of all of them.
    pub asked: usize,
    /// Those nearest to their own.
    pub nearest: usize,
}

/// What was imported.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The run folder.
    pub run: PathBuf,
    /// `lemniscate`, `MMSelfSup` or `network`.
    pub from: &'static str,
    /// Depth of the ResNet.
    pub depth: usize,
    /// Channels of its stem.
    pub base_channels: usize,
    /// D.
    pub feat_dim: usize,
    /// N.
    pub images: usize,
    /// Epochs finished.
    pub epoch: u32,
    /// Weights and running statistics taken.
    pub loaded: usize,
    /// Names in the file that were not: `weights.json` lists them.
    pub unused: usize,
    /// The memory bank.
    pub memory_bank: BankOrigin,
    /// Whether the optimiser's momentum was taken.
    pub momentum: bool,
    /// Whether pictures and rows belong together, where the bank was kept.
    pub own_rows: Option<OwnRows>,
    /// The recipe that the other settings come from.
    pub recipe: String,
}

/// Makes a run folder from a file of weights.
///
/// # Errors
/// [`Error::Input`] for what can't be used: the file, the pictures, or that they don't belong
/// together; nothing is left behind then. [`Error::Run`] if the folder can't be written.
pub fn import<F>(
    request: &Request<'_>,
    options: &Options<'_>,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<Report, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    checkpoint::survive_file_size_limit();
    let file = npid_weights::read(request.file)?;
    let found = Found::of(&file, request.prefix)?;
    let recipe = match &request.recipe {
        Some(recipe) => recipe.clone(),
        None => recipes::find(found.recipe())?,
    };
    // An error in the recipe is told as for training.
    let mut data = load::load(&recipe, &[])?.data;
    data.path = Some(request.data.clone());
    data.val = request.val.cloned();
    let collections = Collections::open(&data)?;
    collections
        .notes()
        .iter()
        .for_each(|note| progress.note(note));
    let images = collections.train.len();
    fits(&found, request, images)?;
    source::first_readable(collections.train.as_ref(), |_| false)?;
    let mut config = settings(&found, request, &recipe, images, progress)?;
    config.data.path = data.path;
    config.data.val = data.val;
    let mut config = config.resolve(images)?;
    if config.model.memory_bank.storage == Storage::File {
        return Err(Error::input(
            "model.memory_bank.storage is \"file\", which an imported run can't have; leave it out",
        ));
    }

    let mut description = method::describe(&config, images)?;
    description.neg_weights = neg_weights::of(&config, collections.train.as_ref())?;
    if found.kind == Kind::Network {
        description = method::without_method(description);
    }
    let mut engine = make_engine(&description, method::sizes(&config), config.dtype)?;
    config.dtype = Dtype::named(engine.info().dtype).or(config.dtype);
    let matched = network(engine.as_mut(), &found)?;
    progress.note(&format!(
        "{}: {}",
        request.file.display(),
        matched.summary()
    ));
    let momentum = match found.kind {
        Kind::Network => false,
        _ => optimizer(engine.as_mut(), &found, &matched, progress)?,
    };
    let reading = Reading {
        size: config.data.size,
        batch: config.data.batch_size,
        workers: options.workers.unwrap_or(config.data.workers),
        threads: 0,
        stop: options.stop,
    };
    let (memory_bank, own_rows) = bank(
        engine.as_mut(),
        &found,
        &config,
        &collections.train,
        reading,
        progress,
    )?;

    let folder = RunFolder::create(request.out, &config.to_toml()?)?;
    let loaded = matched.loaded.len();
    let unused = matched.unused.len();
    let weights = pretrained::Report::new(request.file, found.prefix.clone(), matched);
    if let Err(error) = fill(
        &folder,
        &config,
        engine.as_ref(),
        found.epoch,
        &weights,
        collections.train.as_ref(),
    ) {
        // Half a run is of no use; what can't be removed does no harm.
        let _ = std::fs::remove_dir_all(folder.path());
        return Err(error);
    }
    Ok(Report {
        run: folder.path().to_path_buf(),
        from: found.kind.name(),
        depth: found.architecture.depth,
        base_channels: found.architecture.base_channels,
        feat_dim: config.feat_dim(),
        images,
        epoch: found.epoch,
        loaded,
        unused,
        memory_bank,
        momentum,
        own_rows,
        recipe: recipe.name,
    })
}

/// Whether the bank has a row for each picture, and its features the network's dimension.
fn fits(found: &Found<'_>, request: &Request<'_>, images: usize) -> Result<(), Error> {
    let Some(bank) = &found.bank else {
        return Ok(());
    };
    let file = found.file.path().display();
    let dim = found.neck.as_ref().map(|neck| neck.out_channels);
    match (found.file.shape(bank), dim) {
        (Some(&[rows, dim]), Some(d)) if dim == d as u64 => {
            if rows != images as u64 {
                return Err(Error::input(format!(
                    "--data {}: {images} pictures, but the memory bank in {file} has {rows} rows; \
                     give the pictures that it was trained on, in the same order",
                    request.data
                )));
            }
            Ok(())
        }
        (shape, dim) => Err(Error::input(format!(
            "{file}: its memory bank {bank} is {:?}, but the network's features have dimension {}",
            shape.unwrap_or_default(),
            dim.unwrap_or(0)
        ))),
    }
}

/// The recipe with what the file says in place of what it says.
fn settings(
    found: &Found<'_>,
    request: &Request<'_>,
    recipe: &Recipe,
    images: usize,
    progress: &mut dyn Progress,
) -> Result<Config, Error> {
    let mut table: Table = recipe.text.parse().unwrap_or_default();
    found.settle(&mut table, request.recipe.is_none(), images);
    let batch = table.get("data").and_then(|data| data.get("batch_size"));
    if let Some(batch) = batch.and_then(toml::Value::as_integer)
        && batch > images as i64
    {
        progress.note(&format!(
            "data.batch_size is {images}, all there are, in place of the recipe's {batch}"
        ));
        found::put(&mut table, "data.batch_size", (images as i64).into());
    }
    let text = toml::to_string(&table)
        .map_err(|error| Error::input(format!("{}: {error}", recipe.origin())))?;
    let recipe = Recipe {
        text,
        ..recipe.clone()
    };
    load::load(&recipe, request.sets)
}

/// Gives the engine all weights and running statistics, which the file must have.
fn network(engine: &mut dyn Engine, found: &Found<'_>) -> Result<Matched, Error> {
    let entries = engine.state();
    let wanted = (entries.iter())
        .filter(|entry| matches!(entry.kind, StateKind::Param(_) | StateKind::Statistic(_)))
        .map(|entry| (entry.name.as_str(), &entry.shape[..]));
    let mut matched =
        resnet::matched(found.file, &found.prefix, wanted, &|ours| found.other(ours))?;
    matched.unused.retain(|name| !found.uses(name));
    if let Some(first) = matched.missing.first() {
        return Err(Error::input(format!(
            "{}: it has nothing for {first}{}; a run can't be made of half a network",
            found.file.path().display(),
            match matched.missing.len() {
                1 => String::new(),
                n => format!(" and {} other weights", n - 1),
            }
        )));
    }
    matched.load(found.file, &mut |name, tensor| -> Result<(), Error> {
        Ok(engine.write(name, &tensor.data)?)
    })?;
    Ok(matched)
}

/// Gives the engine the optimiser's momentum; false, with a note, where it begins at zero.
fn optimizer(
    engine: &mut dyn Engine,
    found: &Found<'_>,
    matched: &Matched,
    progress: &mut dyn Progress,
) -> Result<bool, Error> {
    let zero = |why: &str| format!("the optimiser's momentum begins at zero: {why}");
    let buffers = match found.momentum() {
        Ok(buffers) => buffers,
        Err(why) => {
            progress.note(&zero(&why));
            return Ok(false);
        }
    };
    let mut taken = Vec::new();
    for entry in engine.state() {
        let Some(weight) = entry.name.strip_prefix(MOMENTUM) else {
            continue;
        };
        let theirs = matched.loaded.iter().find(|(ours, _)| ours == weight);
        let buffer = theirs.and_then(|(_, name)| buffers.iter().find(|(n, _)| n == name));
        let own = entry.shape.iter().map(|&n| n as u64);
        match buffer {
            Some((name, tensor)) if own.eq(tensor.shape.iter().copied()) => {
                taken.push((entry.name, found.file.load_tensor(name, tensor)?));
            }
            _ => {
                progress.note(&zero(&format!("it has none of the shape of {weight}")));
                return Ok(false);
            }
        }
    }
    for (name, tensor) in &taken {
        engine.write(name, &tensor.data)?;
    }
    Ok(!taken.is_empty())
}

/// Gives the engine the bank.
fn bank(
    engine: &mut dyn Engine,
    found: &Found<'_>,
    config: &Config,
    source: &Arc<dyn Source>,
    reading: Reading<'_>,
    progress: &mut dyn Progress,
) -> Result<(BankOrigin, Option<OwnRows>), Error> {
    if found.kind == Kind::Network {
        return Ok((BankOrigin::None, None));
    }
    let dim = config.feat_dim();
    if let Some(name) = &found.bank {
        let rows = found.file.load(name)?.data;
        if rows.iter().any(|value| !value.is_finite()) {
            return Err(Error::input(format!(
                "{}: {name} holds numbers that aren't finite: the training had failed",
                found.file.path().display()
            )));
        }
        engine.write(BANK, &rows)?;
        let has = engine.state().iter().any(|entry| entry.name == LOG_Z);
        if let (true, Some(log_z)) = (has, found.log_z) {
            engine.write(LOG_Z, &[log_z])?;
        }
        let own = own_rows(engine, &rows, dim, source, reading)?;
        return Ok((BankOrigin::Kept, own));
    }
    progress.note(
        "the file has no memory bank (MMSelfSup 0.x doesn't save it): its rows become the features \
         of the pictures",
    );
    let (count, mut done) = (source.len(), 0);
    embed_each(
        engine,
        source,
        (0..count as u64).collect(),
        Norm::Eval,
        reading,
        &mut |engine, batch, features| {
            engine.write_rows(&batch.rows, features)?;
            done += batch.rows.len() + batch.skipped.len();
            progress.working("features for the bank", done, count);
            Ok(())
        },
    )?;
    Ok((BankOrigin::Computed, None))
}

/// Compares the features of pictures spread evenly with each other's rows.
fn own_rows(
    engine: &mut dyn Engine,
    bank: &[f32],
    dim: usize,
    source: &Arc<dyn Source>,
    reading: Reading<'_>,
) -> Result<Option<OwnRows>, Error> {
    let count = source.len();
    let asked = count.min(ASKED);
    let rows: Vec<u64> = (0..asked).map(|i| (i * count / asked) as u64).collect();
    let mut own = OwnRows {
        asked: 0,
        nearest: 0,
    };
    let similarity = |feature: &[f32], row: u64| -> f32 {
        let row = &bank[row as usize * dim..(row as usize + 1) * dim];
        let dot: f32 = row.iter().zip(feature).map(|(a, b)| a * b).sum();
        let norm: f32 = row.iter().map(|a| a * a).sum();
        dot / norm.sqrt().max(1e-12)
    };
    embed_each(
        engine,
        source,
        rows.clone(),
        Norm::Eval,
        reading,
        &mut |_, batch, features| {
            for (&row, feature) in batch.rows.iter().zip(features.chunks_exact(dim)) {
                let best = similarity(feature, row);
                let nearest = rows.iter().all(|&other| similarity(feature, other) <= best);
                own.asked += 1;
                own.nearest += usize::from(nearest);
            }
            Ok(())
        },
    )?;
    Ok((own.asked > 1).then_some(own))
}

/// Writes what a run folder holds beside its configuration.
fn fill(
    folder: &RunFolder,
    config: &Config,
    engine: &dyn Engine,
    epoch: u32,
    weights: &pretrained::Report,
    source: &dyn Source,
) -> Result<(), Error> {
    weights.write(folder.path())?;
    let mut images = ImageTable::new(source.len());
    images.hash_some(source);
    images.write(&folder.images(), source)?;
    let steps = trainer::steps_of_an_epoch(config, source.len());
    let meta = Meta {
        version: checkpoint::VERSION,
        cursor: Cursor {
            epoch,
            step_in_epoch: 0,
            step: u64::from(epoch) * steps,
        },
        seed: config.seed,
        skipped: Default::default(),
        epoch_skipped: Default::default(),
        config: trainer::fingerprint(config)?,
        neg_weights: trainer::weights_hash(engine),
        collection: None,
        log: LossSum::default(),
        epoch: LossSum::default(),
        health: Health::new(u64::from(epoch) * steps),
        figures: Figures::default(),
        rows: None,
    };
    checkpoint::save(&folder.checkpoints(), engine, &meta)?;
    Ok(())
}
