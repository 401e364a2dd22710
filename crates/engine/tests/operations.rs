//! What the CPU engine says of single operations.

mod common;

use std::time::{Duration, Instant};

use common::cases::{self, Case};
use common::{images, pixels};
use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::{Draws, Dtype, Engine, Norm, Objective, Operation, Output, What};
use npid_network::method::Head;

const ROWS: [u64; 4] = [2, 9, 0, 5];

fn compile(case: &Case) -> Cpu {
    let options = Options {
        threads: 2,
        isa: Isa::available()[0],
        dtype: Dtype::F32,
    };
    Cpu::compile(&case.description(), case.sizes, options).unwrap()
}

/// What a training step consists of, and how long it took.
fn step(engine: &mut Cpu, case: &Case) -> (Vec<Operation>, Duration) {
    let batch = pixels(4, case.sizes, case.in_channels, 1);
    let objective = Objective::Npid {
        rows: &ROWS,
        draws: Draws::Sampled {
            epoch: 0,
            occurrences: &[0; 4],
        },
    };
    let begun = Instant::now();
    engine.step(images(&batch, 4), objective, 0.1).unwrap();
    (engine.take_operations(), begun.elapsed())
}

fn sum(operations: &[Operation], what: What, of: impl Fn(&Operation) -> u64) -> u64 {
    operations.iter().filter(|o| o.what == what).map(of).sum()
}

#[test]
fn a_step_is_told_by_its_operations() {
    let case = cases::case("r18-w3-contrastive");
    let mut engine = compile(&case);
    let (untold, _) = step(&mut engine, &case);
    assert_eq!(untold, [], "nobody had asked");
    let (operations, whole) = step(&mut engine, &case);
    assert_eq!(engine.take_operations(), [], "they were taken");
    assert!(operations.iter().map(|o| o.time).sum::<Duration>() <= whole);

    let network = engine.description().network.clone();
    let (h, w) = (case.sizes.height, case.sizes.width);
    let flops = 4 * 2 * network.multiplications(h, w).unwrap();
    assert_eq!(sum(&operations, What::Convolution, |o| o.flops), flops);
    assert_eq!(sum(&operations, What::WeightGradient, |o| o.flops), flops);
    // The pictures themselves have no gradient.
    let stem = (operations.iter())
        .find(|o| o.what == What::Convolution)
        .unwrap();
    let data = sum(&operations, What::DataGradient, |o| o.flops);
    assert_eq!(data, flops - stem.flops);
    assert_eq!(stem.layer, "backbone.conv1");
    assert_eq!((stem.input.c, stem.count), (case.in_channels, 4));

    // f, v and the gradient have as many numbers.
    let method = engine.description().method.unwrap();
    let (k, dim) = (method.neg_num as u64, method.memory_bank.feat_dim as u64);
    let head: Vec<_> = (operations.iter())
        .filter(|o| o.what == What::Head)
        .collect();
    assert_eq!(head.len(), 1);
    assert_eq!(head[0].flops, 4 * 4 * (k + 1) * dim);
    for what in [What::Packing, What::BankUpdate, What::Optimizer] {
        assert_eq!(sum(&operations, what, |_| 1), 1, "{}", what.name());
    }
    let known = |o: &Operation| What::ALL.contains(&o.what) && o.bytes > 0;
    assert!(operations.iter().all(known), "{operations:?}");
}

#[test]
fn the_bank_s_work_is_that_of_its_head() {
    let case = Case {
        head: Some(Head::Softmax { temperature: 0.1 }),
        ..cases::case("r18-w3-contrastive")
    };
    let mut engine = compile(&case);
    engine.take_operations();
    let (operations, _) = step(&mut engine, &case);
    let bank = engine.description().method.unwrap().memory_bank;
    let numbers = (bank.length * bank.feat_dim) as u64;
    let (flops, bytes) = (|o: &Operation| o.flops, |o: &Operation| o.bytes);
    assert_eq!(sum(&operations, What::Head, flops), 4 * 4 * numbers);
    let features = 2 * 4 * 4 * bank.feat_dim as u64;
    assert_eq!(
        sum(&operations, What::Head, bytes),
        numbers * bank.dtype.bytes() as u64 + features
    );
}

#[test]
fn evaluation_has_one_operation_a_layer() {
    let case = cases::case("r18-w3-contrastive");
    let mut engine = compile(&case);
    engine.take_operations();
    let batch = pixels(4, case.sizes, case.in_channels, 1);
    let mut into = [Vec::new()];
    (engine.features(
        images(&batch, 4),
        Norm::Eval,
        &[Output::Embedding],
        &mut into,
    ))
    .unwrap();
    let operations = engine.take_operations();
    assert_eq!(sum(&operations, What::BatchNorm, |_| 1), 0);
    let network = engine.description().network.clone();
    let (h, w) = (case.sizes.height, case.sizes.width);
    let flops = 4 * 2 * network.multiplications(h, w).unwrap();
    assert_eq!(sum(&operations, What::Convolution, |o| o.flops), flops);
    assert_eq!(sum(&operations, What::Input, |_| 1), 1);
}
