//! A run whose collection has changed: the memory bank takes the new one's rows.
//!
//! Everything is looked at and computed first; then the run is changed at once (see
//! [`crate::pending`]), so that whatever ends the process it is the old run or the new one.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use npid_data::source::{ContentHash, Source};
use npid_engine::state::BANK;
use npid_engine::{Description, Dtype, Engine, Norm, Sizes};
use npid_network::init::random_row;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::resume::{Ready, Resumed, odd, weighted_alike};
use super::{check, fingerprint, reading_of, weights_hash};
use crate::checkpoint::{self, Checkpoint, LossSum, Meta};
use crate::config::{Config, NegWeights, Storage};
use crate::error::Error;
use crate::feed::load_options;
use crate::health::Health;
use crate::identity::{self, Table};
use crate::images::ImageTable;
use crate::knn::{Reading, embed_each};
use crate::matching::{Matched, Then, matched};
use crate::pending;
use crate::progress::Progress;
use crate::run::RunFolder;

/// Pictures that a thread hashes at a time.
const CHUNK: usize = 32;

/// What became of the rows of the memory bank when the collection changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Pictures that were there before: their rows are what they were, bit for bit.
    pub kept: usize,
    /// Pictures that were not; their rows are their features by the network as it is.
    pub new: usize,
    /// Pictures that are there no more.
    pub gone: usize,
}

/// Gives the run the collection it was found with, which differs from its own by `what`.
pub(super) fn change_over<F>(
    resumed: Resumed<'_>,
    what: &str,
    make_engine: F,
    progress: &mut dyn Progress,
) -> Result<Ready, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    let Resumed {
        folder,
        saved,
        mut config,
        data_given,
        collections,
        table,
        newest,
        options,
    } = resumed;
    let run = folder.path().display();
    let refused = |why: &str| Error::input(format!("--resume {run}: {what}; {why}"));
    if config.model.memory_bank.storage == Storage::File {
        return Err(refused(
            "with model.memory_bank.storage = \"file\" a run keeps its pictures: restore them, or \
             start a new run",
        ));
    }
    let Some((checkpoint, warnings)) = newest else {
        return Err(refused(
            "it has no checkpoint yet, so no rows to keep: restore its pictures, or start a new run",
        ));
    };
    let Some(table) = table else {
        return Err(refused(
            "without images.parquet nothing says which picture a row belongs to: restore that \
             file or the pictures, or start a new run",
        ));
    };
    let train = &collections.train;
    let (then, now) = (table.rows(), train.len());
    let search = Search {
        run: run.to_string(),
        then,
        pictures: identity::pictures(&config),
        flags: flags(&config),
        meant: data_given,
    };
    // Hashing may take long, and can't find more than there are.
    search.enough(now, "at most")?;
    check::anything_readable(&collections)?;
    config.model.memory_bank.length = None;
    let config = config.resolve(now)?;
    let mut before = saved;
    before.model.memory_bank.length = Some(then);
    let before = before.resolve(then)?;
    let mut engine = check::prepare(&config, &collections, options, make_engine)?;
    let old = checkpoint.meta();
    let weights = weights_hash(engine.as_ref());
    weighted_alike(weights.is_some(), old.neg_weights.is_some())?;
    let rows = checkpoint.load_apart_from_rows(engine.as_mut())?;
    if rows.len() != then * config.feat_dim() {
        return Err(Error::input(format!(
            "{}: its memory bank has another number of rows than images.parquet ({then}); restore \
             the table, or start a new run",
            checkpoint.path().display()
        )));
    }

    let reading = reading_of(&config, options);
    let contents = contents(train, reading, progress).map_err(stopped)?;
    let found = find(&table, train.as_ref(), &contents)?;
    let stayed = found.origins.iter().flatten().count();
    search.enough(stayed, "only")?;
    let moved = found
        .origins
        .iter()
        .enumerate()
        .any(|(row, origin)| *origin != Some(row));
    // What could not be read has no content to be known by, and needs no word about it.
    let by_name = (found.by_name.iter())
        .filter(|&&row| !old.skipped.contains(&(row as u64)))
        .count();
    let collection = digest(train.as_ref(), &contents);
    let mut bank = Rows {
        rows: rows_of(&found, &rows, config.feat_dim(), config.seed),
        origins: found.origins,
        images: ImageTable::of(contents, collection.clone()),
    };
    drop(rows);
    let strict = options.strict;
    bank.start_new(engine.as_mut(), train, old, reading, strict, progress)
        .map_err(stopped)?;
    let kept = bank.origins.iter().flatten().count();
    let change = Change {
        kept,
        new: now - kept,
        gone: then - kept,
    };
    engine.write(BANK, &bank.rows)?;
    let skipped = exclude(engine.as_mut(), &config, &bank.images, now)?;

    let mut meta = Meta {
        epoch_skipped: skipped.clone(),
        skipped,
        config: fingerprint(&config)?,
        neg_weights: weights.clone(),
        collection: Some(collection),
        // Its figures are of rows by their old numbers.
        health: Health::new(old.cursor.step),
        ..old.clone()
    };
    let begun = meta.cursor.step_in_epoch > 0;
    if begun {
        meta.cursor.step_in_epoch = 0;
        meta.epoch = LossSum::default();
    }
    odd(&folder, &warnings, old, &before, progress)?;
    commit(
        &folder,
        &config,
        &bank.images,
        train.as_ref(),
        engine.as_ref(),
        &meta,
    )?;

    progress.note(&sentence(change, by_name));
    if let (Some(NegWeights::File(path)), true, true) =
        (&config.model.neg_weights, moved, weights == old.neg_weights)
    {
        progress.warning(&format!(
            "model.neg_weights: {} holds the same numbers as before, but rows have become other \
             pictures'; see to it that each number is where its picture is now (images.parquet)",
            path.display()
        ));
    }
    if meta.cursor.epoch >= config.runner.max_epochs {
        progress.note(&format!(
            "runner.max_epochs is {}, and as many epochs are done: nothing is trained; --epochs N \
             goes on to N in all",
            config.runner.max_epochs
        ));
    } else if begun {
        progress.note(&format!(
            "epoch {} is begun again, over the pictures there are now",
            meta.cursor.epoch + 1
        ));
    }
    Ok(Ready {
        config,
        engine,
        meta: Some(meta),
        bank_file: None,
        change: Some(change),
    })
}

