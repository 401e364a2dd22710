//! The heads over banks of every type of row and odd sizes: loss, gradient, health and update of
//! the cpu engine against the reference in f64, which has the same rows.

use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::reference::Reference;
use npid_engine::state::BANK;
use npid_engine::{Description, Draws, Dtype, Engine, Images, Objective, Sizes};
use npid_network::graph::Network;
use npid_network::method::{Head, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::philox::{Purpose, Stream};

const GRADIENT: &str = "gradient.fc.weight";

/// What the rows are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Random unit vectors.
    Unit,
    /// All nearly the same vector, most of which is one coordinate.
    Collapsed,
    /// Random vectors of a length of 3.
    Long,
    /// One row in ten of them, the others units.
    SomeLong,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    head: Head,
    rows: usize,
    dim: usize,
    batch: usize,
    neg_num: usize,
    kind: Kind,
    /// Rows that take no part.
    excluded: &'static [u64],
}

const fn softmax(temperature: f32) -> Head {
    Head::Softmax { temperature }
}

const fn contrastive(temperature: f32) -> Head {
    Head::Contrastive { temperature }
}

const fn nce(temperature: f32, z_momentum: f32) -> Head {
    Head::Nce {
        temperature,
        z_momentum,
        proximal: 0.3,
    }
}

fn cases() -> Vec<Case> {
    let base = Case {
        head: softmax(0.07),
        rows: 1500,
        dim: 128,
        batch: 32,
        neg_num: 1000,
        kind: Kind::Unit,
        excluded: &[],
    };
    let mut all = Vec::new();
    for head in [
        softmax(0.07),
        softmax(0.01),
        contrastive(0.07),
        contrastive(0.01),
        nce(0.07, 0.0),
        nce(0.01, 0.5),
    ] {
        all.push(Case { head, ..base });
        // D no multiple of 16, batches and blocks that don't come out even.
        for (rows, dim, batch, neg_num) in [
            (1, 5, 1, 1),
            (2, 1, 2, 1),
            (65, 131, 3, 17),
            (130, 33, 19, 300),
            (777, 20, 49, 15),
            (63, 16, 17, 4097),
        ] {
            all.push(Case {
                head,
                rows,
                dim,
                batch,
                neg_num,
                ..base
            });
        }
        for kind in [Kind::Collapsed, Kind::Long, Kind::SomeLong] {
            let rows = 333;
            all.push(Case {
                head,
                kind,
                rows,
                ..base
            });
        }
    }
    all.push(Case {
        excluded: &[0, 1, 2, 700, 1499],
        ..base
    });
    all
}

impl Case {
    fn description(&self, dtype: RowType) -> Description {
        let mut network = Network::new();
        let x = network
            .input(&vec![0.5; self.dim], &vec![0.25; self.dim])
            .unwrap();
        let x = network.linear("fc", x, self.dim, false).unwrap();
        network.embedding = Some(network.l2_norm("embedding", x));
        Description {
            network,
            method: Some(Npid {
                head: self.head,
                memory_bank: MemoryBank {
                    length: self.rows,
                    feat_dim: self.dim,
                    momentum: 0.4,
                    dtype,
                    storage: RowStorage::Memory,
                },
                neg_num: self.neg_num,
                ensure_neg: false,
            }),
            neg_weights: None,
            optimizer: Sgd {
                momentum: 0.0,
                nesterov: false,
                weight_decay: 0.0,
                lars: None,
            },
            seed: 3,
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            batch: self.batch,
            height: 1,
            width: 1,
        }
    }

    fn bank(&self) -> Vec<f32> {
        let mut bank = Vec::new();
        for row in 0..self.rows {
            let mut stream = Stream::new(1, Purpose::Bench, 0, row as u64, 0);
            let mut v: Vec<f64> = (0..self.dim).map(|_| stream.normal()).collect();
            if self.kind == Kind::Collapsed {
                v.iter_mut().for_each(|x| *x *= 0.02);
                v[self.dim / 2] += 3.0;
            }
            let long = self.kind == Kind::Long || self.kind == Kind::SomeLong && row % 10 == 3;
            let length = if long { 3.0 } else { 1.0 };
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            bank.extend(v.iter().map(|x| (x / norm * length) as f32));
        }
        bank
    }

