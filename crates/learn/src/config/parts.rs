//! The parts that `type = "..."` and its like choose from.

use std::fmt;
use std::path::PathBuf;

use npid_data::augment::{PRESETS, Transform, preset};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// `model.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Non-parametric instance discrimination (Wu et al. 2018).
    #[serde(rename = "NPID")]
    Npid,
}

/// `model.backbone.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackboneType {
    /// 7x7 stem of stride 2 and a max pool.
    ResNet,
    /// 3x3 stem of stride 1, no pool.
    #[serde(rename = "ResNet_CIFAR")]
    ResNetCifar,
}

/// `model.neck.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NeckType {
    /// Global average pool and one linear layer.
    LinearNeck,
    /// Linear, batch norm, and ReLU, linear, batch norm as often as there are further layers.
    NonLinearNeck,
    /// Linear, ReLU, linear.
    MoCoV2Neck,
}

/// `model.head.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadType {
    /// Cross entropy of the positive against K sampled negatives.
    ContrastiveHead,
    /// Noise-contrastive estimation with K sampled negatives.
    #[serde(rename = "NCEHead")]
    NceHead,
    /// Exact softmax over all rows.
    SoftmaxHead,
}

/// `model.memory_bank.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BankType {
    /// One row for each image.
    SimpleMemory,
}

/// `model.memory_bank.init`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Gaussian vectors, normalised (MMSelfSup).
    #[default]
    Random,
    /// Uniform in ±1/sqrt(D/3), not normalised (lemniscate).
    Uniform,
    /// One pass of the untrained network over the clean images, batch norm in batch mode.
    Features,
}

/// `model.memory_bank.storage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In memory, and whole in every checkpoint.
    #[default]
    Memory,
    /// In a file of the run that is mapped; checkpoints hold the rows that changed.
    File,
}

impl Storage {
    pub(super) fn is_memory(&self) -> bool {
        *self == Storage::Memory
    }
}

/// `model.memory_bank.dtype`, by its name.
pub(super) mod row_type {
    use npid_network::method::RowType;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(dtype: &RowType, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(dtype.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RowType, D::Error> {
        let name = String::deserialize(from)?;
        RowType::named(&name).ok_or_else(|| {
            let known = RowType::NAMED.map(|(name, _)| name).join(", ");
            D::Error::custom(format!("unknown type '{name}' of rows; there are {known}"))
        })
    }

    pub fn is_f32(dtype: &RowType) -> bool {
        *dtype == RowType::F32
    }
}

/// `dtype`, by its name; `auto` is as good as nothing.
pub(super) mod dtype {
    use npid_engine::Dtype;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(dtype: &Option<Dtype>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(dtype.map_or("auto", Dtype::name))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Dtype>, D::Error> {
        let name = String::deserialize(from)?;
        if name == "auto" {
            return Ok(None);
        }
        Dtype::named(&name).map(Some).ok_or_else(|| {
            let known = Dtype::NAMED.map(|(name, _)| name).join(", ");
            D::Error::custom(format!(
                "unknown type '{name}' of activations; there are auto, {known}"
            ))
        })
    }
}

/// `optimizer.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerType {
    /// Stochastic gradient descent.
    #[serde(rename = "SGD")]
    Sgd,
    /// The same with layer-wise learning rates (You, Gitman, Ginsburg 2017).
    #[serde(rename = "LARS")]
    Lars,
}

/// `model.backbone.style`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// A bottleneck's 3x3 convolution has the stride (torchvision).
    #[default]
    PyTorch,
    /// Its first 1x1 convolution has.
    Caffe,
}

/// `model.neg_weights`: how often each row is drawn as a negative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum NegWeights {
    /// A file with a number for each image.
    File(PathBuf),
    /// A numeric column of the collection, as `{ column = "NAME" }`.
    Column {
        /// Its name.
        column: String,
    },
}

impl<'de> Deserialize<'de> for NegWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            column: String,
        }

        struct PathOrTable;

        impl<'de> Visitor<'de> for PathOrTable {
            type Value = NegWeights;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file with a number for each picture, or { column = \"NAME\" }")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<NegWeights, E> {
                Ok(NegWeights::File(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NegWeights, A::Error> {
                let Table { column } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(NegWeights::Column { column })
            }
        }

        deserializer.deserialize_any(PathOrTable)
    }
}

/// `lr_config.policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The same throughout.
    #[default]
    #[serde(rename = "fixed")]
    Fixed,
    /// Times `gamma` at each of `step`.
    #[serde(rename = "step")]
    Step,
    /// Half a cosine from `lr` to `min_lr`.
    CosineAnnealing,
}

/// `data.pipeline`: the name of a preset, or a list of transforms in the order they are applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Pipeline {
    /// One of [`PRESETS`]; its crop has `data.size`.
    Preset(String),
    /// Transforms, each a table whose `type` is torchvision's name.
    List(Vec<Transform>),
}

impl<'de> Deserialize<'de> for Pipeline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrList;

        impl<'de> Visitor<'de> for NameOrList {
            type Value = Pipeline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {PRESETS:?}, or a list of transforms")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Pipeline, E> {
                match preset(name) {
                    Some(_) => Ok(Pipeline::Preset(name.to_string())),
                    None => Err(E::unknown_variant(name, &PRESETS)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pipeline, A::Error> {
                let mut transforms = Vec::new();
                while let Some(transform) = list.next_element()? {
                    transforms.push(transform);
                }
                Ok(Pipeline::List(transforms))
            }
        }

        deserializer.deserialize_any(NameOrList)
    }
}
