//! One body that holds any engine against the reference: the same state, the same batches, every
//! program.

use npid_engine::reference::Reference;
use npid_engine::{Draws, Engine, Images, Loss, Norm, Objective, Output, StateKind};
use npid_network::graph::{Op, Shape, Window};

use super::cases::Case;
use super::{Make, assert_close, images, normal, pixels, stream};

/// How far an f32 engine may be from the reference in f64.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Of features and losses: of the largest value of the same output, and of each value.
    pub forward: f64,
    /// Of gradients, and of what one optimiser step makes of them: of the largest value of the
    /// same tensor, and of each value.
    pub backward: f64,
}

/// For f32 with f32 accumulation.
pub const F32: Tolerance = Tolerance {
    forward: 1e-4,
    backward: 2e-3,
};

/// Makes every state something else than its start: affine parameters other than 1 and 0,
/// statistics and momentum that matter. (At γ = 1, β = 0 small batches give ±1 exactly, sums of
/// such are 0 up to rounding, and the ReLU after them has no sign to agree on.)
pub fn scatter(engine: &mut dyn Engine, tag: u64) {
    for (i, entry) in engine.state().into_iter().enumerate() {
        let mut values = engine.read(&entry.name).unwrap();
        let mut s = stream(tag * 1000 + i as u64);
        for v in &mut values {
            match entry.kind {
                StateKind::Param(_) if entry.shape.len() == 1 && entry.name.ends_with("weight") => {
                    *v = s.uniform(0.6, 1.4) as f32;
                }
                StateKind::Param(_) if entry.shape.len() == 1 => *v = 0.3 * s.normal() as f32,
                StateKind::Statistic(_) if entry.name.ends_with("var") => {
                    *v = s.uniform(0.5, 1.5) as f32;
                }
                StateKind::Statistic(_) => *v = 0.2 * s.normal() as f32,
                StateKind::Momentum(_) => *v = 0.01 * s.normal() as f32,
                _ => {}
            }
        }
        engine.write(&entry.name, &values).unwrap();
        let back = engine.read(&entry.name).unwrap();
        assert_eq!(back, values, "{} is not read as it was written", entry.name);
    }
}

/// Writes all state of one engine into another, gradients included.
pub fn copy_state(from: &dyn Engine, to: &mut dyn Engine) {
    assert_eq!(from.state(), to.state());
    for entry in from.state() {
        to.write(&entry.name, &from.read(&entry.name).unwrap())
            .unwrap();
    }
}

/// The distance of a batch from the kinks of a network: the smallest |x| before a ReLU, and the
/// smallest lead of a max pool's winner.
///
/// Nearer than its rounding, an engine may rightly take the other side, and a gradient that is
/// wholly one side's or the other's moves by far more than rounding.
fn margin(truth: &mut Reference<f64>, batch: Images<'_>) -> f64 {
    let values = truth.activations(batch, Norm::Batch).unwrap();
    let sizes = truth.sizes();
    let network = &truth.description().network;
    let shapes = network.shapes(sizes.height, sizes.width).unwrap();
    let mut margin = f64::INFINITY;
    for (i, node) in network.nodes.iter().enumerate() {
        let Some(from) = node.inputs.first() else {
            continue;
        };
        let x = &values[from.0];
        match &node.op {
            Op::Relu => margin = x.iter().fold(margin, |m, v| m.min(v.abs())),
            Op::MaxPool(window) => {
                for candidates in windows(window, batch.count, shapes[from.0], shapes[i]) {
                    let mut all: Vec<f64> = candidates.iter().map(|&at| x[at]).collect();
                    all.sort_by(|a, b| b.total_cmp(a));
                    // Among zeros of a ReLU no gradient is lost.
                    if all.len() > 1 && all[0] > 0.0 {
                        margin = margin.min(all[0] - all[1]);
                    }
                }
            }
            _ => {}
        }
    }
    margin
}

/// The positions in the input that each element of a max pool chooses from.
fn windows(window: &Window, batch: usize, input: Shape, output: Shape) -> Vec<Vec<usize>> {
    let reach = |o: usize, n: usize| {
        let taps =
            (0..window.kernel).map(move |k| (o * window.stride + k).wrapping_sub(window.padding));
        taps.filter(move |&i| i < n)
    };
    let mut all = Vec::new();
    for b in 0..batch {
        for (oy, ox) in (0..output.h).flat_map(|y| (0..output.w).map(move |x| (y, x))) {
            for c in 0..output.c {
                let of = |y: usize| {
                    let row = (b * input.h + y) * input.w;
                    reach(ox, input.w).map(move |x| (row + x) * input.c + c)
                };
                all.push(reach(oy, input.h).flat_map(of).collect());
            }
        }
    }
    all
}

