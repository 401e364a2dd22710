//! What a file of somebody else's run holds, and what its settings are called here.

use npid_network::resnet::Stem;
use npid_weights::resnet::{self, Architecture};
use npid_weights::{Checkpoint, TensorRef, Value};
use toml::Table;

use crate::error::Error;

/// lemniscate's settings of its memory.
const PARAMS: &str = "lemniscate.params";

/// Who wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// lemniscate's `main.py` or `cifar.py`: a network and a memory.
    Lemniscate,
    /// MMSelfSup's NPID, with its memory bank (1.x) or without (0.x doesn't save it).
    MmSelfSup,
    /// A network alone: nothing to go on with, but features to be had.
    Network,
}

impl Kind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lemniscate => "lemniscate",
            Kind::MmSelfSup => "MMSelfSup",
            Kind::Network => "network",
        }
    }
}

/// What an optimiser's first group of parameters says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Group {
    lr: Option<f64>,
    initial_lr: Option<f64>,
    momentum: Option<f64>,
    weight_decay: Option<f64>,
    nesterov: bool,
}

/// The layers after the backbone.
pub(super) struct Neck {
    /// Our name and the file's of each linear layer, without `.weight` and `.bias`.
    layers: Vec<(&'static str, String)>,
    /// Channels between two layers.
    hid_channels: Option<usize>,
    /// D.
    pub out_channels: usize,
}

impl Neck {
    /// One linear layer called `one`, or two with a ReLU between them, `MLP.0` and `MLP.2`.
    fn of(file: &Checkpoint, one: &str, mlp: &str) -> Option<Self> {
        let size = |name: &str| match *file.shape(&format!("{name}.weight"))? {
            [out, _] => usize::try_from(out).ok(),
            _ => None,
        };
        if let Some(out_channels) = size(one) {
            return Some(Neck {
                layers: vec![("neck.fc", one.to_string())],
                hid_channels: None,
                out_channels,
            });
        }
        let (first, second) = (format!("{mlp}.0"), format!("{mlp}.2"));
        Some(Neck {
            hid_channels: Some(size(&first)?),
            out_channels: size(&second)?,
            layers: vec![("neck.mlp.0", first), ("neck.mlp.2", second)],
        })
    }
}

/// What was found.
pub(super) struct Found<'a> {
    pub file: &'a Checkpoint,
    pub kind: Kind,
    /// What comes before the backbone's names.
    pub prefix: String,
    pub architecture: Architecture,
    /// The linear layers after the backbone.
    pub neck: Option<Neck>,
    /// Whether the neck is followed by a batch norm without affine parameters (npid's own).
    pub norm: bool,
    /// The memory bank's name in the file.
    pub bank: Option<String>,
    /// ln Z of noise-contrastive estimation, once it is estimated.
    pub log_z: Option<f32>,
    /// Epochs finished.
    pub epoch: u32,
    /// lemniscate's `params`: K, τ, Z, momentum of NCE; τ, momentum of the exact softmax.
    params: Vec<f32>,
    group: Group,
}

