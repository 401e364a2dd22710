//! ResNet-18/34/50/101/152 (He et al. 2016), with torchvision's parameter names.

use crate::Error;
use crate::graph::{Init, Network, NodeId, Op, Window};

/// Far beyond any use; keeps the number of weights countable.
const MOST_CHANNELS: usize = 65_536;

/// The first layers of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 3x3 convolution of stride 1, no pool: for images of about 32x32 (MMSelfSup's and
    /// mmcls's `ResNet_CIFAR`).
    Cifar,
    /// 7x7 convolution of stride 2 and a 3x3 max pool of stride 2.
    ImageNet,
}

/// How convolutions start; batch norms always start at scale 1 and shift 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitCfg {
    /// Normal, fan-out (MMSelfSup's default for its ResNet).
    Kaiming,
    /// Uniform within ±1/sqrt(fan_in): the default of PyTorch's layers.
    PyTorch,
}

/// Which convolution of a bottleneck has the stride.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// The 3x3 one (torchvision).
    #[default]
    PyTorch,
    /// The first 1x1 one (He et al. 2016, and Caffe's weights).
    Caffe,
}

/// A ResNet backbone, with MMSelfSup's names of the settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNet {
    /// 18, 34, 50, 101 or 152.
    pub depth: usize,
    /// The first layers.
    pub stem: Stem,
    /// Channels of the stem; `None`: as many as `base_channels`. If the first stage's output has
    /// another number, its first block gets a 1x1 convolution in the shortcut.
    pub stem_channels: Option<usize>,
    /// Channels of the first stage's 3x3 convolutions (64 in the paper).
    pub base_channels: usize,
    /// Stages that [`Network::stages`] names: 0 is the stem after its ReLU and before its pool,
    /// 1 to 4 are the four stages.
    pub out_indices: Vec<usize>,
    /// How convolutions start.
    pub init: InitCfg,
    /// Where a bottleneck's stride sits; blocks of two convolutions have it on the first.
    pub style: Style,
    /// Parameters up to this stage don't learn, and its batch norms keep their running statistics
    /// and use them in training: 0 the stem alone, 1 to 4 the stages up to it; `None`: all learn.
    pub frozen_stages: Option<usize>,
    /// Whether every batch norm of the backbone keeps and uses its running statistics in training;
    /// scales and shifts still learn.
    pub norm_eval: bool,
    /// Whether the last batch norm of each block starts at scale 0, so that blocks start as the
    /// identity (Goyal et al. 2017, section 5.1).
    pub zero_init_residual: bool,
}

impl ResNet {
    /// A ResNet as torchvision builds it, but for the stem and the width.
    pub fn new(depth: usize, stem: Stem, base_channels: usize) -> Self {
        ResNet {
            depth,
            stem,
            stem_channels: None,
            base_channels,
            out_indices: vec![4],
            init: InitCfg::Kaiming,
            style: Style::PyTorch,
            frozen_stages: None,
            norm_eval: false,
            zero_init_residual: false,
        }
    }

    /// Depths that exist.
    pub const DEPTHS: [usize; 5] = [18, 34, 50, 101, 152];

    fn blocks(&self) -> Result<(bool, [usize; 4]), Error> {
        Ok(match self.depth {
            18 => (false, [2, 2, 2, 2]),
            34 => (false, [3, 4, 6, 3]),
            50 => (true, [3, 4, 6, 3]),
            101 => (true, [3, 4, 23, 3]),
            152 => (true, [3, 8, 36, 3]),
            other => {
                return Err(Error::Network(format!(
                    "a ResNet of depth {other} doesn't exist; take one of {:?}",
                    Self::DEPTHS
                )));
            }
        })
    }

