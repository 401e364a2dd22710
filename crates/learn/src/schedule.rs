//! The learning rate over time, as mmcv's hooks define it.
//!
//! Source: mmcv 1.x, `runner/hooks/lr_updater.py` (`StepLrUpdaterHook`,
//! `CosineAnnealingLrUpdaterHook`, linear warm-up). With `by_epoch` a policy's time is the number
//! of finished epochs, else the number of optimiser steps taken; the cosine falls over the whole
//! run in either unit, so that with `by_epoch = false` it changes at every step and with
//! `by_epoch = true` once an epoch.

use crate::config::{LrConfig, Policy};

/// When a step is taken; both counts start at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Epochs finished.
    pub epoch: u32,
    /// Optimiser steps of this epoch taken before this one.
    pub step_in_epoch: u64,
}

/// The learning rate of every optimiser step.
///
/// An iteration's number is `epoch * steps_per_epoch + step_in_epoch`: where an epoch is a step
/// short because images could not be read, the next one still starts where the schedule says.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    config: LrConfig,
    base_lr: f64,
    epochs: u32,
    steps_per_epoch: u64,
}

impl Schedule {
    /// The schedule of a run of `epochs` epochs of `steps_per_epoch` steps that starts from
    /// `base_lr` (`optimizer.lr`).
    pub fn new(config: &LrConfig, base_lr: f64, epochs: u32, steps_per_epoch: u64) -> Self {
        Schedule {
            config: config.clone(),
            base_lr,
            epochs,
            steps_per_epoch,
        }
    }

    /// The learning rate of the step taken at `time`.
    pub fn lr(&self, time: Time) -> f64 {
        let iteration = u64::from(time.epoch) * self.steps_per_epoch + time.step_in_epoch;
        let (now, end) = if self.config.by_epoch {
            (u64::from(time.epoch), u64::from(self.epochs))
        } else {
            (iteration, u64::from(self.epochs) * self.steps_per_epoch)
        };
        let regular = self.policy(now, end);
        let warmup = if self.config.warmup_by_epoch {
            self.config.warmup_iters * self.steps_per_epoch
        } else {
            self.config.warmup_iters
        };
        if iteration >= warmup {
            return regular;
        }
        let missing = (1.0 - iteration as f64 / warmup as f64) * (1.0 - self.config.warmup_ratio);
        regular * (1.0 - missing)
    }

    /// The policy's rate at time `now` of `end`, before warm-up.
    fn policy(&self, now: u64, end: u64) -> f64 {
        let LrConfig { gamma, min_lr, .. } = self.config;
        match self.config.policy {
            Policy::Fixed => self.base_lr,
            Policy::Step => {
                let drops = self.config.step.iter().filter(|&&at| at <= now).count();
                (self.base_lr * gamma.powi(drops as i32)).max(min_lr)
            }
            Policy::CosineAnnealing => {
                let share = now as f64 / end.max(1) as f64;
                let cosine = (std::f64::consts::PI * share).cos();
                min_lr + 0.5 * (self.base_lr - min_lr) * (cosine + 1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(policy: Policy) -> LrConfig {
        LrConfig {
            policy,
            ..LrConfig::default()
        }
    }

    fn at(epoch: u32, step_in_epoch: u64) -> Time {
        Time {
            epoch,
            step_in_epoch,
        }
    }

    #[track_caller]
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
    }

    #[test]
    fn steps_by_epoch_drop_at_the_start_of_the_named_epochs() {
        let mut steps = config(Policy::Step);
        steps.step = vec![6, 8];
        let schedule = Schedule::new(&steps, 0.03, 10, 391);
        close(schedule.lr(at(0, 0)), 0.03);
        close(schedule.lr(at(5, 390)), 0.03);
        close(schedule.lr(at(6, 0)), 0.003);
        close(schedule.lr(at(7, 390)), 0.003);
        close(schedule.lr(at(8, 0)), 0.0003);
        steps.min_lr = 0.001;
        close(Schedule::new(&steps, 0.03, 10, 391).lr(at(9, 0)), 0.001);
    }

    #[test]
    fn steps_by_iteration_count_optimiser_steps() {
        let mut steps = config(Policy::Step);
        steps.by_epoch = false;
        steps.step = vec![25];
        steps.gamma = 0.5;
        let schedule = Schedule::new(&steps, 1.0, 4, 10);
        close(schedule.lr(at(2, 4)), 1.0);
        close(schedule.lr(at(2, 5)), 0.5);
    }

    #[test]
    fn a_cosine_by_epoch_is_constant_within_one() {
        let mut cosine = config(Policy::CosineAnnealing);
        cosine.min_lr = 0.1;
        let schedule = Schedule::new(&cosine, 0.5, 4, 10);
        // 0.1 + 0.2 (1 + cos(π/4)): the second of four epochs.
        close(schedule.lr(at(1, 0)), 0.3 + 0.2 * 0.5f64.sqrt());
        close(schedule.lr(at(1, 9)), schedule.lr(at(1, 0)));
        close(schedule.lr(at(2, 0)), 0.3);
        close(schedule.lr(at(3, 0)), 0.3 - 0.2 * 0.5f64.sqrt());
    }

    #[test]
    fn a_cosine_by_iteration_falls_at_every_step() {
        let mut cosine = config(Policy::CosineAnnealing);
        cosine.by_epoch = false;
        let schedule = Schedule::new(&cosine, 0.1, 2, 6);
        close(schedule.lr(at(0, 0)), 0.1);
        close(schedule.lr(at(0, 4)), 0.075); // a third of the way: (1 + cos 60°)/2
        close(schedule.lr(at(1, 0)), 0.05);
        close(schedule.lr(at(1, 2)), 0.025);
    }

    #[test]
    fn a_linear_warm_up_multiplies_the_policy() {
        let mut fixed = config(Policy::Fixed);
        fixed.warmup_iters = 4;
        fixed.warmup_ratio = 0.2;
        let schedule = Schedule::new(&fixed, 0.5, 3, 10);
        close(schedule.lr(at(0, 0)), 0.1);
        close(schedule.lr(at(0, 1)), 0.2);
        close(schedule.lr(at(0, 3)), 0.4);
        close(schedule.lr(at(0, 4)), 0.5);
        fixed.warmup_iters = 2;
        fixed.warmup_by_epoch = true;
        let schedule = Schedule::new(&fixed, 0.5, 3, 10);
        close(schedule.lr(at(1, 0)), 0.3);
        close(schedule.lr(at(2, 0)), 0.5);
    }

    #[test]
    fn a_warm_up_uses_the_rate_of_its_own_time() {
        // mmcv multiplies what the policy says now, not the rate it will reach.
        let mut steps = config(Policy::Step);
        steps.step = vec![1];
        steps.warmup_iters = 20;
        steps.warmup_ratio = 0.5;
        let schedule = Schedule::new(&steps, 1.0, 3, 10);
        close(schedule.lr(at(0, 0)), 0.5);
        close(schedule.lr(at(1, 0)), 0.1 * 0.75);
    }
}
