//! Which values can be used, and what depends on the data.

use std::path::{Path, PathBuf};

use npid_data::augment::{self, Transform};
use npid_network::resnet::{ResNet, Stem};

use super::{BackboneType, Config, HeadType, InitCfg, NegWeights, Pipeline, Policy, Storage};
use crate::Error;

/// The most threads that pictures can be loaded on.
pub const MAX_WORKERS: usize = 1024;

/// The key of the file that pretrained weights come from.
const CHECKPOINT: &str = "model.backbone.init_cfg.checkpoint";

/// A key whose value can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The dotted key; empty where the whole file is wrong.
    pub key: String,
    /// What is wrong and what is possible, as it continues after the key: "is 0; it must be ...".
    pub what: String,
}

impl Invalid {
    /// With this key and explanation.
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Invalid {
            key: key.into(),
            what: what.into(),
        }
    }

    /// The key and what is wrong with it.
    pub fn message(&self) -> String {
        if self.key.is_empty() {
            self.what.clone()
        } else {
            format!("{} {}", self.key, self.what)
        }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Error::Input(invalid.message())
    }
}

/// Passes, or says that the value of `key` must be something else.
pub(super) fn require(
    holds: bool,
    key: &str,
    value: impl std::fmt::Debug,
    must: &str,
) -> Result<(), Invalid> {
    if holds {
        Ok(())
    } else {
        Err(Invalid::new(
            key,
            format!("is {value:?}; it must be {must}"),
        ))
    }
}

pub(super) fn positive(key: &str, value: f64) -> Result<(), Invalid> {
    // What is above 0 here must not vanish or overflow as f32 either.
    let narrow = value as f32;
    require(
        narrow.is_finite() && narrow > 0.0,
        key,
        value,
        "a finite number above 0",
    )
}

pub(super) fn not_negative(key: &str, value: f64) -> Result<(), Invalid> {
    require(
        (value as f32).is_finite() && value >= 0.0,
        key,
        value,
        "a finite number, 0 or more",
    )
}

pub(super) fn at_least_one(key: &str, value: usize) -> Result<(), Invalid> {
    require(value >= 1, key, value, "at least 1")
}

impl Config {
    /// Checks every value that can be checked without the data.
    ///
    /// # Errors
    /// The first key that can't be used.
    pub fn check(&self) -> Result<(), Invalid> {
        self.check_model()?;
        self.check_schedule()?;
        let data = &self.data;
        at_least_one("data.size", data.size)?;
        require(data.size <= 4096, "data.size", data.size, "4096 at most")?;
        at_least_one("data.batch_size", data.batch_size)?;
        if let Some(norm) = self.model.neck.as_ref().and_then(|neck| neck.norms()) {
            require(
                data.batch_size > 1,
                "data.batch_size",
                data.batch_size,
                &format!("at least 2 with {norm}, which has no statistics of a single picture"),
            )?;
        }
        require(
            data.workers <= MAX_WORKERS,
            "data.workers",
            data.workers,
            &format!("{MAX_WORKERS} at most"),
        )?;
        self.pipeline()?;
        at_least_one("checkpoint.interval", self.checkpoint.interval as usize)?;
        at_least_one("checkpoint.keep", self.checkpoint.keep)?;
        at_least_one("evaluation.k", self.evaluation.k)?;
        positive("evaluation.temperature", self.evaluation.temperature)?;
        at_least_one("evaluation.max_rows", self.evaluation.max_rows)?;
        at_least_one("log.interval", self.log.interval as usize)
    }