    /// Appends the backbone after node `x` and returns the output of its last stage.
    ///
    /// Parameter names start with `prefix` (for example `backbone.`).
    ///
    /// # Errors
    /// For an unknown depth, no channels, or a stage above 4.
    pub fn build(&self, net: &mut Network, x: NodeId, prefix: &str) -> Result<NodeId, Error> {
        let (bottleneck, blocks) = self.blocks()?;
        let stem = self.stem_channels.unwrap_or(self.base_channels);
        for (key, channels) in [
            ("base_channels", self.base_channels),
            ("stem_channels", stem),
        ] {
            if !(1..=MOST_CHANNELS).contains(&channels) {
                return Err(Error::Network(format!(
                    "{key} is {channels}; it must be 1 to {MOST_CHANNELS}"
                )));
            }
        }
        if let Some(bad) = self.frozen_stages.filter(|&i| i > 4) {
            return Err(Error::Network(format!(
                "frozen_stages is {bad}; a ResNet has stages 0 (the stem) to 4"
            )));
        }
        if let Some(bad) = self.out_indices.iter().find(|&&i| i > 4) {
            return Err(Error::Network(format!(
                "out_indices holds {bad}; a ResNet has stages 0 (the stem) to 4"
            )));
        }
        let mut stages = Vec::new();
        let (first_node, first_param) = (net.nodes.len(), net.params.len());
        // Behind each stage: how many nodes and parameters there are.
        let mut ends = Vec::new();
        let w = self.base_channels;
        let conv = format!("{prefix}conv1");
        let x = match self.stem {
            Stem::Cifar => self.conv(net, &conv, x, stem, 3, 1)?,
            Stem::ImageNet => self.conv(net, &conv, x, stem, 7, 2)?,
        };
        let x = net.batch_norm(&format!("{prefix}bn1"), x, true);
        let mut x = net.relu(&format!("{prefix}relu"), x);
        stages.push(x);
        ends.push((net.nodes.len(), net.params.len()));
        if self.stem == Stem::ImageNet {
            let window = Window {
                kernel: 3,
                stride: 2,
                padding: 1,
            };
            x = net.max_pool(&format!("{prefix}maxpool"), x, window)?;
        }
        for (stage, &count) in blocks.iter().enumerate() {
            for block in 0..count {
                let name = format!("{prefix}layer{}.{block}", stage + 1);
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = if bottleneck {
                    self.bottleneck(net, &name, x, w << stage, stride)?
                } else {
                    self.basic(net, &name, x, w << stage, stride)?
                };
            }
            stages.push(x);
            ends.push((net.nodes.len(), net.params.len()));
        }
        if let Some(stage) = self.frozen_stages {
            let (nodes, params) = ends[stage];
            net.freeze_norms(first_node..nodes);
            (net.params[first_param..params].iter_mut()).for_each(|p| p.trainable = false);
        }
        if self.norm_eval {
            net.freeze_norms(first_node..net.nodes.len());
        }
        net.stages = self.out_indices.iter().map(|&i| (i, stages[i])).collect();
        Ok(x)
    }

