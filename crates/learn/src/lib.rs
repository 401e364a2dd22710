//! Training and measuring: configuration, schedule, trainer, checkpoints, run folders.

pub mod config;
mod error;
pub mod progress;
pub mod recipes;

pub use config::Config;
pub use error::Error;
