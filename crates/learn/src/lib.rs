//! Training and measuring: configuration, schedule, trainer, checkpoints, run folders.

pub mod bank_file;
pub mod checkpoint;
pub mod collections;
pub mod config;
pub mod derive;
mod error;
pub mod eval;
pub mod export;
pub mod feed;
pub mod health;
mod identity;
mod images;
pub mod import;
pub mod knn;
mod matching;
pub mod method;
mod neg_weights;
pub mod npy;
mod pending;
pub mod plan;
mod pretrained;
pub mod progress;
pub mod recipes;
pub mod run;
pub mod schedule;
mod start;
pub mod table;
pub mod tensorboard;
pub mod trainer;

pub use config::Config;
pub use error::Error;
