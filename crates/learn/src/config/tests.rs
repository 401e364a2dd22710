//! Recipes load and repeat themselves; what is wrong is named.

use super::load::load;
use super::*;
use crate::method;
use crate::recipes::{self, EMBEDDED, Recipe};
use npid_network::method::Head as MethodHead;

/// Images that an embedded recipe is for.
fn images(name: &str) -> usize {
    match name {
        name if name.contains("in1k") => 1_281_167,
        name if name.contains("cifar10") => 50_000,
        _ => 1000,
    }
}

/// A recipe of the tests' own, so that they hold however the embedded ones are tuned.
pub(super) fn small() -> Recipe {
    Recipe {
        name: "small".into(),
        path: None,
        text: include_str!("test_recipe.toml").into(),
        ..Recipe::default()
    }
}

/// The message for the recipe with these settings.
#[track_caller]
pub(super) fn refused(sets: &[&str]) -> String {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let error = load(&small(), &sets).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// The message for the recipe with `from` replaced by `to` in its text.
#[track_caller]
fn refused_text(from: &str, to: &str) -> String {
    let mut recipe = small();
    assert!(recipe.text.contains(from), "{from} is not in the recipe");
    recipe.text = recipe.text.replacen(from, to, 1);
    recipe.path = Some("my.toml".into());
    let message = load(&recipe, &[]).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[track_caller]
pub(super) fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn every_embedded_recipe_describes_a_method_and_repeats_itself() {
    for (name, _) in EMBEDDED {
        let recipe = recipes::find(name).unwrap();
        assert!(recipe.text.starts_with("# "), "{name} says what it is");
        assert!(recipe.text.contains("# Source:"), "{name}");
        assert!(recipe.text.contains("# Cost:"), "{name}");
        assert!(recipe.text.contains("# Expect:"), "{name}");
        let config = load(&recipe, &[]).unwrap();
        assert_eq!(config.seed, 0);
        let n = images(name);
        let description = method::describe(&config, n).unwrap();
        assert_eq!(description.network.feat_dim(), 128, "{name}");

        let resolved = config.resolve(n).unwrap();
        let again = Recipe {
            name: "config".into(),
            path: Some("config.toml".into()),
            text: resolved.to_toml().unwrap(),
            ..Recipe::default()
        };
        let reread = load(&again, &[]).unwrap();
        assert_eq!(reread, resolved, "{name}");
        assert_eq!(method::describe(&reread, n).unwrap(), description, "{name}");
    }
}

#[test]
fn the_faithful_recipes_are_what_was_published() {
    let mm = load(
        &recipes::find("npid-ensure-neg_resnet50_8xb32-steplr-200e_in1k").unwrap(),
        &[],
    )
    .unwrap();
    let description = method::describe(&mm, 1_281_167).unwrap();
    let npid = description.method.unwrap();
    assert_eq!(npid.head, MethodHead::Contrastive { temperature: 0.07 });
    assert_eq!((npid.neg_num, npid.ensure_neg), (65_536, true));
    assert_eq!(npid.memory_bank.momentum, 0.5);
    // torchvision's resnet50 without its classifier, and the neck.
    let backbone = 25_557_032 - 2_049_000;
    assert_eq!(
        description.network.parameter_count(),
        backbone + 2048 * 128 + 128
    );
    assert_eq!((mm.data.batch_size, mm.optimizer.lr), (256, 0.03));
    assert_eq!(mm.model.memory_bank.init, Start::Random);

    let plain = load(
        &recipes::find("npid_resnet50_8xb32-steplr-200e_in1k").unwrap(),
        &["model.ensure_neg=true".into()],
    )
    .unwrap();
    assert_eq!(plain, mm);

    for depth in [18, 50] {
        let name = format!("npid-nce4096_resnet{depth}_b256-steplr-200e_in1k");
        let nce = load(&recipes::find(&name).unwrap(), &[]).unwrap();
        let npid = method::describe(&nce, 1_281_167).unwrap().method.unwrap();
        let head = MethodHead::Nce {
            temperature: 0.07,
            z_momentum: 0.0,
            proximal: 0.0,
        };
        assert_eq!(
            (npid.head, npid.neg_num, npid.ensure_neg),
            (head, 4096, false)
        );
        assert_eq!((nce.data.batch_size, nce.optimizer.lr), (256, 0.03));
        assert_eq!(nce.model.memory_bank.init, Start::Uniform);
        assert_eq!(nce.model.backbone.depth, depth);
    }

    let paper = load(&recipes::find("cifar10-resnet18-200e").unwrap(), &[]).unwrap();
    assert_eq!(paper.model.memory_bank.init, Start::Uniform);
    assert_eq!(paper.model.backbone.init_cfg, InitCfg::PyTorch);
    assert!(!paper.model.neck.as_ref().unwrap().norm);
    assert_eq!(paper.lr_config.step, [120, 160]);
}

#[test]
fn settings_replace_values_of_any_type() {
    let sets = [
        "seed=7",
        "optimizer.lr=1",
        "lr_config.policy=step",
        "lr_config.step=[3, 5]",
        "data.path=/some/where else",
        "data.size=48",
        "model.backbone.init_cfg.type=Kaiming",
    ];
    let mut recipe = small();
    recipe.text = recipe.text.replace(
        "init_cfg = \"PyTorch\"",
        "init_cfg = { type = \"PyTorch\" }",
    );
    let config = load(&recipe, &sets.map(String::from)).unwrap();
    assert_eq!(config.seed, 7);
    assert_eq!(config.optimizer.lr, 1.0);
    assert_eq!(config.lr_config.step, [3, 5]);
    assert_eq!(config.data.path, Some("/some/where else".into()));
    assert_eq!(config.pipeline().unwrap().output_size(), (48, 48));
    assert_eq!(config.model.backbone.init_cfg, InitCfg::Kaiming);
}

#[test]
fn pretrained_weights_need_a_file() {
    let key = "model.backbone.init_cfg";
    let set = |value: &str| format!("{key}={value}");
    let sets = set("{ type = \"Pretrained\", checkpoint = \"r.pth\", prefix = \"backbone.\" }");
    let config = load(&small(), &[sets]).unwrap();
    let init = config.resolve(1000).unwrap().model.backbone.init_cfg;
    let expected = InitCfg::Pretrained {
        checkpoint: std::path::absolute("r.pth").unwrap(),
        prefix: Some("backbone.".to_string()),
    };
    assert_eq!(init, expected);
    // config.toml repeats it.
    let text = config.to_toml().unwrap();
    let again = Recipe { text, ..small() };
    assert_eq!(load(&again, &[]).unwrap(), config);

    says(&refused(&[&set("Pretrained")]), &[key, "checkpoint ="]);
    let table = set("{ type = \"Pretrained\" }");
    says(&refused(&[&table]), &["init_cfg.checkpoint", "is missing"]);
    let table = set("{ type = \"Pretrained\", checkpoint = \"torchvision://resnet50\" }");
    says(
        &refused(&[&table]),
        &[
            "init_cfg.checkpoint",
            "torchvision://resnet50",
            "nothing is downloaded",
        ],
    );
    let table = set("{ type = \"Pretrained\", checkpoint = \"a\", prefx = \"b\" }");
    says(&refused(&[&table]), &["prefx", "prefix"]);
    let table = set("{ type = \"Kaiming\", checkpoint = \"a\" }");
    says(&refused(&[&table]), &["init_cfg", "checkpoint"]);
}

#[test]
fn a_preset_takes_the_size_of_the_data() {
    let sets = ["data.pipeline=imagenet-npid", "data.size=64"].map(String::from);
    let config = load(&small(), &sets).unwrap();
    assert_eq!(config.pipeline().unwrap().output_size(), (64, 64));
}

#[test]
fn an_unknown_type_names_the_known_ones() {
    says(
        &refused_text("type = \"SoftmaxHead\"", "type = \"SoftMaxHead\""),
        &[
            "my.toml",
            "model.head.type",
            "SoftmaxHead",
            "ContrastiveHead",
            "did you mean",
        ],
    );
    says(
        &refused_text("type = \"NPID\"", "type = \"MoCo\""),
        &["my.toml", "model.type", "MoCo", "NPID"],
    );
    says(
        &refused(&["model.backbone.init_cfg=Xavier"]),
        &["--set model.backbone.init_cfg=Xavier", "Kaiming", "PyTorch"],
    );
    says(
        &refused(&["data.pipeline=imagenet"]),
        &["data.pipeline", "imagenet-npid", "cifar-npid"],
    );
    says(
        &refused_text("\"RandomHorizontalFlip\"", "\"RandomFlip\""),
        &["data.pipeline[3]", "RandomFlip", "RandomHorizontalFlip"],
    );
}

#[test]
fn a_missing_part_is_named_with_its_types() {
    says(
        &refused_text(
            "[model.head]\ntype = \"SoftmaxHead\"\ntemperature",
            "[junk]\nx",
        ),
        &["my.toml", "junk"],
    );
    let head = "[model.head]\ntype = \"SoftmaxHead\"\ntemperature = 0.5\n";
    says(
        &refused_text(head, ""),
        &["my.toml", "model.head", "ContrastiveHead", "SoftmaxHead"],
    );
    let bank =
        "[model.memory_bank]\ntype = \"SimpleMemory\"\nmomentum = 0.5\ninit = \"features\"\n";
    says(
        &refused_text(bank, ""),
        &["my.toml", "model.memory_bank", "SimpleMemory"],
    );
    says(
        &refused_text("type = \"SoftmaxHead\"\n", ""),
        &["my.toml", "model.head.type", "SoftmaxHead"],
    );
}

#[test]
fn a_misspelt_key_is_corrected() {
    says(
        &refused_text("weight_decay", "weigth_decay"),
        &[
            "my.toml",
            "optimizer.weigth_decay",
            "did you mean weight_decay?",
            "nesterov",
        ],
    );
    says(
        &refused(&["optimizer.lrr=0.1"]),
        &["--set optimizer.lrr=0.1", "did you mean lr?"],
    );
    says(
        &refused(&["temperature=0.1"]),
        &[
            "--set temperature=0.1",
            "evaluation.temperature or model.head.temperature",
        ],
    );
    says(
        &refused_text("p = 0.5", "q = 0.5"),
        &["data.pipeline[2].q is no key", "has p"],
    );
}

#[test]
fn a_wrong_value_type_is_named() {
    says(
        &refused_text("depth = 18", "depth = \"18\""),
        &[
            "my.toml",
            "model.backbone.depth is \"18\"",
            "a whole number, 0 or more",
        ],
    );
    says(
        &refused(&["optimizer.lr=fast"]),
        &[
            "--set optimizer.lr=fast",
            "optimizer.lr is \"fast\"; it must be a number",
        ],
    );
    says(
        &refused(&["optimizer=3"]),
        &["--set optimizer=3", "optimizer is 3", "optimizer.KEY"],
    );
    says(
        &refused(&["seed.x=3"]),
        &["--set seed.x=3", "seed", "not a section"],
    );
    says(
        &refused(&["runner.max_epochs=-1"]),
        &["--set runner.max_epochs=-1", "-1", "0 to 4294967295"],
    );
}

#[test]
fn what_is_no_toml_is_said_with_its_line() {
    says(
        &refused_text("seed = 0", "seed = = 0"),
        &["my.toml, line 3", "not TOML"],
    );
    says(
        &refused(&["optimizer.lr"]),
        &["--set optimizer.lr", "key=value"],
    );
    says(
        &refused(&["optimizer..lr=1"]),
        &["--set optimizer..lr=1", "empty"],
    );
    says(
        &refused(&["lr_config.step=[1,"]),
        &["--set lr_config.step=[1,", "TOML"],
    );
    says(&refused(&["seed="]), &["--set seed=", "empty"]);
}

#[test]
fn values_out_of_range_are_refused_with_their_key() {
    let contrastive = "model.head.type=ContrastiveHead";
    for (set, parts) in [
        (
            "model.neg_num=0",
            &["model.neg_num is 0", "1 to 4294967295"][..],
        ),
        ("model.head.temperature=0", &["temperature", "above 0"]),
        ("model.head.temperature=-0.1", &["temperature", "above 0"]),
        ("model.head.temperature=nan", &["temperature", "above 0"]),
        ("model.head.temperature=1e-60", &["temperature", "above 0"]),
        ("model.memory_bank.momentum=1.5", &["momentum", "0 to 1"]),
        ("model.memory_bank.momentum=-0.1", &["momentum", "0 to 1"]),
        ("model.memory_bank.feat_dim=64", &["feat_dim", "128"]),
        ("model.memory_bank.length=0", &["length", "at least 1"]),
        ("model.neck.in_channels=512", &["in_channels", "512", "64"]),
        ("model.neck.out_channels=0", &["out_channels", "at least 1"]),
        ("model.backbone.depth=20", &["depth", "18, 34, 50"]),
        ("model.backbone.base_channels=0", &["base_channels"]),
        ("model.backbone.in_channels=1", &["in_channels", "RGB"]),
        ("model.backbone.out_indices=[5]", &["out_indices", "to 4"]),
        (
            "model.backbone.out_indices=[4, 1]",
            &["out_indices", "rising"],
        ),
        (
            "model.head.z_momentum=0.1",
            &["z_momentum", "NCEHead alone"],
        ),
        ("model.head.proximal=1", &["proximal", "NCEHead alone"]),
        ("model.neg_weights=\"\"", &["model.neg_weights", "empty"]),
        ("model.neg_weights=3", &["model.neg_weights is 3", "a file"]),
        ("model.neg_weights.colum=w", &["colum", "column"]),
        ("model.backbone.stem_channels=0", &["stem_channels"]),
        ("model.backbone.style=torch", &["style", "pytorch, caffe"]),
        (
            "model.backbone.frozen_stages=5",
            &["frozen_stages", "-1 (none)"],
        ),
        (
            "model.backbone.frozen_stages=-2",
            &["frozen_stages", "-1 (none)"],
        ),
        ("model.neck.hid_channels=8", &["hid_channels", "MoCoV2Neck"]),
        ("model.neck.num_layers=2", &["num_layers", "NonLinearNeck"]),
        ("optimizer.eta=0.1", &["optimizer.eta", "LARS alone"]),
        (
            "optimizer.paramwise_cfg.norm_lars_exclude=true",
            &["norm_lars_exclude", "LARS alone"],
        ),
        (
            "optimizer.paramwise_cfg.norm_decay_mult=-1",
            &["norm_decay_mult", "0 or more"],
        ),
        (
            "optimizer.paramwise_cfg.norm_decay=0",
            &["norm_decay is no key", "did you mean norm_decay_mult?"],
        ),
        (
            "optimizer_config.update_interval=0",
            &["update_interval", "at least 1"],
        ),
        ("optimizer.lr=inf", &["optimizer.lr", "finite"]),
        ("optimizer.lr=0", &["optimizer.lr", "above 0"]),
        ("optimizer.momentum=1", &["optimizer.momentum", "below 1"]),
        ("optimizer.weight_decay=-1", &["weight_decay"]),
        ("lr_config.min_lr=1", &["min_lr", "optimizer.lr"]),
        ("lr_config.gamma=0", &["gamma"]),
        ("lr_config.step=[3]", &["lr_config.step", "policy"]),
        ("lr_config.warmup_ratio=0", &["warmup_ratio"]),
        ("runner.max_epochs=0", &["max_epochs"]),
        ("data.batch_size=0", &["batch_size"]),
        ("data.batch_size=1", &["batch_size", "norm"]),
        ("data.size=0", &["data.size"]),
        ("checkpoint.interval=0", &["checkpoint.interval"]),
        ("checkpoint.keep=0", &["checkpoint.keep"]),
        ("evaluation.k=0", &["evaluation.k"]),
        ("evaluation.temperature=0", &["evaluation.temperature"]),
        ("log.interval=0", &["log.interval"]),
    ] {
        says(
            &refused(&[contrastive, set]),
            &[&[&*format!("--set {set}")], parts].concat(),
        );
    }
    says(
        &refused(&["optimizer.momentum=0", "optimizer.nesterov=true"]),
        &["optimizer.nesterov"],
    );
    says(
        &refused(&["lr_config.policy=step"]),
        &["lr_config.step", "rising"],
    );
}

#[test]
fn what_does_not_fit_the_pictures_is_refused_with_its_key() {
    let with = |sets: &[&str], n: usize| {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let config = load(&small(), &sets).unwrap();
        method::describe(&config, n).unwrap_err().to_string()
    };
    says(&with(&[], 20), &["data.batch_size", "32", "20"]);
    says(
        &with(&["model.memory_bank.length=99"], 100),
        &["memory_bank.length", "99", "100"],
    );
    let lone = [
        "model.head.type=ContrastiveHead",
        "model.ensure_neg=true",
        "data.batch_size=1",
        "model.neck.norm=false",
    ];
    says(&with(&lone, 1), &["model.ensure_neg", "single"]);
    says(
        &with(&["model.neck.with_avg_pool=false"], 64),
        &["data.size", "pooled"],
    );
}

#[test]
fn without_a_neck_the_feature_is_the_pooled_map() {
    let mut recipe = small();
    let neck = "[model.neck]\ntype = \"LinearNeck\"\nout_channels = 128\nnorm = true\n";
    assert!(recipe.text.contains(neck));
    recipe.text = recipe.text.replace(neck, "");
    let config = load(&recipe, &[]).unwrap();
    let description = method::describe(&config, 100).unwrap();
    assert_eq!(description.network.feat_dim(), 64);
}

#[test]
fn banks_start_as_they_say() {
    let random = method::initial_bank(Start::Random, 3, 8, 1).unwrap();
    for row in random.chunks(8) {
        let norm: f32 = row.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
    let uniform = method::initial_bank(Start::Uniform, 500, 12, 1).unwrap();
    let largest = uniform.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!((0.49..=0.5).contains(&largest), "{largest}");
    assert_eq!(method::initial_bank(Start::Features, 3, 8, 1), None);
}

#[test]
fn an_unknown_recipe_names_the_known_ones() {
    let message = recipes::find("pattern").unwrap_err().to_string();
    says(&message, &["pattern", "did you mean patterns?", "folder"]);
    let message = recipes::find("none/such.toml").unwrap_err().to_string();
    says(&message, &["none/such.toml", "cannot be read"]);
}
