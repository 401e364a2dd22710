//! Initial values of parameters and of the memory bank.

use crate::graph::{Init, Network};
use crate::philox::{Purpose, Stream};

/// Initial values of parameter `index` of `network`, in its own layout.
///
/// They depend on the seed and the parameter's position alone.
pub fn initial_param(network: &Network, index: usize, seed: u64) -> Vec<f32> {
    let param = &network.params[index];
    let mut stream = Stream::new(seed, Purpose::Weights, 0, index as u64, 0);
    let n = param.len();
    match param.init {
        Init::Constant(value) => vec![value; n],
        Init::KaimingNormalFanOut => {
            let fan_out = param.shape[0] * param.shape[2..].iter().product::<usize>();
            let std = (2.0 / fan_out as f64).sqrt();
            (0..n).map(|_| (std * stream.normal()) as f32).collect()
        }
        Init::UniformFanIn(fan_in) => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            (0..n)
                .map(|_| stream.uniform(-bound, bound) as f32)
                .collect()
        }
    }
}

/// A row of the bank as MMSelfSup starts it: a Gaussian vector, normalised.
pub fn random_row(row: u64, dim: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Bank, 0, row, 0);
    let v: Vec<f64> = (0..dim).map(|_| stream.normal()).collect();
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    v.iter().map(|x| (x / norm) as f32).collect()
}

/// A row of the bank as lemniscate starts it: uniform within ±1/sqrt(D/3), not normalised.
pub fn uniform_row(row: u64, dim: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Bank, 0, row, 0);
    let bound = 1.0 / (dim as f64 / 3.0).sqrt();
    (0..dim)
        .map(|_| stream.uniform(-bound, bound) as f32)
        .collect()
}
