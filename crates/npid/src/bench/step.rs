//! `npid bench step`: a training step, or a forward pass.

use std::time::{Duration, Instant};

use npid_engine::{Draws, Engine, Images, Norm, Objective, Output, Sizes, Timings};
use npid_learn::Error;
use npid_network::graph::Network;
use npid_network::method::{Description, Head, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::neck::{self, Neck};
use npid_network::philox::{Purpose, Stream};
use npid_network::resnet::{InitCfg, ResNet, Stem};
use serde_json::json;

use super::{median, peak_mb, round};
use crate::args::{StemArg, Step};
use crate::engine::{engine, threads};

/// Prepared batches that take turns.
pub(super) const BATCHES: u64 = 3;
const LR: f32 = 0.03;

/// Times training steps (or forward passes) on random images and prints the result.
///
/// # Errors
/// If the network can't be built or compiled.
pub fn step(args: &Step) -> Result<(), Error> {
    let sizes = Sizes {
        batch: args.batch,
        height: args.size,
        width: args.size,
    };
    let mut engine = engine(
        &args.machine,
        &describe(args)?,
        sizes,
        args.activations.dtype.chosen(),
    )?;
    if !args.eval {
        fill_bank(engine.as_mut(), args)?;
    }
    let batches: Vec<Batch> = (0..BATCHES).map(|i| Batch::random(args, i)).collect();

    let mut work = Work::new(args);
    let mut times = Vec::with_capacity(args.steps);
    for k in 0..args.warmup + args.steps {
        let batch = &batches[k % batches.len()];
        if k == args.warmup {
            engine.take_timings();
        }
        let start = Instant::now();
        work.run(engine.as_mut(), args, batch, k as u32)?;
        if k >= args.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let parts = engine.take_timings().filter(|_| !args.eval);
    let mean = |of: fn(&Timings) -> Duration| {
        let seconds = of(parts.as_ref()?).as_secs_f64();
        Some(round(seconds / args.steps as f64, 5))
    };
    let parts = [
        ("forward", mean(|t| t.forward)),
        ("backward", mean(|t| t.backward)),
        ("bank", mean(|t| t.bank)),
        ("optimizer", mean(|t| t.optimizer)),
    ];
    let median = median(&mut times);
    let info = engine.info();
    let mut line = json!({
        "peer": concat!("npid ", env!("CARGO_PKG_VERSION")),
        "what": if args.eval { "eval" } else { "train" },
        "depth": args.depth,
        "stem": match args.stem { StemArg::Cifar => "cifar", StemArg::Imagenet => "imagenet" },
        "width": args.width,
        "batch": args.batch,
        "size": args.size,
        "bank": args.bank,
        "dim": args.dim,
        "dtype": info.dtype,
        "device": info.engine,
        "compile": false,
        "threads": if info.engine == "reference" { 1 } else { threads(&args.machine) },
        "median_s": round(median, 5),
        "min_s": round(times[0], 5),
        "images_per_s": round(args.batch as f64 / median, 1),
        "peak_mb": peak_mb().map(|mb| round(mb, 1)),
        "planned_mb": round(info.planned_bytes as f64 / 1e6, 1),
        "steps": args.warmup + args.steps,
        "loss": work.loss,
    });
    for (name, seconds) in parts {
        line[format!("{name}_s")] = json!(seconds);
    }
    if args.output.json {
        say!("{line}");
        return Ok(());
    }
    say!(
        "{}: {:.1} images/s, {:.5} s a batch (median of {}), on {}",
        if args.eval {
            "forward pass"
        } else {
            "training step"
        },
        args.batch as f64 / median,
        median,
        times.len(),
        info.device
    );
    if let [(_, Some(_)), ..] = parts {
        let of =
            |(name, s): (&str, Option<f64>)| format!("{name} {:.1} ms", s.unwrap_or(0.0) * 1e3);
        say!("mean of a step's parts: {}", parts.map(of).join(", "));
    }
    if let Some(loss) = work.loss {
        say!("loss after {} steps: {loss}", args.warmup + args.steps);
    }
    if let Some(mb) = peak_mb() {
        say!("peak memory of the process: {mb:.0} MB");
    }
    Ok(())
}

/// ResNet, one linear layer, exact softmax at τ 0.1 over the bank, SGD 0.9 with decay 5e-4.
pub(super) fn describe(args: &Step) -> Result<Description, Error> {
    let mut network = Network::new();
    let x = network.input(&[0.5; 3], &[0.25; 3])?;
    let stem = match args.stem {
        StemArg::Cifar => Stem::Cifar,
        StemArg::Imagenet => Stem::ImageNet,
    };
    let resnet = ResNet {
        init: InitCfg::PyTorch,
        ..ResNet::new(args.depth, stem, args.width)
    };
    let flag =
        |error: npid_network::Error| Error::input(format!("--width, --depth or --size: {error}"));
    let map = resnet.build(&mut network, x, "backbone.").map_err(flag)?;
    neck::embed(&mut network, map, Some(&Neck::linear(args.dim, false)))?;
    network.shapes(args.size, args.size).map_err(flag)?;
    let method = Npid {
        head: Head::Softmax { temperature: 0.1 },
        memory_bank: MemoryBank {
            length: args.bank,
            feat_dim: args.dim,
            momentum: 0.5,
            dtype: RowType::F32,
            storage: RowStorage::Memory,
        },
        neg_num: 1,
        ensure_neg: false,
    };
    let description = Description {
        network,
        method: (!args.eval).then_some(method),
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
            lars: None,
        },
        seed: 0,
    };
    description.check()?;
    Ok(description)
}

/// Random unit rows.
pub(super) fn fill_bank(engine: &mut dyn Engine, args: &Step) -> Result<(), Error> {
    let rows: Vec<f32> = (0..args.bank as u64)
        .flat_map(|row| npid_network::init::random_row(row, args.dim, 0))
        .collect();
    Ok(engine.write(npid_engine::state::BANK, &rows)?)
}

/// Images and the rows they belong to.
pub(super) struct Batch {
    pixels: Vec<u8>,
    rows: Vec<u64>,
}

impl Batch {
    pub(super) fn random(args: &Step, index: u64) -> Self {
        let mut stream = Stream::new(0, Purpose::Bench, 0, index, 0);
        let bytes = args.batch * args.size * args.size * 3;
        let mut pixels = Vec::with_capacity(bytes);
        while pixels.len() < bytes {
            pixels.extend_from_slice(&stream.next_u64().to_le_bytes());
        }
        pixels.truncate(bytes);
        let rows = (0..args.batch)
            .map(|_| stream.below(args.bank as u64))
            .collect();
        Batch { pixels, rows }
    }
}

/// What a step needs and leaves.
pub(super) struct Work {
    occurrences: Vec<u32>,
    features: [Vec<f32>; 1],
    loss: Option<f32>,
}

impl Work {
    pub(super) fn new(args: &Step) -> Self {
        Work {
            occurrences: vec![0; args.batch],
            features: [Vec::new()],
            loss: None,
        }
    }

    /// One step, or forward pass.
    pub(super) fn run(
        &mut self,
        engine: &mut dyn Engine,
        args: &Step,
        batch: &Batch,
        k: u32,
    ) -> Result<(), Error> {
        let images = Images {
            pixels: &batch.pixels,
            count: args.batch,
        };
        if args.eval {
            engine.features(images, Norm::Eval, &[Output::Embedding], &mut self.features)?;
            return Ok(());
        }
        // Each step counts as an epoch, so that a head that samples would draw afresh.
        let objective = Objective::Npid {
            rows: &batch.rows,
            draws: Draws::Sampled {
                epoch: k,
                occurrences: &self.occurrences,
            },
        };
        let losses = engine.step(images, objective, LR)?;
        self.loss = losses.first().map(|loss| loss.value);
        Ok(())
    }
}
