//! What the interface promises, checked on any engine.

use std::time::{Duration, Instant};

use npid_engine::state::BANK;
use npid_engine::{Draws, Engine, Error, Norm, Objective, Output, Sizes, StateKind, Timings};
use npid_network::graph::Network;
use npid_network::init::initial_param;
use npid_network::method::{Head, NegativeSampler, Sgd};

use super::cases::{Case, case};
use super::compare::scatter;
use super::{Make, assert_close, assert_same_bits, bits, images, pixels};

/// Everything below.
pub fn all(make: Make<'_>) {
    starts_as_described(make);
    step_is_its_composition(make);
    time_is_told_once(make);
    super::heads::all(make);
    gradients_accumulate_and_apply_clears_them(make);
    a_row_twice_in_a_batch(make);
    bank_momentum_weights_the_new_feature(make);
    a_later_gradient_replaces_what_is_pending(make);
    excluded_rows_never_contribute(make);
    excluding_too_many_is_refused(make);
    bad_arguments_change_nothing(make);
    only_track_and_gradient_move_statistics(make);
    a_single_value_has_no_variance(make);
    frozen_parameters_stay(make);
    ensure_neg_redraws(make);
}

pub(super) fn start(make: Make<'_>, case: &Case) -> (Box<dyn Engine>, Vec<u8>) {
    let mut engine = make(&case.description(), case.sizes);
    scatter(engine.as_mut(), 1);
    let batch = pixels(case.sizes.batch, case.sizes, case.in_channels, 1);
    (engine, batch)
}

pub(super) const ROWS: [u64; 4] = [2, 9, 0, 5];
pub(super) const SAMPLED: Draws<'static> = Draws::Sampled {
    epoch: 1,
    occurrences: &[0, 0, 1, 0],
};
const NPID: Objective<'static> = Objective::Npid {
    rows: &ROWS,
    draws: SAMPLED,
};

pub(super) fn contrastive() -> Case {
    case("r18-w3-contrastive")
}

fn softmax() -> Case {
    Case {
        head: Some(Head::Softmax { temperature: 0.1 }),
        ..contrastive()
    }
}

fn starts_as_described(make: Make<'_>) {
    let description = contrastive().description();
    let engine = make(&description, contrastive().sizes);
    for entry in engine.state() {
        let values = engine.read(&entry.name).unwrap();
        assert_eq!(values.len(), entry.len(), "{}", entry.name);
        match entry.kind {
            StateKind::Param(i) => assert_eq!(values, initial_param(&description.network, i, 5)),
            StateKind::Momentum(_) | StateKind::Gradient(_) => {
                assert!(values.iter().all(|v| *v == 0.0), "{}", entry.name);
            }
            StateKind::Statistic(i) => {
                let initial = description.network.statistics[i].initial;
                assert!(values.iter().all(|v| *v == initial), "{}", entry.name);
            }
            StateKind::LogZ => assert_eq!(values, [f32::NEG_INFINITY]),
            StateKind::Bank => {
                for (j, row) in values.chunks(8).enumerate() {
                    assert_eq!(row, npid_network::init::random_row(j as u64, 8, 5));
                }
            }
        }
    }
    assert_eq!(engine.sizes(), contrastive().sizes);
    assert_eq!(engine.description(), &description);
    assert!(engine.info().planned_bytes > 0);
}

