//! From a source to batches, on threads of their own, ahead of whoever consumes them.
//!
//! [`Loader`] gives the batches of one epoch of training, [`Reader`] the plain views of given
//! rows. What they give depends on the collection, the seed and the epoch alone: the number of
//! threads, their timing, and where in an epoch one starts change nothing.
//!
//! # A picture that can't be read
//! In training the next readable one in the epoch's order takes its place, so the number of
//! batches and their sizes stay what they were. Which one that is, each position finds for itself.
//! The row is reported once an epoch, by the first batch that met it; from the next epoch on the
//! caller passes it as excluded. A [`Reader`] leaves it out.

mod pool;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use npid_network::philox::{Purpose, Stream};
use serde::{Deserialize, Serialize};

use crate::augment::{EvalView, Pipeline, Workspace};
use crate::source::{ContentHash, Picture, PictureError, Source};
use pool::Pool;

/// Pictures that a thread makes at a time. Small, so that a batch is made by all threads together
/// and the first one comes soon.
const CHUNK: usize = 16;

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Pictures in a batch, at least 1.
    pub batch_size: usize,
    /// Threads that decode and augment, at least 1.
    pub threads: usize,
    /// Batches that are made ahead of the consumer, at least 1. Each takes
    /// `batch_size * height * width * 3` bytes.
    pub ahead: usize,
    /// Whether to hash the pictures' contents too ([`Batch::hashes`]).
    pub hashes: bool,
}

/// Which epoch a [`Loader`] gives, and from where on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the epoch, from 0.
    pub epoch: u32,
    /// The first step to give; those before it are not made. 0 for a whole epoch.
    pub first_step: usize,
    /// Whether a last, shorter batch is left out.
    pub drop_last: bool,
}

/// A picture that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its row.
    pub row: u64,
    /// Its name in the collection.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Some pictures, ready for the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// B x H x W x 3, 8-bit RGB, not normalised.
    pub pixels: Vec<u8>,
    /// The rows shown, B of them.
    pub rows: Vec<u64>,
    /// For each, how far in the order it stands from the picture whose place it takes: 0 for its
    /// own place. Further draws for it are addressed by (epoch, row, occurrence).
    pub occurrences: Vec<u32>,
    /// Hashes of the B pictures' contents, if they were asked for; else empty.
    pub hashes: Vec<ContentHash>,
    /// Pictures that were found unreadable while this batch was made, each once an epoch, in the
    /// order they were met.
    pub skipped: Vec<Skipped>,
}

impl Batch {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Why no more batches come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not one picture of the epoch can be read.
    #[error("none of the {images} pictures can be read; one of them is {name}: {reason}")]
    NothingReadable {
        /// Number of pictures in the epoch's order.
        images: usize,
        /// Name of the one that the search began with.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread of the loader ended with a panic, or none could be started.
    #[error("loading failed: {0}")]
    Thread(String),
}

/// Rows of an epoch in the order they are visited: all of 0..images but the excluded ones,
/// shuffled by (seed, epoch).
pub fn epoch_order(images: usize, excluded: &BTreeSet<u64>, seed: u64, epoch: u32) -> Vec<u64> {
    let mut rows: Vec<u64> = (0..images as u64)
        .filter(|row| !excluded.contains(row))
        .collect();
    Stream::new(seed, Purpose::Order, epoch, 0, 0).shuffle(&mut rows);
    rows
}

/// Number of batches that `images` pictures make.
pub fn steps_per_epoch(images: usize, batch_size: usize, drop_last: bool) -> usize {
    if drop_last {
        images / batch_size
    } else {
        images.div_ceil(batch_size)
    }
}

/// What a thread makes at a time: consecutive pictures.
#[derive(Default)]
struct Chunk {
    pixels: Vec<u8>,
    rows: Vec<u64>,
    occurrences: Vec<u32>,
    hashes: Vec<ContentHash>,
    /// Unreadable rows met, with the reasons.
    met: Vec<(u64, PictureError)>,
}

/// What the threads share.
struct Shelf {
    source: Arc<dyn Source>,
    hashes: bool,
    /// Rows found unreadable, so that the search for a replacement tries none twice.
    unreadable: Mutex<HashMap<u64, PictureError>>,
    /// Memory of chunks that have been copied into their batches.
    free: Mutex<Vec<Vec<u8>>>,
}

impl Shelf {
    fn read(&self, row: u64) -> Result<(Picture, Option<ContentHash>), PictureError> {
        let known = lock(&self.unreadable).get(&row).cloned();
        if let Some(error) = known {
            return Err(error);
        }
        let at = row as usize;
        // A source that panics on one picture must not take the run with it.
        let read = catch_unwind(AssertUnwindSafe(|| {
            if self.hashes {
                let (picture, hash) = self.source.picture_and_hash(at)?;
                Ok((picture, Some(hash)))
            } else {
                Ok((self.source.picture(at)?, None))
            }
        }));
        let read = read.unwrap_or_else(|_| Err(PictureError::new("reading it panicked")));
        if let Err(error) = &read {
            lock(&self.unreadable).insert(row, error.clone());
        }
        read
    }

