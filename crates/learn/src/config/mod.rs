//! The configuration of a run: what a recipe says, and what `config.toml` of a run repeats.
//!
//! Sections and keys carry MMSelfSup's names; `type = "..."` chooses a part. [`load`](load::load)
//! reads a recipe, [`Config::check`] says what can't be used before any data is known, and
//! [`Config::resolve`] fills in what depends on the number of images.

mod check;
mod fit;
#[cfg(test)]
mod fit_tests;
mod init_cfg;
pub mod load;
pub mod mmselfsup;
mod parts;
mod paths;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use npid_engine::Dtype;
use npid_network::method::RowType;
use serde::{Deserialize, Serialize};

use crate::Error;

pub use check::{Invalid, MAX_WORKERS};
pub use init_cfg::InitCfg;
pub use parts::{
    BackboneType, HeadType, NeckType, NegWeights, OptimizerType, Pipeline, Policy, Start, Storage,
    Style,
};
pub use paths::Paths;

/// A whole configuration. Its TOML form is documented in `docs/formats.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of every random draw of the run; 0 by default.
    #[serde(default)]
    pub seed: u64,
    /// What activations and their gradients are made of: `f32`, or `bf16` with half the memory.
    /// Where it is absent the engine takes what suits the device best; a run's `config.toml` says
    /// which that was.
    #[serde(
        default,
        with = "parts::dtype",
        skip_serializing_if = "Option::is_none"
    )]
    pub dtype: Option<Dtype>,
    /// The algorithm and its parts.
    pub model: Model,
    /// Pictures and their augmentation.
    pub data: Data,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// How many micro-batches make one of its steps.
    #[serde(default)]
    pub optimizer_config: OptimizerConfig,
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
    /// How often each row is drawn as a negative; absent: all alike. A path is absolute once
    /// resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neg_weights: Option<NegWeights>,
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
    /// Channels of the stem; `base_channels` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_channels: Option<usize>,
    /// Channels of the first stage; 64 by default.
    #[serde(default = "default_base_channels")]
    pub base_channels: usize,
    /// Stages that can be asked for by number: 0 the stem after its ReLU, 1 to 4 the stages.
    #[serde(default = "default_out_indices")]
    pub out_indices: Vec<usize>,
    /// Which convolution of a bottleneck has the stride.
    #[serde(default)]
    pub style: Style,
    /// The stage up to which nothing learns and batch norms use and keep their running
    /// statistics: 0 the stem alone, 1 to 4 the stages up to it; -1, the default, none.
    #[serde(default = "default_frozen_stages")]
    pub frozen_stages: i64,
    /// Whether all batch norms of the backbone use and keep their running statistics in training.
    /// Their scales and shifts learn.
    #[serde(default)]
    pub norm_eval: bool,
    /// Whether the last batch norm of each block starts at scale 0.
    #[serde(default)]
    pub zero_init_residual: bool,
    /// How the convolutions start.
    #[serde(default)]
    pub init_cfg: InitCfg,
}

/// `[model.neck]`: MMSelfSup's necks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neck {
    /// `LinearNeck`, `NonLinearNeck` or `MoCoV2Neck`.
    #[serde(rename = "type")]
    pub kind: NeckType,
    /// Channels of the backbone's last map; checked where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_channels: Option<usize>,
    /// Channels between two linear layers; required where there are two, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hid_channels: Option<usize>,
    /// D, the dimension of the feature.
    pub out_channels: usize,
    /// Whether the map is averaged over its positions first. The map must be 1x1 without it.
    #[serde(default = "default_true")]
    pub with_avg_pool: bool,
    /// `NonLinearNeck`: linear layers, at least 2; 2 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_layers: Option<usize>,
    /// `NonLinearNeck`: whether linear layers but the last have a bias; false where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_bias: Option<bool>,
    /// `NonLinearNeck`: whether a batch norm follows the last one; true where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_last_bn: Option<bool>,
    /// `NonLinearNeck`: whether that has a scale and a shift; true where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_last_bn_affine: Option<bool>,
    /// `NonLinearNeck`: whether the last linear layer has a bias; false where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_last_bias: Option<bool>,
    /// Whether a batch norm without affine parameters comes before the L2 norm.
    #[serde(default)]
    pub norm: bool,
}

