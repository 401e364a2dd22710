//! The reference engine in f32: what the interface promises, and its distance from f64.

mod common;

use common::{cases, compare, semantics};
use npid_engine::reference::Reference;
use npid_engine::{Description, Engine, Sizes};

fn single(description: &Description, sizes: Sizes) -> Box<dyn Engine> {
    Box::new(Reference::<f32>::compile(description, sizes).unwrap())
}

fn double(description: &Description, sizes: Sizes) -> Box<dyn Engine> {
    Box::new(Reference::<f64>::compile(description, sizes).unwrap())
}

#[test]
fn keeps_its_promises_in_f32() {
    semantics::all(&single);
}

#[test]
fn keeps_its_promises_in_f64() {
    semantics::all(&double);
}

#[test]
fn f32_is_near_f64_in_every_program() {
    for case in cases::all() {
        compare::against_reference(&case, &single, compare::F32);
    }
}

#[test]
fn f32_trains_like_f64() {
    for (name, lr) in compare::TRAINABLE {
        compare::trains_alike(&cases::case(name), &single, lr, 1e-3);
    }
}
