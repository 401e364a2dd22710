//! Training: a run from its first step, or from a checkpoint, to its last.
//!
//! The order of things in a run: the sources are opened and everything that was given is checked;
//! the engine is made; only then the run folder. With labels, the kNN figures of raw pixels and of
//! the untrained network are measured; the bank gets its start; a checkpoint of step 0 is written.
//! Then epochs: steps, evaluation where it is due, a line in `metrics.jsonl`, a checkpoint.
//!
//! Everything a step depends on is drawn by (seed, epoch, image) or stands in the checkpoint, so a
//! resumed run takes the same steps, bit for bit, as one that was never stopped.

mod change;
pub(crate) mod check;
mod epoch;
mod resume;
mod step;
mod timing;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use npid_data::loader::Batch;
use npid_data::source::ContentHash;
use npid_engine::{Description, Dtype, Engine, Sizes};
use serde::Serialize;

use crate::bank_file::{BankFile, Begun, Shape};
use crate::checkpoint::{self, Cursor, Figures, LossSum, Meta};
use crate::collections::{Collections, KnnSplit};
use crate::config::Config;
use crate::error::Error;
use crate::health::{self, Health};
use crate::images::ImageTable;
use crate::knn::{Measurement, Reading};
use crate::progress::{KnnSubject, Progress, Started};
use crate::run::{Line, Lock, Metrics, RunFolder};
use crate::schedule::Schedule;
use crate::tensorboard::EventLog;
use crate::{neg_weights, pretrained, start};

pub use change::Change;
pub(crate) use epoch::SAMPLE;
pub use resume::{Changes, resume};
use timing::Timing;

/// What a run is told beside its configuration; nothing here changes a result.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Threads that search for neighbours; 0 is one for each core.
    pub threads: usize,
    /// Threads that load pictures, in place of `data.workers`.
    pub workers: Option<usize>,
    /// Whether a picture that can't be read ends the run instead of being skipped.
    pub strict: bool,
    /// Set (by Ctrl-C) to write a checkpoint and stop.
    pub stop: &'a AtomicBool,
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The run folder.
    pub run: PathBuf,
    /// Epochs trained.
    pub epochs: u32,
    /// Optimiser steps.
    pub steps: u64,
    /// Mean loss of the last epoch.
    pub loss: f64,
    /// The loss of features that know nothing.
    pub chance_loss: f64,
    /// kNN top-1 at the end, percent; `None` without labels, as all the kNN figures.
    pub knn_top1: Option<f64>,
    /// kNN top-5 at the end.
    pub knn_top5: Option<f64>,
    /// kNN top-1 of the untrained network.
    pub knn_top1_untrained: Option<f64>,
    /// kNN top-1 of raw pixels.
    pub knn_top1_pixels: Option<f64>,
    /// Images that could not be read.
    pub skipped: usize,
    /// What became of the memory bank's rows, where this process found another collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// Images trained a second by this process, evaluation not counted; 0 if it trained none.
    pub images_per_s: f64,
    /// Seconds of this process, evaluation included.
    pub seconds: f64,
}

/// Trains a new run. `out` is its folder (see [`RunFolder::create`]); `make_engine` chooses the
/// engine and device.
///
/// # Errors
/// - [`Error::Input`] for what can't be used; nothing is left behind then;
/// - [`Error::Run`] for what fails on the way: a loss that isn't finite, a full disk; the
///   checkpoints so far stay;
/// - [`Error::Interrupted`] after `options.stop`, with a checkpoint written.
pub fn train<F>(
    config: &Config,
    out: &Path,
    options: &Options<'_>,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<Summary, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    let timing = Timing::start();
    checkpoint::survive_file_size_limit();
    config.check()?;
    let collections = Collections::open(&config.data)?;
    check::anything_readable(&collections)?;
    let mut config = config.resolve(collections.train.len())?;
    let mut engine = check::prepare(&config, &collections, options, make_engine)?;
    config.dtype = Dtype::named(engine.info().dtype).or(config.dtype);
    let pretrained = pretrained::load(engine.as_mut(), &config)?;
    if options.strict {
        check::all(&collections, &config, options)?;
    }
    let folder = RunFolder::create(out, &config.to_toml()?)?;
    let lock = folder.lock("--out", progress)?;
    if let Some((report, note)) = pretrained {
        progress.note(&note);
        report.write(folder.path())?;
    }
    let mut trainer = Trainer::new(
        config,
        collections,
        engine,
        folder,
        lock,
        None,
        options,
        progress,
        timing,
    )?;
    if let Err(error) = trainer.begin() {
        if let Error::Input(_) = error {
            // A run that may not start leaves nothing; what can't be removed does no harm.
            let _ = std::fs::remove_dir_all(trainer.folder.path());
        }
        return Err(error);
    }
    trainer.run()
}

