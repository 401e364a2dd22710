//! A network as data: a list of operations that name their inputs.
//!
//! Nothing here computes. An engine walks [`Network::nodes`] in order (every input comes before
//! its user) and compiles what it needs. Channels are checked when a node is added, heights and
//! widths by [`Network::shapes`], which an engine calls for the image size it compiles for.

use crate::Error;

/// Position of a node in [`Network::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// Position of a parameter in [`Network::params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// Position of a running statistic in [`Network::statistics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatId(pub usize);

/// Far beyond any use; keeps the number of weights countable.
const MOST_FEATURES: usize = 1 << 24;

/// How a parameter starts. `fan_in` and `fan_out` are channels times kernel area.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with standard deviation sqrt(2 / fan_out) (He et al. 2015; MMSelfSup's `Kaiming`).
    KaimingNormalFanOut,
    /// Uniform within ±1/sqrt(fan_in), the default of PyTorch's convolutions and linear layers;
    /// the field is that fan-in.
    UniformFanIn(usize),
    /// Every element the same.
    Constant(f32),
}

/// A trainable tensor, in torchvision's layout and with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// For example `backbone.layer1.0.conv1.weight`.
    pub name: String,
    /// `[out, in, kernel, kernel]` of a convolution, `[out, in]` of a linear layer, else `[C]`.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// A parameter that isn't trainable has no gradient and never changes.
    pub trainable: bool,
    /// Factor on the learning rate.
    pub lr_mult: f32,
    /// Factor on the weight decay.
    pub decay_mult: f32,
    /// Whether LARS leaves its learning rate alone ([`crate::method::Lars`]).
    pub lars_exclude: bool,
}

impl Param {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A running mean or variance of a batch norm: state that training moves without a gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistic {
    /// For example `backbone.bn1.running_mean`.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// The starting value: 0 for a mean, 1 for a variance.
    pub initial: f32,
}

/// A 2-D convolution without bias: square kernel, zero padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// `[out_channels, in_channels, kernel, kernel]`.
    pub weight: ParamId,
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
}

/// Batch normalisation over all positions of a channel (Ioffe and Szegedy 2015).
///
/// Training normalises with the batch's biased variance and moves the running statistics by
/// `momentum` towards its mean and *unbiased* variance, as PyTorch does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Scale γ, if affine.
    pub weight: Option<ParamId>,
    /// Shift β, if affine.
    pub bias: Option<ParamId>,
    /// Running mean.
    pub mean: StatId,
    /// Running (unbiased) variance.
    pub var: StatId,
    /// Added to the variance.
    pub eps: f32,
    /// Weight of the new batch in the running statistics.
    pub momentum: f32,
    /// Whether it normalises by the running statistics in training too, and never moves them
    /// (PyTorch's `eval()` of one layer; MMSelfSup's `frozen_stages` and `norm_eval`). γ and β
    /// learn if they are trainable.
    pub frozen: bool,
}

/// A square pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Border that never wins.
    pub padding: usize,
}

/// A fully connected layer, `y = W x + b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: ParamId,
    /// `[out]`.
    pub bias: Option<ParamId>,
    /// Features read.
    pub in_features: usize,
    /// Features written.
    pub out_features: usize,
}

/// What a node computes from its inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The images: bytes, made `(x / 255 - mean) / std` channel by channel.
    Input {
        /// Mean of each channel, of values in 0..1.
        mean: Vec<f32>,
        /// Standard deviation of each channel.
        std: Vec<f32>,
    },
    /// Convolution.
    Conv2d(Conv2d),
    /// Batch normalisation.
    BatchNorm(BatchNorm),
    /// max(x, 0).
    Relu,
    /// Sum of two equal shapes.
    Add,
    /// Largest value of each window.
    MaxPool(Window),
    /// Mean over all positions: H x W x C becomes 1 x 1 x C.
    GlobalAvgPool,
    /// Fully connected layer on a 1 x 1 x C input.
    Linear(Linear),
    /// x / max(‖x‖, 1e-12) over the channels of a 1 x 1 x C input.
    L2Norm,
}

/// One operation of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// For messages and dumps.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it reads; all have smaller ids.
    pub inputs: Vec<NodeId>,
    /// Channels of its output.
    pub channels: usize,
}

/// Shape of one image's activation, stored H x W x C with C contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Shape {
    /// Elements of one image.
    pub fn len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of one image.
    pub fn pixels(&self) -> usize {
        self.h * self.w
    }
}

/// A linear classifier on some node, for cross entropy.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// Name of its loss.
    pub name: String,
    /// The node of its logits.
    pub logits: NodeId,
}

/// A network: operations, parameters and statistics, and which nodes mean what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// Operations in an order in which they can be computed.
    pub nodes: Vec<Node>,
    /// Parameters in torchvision's order.
    pub params: Vec<Param>,
    /// Running statistics.
    pub statistics: Vec<Statistic>,
    /// Nodes of the chosen stages (`out_indices`), as `(index, node)`.
    pub stages: Vec<(usize, NodeId)>,
    /// The L2-normalised feature, if the network has one.
    pub embedding: Option<NodeId>,
    /// Linear classifiers, if any.
    pub classifiers: Vec<Classifier>,
}