    fn chunk(&self, pictures: usize, bytes: usize) -> Chunk {
        let mut pixels = lock(&self.free).pop().unwrap_or_default();
        pixels.clear();
        pixels.reserve(pictures * bytes);
        Chunk {
            pixels,
            ..Chunk::default()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chunk {
    /// Adds a picture and returns the memory for its pixels.
    fn push(
        &mut self,
        row: u64,
        occurrence: u32,
        hash: Option<ContentHash>,
        bytes: usize,
    ) -> &mut [u8] {
        self.rows.push(row);
        self.occurrences.push(occurrence);
        self.hashes.extend(hash);
        let at = self.pixels.len();
        self.pixels.resize(at + bytes, 0);
        &mut self.pixels[at..]
    }
}

/// What both kinds of loading do with the chunks.
struct Assembly {
    pool: Pool<Result<Chunk, LoadError>>,
    shelf: Arc<Shelf>,
    seen: HashSet<u64>,
    skipped: Vec<Skipped>,
    spare: Vec<Batch>,
}

impl Assembly {
    fn new(pool: Pool<Result<Chunk, LoadError>>, shelf: Arc<Shelf>) -> Self {
        Assembly {
            pool,
            shelf,
            seen: HashSet::new(),
            skipped: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Takes the next chunk and reports what it met that no chunk before it did.
    fn next_chunk(&mut self, batch: &mut Batch) -> Option<Result<Chunk, LoadError>> {
        let mut chunk = match self.pool.next()? {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) | Err(error) => return Some(Err(error)),
        };
        for (row, error) in chunk.met.drain(..) {
            if self.seen.insert(row) {
                batch.skipped.push(Skipped {
                    row,
                    name: self.shelf.source.name(row as usize),
                    reason: error.reason,
                });
            }
        }
        Some(Ok(chunk))
    }

    /// Gives a chunk's pixel memory back to the threads.
    fn free(&mut self, chunk: Chunk) {
        lock(&self.shelf.free).push(chunk.pixels);
    }

    fn empty_batch(&mut self) -> Batch {
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.pixels.clear();
        batch.rows.clear();
        batch.occurrences.clear();
        batch.hashes.clear();
        batch.skipped.clear();
        batch
    }
}

/// The batches of one epoch of training, in order. Dropping it stops its threads.
pub struct Loader {
    assembly: Assembly,
    images: usize,
    batch_size: usize,
    steps: usize,
    next_step: usize,
}

impl Loader {
    /// Starts loading an epoch.
    ///
    /// `excluded` are the rows known to be unreadable *when the epoch began*; they are not tried.
    /// To start in the middle of an epoch pass what was excluded at its beginning: rows found
    /// since then are part of its order, and are found and reported again.
    ///
    /// # Panics
    /// If `batch_size`, `threads` or `ahead` is 0.
    pub fn new(
        source: Arc<dyn Source>,
        pipeline: Arc<Pipeline>,
        options: LoadOptions,
        epoch: Epoch,
        excluded: &BTreeSet<u64>,
    ) -> Self {
        assert!(options.batch_size > 0, "a batch needs pictures");
        let order = epoch_order(source.len(), excluded, epoch.seed, epoch.epoch);
        let images = order.len();
        let steps = steps_per_epoch(images, options.batch_size, epoch.drop_last);
        let shelf = Arc::new(Shelf {
            source,
            hashes: options.hashes,
            unreadable: Mutex::default(),
            free: Mutex::default(),
        });
        let work = Work {
            order,
            shelf: shelf.clone(),
            pipeline,
            epoch,
            batch_size: options.batch_size,
        };
        let chunks = work.chunks_per_batch();
        let pool = Pool::new(
            options.threads,
            epoch.first_step.min(steps) * chunks..steps * chunks,
            options.ahead * chunks,
            Workspace::default,
            move |workspace, task, stop| work.make(workspace, task, stop),
        );
        Loader {
            assembly: Assembly::new(pool, shelf),
            images,
            batch_size: options.batch_size,
            steps,
            next_step: epoch.first_step,
        }
    }

    /// Number of batches in the whole epoch, whichever one it starts with.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Number of pictures in the epoch's order: rows that are not excluded.
    pub fn images(&self) -> usize {
        self.images
    }

    /// How long [`Iterator::next`] has waited for pictures in all.
    pub fn waited(&self) -> Duration {
        self.assembly.pool.waited()
    }

    /// Gives a batch back, so that its memory is used again.
    pub fn recycle(&mut self, batch: Batch) {
        self.assembly.spare.push(batch);
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_step >= self.steps {
            return None;
        }
        let mut batch = self.assembly.empty_batch();
        for _ in 0..self.batch_size.div_ceil(CHUNK) {
            let chunk = match self.assembly.next_chunk(&mut batch)? {
                Ok(chunk) => chunk,
                Err(error) => {
                    self.next_step = self.steps;
                    return Some(Err(error));
                }
            };
            batch.pixels.extend_from_slice(&chunk.pixels);
            batch.rows.extend_from_slice(&chunk.rows);
            batch.occurrences.extend_from_slice(&chunk.occurrences);
            batch.hashes.extend_from_slice(&chunk.hashes);
            self.assembly.free(chunk);
        }
        self.next_step += 1;
        Some(Ok(batch))
    }
}

/// What the threads of a [`Loader`] do.
struct Work {
    order: Vec<u64>,
    shelf: Arc<Shelf>,
    pipeline: Arc<Pipeline>,
    epoch: Epoch,
    batch_size: usize,
}

impl Work {
    /// The last batch has as many; some of them may be empty.
    fn chunks_per_batch(&self) -> usize {
        self.batch_size.div_ceil(CHUNK)
    }

    fn make(
        &self,
        workspace: &mut Workspace,
        task: usize,
        stop: &AtomicBool,
    ) -> Option<Result<Chunk, LoadError>> {
        let (step, part) = (
            task / self.chunks_per_batch(),
            task % self.chunks_per_batch(),
        );
        let batch_end = ((step + 1) * self.batch_size).min(self.order.len());
        let start = (step * self.batch_size + part * CHUNK).min(batch_end);
        let end = (start + CHUNK).min(batch_end);
        let bytes = self.pipeline.output_bytes();
        let mut chunk = self.shelf.chunk(end - start, bytes);
        for position in start..end {
            if let Err(error) = self.show(position, workspace, &mut chunk, stop)? {
                return Some(Err(error));
            }
        }
        Some(Ok(chunk))
    }

    /// Adds the picture at a position of the order, or the next readable one, wrapping at the end.
    /// `None` where it was told to stop.
    fn show(
        &self,
        position: usize,
        workspace: &mut Workspace,
        chunk: &mut Chunk,
        stop: &AtomicBool,
    ) -> Option<Result<(), LoadError>> {
        let images = self.order.len();
        let mut first = None;
        for distance in 0..images {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let row = self.order[(position + distance) % images];
            match self.shelf.read(row) {
                Ok((picture, hash)) => {
                    // Rows are fewer than 2^32 in any collection that fits a disk.
                    let occurrence = distance as u32;
                    let out = chunk.push(row, occurrence, hash, self.pipeline.output_bytes());
                    let Epoch { seed, epoch, .. } = self.epoch;
                    let mut stream = Stream::new(seed, Purpose::Augment, epoch, row, occurrence);
                    self.pipeline.augment(&picture, &mut stream, workspace, out);
                    return Some(Ok(()));
                }
                Err(error) => {
                    chunk.met.push((row, error.clone()));
                    first.get_or_insert((row, error));
                }
            }
        }
        let (name, reason) = first.map_or_else(
            || ("none".to_owned(), "the epoch holds no pictures".to_owned()),
            |(row, error)| (self.shelf.source.name(row as usize), error.reason),
        );
        Some(Err(LoadError::NothingReadable {
            images,
            name,
            reason,
        }))
    }
}

/// The evaluation views of given rows, in the order given. Rows that can't be read are left out
/// and listed; every batch but the last has its full size nevertheless. Dropping it stops its
/// threads.
pub struct Reader {
    assembly: Assembly,
    batch_size: usize,
    /// What was left of a chunk when a batch was full, and how many of its pictures are used.
    rest: Option<(Chunk, usize)>,
    bytes: usize,
    finished: bool,
}

impl Reader {
    /// Starts reading the views of `rows`.
    ///
    /// # Panics
    /// If `batch_size`, `threads` or `ahead` is 0, or a row isn't below the source's length.
    pub fn new(
        source: Arc<dyn Source>,
        view: EvalView,
        rows: Vec<u64>,
        options: LoadOptions,
    ) -> Self {
        assert!(options.batch_size > 0, "a batch needs pictures");
        let images = source.len() as u64;
        assert!(
            rows.iter().all(|&row| row < images),
            "a row is beyond the source"
        );
        let shelf = Arc::new(Shelf {
            source,
            hashes: options.hashes,
            unreadable: Mutex::default(),
            free: Mutex::default(),
        });
        let bytes = view.size * view.size * 3;
        let tasks = rows.len().div_ceil(CHUNK);
        let ahead = (options.ahead * options.batch_size).div_ceil(CHUNK);
        let work = {
            let shelf = shelf.clone();
            move |workspace: &mut Workspace, task: usize, stop: &AtomicBool| {
                let rows = &rows[task * CHUNK..((task + 1) * CHUNK).min(rows.len())];
                let mut chunk = shelf.chunk(rows.len(), bytes);
                for &row in rows {
                    if stop.load(Ordering::Relaxed) {
                        return None;
                    }
                    match shelf.read(row) {
                        Ok((picture, hash)) => {
                            let out = chunk.push(row, 0, hash, bytes);
                            view.apply(&picture, workspace, out);
                        }
                        Err(error) => chunk.met.push((row, error)),
                    }
                }
                Some(Ok(chunk))
            }
        };
        let pool = Pool::new(options.threads, 0..tasks, ahead, Workspace::default, work);
        Reader {
            assembly: Assembly::new(pool, shelf),
            batch_size: options.batch_size,
            rest: None,
            bytes,
            finished: false,
        }
    }

    /// Every unreadable row met so far, those after the last readable one included once
    /// [`Iterator::next`] has returned `None`.
    pub fn skipped(&self) -> &[Skipped] {
        &self.assembly.skipped
    }

    /// How long [`Iterator::next`] has waited for pictures in all.
    pub fn waited(&self) -> Duration {
        self.assembly.pool.waited()
    }

    /// Gives a batch back, so that its memory is used again.
    pub fn recycle(&mut self, batch: Batch) {
        self.assembly.spare.push(batch);
    }
}

impl Iterator for Reader {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let mut batch = self.assembly.empty_batch();
        while batch.len() < self.batch_size {
            let (chunk, used) = match self.rest.take() {
                Some(rest) => rest,
                None => match self.assembly.next_chunk(&mut batch) {
                    Some(Ok(chunk)) => (chunk, 0),
                    Some(Err(error)) => {
                        self.finished = true;
                        return Some(Err(error));
                    }
                    None => {
                        self.finished = true;
                        break;
                    }
                },
            };
            let end = chunk.rows.len().min(used + self.batch_size - batch.len());
            let pixels = &chunk.pixels[used * self.bytes..end * self.bytes];
            batch.pixels.extend_from_slice(pixels);
            batch.rows.extend_from_slice(&chunk.rows[used..end]);
            batch
                .occurrences
                .extend_from_slice(&chunk.occurrences[used..end]);
            if !chunk.hashes.is_empty() {
                batch.hashes.extend_from_slice(&chunk.hashes[used..end]);
            }
            if end < chunk.rows.len() {
                self.rest = Some((chunk, end));
            } else {
                self.assembly.free(chunk);
            }
        }
        self.assembly.skipped.extend_from_slice(&batch.skipped);
        (!batch.is_empty()).then_some(Ok(batch))
    }
}
