//! The cpu engine against the reference, on every instruction set this machine has.

mod common;

use common::{assert_same_bits, cases, compare, images, pixels, semantics};
use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::{Description, Draws, Dtype, Engine, Objective, Sizes};

fn cpu(isa: Isa, threads: usize) -> impl Fn(&Description, Sizes) -> Box<dyn Engine> {
    move |description, sizes| {
        let options = Options {
            threads,
            isa,
            dtype: Dtype::F32,
        };
        Box::new(Cpu::compile(description, sizes, options).unwrap())
    }
}

#[test]
fn every_program_is_the_references() {
    for isa in Isa::available() {
        for case in cases::all() {
            println!("{isa:?} {}", case.name);
            compare::against_reference(&case, &cpu(isa, 2), compare::F32);
        }
    }
}

#[test]
fn keeps_its_promises() {
    for isa in Isa::available() {
        println!("{isa:?}");
        semantics::all(&cpu(isa, 2));
    }
}

#[test]
fn trains_like_the_reference() {
    for isa in Isa::available() {
        for (name, lr) in compare::TRAINABLE {
            println!("{isa:?} {name}");
            compare::trains_alike(&cases::case(name), &cpu(isa, 1), lr, 1e-3);
        }
    }
}

/// The number of threads changes no bit of anything.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for isa in Isa::available() {
        for case in cases::all() {
            let description = case.description();
            let run = |threads: usize| {
                let mut engine = cpu(isa, threads)(&description, case.sizes);
                let mut losses = Vec::new();
                for step in 0..2 {
                    let count = case.sizes.batch - step;
                    let pixels = pixels(count, case.sizes, case.in_channels, step as u64);
                    let rows: Vec<u64> = (0..count as u64).collect();
                    let labels = vec![1; count];
                    let occurrences = vec![0; count];
                    let objective = if case.head.is_some() {
                        Objective::Npid {
                            rows: &rows,
                            draws: Draws::Sampled {
                                epoch: 0,
                                occurrences: &occurrences,
                            },
                        }
                    } else {
                        Objective::CrossEntropy { labels: &labels }
                    };
                    let got = engine
                        .step(images(&pixels, count), objective, 0.05)
                        .unwrap();
                    losses.extend(got.into_iter().map(|l| l.value.to_bits()));
                }
                (engine, losses)
            };
            let (one, losses) = run(1);
            for threads in [2, 3] {
                let (more, other) = run(threads);
                let what = format!("{isa:?} {} with {threads} threads", case.name);
                assert_eq!(losses, other, "{what}: losses");
                assert_same_bits(&what, one.as_ref(), more.as_ref());
            }
        }
    }
}
