//! ResNet-18/34/50/101/152 (He et al. 2016), with torchvision's parameter names.

use crate::Error;
use crate::graph::{Init, Network, NodeId, Window};

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

/// A ResNet backbone, with MMSelfSup's names of the settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNet {
    /// 18, 34, 50, 101 or 152.
    pub depth: usize,
    /// The first layers.
    pub stem: Stem,
    /// Channels of the stem and of the first stage (64 in the paper).
    pub base_channels: usize,
    /// Stages that [`Network::stages`] names: 0 is the stem after its ReLU and before its pool,
    /// 1 to 4 are the four stages.
    pub out_indices: Vec<usize>,
    /// How convolutions start.
    pub init: InitCfg,
}

impl ResNet {
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
    /// For an unknown depth, no channels, or an out index above 4.
    pub fn build(&self, net: &mut Network, x: NodeId, prefix: &str) -> Result<NodeId, Error> {
        let (bottleneck, blocks) = self.blocks()?;
        if !(1..=MOST_CHANNELS).contains(&self.base_channels) {
            return Err(Error::Network(format!(
                "base_channels is {}; it must be 1 to {MOST_CHANNELS}",
                self.base_channels
            )));
        }
        if let Some(bad) = self.out_indices.iter().find(|&&i| i > 4) {
            return Err(Error::Network(format!(
                "out_indices holds {bad}; a ResNet has stages 0 (the stem) to 4"
            )));
        }
        let mut stages = Vec::new();
        let w = self.base_channels;
        let conv = format!("{prefix}conv1");
        let x = match self.stem {
            Stem::Cifar => self.conv(net, &conv, x, w, 3, 1)?,
            Stem::ImageNet => self.conv(net, &conv, x, w, 7, 2)?,
        };
        let x = net.batch_norm(&format!("{prefix}bn1"), x, true);
        let mut x = net.relu(&format!("{prefix}relu"), x);
        stages.push(x);
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
        let y = net.batch_norm(&format!("{name}.bn2"), y, true);
        let short = self.shortcut(net, name, x, planes, stride)?;
        let y = net.add(&format!("{name}.add"), y, short)?;
        Ok(net.relu(&format!("{name}.relu"), y))
    }

    /// The stride sits on the 3x3 convolution (torchvision's and MMSelfSup's `pytorch` style).
    fn bottleneck(
        &self,
        net: &mut Network,
        name: &str,
        x: NodeId,
        planes: usize,
        stride: usize,
    ) -> Result<NodeId, Error> {
        let out = planes * 4;
        let y = self.conv(net, &format!("{name}.conv1"), x, planes, 1, 1)?;
        let y = net.batch_norm(&format!("{name}.bn1"), y, true);
        let y = net.relu(&format!("{name}.relu1"), y);
        let y = self.conv(net, &format!("{name}.conv2"), y, planes, 3, stride)?;
        let y = net.batch_norm(&format!("{name}.bn2"), y, true);
        let y = net.relu(&format!("{name}.relu2"), y);
        let y = self.conv(net, &format!("{name}.conv3"), y, out, 1, 1)?;
        let y = net.batch_norm(&format!("{name}.bn3"), y, true);
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
            depth,
            stem,
            base_channels: 64,
            out_indices: vec![0, 4],
            init: InitCfg::Kaiming,
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
        let resnet = ResNet {
            depth: 19,
            stem: Stem::Cifar,
            base_channels: 8,
            out_indices: vec![4],
            init: InitCfg::PyTorch,
        };
        let message = resnet.build(&mut net, x, "").unwrap_err().to_string();
        assert!(
            message.contains("19") && message.contains("152"),
            "{message}"
        );
    }
}