/// The flags that say that a changed collection is meant.
fn flags(config: &Config) -> String {
    match &config.data.path {
        Some(paths) => (paths.as_slice().iter())
            .map(|path| format!("--data {}", path.display()))
            .collect::<Vec<_>>()
            .join(" "),
        None => "--data PATH".to_string(),
    }
}

/// A search for the pictures that a run had.
struct Search {
    run: String,
    /// How many it had.
    then: usize,
    /// Where they are looked for.
    pictures: String,
    /// What says that a change is meant, and whether it was given.
    flags: String,
    meant: bool,
}

impl Search {
    /// Whether enough were found: half of them, so that a disk that isn't mounted doesn't cost a
    /// bank; a single one where the collection was named.
    fn enough(&self, found: usize, how: &str) -> Result<(), Error> {
        let Search {
            run,
            then,
            pictures,
            flags,
            meant,
        } = self;
        if found == 0 {
            return Err(Error::input(format!(
                "--resume {run}: none of its {then} pictures is found again in {pictures}, so no \
                 row would be kept; start a new run (without --resume)"
            )));
        }
        if !meant && 2 * found < *then {
            return Err(Error::input(format!(
                "--resume {run}: {how} {found} of its {then} pictures are found again in \
                 {pictures}; if the others are only out of reach (a disk that isn't mounted), \
                 bring them back; if they are meant to be gone, say so with {flags}"
            )));
        }
        Ok(())
    }
}

/// Excludes the pictures that can't be read from the bank for good. Returns their rows.
fn exclude(
    engine: &mut dyn Engine,
    config: &Config,
    images: &ImageTable,
    now: usize,
) -> Result<BTreeSet<u64>, Error> {
    let skipped = images.skipped();
    let (readable, batch) = (now - skipped.len(), config.data.batch_size);
    if readable < batch.max(check::FEWEST) {
        return Err(Error::input(check::too_few(readable, now, batch, "")));
    }
    let rows: Vec<u64> = skipped.iter().copied().collect();
    engine.exclude_rows(&rows).map_err(|error| {
        Error::input(format!(
            "model.neg_weights: without the pictures that can't be read, {error}; give others a \
             weight"
        ))
    })?;
    Ok(skipped)
}

/// Makes it the run's.
fn commit(
    folder: &RunFolder,
    config: &Config,
    images: &ImageTable,
    train: &dyn Source,
    engine: &dyn Engine,
    meta: &Meta,
) -> Result<(), Error> {
    folder.tidy()?;
    pending::write(folder, &config.to_toml()?, images, train)?;
    if let Err(error) = checkpoint::save(&folder.checkpoints(), engine, meta) {
        // Whether it counts is for the disk to say; the error to report is the first one.
        if let Ok(Some((newest, _))) = Checkpoint::newest(&folder.checkpoints()) {
            let _ = pending::recover(folder, Some(newest.meta()));
        }
        return Err(error);
    }
    pending::finish(folder)
}

/// What to say of a change.
fn sentence(change: Change, by_name: usize) -> String {
    let Change { kept, new, gone } = change;
    let by_name = match by_name {
        0 => String::new(),
        n => format!(" ({n} known by name alone: the run was stopped before it had read them)"),
    };
    let count =
        |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    format!(
        "{}: {}{by_name}, {new} {} new, {gone} {} gone",
        count(kept + new, "picture", "pictures"),
        count(kept, "kept its row", "kept their rows"),
        if new == 1 { "is" } else { "are" },
        if gone == 1 { "is" } else { "are" },
    )
}

/// Nothing has been changed where a stop ends what comes before.
fn stopped(error: Error) -> Error {
    match error {
        Error::Interrupted(_) => Error::Interrupted(
            "stopped while the changed collection was looked at; the run is as it was".into(),
        ),
        other => other,
    }
}

