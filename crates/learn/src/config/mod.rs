//! The configuration of a run: what a recipe says, and what `config.toml` of a run repeats.
//!
//! Sections and keys carry MMSelfSup's names; `type = "..."` chooses a part. [`load`](load::load)
//! reads a recipe, [`Config::check`] says what can't be used before any data is known, and
//! [`Config::resolve`] fills in what depends on the number of images.

mod check;
mod init_cfg;
pub mod load;
mod parts;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;

pub use check::{Invalid, MAX_WORKERS};
pub use init_cfg::InitCfg;
pub use parts::{BackboneType, HeadType, Pipeline, Policy, Start};

/// A whole configuration. Its TOML form is documented in `docs/formats.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of every random draw of the run; 0 by default.
    #[serde(default)]
    pub seed: u64,
    /// The algorithm and its parts.
    pub model: Model,
    /// Pictures and their augmentation.
    pub data: Data,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The learning rate over time.
    #[serde(default)]
    pub lr_config: LrConfig,
    /// How long to train.
    pub runner: Runner,
    /// When to save.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// The kNN figure.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// How often to report.
    #[serde(default)]
    pub log: Log,
}

/// `[model]`: the algorithm, made of a backbone, a neck, a head and a memory bank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `NPID`.
    #[serde(rename = "type")]
    pub kind: parts::Algorithm,
    /// K, negatives per image; at least 1, 65536 by default. Exact softmax doesn't use it.
    #[serde(default = "default_neg_num")]
    pub neg_num: usize,
    /// Whether a negative that hits the image's own row is drawn again.
    #[serde(default)]
    pub ensure_neg: bool,
    /// The network up to its last map.
    pub backbone: Backbone,
    /// From the map to the feature. Without it the feature is the global average of the last map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neck: Option<Neck>,
    /// How similarities become a loss.
    pub head: Head,
    /// One feature for each image.
    pub memory_bank: MemoryBank,
}

/// `[model.backbone]`: a ResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backbone {
    /// `ResNet` (ImageNet stem) or `ResNet_CIFAR` (3x3 stem of stride 1, no pool).
    #[serde(rename = "type")]
    pub kind: BackboneType,
    /// 18, 34, 50, 101 or 152.
    pub depth: usize,
    /// Channels of the pictures; pictures are RGB, so 3.
    #[serde(default = "default_in_channels")]
    pub in_channels: usize,
    /// Channels of the stem and of the first stage; 64 by default.
    #[serde(default = "default_base_channels")]
    pub base_channels: usize,
    /// Stages that can be asked for by number: 0 the stem after its ReLU, 1 to 4 the stages.
    #[serde(default = "default_out_indices")]
    pub out_indices: Vec<usize>,
    /// How the convolutions start.
    #[serde(default)]
    pub init_cfg: InitCfg,
}

/// `[model.neck]`: MMSelfSup's `LinearNeck`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neck {
    /// `LinearNeck`.
    #[serde(rename = "type")]
    pub kind: parts::NeckType,
    /// Channels of the backbone's last map; checked where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_channels: Option<usize>,
    /// D, the dimension of the feature.
    pub out_channels: usize,
    /// Whether the map is averaged over its positions first. The map must be 1x1 without it.
    #[serde(default = "default_true")]
    pub with_avg_pool: bool,
    /// Whether a batch norm without affine parameters comes before the L2 norm.
    #[serde(default)]
    pub norm: bool,
}

/// `[model.head]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// `ContrastiveHead` (K sampled negatives) or `SoftmaxHead` (exact softmax over all rows).
    #[serde(rename = "type")]
    pub kind: HeadType,
    /// τ, above 0; 0.07 by default, as in the paper.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
}

/// `[model.memory_bank]`: MMSelfSup's `SimpleMemory`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryBank {
    /// `SimpleMemory`.
    #[serde(rename = "type")]
    pub kind: parts::BankType,
    /// N, the number of images; checked where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// D; checked where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feat_dim: Option<usize>,
    /// Weight m of the NEW feature, 0 to 1: v ← normalise((1-m)·v + m·f). 0.5 by default.
    #[serde(default = "default_bank_momentum")]
    pub momentum: f64,
    /// What the rows are before the first step.
    #[serde(default)]
    pub init: Start,
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The pictures to train on; absent: the built-in patterns. Absolute once resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The pictures that ask in the kNN figure; absent: the built-in patterns' own, or some of
    /// the training pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// Height and width of the images that the network gets. A crop in `pipeline` that names no
    /// size of its own takes this one.
    pub size: usize,
    /// B. The last batch of an epoch may be shorter.
    pub batch_size: usize,
    /// Whether a shorter last batch is left out.
    #[serde(default)]
    pub drop_last: bool,
    /// Threads that load pictures; 0 lets npid choose. Never changes a result.
    #[serde(default)]
    pub workers: usize,
    /// What is done to a picture: the name of a preset, or a list of transforms.
    pub pipeline: Pipeline,
}