fn step_is_its_composition(make: Make<'_>) {
    for case in [contrastive(), softmax()] {
        let (mut fused, batch) = start(make, &case);
        let (mut parts, _) = start(make, &case);
        for _ in 0..2 {
            let a = fused.step(images(&batch, 4), NPID, 0.1).unwrap();
            let b = parts.gradient(images(&batch, 4), NPID).unwrap();
            parts.apply(0.1, 1.0);
            parts.update_bank().unwrap();
            assert_eq!(a[0].name, "loss");
            assert_eq!(a[0].value.to_bits(), b[0].value.to_bits());
            assert_same_bits("step", fused.as_ref(), parts.as_ref());
        }
        assert!(fused.update_bank().is_err(), "step left features pending");
    }
    let case = case("r18-classifier-alone");
    let (mut fused, batch) = start(make, &case);
    let (mut parts, _) = start(make, &case);
    let objective = Objective::CrossEntropy {
        labels: &[2, 0, 1, 1],
    };
    let a = fused.step(images(&batch, 4), objective, 0.1).unwrap();
    let b = parts.gradient(images(&batch, 4), objective).unwrap();
    parts.apply(0.1, 1.0);
    assert_eq!(a, b);
    assert_eq!(a[0].name, "head0.fc");
    assert_same_bits("step", fused.as_ref(), parts.as_ref());
}

fn time_is_told_once(make: Make<'_>) {
    let (mut engine, batch) = start(make, &contrastive());
    let mut features = [Vec::new()];
    let outputs = [Output::Embedding];
    (engine.features(images(&batch, 4), Norm::Eval, &outputs, &mut features)).unwrap();
    assert_eq!(engine.take_timings(), Some(Timings::default()));
    let begun = Instant::now();
    for _ in 0..2 {
        engine.step(images(&batch, 4), NPID, 0.1).unwrap();
    }
    let told = engine.take_timings().unwrap();
    let parts = [told.forward, told.backward, told.bank, told.optimizer];
    assert!(parts.iter().sum::<Duration>() <= begun.elapsed());
    assert!(parts.iter().all(|part| !part.is_zero()), "{told:?}");
    assert_eq!(engine.take_timings(), Some(Timings::default()));
}

fn gradients(engine: &dyn Engine) -> Vec<(String, Vec<f32>)> {
    let of = |e: npid_engine::StateEntry| {
        let is = matches!(e.kind, StateKind::Gradient(_));
        is.then(|| (e.name.clone(), engine.read(&e.name).unwrap()))
    };
    engine.state().into_iter().filter_map(of).collect()
}

fn gradients_accumulate_and_apply_clears_them(make: Make<'_>) {
    let (mut engine, batch) = start(make, &contrastive());
    engine.gradient(images(&batch, 4), NPID).unwrap();
    let once = gradients(engine.as_ref());
    // Training mode normalises by the batch, so moved statistics change no gradient.
    engine.gradient(images(&batch, 4), NPID).unwrap();
    for ((name, one), (_, two)) in once.iter().zip(gradients(engine.as_ref())) {
        let want: Vec<f32> = one.iter().map(|g| 2.0 * g).collect();
        assert_close(name, &two, &want, 1e-6, 1e-4);
    }
    assert!(once.iter().flat_map(|g| &g.1).any(|g| g.abs() > 1e-3));
    engine.apply(0.1, 1.0);
    for (name, values) in gradients(engine.as_ref()) {
        assert!(values.iter().all(|g| *g == 0.0), "{name} is not cleared");
    }
}

fn embedding(engine: &mut dyn Engine, pixels: &[u8], count: usize) -> Vec<f32> {
    let mut out = [Vec::new()];
    let outputs = [Output::Embedding];
    engine
        .features(images(pixels, count), Norm::Batch, &outputs, &mut out)
        .unwrap();
    out.into_iter().flatten().collect()
}

