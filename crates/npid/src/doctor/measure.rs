//! Does the cpu engine do what the reference engine does, and how fast?

use std::hint::black_box;
use std::time::{Duration, Instant};

use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::reference::Reference;
use npid_engine::{Description, Draws, Dtype, Engine, Images, Norm, Objective, Output, Sizes};
use npid_learn::Error;
use npid_network::graph::{Init, Network};
use npid_network::method::{Head, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::neck::{self, Neck};
use npid_network::philox::{Purpose, Stream};
use npid_network::resnet::{ResNet, Stem};
use serde::Serialize;

/// Most that the losses may differ, relative to the loss.
const LOSS: f64 = 1e-4;
/// Most that a number of the state may differ, relative to the largest of its tensor. Both engines
/// sum in f32, in different orders; their tests hold gradients to the same.
const STATE: f64 = 2e-3;

/// How long convolutions are measured.
const MEASURED: Duration = Duration::from_millis(500);

/// How often memory is read; the first time it may still be on its way.
pub const READS: usize = 4;

/// Most bytes that are read: more than any cache holds.
const READ_BYTES: u64 = 256_000_000;

/// How far two engines are apart after a training step.
#[derive(Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Whether both differences are as small as rounding makes them.
    pub agrees: bool,
    /// Of the losses, relative to the reference's.
    pub loss_difference: f64,
    /// The largest of any state's (weights, statistics, momentum, bank), relative to the largest
    /// number of the same tensor.
    pub state_difference: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// How fast the machine is.
#[derive(Debug, Serialize)]
pub struct Speed {
    /// Threads that were used.
    pub threads: usize,
    /// 10^9 floating-point operations a second in 3x3 convolutions of 64 channels.
    pub gflop_per_s: f64,
    /// Seconds for which that was measured.
    pub seconds: f64,
    /// 10^9 bytes of memory read a second, by all threads together.
    pub read_gb_per_s: f64,
    /// Bytes that were read at a time.
    pub read_bytes: u64,
}

/// Takes a training step of a tiny network on both engines.
///
/// # Errors
/// If the network can't be compiled.
pub fn self_check(isa: Isa, threads: usize) -> Result<Agreement, Error> {
    let began = Instant::now();
    let (description, sizes) = tiny(0)?;
    let mut reference = Reference::<f32>::compile(&description, sizes)?;
    let mut cpu = Cpu::compile(
        &description,
        sizes,
        Options {
            threads,
            isa,
            dtype: Dtype::F32,
        },
    )?;
    let mut agreement = compare(&mut reference, &mut cpu)?;
    agreement.seconds = began.elapsed().as_secs_f64();
    Ok(agreement)
}

/// A ResNet-18 of four channels with exact softmax over 16 rows.
fn tiny(seed: u64) -> Result<(Description, Sizes), Error> {
    let mut network = Network::new();
    let x = network.input(&[0.5; 3], &[0.25; 3])?;
    let map = ResNet::new(18, Stem::Cifar, 4).build(&mut network, x, "backbone.")?;
    let dim = 16;
    neck::embed(&mut network, map, Some(&Neck::linear(dim, false)))?;
    let method = Npid {
        head: Head::Softmax { temperature: 0.1 },
        memory_bank: MemoryBank {
            length: 16,
            feat_dim: dim,
            momentum: 0.5,
            dtype: RowType::F32,
            storage: RowStorage::Memory,
        },
        neg_num: 1,
        ensure_neg: false,
    };
    let description = Description {
        network,
        method: Some(method),
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
            lars: None,
        },
        seed,
    };
    let sizes = Sizes {
        batch: 8,
        height: 16,
        width: 16,
    };
    Ok((description, sizes))
}

