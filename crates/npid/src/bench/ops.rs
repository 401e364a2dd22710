//! `npid bench ops`: a training step (or forward pass) operation by operation, each held against
//! what the machine can do at most.

use std::collections::HashMap;
use std::time::Instant;

use npid_engine::cpu::{Isa, Peaks};
use npid_engine::{Operation, Sizes, What};
use npid_learn::Error;
use npid_network::graph::Shape;
use serde_json::{Value, json};

use super::step::{BATCHES, Batch, Work, describe, fill_bank};
use super::{median, round};
use crate::args::{Device, Ops, StemArg};
use crate::engine::{engine, threads};

/// Operations of the same kind and shape.
struct Group {
    what: What,
    /// How many a step has.
    n: usize,
    /// Names of what they are about.
    layers: Vec<String>,
    shape: String,
    window: Option<(usize, usize)>,
    input: Shape,
    output: Shape,
    flops: u64,
    bytes: u64,
    /// Seconds that one of them took, a step each.
    times: Vec<f64>,
}

/// What operations of a group have in common. The layer counts where there is no shape.
type Key = (What, Option<(usize, usize)>, [usize; 6], u64, u64);

fn key(operation: &Operation) -> Key {
    let Shape { h, w, c } = operation.input;
    let Shape {
        h: oh,
        w: ow,
        c: oc,
    } = operation.output;
    let shapes = [h, w, c, oh, ow, oc];
    (
        operation.what,
        operation.window,
        shapes,
        operation.flops,
        operation.bytes,
    )
}

/// Times steps on random images and prints what their operations took.
///
/// # Errors
/// If the network can't be built or compiled, the engine tells nothing, or `--filter` leaves none.
pub fn ops(args: &Ops) -> Result<(), Error> {
    let step = &args.step;
    if step.machine.device == Device::Reference {
        return Err(Error::input(
            "--device reference: this engine doesn't tell what its operations take; cpu does",
        ));
    }
    let isa = Isa::detect().map_err(|error| Error::input(error.to_string()))?;
    let threads = threads(&step.machine);
    let description = describe(step)?;
    let peaks = Peaks::measure(isa, threads)?;
    let sizes = Sizes {
        batch: step.batch,
        height: step.size,
        width: step.size,
    };
    let mut engine = engine(
        &step.machine,
        &description,
        sizes,
        step.activations.dtype.chosen(),
    )?;
    if !step.eval {
        fill_bank(engine.as_mut(), step)?;
    }
    let batches: Vec<Batch> = (0..BATCHES).map(|i| Batch::random(step, i)).collect();
    let mut work = Work::new(step);
    engine.take_operations(); // From here on they are kept.
    let (mut groups, mut whole) = (Groups::default(), Vec::new());
    for k in 0..step.warmup + step.steps {
        let begun = Instant::now();
        work.run(engine.as_mut(), step, &batches[k % batches.len()], k as u32)?;
        let took = begun.elapsed().as_secs_f64();
        let operations = engine.take_operations();
        if k == 0 {
            check_filter(args, operations.clone())?;
        }
        if k >= step.warmup {
            whole.push(took);
            groups.add(operations);
        }
    }
    let table = Table {
        args,
        isa: isa.name(),
        threads,
        dtype: engine.info().dtype,
        peaks,
        step: median(&mut whole),
    };
    table.print(groups.all, &engine.info().device);
    Ok(())
}

/// Refuses a `--filter` that leaves nothing.
fn check_filter(args: &Ops, operations: Vec<Operation>) -> Result<(), Error> {
    let mut groups = Groups::default();
    groups.add(operations);
    let Some(text) = &args.filter else {
        return Ok(());
    };
    if groups.all.iter().any(|group| group.wanted(args)) {
        return Ok(());
    }
    let met = |what: &&What| groups.all.iter().any(|group| group.what == **what);
    let all: Vec<&str> = What::ALL
        .iter()
        .filter(met)
        .map(|what| what.name())
        .collect();
    Err(Error::input(format!(
        "--filter {text}: no operation, layer or shape has this in its name; the operations are {}",
        all.join(", ")
    )))
}

/// Groups in the order in which a step meets their kinds.
#[derive(Default)]
struct Groups {
    all: Vec<Group>,
    places: HashMap<Key, usize>,
}