/// normalise(0.1·v + 0.9·f): m = 0.9 weights the new feature. A row twice reads the old one both
/// times, and the last in batch order is kept.
fn a_row_twice_in_a_batch(make: Make<'_>) {
    let case = Case {
        bank_momentum: 0.9,
        ..contrastive()
    };
    let (mut engine, batch) = start(make, &case);
    let features = embedding(engine.as_mut(), &batch, 4);
    let before = engine.read(BANK).unwrap();
    let objective = Objective::Npid {
        rows: &[7, 3, 7, 0],
        draws: SAMPLED,
    };
    engine.gradient(images(&batch, 4), objective).unwrap();
    assert_eq!(
        engine.read(BANK).unwrap(),
        before,
        "the gradient wrote the bank"
    );
    engine.update_bank().unwrap();
    let after = engine.read(BANK).unwrap();
    let winner = [3, 99, 99, 1, 99, 99, 99, 2, 99, 99, 99];
    for row in 0..11 {
        let old = &before[row * 8..][..8];
        let mut want = old.to_vec();
        if let Some(f) = features.chunks(8).nth(winner[row]) {
            want = old.iter().zip(f).map(|(v, f)| 0.1 * v + 0.9 * f).collect();
            let norm = want.iter().map(|x| x * x).sum::<f32>().sqrt();
            want.iter_mut().for_each(|x| *x /= norm);
        }
        assert_close(
            &format!("row {row}"),
            &after[row * 8..][..8],
            &want,
            2e-6,
            1e-5,
        );
    }
}

fn bank_momentum_weights_the_new_feature(make: Make<'_>) {
    for (momentum, near_old) in [(0.0, true), (1.0, false)] {
        let case = Case {
            bank_momentum: momentum,
            ..contrastive()
        };
        let (mut engine, batch) = start(make, &case);
        let features = embedding(engine.as_mut(), &batch, 4);
        let before = engine.read(BANK).unwrap();
        engine.gradient(images(&batch, 4), NPID).unwrap();
        engine.update_bank().unwrap();
        let row = &engine.read(BANK).unwrap()[2 * 8..3 * 8];
        let want = if near_old {
            &before[2 * 8..3 * 8]
        } else {
            &features[..8]
        };
        assert_close("row 2", row, want, 2e-6, 1e-5);
    }
}

fn a_later_gradient_replaces_what_is_pending(make: Make<'_>) {
    let (mut engine, batch) = start(make, &contrastive());
    let before = engine.read(BANK).unwrap();
    engine.gradient(images(&batch, 4), NPID).unwrap();
    let later = Objective::Npid {
        rows: &[1],
        draws: Draws::Sampled {
            epoch: 0,
            occurrences: &[0],
        },
    };
    let one = batch.len() / 4;
    engine.gradient(images(&batch[..one], 1), later).unwrap();
    engine.update_bank().unwrap();
    let after = engine.read(BANK).unwrap();
    for row in ROWS {
        let at = row as usize * 8..(row as usize + 1) * 8;
        assert_eq!(
            before[at.clone()],
            after[at],
            "row {row} was committed late"
        );
    }
}

fn excluded_rows_never_contribute(make: Make<'_>) {
    for case in [contrastive(), softmax()] {
        let (mut engine, batch) = start(make, &case);
        let (mut changed, _) = start(make, &case);
        let (mut whole, _) = start(make, &case);
        let mut bank = engine.read(BANK).unwrap();
        // In two calls: what was excluded before stays excluded.
        for engine in [&mut engine, &mut changed] {
            engine.exclude_rows(&[1, 6]).unwrap();
            engine.exclude_rows(&[10, 6]).unwrap();
        }
        for row in [1, 6, 10] {
            bank[row * 8..][..8].copy_from_slice(&[0.6, 0.0, -0.8, 0.0, 0.0, 0.0, 0.0, 0.0]);
        }
        changed.write(BANK, &bank).unwrap();
        let a = engine.gradient(images(&batch, 4), NPID).unwrap();
        let b = changed.gradient(images(&batch, 4), NPID).unwrap();
        assert_eq!(
            a[0].value.to_bits(),
            b[0].value.to_bits(),
            "{:?}",
            case.head
        );
        for ((name, x), (_, y)) in gradients(engine.as_ref())
            .iter()
            .zip(&gradients(changed.as_ref()))
        {
            assert_eq!(x, y, "{name}");
        }
        let all = whole.gradient(images(&batch, 4), NPID).unwrap();
        assert_ne!(a[0].value, all[0].value, "the rows counted before, too");
        // Its image is not trained either.
        let excluded = Objective::Npid {
            rows: &[2, 6, 0, 5],
            draws: SAMPLED,
        };
        refused(engine.as_mut(), "6", |e| {
            e.gradient(images(&batch, 4), excluded).map(drop)
        });
    }
}

