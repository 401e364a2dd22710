//! `model.backbone.init_cfg`: how the backbone's weights start.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The names that `type` can have.
const NAMES: [&str; 3] = ["Kaiming", "PyTorch", "Pretrained"];

/// `model.backbone.init_cfg`: a name, or MMSelfSup's table with the name as `type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InitCfg {
    /// Normal by fan-out, batch norm 1 and 0 (MMSelfSup's ResNet).
    #[default]
    Kaiming,
    /// The defaults of PyTorch's layers.
    PyTorch,
    /// Weights and running statistics from a file; what it hasn't starts as with `Kaiming`.
    Pretrained {
        /// A `.pth` or safetensors file. Absolute once resolved.
        checkpoint: PathBuf,
        /// What comes before the backbone's names in the file; found where not given.
        prefix: Option<String>,
    },
}

/// The table's form.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Table {
    Kaiming {},
    PyTorch {},
    Pretrained {
        checkpoint: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
    },
}

impl Serialize for InitCfg {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.clone() {
            InitCfg::Kaiming => serializer.serialize_str("Kaiming"),
            InitCfg::PyTorch => serializer.serialize_str("PyTorch"),
            InitCfg::Pretrained { checkpoint, prefix } => {
                Table::Pretrained { checkpoint, prefix }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for InitCfg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = InitCfg;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"Kaiming\", \"PyTorch\" or { type = \"...\" }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<InitCfg, E> {
                match name {
                    "Kaiming" => Ok(InitCfg::Kaiming),
                    "PyTorch" => Ok(InitCfg::PyTorch),
                    "Pretrained" => Err(E::custom(
                        "Pretrained needs a file, as in { type = \"Pretrained\", checkpoint = \
                         \"FILE\" }",
                    )),
                    other => Err(E::unknown_variant(other, &NAMES)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<InitCfg, A::Error> {
                Ok(match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table::Kaiming {} => InitCfg::Kaiming,
                    Table::PyTorch {} => InitCfg::PyTorch,
                    Table::Pretrained { checkpoint, prefix } => {
                        InitCfg::Pretrained { checkpoint, prefix }
                    }
                })
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}
