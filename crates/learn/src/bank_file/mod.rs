//! A memory bank in a mapped file, for collections larger than memory.
//!
//! Three things make the bank:
//!
//! - the *base*, `bank/rows.TYPE`: all rows as they were at one step, mapped privately, so that
//!   what training changes stays in memory and the file as it is;
//! - *changes*, `checkpoints/step-*.rows`: a checkpoint writes the rows that changed since the one
//!   before, and its safetensors file names the state they lead to by the changes' SHA-256;
//! - what changed since.
//!
//! Once no checkpoint is left that needs the base as it is, the oldest changes are *folded*:
//! written into the base in place. Memory that held them is then given back.
//!
//! Why a kill can't tear it. (1) Changes are whole before the checkpoint that needs them has its
//! name, and until then nothing else has changed. (2) Folding writes only rows of changes that
//! every remaining checkpoint includes, and these stay on the disk until the base is synced and
//! `bank/rows.json` says so: a base that was written in part is repaired by doing it again. (That it
//! may be so written is said there too, lest someone removes the later checkpoints.) So a
//! checkpoint's state is always the base and then, in order, the changes up to its own, whether or
//! not some of them are in the base already.

mod base;
mod delta;
mod disk;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use npid_engine::Engine;
use npid_network::method::RowType;

use crate::checkpoint::{self, Checkpoint, Meta, Unusable};
use crate::config::{Config, Storage};
use crate::error::Error;
use crate::run::RunFolder;

use base::Base;
pub use base::Begun;
use delta::{Bad, Delta};

/// What `model.memory_bank.max_dirty_bytes` is where it is absent.
pub const MAX_DIRTY_BYTES: u64 = 1 << 30;

/// Bytes of a page of memory, as far as the plan of checkpoints goes: it must not depend on the
/// machine.
const PAGE: u64 = 4096;

/// N, D and the type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// N.
    pub rows: usize,
    /// D.
    pub dim: usize,
    /// Type of the numbers.
    pub dtype: RowType,
}

impl Shape {
    /// Of a resolved configuration's bank; `None` where that is in memory.
    pub fn of(config: &Config) -> Option<Self> {
        let bank = &config.model.memory_bank;
        (bank.storage == Storage::File).then(|| Shape {
            rows: bank.length.unwrap_or(0),
            dim: config.feat_dim(),
            dtype: bank.dtype,
        })
    }

    /// Bytes of a row.
    pub fn stride(self) -> usize {
        self.dim * self.dtype.bytes()
    }

    /// Bytes of all rows.
    pub fn bytes(self) -> Option<u64> {
        (self.rows as u64).checked_mul(self.stride() as u64)
    }
}

/// Which state of a bank: a SHA-256 that stands for its beginning and all changes since.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Id([u8; 32]);

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Id(id))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Optimiser steps between checkpoints that are written so that changed rows take no more than
/// `max_dirty_bytes` of memory; `None` where all rows may change before they do. A matter of the
/// configuration alone.
///
/// Memory holds every page with a row that changed since the oldest of the `checkpoint.keep`
/// latest checkpoints, so for as many intervals.
pub fn interval(config: &Config) -> Option<u64> {
    let shape = Shape::of(config)?;
    let most = max_dirty_bytes(config);
    let all = (shape.bytes().unwrap_or(u64::MAX)).saturating_add(PAGE - 1) / PAGE * PAGE;
    if all <= most {
        return None;
    }
    let step = rows_of_a_step(config)
        .saturating_mul(pages(shape.stride() as u64))
        .saturating_mul(PAGE);
    let kept = config.checkpoint.keep as u64;
    Some((most / step.saturating_mul(kept).max(1)).max(1))
}

/// Bytes of memory that rows may take which the file doesn't hold yet.
pub fn max_dirty_bytes(config: &Config) -> u64 {
    let given = config.model.memory_bank.max_dirty_bytes;
    given.unwrap_or(MAX_DIRTY_BYTES)
}