/// The call fails with a message that holds `word`, and no state has changed.
fn refused(
    engine: &mut dyn Engine,
    word: &str,
    call: impl FnOnce(&mut dyn Engine) -> Result<(), Error>,
) {
    let before = bits(engine);
    let message = call(engine).unwrap_err().to_string();
    assert!(message.contains(word), "`{message}` doesn't name {word}");
    assert!(before == bits(engine), "state changed although: {message}");
}

fn excluding_too_many_is_refused(make: Make<'_>) {
    // ensure_neg needs another row beside the positive.
    let (mut engine, batch) = start(make, &contrastive());
    refused(engine.as_mut(), "11", |e| e.exclude_rows(&[11]));
    let all_but = |keep: &[u64]| (0..11).filter(|r| !keep.contains(r)).collect::<Vec<u64>>();
    refused(engine.as_mut(), "row", |e| e.exclude_rows(&all_but(&[4])));
    // The refusals excluded nothing.
    let (mut fresh, _) = start(make, &contrastive());
    let a = engine.gradient(images(&batch, 4), NPID).unwrap();
    assert_eq!(a, fresh.gradient(images(&batch, 4), NPID).unwrap());
    engine.exclude_rows(&all_but(&[4, 5])).unwrap();
    let lone = Objective::Npid {
        rows: &[4],
        draws: Draws::Sampled {
            epoch: 0,
            occurrences: &[0],
        },
    };
    let one = batch.len() / 4;
    engine.gradient(images(&batch[..one], 1), lone).unwrap();
    // Without it, and for the exact softmax, one row is enough and none is not.
    let lax = Case {
        ensure_neg: false,
        ..contrastive()
    };
    for case in [lax, softmax()] {
        let (mut engine, _) = start(make, &case);
        refused(engine.as_mut(), "row", |e| e.exclude_rows(&all_but(&[])));
        engine.exclude_rows(&all_but(&[4])).unwrap();
        engine.gradient(images(&batch[..one], 1), lone).unwrap();
    }
}

