//! An optimiser step: `optimizer_config.update_interval` micro-batches, their gradients averaged.
//!
//! Batch norm, Z and the bank act on every micro-batch as it comes; weights move once, at the end.
//! A run is interrupted and saved between optimiser steps alone, so no gradient that waits ever
//! has to be kept.

use std::time::{Duration, Instant};

use npid_data::loader::Batch;
use npid_engine::{Draws, Images, Objective};

use super::Trainer;
use crate::error::Error;
use crate::schedule::Time;

/// Micro-batches whose gradients wait for their optimiser step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// How many there are.
    pub(super) batches: usize,
    /// Images in them.
    images: usize,
    /// Sum of their losses.
    loss: f64,
    /// Time spent waiting for them.
    pub(super) wait: Duration,
    /// Time spent on them.
    work: Duration,
}

impl Trainer<'_> {
    pub(super) fn time(&self) -> Time {
        Time {
            epoch: self.cursor.epoch,
            step_in_epoch: self.cursor.step_in_epoch,
        }
    }

    /// Micro-batches in an optimiser step, but for an epoch's last.
    pub(super) fn interval(&self) -> usize {
        self.config.optimizer_config.update_interval
    }

    /// Adds the gradient of a micro-batch, whose loss is finite, and moves its rows of the bank.
    /// Where a step has a single one, the step is taken at once.
    pub(super) fn micro_batch(
        &mut self,
        batch: &Batch,
        lr: f64,
        waiting: &mut Waiting,
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let images = Images {
            pixels: &batch.pixels,
            count: batch.rows.len(),
        };
        let objective = Objective::Npid {
            rows: &batch.rows,
            draws: Draws::Sampled {
                epoch: self.cursor.epoch,
                occurrences: &batch.occurrences,
            },
        };
        let losses = if self.interval() == 1 {
            self.engine.step(images, objective, lr as f32)?
        } else {
            let losses = self.engine.gradient(images, objective)?;
            self.engine.update_bank()?;
            losses
        };
        if let Some(bank) = &mut self.bank_file {
            bank.changed(&batch.rows);
        }
        let loss: f64 = losses.iter().map(|loss| f64::from(loss.value)).sum();
        if !loss.is_finite() {
            return Err(self.diverged(loss, lr));
        }
        let (step, found) = (self.cursor.step + 1, self.engine.bank_health());
        (self.health).batch(&batch.rows, step, found, &self.health_rows);
        waiting.batches += 1;
        waiting.images += images.count;
        waiting.loss += loss;
        waiting.work += begun.elapsed();
        Ok(())
    }

    /// Takes the optimiser step that the gradients wait for, by their mean, and counts it.
    pub(super) fn take_step(&mut self, waiting: Waiting, lr: f64) -> Result<(), Error> {
        let begun = Instant::now();
        if self.interval() > 1 {
            self.engine.apply(lr as f32, 1.0 / waiting.batches as f32);
        }
        let loss = waiting.loss / waiting.batches as f64;
        let work = waiting.work + begun.elapsed();
        self.timing.step(waiting.wait, work, waiting.images);
        self.cursor.step += 1;
        self.cursor.step_in_epoch += 1;
        self.log.add(loss);
        self.epoch_loss.add(loss);
        let epoch = self.cursor.epoch + 1;
        self.progress.tick(epoch, self.cursor.step, loss);
        if self.cursor.step.is_multiple_of(self.config.log.interval) {
            self.log_line(lr)?;
        }
        Ok(())
    }

    /// What to say of a loss that isn't finite.
    fn diverged(&self, loss: f64, lr: f64) -> Error {
        let good = match &self.saved {
            Some(path) => format!("; the last good checkpoint is {}", path.display()),
            None => String::new(),
        };
        Error::run(format!(
            "the loss is {loss} in epoch {}, step {}, at learning rate {lr}; try a smaller \
             optimizer.lr, a warm-up (lr_config.warmup_iters) or a larger \
             model.head.temperature{good}",
            self.cursor.epoch + 1,
            self.cursor.step + 1,
        ))
    }
}