/// `[optimizer]`: `torch.optim.SGD`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// `SGD`.
    #[serde(rename = "type")]
    pub kind: parts::OptimizerType,
    /// The learning rate that the schedule starts from, above 0.
    pub lr: f64,
    /// μ, 0 to below 1.
    #[serde(default)]
    pub momentum: f64,
    /// Added to the gradient as this times the weight; at least 0.
    #[serde(default)]
    pub weight_decay: f64,
    /// Nesterov's look-ahead; needs a momentum.
    #[serde(default)]
    pub nesterov: bool,
}

/// `[lr_config]`: mmcv's learning-rate policies.
///
/// With `by_epoch` (the default) time t counts whole epochs, else optimiser steps.
/// - `fixed`: lr;
/// - `step`: lr · gamma^(number of `step` entries ≤ t), at least `min_lr`;
/// - `CosineAnnealing`: min_lr + (lr - min_lr) · (1 + cos(π t / T)) / 2, T the run's length.
///
/// Linear warm-up, where `warmup_iters` is above 0, over its first w iterations (or that many
/// epochs of steps with `warmup_by_epoch`): iteration i multiplies the policy's value by
/// 1 - (1 - i/w)(1 - `warmup_ratio`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrConfig {
    /// `step`, `CosineAnnealing` or `fixed`.
    #[serde(default)]
    pub policy: Policy,
    /// Whether the policy changes the rate between epochs only.
    #[serde(default = "default_true")]
    pub by_epoch: bool,
    /// When `step` multiplies by `gamma`; rising.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step: Vec<u64>,
    /// What `step` multiplies by, above 0.
    #[serde(default = "default_gamma")]
    pub gamma: f64,
    /// The smallest learning rate, at least 0.
    #[serde(default)]
    pub min_lr: f64,
    /// Length of the warm-up; 0, the default, is none.
    #[serde(default)]
    pub warmup_iters: u64,
    /// Whether `warmup_iters` counts epochs.
    #[serde(default)]
    pub warmup_by_epoch: bool,
    /// Share of the policy's rate that the warm-up starts at, above 0 and at most 1.
    #[serde(default = "default_warmup_ratio")]
    pub warmup_ratio: f64,
}

impl Default for LrConfig {
    fn default() -> Self {
        LrConfig {
            policy: Policy::default(),
            by_epoch: true,
            step: Vec::new(),
            gamma: default_gamma(),
            min_lr: 0.0,
            warmup_iters: 0,
            warmup_by_epoch: false,
            warmup_ratio: default_warmup_ratio(),
        }
    }
}

/// `[runner]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runner {
    /// Passes over the pictures, at least 1.
    pub max_epochs: u32,
}

/// `[checkpoint]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Epochs between checkpoints, at least 1.
    pub interval: u32,
    /// How many of the latest are kept, at least 1; the best is kept beside them.
    pub keep: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint {
            interval: 1,
            keep: 2,
        }
    }
}

/// `[evaluation]`: the weighted kNN vote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// Epochs between figures; 0 for the end only.
    pub interval: u32,
    /// Neighbours that vote, at least 1.
    pub k: usize,
    /// τ of the vote's weights exp(s/τ), above 0.
    pub temperature: f64,
    /// Most training pictures that the figure during training compares with, at least 1.
    pub max_rows: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Evaluation {
            interval: 10,
            k: 200,
            temperature: 0.1,
            max_rows: 50_000,
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Steps between lines of `metrics.jsonl`, at least 1.
    pub interval: u64,
    /// Whether TensorBoard's event files are written too. Never changes a result.
    pub tensorboard: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            interval: 50,
            tensorboard: true,
        }
    }
}

fn default_neg_num() -> usize {
    65_536
}

fn default_in_channels() -> usize {
    3
}

fn default_base_channels() -> usize {
    64
}

fn default_out_indices() -> Vec<usize> {
    vec![4]
}

fn default_true() -> bool {
    true
}

fn default_temperature() -> f64 {
    0.07
}

fn default_bank_momentum() -> f64 {
    0.5
}

fn default_gamma() -> f64 {
    0.1
}

fn default_warmup_ratio() -> f64 {
    0.1
}

impl Config {
    /// The configuration as TOML; reading it again gives an equal one.
    ///
    /// # Errors
    /// For a path that isn't UTF-8.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self)
            .map_err(|error| Error::input(format!("the configuration can't be written: {error}")))
    }
}
