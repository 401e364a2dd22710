//! How the loaders of the data crate are set up for a run.

use std::sync::Arc;

use npid_data::augment::EvalView;
use npid_data::loader::{Batch, LoadError, LoadOptions, Reader};
use npid_data::source::Source;

use crate::error::Error;

/// Batches that are made ahead of the one in use.
const AHEAD: usize = 3;

/// The most threads that are chosen where nobody says how many.
const MAX_WORKERS: usize = 16;

/// Batches of `batch` pictures by `workers` threads; 0 is one for each core, 16 at most.
pub fn load_options(batch: usize, workers: usize, hashes: bool) -> LoadOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    LoadOptions {
        batch_size: batch,
        threads: match workers {
            0 => cores.min(MAX_WORKERS),
            n => n,
        },
        ahead: AHEAD,
        hashes,
    }
}

/// The evaluation views of `rows` at `size` x `size`, in their order. Every unreadable row is in
/// the `skipped` of some batch, the last of which may have no picture.
pub fn views(source: &Arc<dyn Source>, rows: Vec<u64>, size: usize, options: LoadOptions) -> Views {
    Views {
        reader: Reader::new(source.clone(), EvalView { size }, rows, options),
        told: 0,
    }
}

/// See [`views`].
pub struct Views {
    reader: Reader,
    /// Unreadable rows that were in a batch.
    told: usize,
}

impl Views {
    /// Gives a batch back, so that its memory is used again.
    pub fn recycle(&mut self, batch: Batch) {
        self.reader.recycle(batch);
    }
}

impl Iterator for Views {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.next() {
            Some(Ok(batch)) => {
                self.told += batch.skipped.len();
                Some(Ok(batch))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                // Those met after the last readable row are in no batch of the reader's.
                let skipped = self.reader.skipped()[self.told..].to_vec();
                self.told += skipped.len();
                (!skipped.is_empty()).then(|| {
                    Ok(Batch {
                        skipped,
                        ..Batch::default()
                    })
                })
            }
        }
    }
}

/// A collection without a readable picture is the user's to mend; a thread that ended is not.
impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NothingReadable { .. } => Error::Input(error.to_string()),
            LoadError::Thread(_) => Error::Run(error.to_string()),
        }
    }
}