/// Optimiser steps of an epoch over `images` pictures that can all be read.
pub(crate) fn steps_of_an_epoch(config: &Config, images: usize) -> u64 {
    let data = &config.data;
    let interval = config.optimizer_config.update_interval;
    epoch::steps(images, data.batch_size, data.drop_last, interval)
}

/// SHA-256 of a configuration, less what never changes a result.
pub(crate) fn fingerprint(config: &Config) -> Result<String, Error> {
    let mut config = config.clone();
    config.data.workers = 0;
    config.log.tensorboard = true;
    config.model.memory_bank.max_dirty_bytes = None;
    // As runs of versions that had nothing else.
    config.dtype = config.dtype.filter(|dtype| *dtype != Dtype::F32);
    // Pictures may be moved: `identity` sees to it that they are the same ones.
    config.data.path = None;
    config.data.data_prefix = None;
    // The numbers count, whose hash is kept beside this one, and not where they stand.
    config.model.neg_weights = None;
    Ok(ContentHash::of(config.to_toml()?.as_bytes()).to_string())
}

/// SHA-256 of the weights of negatives, where there are any.
pub(crate) fn weights_hash(engine: &dyn Engine) -> Option<String> {
    let weights = engine.description().neg_weights.as_deref();
    weights.map(neg_weights::hash)
}

fn reading_of<'a>(config: &Config, options: &Options<'a>) -> Reading<'a> {
    Reading {
        size: config.data.size,
        batch: config.data.batch_size,
        workers: options.workers.unwrap_or(config.data.workers),
        threads: options.threads,
        stop: options.stop,
    }
}

/// A run in progress.
struct Trainer<'a> {
    config: Config,
    collections: Collections,
    engine: Box<dyn Engine>,
    folder: RunFolder,
    /// Held as long as the run is in progress.
    _lock: Option<Lock>,
    metrics: Metrics,
    /// Unless `log.tensorboard` is off or there is nothing left to do.
    events: Option<EventLog>,
    images: ImageTable,
    schedule: Schedule,
    split: Option<KnnSplit>,
    reading: Reading<'a>,
    strict: bool,
    progress: &'a mut dyn Progress,
    timing: Timing,
    cursor: Cursor,
    log: LossSum,
    epoch_loss: LossSum,
    health: Health,
    /// Rows whose health is looked at.
    health_rows: BTreeSet<u64>,
    figures: Figures,
    /// Unreadable rows that were known when the epoch began.
    epoch_skipped: BTreeSet<u64>,
    /// Evaluation views of the images that the collapse indicator looks at.
    sample: Option<Batch>,
    /// The newest checkpoint of this process or the one it came from.
    saved: Option<PathBuf>,
    /// Where the memory bank is in a file; a new run's from the first step on.
    bank_file: Option<BankFile>,
}

impl<'a> Trainer<'a> {
    fn new(
        config: Config,
        collections: Collections,
        engine: Box<dyn Engine>,
        folder: RunFolder,
        lock: Option<Lock>,
        meta: Option<Meta>,
        options: &Options<'a>,
        progress: &'a mut dyn Progress,
        timing: Timing,
    ) -> Result<Self, Error> {
        let images = collections.train.len();
        let cursor = meta.as_ref().map(|meta| meta.cursor);
        let metrics = Metrics::open(&folder.metrics(), cursor)?;
        let finished = cursor.is_some_and(|at| at.epoch >= config.runner.max_epochs);
        let events = (config.log.tensorboard && !finished)
            .then(|| EventLog::begin(folder.path(), &folder.metrics(), cursor))
            .transpose()?;
        let (split, notes) = collections.knn_split(&config, config.evaluation.max_rows);
        let notes = [collections.notes(), notes].concat();
        notes.iter().for_each(|note| progress.note(note));
        let steps = steps_of_an_epoch(&config, images);
        let schedule = Schedule::new(
            &config.lr_config,
            config.optimizer.lr,
            config.runner.max_epochs,
            steps,
        );
        let health_rows = health::sample(images, config.seed);
        let mut table = ImageTable::new(images);
        let mut saved = None;
        if let Some(meta) = &meta {
            let settled = meta.cursor.epoch > 0;
            table.restore(&meta.skipped, settled, collections.train.as_ref());
            table.belong_to(meta.collection.clone());
            saved = Some(
                folder
                    .checkpoints()
                    .join(checkpoint::file_name(meta.cursor.step)),
            );
        }
        let (cursor, log, epoch_loss, figures, epoch_skipped, health) = meta
            .map(|m| {
                (
                    m.cursor,
                    m.log,
                    m.epoch,
                    m.figures,
                    m.epoch_skipped,
                    m.health,
                )
            })
            .unwrap_or_default();
        let mut trainer = Trainer {
            reading: reading_of(&config, options),
            config,
            collections,
            engine,
            folder,
            _lock: lock,
            metrics,
            events,
            images: table,
            schedule,
            split,
            strict: options.strict,
            progress,
            timing,
            cursor,
            log,
            epoch_loss,
            health,
            health_rows,
            figures,
            epoch_skipped,
            sample: None,
            saved,
            bank_file: None,
        };
        trainer.announce();
        Ok(trainer)
    }

