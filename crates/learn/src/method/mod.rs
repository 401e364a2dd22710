//! NPID, composed: from a configuration and the number of images to what an engine compiles.
//!
//! An image passes the backbone, the neck and an L2 normalisation and becomes its feature f. The
//! head compares f with rows of the memory bank, one of which belongs to the image itself; the
//! loss asks f to be nearest to that one. After the step the image's row moves towards f.
//! Equations and derived gradients are in `docs/method.md`.

use npid_engine::Sizes;
use npid_network::graph::Network;
use npid_network::init;
use npid_network::method::{Description, Head, Lars, MemoryBank, Npid, RowStorage, Sgd};
use npid_network::neck::{self, Layers};
use npid_network::resnet::{self, InitCfg as Weights, ResNet};

use crate::Error;
use crate::config::{
    Config, HeadType, InitCfg, Invalid, Neck, NeckType, OptimizerType, ParamwiseCfg, Start,
    Storage, Style,
};

/// Describes the network, the method and the optimiser of `config` for `images` images (N). How
/// often each row is drawn (`model.neg_weights`) stands elsewhere and is left to the caller: all
/// rows are alike.
///
/// # Errors
/// As [`Config::resolve`]; also if the images are too small for the network.
pub fn describe(config: &Config, images: usize) -> Result<Description, Error> {
    let config = config.resolve(images)?;
    let mut network = network(&config)?;
    let optimizer = &config.optimizer;
    paramwise(&mut network, &optimizer.paramwise());
    let description = Description {
        network,
        method: Some(npid(&config, images)),
        neg_weights: None,
        optimizer: Sgd {
            momentum: optimizer.momentum as f32,
            nesterov: optimizer.nesterov,
            weight_decay: optimizer.weight_decay as f32,
            lars: match (optimizer.kind, optimizer.eta, optimizer.eps) {
                (OptimizerType::Lars, Some(eta), Some(eps)) => Some(Lars {
                    eta: eta as f32,
                    eps: eps as f32,
                }),
                _ => None,
            },
        },
        seed: config.seed,
    };
    description.check()?;
    Ok(description)
}

/// Leaves the network alone: no bank, and an optimiser that keeps nothing.
pub fn without_method(mut description: Description) -> Description {
    description.method = None;
    description.optimizer.momentum = 0.0;
    description.optimizer.nesterov = false;
    description
}

/// What an engine is compiled for to train by `config`.
pub fn sizes(config: &Config) -> Sizes {
    Sizes {
        batch: config.data.batch_size,
        height: config.data.size,
        width: config.data.size,
    }
}

/// Backbone, neck and L2 norm. Parameters are called `backbone.*` (torchvision's names) and
/// `neck.*`.
fn network(config: &Config) -> Result<Network, Error> {
    let normalize = config.pipeline()?.normalize().clone();
    let backbone = &config.model.backbone;
    let resnet = ResNet {
        out_indices: backbone.out_indices.clone(),
        init: match backbone.init_cfg {
            // The file's weights are written over these: see `pretrained`.
            InitCfg::Kaiming | InitCfg::Pretrained { .. } => Weights::Kaiming,
            InitCfg::PyTorch => Weights::PyTorch,
        },
        stem_channels: backbone.stem_channels,
        style: match backbone.style {
            Style::PyTorch => resnet::Style::PyTorch,
            Style::Caffe => resnet::Style::Caffe,
        },
        frozen_stages: usize::try_from(backbone.frozen_stages).ok(), // -1 is none
        norm_eval: backbone.norm_eval,
        zero_init_residual: backbone.zero_init_residual,
        ..ResNet::new(backbone.depth, backbone.stem(), backbone.base_channels)
    };
    let neck = config.model.neck.as_ref().map(|neck| neck::Neck {
        layers: layers(neck),
        out_channels: neck.out_channels,
        with_avg_pool: neck.with_avg_pool,
        norm: neck.norm,
    });

    let mut network = Network::new();
    let images = network.input(&normalize.mean, &normalize.std)?;
    let map = resnet.build(&mut network, images, "backbone.")?;
    neck::embed(&mut network, map, neck.as_ref())?;

    let size = config.data.size;
    if let Err(error) = network.shapes(size, size) {
        return Err(Invalid::new(
            "data.size",
            format!("is {size}, which doesn't suit the {error}"),
        )
        .into());
    }
    Ok(network)
}

