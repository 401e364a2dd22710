//! How a run's collection is changed: as a whole, or not at all.
//!
//! `config.toml` (paths and number of the pictures), `images.parquet` (which row is which) and the
//! newest checkpoint (the rows) must speak of the same collection, whenever the process ends. So:
//!
//! 1. the new table is written as `.images.parquet.next`, then the new configuration as
//!    `.config.toml.next`;
//! 2. a checkpoint with the new rows takes the place of the one it was made from, by a rename: from
//!    here on the change counts. The digest of its collection is the new table's;
//! 3. the table is renamed to its own name, then the configuration.
//!
//! Every rename is on disk before the next step. What a kill leaves behind tells how far it came:
//! a table alone was never followed by a checkpoint, a configuration alone has lost its table to
//! the run, and of both the digests tell.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use npid_data::source::Source;

use crate::checkpoint::{self, Meta, temporary_of};
use crate::error::Error;
use crate::identity::Table;
use crate::images::ImageTable;
use crate::run::{RunFolder, cure};

/// The name of a file that waits to take the place of `path`.
fn next(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".next");
    path.with_file_name(name)
}

fn fail(path: &Path, error: &std::io::Error) -> Error {
    Error::run(format!(
        "{}: can't be written ({error}); {}, then continue with --resume",
        path.display(),
        cure(path)
    ))
}

/// Makes what happened in the run's folder durable.
fn sync(folder: &RunFolder) -> Result<(), Error> {
    checkpoint::sync_folder(folder.path()).map_err(|error| fail(folder.path(), &error))
}

/// Writes a text under a temporary name, then under its own.
fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    let temporary = temporary_of(path);
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        fail(path, &error)
    })
}

/// Puts another configuration in the place of the run's, where nothing else changes.
///
/// # Errors
/// [`Error::Run`] if it can't be written; the old one is as it was then.
pub(crate) fn replace_config(folder: &RunFolder, config_toml: &str) -> Result<(), Error> {
    write_text(&folder.config(), config_toml)?;
    sync(folder)
}

/// The first step: writes table and configuration under the names by which they wait.
///
/// # Errors
/// [`Error::Run`] if they can't be written; nothing is left then.
pub(crate) fn write(
    folder: &RunFolder,
    config_toml: &str,
    table: &ImageTable,
    source: &dyn Source,
) -> Result<(), Error> {
    let written = table
        .write(&next(&folder.images()), source)
        .and_then(|()| sync(folder))
        .and_then(|()| write_text(&next(&folder.config()), config_toml))
        .and_then(|()| sync(folder));
    if written.is_err() {
        // The first error is the one to report; a resume discards what stays.
        let _ = discard(folder);
    }
    written
}

/// The last step: both take their places.
///
/// # Errors
/// [`Error::Run`] if they can't; a resume does it then.
pub(crate) fn finish(folder: &RunFolder) -> Result<(), Error> {
    for path in [folder.images(), folder.config()] {
        let waiting = next(&path);
        if waiting.exists() {
            fs::rename(&waiting, &path).map_err(|error| fail(&path, &error))?;
            sync(folder)?;
        }
    }
    Ok(())
}

/// Removes both.
fn discard(folder: &RunFolder) -> Result<(), Error> {
    for path in [folder.config(), folder.images()] {
        let waiting = next(&path);
        if waiting.exists() {
            fs::remove_file(&waiting).map_err(|error| fail(&waiting, &error))?;
            sync(folder)?;
        }
    }
    Ok(())
}

/// Finishes a change that a process was killed in, if `newest`, the newest whole checkpoint, is of
/// the new collection; else undoes it.
///
/// # Errors
/// [`Error::Run`] if a file can't be renamed or removed.
pub(crate) fn recover(folder: &RunFolder, newest: Option<&Meta>) -> Result<(), Error> {
    let table = next(&folder.images());
    let counts = match (table.exists(), next(&folder.config()).exists()) {
        (false, false) => return Ok(()),
        (false, true) => true,
        (true, false) => false,
        (true, true) => {
            // A table that can't be read was not followed by a checkpoint, or the disk has lost
            // it since: then the checkpoint's digest is not that of the table in place.
            let table = Table::open(&table).ok().flatten();
            let new = table.as_ref().and_then(Table::collection);
            new.is_some() && new == newest.and_then(|meta| meta.collection.as_deref())
        }
    };
    match counts {
        true => finish(folder),
        false => discard(folder),
    }
}
