//! The kNN figure: how often the labels of a picture's neighbours name its own.
//!
//! Each query's k most similar training pictures vote for their class with weight exp(s/τ)
//! (Wu et al. 2018, section 3.4). Similarity s is the inner product of normalised embeddings in
//! evaluation mode or, for raw pixels, the correlation coefficient of the two pictures' evaluation
//! views of 32 x 32 (antialiased): each is less its own mean and divided by its own norm, over all
//! 3,072 values, so that brightness and contrast of a whole picture don't decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use npid_data::loader::{Batch, Skipped};
use npid_data::source::Source;
use npid_engine::{Engine, Images, Norm, Output};
use npid_search::{Options, TopK, knn_accuracy, vote};

use crate::collections::{Collections, KnnSplit};
use crate::error::Error;
use crate::feed::{self, load_options};
use crate::progress::{KnnReport, KnnSubject, Progress};

/// Height and width of raw pixels that are compared.
pub const PIXELS_SIZE: usize = 32;

/// Raw pixels are compared for this many queries at most, which are spread evenly over all: their
/// 3,072 dimensions cost more than the network's few, and the figure is only there to compare with.
pub const MAX_PIXEL_QUERIES: usize = 2000;

/// Voters whose raw pixels are held at once.
const PIXEL_BLOCK: usize = 4096;

/// How pictures are read and embedded.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Height and width of the network's images.
    pub size: usize,
    /// Images embedded at once.
    pub batch: usize,
    /// Threads that load; 0 is chosen by the loader.
    pub workers: usize,
    /// Threads of the search; 0 is one for each core.
    pub threads: usize,
    /// Set to stop: what is under way then ends with [`Error::Interrupted`].
    pub stop: &'a AtomicBool,
}

impl Reading<'_> {
    /// Ends what is under way if it should stop.
    pub(crate) fn poll(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted("stopped".into()));
        }
        Ok(())
    }
}

/// Hears of every batch, with the engine that embedded it and the features of its pictures one after
/// the other.
pub type Each<'a> = &'a mut dyn FnMut(&mut dyn Engine, &Batch, &[f32]) -> Result<(), Error>;

/// Embeds `rows` of a source in their order, `reading.batch` at a time; `each` hears of
/// every batch, and of its readable rows' features. With [`Norm::Track`], the pass before training,
/// batches come with content hashes.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop; what `each` returns.
pub fn embed_each(
    engine: &mut dyn Engine,
    source: &Arc<dyn Source>,
    rows: Vec<u64>,
    norm: Norm,
    reading: Reading<'_>,
    each: Each<'_>,
) -> Result<(), Error> {
    let mut features = [Vec::new()];
    let hashes = norm == Norm::Track;
    let options = load_options(reading.batch, reading.workers, hashes);
    let mut views = feed::views(source, rows, reading.size, options);
    while let Some(batch) = views.next() {
        reading.poll()?;
        let batch = batch?;
        let count = batch.rows.len();
        features[0].clear();
        if count > 0 {
            // One picture alone has no batch statistics at a 1 x 1 batch norm.
            let norm = if count == 1 { Norm::Eval } else { norm };
            let images = Images {
                pixels: &batch.pixels,
                count,
            };
            engine.features(images, norm, &[Output::Embedding], &mut features)?;
        }
        each(engine, &batch, &features[0])?;
        views.recycle(batch);
    }
    Ok(())
}

/// Rows that could be read, in the order given, and their features, one after the other.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop.
fn embed(
    engine: &mut dyn Engine,
    source: &Arc<dyn Source>,
    rows: &[u64],
    reading: Reading<'_>,
    each: &mut dyn FnMut(&Batch),
) -> Result<(Vec<u64>, Vec<f32>), Error> {
    let (mut read, mut all) = (Vec::new(), Vec::new());
    let rows = rows.to_vec();
    embed_each(
        engine,
        source,
        rows,
        Norm::Eval,
        reading,
        &mut |_, batch, features| {
            read.extend_from_slice(&batch.rows);
            all.extend_from_slice(features);
            each(batch);
            Ok(())
        },
    )?;
    Ok((read, all))
}

/// A kNN measurement of a run.
pub struct Measurement<'a> {
    /// Who votes and who asks.
    pub split: &'a KnnSplit,
    /// The pictures.
    pub collections: &'a Collections,
    /// Neighbours that vote; fewer where there are fewer.
    pub k: usize,
    /// τ of their weights.
    pub tau: f64,
    /// How pictures are read.
    pub reading: Reading<'a>,
}