    fn announce(&mut self) {
        let info = self.engine.info();
        let description = self.engine.description();
        let data = &self.config.data;
        let images = self.collections.train.len();
        let epochs = self.config.runner.max_epochs;
        let each = steps_of_an_epoch(&self.config, images);
        let started = Started {
            run: self.folder.path().to_path_buf(),
            images,
            epochs,
            // Epochs over another collection may have had other numbers of steps.
            steps: self.cursor.step - self.cursor.step_in_epoch
                + u64::from(epochs.saturating_sub(self.cursor.epoch)) * each,
            step: self.cursor.step,
            batch: data.batch_size,
            update_interval: self.interval(),
            chance_loss: self.chance_loss(),
            parameters: description.network.parameter_count(),
            engine: info.engine.to_string(),
            device: info.device,
            planned_bytes: info.planned_bytes,
            knn_queries: self.split.as_ref().map_or(0, |split| split.queries.len()),
        };
        self.progress.started(&started);
    }

    /// Training pictures that aren't known to be unreadable.
    fn readable(&self) -> usize {
        self.collections.train.len() - self.images.skipped_count()
    }

    fn chance_loss(&self) -> f64 {
        let method = self.engine.description().method;
        method.map_or(0.0, |method| method.chance_loss_among(self.readable()))
    }

    /// Makes a missing `images.parquet` again. While epochs are left, contents are hashed in the
    /// next one.
    fn remake_table(&mut self) -> Result<(), Error> {
        let path = self.folder.images();
        self.progress.warning(&format!(
            "{}: it was missing and is made again; whether the pictures are those that the run \
             was started with can't be checked",
            path.display()
        ));
        let train = self.collections.train.clone();
        self.images.unsettle();
        if self.cursor.epoch < self.config.runner.max_epochs {
            self.images.write(&path, train.as_ref())
        } else {
            self.images.settle(&path, train.as_ref())
        }
    }

    /// All that comes before the first step: the bank's start, the figures to compare with, the
    /// table of images and the checkpoint of step 0.
    fn begin(&mut self) -> Result<(), Error> {
        match self.before_steps() {
            Err(Error::Interrupted(_)) => Err(Error::Interrupted(format!(
                "stopped before the first step; continue with npid train --resume {}",
                self.folder.path().display()
            ))),
            other => other,
        }
    }

    fn before_steps(&mut self) -> Result<(), Error> {
        let total = self.collections.train.len();
        let train = self.collections.train.clone();
        let (images, progress, strict) = (&mut self.images, &mut *self.progress, self.strict);
        let mut unreadable = Vec::new();
        let mut done = 0;
        let mut begun = (Shape::of(&self.config))
            .map(|shape| Begun::create(&self.folder, shape, self.config.seed))
            .transpose()?;
        start::fill_bank(
            self.engine.as_mut(),
            begun.as_mut(),
            &self.config,
            &train,
            self.reading,
            &mut |batch| {
                images.read(batch);
                unreadable.extend(images.skip(&batch.skipped, strict, progress)?);
                done += batch.rows.len() + batch.skipped.len();
                progress.working("first features", done, total);
                Ok(())
            },
        )?;
        if let Some(begun) = begun {
            let engine = self.engine.as_mut();
            self.bank_file = Some(BankFile::begin(&self.folder, begun, engine)?);
        }
        self.exclude(&unreadable)?;
        if self.split.is_some() {
            let untrained = self.measure(KnnSubject::Untrained)?;
            let pixels = self.measure(KnnSubject::Pixels)?;
            for report in [&untrained, &pixels].into_iter().flatten() {
                self.write(&Line::Knn(report))?;
            }
            self.figures.untrained = untrained;
            self.figures.pixels = pixels;
        }
        self.show_views()?;
        self.images.write(&self.folder.images(), train.as_ref())?;
        self.save()
    }

    /// Adds a line to `metrics.jsonl`, and its numbers to the event file.
    fn write(&mut self, line: &Line<'_>) -> Result<(), Error> {
        self.metrics.write(line)?;
        match &mut self.events {
            Some(events) => events.line(line),
            None => Ok(()),
        }
    }

