//! Parameters, gradients, momentum and running statistics, in the engine's own layout:
//! convolutions and linear layers as [kernel position][in][out] instead of torchvision's
//! [out][in][kernel position].

use npid_network::graph::Network;
use npid_network::init::initial_param;

use super::sgd::{Update, step};
use npid_network::method::Sgd;

/// All of them.
pub struct Parameters {
    /// For each parameter its values.
    pub values: Vec<Vec<f32>>,
    /// For each parameter its accumulated gradient; empty if it isn't trainable.
    pub gradients: Vec<Vec<f32>>,
    /// For each parameter its momentum; empty if there is none.
    pub momenta: Vec<Vec<f32>>,
    /// Running statistics.
    pub statistics: Vec<Vec<f32>>,
    layouts: Vec<MatrixLayout>,
}

/// `[out][in][positions]`, or a plain vector.
#[derive(Clone, Copy, Debug)]
struct MatrixLayout {
    out: usize,
    input: usize,
    positions: usize,
}

impl MatrixLayout {
    fn of(shape: &[usize]) -> Self {
        match *shape {
            [out, input, ref rest @ ..] => MatrixLayout {
                out,
                input,
                positions: rest.iter().product(),
            },
            _ => MatrixLayout {
                out: shape.iter().product(),
                input: 1,
                positions: 1,
            },
        }
    }

    /// From torchvision's layout to the engine's.
    fn inward(self, from: &[f32], to: &mut [f32]) {
        self.each(|theirs, ours| to[ours] = from[theirs]);
    }

    /// From the engine's layout to torchvision's.
    fn outward(self, from: &[f32], to: &mut [f32]) {
        self.each(|theirs, ours| to[theirs] = from[ours]);
    }

    fn each(self, mut both: impl FnMut(usize, usize)) {
        for o in 0..self.out {
            for i in 0..self.input {
                for p in 0..self.positions {
                    let theirs = (o * self.input + i) * self.positions + p;
                    both(theirs, (p * self.input + i) * self.out + o);
                }
            }
        }
    }
}

impl Parameters {
    /// Initial values.
    pub fn new(network: &Network, sgd: Sgd, seed: u64) -> Self {
        let layouts: Vec<_> = network
            .params
            .iter()
            .map(|p| MatrixLayout::of(&p.shape))
            .collect();
        let values = (0..network.params.len())
            .map(|i| {
                let theirs = initial_param(network, i, seed);
                let mut ours = vec![0.0; theirs.len()];
                layouts[i].inward(&theirs, &mut ours);
                ours
            })
            .collect();
        let zeros = |wanted: bool| -> Vec<Vec<f32>> {
            (network.params.iter())
                .map(|p| vec![0.0; if wanted && p.trainable { p.len() } else { 0 }])
                .collect()
        };
        Parameters {
            values,
            gradients: zeros(true),
            momenta: zeros(sgd.momentum != 0.0),
            statistics: (network.statistics.iter())
                .map(|s| vec![s.initial; s.channels])
                .collect(),
            layouts,
        }
    }

    /// A parameter-shaped tensor in torchvision's layout.
    pub fn outward(&self, index: usize, ours: &[f32]) -> Vec<f32> {
        let mut theirs = vec![0.0; ours.len()];
        self.layouts[index].outward(ours, &mut theirs);
        theirs
    }

    /// A parameter-shaped tensor from torchvision's layout.
    pub fn inward(&self, index: usize, theirs: &[f32]) -> Vec<f32> {
        let mut ours = vec![0.0; theirs.len()];
        self.layouts[index].inward(theirs, &mut ours);
        ours
    }

    /// One optimiser step over the accumulated gradients times `scale`; they are cleared.
    pub fn apply(&mut self, network: &Network, sgd: Sgd, lr: f32, scale: f32) {
        for (i, param) in network.params.iter().enumerate() {
            if param.trainable {
                step(
                    sgd,
                    Update {
                        value: &mut self.values[i],
                        gradient: &mut self.gradients[i],
                        momentum: &mut self.momenta[i],
                        lr: lr * param.lr_mult,
                        scale,
                        decay: sgd.weight_decay * param.decay_mult,
                        lars_exclude: param.lars_exclude,
                    },
                );
            }
        }
    }

    /// Bytes of everything here.
    pub fn bytes(&self) -> u64 {
        [
            &self.values,
            &self.gradients,
            &self.momenta,
            &self.statistics,
        ]
        .iter()
        .flat_map(|v| v.iter())
        .map(|v| v.len() as u64 * 4)
        .sum()
    }
}
