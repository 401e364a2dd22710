//! Where the time goes: waiting for images, steps, evaluation.

use std::time::{Duration, Instant};

use npid_engine::Timings;

/// Time and images of a stretch of training.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    /// In which the steps waited for images.
    pub(super) wait: Duration,
    /// In the steps.
    pub(super) step: Duration,
    /// In evaluation and checkpoints.
    pub(super) evaluation: Duration,
    /// What the engine did in the steps; `None` if it can't tell.
    pub(super) engine: Option<Timings>,
    steps: u64,
    images: u64,
}

impl Stretch {
    fn add(&mut self, wait: Duration, step: Duration, images: usize) {
        self.wait += wait;
        self.step += step;
        self.steps += 1;
        self.images += images as u64;
    }

    /// Images a second, waits included, evaluation not; 0 before the first step.
    pub(super) fn images_per_s(&self) -> f64 {
        let seconds = (self.wait + self.step).as_secs_f64();
        if seconds > 0.0 {
            self.images as f64 / seconds
        } else {
            0.0
        }
    }

    /// How many steps there were.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Seconds that a step waited and took.
    pub(super) fn each(&self) -> (f64, f64) {
        let steps = self.steps.max(1) as f64;
        (
            self.wait.as_secs_f64() / steps,
            self.step.as_secs_f64() / steps,
        )
    }
}

/// The clocks of a run.
#[derive(Debug)]
pub(super) struct Timing {
    began: Instant,
    run: Stretch,
    /// Since the last log line.
    pub(super) log: Stretch,
    /// Of this epoch.
    pub(super) epoch: Stretch,
}

impl Timing {
    pub(super) fn start() -> Self {
        Timing {
            began: Instant::now(),
            run: Stretch::default(),
            log: Stretch::default(),
            epoch: Stretch::default(),
        }
    }

    /// Counts a step.
    pub(super) fn step(&mut self, wait: Duration, step: Duration, images: usize) {
        for stretch in [&mut self.run, &mut self.log, &mut self.epoch] {
            stretch.add(wait, step, images);
        }
    }

    /// Seconds since the run began.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Images a second over the whole run.
    pub(super) fn run_images_per_s(&self) -> f64 {
        self.run.images_per_s()
    }
}