impl Measurement<'_> {
    /// The figure of the network as it is, after `epoch` epochs and `step` steps. With `warn`,
    /// `progress` hears of queries that can't be read; they are left out, as voters are.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when asked to stop.
    pub fn network(
        &self,
        engine: &mut dyn Engine,
        subject: KnnSubject,
        (epoch, step): (u32, u64),
        warn: bool,
        progress: &mut dyn Progress,
    ) -> Result<KnnReport, Error> {
        let split = self.split;
        let total = split.voters.len() + split.queries.len();
        let train = &self.collections.train;
        let reading = self.reading;
        let mut done = 0;
        let (voters, bank) = embed(engine, train, &split.voters, reading, &mut |batch| {
            done += batch.rows.len() + batch.skipped.len();
            progress.working("kNN", done, total);
        })?;
        let source = split.query_source(self.collections);
        let (asked, queries) = embed(engine, source, &split.queries, reading, &mut |batch| {
            for Skipped { name, reason, .. } in batch.skipped.iter().filter(|_| warn) {
                progress.warning(&format!("no query: {name} can't be read ({reason})"));
            }
            done += batch.rows.len() + batch.skipped.len();
            progress.working("kNN", done, total);
        })?;
        let report = knn_accuracy(
            &queries,
            &labels_of(&asked, &split.queries, &split.query_labels),
            &bank,
            &labels_of(&voters, &split.voters, &split.voter_labels),
            split.classes,
            engine.description().network.feat_dim(),
            self.k,
            self.tau as f32,
            self.reading.threads,
        );
        let report = report.map_err(|error| Error::run(format!("kNN: {error}")))?;
        Ok(KnnReport {
            subject,
            epoch,
            step,
            knn_top1: report.top1,
            knn_top5: report.top5,
            k: report.k,
            tau: self.tau,
            queries: report.queries,
            rows: report.rows,
        })
    }

    /// The figure of raw pixels.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when asked to stop.
    pub fn pixels(&self, progress: &mut dyn Progress) -> Result<KnnReport, Error> {
        let split = self.split;
        let stride = split.queries.len().div_ceil(MAX_PIXEL_QUERIES).max(1);
        let asking: Vec<u64> = split.queries.iter().copied().step_by(stride).collect();
        let total = split.voters.len() + asking.len();
        let source = split.query_source(self.collections);
        let (asked, queries) = self.correlated(source, &asking)?;
        let labels = labels_of(&asked, &split.queries, &split.query_labels);
        let mut nearest = vec![Vec::new(); asked.len()];
        let mut votes_possible = 0;
        for (block, voters) in split.voters.chunks(PIXEL_BLOCK).enumerate() {
            let done = asking.len() + block * PIXEL_BLOCK;
            progress.working("kNN of raw pixels", done, total);
            let (rows, pixels) = self.correlated(&self.collections.train, voters)?;
            if rows.is_empty() {
                continue;
            }
            votes_possible += rows.len();
            let voter_labels = labels_of(&rows, &split.voters, &split.voter_labels);
            let options = Options {
                excluded: None,
                own_rows: None,
                threads: self.reading.threads,
            };
            let dim = PIXELS_SIZE * PIXELS_SIZE * 3;
            let found = TopK::search(&queries, &pixels, dim, self.k, &options)
                .map_err(|error| Error::run(format!("kNN of raw pixels: {error}")))?;
            for (query, nearest) in nearest.iter_mut().enumerate() {
                let (rows, similarities) = found.of(query);
                keep_nearest(nearest, self.k, rows, similarities, &voter_labels);
            }
        }
        let (mut first, mut among_five) = (0, 0);
        for (nearest, label) in nearest.iter().zip(&labels) {
            let (similarities, classes): (Vec<f32>, Vec<u32>) = nearest.iter().copied().unzip();
            let votes = vote(&classes, &similarities, split.classes, self.tau as f32);
            let place = place(&votes, label.unwrap_or_default() as usize);
            first += usize::from(place == 0);
            among_five += usize::from(place < 5);
        }
        let percent = |count: usize| 100.0 * count as f64 / asked.len().max(1) as f64;
        Ok(KnnReport {
            subject: KnnSubject::Pixels,
            epoch: 0,
            step: 0,
            knn_top1: percent(first),
            knn_top5: percent(among_five),
            k: self.k.min(votes_possible),
            tau: self.tau,
            queries: asked.len(),
            rows: votes_possible,
        })
    }

    /// Rows that can be read, and their pixels less their mean, over their norm.
    fn correlated(
        &self,
        source: &Arc<dyn Source>,
        rows: &[u64],
    ) -> Result<(Vec<u64>, Vec<f32>), Error> {
        let dim = PIXELS_SIZE * PIXELS_SIZE * 3;
        let (mut read, mut values) = (Vec::new(), Vec::with_capacity(rows.len() * dim));
        let options = load_options(128, self.reading.workers, false);
        for batch in feed::views(source, rows.to_vec(), PIXELS_SIZE, options) {
            self.reading.poll()?;
            let batch = batch?;
            for picture in batch.pixels.chunks_exact(dim) {
                values.extend(correlation_vector(picture));
            }
            read.extend(batch.rows);
        }
        Ok((read, values))
    }
}

