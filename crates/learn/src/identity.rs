//! Whether a run's pictures are still those it was started with.
//!
//! Row i of the memory bank belongs to picture i of the collection, and the queries of the kNN
//! figure are drawn by row: with other pictures in the same rows a run would go on, and be measured,
//! without a word and wrongly. `images.parquet` says which row was which picture.

use std::path::Path;

use npid_data::source::Source;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use crate::collections::Collections;
use crate::config::Config;
use crate::error::Error;
use crate::run::RunFolder;

/// The most pictures whose content is compared; they are spread evenly over the rows. Names and
/// labels are compared in every row, but contents have to be read.
const MAX_CONTENTS: usize = 1000;

/// Every how many rows a content is compared, of `rows` in all.
pub(crate) fn stride(rows: usize) -> usize {
    rows.div_ceil(MAX_CONTENTS).max(1)
}

/// Opens the collections of the run in `folder`.
///
/// # Errors
/// [`Error::Input`] naming the key in the run's `config.toml` whose path can't be used.
pub(crate) fn open(folder: &RunFolder, config: &Config) -> Result<Collections, Error> {
    Collections::open_by_key(&config.data).map_err(|(key, error)| {
        Error::input(format!(
            "{key} in {}: {error}; if the pictures were moved, write there where they are now",
            folder.config().display()
        ))
    })
}

/// Compares the training pictures of the run in `folder` with its `images.parquet`: their number,
/// every name and label, and the content of 1,000 of them at most. Returns false where there is
/// no such file to compare with.
///
/// # Errors
/// [`Error::Input`] naming `flag` and the first difference, or the file if it can't be read.
pub(crate) fn check(
    folder: &RunFolder,
    flag: &str,
    config: &Config,
    source: &dyn Source,
) -> Result<bool, Error> {
    let pictures = match &config.data.path {
        Some(paths) => paths.to_string(),
        None => "the built-in collection".to_string(),
    };
    let differs = |what: String| {
        Error::input(format!(
            "{flag} {}: {what}; restore the pictures of data.path in {}, or start a new run",
            folder.path().display(),
            folder.config().display()
        ))
    };
    let now = source.len();
    let length = |then: usize| {
        differs(format!(
            "the run was started with {then} pictures, but {pictures} now holds {now}"
        ))
    };
    if let Some(then) = config.model.memory_bank.length
        && then != now
    {
        return Err(length(then));
    }
    let path = folder.images();
    if !path.exists() {
        return Ok(false);
    }
    let table = Table::open(&path).map_err(|error| unreadable(&path, &error))?;
    if table.rows() != now {
        return Err(length(table.rows()));
    }
    let stride = stride(now);
    let rows = table.iter().map_err(|error| unreadable(&path, &error))?;
    for (row, then) in rows.enumerate() {
        let then = then.map_err(|error| unreadable(&path, &error))?;
        let (name, label) = (source.name(row), source.label(row).map(i64::from));
        if name != then.path {
            return Err(differs(format!(
                "picture {row} of {pictures} is now {name}, it was {} when the run was started",
                then.path
            )));
        }
        if label != then.label {
            let say = |label: Option<i64>| label.map_or("none".to_string(), |l| l.to_string());
            return Err(differs(format!(
                "the label of {name} in {pictures} is now {}, it was {} when the run was started",
                say(label),
                say(then.label)
            )));
        }
        // What can't be read at all is skipped and said so when the run comes to it.
        if row.is_multiple_of(stride)
            && let (Some(hash), Ok(found)) = (then.content_hash, source.content_hash(row))
            && found.to_string() != hash
        {
            return Err(differs(format!(
                "{name} in {pictures} is another picture than when the run was started"
            )));
        }
    }
    Ok(true)
}

fn unreadable(path: &Path, error: &ParquetError) -> Error {
    Error::input(format!(
        "{}: not the table of a run's pictures ({error}); remove it, and npid train --resume \
         makes it again",
        path.display()
    ))
}

/// What `images.parquet` says of a row.
struct Picture {
    path: String,
    label: Option<i64>,
    content_hash: Option<String>,
}

/// An `images.parquet`.
struct Table {
    reader: SerializedFileReader<std::fs::File>,
    /// Where the columns `path`, `label` and `content_hash` are.
    columns: [usize; 3],
}

impl Table {
    fn open(path: &Path) -> Result<Self, ParquetError> {
        let reader = SerializedFileReader::new(std::fs::File::open(path)?)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let find = |name: &str| {
            let mut columns = schema.columns().iter();
            let at = columns.position(|column| column.path().string() == name);
            at.ok_or_else(|| ParquetError::General(format!("it has no column {name}")))
        };
        let columns = [find("path")?, find("label")?, find("content_hash")?];
        Ok(Table { reader, columns })
    }

    fn rows(&self) -> usize {
        let rows = self.reader.metadata().file_metadata().num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    fn iter(&self) -> Result<impl Iterator<Item = Result<Picture, ParquetError>>, ParquetError> {
        let [path, label, content_hash] = self.columns;
        let rows = self.reader.get_row_iter(None)?;
        Ok(rows.map(move |row| {
            let row = row?;
            Ok(Picture {
                path: row.get_string(path)?.clone(),
                // Nulls are errors to these.
                label: row.get_long(label).ok(),
                content_hash: row.get_string(content_hash).ok().cloned(),
            })
        }))
    }
}
