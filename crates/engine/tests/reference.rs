//! The reference engine in f32: what the interface promises, and its distance from f64.

mod common;

use common::{assert_close, cases, compare, semantics};
use npid_engine::reference::{Reference, sgd};
use npid_engine::{Description, Engine, Sizes};
use npid_network::graph::{Init, Param};
use npid_network::method::Sgd;

const STEP: sgd::Step = sgd::Step {
    lr: 0.1,
    scale: 1.0,
};

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

/// Three steps of `torch.optim.SGD(lr=0.1 * 0.5, momentum=0.9, weight_decay=0.01 * 2)` in f64, of
/// PyTorch 2.15.
#[test]
fn sgd_is_pytorchs_with_the_factors_of_a_parameter() {
    let plain = [
        [0.974, -2.048],
        [0.999626, -2.101652],
        [1.021689774, -2.147837148],
    ];
    let nesterov = [
        [0.9506, -2.0912],
        [1.02273386, -2.14985672],
        [1.041566679666, -2.189195120232],
    ];
    let param = Param {
        name: "w".into(),
        shape: vec![2],
        init: Init::Constant(0.0),
        trainable: true,
        lr_mult: 0.5,
        decay_mult: 2.0,
        lars_exclude: false,
    };
    for (look_ahead, want) in [(false, plain), (true, nesterov)] {
        let optimizer = Sgd {
            momentum: 0.9,
            nesterov: look_ahead,
            weight_decay: 0.01,
            lars: None,
        };
        let (mut w, mut u) = ([1.0, -2.0], [0.0, 0.0]);
        let gradients = [[0.5, 1.0], [-1.0, 0.25], [0.0, 0.0]];
        for (gradient, want) in gradients.iter().zip(want) {
            sgd::step(&optimizer, &param, STEP, &mut w, gradient, Some(&mut u));
            // The settings are f32, PyTorch's f64.
            assert_close("w", &w, &want, 1e-7, 0.0);
        }
    }
    let optimizer = Sgd {
        momentum: 0.0,
        nesterov: false,
        weight_decay: 0.01,
        lars: None,
    };
    let mut w = [1.0, -2.0];
    sgd::step(&optimizer, &param, STEP, &mut w, &[0.5, 1.0], None);
    assert_close("without momentum", &w, &plain[0], 1e-7, 0.0);
}
