//! Going on with a run: from its newest whole checkpoint, over its own pictures or changed ones.

use std::path::Path;

use npid_engine::{Description, Dtype, Engine, Sizes};

use super::change::{self, Change};
use super::timing::Timing;
use super::{Options, Summary, Trainer, check, fingerprint, weights_hash};
use crate::bank_file::{self, BankFile, Shape};
use crate::checkpoint::{self, Checkpoint, Meta};
use crate::collections::Collections;
use crate::config::{Config, NegWeights, Paths, load};
use crate::error::Error;
use crate::identity::{self, Table};
use crate::progress::Progress;
use crate::run::RunFolder;
use crate::{pending, pretrained};

/// What a resumed run is to do otherwise than its `config.toml` says, which then says it too.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Where the training pictures are, or which they are from now on; in place of `data.path`.
    pub data: Option<Paths>,
    /// The pictures that ask in the kNN figure; in place of `data.val`.
    pub val: Option<Paths>,
    /// Epochs in all; in place of `runner.max_epochs`.
    pub epochs: Option<u32>,
    /// What activations are made of, which can't be changed: it must be what the run has.
    pub dtype: Option<Dtype>,
}

impl Changes {
    fn is_none(&self) -> bool {
        self.data.is_none() && self.val.is_none() && self.epochs.is_none()
    }

    fn keep_dtype(&self, folder: &RunFolder, saved: &Config) -> Result<(), Error> {
        match (self.dtype, saved.dtype) {
            (Some(asked), Some(has)) if asked != has => Err(Error::input(format!(
                "--dtype {}: {} computes in {}, and a run goes on as it began; leave the flag out, \
                 or start a new run",
                asked.name(),
                folder.path().display(),
                has.name()
            ))),
            _ => Ok(()),
        }
    }

    /// The configuration with these changes.
    fn apply(&self, config: &Config) -> Config {
        let mut config = config.clone();
        if let Some(paths) = &self.data {
            config.data.path = Some(paths.clone());
        }
        if let Some(paths) = &self.val {
            config.data.val = Some(paths.clone());
        }
        if let Some(epochs) = self.epochs {
            config.runner.max_epochs = epochs;
        }
        config
    }

    /// Opens the collections of a configuration with these changes.
    fn open(&self, folder: &RunFolder, config: &Config) -> Result<Collections, Error> {
        let given = [("data.path", &self.data), ("data.val", &self.val)];
        if given.iter().all(|(_, paths)| paths.is_none()) {
            return identity::open(folder, config, ", or give it with --data");
        }
        Collections::open_by_key(&config.data).map_err(|(key, error)| {
            let flag = match key {
                "data.val" => "--val",
                _ => "--data",
            };
            // A path that was typed speaks for itself.
            match given.iter().any(|(k, paths)| *k == key && paths.is_some()) {
                true => error,
                false => Error::input(format!(
                    "{key} in {}: {error}; if the pictures were moved, give it with {flag}",
                    folder.config().display()
                )),
            }
        })
    }
}

/// A run that is about to go on.
pub(super) struct Resumed<'a> {
    pub(super) folder: RunFolder,
    /// What `config.toml` says.
    pub(super) saved: Config,
    /// With what was asked for, not resolved yet.
    pub(super) config: Config,
    /// Whether the collection was named with the command.
    pub(super) data_given: bool,
    pub(super) collections: Collections,
    /// `images.parquet`, if it is there.
    pub(super) table: Option<Table>,
    /// The newest whole checkpoint, with a sentence for each newer one that is damaged.
    pub(super) newest: Option<(Checkpoint, Vec<String>)>,
    pub(super) options: &'a Options<'a>,
}

/// What the trainer needs to go on.
pub(super) struct Ready {
    pub(super) config: Config,
    pub(super) engine: Box<dyn Engine>,
    /// `None` where the run begins again.
    pub(super) meta: Option<Meta>,
    /// Where the memory bank is in a file.
    pub(super) bank_file: Option<BankFile>,
    pub(super) change: Option<Change>,
}

/// Continues the run in `folder` from its newest whole checkpoint, or from the start if it was
/// stopped before the first.
///
/// With other pictures than `images.parquet` says, those that stayed keep their rows of the memory
/// bank and new ones start from a forward pass: see [`Change`]. The epoch that was under way is begun
/// again over the new collection; everything else goes on.
///
/// # Errors
/// As [`super::train`]; [`Error::Input`] if the folder is no run or another process trains in it, if
/// of the pictures too few are found again (fewer than half, or none where `changes` names the
/// collection), if fewer epochs are asked for than are done, or if the newest checkpoint is of
/// another version or architecture, or damaged with none before it.
pub fn resume<F>(
    folder: &Path,
    changes: &Changes,
    options: &Options<'_>,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<Summary, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    let timing = Timing::start();
    checkpoint::survive_file_size_limit();
    let folder = RunFolder::open(folder, "--resume")?;
    let lock = folder.lock("--resume", progress)?;
    let newest = bank_file::newest(&folder)?;
    let meta = newest.as_ref().map(|(checkpoint, _)| checkpoint.meta());
    pending::recover(&folder, meta)?;
    let saved = load::of_run(&folder)?;
    changes.keep_dtype(&folder, &saved)?;
    let config = changes.apply(&saved);
    config.check()?;
    if let (Some(epochs), Some(meta)) = (changes.epochs, meta) {
        enough(epochs, meta)?;
    }
    let collections = changes.open(&folder, &config)?;
    let table = Table::open(&folder.images())?;
    if let (Some((checkpoint, _)), Some(table)) = (&newest, &table) {
        belongs(checkpoint, table)?;
    }
    let train = collections.train.clone();
    let difference = identity::difference(table.as_ref(), &config, train.as_ref())?;
    let resumed = Resumed {
        folder: folder.clone(),
        saved,
        config,
        data_given: changes.data.is_some(),
        collections: collections.clone(),
        table,
        newest,
        options,
    };
    let no_table = resumed.table.is_none();
    let ready = match difference {
        None => same(resumed, changes, make_engine, progress)?,
        Some(what) => change::change_over(resumed, &what, make_engine, progress)?,
    };
    let fresh = ready.meta.is_none();
    let (change, bank_file) = (ready.change, ready.bank_file);
    let mut trainer = Trainer::new(
        ready.config,
        collections,
        ready.engine,
        folder,
        lock,
        ready.meta,
        options,
        progress,
        timing,
    )?;
    trainer.bank_file = bank_file;
    if fresh {
        trainer.begin()?;
    } else {
        // A kill may have come between a checkpoint and this.
        trainer.prune()?;
        if no_table {
            trainer.remake_table()?;
        }
    }
    Ok(Summary {
        change,
        ..trainer.run()?
    })
}

