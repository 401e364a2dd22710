//! Whether a run's pictures are still those of its memory bank.
//!
//! Row i of the memory bank belongs to picture i of the collection, and the queries of the kNN
//! figure are drawn by row: with other pictures in the same rows a run would go on, and be measured,
//! without a word and wrongly. `images.parquet` says which row was which picture.

use std::fs::File;
use std::path::{Path, PathBuf};

use npid_data::source::{ContentHash, Source};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use crate::collections::Collections;
use crate::config::Config;
use crate::error::Error;
use crate::images::COLLECTION;
use crate::run::RunFolder;

/// The most pictures whose content is compared; they are spread evenly over the rows. Names and
/// labels are compared in every row, but contents have to be read.
const MAX_CONTENTS: usize = 1000;

/// Every how many rows a content is compared, of `rows` in all.
pub(crate) fn stride(rows: usize) -> usize {
    rows.div_ceil(MAX_CONTENTS).max(1)
}

/// Opens the collections of the run in `folder`. `moved` says how a person can tell this command
/// where they are now, beside editing `config.toml`; empty if there is no way.
///
/// # Errors
/// [`Error::Input`] naming the key in the run's `config.toml` whose path can't be used.
pub(crate) fn open(folder: &RunFolder, config: &Config, moved: &str) -> Result<Collections, Error> {
    Collections::open_by_key(&config.data).map_err(|(key, error)| {
        Error::input(format!(
            "{key} in {}: {error}; if the pictures were moved, write there where they are \
             now{moved}",
            folder.config().display()
        ))
    })
}

/// What to call the pictures that a configuration names.
pub(crate) fn pictures(config: &Config) -> String {
    match &config.data.path {
        Some(paths) => paths.to_string(),
        None => "the built-in collection".to_string(),
    }
}

/// Compares the training pictures of the run in `folder` with its `images.parquet`, as
/// [`Table::difference`]. Returns false where there is no such file to compare with.
///
/// # Errors
/// [`Error::Input`] naming `flag` and the first difference, or the file if it can't be read.
pub(crate) fn check(
    folder: &RunFolder,
    flag: &str,
    config: &Config,
    source: &dyn Source,
) -> Result<bool, Error> {
    let table = Table::open(&folder.images())?;
    match difference(table.as_ref(), config, source)? {
        None => Ok(table.is_some()),
        Some(what) => Err(Error::input(format!(
            "{flag} {}: {what}; restore the pictures of data.path in {}, go on with those there \
             are now (npid train --resume), or start a new run",
            folder.path().display(),
            folder.config().display()
        ))),
    }
}

/// The first difference between the pictures of `source`, which `config` names, and what the run
/// knows of its own: its table, or their number alone where there is none.
///
/// # Errors
/// If the table can't be read.
pub(crate) fn difference(
    table: Option<&Table>,
    config: &Config,
    source: &dyn Source,
) -> Result<Option<String>, Error> {
    let pictures = pictures(config);
    let Some(table) = table else {
        let then = config.model.memory_bank.length.unwrap_or(source.len());
        return Ok((then != source.len()).then(|| length(then, &pictures, source.len())));
    };
    table.difference(&pictures, source)
}

fn length(then: usize, pictures: &str, now: usize) -> String {
    format!("the run has {then} pictures, but {pictures} now holds {now}")
}

/// What `images.parquet` says of a row.
pub(crate) struct Picture {
    /// The picture's name.
    pub(crate) path: String,
    /// Its label.
    label: Option<i64>,
    /// Its content, once it was read.
    pub(crate) content: Option<ContentHash>,
}

/// An `images.parquet`.
pub(crate) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    /// Where the columns `path`, `label` and `content_hash` are.
    columns: [usize; 3],
}

impl Table {
    /// Opens a table; `None` where there is no such file.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file if it can't be read or is something else.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let open = || -> Result<Self, ParquetError> {
            let reader = SerializedFileReader::new(File::open(path)?)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let find = |name: &str| {
                let mut columns = schema.columns().iter();
                let at = columns.position(|column| column.path().string() == name);
                at.ok_or_else(|| ParquetError::General(format!("it has no column {name}")))
            };
            let columns = [find("path")?, find("label")?, find("content_hash")?];
            Ok(Table {
                path: path.to_path_buf(),
                reader,
                columns,
            })
        };
        open().map(Some).map_err(|error| unreadable(path, &error))
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        let rows = self.reader.metadata().file_metadata().num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    /// What tells it from the tables before it: see `Meta::collection` of a checkpoint. `None` in a
    /// run whose collection never changed.
    pub(crate) fn collection(&self) -> Option<&str> {
        let pairs = self
            .reader
            .metadata()
            .file_metadata()
            .key_value_metadata()?;
        let pair = pairs.iter().find(|pair| pair.key == COLLECTION)?;
        pair.value.as_deref()
    }

    /// Its rows in order.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, where it can't be read.
    pub(crate) fn pictures(&self) -> Result<impl Iterator<Item = Result<Picture, Error>>, Error> {
        let fail = |error: ParquetError| unreadable(&self.path, &error);
        let [path, label, content_hash] = self.columns;
        let rows = self.reader.get_row_iter(None).map_err(fail)?;
        Ok(rows.map(move |row| {
            let row = row.map_err(fail)?;
            // Nulls are errors to these.
            let content = row.get_string(content_hash).ok();
            Ok(Picture {
                path: row.get_string(path).map_err(fail)?.clone(),
                label: row.get_long(label).ok(),
                content: content.and_then(|text| hash_of(text)),
            })
        }))
    }

    /// The first difference between this table and a collection called `pictures`: in their number,
    /// a name, a label, or the content of 1,000 of them at most.
    ///
    /// # Errors
    /// If the table can't be read.
    pub(crate) fn difference(
        &self,
        pictures: &str,
        source: &dyn Source,
    ) -> Result<Option<String>, Error> {
        let now = source.len();
        if self.rows() != now {
            return Ok(Some(length(self.rows(), pictures, now)));
        }
        let stride = stride(now);
        for (row, then) in self.pictures()?.enumerate() {
            let then = then?;
            let (name, label) = (source.name(row), source.label(row).map(i64::from));
            if name != then.path {
                return Ok(Some(format!(
                    "picture {row} of {pictures} is now {name}, it was {} in the run",
                    then.path
                )));
            }
            if label != then.label {
                let say = |label: Option<i64>| label.map_or("none".to_string(), |l| l.to_string());
                return Ok(Some(format!(
                    "the label of {name} in {pictures} is now {}, it was {} in the run",
                    say(label),
                    say(then.label)
                )));
            }
            // What can't be read at all is skipped and said so when the run comes to it.
            if row.is_multiple_of(stride)
                && let (Some(hash), Ok(found)) = (then.content, source.content_hash(row))
                && found != hash
            {
                return Ok(Some(format!(
                    "{name} in {pictures} is another picture than it was in the run"
                )));
            }
        }
        Ok(None)
    }
}

/// A hash from its 64 hexadecimal digits; `None` for anything else.
fn hash_of(text: &str) -> Option<ContentHash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(ContentHash(hash))
}

fn unreadable(path: &Path, error: &ParquetError) -> Error {
    Error::input(format!(
        "{}: not the table of a run's pictures ({error}); remove it, and npid train --resume \
         makes it again",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_comes_back_from_its_digits() {
        let hash = ContentHash::of(b"a picture");
        assert_eq!(hash_of(&hash.to_string()), Some(hash));
        for text in ["", "12", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(hash_of(text), None, "{text}");
        }
    }
}
