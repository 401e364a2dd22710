//! What single operations of a program take: the engine's side of `npid bench ops`.

use std::time::Duration;

use npid_network::graph::Shape;

/// One operation of the programs that ran.
///
/// Work is counted as the field counts it, whatever a kernel does in fact: `flops` as in the plain
/// formula (a convolution's products and sums, those with the padding too: kernels that leave these
/// out, and Winograd's, need fewer), `bytes` with every map, weight and row that takes part read or
/// written once.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What it does.
    pub what: What,
    /// The layer, by the name of its node in the network; `memory bank` or `parameters` for what
    /// belongs to none.
    pub layer: String,
    /// Height and width of the kernel, and stride, of convolutions and max pools and their
    /// gradients.
    pub window: Option<(usize, usize)>,
    /// One image's map that the forward pass of this operation reads.
    pub input: Shape,
    /// One image's map that it writes.
    pub output: Shape,
    /// Images.
    pub count: usize,
    /// Floating-point operations; 0 where they don't matter beside the bytes.
    pub flops: u64,
    /// Bytes.
    pub bytes: u64,
    /// Wall-clock time.
    pub time: Duration,
}

/// What an [`Operation`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Lays changed weights out as the convolutions read them.
    Packing,
    /// Bytes to normalised numbers.
    Input,
    /// Convolution or linear layer, with the statistics of its batch norm; where running ones serve,
    /// with all that follows it.
    Convolution,
    /// Batch norm (statistics too where no convolution came before), residual sum, ReLU. Where the
    /// next convolution applies them as it reads, they are part of it.
    BatchNorm,
    /// Max or average pool.
    Pooling,
    /// x / ‖x‖.
    L2Norm,
    /// Comparison of the features with the memory bank: loss and gradient. Of other objectives,
    /// theirs.
    Head,
    /// Gradient of ReLU and batch norm.
    BatchNormGradient,
    /// A residual sum's gradient on its way to the other branch.
    ResidualGradient,
    /// Of a convolution or linear layer, with that of its bias.
    WeightGradient,
    /// Gradient of what a convolution or linear layer read.
    DataGradient,
    /// Of a pool.
    PoolingGradient,
    /// Of the L2 norm.
    L2NormGradient,
    /// v ← normalise((1-m)·v + m·f).
    BankUpdate,
    /// The optimiser's step, all parameters.
    Optimizer,
}

impl What {
    /// All of them, as a step meets them.
    pub const ALL: [What; 15] = [
        What::Packing,
        What::Input,
        What::Convolution,
        What::BatchNorm,
        What::Pooling,
        What::L2Norm,
        What::Head,
        What::BatchNormGradient,
        What::ResidualGradient,
        What::WeightGradient,
        What::DataGradient,
        What::PoolingGradient,
        What::L2NormGradient,
        What::BankUpdate,
        What::Optimizer,
    ];

    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            What::Packing => "packing of weights",
            What::Input => "input",
            What::Convolution => "convolution",
            What::BatchNorm => "batch norm",
            What::Pooling => "pooling",
            What::L2Norm => "L2 norm",
            What::Head => "head",
            What::BatchNormGradient => "batch norm gradient",
            What::ResidualGradient => "residual gradient",
            What::WeightGradient => "weight gradient",
            What::DataGradient => "data gradient",
            What::PoolingGradient => "pooling gradient",
            What::L2NormGradient => "L2 norm gradient",
            What::BankUpdate => "bank update",
            What::Optimizer => "optimiser",
        }
    }
}
