//! What every engine promises of the NCE head's Z and of weighted negatives.

use npid_engine::state::LOG_Z;
use npid_engine::{Draws, Engine, Objective};
use npid_network::method::Head;

use super::cases::Case;
use super::semantics::{ROWS, SAMPLED, contrastive, start};
use super::{Make, images, pixels};

/// All of them.
pub fn all(make: Make<'_>) {
    nce_keeps_its_z_or_lets_it_run(make);
    negatives_follow_their_weights(make);
}

fn loss(engine: &mut dyn Engine, batch: &[u8], draws: Draws<'_>) -> f32 {
    let objective = Objective::Npid { rows: &ROWS, draws };
    engine.gradient(images(batch, 4), objective).unwrap()[0].value
}

/// Z: negative infinity, then the first batch's, then kept or moved after each gradient.
fn nce_keeps_its_z_or_lets_it_run(make: Make<'_>) {
    for z_momentum in [0.0, 0.25, 1.0] {
        let case = Case {
            head: Some(Head::Nce {
                temperature: 0.2,
                z_momentum,
                proximal: 0.0,
            }),
            ..contrastive()
        };
        let (mut engine, batch) = start(make, &case);
        let log_z = |engine: &dyn Engine| engine.read(LOG_Z).unwrap()[0];
        assert_eq!(log_z(engine.as_ref()), f32::NEG_INFINITY);
        let gradient =
            |engine: &mut dyn Engine, given: &[u64]| loss(engine, &batch, Draws::Given(given));
        let (a, b) = (vec![1; 4 * case.neg_num], vec![7; 4 * case.neg_num]);
        gradient(engine.as_mut(), &a);
        let first = log_z(engine.as_ref());
        assert!(first.is_finite());
        // What the second batch alone gives: from an engine that sees no other.
        let (mut other, _) = start(make, &case);
        gradient(other.as_mut(), &b);
        let second = log_z(other.as_ref());
        assert!((first - second).abs() > 1e-3, "the batches don't differ");
        // The running mean moves after the gradient: the loss is that of the first Z.
        let loss = gradient(engine.as_mut(), &b);
        let (mut kept, _) = start(make, &case);
        kept.write(LOG_Z, &[first]).unwrap();
        assert_eq!(loss, gradient(kept.as_mut(), &b));
        let r = f64::from(z_momentum);
        let want = ((1.0 - r) * f64::from(first).exp() + r * f64::from(second).exp()).ln();
        let got = log_z(engine.as_ref());
        if z_momentum == 0.0 {
            assert_eq!(got, first);
        }
        assert!((f64::from(got) - want).abs() < 1e-5, "{got} {want}");
    }
}

/// Weights say what is drawn: with all on one row, the sampled loss is that of given draws of it.
fn negatives_follow_their_weights(make: Make<'_>) {
    let case = Case {
        ensure_neg: false,
        ..contrastive()
    };
    let mut description = case.description();
    let mut weights = vec![0.0; case.rows];
    (weights[3], weights[6]) = (2.0, 1e-9);
    description.neg_weights = Some(weights.clone().into());
    let batch = pixels(4, case.sizes, case.in_channels, 1);
    let mut engine = make(&description, case.sizes);
    let sampled = loss(engine.as_mut(), &batch, SAMPLED);
    let given = loss(
        engine.as_mut(),
        &batch,
        Draws::Given(&vec![3; 4 * case.neg_num]),
    );
    assert_eq!(sampled, given);
    // An excluded row's weight counts for nothing.
    engine.exclude_rows(&[3]).unwrap();
    let sampled = loss(engine.as_mut(), &batch, SAMPLED);
    let given = loss(
        engine.as_mut(),
        &batch,
        Draws::Given(&vec![6; 4 * case.neg_num]),
    );
    assert_eq!(sampled, given);
    assert!(
        engine.exclude_rows(&[6]).is_err(),
        "nothing is left to draw"
    );
    description.neg_weights = Some(vec![1.0; case.rows + 1].into());
    assert!(description.check().is_err());
}
