//! Necks: from a stage's map to the feature.

use crate::Error;
use crate::graph::{Network, NodeId};

/// What lies between the backbone's last map and the L2 norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neck {
    /// Its layers.
    pub layers: Layers,
    /// Dimension of the feature.
    pub out_channels: usize,
    /// Whether to pool first; without it the map must already be 1 x 1.
    pub with_avg_pool: bool,
    /// Whether a batch norm without affine parameters comes before the L2 norm.
    pub norm: bool,
}

/// The layers of a neck, by MMSelfSup's names. Parameter names follow MMSelfSup's modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// `LinearNeck`: one linear layer, `fc`.
    Linear,
    /// `MoCoV2Neck`: linear, ReLU, linear, as `mlp.0` and `mlp.2` (Chen et al. 2020, SimCLR's
    /// head without batch norm).
    MoCoV2 {
        /// Channels between the two.
        hid_channels: usize,
    },
    /// `NonLinearNeck`: linear, batch norm, and then ReLU, linear, batch norm as often as there
    /// are further layers: `fc0`, `bn0`, `fc1`, `bn1` and so on.
    NonLinear {
        /// Channels of every layer but the last.
        hid_channels: usize,
        /// Linear layers, at least 2.
        num_layers: usize,
        /// Whether linear layers but the last have a bias.
        with_bias: bool,
        /// Whether the last one is followed by a batch norm.
        with_last_bn: bool,
        /// Whether that one has a scale and a shift.
        with_last_bn_affine: bool,
        /// Whether the last linear layer has a bias.
        with_last_bias: bool,
    },
}

impl Neck {
    /// MMSelfSup's `LinearNeck`: global average pool, one linear layer.
    pub const fn linear(out_channels: usize, norm: bool) -> Self {
        Neck {
            layers: Layers::Linear,
            out_channels,
            with_avg_pool: true,
            norm,
        }
    }
}

/// Appends the neck (or only the pool, without one) and the L2 norm after `x`, and makes the
/// result the network's embedding. Parameter names start with `neck.`.
///
/// # Errors
/// If a layer has no output, or a `NonLinearNeck` fewer than two layers.
pub fn embed(net: &mut Network, x: NodeId, neck: Option<&Neck>) -> Result<NodeId, Error> {
    let mut x = x;
    if neck.is_none_or(|n| n.with_avg_pool) {
        x = net.global_avg_pool("neck.avgpool", x);
    }
    if let Some(neck) = neck {
        x = layers(net, x, neck)?;
        if neck.norm {
            x = net.batch_norm("neck.norm", x, false);
        }
    }
    let out = net.l2_norm("embedding", x);
    net.embedding = Some(out);
    Ok(out)
}

fn layers(net: &mut Network, x: NodeId, neck: &Neck) -> Result<NodeId, Error> {
    let out = neck.out_channels;
    match neck.layers {
        Layers::Linear => net.linear("neck.fc", x, out, true),
        Layers::MoCoV2 { hid_channels } => {
            let x = net.linear("neck.mlp.0", x, hid_channels, true)?;
            let x = net.relu("neck.mlp.1", x);
            net.linear("neck.mlp.2", x, out, true)
        }
        Layers::NonLinear {
            hid_channels,
            num_layers,
            with_bias,
            with_last_bn,
            with_last_bn_affine,
            with_last_bias,
        } => {
            if num_layers < 2 {
                return Err(Error::Network(format!(
                    "neck.num_layers is {num_layers}; a NonLinearNeck has at least 2"
                )));
            }
            let mut x = x;
            for i in 0..num_layers - 1 {
                if i > 0 {
                    x = net.relu(&format!("neck.relu{i}"), x);
                }
                x = net.linear(&format!("neck.fc{i}"), x, hid_channels, with_bias)?;
                x = net.batch_norm(&format!("neck.bn{i}"), x, true);
            }
            let last = num_layers - 1;
            x = net.relu(&format!("neck.relu{last}"), x);
            x = net.linear(&format!("neck.fc{last}"), x, out, with_last_bias)?;
            if with_last_bn {
                x = net.batch_norm(&format!("neck.bn{last}"), x, with_last_bn_affine);
            }
            Ok(x)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layers: Layers) -> Vec<String> {
        let mut net = Network::new();
        let x = net.input(&[0.5; 3], &[0.5; 3]).unwrap();
        let neck = Neck {
            layers,
            ..Neck::linear(4, false)
        };
        embed(&mut net, x, Some(&neck)).unwrap();
        net.check().unwrap();
        assert_eq!(net.feat_dim(), 4);
        net.params.into_iter().map(|p| p.name).collect()
    }

    #[test]
    fn parameters_have_mmselfsups_names() {
        assert_eq!(names(Layers::Linear), ["neck.fc.weight", "neck.fc.bias"]);
        assert_eq!(
            names(Layers::MoCoV2 { hid_channels: 5 }),
            [
                "neck.mlp.0.weight",
                "neck.mlp.0.bias",
                "neck.mlp.2.weight",
                "neck.mlp.2.bias"
            ]
        );
        let non_linear = Layers::NonLinear {
            hid_channels: 5,
            num_layers: 3,
            with_bias: false,
            with_last_bn: true,
            with_last_bn_affine: false,
            with_last_bias: true,
        };
        assert_eq!(
            names(non_linear),
            [
                "neck.fc0.weight",
                "neck.bn0.weight",
                "neck.bn0.bias",
                "neck.fc1.weight",
                "neck.bn1.weight",
                "neck.bn1.bias",
                "neck.fc2.weight",
                "neck.fc2.bias"
            ]
        );
    }
}