impl Network {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The parameter with this id.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    /// Number of elements of all parameters.
    pub fn parameter_count(&self) -> usize {
        self.params.iter().map(Param::len).sum()
    }

    /// For each parameter whether it is a batch norm's scale or shift.
    pub fn norm_params(&self) -> Vec<bool> {
        let mut norm = vec![false; self.params.len()];
        for node in &self.nodes {
            if let Op::BatchNorm(bn) = &node.op {
                (bn.weight.iter().chain(&bn.bias)).for_each(|p| norm[p.0] = true);
            }
        }
        norm
    }

    /// Lets the batch norms among `nodes` normalise by their running statistics in training too.
    pub fn freeze_norms(&mut self, nodes: std::ops::Range<usize>) {
        for node in &mut self.nodes[nodes] {
            if let Op::BatchNorm(bn) = &mut node.op {
                bn.frozen = true;
            }
        }
    }

    /// Channels of the embedding, 0 without one.
    pub fn feat_dim(&self) -> usize {
        self.embedding.map_or(0, |id| self.node(id).channels)
    }

    /// Channels of the input, 0 before there is one.
    pub fn in_channels(&self) -> usize {
        self.nodes.first().map_or(0, |n| n.channels)
    }

    fn push(&mut self, name: &str, op: Op, inputs: &[NodeId], channels: usize) -> NodeId {
        debug_assert!(inputs.iter().all(|i| i.0 < self.nodes.len()));
        self.nodes.push(Node {
            name: name.to_string(),
            op,
            inputs: inputs.to_vec(),
            channels,
        });
        NodeId(self.nodes.len() - 1)
    }

    fn push_param(&mut self, name: String, shape: &[usize], init: Init) -> ParamId {
        self.params.push(Param {
            name,
            shape: shape.to_vec(),
            init,
            trainable: true,
            lr_mult: 1.0,
            decay_mult: 1.0,
            lars_exclude: false,
        });
        ParamId(self.params.len() - 1)
    }

    fn push_stat(&mut self, name: String, channels: usize, initial: f32) -> StatId {
        self.statistics.push(Statistic {
            name,
            channels,
            initial,
        });
        StatId(self.statistics.len() - 1)
    }

    fn invalid(&self, name: &str, what: String) -> Error {
        Error::Network(format!("{name}: {what}"))
    }