/// Random images well away from the kinks.
fn smooth_pixels(truth: &mut Reference<f64>, case: &Case, count: usize, tag: u64) -> Vec<u8> {
    let mut best = (0.0, Vec::new());
    for attempt in 0..40 {
        let pixels = pixels(count, case.sizes, case.in_channels, tag + 100 * attempt);
        let margin = margin(truth, images(&pixels, count));
        if margin > best.0 {
            best = (margin, pixels);
        }
        if best.0 > MARGIN {
            break;
        }
    }
    assert!(
        best.0 > 0.3 * MARGIN,
        "{} x{count}: every batch is at a kink",
        case.name
    );
    best.1
}

/// Several times the rounding of f32 after a few dozen layers.
const MARGIN: f64 = 1e-5;

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |a, v| a.max(v.abs()))
}

/// Of [`Pair::apply`].
const LR: f32 = 0.05;
const SCALE: f32 = 0.5;

struct Pair<'a> {
    case: &'a Case,
    truth: Reference<f64>,
    engine: Box<dyn Engine>,
    tolerance: Tolerance,
    start: Vec<(String, Vec<f32>)>,
}

impl Pair<'_> {
    fn features(&mut self, pixels: &[u8], count: usize) {
        let network = self.truth.description().network.clone();
        let mut outputs: Vec<Output> = network.stages.iter().map(|s| Output::Stage(s.0)).collect();
        outputs.extend(network.embedding.map(|_| Output::Embedding));
        for norm in [Norm::Eval, Norm::Batch, Norm::Track] {
            // Asked for alone, in reverse and all at once, an output is the same.
            for asked in [outputs.clone(), outputs.iter().rev().copied().collect()] {
                let mut want = vec![Vec::new(); asked.len()];
                // Stale values of another length have to disappear.
                let mut got = vec![vec![9.0; 3]; asked.len()];
                let batch = images(pixels, count);
                self.truth.features(batch, norm, &asked, &mut want).unwrap();
                self.engine.features(batch, norm, &asked, &mut got).unwrap();
                for ((output, got), want) in asked.iter().zip(&got).zip(&want) {
                    let name = format!("{} x{count} {norm:?} {output:?}", self.case.name);
                    let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
                    let tol = self.tolerance.forward;
                    assert_close(&name, got, &want, tol * largest(&want), tol);
                }
            }
            self.same(&format!("after features {norm:?}"), count);
        }
    }

    /// The largest accumulated gradient of any parameter.
    fn largest_gradient(&self) -> f64 {
        let entries = self.truth.state().into_iter();
        let gradients = entries.filter(|e| matches!(e.kind, StateKind::Gradient(_)));
        let of = |e: npid_engine::StateEntry| largest(self.truth.values(&e.name).unwrap());
        gradients.map(of).fold(0.0, f64::max)
    }

    fn same(&self, when: &str, count: usize) {
        self.same_but(when, count, self.largest_gradient());
    }

    /// All state agrees, where gradients have been as large as `everywhere`: one that is 0 in
    /// truth (of a bias before a norm) is rounding of larger ones, and moves its parameter.
    fn same_but(&self, when: &str, count: usize, everywhere: f64) {
        for entry in self.truth.state() {
            let want = self.truth.values(&entry.name).unwrap();
            let got = self.engine.read(&entry.name).unwrap();
            let name = format!("{} x{count} {}, {when}", self.case.name, entry.name);
            let tol = match entry.kind {
                StateKind::Statistic(_) | StateKind::Bank | StateKind::LogZ => {
                    self.tolerance.forward
                }
                _ => self.tolerance.backward,
            };
            let floor = match entry.kind {
                StateKind::Gradient(_) | StateKind::Momentum(_) => 0.05 * tol * everywhere,
                StateKind::Param(_) => 0.05 * tol * everywhere * f64::from(LR),
                _ => 0.0,
            };
            assert_close(&name, &got, want, tol * largest(want) + floor + 1e-12, tol);
        }
    }

    fn objective(&mut self, what: &str, objective: Objective<'_>, pixels: &[u8], count: usize) {
        let batch = images(pixels, count);
        let want = self.truth.gradient(batch, objective).unwrap();
        let got = self.engine.gradient(batch, objective).unwrap();
        self.losses(what, &got, &want, count);
        self.same(&format!("after the gradient of {what}"), count);
    }

    fn losses(&self, what: &str, got: &[Loss], want: &[Loss], count: usize) {
        let names = |l: &[Loss]| l.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
        let values = |l: &[Loss]| l.iter().map(|l| l.value).collect::<Vec<_>>();
        assert_eq!(names(got), names(want));
        let (name, tol) = (
            format!("{} x{count} loss of {what}", self.case.name),
            self.tolerance,
        );
        assert_close(&name, &values(got), &values(want), tol.forward, tol.forward);
    }

    fn apply(&mut self, count: usize) {
        let everywhere = self.largest_gradient();
        self.truth.apply(LR, SCALE);
        self.engine.apply(LR, SCALE);
        self.same_but("after apply", count, everywhere);
        // Back to the state that the batch was chosen for.
        for (name, values) in &self.start {
            self.truth.write(name, values).unwrap();
            self.engine.write(name, values).unwrap();
        }
    }
}