fn bad_arguments_change_nothing(make: Make<'_>) {
    let case = Case {
        classifiers: &[3],
        ..contrastive()
    };
    let (mut engine, batch) = start(make, &case);
    let engine = engine.as_mut();
    let good = images(&batch, 4);
    engine.gradient(good, NPID).unwrap();
    refused(engine, "5", |e| {
        e.gradient(images(&batch, 5), NPID).map(drop)
    });
    refused(engine, "0", |e| e.gradient(images(&[], 0), NPID).map(drop));
    refused(engine, "bytes", |e| {
        e.gradient(images(&batch[1..], 4), NPID).map(drop)
    });
    let npid = |rows: &'static [u64], draws| Objective::Npid { rows, draws };
    refused(engine, "11", |e| {
        e.gradient(good, npid(&[2, 9, 11, 5], SAMPLED)).map(drop)
    });
    refused(engine, "3 rows", |e| {
        e.gradient(good, npid(&[2, 9, 5], SAMPLED)).map(drop)
    });
    let short = Draws::Sampled {
        epoch: 0,
        occurrences: &[0],
    };
    refused(engine, "occurrences", |e| {
        e.gradient(good, npid(&ROWS, short)).map(drop)
    });
    let few = Draws::Given(&[1, 2, 3]);
    refused(engine, "negatives", |e| {
        e.gradient(good, npid(&ROWS, few)).map(drop)
    });
    let far = [11; 24];
    let objective = Objective::Npid {
        rows: &ROWS,
        draws: Draws::Given(&far),
    };
    refused(engine, "11", |e| e.gradient(good, objective).map(drop));
    let objective = Objective::CrossEntropy {
        labels: &[0, 1, 3, 0],
    };
    refused(engine, "3", |e| e.gradient(good, objective).map(drop));
    let objective = Objective::CrossEntropy { labels: &[0, 1] };
    refused(engine, "2 labels", |e| {
        e.step(good, objective, 0.1).map(drop)
    });
    let objective = Objective::FeatureGradient {
        gradient: &[0.5; 31],
    };
    refused(engine, "31", |e| e.gradient(good, objective).map(drop));
    let mut one = [vec![]];
    let outputs = [Output::Embedding, Output::Stage(4)];
    refused(engine, "2", |e| {
        e.features(good, Norm::Track, &outputs, &mut one)
    });
    refused(engine, "7", |e| {
        e.features(good, Norm::Track, &[Output::Stage(7)], &mut one)
    });
    let many = images(&batch, 5);
    refused(engine, "5", |e| {
        e.features(many, Norm::Track, &[Output::Embedding], &mut one)
    });
    refused(engine, "backbone.conv9", |e| {
        e.write("backbone.conv9", &[1.0])
    });
    refused(engine, BANK, |e| e.write(BANK, &[1.0]));
    assert!(
        engine
            .read("nothing")
            .unwrap_err()
            .to_string()
            .contains("nothing")
    );
    // What was pending before all these is still pending, once.
    engine.update_bank().unwrap();
    refused(engine, "", |e| e.update_bank());
    // Other objectives leave nothing for the bank.
    let objective = Objective::CrossEntropy {
        labels: &[0, 1, 2, 0],
    };
    engine.gradient(good, objective).unwrap();
    refused(engine, "", |e| e.update_bank());
    let none = super::cases::case("r18-classifier-alone");
    let (mut engine, batch) = start(make, &none);
    let good = images(&batch, 4);
    refused(engine.as_mut(), "method", |e| {
        e.gradient(good, NPID).map(drop)
    });
    let mut one = [vec![]];
    refused(engine.as_mut(), "embedding", |e| {
        e.features(good, Norm::Eval, &[Output::Embedding], &mut one)
    });
}

fn statistics(engine: &dyn Engine) -> Vec<Vec<f32>> {
    let entries = engine.state().into_iter();
    let wanted = entries.filter(|e| matches!(e.kind, StateKind::Statistic(_)));
    wanted.map(|e| engine.read(&e.name).unwrap()).collect()
}

fn only_track_and_gradient_move_statistics(make: Make<'_>) {
    let (mut engine, batch) = start(make, &contrastive());
    let (mut trained, _) = start(make, &contrastive());
    let before = bits(engine.as_ref());
    let mut out = [Vec::new()];
    for norm in [Norm::Eval, Norm::Batch] {
        engine
            .features(images(&batch, 4), norm, &[Output::Embedding], &mut out)
            .unwrap();
        assert!(
            before == bits(engine.as_ref()),
            "{norm:?} changed something"
        );
    }
    engine
        .features(
            images(&batch, 4),
            Norm::Track,
            &[Output::Embedding],
            &mut out,
        )
        .unwrap();
    trained.gradient(images(&batch, 4), NPID).unwrap();
    // Tracking moves every statistic, exactly as training does, and nothing else.
    assert_eq!(statistics(engine.as_ref()), statistics(trained.as_ref()));
    for (entry, (old, new)) in engine
        .state()
        .iter()
        .zip(before.iter().zip(bits(engine.as_ref())))
    {
        let moved = old.1 != new.1;
        assert_eq!(
            moved,
            matches!(entry.kind, StateKind::Statistic(_)),
            "{}",
            entry.name
        );
    }
}