/// `[model.head]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// `ContrastiveHead` (cross entropy with K sampled negatives), `NCEHead` (noise-contrastive
    /// estimation with as many) or `SoftmaxHead` (exact softmax over all rows).
    #[serde(rename = "type")]
    pub kind: HeadType,
    /// τ, above 0; 0.07 by default, as in the paper.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
    /// `NCEHead`: weight of a batch's estimate of Z in its running mean, 0 to 1; 0 where absent:
    /// Z is estimated from the first batch and kept (paper, lemniscate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_momentum: Option<f64>,
    /// `NCEHead`: λ, weight of the proximal term λ‖f - v_i‖², at least 0; 0 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proximal: Option<f64>,
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
    /// How rows are stored; all sums are taken in f32.
    #[serde(
        default,
        with = "parts::row_type",
        skip_serializing_if = "parts::row_type::is_f32"
    )]
    pub dtype: RowType,
    /// Where they are kept. Never changes a result.
    #[serde(default, skip_serializing_if = "Storage::is_memory")]
    pub storage: Storage,
    /// With storage `file`: bytes of memory that rows may take which the file doesn't hold yet, at
    /// least 1; 1 GiB where absent. Never changes a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dirty_bytes: Option<u64>,
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The pictures to train on; absent: the built-in patterns. Absolute once resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Paths>,
    /// The pictures that ask in the kNN figure; absent: those that `path` holds for it (`val/`
    /// beside `train/`, and so on), the built-in patterns' own, or some of the training pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<Paths>,
    /// Where relative paths in list files of `path` start, MMSelfSup's `data_prefix`; absent: at the
    /// list's own folder, or one beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_prefix: Option<PathBuf>,
    /// Height and width of the images that the network gets. A crop in `pipeline` that names no
    /// size of its own takes this one.
    pub size: usize,
    /// B, pictures that go through the network at once. The last batch of an epoch may be shorter.
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

/// `[optimizer]`: `torch.optim.SGD`, or MMSelfSup's `LARS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// `SGD` or `LARS`.
    #[serde(rename = "type")]
    pub kind: OptimizerType,
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
    /// `LARS`: η, what a layer's ratio of norms is multiplied by, above 0; 0.001 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// `LARS`: ε in the ratio's denominator, above 0; 1e-8 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// What is different for some kinds of parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paramwise_cfg: Option<ParamwiseCfg>,
}

/// `[optimizer.paramwise_cfg]`: mmcv's, for batch norms' scales and shifts (`norm_`) and for
/// biases that aren't a batch norm's shift (`bias_`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParamwiseCfg {
    /// Factor on the weight decay of scales and shifts, at least 0.
    pub norm_decay_mult: f64,
    /// Factor on the weight decay of biases, at least 0.
    pub bias_decay_mult: f64,
    /// Factor on the learning rate of biases, at least 0.
    pub bias_lr_mult: f64,
    /// Whether `LARS` leaves the learning rate of scales and shifts alone.
    pub norm_lars_exclude: bool,
    /// Whether `LARS` leaves the learning rate of biases alone.
    pub bias_lars_exclude: bool,
}

impl Default for ParamwiseCfg {
    fn default() -> Self {
        ParamwiseCfg {
            norm_decay_mult: 1.0,
            bias_decay_mult: 1.0,
            bias_lr_mult: 1.0,
            norm_lars_exclude: false,
            bias_lars_exclude: false,
        }
    }
}

/// `[optimizer_config]`: MMSelfSup's optimiser hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// n, at least 1: micro-batches of `data.batch_size` whose gradients are averaged into one
    /// optimiser step. What is left at an epoch's end makes a step of its own.
    pub update_interval: usize,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig { update_interval: 1 }
    }
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

fn default_frozen_stages() -> i64 {
    -1
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