impl<'a> Found<'a> {
    /// Looks at a file. `prefix` is as in [`resnet::prefix`].
    ///
    /// # Errors
    /// If there is no ResNet in it that npid has, or a memory that isn't one.
    pub fn of(file: &'a Checkpoint, prefix: Option<&str>) -> Result<Self, Error> {
        let say = |what: &str| Error::input(format!("{}: {what}", file.path().display()));
        if is_checkpoint(file) {
            return Err(say(
                "a checkpoint of npid itself, which needs no import; name the run folder that it \
                 lies in (--run or --resume)",
            ));
        }
        let prefix = resnet::prefix(file, prefix)?;
        let architecture = resnet::architecture(file, &prefix)?;
        let root = file.root();
        let memory = root.get("lemniscate");
        // MMSelfSup's neck stands beside its `backbone`; one that npid exports, beside `conv1`.
        let beside = file
            .tensors()
            .any(|(name, _)| name.starts_with(&format!("{prefix}neck.")));
        let parent = (prefix.strip_suffix("backbone."))
            .or(beside.then_some(&prefix[..]))
            .map(String::from);
        // torchvision's `fc` is a classifier; lemniscate's and MoCo's is the neck.
        let neck = match (&parent, memory) {
            (Some(parent), _) => Neck::of(
                file,
                &format!("{parent}neck.fc"),
                &format!("{parent}neck.mlp"),
            ),
            (None, Some(_)) => {
                let neck = |name| Neck::of(file, &format!("{prefix}{name}"), "");
                neck("fc").or_else(|| neck("linear"))
            }
            (None, None) if prefix.ends_with("encoder_q.") => {
                let name = format!("{prefix}fc");
                Neck::of(file, &name, &name)
            }
            (None, None) => None,
        };
        let norm = parent.as_ref().is_some_and(|parent| {
            file.shape(&format!("{parent}neck.norm.running_mean"))
                .is_some()
        });
        let kind = match (memory, &neck, root.get("meta")) {
            (Some(_), Some(_), _) => Kind::Lemniscate,
            (Some(_), None, _) => {
                return Err(say(
                    "it has lemniscate's memory, but the network has no linear layer fc or linear",
                ));
            }
            (None, Some(_), Some(_)) if parent.is_some() => Kind::MmSelfSup,
            _ => Kind::Network,
        };
        let known = |name: String| file.shape(&name).is_some().then_some(name);
        let bank = match kind {
            Kind::Lemniscate => known("lemniscate.memory".into()),
            Kind::MmSelfSup => parent.and_then(|p| known(format!("{p}memory_bank.feature_bank"))),
            Kind::Network => None,
        };
        let params = match (kind, known(PARAMS.into())) {
            (Kind::Lemniscate, Some(name)) => file.load(&name)?.data,
            _ => Vec::new(),
        };
        if kind == Kind::Lemniscate && (bank.is_none() || !matches!(params.len(), 2 | 4)) {
            return Err(say(
                "its lemniscate is neither a LinearAverage nor an NCEAverage: it needs the \
                 buffers memory and params",
            ));
        }
        let log_z = match params[..] {
            [_, _, z, _] if z > 0.0 => Some(z.ln()),
            _ => None,
        };
        let whole = |value: Option<Value<'_>>| value.and_then(Value::integer);
        let epoch = match kind {
            // cifar.py saves the module `net` and the epoch's number from 0, before it is finished.
            Kind::Lemniscate if root.get("net").is_some() => {
                whole(root.get("epoch")).map(|e| e.saturating_add(1))
            }
            Kind::Lemniscate => whole(root.get("epoch")),
            Kind::MmSelfSup => whole(root.get("meta").and_then(|meta| meta.get("epoch"))),
            Kind::Network => None,
        };
        Ok(Found {
            file,
            kind,
            prefix,
            architecture,
            neck,
            norm,
            bank,
            log_z,
            epoch: epoch.and_then(|e| u32::try_from(e).ok()).unwrap_or(0),
            params,
            group: group(root),
        })
    }

    /// Whether something other than the network is made of a tensor of the file.
    pub fn uses(&self, name: &str) -> bool {
        self.bank.as_deref() == Some(name)
            || name == PARAMS
            || (self.kind != Kind::Network && name.starts_with("optimizer."))
    }

