//! What a run knows of its images: which row is which picture, and which can't be read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use npid_data::loader::{Batch, Skipped};
use npid_data::source::{ContentHash, Source};

use crate::error::Error;
use crate::identity;
use crate::progress::Progress;
use crate::table::{self, Column};

/// The key of the table's own metadata under which the collection's digest stands, once it changed.
pub(crate) const COLLECTION: &str = "npid.collection";

/// Unreadable images that are warned of one by one; the table lists them all.
const MAX_WARNINGS: usize = 10;

/// Content hashes and unreadable rows of a training source.
#[derive(Debug)]
pub struct ImageTable {
    hashes: Vec<Option<ContentHash>>,
    skipped: BTreeMap<u64, String>,
    /// The collection's digest, once it changed: see `Meta::collection` of a checkpoint.
    collection: Option<String>,
    /// Whether the file holds every hash, so that none is kept here.
    settled: bool,
}

impl ImageTable {
    /// A table of `rows` images of which nothing is known.
    pub fn new(rows: usize) -> Self {
        ImageTable {
            hashes: vec![None; rows],
            skipped: BTreeMap::new(),
            collection: None,
            settled: false,
        }
    }

    /// A table of images with these contents (`None` where one can't be read) and this digest.
    pub fn of(hashes: Vec<Option<ContentHash>>, collection: String) -> Self {
        ImageTable {
            hashes,
            skipped: BTreeMap::new(),
            collection: Some(collection),
            settled: false,
        }
    }

    /// Takes the collection's digest from a checkpoint.
    pub fn belong_to(&mut self, collection: Option<String>) {
        self.collection = collection;
    }

    /// The collection's digest, once it changed.
    pub fn collection(&self) -> Option<&str> {
        self.collection.as_deref()
    }

    /// Takes the rows that a checkpoint lists as unreadable; `settled` says whether it was written
    /// after the first epoch, and so after [`ImageTable::settle`].
    pub fn restore(&mut self, skipped: &BTreeSet<u64>, settled: bool, source: &dyn Source) {
        self.settled = settled;
        for &row in skipped {
            let reason = match source.picture(row as usize) {
                Err(error) => error.reason,
                Ok(_) => "unreadable when the run came to it".to_string(),
            };
            self.skipped.insert(row, reason);
        }
    }

    /// Notes the contents of images that were read.
    pub fn read(&mut self, batch: &Batch) {
        for (&row, &hash) in batch.rows.iter().zip(&batch.hashes) {
            self.hashes[row as usize] = Some(hash);
        }
    }

    /// Notes images that can't be read, warns of those that are new and returns their rows.
    ///
    /// # Errors
    /// [`Error::Input`] for the first of them if `strict`.
    pub fn skip(
        &mut self,
        found: &[Skipped],
        strict: bool,
        progress: &mut dyn Progress,
    ) -> Result<Vec<u64>, Error> {
        let mut new = Vec::new();
        for Skipped { row, name, reason } in found {
            if self.skipped.contains_key(row) {
                continue;
            }
            if strict {
                return Err(Error::input(format!(
                    "{name}: can't be read ({reason}); remove it, or leave --strict out to skip it"
                )));
            }
            self.skipped.insert(*row, reason.clone());
            self.hashes[*row as usize] = None;
            self.settled = false;
            new.push(*row);
            match self.skipped.len() {
                n if n <= MAX_WARNINGS => {
                    progress.warning(&format!("skipped: {name} can't be read ({reason})"));
                }
                n if n == MAX_WARNINGS + 1 => {
                    progress.warning("more pictures can't be read; images.parquet lists them all");
                }
                _ => {}
            }
        }
        Ok(new)
    }

    /// Rows that can't be read, ascending.
    pub fn skipped(&self) -> BTreeSet<u64> {
        self.skipped.keys().copied().collect()
    }

    /// Whether hashes are still wanted.
    pub fn wants_hashes(&self) -> bool {
        !self.settled
    }

    /// Reads the contents of as many pictures, and of those, as a resume compares: all of them may
    /// be many, and none was read yet.
    pub fn hash_some(&mut self, source: &dyn Source) {
        for row in (0..self.hashes.len()).step_by(identity::stride(self.hashes.len())) {
            self.hashes[row] = source.content_hash(row).ok();
        }
    }

    /// Forgets that the file holds every hash: it is gone.
    pub fn unsettle(&mut self) {
        self.settled = false;
    }

    /// Number of rows that can't be read.
    pub fn skipped_count(&self) -> usize {
        self.skipped.len()
    }

    /// Writes the whole table at the end of an epoch, unless it is on disk already. Hashes of
    /// images that an earlier process read are made up for by reading their bytes again.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn settle(&mut self, path: &Path, source: &dyn Source) -> Result<(), Error> {
        if self.settled {
            return Ok(());
        }
        for row in 0..self.hashes.len() {
            if self.hashes[row].is_none() && !self.skipped.contains_key(&(row as u64)) {
                self.hashes[row] = source.content_hash(row).ok();
            }
        }
        self.write(path, source)?;
        self.hashes.fill(None);
        self.settled = true;
        Ok(())
    }

    /// Writes what is known so far as `images.parquet`.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn write(&self, path: &Path, source: &dyn Source) -> Result<(), Error> {
        let columns = [
            ("row", Column::Numbers(&|row| Some(row as i64))),
            ("path", Column::Text(&|row| Some(source.name(row)))),
            (
                "label",
                Column::Numbers(&|row| source.label(row).map(i64::from)),
            ),
            (
                "content_hash",
                Column::Text(&|row| self.hashes[row].map(|hash| hash.to_string())),
            ),
            (
                "skipped",
                Column::Text(&|row| self.skipped.get(&(row as u64)).cloned()),
            ),
        ];
        let digest = self.collection.as_deref();
        let metadata: Vec<(&str, &str)> = digest.map(|d| (COLLECTION, d)).into_iter().collect();
        table::write_with(path, self.hashes.len(), &columns, &metadata)
    }
}