    /// Rows of the images: one of them twice.
    fn own(&self, step: u64) -> Vec<u64> {
        let mut stream = Stream::new(2, Purpose::Bench, 0, step, 0);
        let free: Vec<u64> = (0..self.rows as u64)
            .filter(|r| !self.excluded.contains(r))
            .collect();
        let mut own: Vec<u64> = (0..self.batch)
            .map(|_| free[stream.below(free.len() as u64) as usize])
            .collect();
        if let [first, .., last] = own.as_mut_slice() {
            *last = *first;
        }
        own
    }

    fn pixels(&self, step: u64) -> Vec<u8> {
        let mut stream = Stream::new(3, Purpose::Bench, 0, step, 0);
        let n = self.batch * self.dim;
        (0..n).map(|_| stream.next_u32() as u8).collect()
    }

    /// Two gradients, each followed by the bank's update; returns the losses.
    fn run(&self, engine: &mut dyn Engine, mut each: impl FnMut(&mut dyn Engine, f32)) {
        engine.exclude_rows(self.excluded).unwrap();
        for step in 0..2 {
            engine
                .write(GRADIENT, &vec![0.0; self.dim * self.dim])
                .unwrap();
            let (pixels, rows) = (self.pixels(step), self.own(step));
            let images = Images {
                pixels: &pixels,
                count: self.batch,
            };
            let objective = Objective::Npid {
                rows: &rows,
                draws: Draws::Sampled {
                    epoch: step as u32,
                    occurrences: &vec![0; self.batch],
                },
            };
            let losses = engine.gradient(images, objective).unwrap();
            engine.update_bank().unwrap();
            each(engine, losses[0].value);
        }
    }
}

/// ‖a - b‖ / max(‖b‖, least).
fn relative(a: &[f32], b: &[f32], least: f64) -> f64 {
    let square = |x: f64| x * x;
    let apart: f64 = (a.iter().zip(b))
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let length: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    apart.sqrt() / length.sqrt().max(least)
}

