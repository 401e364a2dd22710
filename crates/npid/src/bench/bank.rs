//! `npid bench bank`: the memory bank's part of a step alone.

use std::time::Instant;

use npid_engine::{Draws, Engine, Images, Objective, Sizes};
use npid_learn::Error;
use npid_network::graph::Network;
use npid_network::method::{Description, Head, MemoryBank, Npid, RowStorage, Sgd};
use npid_network::philox::{Purpose, Stream};
use serde_json::json;

use super::{forget_peak, median, peak_mb, resident_mb, round};
use crate::args::{BankArgs, HeadArg};
use crate::engine::{engine, threads};

const LR: f32 = 0.03;
/// Name of the layer that the features pass.
const LAYER: &str = "fc";

/// Times loss, feature gradient and update over a bank of random rows and prints the result.
///
/// Every step has features, indices and negatives of its own. The features are random numbers that
/// pass one linear layer of D x D, so that their gradient arrives somewhere: 6·B·D² operations
/// beside those of the bank.
///
/// # Errors
/// If the sizes can't be used or had.
pub fn bank(args: &BankArgs) -> Result<(), Error> {
    let sizes = Sizes {
        batch: args.batch,
        height: 1,
        width: 1,
    };
    let mut engine = engine(&args.machine, &describe(args)?, sizes, None)?;
    let before = resident_mb();
    forget_peak();
    let mut times = Vec::with_capacity(args.steps);
    for k in 0..args.warmup + args.steps {
        let batch = Batch::random(args, k as u64);
        let start = Instant::now();
        batch.gradient(engine.as_mut(), k as u32)?;
        engine.apply(LR, 1.0);
        engine.update_bank()?;
        if k >= args.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let extra = (peak_mb().zip(before)).map(|(peak, before)| round(peak - before, 1));
    // One step more, whose gradient is looked at.
    let last = args.warmup + args.steps;
    let loss = Batch::random(args, last as u64).gradient(engine.as_mut(), last as u32)?;
    let gradient = engine.read(&format!("gradient.{LAYER}.weight"))?;
    let square = |g: &f32| f64::from(*g).powi(2);
    let gradient_norm = gradient.iter().map(square).sum::<f64>().sqrt();
    let median = median(&mut times);
    let info = engine.info();
    let line = json!({
        "peer": concat!("npid ", env!("CARGO_PKG_VERSION")),
        "rows": args.rows,
        "dim": args.dim,
        "batch": args.batch,
        "neg_num": (args.head != HeadArg::Softmax).then_some(args.neg_num),
        "head": args.head.name(),
        "dtype": args.dtype.name(),
        "device": info.engine,
        "compile": false,
        "threads": if info.engine == "reference" { 1 } else { threads(&args.machine) },
        "median_ms": round(median * 1e3, 2),
        "min_ms": round(times[0] * 1e3, 2),
        "extra_mb": extra,
        "planned_mb": round(info.planned_bytes as f64 / 1e6, 1),
        "steps": last + 1,
        "loss": loss,
        "gradient_norm": gradient_norm,
    });
    if args.output.json {
        say!("{line}");
        return Ok(());
    }
    say!(
        "{} over {} rows x {}, batches of {}: {:.2} ms a step (median of {}), on {}",
        args.head.name(),
        args.rows,
        args.dim,
        args.batch,
        median * 1e3,
        times.len(),
        info.device
    );
    if let Some(mb) = extra {
        say!("memory beyond the bank: {mb} MB");
    }
    say!(
        "step {}: loss {loss}, gradient norm {gradient_norm}",
        last + 1
    );
    Ok(())
}

fn describe(args: &BankArgs) -> Result<Description, Error> {
    let dim = args.dim;
    let mut network = Network::new();
    let x = network.input(&vec![0.5; dim], &vec![0.25; dim])?;
    let x = network.linear(LAYER, x, dim, false)?;
    network.embedding = Some(network.l2_norm("embedding", x));
    let temperature = 0.07;
    let description = Description {
        network,
        method: Some(Npid {
            head: match args.head {
                HeadArg::Contrastive => Head::Contrastive { temperature },
                HeadArg::Softmax => Head::Softmax { temperature },
                HeadArg::Nce => Head::Nce {
                    temperature,
                    z_momentum: 0.0,
                    proximal: 0.0,
                },
            },
            memory_bank: MemoryBank {
                length: args.rows,
                feat_dim: dim,
                momentum: 0.5,
                dtype: args.dtype,
                storage: RowStorage::Memory,
            },
            neg_num: args.neg_num,
            ensure_neg: false,
        }),
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
            lars: None,
        },
        seed: 0,
    };
    description.check()?;
    Ok(description)
}

/// What a step is about.
struct Batch {
    pixels: Vec<u8>,
    rows: Vec<u64>,
}

impl Batch {
    fn random(args: &BankArgs, step: u64) -> Self {
        let mut stream = Stream::new(0, Purpose::Bench, 0, step, 0);
        let bytes = args.batch * args.dim;
        let mut pixels = Vec::with_capacity(bytes + 8);
        while pixels.len() < bytes {
            pixels.extend_from_slice(&stream.next_u64().to_le_bytes());
        }
        pixels.truncate(bytes);
        let rows = (0..args.batch)
            .map(|_| stream.below(args.rows as u64))
            .collect();
        Batch { pixels, rows }
    }

    fn gradient(&self, engine: &mut dyn Engine, step: u32) -> Result<f32, Error> {
        let images = Images {
            pixels: &self.pixels,
            count: self.rows.len(),
        };
        // Each step counts as an epoch, so that negatives are drawn afresh.
        let objective = Objective::Npid {
            rows: &self.rows,
            draws: Draws::Sampled {
                epoch: step,
                occurrences: &vec![0; self.rows.len()],
            },
        };
        let losses = engine.gradient(images, objective)?;
        Ok(losses.first().map_or(f32::NAN, |loss| loss.value))
    }
}
