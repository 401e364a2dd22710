//! What a finished run is asked: its kNN figure, and its embedding of any collection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use npid_data::loader::Skipped;
use npid_data::source::{self, Source, Wanted};
use npid_engine::{Description, Dtype, Engine, Norm, Sizes};
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Choice, survive_file_size_limit};
use crate::collections::{Collections, KnnSplit};
use crate::config::{Config, load};
use crate::error::Error;
use crate::knn::{Measurement, Reading, embed_each};
use crate::npy::NpyWriter;
use crate::progress::{KnnReport, KnnSubject, Progress};
use crate::run::RunFolder;
use crate::table::{self, Column};
use crate::{identity, method};

/// How a run is asked.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Which of its checkpoints answers; nothing else here changes an answer.
    pub checkpoint: Choice,
    /// Threads of the search; 0 is one for each core.
    pub threads: usize,
    /// Threads that load pictures, in place of the run's `data.workers`.
    pub workers: Option<usize>,
    /// Set (by Ctrl-C) to stop.
    pub stop: &'a AtomicBool,
}

/// A run's network, ready to embed.
struct Trained {
    folder: RunFolder,
    config: Config,
    checkpoint: Checkpoint,
    engine: Box<dyn Engine>,
}

impl Trained {
    /// Loads a checkpoint of the run in `folder`. The engine gets the network alone: no bank, no
    /// optimiser.
    fn open<F>(
        folder: &Path,
        choice: Choice,
        make_engine: F,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error>
    where
        F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
    {
        let folder = RunFolder::open(folder, "--run")?;
        let config = load::of_run(&folder)?;
        let (checkpoint, warnings) = choice.open(&folder)?;
        warnings.iter().for_each(|text| progress.warning(text));
        // The method is left out below: any length that a configuration may have will do.
        let length = (config.model.memory_bank.length).unwrap_or(config.data.batch_size.max(2));
        let description = method::without_method(method::describe(&config, length)?);
        let mut engine = make_engine(&description, method::sizes(&config), config.dtype)?;
        checkpoint.load_into(engine.as_mut(), false)?;
        Ok(Trained {
            folder,
            config,
            checkpoint,
            engine,
        })
    }

    /// The run's own pictures, which must be those it was started with.
    fn collections(&self, progress: &mut dyn Progress) -> Result<Collections, Error> {
        let collections = identity::open(&self.folder, &self.config, "")?;
        let train = collections.train.as_ref();
        if !identity::check(&self.folder, "--run", &self.config, train)? {
            progress.warning(&format!(
                "{}: it is missing, so whether the pictures are those that the run was started \
                 with can't be checked",
                self.folder.images().display()
            ));
        }
        Ok(collections)
    }

    fn reading<'a>(&self, options: &Options<'a>) -> Reading<'a> {
        Reading {
            size: self.config.data.size,
            batch: self.config.data.batch_size,
            workers: options.workers.unwrap_or(self.config.data.workers),
            threads: options.threads,
            stop: options.stop,
        }
    }
}

/// The kNN figure of a checkpoint of the run in `folder`.
///
/// The run's training pictures vote, all of them; the collections at `data` ask if there are any,
/// else what asked during training. `k` and `tau` take the run's own values where they are `None`.
///
/// # Errors
/// [`Error::Input`] for a folder that is no run, a collection that can't be used or has no labels,
/// k 0 or a τ that isn't above 0.
pub fn evaluate_knn<F>(
    folder: &Path,
    data: &[PathBuf],
    k: Option<usize>,
    tau: Option<f64>,
    options: &Options<'_>,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<KnnReport, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    if k == Some(0) {
        return Err(Error::input("-k 0: at least 1 neighbour must vote"));
    }
    if let Some(tau) = tau
        && !((tau as f32).is_finite() && tau as f32 > 0.0)
    {
        return Err(Error::input(format!(
            "--temperature {tau}: it must be above 0"
        )));
    }
    let queries = given(data, Wanted::Queries, progress)?;
    let mut trained = Trained::open(folder, options.checkpoint, make_engine, progress)?;
    let mut collections = trained.collections(progress)?;
    if queries.is_some() {
        collections.val = queries;
    }
    let (split, notes) = collections.knn_split(&trained.config, usize::MAX);
    let Some(split) = split else {
        return Err(Error::input(
            [collections.notes(), notes].concat().join("; "),
        ));
    };
    notes.iter().for_each(|note| progress.note(note));
    let measurement = Measurement {
        split: &split,
        collections: &collections,
        k: k.unwrap_or(trained.config.evaluation.k),
        tau: tau.unwrap_or(trained.config.evaluation.temperature),
        reading: trained.reading(options),
    };
    let cursor = trained.checkpoint.meta().cursor;
    let when = (cursor.epoch, cursor.step);
    let engine = trained.engine.as_mut();
    let report = measurement.network(engine, KnnSubject::Trained, when, true, progress)?;
    progress.knn(&report);
    Ok(report)
}

/// The collection at the paths given; `None` without any.
fn given(
    data: &[PathBuf],
    wanted: Wanted,
    progress: &mut dyn Progress,
) -> Result<Option<Arc<dyn Source>>, Error> {
    if data.is_empty() {
        return Ok(None);
    }
    let opened = source::find(data, wanted, &source::Options::default())?;
    opened.found.iter().for_each(|text| progress.note(text));
    Ok(Some(opened.pictures))
}

