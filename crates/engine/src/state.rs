//! Names of an engine's state.
//!
//! - a parameter or running statistic: its own name (`backbone.conv1.weight`,
//!   `backbone.bn1.running_mean`), in torchvision's layout;
//! - `optimizer.momentum.NAME`: SGD's momentum of the parameter NAME;
//! - `memory_bank.feature_bank`: the bank, N x D;
//! - `head.log_z`: ln Z of the NCE head, one number; negative infinity before the first batch;
//! - `gradient.NAME`: the accumulated gradient of the parameter NAME, which is never saved.

use npid_network::graph::{Param, Statistic};
use npid_network::method::{Description, Head, RowType};

/// Name of the bank.
pub const BANK: &str = "memory_bank.feature_bank";
/// Name of the NCE head's ln Z.
pub const LOG_Z: &str = "head.log_z";
/// What comes before a parameter's name in the name of its momentum.
pub const MOMENTUM: &str = "optimizer.momentum.";
/// What comes before a parameter's name in the name of its gradient.
pub const GRADIENT: &str = "gradient.";

/// What a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// A trainable (or frozen) tensor; the index is its position in the network.
    Param(usize),
    /// A running statistic; the index is its position in the network.
    Statistic(usize),
    /// The optimiser's momentum of a parameter.
    Momentum(usize),
    /// The memory bank.
    Bank,
    /// The NCE head's ln Z.
    LogZ,
    /// The accumulated gradient of a parameter; part of no checkpoint.
    Gradient(usize),
}

/// One state of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// See [`crate::state`].
    pub name: String,
    /// Shape, as saved.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: StateKind,
    /// What its numbers are kept in: f32 but for the bank, whose type is the method's.
    pub dtype: RowType,
}

impl StateEntry {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a checkpoint holds it.
    pub fn saved(&self) -> bool {
        !matches!(self.kind, StateKind::Gradient(_))
    }
}

/// The state that an engine of this description has, in a fixed order.
pub fn entries(description: &Description) -> Vec<StateEntry> {
    let network = &description.network;
    let param = |prefix: &str, p: &Param, kind| StateEntry {
        name: format!("{prefix}{}", p.name),
        shape: p.shape.clone(),
        kind,
        dtype: RowType::F32,
    };
    let statistic = |s: &Statistic, kind| StateEntry {
        name: s.name.clone(),
        shape: vec![s.channels],
        kind,
        dtype: RowType::F32,
    };
    let params = || network.params.iter().enumerate();
    let trainable = || params().filter(|(_, p)| p.trainable);
    let mut all: Vec<StateEntry> = params()
        .map(|(i, p)| param("", p, StateKind::Param(i)))
        .collect();
    all.extend(
        (network.statistics.iter().enumerate()).map(|(i, s)| statistic(s, StateKind::Statistic(i))),
    );
    if description.optimizer.momentum != 0.0 {
        all.extend(trainable().map(|(i, p)| param(MOMENTUM, p, StateKind::Momentum(i))));
    }
    if let Some(method) = &description.method {
        all.push(StateEntry {
            name: BANK.to_string(),
            shape: vec![method.memory_bank.length, method.memory_bank.feat_dim],
            kind: StateKind::Bank,
            dtype: method.memory_bank.dtype,
        });
        if let Head::Nce { .. } = method.head {
            all.push(StateEntry {
                name: LOG_Z.to_string(),
                shape: vec![1],
                kind: StateKind::LogZ,
                dtype: RowType::F32,
            });
        }
    }
    all.extend(trainable().map(|(i, p)| param(GRADIENT, p, StateKind::Gradient(i))));
    all
}
