//! Epochs: their steps and what follows them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use npid_data::loader::{Batch, Epoch, Loader};
use npid_engine::state::LOG_Z;
use npid_engine::{Images, Norm, Output, Timings};
use npid_network::method::Head;
use npid_network::philox::{Purpose, Stream};

use super::step::Waiting;
use super::{Summary, Trainer};
use crate::bank_file;
use crate::checkpoint::{Best, LossSum};
use crate::error::Error;
use crate::feed::{self, load_options};
use crate::health::BankReport;
use crate::progress::{EpochReport, KnnSubject, StepReport};
use crate::run::Line;
use crate::schedule::Time;

/// Images that the collapse indicator looks at.
pub(crate) const SAMPLE: usize = 128;

/// Optimiser steps of an epoch in which every image can be read, of `interval` batches each but
/// for the last, which may have fewer.
pub(super) fn steps(images: usize, batch: usize, drop_last: bool, interval: usize) -> u64 {
    // One image alone, beside full batches, is no batch: see `Trainer::too_short`.
    let short = !drop_last && images % batch > 1;
    (images / batch + usize::from(short)).div_ceil(interval) as u64
}

impl Trainer<'_> {
    /// All epochs that are left.
    pub(super) fn run(mut self) -> Result<Summary, Error> {
        while self.cursor.epoch < self.config.runner.max_epochs {
            match self.epoch() {
                Err(Error::Interrupted(_)) => {
                    self.save()?;
                    return Err(self.interrupted());
                }
                other => other?,
            }
        }
        Ok(self.summary())
    }

    /// What is left of an epoch, its evaluation and its checkpoint.
    fn epoch(&mut self) -> Result<(), Error> {
        if self.cursor.step_in_epoch == 0 {
            self.epoch_loss = LossSum::default();
            self.health.begin_epoch();
            self.epoch_skipped = self.images.skipped();
        }
        self.timing.epoch = Default::default();
        self.engine.take_timings();
        let lr = self.steps()?;
        self.timing.epoch.engine = self.engine.take_timings();
        let report = self.finish_epoch(lr)?;

        self.cursor.epoch += 1;
        self.cursor.step_in_epoch = 0;
        self.write(&Line::Epoch(&report))?;
        self.progress.epoch(&report);
        let train = self.collections.train.clone();
        self.images.settle(&self.folder.images(), train.as_ref())?;
        let last = self.cursor.epoch == self.config.runner.max_epochs;
        if last
            || self
                .cursor
                .epoch
                .is_multiple_of(self.config.checkpoint.interval)
        {
            if let Some(knn_top1) = report.knn_top1
                && self
                    .figures
                    .best
                    .is_none_or(|best| knn_top1 > best.knn_top1)
            {
                let step = self.cursor.step;
                self.figures.best = Some(Best { step, knn_top1 });
            }
            self.save()?;
        }
        Ok(())
    }

    /// The steps that are left of this epoch. Returns the last learning rate.
    fn steps(&mut self) -> Result<f64, Error> {
        let data = &self.config.data;
        let epoch = Epoch {
            seed: self.config.seed,
            epoch: self.cursor.epoch,
            // The loader counts batches. All steps but an epoch's last have as many.
            first_step: self.cursor.step_in_epoch as usize * self.interval(),
            drop_last: data.drop_last,
        };
        let hashes = self.images.wants_hashes();
        let mut loader = Loader::new(
            self.collections.train.clone(),
            Arc::new(self.config.pipeline()?),
            load_options(data.batch_size, self.reading.workers, hashes),
            epoch,
            &self.epoch_skipped,
        );
        // If no step is left, what the epoch's line says is the rate of the last one taken.
        let mut lr = self.schedule.lr(Time {
            step_in_epoch: self.cursor.step_in_epoch.saturating_sub(1),
            ..self.time()
        });
        let mut waiting = Waiting::default();
        let save_each = bank_file::interval(&self.config);
        let mut since = Instant::now();
        while let Some(batch) = loader.next() {
            let batch = batch?;
            waiting.wait += since.elapsed();
            self.found(&batch)?;
            if !self.too_short(batch.rows.len()) {
                lr = self.schedule.lr(self.time());
                self.micro_batch(&batch, lr, &mut waiting)?;
                if waiting.batches == self.interval() {
                    self.take_step(std::mem::take(&mut waiting), lr)?;
                    loader.recycle(batch);
                    if save_each.is_some_and(|each| self.cursor.step.is_multiple_of(each)) {
                        self.save()?;
                    }
                    self.reading.poll()?;
                } else {
                    loader.recycle(batch);
                }
            }
            since = Instant::now();
        }
        // Fewer than an interval are left: they make a step of their own.
        if waiting.batches > 0 {
            self.take_step(waiting, lr)?;
        }
        Ok(lr)
    }

    /// Whether a batch is left out: one image alone where batches are larger, since a batch norm at
    /// 1 x 1 would make zeros of it.
    fn too_short(&self, images: usize) -> bool {
        images == 0 || images == 1 && self.config.data.batch_size > 1
    }

    /// Takes what the loader found out on the way to this batch.
    fn found(&mut self, batch: &Batch) -> Result<(), Error> {
        self.images.read(batch);
        let new = (self.images).skip(&batch.skipped, self.strict, self.progress)?;
        self.exclude(&new)
    }

    pub(super) fn log_line(&mut self, lr: f64) -> Result<(), Error> {
        let stretch = std::mem::take(&mut self.timing.log);
        let (wait_s, step_s) = stretch.each();
        let report = StepReport {
            epoch: self.cursor.epoch + 1,
            step: self.cursor.step,
            loss: self.log.take(),
            lr,
            images_per_s: stretch.images_per_s(),
            wait_s,
            step_s,
        };
        self.write(&Line::Step(&report))?;
        self.progress.step(&report);
        Ok(())
    }

    /// The evaluation at an epoch's end.
    fn finish_epoch(&mut self, lr: f64) -> Result<EpochReport, Error> {
        let evaluating = Instant::now();
        let epoch = self.cursor.epoch + 1;
        let spread = self.spread()?;
        let interval = self.config.evaluation.interval;
        let due = epoch == self.config.runner.max_epochs
            || interval > 0 && epoch.is_multiple_of(interval);
        let knn = if due {
            self.measure(KnnSubject::Trained)?
        } else {
            None
        };
        if knn.is_some() {
            self.figures.trained = knn.clone();
        }
        self.timing.epoch.evaluation += evaluating.elapsed();
        let stretch = &self.timing.epoch;
        let seconds =
            |of: fn(&Timings) -> Duration| stretch.engine.as_ref().map(|t| of(t).as_secs_f64());
        Ok(EpochReport {
            epoch,
            step: self.cursor.step,
            loss: self.epoch_loss.mean(),
            lr,
            images_per_s: stretch.images_per_s(),
            spread,
            log_z: self.log_z()?,
            bank: self.bank_report()?,
            skipped: self.images.skipped_count(),
            wait_s: stretch.wait.as_secs_f64(),
            step_s: stretch.step.as_secs_f64(),
            forward_s: seconds(|t| t.forward),
            backward_s: seconds(|t| t.backward),
            bank_s: seconds(|t| t.bank),
            optimizer_s: seconds(|t| t.optimizer),
            timed_steps: stretch.steps(),
            eval_s: stretch.evaluation.as_secs_f64(),
            knn_top1: knn.as_ref().map(|report| report.knn_top1),
            knn_top5: knn.as_ref().map(|report| report.knn_top5),
        })
    }

    /// The health of the bank.
    fn bank_report(&self) -> Result<BankReport, Error> {
        let dim = self.config.feat_dim();
        let skipped = self.images.skipped();
        let rows: Vec<u64> = self.health_rows.difference(&skipped).copied().collect();
        let values = self.engine.read_rows(&rows)?;
        let of = |(&row, values): (&u64, &[f32])| (row, values.to_vec());
        let sampled: Vec<_> = rows.iter().zip(values.chunks_exact(dim)).map(of).collect();
        Ok(self.health.report(self.cursor.step, &sampled))
    }

    /// ln Z of an NCE head, once there is an estimate.
    fn log_z(&self) -> Result<Option<f64>, Error> {
        let method = self.engine.description().method;
        let Some(Head::Nce { .. }) = method.map(|method| method.head) else {
            return Ok(None);
        };
        let log_z = self.engine.read(LOG_Z)?;
        Ok((log_z.first().map(|&z| f64::from(z))).filter(|z| z.is_finite()))
    }

    /// Embeds the sample for the collapse indicator (see [`EpochReport::spread`]), and for the
    /// similarities that TensorBoard shows.
    fn spread(&mut self) -> Result<f64, Error> {
        self.read_sample()?;
        let Some(sample) = &self.sample else {
            return Ok(0.0); // it was put there just now
        };
        let size = self.config.data.size;
        let bytes = size * size * 3 * self.config.data.batch_size;
        let (mut all, mut features) = (Vec::new(), [Vec::new()]);
        for pixels in sample.pixels.chunks(bytes) {
            let count = pixels.len() / (size * size * 3);
            let images = Images { pixels, count };
            let outputs = [Output::Embedding];
            (self.engine).features(images, Norm::Eval, &outputs, &mut features)?;
            all.extend_from_slice(&features[0]);
        }
        let dim = self.config.feat_dim();
        if let Some(events) = &mut self.events {
            let rows = self.engine.read_rows(&sample.rows)?;
            let (own, others) = similarities(&all, &rows, &sample.rows, dim);
            events.similarities("similarity/own_row", self.cursor.step, &own)?;
            events.similarities("similarity/other_rows", self.cursor.step, &others)?;
        }
        Ok(spread(&all, dim))
    }

    /// Shows what the network will see in TensorBoard: pictures of the sample beside their views.
    pub(super) fn show_views(&mut self) -> Result<(), Error> {
        if self.events.is_none() {
            return Ok(());
        }
        self.read_sample()?;
        let pipeline = self.config.pipeline()?;
        if let (Some(events), Some(sample)) = (&mut self.events, &self.sample) {
            let source = self.collections.train.as_ref();
            events.views(source, &sample.rows, &pipeline, self.config.seed)?;
        }
        Ok(())
    }

    fn read_sample(&mut self) -> Result<(), Error> {
        if self.sample.is_none() {
            self.sample = Some(self.sample()?);
        }
        Ok(())
    }

    /// Reads the images of the collapse indicator: those at the head of a seeded order that can be
    /// read. (Not the first that can: a resumed run knows more of those that can't.)
    fn sample(&self) -> Result<Batch, Error> {
        let mut order: Vec<u64> = (0..self.collections.train.len() as u64).collect();
        // Items 0 and 1 are the queries and voters of the kNN figure.
        Stream::new(self.config.seed, Purpose::Split, 0, 2, 0).shuffle(&mut order);
        order.truncate(SAMPLE);
        let train = &self.collections.train;
        let options = load_options(SAMPLE, self.reading.workers, false);
        let mut all = Batch::default();
        for views in feed::views(train, order, self.config.data.size, options) {
            let views = views?;
            all.rows.extend(views.rows);
            all.pixels.extend(views.pixels);
        }
        Ok(all)
    }
}

