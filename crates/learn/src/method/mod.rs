//! NPID, composed: from a configuration and the number of images to what an engine compiles.
//!
//! An image passes the backbone, the neck and an L2 normalisation and becomes its feature f. The
//! head compares f with rows of the memory bank, one of which belongs to the image itself; the
//! loss asks f to be nearest to that one. After the step the image's row moves towards f.
//! Equations and derived gradients are in `docs/method.md`.

use npid_network::graph::Network;
use npid_network::method::{Description, Head, MemoryBank, Npid, Sgd};
use npid_network::resnet::{InitCfg as Weights, ResNet};
use npid_network::{init, neck};

use crate::Error;
use crate::config::{Config, HeadType, InitCfg, Invalid, Start};

/// Describes the network, the method and the optimiser of `config` for `images` images (N).
///
/// # Errors
/// As [`Config::resolve`]; also if the images are too small for the network.
pub fn describe(config: &Config, images: usize) -> Result<Description, Error> {
    let config = config.resolve(images)?;
    let description = Description {
        network: network(&config)?,
        method: Some(npid(&config, images)),
        neg_weights: None,
        optimizer: Sgd {
            momentum: config.optimizer.momentum as f32,
            nesterov: config.optimizer.nesterov,
            weight_decay: config.optimizer.weight_decay as f32,
            lars: None,
        },
        seed: config.seed,
    };
    description.check()?;
    Ok(description)
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
        ..ResNet::new(backbone.depth, backbone.stem(), backbone.base_channels)
    };
    let linear = config.model.neck.as_ref().map(|neck| neck::Neck {
        layers: neck::Layers::Linear,
        out_channels: neck.out_channels,
        with_avg_pool: neck.with_avg_pool,
        norm: neck.norm,
    });

    let mut network = Network::new();
    let images = network.input(&normalize.mean, &normalize.std)?;
    let map = resnet.build(&mut network, images, "backbone.")?;
    neck::embed(&mut network, map, linear.as_ref())?;

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

/// Head, memory bank and negatives.
fn npid(config: &Config, images: usize) -> Npid {
    let model = &config.model;
    let temperature = model.head.temperature as f32;
    Npid {
        head: match model.head.kind {
            HeadType::ContrastiveHead => Head::Contrastive { temperature },
            HeadType::SoftmaxHead => Head::Softmax { temperature },
        },
        memory_bank: MemoryBank {
            length: images,
            feat_dim: config.feat_dim(),
            momentum: model.memory_bank.momentum as f32,
        },
        neg_num: model.neg_num,
        ensure_neg: model.ensure_neg,
    }
}

/// The bank before the first step, N x D row by row; `None` where it starts from the untrained
/// network's features, which only an engine can compute.
pub fn initial_bank(start: Start, images: usize, feat_dim: usize, seed: u64) -> Option<Vec<f32>> {
    let row = match start {
        Start::Random => init::random_row,
        Start::Uniform => init::uniform_row,
        Start::Features => return None,
    };
    Some(
        (0..images as u64)
            .flat_map(|i| row(i, feat_dim, seed))
            .collect(),
    )
}