/// Whether a run that stands there can be trained to `epochs` epochs in all.
fn enough(epochs: u32, meta: &Meta) -> Result<(), Error> {
    let done = meta.cursor.epoch;
    let begun = meta.cursor.step_in_epoch > 0;
    if epochs < done + u32::from(begun) {
        let more = if begun { " and one is begun" } else { "" };
        return Err(Error::input(format!(
            "--epochs {epochs}: {done} are done{more}; give at least {}",
            done + u32::from(begun)
        )));
    }
    Ok(())
}

/// Whether the rows of a checkpoint are those that the table speaks of.
fn belongs(checkpoint: &Checkpoint, table: &Table) -> Result<(), Error> {
    if checkpoint.meta().collection.as_deref() == table.collection() {
        return Ok(());
    }
    Err(Error::input(format!(
        "{}: its memory bank is of another collection than images.parquet says, which the run had \
         before or after it changed, and there is no other checkpoint to go on from; begin a run \
         from its weights with --set 'model.backbone.init_cfg={{ type = \"Pretrained\", checkpoint \
         = \"{0}\" }}'",
        checkpoint.path().display()
    )))
}

/// What is said and asked once a checkpoint is taken, `before` being the configuration that was
/// found, resolved. (An error comes alone: what is only odd waits until here.)
pub(super) fn odd(
    folder: &RunFolder,
    warnings: &[String],
    meta: &Meta,
    before: &Config,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    warnings.iter().for_each(|text| progress.warning(text));
    if meta.config != fingerprint(before)? {
        progress.warning(&format!(
            "{}: it was changed since the checkpoint was written; what follows is no longer the \
             run that was started",
            folder.config().display()
        ));
    }
    Ok(())
}

/// The run with the pictures it knows.
fn same<F>(
    resumed: Resumed<'_>,
    changes: &Changes,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<Ready, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    let Resumed {
        folder,
        saved,
        config,
        collections,
        newest,
        options,
        ..
    } = resumed;
    check::anything_readable(&collections)?;
    let images = collections.train.len();
    let config = config.resolve(images)?;
    let mut engine = check::prepare(&config, &collections, options, make_engine)?;
    let before = saved.resolve(images)?;
    let mut bank_file = None;
    let meta = match newest {
        Some((checkpoint, warnings)) => {
            same_weights(&config, checkpoint.meta(), engine.as_ref())?;
            bank_file::agrees(&config, checkpoint.meta())?;
            bank_file = (Shape::of(&config))
                .map(|shape| BankFile::open(&folder, &checkpoint, shape))
                .transpose()?;
            checkpoint.load_into(engine.as_mut(), true)?;
            if let Some(bank) = &bank_file {
                bank.restore(engine.as_mut())?;
            }
            odd(&folder, &warnings, checkpoint.meta(), &before, progress)?;
            Some(checkpoint.meta().clone())
        }
        None => {
            progress.note("the run was stopped before its first checkpoint; starting again");
            if let Some((_, note)) = pretrained::load(engine.as_mut(), &config)? {
                progress.note(&note);
            }
            None
        }
    };
    folder.tidy()?;
    if let Some(bank) = &mut bank_file {
        bank.tidy()?;
    }
    if !changes.is_none() && config != before {
        pending::replace_config(&folder, &config.to_toml()?)?;
    }
    Ok(Ready {
        config,
        engine,
        meta,
        bank_file,
        change: None,
    })
}

/// Whether negatives are drawn by the numbers that the run was started with.
fn same_weights(config: &Config, meta: &Meta, engine: &dyn Engine) -> Result<(), Error> {
    let now = weights_hash(engine);
    if now == meta.neg_weights {
        return Ok(());
    }
    let what = match (&config.model.neg_weights, &meta.neg_weights) {
        (Some(NegWeights::File(path)), Some(_)) => format!(
            "{}: it holds other numbers than the run was started with; restore it",
            path.display()
        ),
        (Some(NegWeights::Column { column }), Some(_)) => {
            format!("column {column} holds other numbers than the run was started with; restore it")
        }
        (config, saved) => return weighted_alike(config.is_some(), saved.is_some()),
    };
    Err(Error::input(format!("model.neg_weights: {what}")))
}

/// Whether negatives are drawn by weights exactly if they were before.
pub(super) fn weighted_alike(now: bool, then: bool) -> Result<(), Error> {
    let what = match (now, then) {
        (true, false) => "the run was started without; remove it from config.toml",
        (false, true) => "the run was started with some; put it back into config.toml",
        _ => return Ok(()),
    };
    Err(Error::input(format!("model.neg_weights: {what}")))
}
