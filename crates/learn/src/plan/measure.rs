//! Times of real steps and real pictures.

use std::time::{Duration, Instant};

use npid_data::augment::{EvalView, Workspace};
use npid_engine::{Draws, Engine, Images, Norm, Objective, Output};
use npid_network::philox::{Purpose, Stream};

use crate::collections::Collections;
use crate::config::Config;
use crate::error::Error;
use crate::trainer::{Options, check};

/// Time that is spent on steps, and again on pictures, about.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Steps or pictures after which their time is known well enough.
const ENOUGH_STEPS: usize = 8;
const ENOUGH_PICTURES: usize = 48;

/// What the engine takes.
pub(super) struct Steps {
    /// Seconds of a step of a full batch.
    pub(super) step_s: f64,
    /// Seconds of a forward pass of a full batch, in evaluation.
    pub(super) forward_s: f64,
    /// Images of the steps that were timed: fewer than a batch where that would have taken long.
    pub(super) images: usize,
}

/// Times a few steps on made-up pixels. The engine's state is of no use afterwards.
pub(super) fn steps(
    config: &Config,
    images: usize,
    engine: &mut dyn Engine,
    options: &Options<'_>,
) -> Result<Steps, Error> {
    let batch = config.data.batch_size.min(images);
    let bytes = config.data.size * config.data.size * 3;
    let mut stream = Stream::new(config.seed, Purpose::Bench, 0, 0, 0);
    let mut pixels = Vec::with_capacity(batch * bytes + 8);
    while pixels.len() < batch * bytes {
        pixels.extend_from_slice(&stream.next_u64().to_le_bytes());
    }
    let mut work = Work {
        engine,
        pixels,
        bytes,
        images,
        step: 0,
        features: [Vec::new()],
    };
    // The first touches the memory; the second says how many images fit into the time.
    let few = batch.min(2);
    work.step(few)?;
    let short = work.step(few)?;
    let each = short.as_secs_f64() / few as f64;
    let affordable = PATIENCE.as_secs_f64() / 3.0 / each.max(1e-9);
    let timed = batch.min((affordable as usize).max(few));
    let mut times = Vec::new();
    let began = Instant::now();
    if timed > few {
        work.step(timed)?;
    }
    while times.is_empty() || began.elapsed() < PATIENCE && times.len() < ENOUGH_STEPS {
        check::poll(options)?;
        times.push(work.step(timed)?.as_secs_f64());
    }
    let mut forward = Vec::new();
    let began = Instant::now();
    while forward.is_empty() || began.elapsed() < PATIENCE / 3 && forward.len() < ENOUGH_STEPS {
        check::poll(options)?;
        forward.push(work.forward(timed)?.as_secs_f64());
    }
    let step_s = median(times);
    // What a step costs however few its images are (a pass over the bank) must not be multiplied.
    let more = if timed > few {
        (step_s - short.as_secs_f64()).max(0.0) / (timed - few) as f64
    } else {
        step_s / timed as f64
    };
    Ok(Steps {
        step_s: step_s + more * (batch - timed) as f64,
        forward_s: median(forward) * batch as f64 / timed as f64,
        images: timed,
    })
}

/// An engine at work on made-up pixels.
struct Work<'a> {
    engine: &'a mut dyn Engine,
    pixels: Vec<u8>,
    /// Bytes of an image.
    bytes: usize,
    /// N.
    images: usize,
    step: u32,
    features: [Vec<f32>; 1],
}

impl Work<'_> {
    /// A training step on the first `count` images, as other rows every time.
    fn step(&mut self, count: usize) -> Result<Duration, Error> {
        let first = (self.step as usize * count) % self.images;
        let rows: Vec<u64> = (0..count)
            .map(|i| ((first + i) % self.images) as u64)
            .collect();
        let occurrences = vec![0; count];
        let images = Images {
            pixels: &self.pixels[..count * self.bytes],
            count,
        };
        let objective = Objective::Npid {
            rows: &rows,
            draws: Draws::Sampled {
                epoch: self.step,
                occurrences: &occurrences,
            },
        };
        self.step += 1;
        let began = Instant::now();
        // At a rate of 0 everything is computed and noise teaches nothing.
        self.engine.step(images, objective, 0.0)?;
        Ok(began.elapsed())
    }

    /// A forward pass of the first `count` images.
    fn forward(&mut self, count: usize) -> Result<Duration, Error> {
        let images = Images {
            pixels: &self.pixels[..count * self.bytes],
            count,
        };
        let began = Instant::now();
        let outputs = [Output::Embedding];
        (self.engine).features(images, Norm::Eval, &outputs, &mut self.features)?;
        Ok(began.elapsed())
    }
}

/// What reading takes, in seconds of one thread for one picture.
pub(super) struct Pictures {
    /// Decoding and augmenting.
    pub(super) train_s: f64,
    /// Decoding and the evaluation view.
    pub(super) view_s: f64,
    /// Pictures that were timed.
    pub(super) pictures: usize,
}

/// Reads a few pictures, spread over the collection, on this thread. Those that can't be read are
/// passed over.
pub(super) fn pictures(
    config: &Config,
    collections: &Collections,
    options: &Options<'_>,
) -> Result<Pictures, Error> {
    let source = collections.train.as_ref();
    let pipeline = config.pipeline()?;
    let view = EvalView {
        size: config.data.size,
    };
    let mut workspace = Workspace::default();
    let mut out = vec![0; pipeline.output_bytes()];
    let mut views = vec![0; view.size * view.size * 3];
    let mut times = Vec::new();
    let began = Instant::now();
    let count = source.len().min(ENOUGH_PICTURES);
    for index in 0..count {
        if !times.is_empty() && began.elapsed() > PATIENCE {
            break;
        }
        check::poll(options)?;
        let row = (index as u128 * source.len() as u128 / count as u128) as usize;
        let start = Instant::now();
        let Ok(picture) = source.picture(row) else {
            continue;
        };
        let read = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut stream = Stream::new(config.seed, Purpose::Augment, 0, row as u64, 0);
        pipeline.augment(&picture, &mut stream, &mut workspace, &mut out);
        let augmented = start.elapsed().as_secs_f64();
        let start = Instant::now();
        view.apply(&picture, &mut workspace, &mut views);
        times.push((read + augmented, read + start.elapsed().as_secs_f64()));
    }
    // Means, since a run reads all of them, the slow ones too.
    let n = times.len().max(1) as f64;
    Ok(Pictures {
        train_s: times.iter().map(|t| t.0).sum::<f64>() / n,
        view_s: times.iter().map(|t| t.1).sum::<f64>() / n,
        pictures: times.len(),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
