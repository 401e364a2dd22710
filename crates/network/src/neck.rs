//! Necks: from a stage's map to the feature.

use crate::Error;
use crate::graph::{Network, NodeId};

/// MMSelfSup's `LinearNeck`: global average pool, one linear layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearNeck {
    /// Dimension of the feature.
    pub out_channels: usize,
    /// Whether to pool first; without it the map must already be 1 x 1.
    pub with_avg_pool: bool,
    /// Whether a batch norm without affine parameters comes before the L2 norm.
    pub norm: bool,
}

/// Appends the neck (or only the pool, without one) and the L2 norm after `x`, and makes the
/// result the network's embedding. Parameter names start with `neck.`.
///
/// # Errors
/// If the neck has no output.
pub fn embed(net: &mut Network, x: NodeId, neck: Option<&LinearNeck>) -> Result<NodeId, Error> {
    let mut x = x;
    if neck.is_none_or(|n| n.with_avg_pool) {
        x = net.global_avg_pool("neck.avgpool", x);
    }
    if let Some(neck) = neck {
        x = net.linear("neck.fc", x, neck.out_channels, true)?;
        if neck.norm {
            x = net.batch_norm("neck.norm", x, false);
        }
    }
    let out = net.l2_norm("embedding", x);
    net.embedding = Some(out);
    Ok(out)
}