/// Bytes on the disk: of the bank's file, and of the changed rows of a checkpoint at most. 0 where
/// the bank is in memory.
pub fn disk_bytes(config: &Config) -> (u64, u64) {
    let Some(shape) = Shape::of(config) else {
        return (0, 0);
    };
    let steps = interval(config).unwrap_or(u64::MAX);
    let rows = (rows_of_a_step(config).saturating_mul(steps)).min(shape.rows as u64);
    let changes = rows.saturating_mul(shape.stride() as u64 + 8);
    (shape.bytes().unwrap_or(u64::MAX), changes)
}

/// Rows that an optimiser step changes at most.
fn rows_of_a_step(config: &Config) -> u64 {
    let interval = config.optimizer_config.update_interval as u64;
    (config.data.batch_size as u64).saturating_mul(interval)
}

/// Pages that a row of `stride` bytes lies on at most.
fn pages(stride: u64) -> u64 {
    let stride = stride.max(1);
    if PAGE.is_multiple_of(stride) {
        1
    } else if stride.is_multiple_of(PAGE) {
        stride / PAGE
    } else {
        (stride - 1) / PAGE + 2
    }
}

/// The newest checkpoint of a run that can be gone on with, and a sentence for each newer one that
/// is damaged: as [`Checkpoint::newest`], but the rows must be there too.
///
/// # Errors
/// As [`Checkpoint::newest`]; [`Error::Input`] if the base can't be used.
pub fn newest(run: &RunFolder) -> Result<Option<(Checkpoint, Vec<String>)>, Error> {
    Checkpoint::newest_that(
        &run.checkpoints(),
        &|checkpoint| match &checkpoint.meta().rows {
            None => Ok(()),
            Some(_) => BankFile::find(run, checkpoint).map(drop),
        },
    )
}

/// Rows that have changed, a bit for each.
struct Changed {
    bits: Vec<u64>,
}

impl Changed {
    fn new(rows: usize) -> Self {
        Changed {
            bits: vec![0; rows.div_ceil(64)],
        }
    }

    fn add(&mut self, rows: &[u64]) {
        for &row in rows {
            self.bits[row as usize / 64] |= 1 << (row % 64);
        }
    }

    /// All of them, rising.
    fn rows(&self) -> Vec<u64> {
        let mut rows = Vec::new();
        for (i, &bits) in self.bits.iter().enumerate() {
            let mut left = bits;
            while left != 0 {
                rows.push(i as u64 * 64 + u64::from(left.trailing_zeros()));
                left &= left - 1;
            }
        }
        rows
    }
}

/// The bank of a run, on the disk.
pub struct BankFile {
    run: RunFolder,
    base: Base,
    /// Changes that the base doesn't have yet, in order.
    waiting: Vec<Delta>,
    changed: Changed,
}

impl BankFile {
    /// The bank of a run that begins, with all rows in it; whatever an earlier beginning left is
    /// gone. `engine` gets the rows.
    ///
    /// # Errors
    /// [`Error::Run`] if they can't be written or mapped.
    pub fn begin(run: &RunFolder, begun: Begun, engine: &mut dyn Engine) -> Result<Self, Error> {
        let base = begun.finish()?;
        let mut bank = BankFile {
            run: run.clone(),
            changed: Changed::new(base.shape.rows),
            base,
            waiting: Vec::new(),
        };
        bank.tidy()?;
        bank.restore(engine)?;
        Ok(bank)
    }