impl Groups {
    /// Adds the operations of one step.
    fn add(&mut self, operations: Vec<Operation>) {
        let mut sums: HashMap<usize, (f64, usize)> = HashMap::new();
        for operation in operations {
            let place = *(self.places.entry(key(&operation))).or_insert_with(|| {
                self.all.push(Group::new(&operation));
                self.all.len() - 1
            });
            let group = &mut self.all[place];
            if group.times.is_empty() && !group.layers.contains(&operation.layer) {
                group.layers.push(operation.layer);
            }
            let sum = sums.entry(place).or_default();
            *sum = (sum.0 + operation.time.as_secs_f64(), sum.1 + 1);
        }
        for (place, (seconds, n)) in sums {
            self.all[place].n = n;
            self.all[place].times.push(seconds / n as f64);
        }
    }
}

impl Group {
    fn new(of: &Operation) -> Self {
        let (input, output) = (of.input, of.output);
        let size = |shape: Shape| format!("{}x{}", shape.h, shape.w);
        let shape = match of.window {
            _ if output.is_empty() => String::new(),
            Some((kernel, stride)) => format!(
                "{kernel}x{kernel}/{stride}  {} -> {}, {}",
                input.c,
                output.c,
                size(output)
            ),
            None if input == output => format!("{}, {}", output.c, size(output)),
            None => format!("{} of {}", output.c, size(input)),
        };
        Group {
            what: of.what,
            n: 0,
            layers: Vec::new(),
            shape,
            window: of.window,
            input,
            output,
            flops: of.flops,
            bytes: of.bytes,
            times: Vec::new(),
        }
    }

    /// The shape, or what it is about where it has none.
    fn name(&self) -> &str {
        match &*self.shape {
            "" => self.layers.first().map_or("", |layer| layer),
            shape => shape,
        }
    }

    /// Whether `--filter` means it, or isn't there.
    fn wanted(&self, args: &Ops) -> bool {
        let Some(text) = &args.filter else {
            return true;
        };
        let text = text.to_lowercase();
        let names = self.layers.iter().map(String::as_str);
        let mut all = names.chain([self.what.name(), &self.shape]);
        all.any(|name| name.to_lowercase().contains(&text))
    }
}

/// What is printed.
struct Table<'a> {
    args: &'a Ops,
    isa: &'static str,
    threads: usize,
    dtype: &'static str,
    peaks: Peaks,
    /// Seconds of a step.
    step: f64,
}