    /// The embedded recipe that comes nearest.
    pub fn recipe(&self) -> &'static str {
        match (self.kind, self.architecture.stem) {
            (Kind::Network, _) => "folder",
            (_, Stem::Cifar) => "cifar10-resnet18-200e",
            (_, Stem::ImageNet) => "npid_resnet50_8xb32-steplr-200e_in1k",
        }
    }

    /// The file's name for one of ours that isn't the backbone's.
    pub fn other(&self, ours: &str) -> Option<String> {
        let layers = self.neck.iter().flat_map(|neck| &neck.layers);
        for (name, theirs) in layers {
            if let Some(rest) = ours.strip_prefix(name) {
                return Some(format!("{theirs}{rest}"));
            }
        }
        let parent = (self.prefix.strip_suffix("backbone.")).unwrap_or(&self.prefix);
        Some(format!("{parent}{ours}"))
    }

    /// Writes into a recipe what the file itself says: the network's shape, and as much of the
    /// method and the optimiser as it holds. `images` is N.
    pub fn settle(&self, recipe: &mut Table, own_recipe: bool, images: usize) {
        let Architecture {
            depth,
            stem,
            stem_channels,
            base_channels,
        } = self.architecture;
        // The recipe's are another network's. A head brings keys of its own, too.
        if let Some(model) = section_of(recipe, &["model"]) {
            model.remove("neck");
            if !self.params.is_empty() {
                model.remove("head");
            }
        }
        if let Some(bank) = section_of(recipe, &["model", "memory_bank"]) {
            bank.remove("feat_dim");
        }
        let mut set = |key: &str, value: toml::Value| put(recipe, key, value);
        let kind = match stem {
            Stem::Cifar => "ResNet_CIFAR",
            Stem::ImageNet => "ResNet",
        };
        set("model.backbone.type", kind.into());
        set("model.backbone.depth", whole(depth));
        set("model.backbone.base_channels", whole(base_channels));
        set("model.memory_bank.length", whole(images));
        set("model.backbone.stem_channels", whole(stem_channels));
        if let Some(neck) = &self.neck {
            match neck.hid_channels {
                None => set("model.neck.type", "LinearNeck".into()),
                Some(hid) => {
                    set("model.neck.type", "MoCoV2Neck".into());
                    set("model.neck.hid_channels", whole(hid));
                }
            }
            set("model.neck.out_channels", whole(neck.out_channels));
            set("model.neck.norm", self.norm.into());
        }
        match self.params[..] {
            [k, tau, _, m] => {
                set("model.head.type", "NCEHead".into());
                set("model.neg_num", whole(k as usize));
                set("model.head.temperature", number(tau));
                // lemniscate weights the old feature, npid the new one.
                set("model.memory_bank.momentum", number(1.0 - m));
            }
            [tau, m] => {
                set("model.head.type", "SoftmaxHead".into());
                set("model.head.temperature", number(tau));
                set("model.memory_bank.momentum", number(1.0 - m));
            }
            _ => {}
        }
        if self.kind != Kind::Network {
            let Group {
                momentum,
                weight_decay,
                nesterov,
                ..
            } = self.group;
            for (key, value) in [("momentum", momentum), ("weight_decay", weight_decay)] {
                if let Some(value) = value {
                    set(&format!("optimizer.{key}"), value.into());
                }
            }
            if momentum.is_some() {
                set("optimizer.nesterov", nesterov.into());
            }
        }
        if own_recipe {
            if let Some(lr) = self.base_lr(recipe) {
                put(recipe, "optimizer.lr", lr.into());
            }
            if self.kind == Kind::Network {
                let (size, pipeline) = match stem {
                    Stem::Cifar => (32, "cifar-npid"),
                    Stem::ImageNet => (224, "imagenet-npid"),
                };
                put(recipe, "data.size", whole(size));
                put(recipe, "data.pipeline", pipeline.into());
                put(recipe, "data.batch_size", whole(32));
            }
        }
    }

    /// The rate that the schedule starts from. mmcv keeps it beside the present one; of
    /// lemniscate's it is the present one less what the recipe's steps took off.
    fn base_lr(&self, recipe: &Table) -> Option<f64> {
        if let Some(lr) = self.group.initial_lr {
            return Some(lr);
        }
        let lr = self.group.lr?;
        let schedule = recipe.get("lr_config")?.as_table()?;
        let gamma = schedule
            .get("gamma")
            .and_then(toml::Value::as_float)
            .unwrap_or(0.1);
        let steps = schedule.get("step").and_then(toml::Value::as_array);
        let last = i64::from(self.epoch.saturating_sub(1));
        let taken = (steps.into_iter().flatten())
            .filter_map(toml::Value::as_integer)
            .filter(|&step| step <= last)
            .count();
        // 0.003 / 0.1 is to be 0.03.
        format!("{:.9e}", lr / gamma.powi(taken as i32))
            .parse()
            .ok()
    }

    /// SGD's momentum of each weight, by the file's name of the weight; or why there is none.
    ///
    /// An optimiser numbers parameters in the order of `model.parameters()`, which is that of the
    /// `state_dict` without its buffers.
    pub fn momentum(&self) -> Result<Vec<(String, &'a TensorRef)>, String> {
        let optimizer = self
            .file
            .root()
            .get("optimizer")
            .ok_or("the file has none")?;
        let groups = optimizer.get("param_groups").and_then(Value::list);
        let ids: Vec<i64> = (groups.unwrap_or_default().iter())
            .filter_map(|group| group.get("params")?.list())
            .flatten()
            .filter_map(Value::integer)
            .collect();
        let state = optimizer
            .get("state")
            .and_then(Value::dict)
            .unwrap_or_default();
        let buffers: std::collections::HashMap<i64, &TensorRef> = (state.iter())
            .filter_map(|(id, state)| {
                Some((id.integer()?, state.get("momentum_buffer")?.tensor()?))
            })
            .collect();
        if buffers.is_empty() {
            return Err("its optimizer has no momentum".to_string());
        }
        let weights: Vec<&str> = (self.file.tensors())
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("state_dict."))
            .filter(|name| name.ends_with(".weight") || name.ends_with(".bias"))
            .collect();
        if weights.len() != ids.len() {
            return Err(format!(
                "its optimizer has {} parameters, its network {}",
                ids.len(),
                weights.len()
            ));
        }
        let pairs = weights.iter().zip(&ids);
        Ok(pairs
            .filter_map(|(name, id)| Some((name.to_string(), *buffers.get(id)?)))
            .collect())
    }
}

