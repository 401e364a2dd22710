//! Every reference operation against central differences of Σ out·r, r random, in f64.

mod common;

use common::{assert_close, images, normal, pixels};
use npid_engine::reference::{
    Reference, batch_norm, conv2d, cross_entropy, elementwise, l2_norm, linear, npid, pool,
};
use npid_engine::{Draws, Engine, Objective, Sizes};
use npid_network::graph::{Conv2d, ParamId, Shape, Window};
use npid_network::method::{Head, MemoryBank, Npid, RowStorage, RowType};

fn weighted(out: &[f64], r: &[f64]) -> f64 {
    assert_eq!(out.len(), r.len());
    out.iter().zip(r).map(|(a, b)| a * b).sum()
}

/// (f(x + h) - f(x - h)) / 2h for every element of x.
fn differences(x: &[f64], h: f64, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut moved = x.to_vec();
    (0..x.len())
        .map(|i| {
            moved[i] = x[i] + h;
            let up = f(&moved);
            moved[i] = x[i] - h;
            let down = f(&moved);
            moved[i] = x[i];
            (up - down) / (2.0 * h)
        })
        .collect()
}

#[track_caller]
fn check(name: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_close(name, gradient, &differences(x, 1e-5, f), 2e-8, 2e-7);
}

#[test]
fn convolution() {
    // (batch, h, w, in, out, kernel, stride, padding)
    for (case, (b, h, w, i, o, kernel, stride, padding)) in [
        (2, 5, 4, 3, 2, 3, 1, 1),
        (3, 6, 7, 1, 3, 3, 2, 1),
        (1, 4, 5, 4, 1, 1, 1, 0),
        (2, 5, 3, 2, 3, 1, 2, 0),
        (1, 9, 8, 2, 2, 7, 2, 3),
        (2, 3, 2, 1, 2, 7, 1, 3),
        (2, 6, 5, 2, 3, 3, 1, 0),
        (1, 5, 6, 2, 2, 3, 2, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let size = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let input = Shape { h, w, c: i };
        let output = Shape {
            h: size(h),
            w: size(w),
            c: o,
        };
        let conv = Conv2d {
            weight: ParamId(0),
            in_channels: i,
            out_channels: o,
            kernel,
            stride,
            padding,
        };
        let tag = 100 * case as u64;
        let x = normal(b * input.len(), tag + 1);
        let weight = normal(o * i * kernel * kernel, tag + 2);
        let r = normal(b * output.len(), tag + 3);
        let run = |x: &[f64], weight: &[f64]| {
            weighted(&conv2d::forward(x, weight, &conv, b, input, output), &r)
        };
        let dx = conv2d::backward_input(&r, &weight, &conv, b, input, output);
        check(&format!("conv {case} dx"), &x, &dx, |x| run(x, &weight));
        // The weight's gradient adds to what is there.
        let before = normal(weight.len(), tag + 4);
        let mut dw = before.clone();
        conv2d::backward_weight(&x, &r, &mut dw, &conv, b, input, output);
        dw.iter_mut().zip(&before).for_each(|(d, b)| *d -= b);
        check(&format!("conv {case} dw"), &weight, &dw, |w| run(&x, w));
    }
}

/// A value worked out by hand, so that a convolution that flips its kernel can't pass.
#[test]
fn convolution_is_a_cross_correlation_in_torchvisions_layout() {
    let conv = Conv2d {
        weight: ParamId(0),
        in_channels: 1,
        out_channels: 1,
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    let shape = Shape { h: 2, w: 2, c: 1 };
    let weight: Vec<f64> = (1..=9).map(f64::from).collect();
    let y = conv2d::forward(&[1.0, 10.0, 100.0, 1000.0], &weight, &conv, 1, shape, shape);
    assert_eq!(y, [9865.0, 8754.0, 6532.0, 5421.0]);
}

#[test]
fn batch_norm_through_the_statistics_of_the_batch() {
    for (case, (count, channels)) in [(7, 3), (2, 1), (12, 5)].into_iter().enumerate() {
        let tag = 2000 + 10 * case as u64;
        let x = normal(count * channels, tag);
        let (gamma, beta) = (normal(channels, tag + 1), normal(channels, tag + 2));
        let r = normal(x.len(), tag + 3);
        let run = |x: &[f64], gamma: Option<&[f64]>, beta: Option<&[f64]>| {
            let moments = batch_norm::Moments::of(x, channels);
            weighted(&batch_norm::forward(x, &moments, 1e-5, gamma, beta), &r)
        };
        let moments = batch_norm::Moments::of(&x, channels);
        let (mut dgamma, mut dbeta) = (vec![0.5; channels], vec![-0.5; channels]);
        let dx = batch_norm::backward(
            &x,
            &r,
            &moments,
            1e-5,
            Some(&gamma),
            Some(&mut dgamma),
            Some(&mut dbeta),
        );
        dgamma.iter_mut().for_each(|d| *d -= 0.5);
        dbeta.iter_mut().for_each(|d| *d += 0.5);
        check("dx", &x, &dx, |x| run(x, Some(&gamma), Some(&beta)));
        check("dγ", &gamma, &dgamma, |g| run(&x, Some(g), Some(&beta)));
        check("dβ", &beta, &dbeta, |b| run(&x, Some(&gamma), Some(b)));
        let dx = batch_norm::backward(&x, &r, &moments, 1e-5, None, None, None);
        check("dx without affine", &x, &dx, |x| run(x, None, None));
    }
}

#[test]
fn batch_norm_through_running_statistics() {
    let (count, channels) = (7, 3);
    let x = normal(count * channels, 2500);
    let (gamma, beta) = (normal(channels, 2501), normal(channels, 2502));
    let r = normal(x.len(), 2503);
    let moments = batch_norm::Moments::running(&[0.3, -0.2, 0.0], &[0.5, 2.0, 1.0]);
    let run = |x: &[f64], gamma: &[f64], beta: &[f64]| {
        let y = batch_norm::forward(x, &moments, 1e-5, Some(gamma), Some(beta));
        weighted(&y, &r)
    };
    let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
    let (g, dg, db) = (Some(&gamma[..]), &mut dgamma[..], &mut dbeta[..]);
    let dx = batch_norm::backward(&x, &r, &moments, 1e-5, g, Some(dg), Some(db));
    check("dx", &x, &dx, |x| run(x, &gamma, &beta));
    check("dγ", &gamma, &dgamma, |g| run(&x, g, &beta));
    check("dβ", &beta, &dbeta, |b| run(&x, &gamma, b));
}

#[test]
fn relu_and_add() {
    // No value within the step of the kink.
    let x: Vec<f64> = normal(60, 3000)
        .iter()
        .map(|v| v + 0.01 * v.signum())
        .collect();
    let r = normal(60, 3001);
    let dx = elementwise::relu_backward(&x, &r);
    check("relu", &x, &dx, |x| weighted(&elementwise::relu(x), &r));
    assert_eq!(elementwise::relu_backward(&[0.0], &[1.0]), [0.0]);
    assert!(elementwise::relu(&[f64::NAN])[0].is_nan());
    let b = normal(60, 3002);
    check("add, left", &x, &r, |x| {
        weighted(&elementwise::add(x, &b), &r)
    });
    check("add, right", &b, &r, |b| {
        weighted(&elementwise::add(&x, b), &r)
    });
}

#[test]
fn max_pool_away_from_ties() {
    for (case, (h, w, kernel, stride, padding)) in [
        (6, 5, 3, 2, 1),
        (7, 4, 2, 2, 0),
        (4, 5, 3, 1, 1),
        (3, 3, 2, 1, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let tag = 4000 + 10 * case as u64;
        let (batch, c) = (2, 3);
        let size = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let input = Shape { h, w, c };
        let output = Shape {
            h: size(h),
            w: size(w),
            c,
        };
        let window = Window {
            kernel,
            stride,
            padding,
        };
        // Distinct multiples of a tenth in random order, all negative: a border that counted as 0
        // would win.
        let mut x: Vec<f64> = (1..=batch * input.len()).map(|v| v as f64 * -0.1).collect();
        common::stream(tag).shuffle(&mut x);
        let r = normal(batch * output.len(), tag + 1);
        let run = |x: &[f64]| pool::max_forward(x, &window, batch, input, output);
        let (y, winners) = run(&x);
        assert!(y.iter().all(|v| *v < 0.0));
        let dx = pool::max_backward(&r, &winners, x.len());
        check("max pool", &x, &dx, |x| weighted(&run(x).0, &r));
    }
    // Among equals the first in reading order wins.
    let shape = |h, w| Shape { h, w, c: 1 };
    let window = Window {
        kernel: 2,
        stride: 2,
        padding: 0,
    };
    let (_, winners) = pool::max_forward(&[0.0f64; 4], &window, 1, shape(2, 2), shape(1, 1));
    assert_eq!(winners, [0]);
}

#[test]
fn average_pool() {
    let input = Shape { h: 3, w: 5, c: 4 };
    let (x, r) = (normal(2 * input.len(), 5000), normal(2 * 4, 5001));
    let dx = pool::average_backward(&r, input);
    check("average pool", &x, &dx, |x| {
        weighted(&pool::average_forward(x, input), &r)
    });
}

#[test]
fn linear_layer() {
    let (batch, inputs, outputs) = (3, 5, 4);
    let x = normal(batch * inputs, 6000);
    let (w, b) = (normal(outputs * inputs, 6001), normal(outputs, 6002));
    let r = normal(batch * outputs, 6003);
    let run =
        |x: &[f64], w: &[f64], b: &[f64]| weighted(&linear::forward(x, w, Some(b), inputs), &r);
    let dx = linear::backward_input(&r, &w, inputs);
    let (mut dw, mut db) = (vec![1.0; w.len()], vec![2.0; b.len()]);
    linear::backward_weight(&x, &r, &mut dw, inputs);
    linear::backward_bias(&r, &mut db);
    dw.iter_mut().for_each(|d| *d -= 1.0);
    db.iter_mut().for_each(|d| *d -= 2.0);
    check("dx", &x, &dx, |x| run(x, &w, &b));
    check("dw", &w, &dw, |w| run(&x, w, &b));
    check("db", &b, &db, |b| run(&x, &w, b));
    let none = linear::forward(&x, &w, None, inputs);
    assert_close(
        "no bias",
        &none,
        &linear::forward(&x, &w, Some(&[0.0; 4]), inputs),
        0.0,
        0.0,
    );
}

#[test]
fn l2_normalisation() {
    let (x, r) = (normal(3 * 5, 7000), normal(3 * 5, 7001));
    let dx = l2_norm::backward(&x, &r, 5);
    check("l2 norm", &x, &dx, |x| {
        weighted(&l2_norm::forward(x, 5), &r)
    });
    let y = l2_norm::forward(&x, 5);
    for row in y.chunks(5) {
        assert!((row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
    }
    // Below the floor it is a division by 1e-12.
    let tiny: Vec<f64> = x.iter().map(|v| v * 1e-14).collect();
    let dx = l2_norm::backward(&tiny, &r, 5);
    let numeric = differences(&tiny, 1e-15, |x| weighted(&l2_norm::forward(x, 5), &r));
    assert_close("l2 norm below its floor", &dx, &numeric, 0.0, 1e-6);
    assert_eq!(l2_norm::forward(&[0.0; 4], 4), [0.0; 4]);
}

/// Unit rows.
fn rows(n: usize, dim: usize, tag: u64) -> Vec<f64> {
    l2_norm::forward(&normal(n * dim, tag), dim)
}

#[test]
fn both_heads_with_respect_to_the_features() {
    let (batch, dim, n) = (3, 4, 9);
    let (f, bank) = (rows(batch, dim, 8000), rows(n, dim, 8001));
    let own = [4, 0, 4];
    for tau in [0.07f32, 0.5] {
        // Negatives repeat, and the second image's hit its own row.
        let negatives = [1, 2, 1, 8, 0, 3, 0, 0, 5, 5, 6, 7];
        let loss = |f: &[f64]| npid::contrastive(f, &bank, &own, &negatives, tau);
        check("contrastive", &f, &loss(&f).gradient, |f| loss(f).value);
        let mut excluded = [false; 9];
        for k in 0..3 {
            let loss = |f: &[f64]| npid::softmax(f, &bank, &own, &excluded, tau);
            check("softmax", &f, &loss(&f).gradient, |f| loss(f).value);
            excluded[[7, 2, 3][k]] = true;
        }
    }
}

#[test]
fn nce_with_respect_to_the_features() {
    let (batch, dim, n) = (3, 4, 9);
    let (f, bank) = (rows(batch, dim, 8200), rows(n, dim, 8201));
    let own = [4, 0, 4];
    let negatives = [1, 2, 1, 8, 0, 3, 0, 0, 5, 5, 6, 7];
    for (temperature, proximal) in [(0.5f32, 0.0), (0.07, 0.0), (0.07, 0.8)] {
        let log_z = npid::estimate_log_z(&f, &bank, &own, &negatives, temperature);
        let nce = npid::Nce {
            temperature,
            proximal,
            log_z,
        };
        let loss = |f: &[f64]| npid::nce(f, &bank, &own, &negatives, nce);
        check("nce", &f, &loss(&f).gradient, |f| loss(f).value);
    }
}

/// Worked out by the formulas as the paper writes them, which overflow only for smaller τ.
#[test]
fn nce_is_the_papers() {
    let (f, bank) = (rows(2, 4, 8300), rows(5, 4, 8301));
    let (own, negatives, tau) = ([1u64, 3], [0u64, 1, 4, 2, 2, 0], 0.1f32);
    let t = f64::from(tau);
    let exp = |i: usize, j: u64| {
        let both = f[i * 4..][..4].iter().zip(&bank[j as usize * 4..][..4]);
        (both.map(|(a, b)| a * b).sum::<f64>() / t).exp()
    };
    let candidates = |i: usize| [own[i]].into_iter().chain(negatives[i * 3..][..3].to_vec());
    let all: Vec<f64> = (0..2)
        .flat_map(|i| candidates(i).map(move |j| exp(i, j)))
        .collect();
    let z = 5.0 * all.iter().sum::<f64>() / 8.0;
    let log_z = npid::estimate_log_z(&f, &bank, &own, &negatives, tau);
    assert!((log_z - z.ln()).abs() < 1e-12);
    // P / (P + m·Pn), with Pn = 1/n.
    let h = |i: usize, j: u64| exp(i, j) / z / (exp(i, j) / z + 3.0 / 5.0);
    let mut want = 0.0;
    for i in 0..2 {
        want -= h(i, own[i]).ln();
        want -= candidates(i)
            .skip(1)
            .map(|j| (1.0 - h(i, j)).ln())
            .sum::<f64>();
    }
    let nce = npid::Nce {
        temperature: tau,
        proximal: 0.0,
        log_z,
    };
    let got = npid::nce(&f, &bank, &own, &negatives, nce).value;
    assert!((got - want / 2.0).abs() < 1e-12, "{got} {want}");
    // A running mean is one of Z, not of its logarithm.
    let moved = npid::running_log_z(2f64.ln(), 6f64.ln(), 0.25);
    assert!((moved - 3f64.ln()).abs() < 1e-12);
}

#[test]
fn heads_of_features_that_know_nothing_are_at_chance() {
    let bank = rows(6, 4, 8100);
    let zero = [0.0; 8];
    let contrastive = npid::contrastive(&zero, &bank, &[1, 2], &[0; 10], 0.1).value;
    assert!((contrastive - 6f64.ln()).abs() < 1e-12);
    let softmax = npid::softmax(&zero, &bank, &[1, 2], &[false; 6], 0.1).value;
    assert!((softmax - 6f64.ln()).abs() < 1e-12);
    let negatives = [0; 10];
    let nce = npid::Nce {
        temperature: 0.1,
        proximal: 0.0,
        log_z: npid::estimate_log_z(&zero, &bank, &[1, 2], &negatives, 0.1),
    };
    let got = npid::nce(&zero, &bank, &[1, 2], &negatives, nce).value;
    let method = Npid {
        head: Head::Nce {
            temperature: 0.1,
            z_momentum: 0.0,
            proximal: 0.0,
        },
        memory_bank: MemoryBank {
            length: 6,
            feat_dim: 4,
            momentum: 0.5,
            dtype: RowType::F32,
            storage: RowStorage::Memory,
        },
        neg_num: 5,
        ensure_neg: false,
    };
    assert!((got - method.chance_loss()).abs() < 1e-12, "{got}");
}

#[test]
fn cross_entropy_with_respect_to_the_logits() {
    let z: Vec<f64> = normal(4 * 5, 9000).iter().map(|v| v * 3.0).collect();
    let labels = [0, 4, 2, 2];
    let loss = |z: &[f64]| cross_entropy::cross_entropy(z, &labels);
    check("cross entropy", &z, &loss(&z).gradient, |z| loss(z).value);
    // Far logits neither overflow nor lose the answer.
    let far = cross_entropy::cross_entropy(&[2000.0, 0.0], &[1]).value;
    assert!((far - 2000.0).abs() < 1e-9);
}

#[test]
fn input_is_normalised_channel_by_channel() {
    let got: Vec<f64> = elementwise::normalise(&[0, 255, 51, 102], &[0.25, 0.5], &[0.5, 0.25]);
    assert_close("input", &got, &[-0.5, 2.0, -0.1, -0.4], 1e-7, 0.0);
}

/// A whole network: ResNet-18 with norm, add, strides and neck, for the NPID objective.
#[test]
fn whole_network_for_npid() {
    let sizes = Sizes {
        batch: 3,
        height: 9,
        width: 7,
    };
    for (which, case) in [
        "r18-w3-contrastive",
        "r18-w3-softmax-imagenet",
        "r18-w4-weighted-mocov2-neck",
        "r18-w7-norm-eval-frozen-stem",
    ]
    .iter()
    .enumerate()
    {
        let case = common::cases::case(case);
        let description = case.description();
        let mut engine = Reference::<f64>::compile(&description, sizes).unwrap();
        common::compare::scatter(&mut engine, 77 + which as u64);
        let pixels = pixels(3, sizes, case.in_channels, 10 + which as u64);
        let negatives: Vec<u64> = (0..3 * case.neg_num as u64)
            .map(|k| k * 7 % case.rows as u64)
            .collect();
        let rows = [3, 0, 3];
        let loss = |engine: &mut Reference<f64>| {
            let objective = Objective::Npid {
                rows: &rows,
                draws: Draws::Given(&negatives),
            };
            engine.gradient(images(&pixels, 3), objective).unwrap();
            engine.losses()[0]
        };
        loss(&mut engine);
        let gradients: Vec<Vec<f64>> = (description.network.params.iter())
            .map(|p| {
                let gradient = engine.values(&format!("gradient.{}", p.name));
                gradient.map_or(Vec::new(), <[f64]>::to_vec)
            })
            .collect();
        let largest = gradients.iter().flatten().fold(0f64, |a, g| a.max(g.abs()));
        for (p, gradient) in description.network.params.iter().zip(&gradients) {
            if !p.trainable {
                assert!(gradient.is_empty(), "{}: {}", case.name, p.name);
                continue;
            }
            for at in [0, p.len() / 3, p.len() - 1] {
                let h = 1e-6;
                let at_value = engine.values(&p.name).unwrap()[at];
                let mut moved = |value: f64| {
                    engine.values_mut(&p.name).unwrap()[at] = value;
                    loss(&mut engine)
                };
                let numeric = (moved(at_value + h) - moved(at_value - h)) / (2.0 * h);
                moved(at_value);
                let name = format!("{}: {}[{at}]", case.name, p.name);
                assert_close(&name, &[gradient[at]], &[numeric], 1e-7 * largest, 1e-5);
            }
        }
    }
}
