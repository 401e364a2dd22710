//! How long a run takes, from how long its parts take.

use npid_engine::Engine;
use serde::Serialize;

use super::{Disk, measure};
use crate::bank_file;
use crate::collections::{Collections, KnnSplit};
use crate::config::{Config, Start};
use crate::error::Error;
use crate::feed;
use crate::knn::MAX_PIXEL_QUERIES;
use crate::trainer::{Options, SAMPLE, steps_of_an_epoch};

/// Operations a second of the search on one core, about.
const SEARCH_FLOPS: f64 = 8e9;

/// Bytes of a checkpoint that are hashed, written and synced in a second, about.
const SAVE_BYTES: f64 = 150e6;

/// Seconds, and what they come from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    /// Optimiser steps of an epoch.
    pub steps_per_epoch: u64,
    /// Epochs.
    pub epochs: u32,
    /// A step of full batches, by the engine alone.
    pub step_s: f64,
    /// Images of the steps that were timed; fewer than a batch where the rest is inferred.
    pub timed_images: usize,
    /// Reading and augmenting one picture, on one thread.
    pub picture_s: f64,
    /// Pictures that were timed.
    pub timed_pictures: usize,
    /// Images trained a second, waits for pictures included.
    pub images_per_s: f64,
    /// The share of the steps' time spent waiting for pictures, or sharing the cores with them, in
    /// percent.
    pub loading: f64,
    /// Before the first step: the bank's start, kNN of the untrained network and of pixels.
    pub before_s: f64,
    /// The steps of an epoch.
    pub epoch_s: f64,
    /// One kNN figure; 0 where there is none.
    pub evaluation_s: f64,
    /// How many of them.
    pub evaluations: u32,
    /// One checkpoint, about.
    pub checkpoint_s: f64,
    /// All of it.
    pub total_s: f64,
}

/// Cores, and how many threads compute and load.
#[derive(Clone, Copy)]
struct Machine {
    cores: f64,
    compute: f64,
    load: f64,
}

impl Machine {
    /// Seconds of work that takes `compute` seconds of the engine and `load` seconds of a single
    /// loading thread, side by side: the longer of the two, and no less than all cores need for
    /// both.
    fn together(self, compute: f64, load: f64) -> f64 {
        let both = (compute * self.compute + load) / self.cores;
        compute.max(load / self.load).max(both)
    }
}

/// Measures the parts and adds them up.
pub(super) fn estimate(
    config: &Config,
    collections: &Collections,
    split: Option<&KnnSplit>,
    engine: &mut dyn Engine,
    options: &Options<'_>,
    disk: Disk,
) -> Result<Time, Error> {
    let images = collections.train.len();
    let data = &config.data;
    let batch = data.batch_size.min(images);
    let pictures = measure::pictures(config, collections, options)?;
    let steps = measure::steps(config, images, engine, options)?;

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = options.workers.unwrap_or(data.workers);
    let load = feed::load_options(batch, workers, false).threads;
    let compute = match (engine.info().engine, options.threads) {
        ("reference", _) => 1,
        (_, 0) => cores,
        (_, threads) => threads,
    };
    let machine = Machine {
        cores: cores as f64,
        compute: compute.min(cores) as f64,
        load: load.min(cores) as f64,
    };
    let whole_step = machine.together(steps.step_s, pictures.train_s * batch as f64);
    // A shorter last batch takes its share.
    let shown = match data.drop_last {
        true => images / batch * batch,
        false => images,
    };
    let epoch_s = whole_step * shown as f64 / batch as f64;

    let forward = steps.forward_s / batch as f64;
    let view = machine.together(forward, pictures.view_s);
    let (voters, queries) = split.map_or((0, 0), |s| (s.voters.len(), s.queries.len()));
    let asked = (voters + queries) as f64;
    let dim = config.feat_dim() as f64;
    let search = 2.0 * voters as f64 * queries as f64 * dim / (SEARCH_FLOPS * machine.compute);
    let evaluation_s = asked * view + search;
    let mut before_s = evaluation_s;
    if config.model.memory_bank.init == Start::Features {
        before_s += images as f64 * view;
    }
    // Pixels are read, and compared in 3,072 dimensions.
    let pixels = voters as f64 + queries.min(MAX_PIXEL_QUERIES) as f64;
    before_s += pixels * pictures.view_s / machine.load
        + 3072.0 / dim * search * (queries.min(MAX_PIXEL_QUERIES) as f64 / queries.max(1) as f64);

    let interval = config.optimizer_config.update_interval;
    let epochs = config.runner.max_epochs;
    let evaluations = match (split, config.evaluation.interval) {
        (None, _) => 0,
        (_, 0) => 1,
        (_, interval) => epochs.div_ceil(interval),
    };
    let spread_s = forward * SAMPLE.min(images) as f64;
    let checkpoint_s = disk.checkpoint as f64 / SAVE_BYTES;
    let mut saved = f64::from(1 + epochs.div_ceil(config.checkpoint.interval));
    if let Some(each) = bank_file::interval(config) {
        saved += f64::from(epochs) * steps_of_an_epoch(config, images) as f64 / each as f64;
    }
    let total_s = before_s
        + f64::from(epochs) * (epoch_s + spread_s)
        + f64::from(evaluations) * evaluation_s
        + saved * checkpoint_s;
    Ok(Time {
        steps_per_epoch: steps_of_an_epoch(config, images),
        epochs,
        step_s: steps.step_s * interval.min(images.div_ceil(batch)) as f64,
        timed_images: steps.images,
        picture_s: pictures.train_s,
        timed_pictures: pictures.pictures,
        images_per_s: batch as f64 / whole_step.max(1e-9),
        loading: 100.0 * (1.0 - steps.step_s / whole_step.max(1e-9)),
        before_s,
        epoch_s,
        evaluation_s,
        evaluations,
        checkpoint_s,
        total_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_costs_what_the_cores_have_not_left() {
        let machine = |cores, compute, load| Machine {
            cores,
            compute,
            load,
        };
        // Two cores, both computing: loading comes on top, shared by both.
        assert_eq!(machine(2.0, 2.0, 2.0).together(1.0, 0.5), 1.25);
        // One of two computes: loading is hidden until it takes longer.
        assert_eq!(machine(2.0, 1.0, 1.0).together(1.0, 0.5), 1.0);
        assert_eq!(machine(2.0, 1.0, 1.0).together(1.0, 3.0), 3.0);
        // Many threads load, and the engine waits for them.
        assert_eq!(machine(16.0, 4.0, 8.0).together(1.0, 16.0), 2.0);
    }
}