    /// A kNN figure, told to the listener; `None` without labels.
    fn measure(
        &mut self,
        subject: KnnSubject,
    ) -> Result<Option<crate::progress::KnnReport>, Error> {
        let Some(split) = &self.split else {
            return Ok(None);
        };
        let measurement = Measurement {
            split,
            collections: &self.collections,
            k: self.config.evaluation.k,
            tau: self.config.evaluation.temperature,
            reading: self.reading,
        };
        let progress = &mut *self.progress;
        let report = if subject == KnnSubject::Pixels {
            measurement.pixels(progress)?
        } else {
            // At the end of an epoch its number is one more than that of finished epochs.
            let trained = u32::from(subject == KnnSubject::Trained);
            let when = (self.cursor.epoch + trained, self.cursor.step);
            // Queries are the same throughout; those held out are in the table of images.
            let warn = trained == 0 && !split.held_out;
            measurement.network(self.engine.as_mut(), subject, when, warn, progress)?
        };
        progress.knn(&report);
        Ok(Some(report))
    }

    /// Excludes rows from the bank for good.
    fn exclude(&mut self, rows: &[u64]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        // There were enough when the run began; those of a disk that was taken away are not.
        let (left, all) = (self.readable(), self.collections.train.len());
        let batch = self.config.data.batch_size;
        if left < batch.max(check::FEWEST) {
            return Err(Error::run(check::too_few(left, all, batch, "")));
        }
        if let Err(error) = self.engine.exclude_rows(rows) {
            return Err(match &self.config.model.neg_weights {
                Some(_) => Error::run(format!(
                    "model.neg_weights: without the pictures that can't be read, {error}; give \
                     others a weight"
                )),
                None => error.into(),
            });
        }
        let chance = self.chance_loss();
        self.progress.chance_loss(chance);
        Ok(())
    }

    /// Writes a checkpoint and removes those that are no longer kept.
    fn save(&mut self) -> Result<(), Error> {
        self.metrics.sync()?;
        if let Some(events) = &mut self.events {
            events.sync()?;
        }
        let step = self.cursor.step;
        if let Some(bank) = &mut self.bank_file {
            bank.save(step, self.engine.as_ref())?;
        }
        let meta = Meta {
            version: checkpoint::VERSION,
            cursor: self.cursor,
            seed: self.config.seed,
            skipped: self.images.skipped(),
            epoch_skipped: self.epoch_skipped.clone(),
            config: fingerprint(&self.config)?,
            neg_weights: weights_hash(self.engine.as_ref()),
            collection: self.images.collection().map(str::to_string),
            rows: self.bank_file.as_ref().map(BankFile::id),
            log: self.log,
            epoch: self.epoch_loss,
            figures: self.figures.clone(),
            health: self.health.clone(),
        };
        let written = checkpoint::save(&self.folder.checkpoints(), self.engine.as_ref(), &meta);
        if let (Err(_), Some(bank)) = (&written, &mut self.bank_file) {
            bank.unsave(step);
        }
        let path = written?;
        self.progress.checkpoint(&path, step);
        self.saved = Some(path);
        self.prune()
    }

    /// Removes checkpoints that are no longer kept; a bank's file takes what those that are all
    /// include.
    fn prune(&mut self) -> Result<(), Error> {
        let best = self.figures.best.map(|best| best.step);
        let (step, keep) = (self.cursor.step, self.config.checkpoint.keep);
        self.folder.prune(step, keep, best)?;
        if let Some(bank) = &mut self.bank_file
            && let Some(oldest) = self.folder.oldest_kept(step, keep)?
        {
            bank.fold(oldest, self.engine.as_mut())?;
        }
        Ok(())
    }

    /// What to say of a run that was asked to stop.
    fn interrupted(&self) -> Error {
        Error::Interrupted(format!(
            "stopped in epoch {} after step {}; continue with npid train --resume {}",
            self.cursor.epoch + 1,
            self.cursor.step,
            self.folder.path().display()
        ))
    }

    fn summary(&self) -> Summary {
        let Figures {
            pixels,
            untrained,
            trained,
            ..
        } = &self.figures;
        Summary {
            run: self.folder.path().to_path_buf(),
            epochs: self.cursor.epoch,
            steps: self.cursor.step,
            loss: self.epoch_loss.mean(),
            chance_loss: self.chance_loss(),
            knn_top1: trained.as_ref().map(|report| report.knn_top1),
            knn_top5: trained.as_ref().map(|report| report.knn_top5),
            knn_top1_untrained: untrained.as_ref().map(|report| report.knn_top1),
            knn_top1_pixels: pixels.as_ref().map(|report| report.knn_top1),
            skipped: self.images.skipped_count(),
            change: None,
            images_per_s: self.timing.run_images_per_s(),
            seconds: self.timing.seconds(),
        }
    }
}
