//! `npid data`: what is at a path, and the built-in pictures as files.

use std::path::{Path, PathBuf};

use npid_data::inspect::{self, Summary};
use npid_data::patterns::{self, WriteError};
use npid_data::source::{Options, Wanted, find, first_readable};
use npid_learn::Error;
use npid_learn::collections::{PATTERNS, PATTERNS_SEED, PATTERNS_SIZE};
use serde::Serialize;
use serde_json::json;

use crate::args::Output;

/// Says what was found at these paths: kind, pictures, classes, and what a sample of them decodes
/// to; for a data set with a part for training and one for queries, of both.
///
/// # Errors
/// If one is no collection, or nothing in it can be read.
pub fn inspect(paths: &[PathBuf], output: Output) -> Result<(), Error> {
    let opened = find(paths, Wanted::Both, &Options::default())?;
    let mut summaries = Vec::new();
    for source in [Some(&opened.pictures), opened.val.as_ref()] {
        let Some(source) = source else { continue };
        first_readable(source.as_ref(), |_| false)?;
        summaries.push(inspect::inspect(source.as_ref(), inspect::SAMPLE));
    }
    if output.json {
        let found = Found {
            pictures: &summaries[0],
            val: summaries.get(1),
            found: &opened.found,
        };
        return crate::out::json(&found);
    }
    opened.found.iter().for_each(|sentence| say!("{sentence}"));
    let shown: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    for (summary, part) in summaries.iter().zip(["", ", queries"]) {
        say!(
            "{}{part}: {}",
            shown.join(", "),
            summary.to_string().trim_end()
        );
    }
    let flags: Vec<String> = shown.iter().map(|path| format!("--data {path}")).collect();
    say!("train on it: npid train {}", flags.join(" "));
    Ok(())
}

/// What `npid data inspect --json` prints.
#[derive(Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    pictures: &'a Summary,
    /// The part for queries, where there is one.
    val: Option<&'a Summary>,
    /// How paths with several parts were understood.
    found: &'a [String],
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
    say!(
        "train on them: npid train patterns --data {}",
        out.display()
    );
    Ok(())
}