#[test]
fn every_type_of_row_has_the_references_loss_gradient_and_update() {
    for case in cases() {
        for (_, dtype) in RowType::NAMED {
            let description = case.description(dtype);
            let mut reference = Reference::<f64>::compile(&description, case.sizes()).unwrap();
            reference.write(BANK, &case.bank()).unwrap();
            let mut wanted = Vec::new();
            case.run(&mut reference, |engine, loss| {
                let health = engine.bank_health().unwrap();
                wanted.push((
                    loss,
                    engine.read(GRADIENT).unwrap(),
                    health,
                    engine.read(BANK).unwrap(),
                ));
            });
            for isa in Isa::available() {
                let options = Options {
                    threads: 2,
                    isa,
                    dtype: Dtype::F32,
                };
                let mut cpu = Cpu::compile(&description, case.sizes(), options).unwrap();
                cpu.write(BANK, &case.bank()).unwrap();
                let what = format!("{case:?} {} {}", dtype.name(), isa.name());
                let mut wanted = wanted.iter();
                case.run(&mut cpu, |engine, loss| {
                    let (want, gradient, health, bank) = wanted.next().unwrap();
                    let tau = case.head.temperature();
                    // Products of 16 bits are rounded at 2^-15 or so, over τ.
                    let rough = dtype != RowType::F32 && !case.head.samples();
                    let limit = if rough { 2e-5 / tau } else { 2e-6 / tau };
                    assert!(
                        (loss - want).abs() <= limit + 2e-5 * want.abs(),
                        "{what}: loss {loss}, not {want}"
                    );
                    // Where the own row is all, the gradient is nothing but what was rounded.
                    let least = 0.005 / f64::from(tau);
                    let off = relative(&engine.read(GRADIENT).unwrap(), gradient, least);
                    let limit = if dtype == RowType::F32 { 1e-4 } else { 2e-2 };
                    assert!(off < limit, "{what}: gradient off by {off}");
                    let got = engine.bank_health().unwrap();
                    assert!(
                        (got.alignment - health.alignment).abs() < 1e-5 * 3.0,
                        "{what}: {got:?}, not {health:?}"
                    );
                    // Where the own row is all, what is left of the others is lost to rounding.
                    let (got, want) = (got.effective_negatives, health.effective_negatives);
                    if tau > 0.05 && case.rows > 2 {
                        let limit = if rough { 2e-3 } else { 1e-3 };
                        assert!(
                            (got - want).abs() <= limit * want,
                            "{what}: worth {got} negatives, not {want}"
                        );
                    }
                    // A bit more or less where f32 and f64 round to different sides, two in the second step.
                    let ulp = match dtype {
                        RowType::F32 => 1e-6,
                        RowType::Bf16 => 2.0 / 128.0,
                        RowType::F16 => 2.0 / 1024.0,
                    };
                    let mut rounded = 0;
                    for (got, want) in engine.read(BANK).unwrap().iter().zip(bank) {
                        assert!(
                            (got - want).abs() <= ulp * (want.abs() + 0.02) + 1e-6,
                            "{what}: {got} in the bank, not {want}"
                        );
                        rounded += usize::from(got != want);
                    }
                    let share = rounded as f64 / (case.batch * case.dim) as f64;
                    assert!(dtype == RowType::F32 || share < 0.01 + 2.0 / (case.dim as f64));
                });
            }
        }
    }
}

/// A row that isn't a number must not get lost among integers.
#[test]
fn nan_in_a_narrow_bank_reaches_the_loss() {
    let case = cases()[0];
    for (_, dtype) in RowType::NAMED {
        for isa in Isa::available() {
            let options = Options {
                threads: 1,
                isa,
                dtype: Dtype::F32,
            };
            let description = case.description(dtype);
            let mut cpu = Cpu::compile(&description, case.sizes(), options).unwrap();
            let mut bank = case.bank();
            bank[77 * case.dim + 5] = f32::NAN;
            cpu.write(BANK, &bank).unwrap();
            case.run(&mut cpu, |_, loss| {
                assert!(loss.is_nan(), "{dtype:?} {isa:?}")
            });
        }
    }
}

/// The number of threads changes no bit, and a bank of 16 bits takes half the memory.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for case in [cases()[0], cases()[14], cases()[28]] {
        for (_, dtype) in RowType::NAMED {
            for isa in Isa::available() {
                let run = |threads: usize| {
                    let options = Options {
                        threads,
                        isa,
                        dtype: Dtype::F32,
                    };
                    let description = case.description(dtype);
                    let mut cpu = Cpu::compile(&description, case.sizes(), options).unwrap();
                    let mut bits = Vec::new();
                    case.run(&mut cpu, |engine, loss| {
                        bits.push(loss.to_bits());
                        for name in [GRADIENT, BANK] {
                            let values = engine.read(name).unwrap();
                            bits.extend(values.iter().map(|x| x.to_bits()));
                        }
                    });
                    (bits, cpu.info().planned_bytes)
                };
                let (one, bytes) = run(1);
                for threads in [2, 3] {
                    assert!(run(threads).0 == one, "{dtype:?} {isa:?} {threads} threads");
                }
                let wide = case.description(RowType::F32);
                let options = Options {
                    threads: 1,
                    isa,
                    dtype: Dtype::F32,
                };
                let wide = Cpu::compile(&wide, case.sizes(), options).unwrap();
                let saved = case.rows * case.dim * (4 - dtype.bytes());
                assert_eq!(bytes + saved as u64, wide.info().planned_bytes);
            }
        }
    }
}