/// Inner products of the features of images with their rows of the bank, B x D each: of each
/// image's with its own row, and with the other images' rows.
fn similarities(
    features: &[f32],
    rows: &[f32],
    images: &[u64],
    dim: usize,
) -> (Vec<f32>, Vec<f32>) {
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for (feature, image) in features.chunks_exact(dim).zip(images) {
        for (v, other) in rows.chunks_exact(dim).zip(images) {
            let s = feature.iter().zip(v).map(|(a, b)| a * b).sum();
            if other == image {
                &mut own
            } else {
                &mut others
            }
            .push(s);
        }
    }
    (own, others)
}

/// Mean over the D coordinates of their standard deviation, times sqrt(D).
fn spread(features: &[f32], dim: usize) -> f64 {
    let n = features.len() / dim.max(1);
    if n < 2 {
        return 0.0;
    }
    let deviation = |d: usize| {
        let column = || features.iter().skip(d).step_by(dim).map(|&x| f64::from(x));
        let mean = column().sum::<f64>() / n as f64;
        let squares: f64 = column().map(|x| (x - mean).powi(2)).sum();
        (squares / n as f64).sqrt()
    };
    (0..dim).map(deviation).sum::<f64>() / dim as f64 * (dim as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_tells_a_point_from_a_sphere() {
        let point = [0.6f32, 0.8, 0.6, 0.8, 0.6, 0.8];
        assert_eq!(spread(&point, 2), 0.0);
        let around = [1.0f32, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0];
        assert!((spread(&around, 2) - 1.0).abs() < 1e-9);
        let line = [1.0f32, 0.0, -1.0, 0.0];
        assert!((spread(&line, 2) - 0.5f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn similarities_know_an_image_s_own_row() {
        let rows = [0.0, 1.0, 1.0f32, 0.0];
        let (own, others) = similarities(&[0.6, 0.8, 1.0, 0.0], &rows, &[2, 0], 2);
        assert_eq!((own, others), (vec![0.8, 1.0], vec![0.6, 0.0]));
    }

    #[test]
    fn steps_count_the_shorter_batch_unless_it_is_one_image() {
        assert_eq!(steps(50_000, 128, false, 1), 391);
        assert_eq!(steps(50_000, 128, true, 1), 390);
        assert_eq!(steps(64, 32, false, 1), 2);
        assert_eq!(steps(65, 32, false, 1), 2);
        assert_eq!(steps(66, 32, false, 1), 3);
        assert_eq!(steps(5, 1, false, 1), 5);
    }

    #[test]
    fn steps_of_several_batches_count_the_last_that_has_fewer() {
        assert_eq!(steps(64, 8, false, 4), 2);
        assert_eq!(steps(66, 8, false, 4), 3);
        assert_eq!(steps(66, 8, true, 4), 2);
        assert_eq!(steps(65, 8, false, 4), 2);
        assert_eq!(steps(64, 8, false, 100), 1);
    }
}