/// Compares all programs of an engine with the reference in f64, for the compiled batch and
/// shorter ones.
pub fn against_reference(case: &Case, make: Make<'_>, tolerance: Tolerance) {
    let description = case.description();
    let mut truth = Reference::<f64>::compile(&description, case.sizes).unwrap();
    let mut engine = make(&description, case.sizes);
    // Both start alike.
    for entry in truth.state() {
        assert_eq!(
            engine.read(&entry.name).unwrap(),
            truth.read(&entry.name).unwrap(),
            "{}: initial {}",
            case.name,
            entry.name
        );
    }
    scatter(&mut truth, 3);
    copy_state(&truth, engine.as_mut());
    let saved = truth.state().into_iter().map(|e| e.name);
    let start = saved.map(|name| (name.clone(), truth.read(&name).unwrap()));
    let start = start.collect();
    let mut pair = Pair {
        case,
        truth,
        engine,
        tolerance,
        start,
    };
    let largest = case.sizes.batch;
    let mut counts = vec![largest, largest - 1, 2.min(largest), 1];
    counts.dedup();
    for count in counts {
        // Batch norm over two values divides by their difference, which may be small.
        let amplified = if count < 3 { 5.0 } else { 1.0 };
        pair.tolerance = Tolerance {
            forward: tolerance.forward * amplified,
            backward: tolerance.backward * amplified,
        };
        let pixels = smooth_pixels(&mut pair.truth, case, count, count as u64);
        pair.features(&pixels, count);
        if case.head.is_some() {
            // The last two images are one and the same row, when there are that many.
            let mut rows: Vec<u64> = (0..count).map(|i| (i * 5 % case.rows) as u64).collect();
            let mut occurrences = vec![0; count];
            if count > 1 {
                rows[count - 1] = rows[count - 2];
                occurrences[count - 1] = 1;
            }
            let given: Vec<u64> = (0..count * case.neg_num)
                .map(|k| (k * 7 + k / 3) as u64 % case.rows as u64)
                .collect();
            let sampled = Draws::Sampled {
                epoch: 3,
                occurrences: &occurrences,
            };
            for (what, draws) in [("NPID", sampled), ("given draws", Draws::Given(&given))] {
                let objective = Objective::Npid { rows: &rows, draws };
                pair.objective(what, objective, &pixels, count);
                pair.truth.update_bank().unwrap();
                pair.engine.update_bank().unwrap();
                pair.same("after the bank update", count);
            }
            pair.apply(count);
            let dim = description.network.feat_dim();
            let gradient: Vec<f32> = normal(count * dim, 12).iter().map(|v| *v as f32).collect();
            let objective = Objective::FeatureGradient {
                gradient: &gradient,
            };
            pair.objective("a feature gradient", objective, &pixels, count);
            pair.apply(count);
        }
        if let Some(&classes) = case.classifiers.iter().min() {
            let labels: Vec<u32> = (0..count).map(|i| (i * 3 % classes) as u32).collect();
            let objective = Objective::CrossEntropy { labels: &labels };
            pair.objective("cross entropy", objective, &pixels, count);
            pair.apply(count);
        }
    }
}

/// Cases and learning rates for [`trains_alike`].
pub const TRAINABLE: [(&str, f32); 5] = [
    ("plain", 0.01),
    ("plain-contrastive-wide", 0.01),
    ("r18-w1-gray", 0.01),
    ("r18-w3-softmax-imagenet", 0.001),
    ("r18-w8-batch-of-12", 0.003),
];

/// Trains 20 steps beside the reference in f64 without ever synchronising: losses and bank stay
/// within `tolerance`, relative and absolute.
///
/// Batches away from kinks, small steps: rounding grows exponentially in a network that is trained
/// on noise, and these are cases and rates at which f32 itself stays near f64.
pub fn trains_alike(case: &Case, make: Make<'_>, lr: f32, tolerance: f64) {
    let description = case.description();
    let mut truth = Reference::<f64>::compile(&description, case.sizes).unwrap();
    let mut engine = make(&description, case.sizes);
    copy_state(&truth, engine.as_mut());
    for step in 0..20 {
        let count = case.sizes.batch - step % 2;
        let pixels = smooth_pixels(&mut truth, case, count, 40 + step as u64);
        let rows: Vec<u64> = (0..count)
            .map(|i| ((step + 2 * i) % case.rows) as u64)
            .collect();
        let occurrences = vec![0; count];
        let objective = Objective::Npid {
            rows: &rows,
            draws: Draws::Sampled {
                epoch: step as u32,
                occurrences: &occurrences,
            },
        };
        let batch = images(&pixels, count);
        let want = truth.step(batch, objective, lr).unwrap();
        let got = engine.step(batch, objective, lr).unwrap();
        let name = format!("{}: loss of step {step}", case.name);
        assert_close(
            &name,
            &[got[0].value],
            &[want[0].value],
            tolerance,
            tolerance,
        );
    }
    let bank = npid_engine::state::BANK;
    let name = format!("{}: bank after 20 steps", case.name);
    assert_close(
        &name,
        &engine.read(bank).unwrap(),
        &truth.read(bank).unwrap(),
        tolerance,
        tolerance,
    );
}
