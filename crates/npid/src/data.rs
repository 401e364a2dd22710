//! `npid data`: what is at a path, and the built-in pictures as files.

use std::path::Path;

use npid_data::inspect;
use npid_data::patterns::{self, WriteError};
use npid_data::source::{self, first_readable, open};
use npid_learn::Error;
use npid_learn::collections::{PATTERNS, PATTERNS_SEED, PATTERNS_SIZE};
use serde_json::json;

use crate::args::Output;

/// Says what was found at `path`: kind, pictures, classes, and what a sample of them decodes to.
///
/// # Errors
/// If it is no collection, or nothing in it can be read.
pub fn inspect(path: &Path, output: Output) -> Result<(), Error> {
    let collection = open(path)?;
    first_readable(collection.as_ref(), |_| false)?;
    let found = inspect::inspect(collection.as_ref(), inspect::SAMPLE);
    if output.json {
        crate::out::json(&found)?;
    } else {
        say!("{}: {}", path.display(), found.to_string().trim_end());
        // Splits are folders; classes of these names in a parquet file are classes.
        match source::splits(collection.classes()).filter(|_| path.is_dir()) {
            Some((train, val)) => {
                let val = val.map_or(String::new(), |val| {
                    format!(" --val {}", path.join(val).display())
                });
                let train = path.join(train);
                say!("train on it: npid train --data {}{val}", train.display());
            }
            None => say!("train on it: npid train --data {}", path.display()),
        }
    }
    Ok(())
}

/// Writes the built-in pictures below `out`.
///
/// # Errors
/// [`Error::Input`] if the folder isn't empty or can't be made, [`Error::Run`] if a picture can't
/// be written into it.
pub fn patterns(out: &Path, output: Output) -> Result<(), Error> {
    patterns::write(out, PATTERNS, PATTERNS, PATTERNS_SIZE, PATTERNS_SEED).map_err(|error| {
        match error {
            WriteError::Unfinished { .. } => Error::run(format!("--out {error}")),
            error => Error::input(format!("--out {error}")),
        }
    })?;
    let (train, val) = (out.join("train"), out.join("val"));
    if output.json {
        let line = json!({
            "train": train.display().to_string(),
            "val": val.display().to_string(),
            "images": PATTERNS,
            "queries": PATTERNS,
            "size": PATTERNS_SIZE,
        });
        say!("{line}");
        return Ok(());
    }
    let (train, val) = (train.display(), val.display());
    say!("{train}: {PATTERNS} pictures of {PATTERNS_SIZE}x{PATTERNS_SIZE}");
    say!("{val}: {PATTERNS} more, to ask with");
    say!("train on them: npid train patterns --data {train} --val {val}");
    Ok(())
}