    /// Finds the rows of a checkpoint. Writes nothing.
    fn find(run: &RunFolder, checkpoint: &Checkpoint) -> Result<Self, Unusable> {
        let base = Base::open(run).map_err(Unusable::Refused)?;
        let (shape, step) = (base.shape, checkpoint.meta().cursor.step);
        let name = checkpoint.path().display();
        let damaged = |what: String| Unusable::Damaged(Error::input(what));
        let wanted = (checkpoint.meta().rows.as_deref()).and_then(Id::parse);
        let wanted = wanted.ok_or_else(|| damaged(format!("{name}: it names no rows")))?;
        let mut waiting: Vec<Delta> = Vec::new();
        let reached = |waiting: &[Delta]| waiting.last().map_or(base.id, |delta| delta.id);
        for (at, path) in deltas(run).map_err(Unusable::Refused)? {
            // The base may have the first of them already: see `Base::take`.
            if at > step || at <= base.step || reached(&waiting) == wanted {
                continue;
            }
            let delta = Delta::open(&path, shape).map_err(|bad| match bad {
                Bad::Damaged(what) => damaged(format!(
                    "{}: damaged ({what}), so the checkpoints that need it can't be used",
                    path.display()
                )),
                Bad::Unreadable(error) => Unusable::Refused(Error::input(format!(
                    "{}: cannot be read ({error}); check its permissions, or delete {name} to go \
                     on from an earlier one",
                    path.display()
                ))),
                Bad::Version(version) => Unusable::Refused(Error::input(format!(
                    "{}: its rows are of version {version}, which this npid doesn't read; use the \
                     npid that wrote it",
                    path.display()
                ))),
            })?;
            if delta.previous != reached(&waiting) || delta.step != at {
                return Err(damaged(format!(
                    "{}: its changes aren't those that follow the rows before them, so the \
                     checkpoints that need it can't be used",
                    path.display()
                )));
            }
            waiting.push(delta);
        }
        let torn = (base.next).is_some_and(|next| waiting.iter().all(|delta| delta.id != next));
        if torn && reached(&waiting) == wanted {
            return Err(damaged(format!(
                "{name}: its rows aren't there any more, {} holds some of a later step",
                base::folder(run).display()
            )));
        }
        if reached(&waiting) != wanted {
            return Err(damaged(match step < base.step {
                true => format!(
                    "{name}: its rows aren't there any more, {} holds those of step {}",
                    base::folder(run).display(),
                    base.step
                ),
                false => format!(
                    "{name}: its changed rows ({}) are missing or others",
                    delta::file_name(step)
                ),
            }));
        }
        Ok(BankFile {
            run: run.clone(),
            changed: Changed::new(shape.rows),
            base,
            waiting,
        })
    }

    /// Opens the rows of a checkpoint that [`newest`] has found, for a run of this shape.
    ///
    /// # Errors
    /// As [`newest`]; [`Error::Input`] if the rows are others than the configuration says.
    pub fn open(run: &RunFolder, checkpoint: &Checkpoint, shape: Shape) -> Result<Self, Error> {
        let bank = BankFile::find(run, checkpoint)?;
        let found = bank.base.shape;
        if found != shape {
            let words = |s: Shape| format!("{} rows of {} {}", s.rows, s.dim, s.dtype.name());
            return Err(Error::input(format!(
                "{}: it holds {}, the configuration asks for {}; restore the config.toml that the \
                 run was started with",
                base::folder(run).display(),
                words(found),
                words(shape)
            )));
        }
        Ok(bank)
    }

    /// Gives the engine the rows.
    ///
    /// # Errors
    /// [`Error::Run`] if they can't be mapped or read.
    pub fn restore(&self, engine: &mut dyn Engine) -> Result<(), Error> {
        engine.map_rows(self.base.map()?)?;
        for delta in &self.waiting {
            delta.apply(self.base.shape, engine).map_err(|error| {
                Error::run(format!(
                    "{}: cannot be read ({error}); check the disk, then continue with --resume",
                    delta.path().display()
                ))
            })?;
        }
        Ok(())
    }

