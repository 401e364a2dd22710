//! Keys of one type alone: what they become, and where they don't fit.

use npid_network::graph::{Op, Param};
use npid_network::method::{Description, Head, Lars};

use super::load::load;
use super::tests::{refused, says, small};
use super::*;
use crate::method;
use crate::recipes::Recipe;

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    load(&small(), &sets).unwrap()
}

fn describe(sets: &[&str]) -> Description {
    method::describe(&config(sets), 100).unwrap()
}

/// The description of the resolved configuration, read again, is the same.
#[track_caller]
fn repeats(sets: &[&str]) {
    let resolved = config(sets).resolve(100).unwrap();
    let again = Recipe {
        name: "config".into(),
        path: None,
        text: resolved.to_toml().unwrap(),
        ..Recipe::default()
    };
    let reread = load(&again, &[]).unwrap();
    assert_eq!(reread, resolved);
    assert_eq!(method::describe(&reread, 100).unwrap(), describe(sets));
}

const NCE: &str = "model.head.type=NCEHead";

#[test]
fn an_nce_head_has_its_constants() {
    let head = |sets: &[&str]| describe(sets).method.unwrap().head;
    let kept = Head::Nce {
        temperature: 0.5,
        z_momentum: 0.0,
        proximal: 0.0,
    };
    assert_eq!(head(&[NCE]), kept);
    let running = Head::Nce {
        temperature: 0.01,
        z_momentum: 0.25,
        proximal: 1.5,
    };
    let sets = [
        NCE,
        "model.head.temperature=0.01",
        "model.head.z_momentum=0.25",
        "model.head.proximal=1.5",
    ];
    assert_eq!(head(&sets), running);
    repeats(&[NCE]);
    repeats(&sets);
    for (set, part) in [
        ("model.head.z_momentum=1.1", "0 to 1"),
        ("model.head.z_momentum=nan", "0 to 1"),
        ("model.head.proximal=-1", "0 or more"),
        ("model.head.proximal=inf", "0 or more"),
        ("model.neg_num=0", "1 to 4294967295"),
    ] {
        says(&refused(&[NCE, set]), &[&format!("--set {set}"), part]);
    }
}

#[test]
fn weights_of_negatives_are_a_path_or_a_column() {
    let weights = |sets: &[&str]| config(&[&[NCE], sets].concat()).model.neg_weights;
    let file = NegWeights::File("some/where.txt".into());
    assert_eq!(weights(&["model.neg_weights=some/where.txt"]), Some(file));
    let column = NegWeights::Column { column: "w".into() };
    assert_eq!(
        weights(&["model.neg_weights={ column = \"w\" }"]),
        Some(column.clone())
    );
    assert_eq!(weights(&["model.neg_weights.column=w"]), Some(column));
    repeats(&[NCE, "model.neg_weights={ column = \"w\" }"]);
    repeats(&[NCE, "model.neg_weights=some/where.txt"]);
    let resolved = config(&[NCE, "model.neg_weights=w.txt"]).resolve(100);
    let Some(NegWeights::File(path)) = resolved.unwrap().model.neg_weights else {
        panic!("no file");
    };
    assert!(path.is_absolute() && path.ends_with("w.txt"));
    // The recipe's head compares with every row.
    says(
        &refused(&["model.neg_weights=w.txt"]),
        &["model.neg_weights", "SoftmaxHead"],
    );
    says(
        &refused(&[NCE, "model.neg_weights.column="]),
        &["model.neg_weights.column=", "empty"],
    );
}

