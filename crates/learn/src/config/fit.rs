//! Keys that belong to one choice of `type`, and what they are where they are left out.
//!
//! Defaults are those of MMSelfSup 0.x (`necks/nonlinear_neck.py`, `core/optimizer/optimizers.py`)
//! and of mmcv 1.x (`runner/optimizer/default_constructor.py`).

use super::check::{Invalid, at_least_one, not_negative, positive, require};
use super::{Config, HeadType, Neck, NeckType, NegWeights, Optimizer, OptimizerType, ParamwiseCfg};

/// Most linear layers of a neck.
const MAX_LAYERS: usize = 16;

/// A key that is given although `type` is another than it belongs to.
fn foreign(key: &str, section: &str, kinds: &str) -> Invalid {
    Invalid::new(
        format!("{section}.{key}"),
        format!(
            "is given, but belongs to type {kinds} alone; leave it out or change {section}.type"
        ),
    )
}

/// The first of `given` that is there, as an error.
fn none_of(given: &[(&str, bool)], section: &str, kinds: &str) -> Result<(), Invalid> {
    match given.iter().find(|(_, there)| *there) {
        Some((key, _)) => Err(foreign(key, section, kinds)),
        None => Ok(()),
    }
}

impl Config {
    pub(super) fn check_head(&self) -> Result<(), Invalid> {
        let head = &self.model.head;
        if head.kind != HeadType::NceHead {
            let given = [
                ("z_momentum", head.z_momentum.is_some()),
                ("proximal", head.proximal.is_some()),
            ];
            none_of(&given, "model.head", "NCEHead")?;
        }
        if let Some(momentum) = head.z_momentum {
            require(
                (0.0..=1.0).contains(&momentum),
                "model.head.z_momentum",
                momentum,
                "0 to 1, the weight of a batch's estimate of Z, or 0 to keep the first",
            )?;
        }
        if let Some(proximal) = head.proximal {
            not_negative("model.head.proximal", proximal)?;
        }
        let key = "model.neg_weights";
        match &self.model.neg_weights {
            Some(_) if !head.kind.samples() => Err(Invalid::new(
                key,
                "is given, but SoftmaxHead compares with every row and draws none; leave it out",
            )),
            Some(NegWeights::File(path)) if path.as_os_str().is_empty() => {
                Err(Invalid::new(key, "is empty; name a file or a column"))
            }
            Some(NegWeights::Column { column }) if column.is_empty() => Err(Invalid::new(
                key,
                "names no column; name one of the collection",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn check_backbone(&self) -> Result<(), Invalid> {
        let backbone = &self.model.backbone;
        if let Some(channels) = backbone.stem_channels {
            at_least_one("model.backbone.stem_channels", channels)?;
        }
        let key = "model.backbone.frozen_stages";
        let frozen = backbone.frozen_stages;
        let must = "-1 (none), 0 (the stem), or 1 to 4 (up to that stage)";
        require((-1..=4).contains(&frozen), key, frozen, must)?;
        if frozen == 4 && self.model.neck.is_none() {
            return Err(Invalid::new(
                key,
                "is 4 and there is no neck, so nothing would learn; make it 3 at most or add \
                 [model.neck]",
            ));
        }
        Ok(())
    }

    pub(super) fn check_optimizer(&self) -> Result<(), Invalid> {
        let optimizer = &self.optimizer;
        let paramwise = optimizer.paramwise();
        if optimizer.kind != OptimizerType::Lars {
            let given = [
                ("eta", optimizer.eta.is_some()),
                ("eps", optimizer.eps.is_some()),
                (
                    "paramwise_cfg.norm_lars_exclude",
                    paramwise.norm_lars_exclude,
                ),
                (
                    "paramwise_cfg.bias_lars_exclude",
                    paramwise.bias_lars_exclude,
                ),
            ];
            none_of(&given, "optimizer", "LARS")?;
        }
        if let Some(eta) = optimizer.eta {
            positive("optimizer.eta", eta)?;
        }
        if let Some(eps) = optimizer.eps {
            positive("optimizer.eps", eps)?;
        }
        let key = |name: &str| format!("optimizer.paramwise_cfg.{name}");
        not_negative(&key("norm_decay_mult"), paramwise.norm_decay_mult)?;
        not_negative(&key("bias_decay_mult"), paramwise.bias_decay_mult)?;
        not_negative(&key("bias_lr_mult"), paramwise.bias_lr_mult)?;
        let n = self.optimizer_config.update_interval;
        at_least_one("optimizer_config.update_interval", n)
    }

    /// Gives the keys that were left out the values they stand for. `stem_channels` goes on to
    /// follow `base_channels`.
    pub(super) fn fill_in(&mut self) {
        let head = &mut self.model.head;
        if head.kind == HeadType::NceHead {
            head.z_momentum.get_or_insert(0.0);
            head.proximal.get_or_insert(0.0);
        }
        if let Some(neck) = &mut self.model.neck
            && neck.kind == NeckType::NonLinearNeck
        {
            neck.num_layers.get_or_insert(2);
            neck.with_bias.get_or_insert(false);
            if *neck.with_last_bn.get_or_insert(true) {
                neck.with_last_bn_affine.get_or_insert(true);
            }
            neck.with_last_bias.get_or_insert(false);
        }
        let optimizer = &mut self.optimizer;
        if optimizer.kind == OptimizerType::Lars {
            optimizer.eta.get_or_insert(0.001);
            optimizer.eps.get_or_insert(1e-8);
        }
    }
}

impl Neck {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.kind != NeckType::NonLinearNeck {
            let given = [
                ("num_layers", self.num_layers.is_some()),
                ("with_bias", self.with_bias.is_some()),
                ("with_last_bn", self.with_last_bn.is_some()),
                ("with_last_bn_affine", self.with_last_bn_affine.is_some()),
                ("with_last_bias", self.with_last_bias.is_some()),
            ];
            none_of(&given, "model.neck", "NonLinearNeck")?;
        }
        let key = "model.neck.hid_channels";
        match (self.kind, self.hid_channels) {
            (NeckType::LinearNeck, Some(_)) => {
                return Err(foreign(
                    "hid_channels",
                    "model.neck",
                    "NonLinearNeck or MoCoV2Neck",
                ));
            }
            (NeckType::LinearNeck, None) => {}
            (_, Some(channels)) => at_least_one(key, channels)?,
            (kind, None) => {
                return Err(Invalid::new(
                    key,
                    format!("is missing; a {kind:?} needs the channels of its hidden layer"),
                ));
            }
        }
        if let Some(layers) = self.num_layers {
            require(
                (2..=MAX_LAYERS).contains(&layers),
                "model.neck.num_layers",
                layers,
                &format!("2 to {MAX_LAYERS}; for a single layer take LinearNeck"),
            )?;
        }
        if self.with_last_bn == Some(false) && self.with_last_bn_affine.is_some() {
            return Err(Invalid::new(
                "model.neck.with_last_bn_affine",
                "is given, but with_last_bn is false, so there is no such batch norm; leave it out",
            ));
        }
        Ok(())
    }

    /// What gives the neck a batch norm over 1 x 1 maps, if anything does.
    pub(super) fn norms(&self) -> Option<&'static str> {
        match self.kind {
            _ if self.norm => Some("model.neck.norm"),
            NeckType::NonLinearNeck => Some("a NonLinearNeck's batch norms"),
            NeckType::LinearNeck | NeckType::MoCoV2Neck => None,
        }
    }
}

impl Optimizer {
    /// `paramwise_cfg`, or what it is where it is left out.
    pub fn paramwise(&self) -> ParamwiseCfg {
        self.paramwise_cfg.clone().unwrap_or_default()
    }
}