    /// Removes changes that the bank doesn't need: of checkpoints that a resume went back behind,
    /// and those that the base has.
    ///
    /// # Errors
    /// [`Error::Run`] if one can't be removed.
    pub fn tidy(&mut self) -> Result<(), Error> {
        for (_, path) in deltas(&self.run)? {
            if !self.waiting.iter().any(|delta| delta.path() == path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Says that these rows have changed.
    pub fn changed(&mut self, rows: &[u64]) {
        self.changed.add(rows);
    }

    /// The state of the bank as it was last saved, for [`Meta::rows`].
    pub fn id(&self) -> String {
        self.waiting
            .last()
            .map_or(self.base.id, |delta| delta.id)
            .to_string()
    }

    /// The first half of a checkpoint: writes what has changed since the last one.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written; nothing is left of it then.
    pub fn save(&mut self, step: u64, engine: &dyn Engine) -> Result<(), Error> {
        let rows = self.changed.rows();
        if rows.is_empty() {
            return Ok(());
        }
        let previous = self.waiting.last().map_or(self.base.id, |delta| delta.id);
        let path = self.run.checkpoints().join(delta::file_name(step));
        match Delta::write(&path, self.base.shape, step, previous, rows, engine) {
            Ok(delta) => {
                self.waiting.push(delta);
                self.changed.bits.fill(0);
                Ok(())
            }
            Err(error) => Err(Error::run(format!(
                "{}: the changed rows of the memory bank can't be written ({error}); {}",
                path.display(),
                match self.run.checkpoints().exists() {
                    true => {
                        "earlier checkpoints are intact: make room, then continue with --resume"
                    }
                    false => crate::run::cure(&path),
                }
            ))),
        }
    }

    /// Takes [`BankFile::save`] back, where the checkpoint could not be written after all. The run
    /// can't be gone on with then but by a resume.
    pub fn unsave(&mut self, step: u64) {
        if let Some(delta) = self.waiting.pop_if(|delta| delta.step == step) {
            // The error to report is the first one; a resume removes what stays.
            let _ = disk::remove(delta.path());
        }
    }

    /// Writes into the base what every checkpoint includes from step `oldest` on, the oldest that
    /// may be gone on with, and gives back the memory that held it.
    ///
    /// # Errors
    /// [`Error::Run`] if the base can't be written; every checkpoint is as good as before then.
    pub fn fold(&mut self, oldest: u64, engine: &mut dyn Engine) -> Result<(), Error> {
        while self
            .waiting
            .first()
            .is_some_and(|delta| delta.step <= oldest)
        {
            self.base.take(&self.waiting[0])?;
            let delta = self.waiting.remove(0);
            remove(delta.path())?;
            let mut newer = self.changed.rows();
            newer.extend((self.waiting.iter()).flat_map(|delta| &delta.rows));
            newer.sort_unstable();
            newer.dedup();
            engine.release_rows(&delta.rows, &newer);
        }
        Ok(())
    }
}

/// Whether rows are where the configuration says, in memory or in a file.
///
/// # Errors
/// [`Error::Input`] if they aren't.
pub fn agrees(config: &Config, meta: &Meta) -> Result<(), Error> {
    let (says, is) = match (config.model.memory_bank.storage, &meta.rows) {
        (Storage::Memory, Some(_)) => ("memory", "file"),
        (Storage::File, None) => ("file", "memory"),
        _ => return Ok(()),
    };
    Err(Error::input(format!(
        "model.memory_bank.storage is \"{says}\", but the run was started with \"{is}\"; restore \
         the config.toml that it was started with"
    )))
}

/// Files of changes in the folder of the checkpoints, by step, the oldest first.
fn deltas(run: &RunFolder) -> Result<Vec<(u64, PathBuf)>, Error> {
    checkpoint::files(&run.checkpoints(), delta::step_of)
}

fn remove(path: &std::path::Path) -> Result<(), Error> {
    disk::remove(path).map_err(|error| {
        Error::run(format!(
            "{}: can't be removed ({error}); check its permissions, then continue with --resume",
            path.display()
        ))
    })
}