/// The layers of a neck that `Config::resolve` has filled in.
fn layers(neck: &Neck) -> Layers {
    let hid_channels = neck.hid_channels.unwrap_or_default();
    match neck.kind {
        NeckType::LinearNeck => Layers::Linear,
        NeckType::MoCoV2Neck => Layers::MoCoV2 { hid_channels },
        NeckType::NonLinearNeck => Layers::NonLinear {
            hid_channels,
            num_layers: neck.num_layers.unwrap_or(2),
            with_bias: neck.with_bias.unwrap_or(false),
            with_last_bn: neck.with_last_bn.unwrap_or(true),
            with_last_bn_affine: neck.with_last_bn_affine.unwrap_or(true),
            with_last_bias: neck.with_last_bias.unwrap_or(false),
        },
    }
}

/// Gives batch norms' scales and shifts, and the other biases, what `paramwise_cfg` says. What
/// belongs to a batch norm follows from the graph, not from a name: in torchvision's names
/// `downsample.1.weight` is a scale.
fn paramwise(network: &mut Network, cfg: &ParamwiseCfg) {
    let norms = network.norm_params();
    for (param, norm) in network.params.iter_mut().zip(norms) {
        if norm {
            param.decay_mult = cfg.norm_decay_mult as f32;
            param.lars_exclude = cfg.norm_lars_exclude;
        } else if param.name.ends_with(".bias") {
            param.decay_mult = cfg.bias_decay_mult as f32;
            param.lr_mult = cfg.bias_lr_mult as f32;
            param.lars_exclude = cfg.bias_lars_exclude;
        }
    }
}

/// Head, memory bank and negatives.
fn npid(config: &Config, images: usize) -> Npid {
    let model = &config.model;
    let temperature = model.head.temperature as f32;
    Npid {
        head: match model.head.kind {
            HeadType::ContrastiveHead => Head::Contrastive { temperature },
            HeadType::SoftmaxHead => Head::Softmax { temperature },
            HeadType::NceHead => Head::Nce {
                temperature,
                z_momentum: model.head.z_momentum.unwrap_or(0.0) as f32,
                proximal: model.head.proximal.unwrap_or(0.0) as f32,
            },
        },
        memory_bank: MemoryBank {
            length: images,
            feat_dim: config.feat_dim(),
            momentum: model.memory_bank.momentum as f32,
            dtype: model.memory_bank.dtype,
            storage: match model.memory_bank.storage {
                Storage::Memory => RowStorage::Memory,
                Storage::File => RowStorage::File,
            },
        },
        neg_num: model.neg_num,
        ensure_neg: model.ensure_neg,
    }
}

/// A row of the bank before the first step; `None` where it starts from the untrained network's
/// feature, which only an engine can compute.
pub fn initial_row(start: Start, row: u64, feat_dim: usize, seed: u64) -> Option<Vec<f32>> {
    match start {
        Start::Random => Some(init::random_row(row, feat_dim, seed)),
        Start::Uniform => Some(init::uniform_row(row, feat_dim, seed)),
        Start::Features => None,
    }
}

/// The bank before the first step, N x D row by row; `None` where it starts from the untrained
/// network's features.
pub fn initial_bank(start: Start, images: usize, feat_dim: usize, seed: u64) -> Option<Vec<f32>> {
    let rows = (0..images as u64).map(|row| initial_row(start, row, feat_dim, seed));
    let rows: Option<Vec<_>> = rows.collect();
    Some(rows?.concat())
}