/// Whether a file is a checkpoint of a run of npid's own.
fn is_checkpoint(file: &Checkpoint) -> bool {
    let meta = file.text(crate::checkpoint::META_KEY);
    let meta = meta.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    // An exported network has the same key, without a place in a run.
    meta.is_some_and(|meta| meta.get("cursor").is_some())
}

/// What the optimiser's first group says.
fn group(root: Value<'_>) -> Group {
    let first = || {
        let groups = root.get("optimizer")?.get("param_groups")?.list()?;
        groups.first().copied()
    };
    let Some(group) = first() else {
        return Group::default();
    };
    let number = |key: &str| group.get(key).and_then(Value::number);
    Group {
        lr: number("lr"),
        initial_lr: number("initial_lr"),
        momentum: number("momentum"),
        weight_decay: number("weight_decay"),
        nesterov: number("nesterov") == Some(1.0),
    }
}

fn whole(value: usize) -> toml::Value {
    toml::Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// An f32 as the shortest decimal that means it: 0.07, not 0.07000000029802322.
fn number(value: f32) -> toml::Value {
    // 1 - 0.9 in f32 is 0.100000024; six digits are what f32 has.
    toml::Value::Float(format!("{value:.6e}").parse().unwrap_or(f64::from(value)))
}

/// The table at `path`, if there is one.
fn section_of<'t>(table: &'t mut Table, path: &[&str]) -> Option<&'t mut Table> {
    path.iter()
        .try_fold(table, |table, key| table.get_mut(*key)?.as_table_mut())
}

/// Sets a dotted key, making the tables on the way.
pub(super) fn put(table: &mut Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_string(), value);
        }
        Some((section, rest)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| toml::Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = toml::Value::Table(Table::new());
            }
            if let Some(inner) = inner.as_table_mut() {
                put(inner, rest, value);
            }
        }
    }
}