/// Finds the pictures of a table among those with these contents.
fn find(
    table: &Table,
    train: &dyn Source,
    contents: &[Option<ContentHash>],
) -> Result<Matched, Error> {
    let then: Vec<Then> = (table.pictures()?)
        .map(|picture| {
            picture.map(|picture| Then {
                name: picture.path,
                content: picture.content,
            })
        })
        .collect::<Result<_, _>>()?;
    let names: Vec<String> = (0..train.len()).map(|row| train.name(row)).collect();
    Ok(matched(&then, &names, contents))
}

/// The rows that were found, of `dim` numbers each, and random ones for the others.
fn rows_of(found: &Matched, old: &[f32], dim: usize, seed: u64) -> Vec<f32> {
    let mut rows = Vec::with_capacity(found.origins.len() * dim);
    for (row, origin) in found.origins.iter().enumerate() {
        match origin {
            Some(origin) => rows.extend_from_slice(&old[origin * dim..(origin + 1) * dim]),
            None => rows.extend(random_row(row as u64, dim, seed)),
        }
    }
    rows
}

/// The new bank and what is known of its pictures.
struct Rows {
    /// N x D.
    rows: Vec<f32>,
    /// For each row, which it was before.
    origins: Vec<Option<usize>>,
    images: ImageTable,
}

impl Rows {
    /// Gives new pictures their features, by the running statistics, over their evaluation views.
    /// Those that could not be read before are looked at again: what can be read now is new.
    fn start_new(
        &mut self,
        engine: &mut dyn Engine,
        train: &Arc<dyn Source>,
        old: &Meta,
        reading: Reading<'_>,
        strict: bool,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let new: Vec<u64> = (self.origins.iter().enumerate())
            .filter(|(_, origin)| origin.is_none_or(|o| old.skipped.contains(&(o as u64))))
            .map(|(row, _)| row as u64)
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let (mut done, total) = (0, new.len());
        let dim = engine.description().network.feat_dim();
        embed_each(
            engine,
            train,
            new,
            Norm::Eval,
            reading,
            &mut |_, batch, features| {
                for (&row, feature) in batch.rows.iter().zip(features.chunks_exact(dim)) {
                    let row = row as usize;
                    self.rows[row * dim..(row + 1) * dim].copy_from_slice(feature);
                    self.origins[row] = None;
                }
                self.images.skip(&batch.skipped, strict, progress)?;
                done += batch.rows.len() + batch.skipped.len();
                progress.working("features of new pictures", done, total);
                Ok(())
            },
        )
    }
}

/// Hashes of all contents, `None` where a picture's bytes can't be read.
fn contents(
    source: &Arc<dyn Source>,
    reading: Reading<'_>,
    progress: &mut dyn Progress,
) -> Result<Vec<Option<ContentHash>>, Error> {
    let rows = source.len();
    let threads = load_options(reading.batch, reading.workers, false).threads;
    let next = AtomicUsize::new(0);
    let ended = AtomicBool::new(false);
    let mut all = vec![None; rows];
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(threads);
        for _ in 0..threads.min(rows.div_ceil(CHUNK)) {
            let (sender, next, ended) = (sender.clone(), &next, &ended);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let start = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if start >= rows {
                        break;
                    }
                    let hash = |row| {
                        // A source that panics on one picture must not take the run with it.
                        let read = AssertUnwindSafe(|| source.content_hash(row).ok());
                        catch_unwind(read).ok().flatten()
                    };
                    let hashes: Vec<_> = (start..rows.min(start + CHUNK)).map(hash).collect();
                    if sender.send((start, hashes)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0;
        for (start, hashes) in &receiver {
            if let Err(error) = reading.poll() {
                ended.store(true, Ordering::Relaxed);
                return Err(error); // the receiver goes, which ends those that wait to send
            }
            done += hashes.len();
            all[start..start + hashes.len()].copy_from_slice(&hashes);
            progress.working("looking for known pictures", done, rows);
        }
        Ok(())
    })?;
    Ok(all)
}

/// SHA-256 of a collection's names, labels and contents, in order.
fn digest(source: &dyn Source, contents: &[Option<ContentHash>]) -> String {
    let mut sha256 = Sha256::new();
    for (row, content) in contents.iter().enumerate() {
        // Names hold no control characters.
        sha256.update(source.name(row));
        sha256.update(format!("\n{:?}\n{content:?}\n", source.label(row)));
    }
    ContentHash(sha256.finalize().into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_in_one_line() {
        let change = |kept, new, gone| Change { kept, new, gone };
        assert_eq!(
            sentence(change(900, 200, 100), 0),
            "1100 pictures: 900 kept their rows, 200 are new, 100 are gone"
        );
        assert_eq!(
            sentence(change(1, 1, 1), 1),
            "2 pictures: 1 kept its row (1 known by name alone: the run was stopped before it had \
             read them), 1 is new, 1 is gone"
        );
    }
}