    fn check_model(&self) -> Result<(), Invalid> {
        let model = &self.model;
        if model.head.kind.samples() {
            require(
                model.neg_num >= 1 && u32::try_from(model.neg_num).is_ok(),
                "model.neg_num",
                model.neg_num,
                "1 to 4294967295 negatives per image",
            )?;
        } else {
            require(
                model.neg_num >= 1,
                "model.neg_num",
                model.neg_num,
                "at least 1, even though SoftmaxHead compares with every row and draws none",
            )?;
        }
        let backbone = &model.backbone;
        require(
            ResNet::DEPTHS.contains(&backbone.depth),
            "model.backbone.depth",
            backbone.depth,
            "18, 34, 50, 101 or 152",
        )?;
        require(
            backbone.in_channels == 3,
            "model.backbone.in_channels",
            backbone.in_channels,
            "3, because pictures are read as RGB",
        )?;
        at_least_one("model.backbone.base_channels", backbone.base_channels)?;
        if let InitCfg::Pretrained { checkpoint, .. } = &backbone.init_cfg {
            let text = checkpoint.to_string_lossy();
            require(
                !text.is_empty() && !text.contains("://"),
                CHECKPOINT,
                &text,
                "the path of a file (nothing is downloaded: get the file first)",
            )?;
        }
        let stages = &backbone.out_indices;
        require(
            stages.iter().all(|&i| i <= 4) && stages.windows(2).all(|w| w[0] < w[1]),
            "model.backbone.out_indices",
            stages,
            "rising numbers from 0 (the stem) to 4",
        )?;
        self.check_backbone()?;
        let mut dim = backbone.out_channels();
        if let Some(neck) = &model.neck {
            if let Some(given) = neck.in_channels {
                let what = format!("{dim}, the channels of the backbone's last stage");
                require(given == dim, "model.neck.in_channels", given, &what)?;
            }
            at_least_one("model.neck.out_channels", neck.out_channels)?;
            neck.check()?;
            dim = neck.out_channels;
        }
        let bank = &model.memory_bank;
        if let Some(given) = bank.feat_dim {
            let what = format!("{dim}, the dimension of the network's features");
            require(given == dim, "model.memory_bank.feat_dim", given, &what)?;
        }
        if let Some(length) = bank.length {
            at_least_one("model.memory_bank.length", length)?;
        }
        require(
            (0.0..=1.0).contains(&bank.momentum),
            "model.memory_bank.momentum",
            bank.momentum,
            "0 to 1, the weight of the new feature",
        )?;
        if let Some(bytes) = bank.max_dirty_bytes {
            require(
                bank.storage == Storage::File,
                "model.memory_bank.max_dirty_bytes",
                bytes,
                "left out unless model.memory_bank.storage is \"file\"",
            )?;
            let key = "model.memory_bank.max_dirty_bytes";
            require(bytes >= 1, key, bytes, "at least 1")?;
        }
        positive("model.head.temperature", model.head.temperature)?;
        self.check_head()
    }

    fn check_schedule(&self) -> Result<(), Invalid> {
        let optimizer = &self.optimizer;
        positive("optimizer.lr", optimizer.lr)?;
        require(
            (0.0..1.0).contains(&optimizer.momentum),
            "optimizer.momentum",
            optimizer.momentum,
            "0 to below 1",
        )?;
        not_negative("optimizer.weight_decay", optimizer.weight_decay)?;
        require(
            !optimizer.nesterov || optimizer.momentum > 0.0,
            "optimizer.nesterov",
            optimizer.nesterov,
            "false while optimizer.momentum is 0",
        )?;
        self.check_optimizer()?;
        let lr = &self.lr_config;
        let with_steps = lr.policy == Policy::Step;
        if with_steps {
            require(
                !lr.step.is_empty() && lr.step.windows(2).all(|w| w[0] < w[1]),
                "lr_config.step",
                &lr.step,
                "rising numbers, at least one",
            )?;
        } else {
            require(
                lr.step.is_empty(),
                "lr_config.step",
                &lr.step,
                "left out unless lr_config.policy is \"step\"",
            )?;
        }
        positive("lr_config.gamma", lr.gamma)?;
        not_negative("lr_config.min_lr", lr.min_lr)?;
        require(
            lr.min_lr <= optimizer.lr,
            "lr_config.min_lr",
            lr.min_lr,
            "at most optimizer.lr",
        )?;
        require(
            lr.warmup_ratio > 0.0 && lr.warmup_ratio <= 1.0,
            "lr_config.warmup_ratio",
            lr.warmup_ratio,
            "above 0 and at most 1",
        )?;
        at_least_one("runner.max_epochs", self.runner.max_epochs as usize)
    }

