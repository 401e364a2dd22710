//! Training and measuring: configuration, schedule, trainer, checkpoints, run folders.

pub mod checkpoint;
pub mod config;
mod error;
pub mod method;
pub mod npy;
pub mod progress;
pub mod recipes;
pub mod run;
pub mod schedule;
pub mod table;

pub use config::Config;
pub use error::Error;