impl Table<'_> {
    fn print(&self, mut groups: Vec<Group>, device: &str) {
        groups.retain(|group| group.wanted(self.args));
        // Stable, so that layers stay in their order.
        groups.sort_by_key(|group| What::ALL.iter().position(|what| *what == group.what));
        if self.args.step.output.json {
            self.lines(groups);
        } else {
            self.people(groups, device);
        }
    }

    /// What is the same for all lines.
    fn line(&self, what: &str) -> Value {
        let step = &self.args.step;
        json!({
            "peer": concat!("npid ", env!("CARGO_PKG_VERSION")),
            "what": what,
            "device": "cpu",
            "isa": self.isa,
            "threads": self.threads,
            "dtype": self.dtype,
            "depth": step.depth,
            "stem": stem(step.stem),
            "base_width": step.width,
            "batch": step.batch,
        })
    }

    fn lines(&self, groups: Vec<Group>) {
        let mut peaks = self.line("peaks");
        for (name, value) in [
            ("gflop_per_s", self.peaks.gflop_per_s),
            ("read_gb_per_s", self.peaks.read_gb_per_s),
            ("copy_gb_per_s", self.peaks.copy_gb_per_s),
        ] {
            peaks[name] = json!(round(value, 2));
        }
        say!("{peaks}");
        for mut group in groups {
            let figures = self.figures(&mut group);
            let mut line = self.line(group.what.name());
            let of = |n: usize| (n > 0).then_some(n);
            for (name, value) in [
                ("kernel", json!(group.window.map(|w| w.0))),
                ("stride", json!(group.window.map(|w| w.1))),
                ("in_channels", json!(of(group.input.c))),
                ("out_channels", json!(of(group.output.c))),
                ("height", json!(of(group.output.h))),
                ("width", json!(of(group.output.w))),
                ("layers", json!(group.layers)),
                ("n", json!(group.n)),
                ("median_ms", json!(round(figures.seconds * 1e3, 4))),
                ("flops", json!((group.flops > 0).then_some(group.flops))),
                (
                    "gflop_per_s",
                    json!(figures.gflop_per_s.map(|v| round(v, 2))),
                ),
                ("peak_percent", json!(figures.peak.map(|v| round(v, 1)))),
                ("bytes", json!(group.bytes)),
                ("gb_per_s", json!(round(figures.gb_per_s, 2))),
                ("memory_percent", json!(round(figures.memory, 1))),
                ("step_percent", json!(round(figures.step, 2))),
            ] {
                line[name] = value;
            }
            say!("{line}");
        }
        let mut step = self.line("step");
        step["median_ms"] = json!(round(self.step * 1e3, 4));
        say!("{step}");
    }

    fn people(&self, groups: Vec<Group>, device: &str) {
        let step = &self.args.step;
        say!(
            "{} of ResNet-{} ({} stem, width {}), batches of {} at {}x{}, {}, on {device}",
            if step.eval {
                "forward pass"
            } else {
                "training step"
            },
            step.depth,
            stem(step.stem),
            step.width,
            step.batch,
            step.size,
            step.size,
            self.dtype
        );
        say!(
            "measured peaks: {:.1} GFLOP/s in f32; memory {:.1} GB/s read, {:.1} GB/s copied",
            self.peaks.gflop_per_s,
            self.peaks.read_gb_per_s,
            self.peaks.copy_gb_per_s
        );
        let (mut shapes, mut told) = (5, 0.0);
        for group in &groups {
            shapes = shapes.max(group.name().len());
        }
        say!(
            "\n{:20} {:shapes$} {:>3} {:>9} {:>8} {:>6} {:>7} {:>6} {:>6}",
            "operation",
            "shape",
            "n",
            "ms each",
            "GFLOP/s",
            "% peak",
            "GB/s",
            "% mem",
            "% step"
        );
        for mut group in groups {
            let figures = self.figures(&mut group);
            told += figures.step;
            let or_blank = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.1}"));
            say!(
                "{:20} {:shapes$} {:>3} {:>9.3} {:>8} {:>6} {:>7.1} {:>6.0} {:>6.1}",
                group.what.name(),
                group.name(),
                group.n,
                figures.seconds * 1e3,
                or_blank(figures.gflop_per_s),
                or_blank(figures.peak),
                figures.gb_per_s,
                figures.memory,
                figures.step
            );
        }
        say!(
            "\na step takes {:.2} ms (median of {}); these are {told:.1} % of it",
            self.step * 1e3,
            step.steps
        );
        say!(
            "Operations are a plain convolution's: kernels that need fewer (Winograd's, or without \
             products with the padding) may pass 100 %; so may maps that stay in a cache."
        );
    }

    fn figures(&self, group: &mut Group) -> Figures {
        let seconds = median(&mut group.times);
        let rate = |units: u64| units as f64 / seconds.max(1e-9) * 1e-9;
        let gflop_per_s = (group.flops > 0).then(|| rate(group.flops));
        // A comparison with the bank reads; all others write about as much.
        let memory = match group.what {
            What::Head => self.peaks.read_gb_per_s,
            _ => self.peaks.copy_gb_per_s,
        };
        Figures {
            seconds,
            gflop_per_s,
            peak: gflop_per_s.map(|v| 100.0 * v / self.peaks.gflop_per_s),
            gb_per_s: rate(group.bytes),
            memory: 100.0 * rate(group.bytes) / memory,
            step: 100.0 * seconds * group.n as f64 / self.step,
        }
    }
}

/// Of one operation of a group.
struct Figures {
    seconds: f64,
    gflop_per_s: Option<f64>,
    /// Percent of the peak.
    peak: Option<f64>,
    gb_per_s: f64,
    /// Percent of the memory's peak.
    memory: f64,
    /// Percent of a step, all of the group together.
    step: f64,
}

fn stem(stem: StemArg) -> &'static str {
    match stem {
        StemArg::Cifar => "cifar",
        StemArg::Imagenet => "imagenet",
    }
}