    /// The configuration with everything filled in that depends on the data: `memory_bank.length`,
    /// the dimensions, and absolute paths. `images` is N, unreadable pictures included.
    ///
    /// # Errors
    /// As [`Config::check`], and for what doesn't fit N: a bank of another length, a batch larger
    /// than the collection, `ensure_neg` with a single image.
    pub fn resolve(&self, images: usize) -> Result<Config, Error> {
        self.check()?;
        let mut config = self.clone();
        let bank = &mut config.model.memory_bank;
        if let Some(length) = bank.length {
            require(
                length == images,
                "model.memory_bank.length",
                length,
                &format!("{images}, the number of pictures; or leave it out"),
            )?;
        }
        bank.length = Some(images);
        let last = self.model.backbone.out_channels();
        bank.feat_dim = Some(self.feat_dim());
        if let Some(neck) = &mut config.model.neck {
            neck.in_channels = Some(last);
        }
        config.fill_in();
        let batch = self.data.batch_size;
        require(
            batch <= images,
            "data.batch_size",
            batch,
            &format!("at most {images}, the number of pictures"),
        )?;
        if self.model.ensure_neg && images == 1 && self.model.head.kind.samples() {
            return Err(Invalid::new(
                "model.ensure_neg",
                "is true with a single picture, so there is no other row to draw; it must be false",
            )
            .into());
        }
        if let InitCfg::Pretrained { checkpoint, .. } = &mut config.model.backbone.init_cfg {
            *checkpoint = absolute(checkpoint, CHECKPOINT)?;
        }
        if let Some(NegWeights::File(path)) = &mut config.model.neg_weights {
            *path = absolute(path, "model.neg_weights")?;
        }
        let all = |paths: &Option<super::Paths>, key| {
            let paths = paths.as_ref();
            paths
                .map(|paths| paths.try_map(|path| absolute(path, key)))
                .transpose()
        };
        config.data.path = all(&self.data.path, "data.path")?;
        config.data.val = all(&self.data.val, "data.val")?;
        let prefix = self.data.data_prefix.as_deref();
        config.data.data_prefix = prefix
            .map(|path| absolute(path, "data.data_prefix"))
            .transpose()?;
        Ok(config)
    }

    /// The augmentation, whose results are `data.size` x `data.size`.
    ///
    /// # Errors
    /// If a transform's settings can't be used, or the results have another size.
    pub fn pipeline(&self) -> Result<augment::Pipeline, Invalid> {
        let key = "data.pipeline";
        let size = self.data.size;
        let steps = match &self.data.pipeline {
            Pipeline::List(steps) => steps.clone(),
            Pipeline::Preset(name) => {
                let mut steps = augment::preset(name).ok_or_else(|| {
                    let known = augment::PRESETS.join(", ");
                    Invalid::new(key, format!("has no preset {name}; presets are {known}"))
                })?;
                for step in &mut steps {
                    if let Transform::RandomResizedCrop(crop) = step {
                        crop.size = augment::Extent::Square(size);
                    }
                }
                steps
            }
        };
        let pipeline = augment::Pipeline::new(steps)
            .map_err(|error| Invalid::new(key, format!("can't be used: {error}")))?;
        let (height, width) = pipeline.output_size();
        if (height, width) != (size, size) {
            return Err(Invalid::new(
                key,
                format!(
                    "makes pictures of {height}x{width}, but data.size is {size}; leave the size \
                     out of the crop and it takes data.size"
                ),
            ));
        }
        Ok(pipeline)
    }

    /// D, the dimension of the features.
    pub fn feat_dim(&self) -> usize {
        let last = self.model.backbone.out_channels();
        self.model.neck.as_ref().map_or(last, |n| n.out_channels)
    }
}

impl HeadType {
    /// Whether it compares with sampled negatives rather than with every row.
    pub fn samples(self) -> bool {
        self != HeadType::SoftmaxHead
    }
}

impl super::Backbone {
    /// Channels of the last map: 8 times `base_channels`, 32 times with bottlenecks.
    pub fn out_channels(&self) -> usize {
        let expansion = if self.depth >= 50 { 4 } else { 1 };
        self.base_channels * 8 * expansion
    }

    /// The stem that `type` stands for.
    pub fn stem(&self) -> Stem {
        match self.kind {
            BackboneType::ResNet => Stem::ImageNet,
            BackboneType::ResNetCifar => Stem::Cifar,
        }
    }
}

fn absolute(path: &Path, key: &str) -> Result<PathBuf, Invalid> {
    match std::path::absolute(path) {
        Ok(path) if path.to_str().is_some() => Ok(path),
        Ok(path) => Err(Invalid::new(
            key,
            format!(
                "holds {}, which is not UTF-8; rename it or link to it",
                path.display()
            ),
        )),
        Err(error) => Err(Invalid::new(
            key,
            format!("can't be used: {}: {error}", path.display()),
        )),
    }
}
