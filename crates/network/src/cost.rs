//! What a network costs to compute.

use crate::Error;
use crate::graph::{Network, Op};

impl Network {
    /// Multiplications (each with an addition) of the convolutions and linear layers for one image
    /// of `h` x `w` pixels, forward; twice as many are floating-point operations, and a training
    /// step takes about three times those. What else there is costs little beside them.
    ///
    /// # Errors
    /// As [`Network::shapes`].
    pub fn multiplications(&self, h: usize, w: usize) -> Result<u64, Error> {
        let shapes = self.shapes(h, w)?;
        let of = |(node, shape): (&crate::graph::Node, &crate::graph::Shape)| match &node.op {
            Op::Conv2d(conv) => {
                let taps = conv.kernel * conv.kernel * conv.in_channels;
                shape.len() as u64 * taps as u64
            }
            Op::Linear(linear) => linear.in_features as u64 * linear.out_features as u64,
            _ => 0,
        };
        Ok(self.nodes.iter().zip(&shapes).map(of).sum())
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::Network;
    use crate::neck::{self, Layers, Neck};
    use crate::resnet::{ResNet, Stem};

    fn multiplications(depth: usize, stem: Stem, size: usize) -> u64 {
        let mut network = Network::new();
        let x = network.input(&[0.0; 3], &[1.0; 3]).unwrap();
        let resnet = ResNet::new(depth, stem, 64);
        let map = resnet.build(&mut network, x, "").unwrap();
        let linear = Neck {
            layers: Layers::Linear,
            out_channels: 1000,
            with_avg_pool: true,
            norm: false,
        };
        neck::embed(&mut network, map, Some(&linear)).unwrap();
        network.multiplications(size, size).unwrap()
    }

    /// Hooks on the layers of torchvision 0.29.2 count as much for resnet18 and resnet50 at
    /// 224x224, convolutions and the classifier of 1,000 classes.
    #[test]
    fn torchvisions_networks_cost_what_is_known() {
        assert_eq!(multiplications(18, Stem::ImageNet, 224), 1_814_073_344);
        assert_eq!(multiplications(50, Stem::ImageNet, 224), 4_089_184_256);
        let cifar = multiplications(18, Stem::Cifar, 32);
        assert!((555_000_000..557_000_000).contains(&cifar), "{cifar}");
    }
}