    fn conv(
        &self,
        net: &mut Network,
        name: &str,
        x: NodeId,
        out: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<NodeId, Error> {
        let init = match self.init {
            InitCfg::Kaiming => Init::KaimingNormalFanOut,
            InitCfg::PyTorch => Init::UniformFanIn(net.node(x).channels * kernel * kernel),
        };
        net.conv2d(name, x, out, kernel, stride, kernel / 2, init)
    }

    /// The batch norm at the end of a block.
    fn last_norm(&self, net: &mut Network, name: &str, x: NodeId) -> NodeId {
        let y = net.batch_norm(name, x, true);
        if self.zero_init_residual
            && let Op::BatchNorm(bn) = &net.node(y).op
            && let Some(weight) = bn.weight
        {
            net.params[weight.0].init = Init::Constant(0.0);
        }
        y
    }

    /// The shortcut: the identity, or a strided 1x1 convolution where the shape changes.
    fn shortcut(
        &self,
        net: &mut Network,
        name: &str,
        x: NodeId,
        out: usize,
        stride: usize,
    ) -> Result<NodeId, Error> {
        if stride == 1 && net.node(x).channels == out {
            return Ok(x);
        }
        let short = self.conv(net, &format!("{name}.downsample.0"), x, out, 1, stride)?;
        Ok(net.batch_norm(&format!("{name}.downsample.1"), short, true))
    }

    fn basic(
        &self,
        net: &mut Network,
        name: &str,
        x: NodeId,
        planes: usize,
        stride: usize,
    ) -> Result<NodeId, Error> {
        let y = self.conv(net, &format!("{name}.conv1"), x, planes, 3, stride)?;
        let y = net.batch_norm(&format!("{name}.bn1"), y, true);
        let y = net.relu(&format!("{name}.relu1"), y);
        let y = self.conv(net, &format!("{name}.conv2"), y, planes, 3, 1)?;
        let y = self.last_norm(net, &format!("{name}.bn2"), y);
        let short = self.shortcut(net, name, x, planes, stride)?;
        let y = net.add(&format!("{name}.add"), y, short)?;
        Ok(net.relu(&format!("{name}.relu"), y))
    }

    fn bottleneck(
        &self,
        net: &mut Network,
        name: &str,
        x: NodeId,
        planes: usize,
        stride: usize,
    ) -> Result<NodeId, Error> {
        let out = planes * 4;
        let (first, second) = match self.style {
            Style::PyTorch => (1, stride),
            Style::Caffe => (stride, 1),
        };
        let y = self.conv(net, &format!("{name}.conv1"), x, planes, 1, first)?;
        let y = net.batch_norm(&format!("{name}.bn1"), y, true);
        let y = net.relu(&format!("{name}.relu1"), y);
        let y = self.conv(net, &format!("{name}.conv2"), y, planes, 3, second)?;
        let y = net.batch_norm(&format!("{name}.bn2"), y, true);
        let y = net.relu(&format!("{name}.relu2"), y);
        let y = self.conv(net, &format!("{name}.conv3"), y, out, 1, 1)?;
        let y = self.last_norm(net, &format!("{name}.bn3"), y);
        let short = self.shortcut(net, name, x, out, stride)?;
        let y = net.add(&format!("{name}.add"), y, short)?;
        Ok(net.relu(&format!("{name}.relu"), y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(depth: usize, stem: Stem) -> Network {
        let mut net = Network::new();
        let x = net.input(&[0.5; 3], &[0.25; 3]).unwrap();
        let resnet = ResNet {
            out_indices: vec![0, 4],
            ..ResNet::new(depth, stem, 64)
        };
        resnet.build(&mut net, x, "").unwrap();
        net
    }

    /// torchvision's counts less its classifier (`fc`): 11,689,512 - 513,000 and so on.
    #[test]
    fn parameter_counts_are_torchvisions() {
        for (depth, count) in [
            (18, 11_176_512),
            (34, 21_284_672),
            (50, 23_508_032),
            (101, 42_500_160),
            (152, 58_143_808),
        ] {
            assert_eq!(build(depth, Stem::ImageNet).parameter_count(), count);
        }
    }

    #[test]
    fn shapes_of_both_stems() {
        let net = build(18, Stem::ImageNet);
        let shapes = net.shapes(224, 224).unwrap();
        assert_eq!(
            shapes[net.stages[0].1.0],
            Shape {
                h: 112,
                w: 112,
                c: 64
            }
        );
        assert_eq!(shapes[net.stages[1].1.0], Shape { h: 7, w: 7, c: 512 });
        let net = build(50, Stem::Cifar);
        let shapes = net.shapes(33, 32).unwrap();
        assert_eq!(
            shapes[net.stages[1].1.0],
            Shape {
                h: 5,
                w: 4,
                c: 2048
            }
        );
        assert_eq!(net.params[0].name, "conv1.weight");
        assert!(net.params.iter().any(|p| p.name == "layer3.5.conv2.weight"));
        assert!(
            net.params
                .iter()
                .any(|p| p.name == "layer2.0.downsample.1.bias")
        );
    }

    use crate::graph::Shape;

    #[test]
    fn an_unknown_depth_names_the_known_ones() {
        let mut net = Network::new();
        let x = net.input(&[0.0], &[1.0]).unwrap();
        let resnet = ResNet::new(19, Stem::Cifar, 8);
        let message = resnet.build(&mut net, x, "").unwrap_err().to_string();
        assert!(
            message.contains("19") && message.contains("152"),
            "{message}"
        );
    }

    fn with(change: impl Fn(&mut ResNet), depth: usize) -> Network {
        let mut net = Network::new();
        let x = net.input(&[0.5; 3], &[0.25; 3]).unwrap();
        let mut resnet = ResNet::new(depth, Stem::ImageNet, 8);
        change(&mut resnet);
        resnet.build(&mut net, x, "").unwrap();
        net
    }

    fn frozen_norms(net: &Network) -> usize {
        let frozen = |n: &&crate::graph::Node| matches!(&n.op, Op::BatchNorm(b) if b.frozen);
        net.nodes.iter().filter(frozen).count()
    }

    #[test]
    fn frozen_stages_stop_where_they_say() {
        let net = with(|r| r.frozen_stages = Some(0), 18);
        let still: Vec<&str> = (net.params.iter())
            .filter(|p| !p.trainable)
            .map(|p| &p.name[..])
            .collect();
        assert_eq!(still, ["conv1.weight", "bn1.weight", "bn1.bias"]);
        assert_eq!(frozen_norms(&net), 1);
        let net = with(|r| r.frozen_stages = Some(2), 18);
        for p in &net.params {
            let learns = p.name.starts_with("layer3") || p.name.starts_with("layer4");
            assert_eq!(p.trainable, learns, "{}", p.name);
        }
        assert_eq!(frozen_norms(&net), 1 + 4 + 5);
        let net = with(|r| r.norm_eval = true, 18);
        assert_eq!(frozen_norms(&net), 20);
        assert!(net.params.iter().all(|p| p.trainable));
    }

    #[test]
    fn caffe_style_strides_the_first_convolution() {
        let stride = |net: &Network, name: &str| {
            let node = net.nodes.iter().find(|n| n.name == name).unwrap();
            let Op::Conv2d(conv) = &node.op else {
                panic!("{name} is no convolution");
            };
            conv.stride
        };
        for (style, first, second) in [(Style::PyTorch, 1, 2), (Style::Caffe, 2, 1)] {
            let net = with(|r| r.style = style, 50);
            assert_eq!(stride(&net, "layer2.0.conv1"), first);
            assert_eq!(stride(&net, "layer2.0.conv2"), second);
            assert_eq!(stride(&net, "layer2.0.downsample.0"), 2);
            assert_eq!(stride(&net, "layer1.0.conv1"), 1);
        }
    }

    #[test]
    fn a_stem_of_another_width_gets_a_shortcut_convolution() {
        let net = with(|r| r.stem_channels = Some(12), 18);
        assert_eq!(net.params[0].shape, [12, 3, 7, 7]);
        let short = (net.params.iter()).find(|p| p.name == "layer1.0.downsample.0.weight");
        assert_eq!(short.unwrap().shape, [8, 12, 1, 1]);
    }

    #[test]
    fn zero_init_residual_is_the_last_norms_scale() {
        let net = with(|r| r.zero_init_residual = true, 50);
        for p in &net.params {
            let zero = p.init == Init::Constant(0.0);
            let expected = p.name.ends_with(".bias") || p.name.ends_with("bn3.weight");
            assert_eq!(zero, expected, "{}", p.name);
        }
    }
}
