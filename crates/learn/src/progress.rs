//! What a training run tells its caller while it runs.
//!
//! The records are also the lines of `metrics.jsonl` (see `docs/formats.md`), so that what is
//! drawn and what is kept can't differ. Epochs and steps count from 1 in all of them; accuracies
//! are percentages.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::health::BankReport;

/// What is known when the first step is about to be taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Started {
    /// The run folder.
    pub run: PathBuf,
    /// N, rows of the memory bank: training images, unreadable ones included.
    pub images: usize,
    /// Epochs in all.
    pub epochs: u32,
    /// Optimiser steps in all, as far as is known: unreadable images found later may take a few
    /// off.
    pub steps: u64,
    /// Steps that the checkpoint already holds; 0 unless the run is resumed.
    pub step: u64,
    /// B, images of a full batch.
    pub batch: usize,
    /// Batches in an optimiser step.
    pub update_interval: usize,
    /// The loss of features that know nothing, as far as is known: see [`Progress::chance_loss`].
    pub chance_loss: f64,
    /// Number of trainable and frozen weights.
    pub parameters: usize,
    /// The engine's name.
    pub engine: String,
    /// The device, for people.
    pub device: String,
    /// Bytes the engine planned.
    pub planned_bytes: u64,
    /// Queries of the kNN figure; 0 where there is none.
    pub knn_queries: usize,
}

/// One log line: means since the log line before it (or since the epoch began).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Optimiser steps taken since the run began.
    pub step: u64,
    /// Mean loss.
    pub loss: f64,
    /// Learning rate of the last of these steps.
    pub lr: f64,
    /// Images trained a second, waits included.
    pub images_per_s: f64,
    /// Seconds a step waited for its images.
    pub wait_s: f64,
    /// Seconds a step took.
    pub step_s: f64,
}

/// One finished epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpochReport {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Optimiser steps taken since the run began.
    pub step: u64,
    /// Mean loss of the epoch's steps; a step of several batches counts their mean.
    pub loss: f64,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Images trained a second, evaluation not counted.
    pub images_per_s: f64,
    /// Collapse indicator: the mean standard deviation of the embedding's coordinates, times
    /// sqrt(D), over at most 128 training images: 1 is spread over the sphere, 0 collapsed to a
    /// point.
    pub spread: f64,
    /// ln Z of an NCE head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_z: Option<f64>,
    /// The health of the memory bank.
    #[serde(flatten)]
    pub bank: BankReport,
    /// Images that could not be read so far.
    pub skipped: usize,
    /// Seconds in which the steps waited for images.
    pub wait_s: f64,
    /// Seconds in the steps.
    pub step_s: f64,
    /// Seconds of these in the forward pass; `None`, as the three after it, of an engine that
    /// can't tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_s: Option<f64>,
    /// Seconds in the backward pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backward_s: Option<f64>,
    /// Seconds in the comparison with the memory bank and its update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank_s: Option<f64>,
    /// Seconds in the optimiser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer_s: Option<f64>,
    /// Steps that these seconds are of: those that this process took in the epoch.
    #[serde(skip)]
    pub timed_steps: u64,
    /// Seconds of evaluation at its end.
    pub eval_s: f64,
    /// kNN top-1, percent, where it was measured after this epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn_top1: Option<f64>,
    /// kNN top-5, percent, where it was measured after this epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn_top5: Option<f64>,
}

/// What a kNN figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnnSubject {
    /// The images themselves, at 32 x 32.
    Pixels,
    /// The network before its first step.
    Untrained,
    /// The network after some steps.
    Trained,
}

/// One kNN figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnnReport {
    /// What was measured.
    pub subject: KnnSubject,
    /// Epochs finished.
    pub epoch: u32,
    /// Optimiser steps taken.
    pub step: u64,
    /// Percent of the queries whose class got the most votes.
    pub knn_top1: f64,
    /// Percent of the queries whose class is among the five with the most votes.
    pub knn_top5: f64,
    /// Neighbours that vote.
    pub k: usize,
    /// τ of the vote's weights exp(s/τ).
    pub tau: f64,
    /// Number of queries.
    pub queries: usize,
    /// Number of images that may vote.
    pub rows: usize,
}

/// Hears what a run does, in the order in which it happens. Every method does nothing unless it is
/// overridden; `()` is a listener that ignores everything.
pub trait Progress {
    /// The first step is about to be taken.
    fn started(&mut self, _started: &Started) {}

    /// Unreadable images were found, which are drawn and counted no more: from now on this is the
    /// loss of features that know nothing.
    fn chance_loss(&mut self, _chance_loss: f64) {}

    /// Work before the first step or after the last: `what` in a few words, `done` of `total`
    /// images. Called for every batch of it.
    fn working(&mut self, _what: &str, _done: usize, _total: usize) {}

    /// One optimiser step was taken: called for every one, for progress bars.
    fn tick(&mut self, _epoch: u32, _step: u64, _loss: f64) {}

    /// A log line, every `log.interval` steps.
    fn step(&mut self, _report: &StepReport) {}

    /// An epoch is finished, its evaluation included.
    fn epoch(&mut self, _report: &EpochReport) {}

    /// A kNN figure was measured.
    fn knn(&mut self, _report: &KnnReport) {}

    /// A checkpoint was written.
    fn checkpoint(&mut self, _path: &Path, _step: u64) {}

    /// Something a person should know, said once.
    fn note(&mut self, _text: &str) {}

    /// Something a person should look into, said once.
    fn warning(&mut self, _text: &str) {}
}

impl Progress for () {}