/// What [`embed`] wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EmbedReport {
    /// The array, N x D.
    pub array: PathBuf,
    /// The table, a row for each row of the array.
    pub table: PathBuf,
    /// N.
    pub rows: usize,
    /// D.
    pub dim: usize,
    /// The splits among the rows with the number of each, in the order of the rows' sources.
    pub splits: Vec<(String, usize)>,
    /// Names of pictures that could not be read, and why: they have no row.
    pub skipped: Vec<(String, String)>,
}

/// Where an embedded row came from.
struct Origin {
    part: usize,
    row: u64,
}

/// Writes the normalised embedding of a collection's pictures (evaluation view, evaluation mode)
/// as `out` (`.npy`) and, beside it with the ending `.parquet`, a table whose row i is about row i
/// of the array: `path`, `label`, `split`, `row` (in the collection).
///
/// Without `data` the run's own pictures are embedded: `split` is `train` for those that vote in
/// its kNN figure and `val` for those that ask, with labels numbered alike. With `data` it is
/// `data`.
///
/// # Errors
/// [`Error::Input`] for a folder that is no run, a collection or a file that can't be used;
/// [`Error::Run`] for a disk that is full.
pub fn embed<F>(
    folder: &Path,
    data: &[PathBuf],
    out: &Path,
    options: &Options<'_>,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<EmbedReport, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    survive_file_size_limit();
    let table_path = out.with_extension("parquet");
    if out.extension().is_none_or(|ending| ending != "npy") {
        return Err(Error::input(format!(
            "--out {}: name a file that ends in .npy",
            out.display()
        )));
    }
    for path in [out, &table_path] {
        if path.exists() {
            return Err(Error::input(format!(
                "--out {}: {} exists already; name another file",
                out.display(),
                path.display()
            )));
        }
    }
    let given = given(data, Wanted::All, progress)?;
    let mut trained = Trained::open(folder, options.checkpoint, make_engine, progress)?;
    let parts = match given {
        Some(source) => vec![Part {
            label: (0..source.len()).map(|row| source.label(row)).collect(),
            split: vec!["data"; source.len()],
            source,
        }],
        None => own_parts(&trained.config, &trained.collections(progress)?),
    };
    for part in &parts {
        source::first_readable(part.source.as_ref(), |_| false)?;
    }
    let dim = trained.config.feat_dim();
    let mut array = NpyWriter::create(out, dim)?;
    let (mut origins, mut skipped) = (Vec::new(), Vec::new());
    let reading = trained.reading(options);
    let total = parts.iter().map(|part| part.source.len()).sum();
    for (index, part) in parts.iter().enumerate() {
        let rows = (0..part.source.len() as u64).collect();
        let engine = trained.engine.as_mut();
        embed_each(
            engine,
            &part.source,
            rows,
            Norm::Eval,
            reading,
            &mut |_, batch, features| {
                array.write(features)?;
                origins.extend(batch.rows.iter().map(|&row| Origin { part: index, row }));
                for Skipped { name, reason, .. } in &batch.skipped {
                    progress.warning(&format!("left out: {name} can't be read ({reason})"));
                    skipped.push((name.clone(), reason.clone()));
                }
                progress.working("embedding", origins.len() + skipped.len(), total);
                Ok(())
            },
        )?;
    }
    let part = |i: usize| (&parts[origins[i].part], origins[i].row as usize);
    let columns = [
        (
            "path",
            Column::Text(&|i| {
                let (part, row) = part(i);
                Some(part.source.name(row))
            }),
        ),
        (
            "label",
            Column::Numbers(&|i| {
                let (part, row) = part(i);
                part.label[row].map(i64::from)
            }),
        ),
        (
            "split",
            Column::Text(&|i| {
                let (part, row) = part(i);
                Some(part.split[row].to_string())
            }),
        ),
        ("row", Column::Numbers(&|i| Some(part(i).1 as i64))),
    ];
    let mut splits: Vec<(String, usize)> = Vec::new();
    for i in 0..origins.len() {
        let (part, row) = part(i);
        match splits.iter_mut().find(|(name, _)| name == part.split[row]) {
            Some((_, rows)) => *rows += 1,
            None => splits.push((part.split[row].to_string(), 1)),
        }
    }
    table::write(&table_path, origins.len(), &columns)?;
    let finished = array.finish();
    if finished.is_err() {
        // A table without its array is of no use.
        let _ = std::fs::remove_file(&table_path);
    }
    Ok(EmbedReport {
        array: out.to_path_buf(),
        table: table_path,
        rows: finished?,
        dim,
        splits,
        skipped,
    })
}

/// Pictures to embed, with what the table says of each.
struct Part {
    source: Arc<dyn Source>,
    label: Vec<Option<u32>>,
    split: Vec<&'static str>,
}

/// A run's own pictures: those that vote and those that ask.
fn own_parts(config: &Config, collections: &Collections) -> Vec<Part> {
    let (split, _) = collections.knn_split(config, usize::MAX);
    let train = &collections.train;
    let mut parts = vec![Part {
        label: (0..train.len()).map(|row| train.label(row)).collect(),
        split: vec!["train"; train.len()],
        source: train.clone(),
    }];
    if let Some(KnnSplit {
        queries,
        held_out: true,
        ..
    }) = &split
    {
        queries
            .iter()
            .for_each(|&row| parts[0].split[row as usize] = "val");
    }
    if let Some(val) = &collections.val {
        let mut label: Vec<Option<u32>> = (0..val.len()).map(|row| val.label(row)).collect();
        if let Some(split) = &split {
            // The numbers that the training classes have.
            for (&row, &number) in split.queries.iter().zip(&split.query_labels) {
                label[row as usize] = Some(number);
            }
        }
        parts.push(Part {
            label,
            split: vec!["val"; val.len()],
            source: val.clone(),
        });
    }
    parts
}
