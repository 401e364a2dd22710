//! The cpu engine with maps of bf16, on every instruction set this machine has. That single
//! operations differ from f32 by rounding alone is tested beside them; this is what comes of it in
//! whole networks.

mod common;

use common::{assert_same_bits, cases, compare, images, normal, pixels, semantics};
use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::{Description, Draws, Dtype, Engine, Norm, Objective, Output, Sizes, StateKind};

fn cpu(isa: Isa, threads: usize, dtype: Dtype) -> impl Fn(&Description, Sizes) -> Box<dyn Engine> {
    move |description, sizes| {
        let options = Options {
            threads,
            isa,
            dtype,
        };
        Box::new(Cpu::compile(description, sizes, options).unwrap())
    }
}

#[test]
fn keeps_its_promises() {
    for isa in Isa::available() {
        println!("{isa:?}");
        semantics::all(&cpu(isa, 2, Dtype::Bf16));
    }
}

/// ‖got - want‖ / ‖want‖
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (mut off, mut all) = (0.0, 0.0);
    for (got, want) in got.iter().zip(want) {
        off += square(got - want);
        all += square(*want);
    }
    (off / all).sqrt()
}

/// Rounds what isn't a vector: weights of convolutions and linear layers.
fn round_weights(engine: &mut dyn Engine) {
    let weights =
        |e: &npid_engine::StateEntry| matches!(e.kind, StateKind::Param(_)) && e.shape.len() > 1;
    for entry in engine.state().into_iter().filter(weights) {
        let mut values = engine.read(&entry.name).unwrap();
        (values.iter_mut()).for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
        engine.write(&entry.name, &values).unwrap();
    }
}

/// How far rounding may lead is a matter of the network: where a ReLU's sign turns, a gradient goes
/// another way, and norms over few values amplify what is small. So maps of bf16 are held against
/// another rounding to 8 bits, that of the weights in f32: what either does is of one size.
#[test]
fn features_and_gradients_are_as_near_f32_as_eight_bits_allow() {
    for isa in Isa::available() {
        for name in [
            "r18-w8-batch-of-12",
            "r18-w3-softmax-imagenet",
            "r18-w3-contrastive",
        ] {
            let case = cases::case(name);
            let description = case.description();
            let make = |dtype| {
                let mut engine = cpu(isa, 2, dtype)(&description, case.sizes);
                compare::scatter(engine.as_mut(), 3);
                engine
            };
            let (mut f32, mut bf16) = (make(Dtype::F32), make(Dtype::Bf16));
            assert_eq!((f32.info().dtype, bf16.info().dtype), ("f32", "bf16"));
            let mut other = make(Dtype::F32);
            round_weights(other.as_mut());
            let count = case.sizes.batch;
            let pixels = pixels(count, case.sizes, case.in_channels, 5);
            let batch = images(&pixels, count);
            for norm in [Norm::Eval, Norm::Batch] {
                let of = |engine: &mut Box<dyn Engine>| {
                    let mut into = [Vec::new()];
                    let asked = [Output::Embedding];
                    engine.features(batch, norm, &asked, &mut into).unwrap();
                    let [feature] = into;
                    feature
                };
                let truth = of(&mut f32);
                let (off, scale) = (
                    distance(&of(&mut bf16), &truth),
                    distance(&of(&mut other), &truth),
                );
                let what = format!("{isa:?} {name} {norm:?}: features {off:.4}, {scale:.4}");
                println!("{what}");
                assert!(off > 1e-6 && off < 0.01 + 3.0 * scale, "{what}");
            }
            let gradient: Vec<f32> = (normal(count * description.network.feat_dim(), 7).iter())
                .map(|v| *v as f32)
                .collect();
            let objective = Objective::FeatureGradient {
                gradient: &gradient,
            };
            let of = |engine: &mut Box<dyn Engine>| {
                engine.gradient(batch, objective).unwrap();
                let state = engine.state().into_iter();
                let gradients = state.filter(|e| matches!(e.kind, StateKind::Gradient(_)));
                let all = gradients.flat_map(|e| engine.read(&e.name).unwrap());
                all.collect::<Vec<f32>>()
            };
            let truth = of(&mut f32);
            let (off, scale) = (
                distance(&of(&mut bf16), &truth),
                distance(&of(&mut other), &truth),
            );
            let what = format!("{isa:?} {name}: gradients {off:.4}, {scale:.4}");
            println!("{what}");
            assert!(off > 1e-6 && off < 3.0 * scale, "{what}");
        }
    }
}

/// One number in two bytes: half the memory of a network whose maps take nearly all of it.
#[test]
fn maps_take_half_the_memory() {
    let case = cases::case("r18-w3-softmax-imagenet");
    let sizes = Sizes {
        batch: 64,
        height: 64,
        width: 64,
    };
    let planned = |dtype| {
        let engine = cpu(Isa::Portable, 1, dtype)(&case.description(), sizes);
        engine.info().planned_bytes as f64
    };
    let ratio = planned(Dtype::Bf16) / planned(Dtype::F32);
    assert!(ratio > 0.45 && ratio < 0.6, "{ratio}");
}

/// Neither the number of threads nor a stop in between changes a bit, and the loss falls.
#[test]
fn training_repeats_itself_and_learns() {
    let case = cases::case("r18-w8-batch-of-12");
    let description = case.description();
    for isa in Isa::available() {
        let count = case.sizes.batch;
        let batch = pixels(count, case.sizes, case.in_channels, 2);
        let rows: Vec<u64> = (0..count as u64).collect();
        let train = |engine: &mut Box<dyn Engine>, steps: std::ops::Range<u32>| -> Vec<f32> {
            let occurrences = vec![0; count];
            let step = |epoch| {
                let draws = Draws::Sampled {
                    epoch,
                    occurrences: &occurrences,
                };
                let objective = Objective::Npid { rows: &rows, draws };
                engine.step(images(&batch, count), objective, 0.02).unwrap()[0].value
            };
            steps.map(step).collect()
        };
        let make = |threads| cpu(isa, threads, Dtype::Bf16)(&description, case.sizes);
        let mut one = make(1);
        let losses = train(&mut one, 0..12);
        assert!(losses.iter().all(|l| l.is_finite()), "{isa:?}: {losses:?}");
        assert!(losses[11] < 0.9 * losses[0], "{isa:?}: {losses:?}");
        for threads in [2, 3] {
            let mut more = make(threads);
            assert_eq!(train(&mut more, 0..12), losses, "{isa:?} x{threads}");
            assert_same_bits("threads", one.as_ref(), more.as_ref());
        }
        let mut first = make(2);
        train(&mut first, 0..5);
        let mut second = make(2);
        for entry in first.state().into_iter().filter(|e| e.saved()) {
            let values = first.read(&entry.name).unwrap();
            second.write(&entry.name, &values).unwrap();
        }
        assert_eq!(train(&mut second, 5..12), losses[5..], "{isa:?}: resumed");
        assert_same_bits("resumed", one.as_ref(), second.as_ref());
    }
}
