//! Training and measuring: configuration, schedule, trainer, checkpoints, run folders.

pub mod progress;