/// A picture less its mean, over its norm; zeros for one of a single colour.
fn correlation_vector(picture: &[u8]) -> impl Iterator<Item = f32> {
    // Integer sums: exact in any order.
    let n = picture.len() as f64;
    let sum: u64 = picture.iter().map(|&v| u64::from(v)).sum();
    let squares: u64 = picture.iter().map(|&v| u64::from(v).pow(2)).sum();
    let mean = sum as f64 / n;
    let norm = (squares as f64 - n * mean * mean).max(0.0).sqrt().max(1e-6);
    picture
        .iter()
        .map(move |&v| ((f64::from(v) - mean) / norm) as f32)
}

/// Labels of `rows`, which are some of `all` (both in the same order).
fn labels_of(rows: &[u64], all: &[u64], labels: &[u32]) -> Vec<Option<u32>> {
    let mut pairs = all.iter().zip(labels);
    (rows.iter())
        .map(|row| pairs.find(|(r, _)| *r == row).map(|(_, &label)| label))
        .collect()
}

/// Merges a block's neighbours into the `k` nearest so far (similarity, class); of equally near
/// ones the earlier stays.
fn keep_nearest(
    nearest: &mut Vec<(f32, u32)>,
    k: usize,
    rows: &[u32],
    similarities: &[f32],
    labels: &[Option<u32>],
) {
    let found = rows.iter().zip(similarities);
    nearest.extend(found.map(|(&row, &s)| (s, labels[row as usize].unwrap_or_default())));
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
    nearest.truncate(k);
}

/// How many classes come before `label` by votes, the lower class first where they are equal.
fn place(votes: &[f64], label: usize) -> usize {
    let mine = votes[label];
    let before = |(class, &vote): (usize, &f64)| vote > mine || (vote == mine && class < label);
    votes.iter().enumerate().filter(|&v| before(v)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_products_of_correlation_vectors_are_correlations() {
        let a = [10u8, 20, 30, 50];
        let b = [3u8, 1, 4, 2];
        let dot = |x: &[u8], y: &[u8]| -> f32 {
            correlation_vector(x)
                .zip(correlation_vector(y))
                .map(|(x, y)| x * y)
                .sum()
        };
        // numpy.corrcoef([10, 20, 30, 50], [3, 1, 4, 2])[0, 1]
        assert!((dot(&a, &b) + 0.075_592_89).abs() < 1e-6, "{}", dot(&a, &b));
        let brighter = [60u8, 70, 80, 100];
        assert!((dot(&a, &brighter) - 1.0).abs() < 1e-6);
        assert_eq!(dot(&[7; 4], &a), 0.0);
    }

    #[test]
    fn merged_blocks_are_the_nearest_of_all() {
        let labels = [Some(4), Some(5), Some(6)];
        let mut nearest = Vec::new();
        keep_nearest(&mut nearest, 3, &[1, 0], &[0.9, 0.2], &labels);
        keep_nearest(&mut nearest, 3, &[2, 1, 0], &[0.9, 0.5, 0.1], &labels);
        assert_eq!(nearest, [(0.9, 5), (0.9, 6), (0.5, 5)]);
    }

    #[test]
    fn labels_follow_the_rows_that_are_left() {
        let labels = labels_of(&[3, 9], &[1, 3, 4, 9], &[10, 30, 40, 90]);
        assert_eq!(labels, [Some(30), Some(90)]);
    }
}