/// Takes the same step on both engines, which were made of the same description.
fn compare(reference: &mut dyn Engine, other: &mut dyn Engine) -> Result<Agreement, Error> {
    let sizes = reference.sizes();
    let mut stream = Stream::new(0, Purpose::Bench, 0, 0, 0);
    let pixels: Vec<u8> = (0..sizes.batch * sizes.height * sizes.width * 3)
        .map(|_| stream.next_u64() as u8)
        .collect();
    let rows: Vec<u64> = (0..sizes.batch as u64).collect();
    let occurrences = vec![0; sizes.batch];
    let loss = |engine: &mut dyn Engine| -> Result<f64, Error> {
        let images = Images {
            pixels: &pixels,
            count: sizes.batch,
        };
        let objective = Objective::Npid {
            rows: &rows,
            draws: Draws::Sampled {
                epoch: 0,
                occurrences: &occurrences,
            },
        };
        let losses = engine.step(images, objective, 0.03)?;
        Ok(losses.iter().map(|loss| f64::from(loss.value)).sum())
    };
    let (expected, got) = (loss(reference)?, loss(other)?);
    let loss_difference = (got - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
    let mut state_difference = 0.0f64;
    for entry in reference.state() {
        let (expected, got) = (reference.read(&entry.name)?, other.read(&entry.name)?);
        let largest = expected
            .iter()
            .fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (a, b) in expected.iter().zip(&got) {
            let difference = f64::from((a - b).abs()) / f64::from(largest.max(f32::MIN_POSITIVE));
            // A number that is none must not be lost in a maximum.
            if difference.is_nan() || difference > state_difference {
                state_difference = difference;
            }
            if difference.is_nan() {
                break;
            }
        }
        if state_difference.is_nan() {
            break;
        }
    }
    Ok(Agreement {
        agrees: loss_difference <= LOSS && state_difference <= STATE,
        loss_difference,
        state_difference,
        seconds: 0.0,
    })
}

/// Measures convolutions and memory. `available` is the memory that can be had.
///
/// # Errors
/// If the network can't be compiled.
pub fn speed(isa: Isa, threads: usize, available: Option<u64>) -> Result<Speed, Error> {
    let (gflop_per_s, seconds) = convolutions(isa, threads)?;
    let read_bytes = READ_BYTES
        .min(available.unwrap_or(READ_BYTES) / 8)
        .max(8_000_000);
    Ok(Speed {
        threads,
        gflop_per_s,
        seconds,
        read_gb_per_s: reading(threads, read_bytes),
        read_bytes,
    })
}

/// 10^9 operations a second in the fastest of some passes through three convolutions, and the
/// seconds that all passes took.
fn convolutions(isa: Isa, threads: usize) -> Result<(f64, f64), Error> {
    const SIDE: usize = 32;
    const CHANNELS: usize = 64;
    const BATCH: usize = 16;
    let mut network = Network::new();
    let mut x = network.input(&[0.5; 3], &[0.25; 3])?;
    let mut operations = 0;
    let mut channels = 3;
    for layer in ["first", "second", "third", "fourth"] {
        x = network.conv2d(layer, x, CHANNELS, 3, 1, 1, Init::KaimingNormalFanOut)?;
        // A multiplication and an addition for each weight, at each pixel.
        operations += 2 * 9 * channels * CHANNELS * SIDE * SIDE * BATCH;
        channels = CHANNELS;
    }
    network.stages.push((1, x));
    let description = Description {
        network,
        method: None,
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            lars: None,
        },
        seed: 0,
    };
    let sizes = Sizes {
        batch: BATCH,
        height: SIDE,
        width: SIDE,
    };
    let mut engine = Cpu::compile(
        &description,
        sizes,
        Options {
            threads,
            isa,
            dtype: Dtype::F32,
        },
    )?;
    let pixels: Vec<u8> = (0..BATCH * SIDE * SIDE * 3)
        .map(|i| (i * 31) as u8)
        .collect();
    let images = Images {
        pixels: &pixels,
        count: BATCH,
    };
    let mut into = [Vec::new()];
    let mut best = f64::INFINITY;
    // The first pass packs the weights.
    engine.features(images, Norm::Eval, &[Output::Stage(1)], &mut into)?;
    let began = Instant::now();
    while began.elapsed() < MEASURED {
        let pass = Instant::now();
        engine.features(images, Norm::Eval, &[Output::Stage(1)], &mut into)?;
        best = best.min(pass.elapsed().as_secs_f64());
    }
    black_box(&into);
    Ok((
        operations as f64 / best / 1e9,
        began.elapsed().as_secs_f64(),
    ))
}

/// 10^9 bytes a second, by `threads` threads that read a share of `bytes` each.
fn reading(threads: usize, bytes: u64) -> f64 {
    let numbers: Vec<u64> = (0..bytes / 8).collect();
    let share = numbers.len().div_ceil(threads.max(1));
    let read = || {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for part in numbers.chunks(share) {
                scope.spawn(move || {
                    // Sums are the least that can be done with what is read.
                    black_box(part.iter().fold(0u64, |sum, &x| sum.wrapping_add(x)));
                });
            }
        });
        began.elapsed().as_secs_f64()
    };
    let best = (0..READS).map(|_| read()).fold(f64::INFINITY, f64::min);
    numbers.len() as f64 * 8.0 / best / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_agree_on_every_instruction_set() {
        for isa in Isa::available() {
            let found = self_check(isa, 2).unwrap();
            assert!(found.agrees, "{isa:?}: {found:?}");
        }
    }

    #[test]
    fn a_difference_is_noticed() {
        let (description, sizes) = tiny(0).unwrap();
        let make = || Reference::<f32>::compile(&description, sizes).unwrap();
        let same = compare(&mut make(), &mut make()).unwrap();
        assert_eq!((same.loss_difference, same.state_difference), (0.0, 0.0));
        assert!(same.agrees);
        // One weight that is off by a hundredth of the largest.
        let name = "backbone.layer2.0.conv1.weight";
        for change in [0.01f32, f32::NAN] {
            let mut other = make();
            let mut weights = other.read(name).unwrap();
            weights[7] += change * weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            other.write(name, &weights).unwrap();
            let found = compare(&mut make(), &mut other).unwrap();
            assert!(!found.agrees, "{found:?}");
        }
        // Other weights altogether.
        let (description, sizes) = tiny(1).unwrap();
        let mut other = Reference::<f32>::compile(&description, sizes).unwrap();
        assert!(!compare(&mut make(), &mut other).unwrap().agrees);
    }
}