/// A batch norm over one value per channel: 0 comes out (β), the running mean moves, the running
/// variance stays, and no gradient passes.
fn a_single_value_has_no_variance(make: Make<'_>) {
    let mut net = Network::new();
    let x = net.input(&[0.0], &[1.0]).unwrap();
    let x = net.global_avg_pool("pool", x);
    let x = net.linear("fc", x, 2, false).unwrap();
    let x = net.batch_norm("bn", x, true);
    let x = net.l2_norm("embedding", x);
    net.embedding = Some(x);
    let mut description = contrastive().description();
    (description.network, description.method) = (net, None);
    description.optimizer = Sgd {
        momentum: 0.0,
        nesterov: false,
        weight_decay: 0.0,
        lars: None,
    };
    let sizes = Sizes {
        batch: 2,
        height: 2,
        width: 1,
    };
    let mut engine = make(&description, sizes);
    engine.write("fc.weight", &[0.5, -2.0]).unwrap();
    engine.write("bn.bias", &[3.0, -4.0]).unwrap();
    let objective = Objective::FeatureGradient {
        gradient: &[1.0, 0.0],
    };
    // The mean of 0 and 255 is 0.5.
    engine.gradient(images(&[0, 255], 1), objective).unwrap();
    let mean = engine.read("bn.running_mean").unwrap();
    assert_close("mean", &mean, &[0.025, -0.1], 1e-7, 0.0);
    assert_eq!(engine.read("bn.running_var").unwrap(), [1.0, 1.0]);
    let dw = engine.read("gradient.fc.weight").unwrap();
    assert_close("dW", &dw, &[0.0, 0.0], 1e-5, 0.0);
    // d(x / ‖x‖) at (3, -4): (16, 12) / 125.
    let db = engine.read("gradient.bn.bias").unwrap();
    assert_close("dβ", &db, &[0.128, 0.096], 1e-6, 0.0);
}

fn frozen_parameters_stay(make: Make<'_>) {
    let case = Case {
        frozen: Some("backbone.layer"),
        ..contrastive()
    };
    let (mut engine, batch) = start(make, &case);
    let (mut free, _) = start(make, &contrastive());
    let before = bits(engine.as_ref());
    engine.gradient(images(&batch, 4), NPID).unwrap();
    free.gradient(images(&batch, 4), NPID).unwrap();
    // What is not frozen has the gradient it would have anyway.
    for (name, values) in gradients(engine.as_ref()) {
        assert!(!name.contains("layer"), "{name}");
        assert_close(&name, &values, &free.read(&name).unwrap(), 1e-6, 1e-4);
    }
    engine.apply(0.1, 1.0);
    for (old, new) in before.iter().zip(bits(engine.as_ref())) {
        if old.0.starts_with("backbone.layer") && !old.0.contains("running") {
            assert!(old.1 == new.1, "{} moved", old.0);
        }
        if old.0 == "backbone.conv1.weight" {
            assert!(old.1 != new.1, "{} stayed", old.0);
        }
    }
    let name = "gradient.backbone.layer1.0.conv1.weight";
    assert!(engine.read(name).is_err());
}

/// The engine's own draws are `NegativeSampler`'s, with and without `ensure_neg`.
fn ensure_neg_redraws(make: Make<'_>) {
    for ensure_neg in [false, true] {
        let case = Case {
            ensure_neg,
            neg_num: 40,
            ..contrastive()
        };
        let (mut engine, batch) = start(make, &case);
        let table = npid_network::alias::AliasTable::uniform(11).unwrap();
        let sampler = NegativeSampler::new(table, ensure_neg, 5).unwrap();
        let mut given = Vec::new();
        for (row, occurrence) in ROWS.into_iter().zip([0, 0, 1, 0]) {
            let negatives = sampler.of(1, row, occurrence);
            let drawn: Vec<u64> = (0..40).map(|k| negatives.get(k)).collect();
            assert_eq!(drawn.contains(&row), !ensure_neg, "{drawn:?}");
            given.extend(drawn);
        }
        let own = engine.gradient(images(&batch, 4), NPID).unwrap();
        let objective = Objective::Npid {
            rows: &ROWS,
            draws: Draws::Given(&given),
        };
        let same = engine.gradient(images(&batch, 4), objective).unwrap();
        assert_close("loss", &[own[0].value], &[same[0].value], 1e-6, 1e-6);
    }
}