    /// Adds the input: images of `mean.len()` channels.
    ///
    /// # Errors
    /// If it isn't the first node, or `mean` and `std` differ in length or hold a std of 0.
    pub fn input(&mut self, mean: &[f32], std: &[f32]) -> Result<NodeId, Error> {
        if !self.nodes.is_empty() {
            return Err(self.invalid("input", "must be the first node".into()));
        }
        if mean.is_empty() || mean.len() != std.len() {
            return Err(self.invalid(
                "input",
                format!("{} means but {} deviations", mean.len(), std.len()),
            ));
        }
        if std.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(self.invalid("input", "std must be above 0".into()));
        }
        let op = Op::Input {
            mean: mean.to_vec(),
            std: std.to_vec(),
        };
        Ok(self.push("input", op, &[], mean.len()))
    }

    /// Adds a convolution without bias, whose weight is `{name}.weight`.
    ///
    /// # Errors
    /// If a size or the stride is 0.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: NodeId,
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        init: Init,
    ) -> Result<NodeId, Error> {
        let in_channels = self.node(x).channels;
        if in_channels * out_channels * kernel * stride == 0 {
            return Err(self.invalid(
                name,
                "channels, kernel and stride must be at least 1".into(),
            ));
        }
        let shape = [out_channels, in_channels, kernel, kernel];
        let weight = self.push_param(format!("{name}.weight"), &shape, init);
        let conv = Conv2d {
            weight,
            in_channels,
            out_channels,
            kernel,
            stride,
            padding,
        };
        Ok(self.push(name, Op::Conv2d(conv), &[x], out_channels))
    }

    /// Adds a batch norm with PyTorch's eps 1e-5 and momentum 0.1, affine (γ 1, β 0) or not.
    pub fn batch_norm(&mut self, name: &str, x: NodeId, affine: bool) -> NodeId {
        let c = self.node(x).channels;
        let (weight, bias) = if affine {
            (
                Some(self.push_param(format!("{name}.weight"), &[c], Init::Constant(1.0))),
                Some(self.push_param(format!("{name}.bias"), &[c], Init::Constant(0.0))),
            )
        } else {
            (None, None)
        };
        let norm = BatchNorm {
            weight,
            bias,
            mean: self.push_stat(format!("{name}.running_mean"), c, 0.0),
            var: self.push_stat(format!("{name}.running_var"), c, 1.0),
            eps: 1e-5,
            momentum: 0.1,
            frozen: false,
        };
        self.push(name, Op::BatchNorm(norm), &[x], c)
    }

    /// Adds max(x, 0).
    pub fn relu(&mut self, name: &str, x: NodeId) -> NodeId {
        let c = self.node(x).channels;
        self.push(name, Op::Relu, &[x], c)
    }

    /// Adds a sum.
    ///
    /// # Errors
    /// If the channels differ.
    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, Error> {
        let (ca, cb) = (self.node(a).channels, self.node(b).channels);
        if ca != cb {
            return Err(self.invalid(name, format!("adds {ca} channels to {cb}")));
        }
        Ok(self.push(name, Op::Add, &[a, b], ca))
    }

    /// Adds a max pool.
    ///
    /// # Errors
    /// If the window or stride is 0, or the padding could cover a whole window.
    pub fn max_pool(&mut self, name: &str, x: NodeId, window: Window) -> Result<NodeId, Error> {
        if window.kernel * window.stride == 0 || window.padding * 2 > window.kernel {
            return Err(self.invalid(name, format!("impossible window {window:?}")));
        }
        let c = self.node(x).channels;
        Ok(self.push(name, Op::MaxPool(window), &[x], c))
    }

    /// Adds the mean over all positions.
    pub fn global_avg_pool(&mut self, name: &str, x: NodeId) -> NodeId {
        let c = self.node(x).channels;
        self.push(name, Op::GlobalAvgPool, &[x], c)
    }

    /// Adds a fully connected layer, whose parameters are `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// If there is no output, or more than 2^24.
    pub fn linear(
        &mut self,
        name: &str,
        x: NodeId,
        out_features: usize,
        bias: bool,
    ) -> Result<NodeId, Error> {
        let in_features = self.node(x).channels;
        if !(1..=MOST_FEATURES).contains(&out_features) {
            let what = format!("has {out_features} outputs; they must be 1 to {MOST_FEATURES}");
            return Err(self.invalid(name, what));
        }
        let init = Init::UniformFanIn(in_features);
        let weight = self.push_param(format!("{name}.weight"), &[out_features, in_features], init);
        let bias = bias.then(|| self.push_param(format!("{name}.bias"), &[out_features], init));
        let linear = Linear {
            weight,
            bias,
            in_features,
            out_features,
        };
        Ok(self.push(name, Op::Linear(linear), &[x], out_features))
    }

    /// Adds an L2 norm over the channels.
    pub fn l2_norm(&mut self, name: &str, x: NodeId) -> NodeId {
        let c = self.node(x).channels;
        self.push(name, Op::L2Norm, &[x], c)
    }

    /// Adds a linear classifier on node `x`, which must be 1 x 1 x C once sized.
    ///
    /// # Errors
    /// If there is no class.
    pub fn classifier(&mut self, name: &str, x: NodeId, classes: usize) -> Result<NodeId, Error> {
        let logits = self.linear(name, x, classes, true)?;
        self.classifiers.push(Classifier {
            name: name.to_string(),
            logits,
        });
        Ok(logits)
    }

    /// Shapes of every node for images of `h` x `w`.
    ///
    /// # Errors
    /// If a map becomes empty, two added maps differ, or a linear layer gets more than one pixel.
    pub fn shapes(&self, h: usize, w: usize) -> Result<Vec<Shape>, Error> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let c = node.channels;
            let input = node.inputs.first().map(|i| shapes[i.0]);
            let x = input.unwrap_or(Shape { h, w, c });
            let slide = |kernel: usize, stride: usize, padding: usize| {
                let one = |n: usize| {
                    (n + 2 * padding)
                        .checked_sub(kernel)
                        .map_or(0, |r| r / stride + 1)
                };
                Shape {
                    h: one(x.h),
                    w: one(x.w),
                    c,
                }
            };
            let shape = match &node.op {
                Op::Conv2d(k) => slide(k.kernel, k.stride, k.padding),
                Op::MaxPool(k) => slide(k.kernel, k.stride, k.padding),
                Op::GlobalAvgPool => Shape { h: 1, w: 1, c },
                _ => Shape { c, ..x },
            };
            if shape.is_empty() {
                return Err(self.invalid(&node.name, format!("images of {h}x{w} are too small")));
            }
            match node.op {
                Op::Add if shapes[node.inputs[1].0] != shape => {
                    return Err(self.invalid(&node.name, "adds maps of different sizes".into()));
                }
                Op::Linear(_) | Op::L2Norm if shape.pixels() != 1 => {
                    return Err(self.invalid(&node.name, "needs a pooled input".into()));
                }
                _ => {}
            }
            shapes.push(shape);
        }
        Ok(shapes)
    }

    /// For each node, whether a trainable parameter lies in it or below it: gradients need go no
    /// further than that.
    pub fn needs_gradient(&self) -> Vec<bool> {
        let mut needs = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            let own = match &node.op {
                Op::Conv2d(c) => self.param(c.weight).trainable,
                Op::BatchNorm(b) => [b.weight, b.bias]
                    .iter()
                    .flatten()
                    .any(|p| self.param(*p).trainable),
                Op::Linear(l) => [Some(l.weight), l.bias]
                    .iter()
                    .flatten()
                    .any(|p| self.param(*p).trainable),
                _ => false,
            };
            needs[i] = own || node.inputs.iter().any(|x| needs[x.0]);
        }
        needs
    }
}