#[test]
fn necks_have_the_layers_they_name() {
    const MLP: [&str; 2] = [
        "model.neck.type=NonLinearNeck",
        "model.neck.hid_channels=24",
    ];
    let names = |sets: &[&str]| -> Vec<(String, Vec<usize>)> {
        let params = describe(sets).network.params;
        (params.into_iter())
            .filter(|p| p.name.starts_with("neck."))
            .map(|p| (p.name.replacen("neck.", "", 1), p.shape))
            .collect()
    };
    let named = |names: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        (names.iter())
            .map(|(name, shape)| (name.to_string(), shape.to_vec()))
            .collect()
    };
    // MMSelfSup's defaults: two layers, no biases, a batch norm with scale and shift at the end.
    assert_eq!(
        names(&MLP),
        named(&[
            ("fc0.weight", &[24, 64]),
            ("bn0.weight", &[24]),
            ("bn0.bias", &[24]),
            ("fc1.weight", &[128, 24]),
            ("bn1.weight", &[128]),
            ("bn1.bias", &[128]),
        ])
    );
    let all = [
        "model.neck.num_layers=3",
        "model.neck.with_bias=true",
        "model.neck.with_last_bn=false",
        "model.neck.with_last_bias=true",
    ];
    let all = [&MLP[..], &all].concat();
    assert_eq!(
        names(&all),
        named(&[
            ("fc0.weight", &[24, 64]),
            ("fc0.bias", &[24]),
            ("bn0.weight", &[24]),
            ("bn0.bias", &[24]),
            ("fc1.weight", &[24, 24]),
            ("fc1.bias", &[24]),
            ("bn1.weight", &[24]),
            ("bn1.bias", &[24]),
            ("fc2.weight", &[128, 24]),
            ("fc2.bias", &[128]),
        ])
    );
    let moco = ["model.neck.type=MoCoV2Neck", "model.neck.hid_channels=24"];
    assert_eq!(
        names(&moco),
        named(&[
            ("mlp.0.weight", &[24, 64]),
            ("mlp.0.bias", &[24]),
            ("mlp.2.weight", &[128, 24]),
            ("mlp.2.bias", &[128]),
        ])
    );
    for sets in [&MLP[..], &all, &moco] {
        repeats(sets);
        let norm = describe(sets).network.nodes;
        assert!(norm.iter().any(|node| node.name == "neck.norm"), "{sets:?}");
    }
    let affine = [&MLP[..], &["model.neck.with_last_bn_affine=false"]].concat();
    assert_eq!(names(&affine), names(&MLP)[..4]);

    for (set, parts) in [
        ("model.neck.num_layers=1", &["num_layers", "LinearNeck"][..]),
        ("model.neck.num_layers=99", &["num_layers", "2 to 16"]),
        ("model.neck.hid_channels=0", &["hid_channels", "at least 1"]),
        (
            "model.neck.with_bias=3",
            &["with_bias is 3", "true or false"],
        ),
    ] {
        let message = refused(&[&MLP[..], &[set]].concat());
        says(&message, &[&[&*format!("--set {set}")], parts].concat());
    }
    let last = [
        "model.neck.with_last_bn=false",
        "model.neck.with_last_bn_affine=false",
    ];
    says(
        &refused(&[&MLP[..], &last].concat()),
        &["with_last_bn_affine", "leave it out"],
    );
    for kind in ["MoCoV2Neck", "NonLinearNeck"] {
        let set = format!("model.neck.type={kind}");
        says(
            &refused(&[&set]),
            &["model.neck.hid_channels is missing", kind],
        );
    }
    let lone = ["model.neck.norm=false", "data.batch_size=1"];
    says(
        &refused(&[&MLP[..], &lone].concat()),
        &["data.batch_size", "at least 2", "NonLinearNeck"],
    );
}

fn params(sets: &[&str], which: impl Fn(&Param) -> bool) -> Vec<String> {
    let network = describe(sets).network;
    let chosen = network.params.into_iter().filter(which);
    chosen.map(|p| p.name).collect()
}

#[test]
fn frozen_stages_hold_still() {
    let frozen = |n: i64| {
        let set = format!("model.backbone.frozen_stages={n}");
        params(&[&set], |p| !p.trainable)
    };
    assert!(frozen(-1).is_empty());
    assert_eq!(
        frozen(0),
        [
            "backbone.conv1.weight",
            "backbone.bn1.weight",
            "backbone.bn1.bias"
        ]
    );
    // Stem 3, stage 1 12, stage 2 15 with its shortcut.
    assert_eq!((frozen(1).len(), frozen(2).len()), (15, 30));
    assert!(frozen(4).iter().all(|name| name.starts_with("backbone.")));
    assert_eq!(
        params(&["model.backbone.frozen_stages=4"], |p| p.trainable).len(),
        2
    );
    let norms = |sets: &[&str]| {
        let network = describe(sets).network;
        let frozen = |node: &&npid_network::graph::Node| match &node.op {
            Op::BatchNorm(norm) => norm.frozen,
            _ => false,
        };
        network.nodes.iter().filter(frozen).count()
    };
    assert_eq!(norms(&[]), 0);
    assert_eq!(norms(&["model.backbone.frozen_stages=1"]), 5);
    // All 20 of a ResNet-18; the neck's own goes on learning.
    assert_eq!(norms(&["model.backbone.norm_eval=true"]), 20);
    repeats(&[
        "model.backbone.frozen_stages=2",
        "model.backbone.norm_eval=true",
    ]);

    let mut bare = small();
    let neck = "[model.neck]\ntype = \"LinearNeck\"\nout_channels = 128\nnorm = true\n";
    bare.text = bare.text.replace(neck, "");
    let set = "model.backbone.frozen_stages=4".to_string();
    let message = load(&bare, &[set]).unwrap_err().to_string();
    says(&message, &["frozen_stages", "nothing would learn"]);
}

#[test]
fn the_backbone_is_built_as_its_keys_say() {
    let stem = [
        "model.backbone.stem_channels=12",
        "model.backbone.zero_init_residual=true",
    ];
    let network = describe(&stem).network;
    assert_eq!(network.params[0].shape, [12, 3, 3, 3]);
    let zero = npid_network::graph::Init::Constant(0.0);
    let zeros =
        (network.params.iter()).filter(|p| p.init == zero && p.name.ends_with("bn2.weight"));
    assert_eq!(zeros.count(), 8);
    repeats(&stem);
    assert_eq!(describe(&[]).network.params[0].shape, [8, 3, 3, 3]);

    let stride = |style: &str| {
        let set = format!("model.backbone.style={style}");
        let network = describe(&["model.backbone.depth=50", &set]).network;
        let node = (network.nodes.iter()).find(|node| node.name == "backbone.layer2.0.conv1");
        match &node.unwrap().op {
            Op::Conv2d(conv) => conv.stride,
            _ => panic!("no convolution"),
        }
    };
    assert_eq!((stride("pytorch"), stride("caffe")), (1, 2));
    repeats(&["model.backbone.style=caffe", "model.backbone.depth=50"]);
}

const LARS: &str = "optimizer.type=LARS";

#[test]
fn lars_and_its_exclusions_reach_every_parameter_once() {
    assert_eq!(describe(&[]).optimizer.lars, None);
    let lars = describe(&[LARS]).optimizer.lars;
    let expected = Lars {
        eta: 0.001,
        eps: 1e-8,
    };
    assert_eq!(lars, Some(expected));
    let sets = [
        LARS,
        "optimizer.eta=0.02",
        "optimizer.eps=0.5",
        "optimizer.paramwise_cfg.norm_decay_mult=0",
        "optimizer.paramwise_cfg.norm_lars_exclude=true",
        "optimizer.paramwise_cfg.bias_decay_mult=0.25",
        "optimizer.paramwise_cfg.bias_lr_mult=2",
        "model.neck.type=NonLinearNeck",
        "model.neck.hid_channels=24",
        "model.neck.with_bias=true",
    ];
    let description = describe(&sets);
    let lars = description.optimizer.lars.unwrap();
    assert_eq!((lars.eta, lars.eps), (0.02, 0.5));
    repeats(&sets);

    let mut kinds = [0; 3];
    for p in &description.network.params {
        let layer = p.name.rsplit('.').nth(1).unwrap();
        // `downsample.1` is the batch norm after the shortcut's convolution, `downsample.0`.
        let norm = layer.starts_with("bn") || layer == "1";
        let kind = match (norm, p.name.ends_with(".bias")) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        kinds[kind] += 1;
        let (decay, lr, excluded) = [(0.0, 1.0, true), (0.25, 2.0, false), (1.0, 1.0, false)][kind];
        assert_eq!(
            (p.decay_mult, p.lr_mult, p.lars_exclude),
            (decay, lr, excluded),
            "{}",
            p.name
        );
    }
    // 20 batch norms of ResNet-18 and two of the neck; fc0's bias; 20 convolutions and two layers.
    assert_eq!(kinds, [44, 1, 22]);

    let biases = params(
        &[LARS, "optimizer.paramwise_cfg.bias_lars_exclude=true"],
        |p| p.lars_exclude,
    );
    assert_eq!(biases, ["neck.fc.bias"]);
    for (set, part) in [
        ("optimizer.eta=0", "above 0"),
        ("optimizer.eps=-1", "above 0"),
        ("optimizer.eps=0", "above 0"),
    ] {
        says(&refused(&[LARS, set]), &[&format!("--set {set}"), part]);
    }
    says(
        &refused(&[LARS, "optimizer.nesterov=true", "optimizer.momentum=0"]),
        &["optimizer.nesterov"],
    );
}

#[test]
fn the_factors_hold_without_lars_too() {
    let sets = [
        "optimizer.paramwise_cfg.norm_decay_mult=0",
        "optimizer.paramwise_cfg.bias_decay_mult=0",
    ];
    let spared = params(&sets, |p| p.decay_mult == 0.0);
    assert_eq!(spared.len(), 41);
    assert!(spared.contains(&"neck.fc.bias".to_string()));
    assert!(spared.contains(&"backbone.layer2.0.downsample.1.weight".to_string()));
    repeats(&sets);
}
