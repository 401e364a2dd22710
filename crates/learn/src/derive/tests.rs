//! The rules over a table of collections and machines.

use super::{Choice, Derived, Facts, derive};
use crate::config::{BackboneType, HeadType, Pipeline};
use crate::method;
use npid_data::augment::Transform;

fn facts(images: usize, width: usize, height: usize) -> Facts {
    Facts {
        images,
        sampled: images.min(64),
        width,
        height,
        shorter: width.min(height),
        grey: false,
        mean: [0.48123, 0.457, 0.4],
        std: [0.27, 0.26, 0.25],
        voters: 0,
        classes: 0,
    }
}

fn choose(images: usize, width: usize, height: usize, cores: usize, sets: &[&str]) -> Derived {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    derive(&facts(images, width, height), cores, &sets).unwrap()
}

fn choice<'a>(derived: &'a Derived, key: &str) -> &'a Choice {
    let found = derived.choices.iter().find(|choice| choice.key == key);
    found.unwrap_or_else(|| panic!("{key} was not explained"))
}

/// Hours that a run takes by the rules' own speed of 50 GFLOP/s a core.
fn hours(derived: &Derived, images: usize, cores: usize) -> f64 {
    let config = &derived.config;
    let network = method::describe(config, images).unwrap().network;
    let size = config.data.size;
    let flops = 6.0 * network.multiplications(size, size).unwrap() as f64;
    let shown = images as f64 * f64::from(config.runner.max_epochs);
    shown * flops / (cores as f64 * 50e9) / 3600.0
}

#[test]
fn every_collection_gets_a_plan_that_can_be_run() {
    for cores in [1, 2, 8, 64] {
        let mut last = 0.0;
        for images in [
            2, 3, 20, 200, 1_000, 10_000, 50_000, 200_000, 1_281_167, 20_000_000,
        ] {
            for (width, height) in [
                (8, 8),
                (28, 28),
                (32, 32),
                (64, 64),
                (500, 375),
                (4000, 6000),
            ] {
                let what = format!("{images} of {width}x{height} on {cores}");
                let derived = choose(images, width, height, cores, &[]);
                let config = &derived.config;
                // What the trainer checks.
                let description = method::describe(config, images).unwrap();
                assert_eq!(description.network.feat_dim(), 128, "{what}");
                let data = &config.data;
                assert!(data.batch_size >= 2.min(images), "{what}");
                assert!(data.batch_size <= images, "{what}");
                assert!(config.runner.max_epochs >= 5, "{what}");
                // Nothing is enlarged, beyond what the network's strides need.
                let shorter = width.min(height);
                assert!(
                    data.size <= (shorter * 8 / 7).max(64),
                    "{what}: {}",
                    data.size
                );
                let cifar = config.model.backbone.kind == BackboneType::ResNetCifar;
                assert_eq!(cifar, shorter <= 48, "{what}");
                let exact = config.model.head.kind == HeadType::SoftmaxHead;
                assert_eq!(exact, images <= 200_000, "{what}");
                for choice in &derived.choices {
                    assert!(
                        !choice.reason.is_empty() && !choice.given,
                        "{what}: {choice:?}"
                    );
                    assert!(choice.reason.chars().count() < 75, "{what}: {choice:?}");
                }
                if images <= 200_000 {
                    let hours = hours(&derived, images, cores);
                    // A single core may need longer than the budget: there is a smallest network.
                    let most = if cores == 1 { 24.0 } else { 12.0 };
                    assert!(hours < most, "{what}: {hours} h");
                    if width == 32 {
                        // Networks come in a few sizes, so it grows by leaps.
                        assert!(hours >= last * 0.6, "{what}: {hours} h after {last}");
                        last = hours;
                    }
                }
            }
        }
    }
}

#[test]
fn two_hundred_photographs_take_minutes() {
    let derived = choose(200, 500, 375, 2, &[]);
    let hours = hours(&derived, 200, 2);
    assert!(
        (1.0..15.0).contains(&(hours * 60.0)),
        "{} minutes",
        hours * 60.0
    );
    assert!((64..=160).contains(&derived.config.data.size));
}

#[test]
fn more_cores_are_used() {
    let width = |cores| {
        choose(50_000, 32, 32, cores, &[])
            .config
            .model
            .backbone
            .base_channels
    };
    assert!(width(2) < width(8) && width(8) <= width(64));
    let large = |cores| {
        let config = choose(1_281_167, 500, 375, cores, &[]).config;
        (
            config.data.size,
            config.model.backbone.base_channels,
            config.model.backbone.depth,
        )
    };
    assert!(large(2).0 < large(16).0 && large(16).0 < large(128).0);
    assert_eq!(large(256), (224, 64, 50));
}

#[test]
fn what_is_given_is_taken_and_the_rest_follows() {
    let free = choose(200, 500, 375, 2, &[]);
    let given = choose(
        200,
        500,
        375,
        2,
        &[
            "data.size=64",
            "data.batch_size=8",
            "seed=7",
            "optimizer.momentum=0.8",
        ],
    );
    assert_eq!(given.config.data.size, 64);
    assert_eq!(given.config.seed, 7);
    assert_eq!(given.config.optimizer.momentum, 0.8);
    for key in ["data.size", "data.batch_size", "seed", "optimizer.momentum"] {
        let choice = choice(&given, key);
        assert!(choice.given && choice.reason == "given", "{choice:?}");
    }
    // Smaller pictures leave time for more channels, and half a batch has half the rate.
    let width = |derived: &Derived| derived.config.model.backbone.base_channels;
    assert!(width(&given) > width(&free));
    let rate =
        |derived: &Derived| derived.config.optimizer.lr / derived.config.data.batch_size as f64;
    assert!((rate(&given) - rate(&free)).abs() < 1e-9);
    let Pipeline::List(steps) = &given.config.data.pipeline else {
        panic!("{:?}", given.config.data.pipeline);
    };
    assert_eq!(steps[0].output_size(500, 375), (64, 64));

    let short = choose(200, 500, 375, 2, &["runner.max_epochs=20"]);
    assert!(
        width(&short) > width(&free),
        "fewer epochs leave time for more"
    );
    let preset = choose(200, 500, 375, 2, &["data.pipeline=imagenet-mocov2"]);
    assert_eq!(
        preset.config.pipeline().unwrap().output_size().0,
        preset.config.data.size
    );
    assert_eq!(choice(&preset, "data.pipeline").value, "imagenet-mocov2");
}

/// Weights from elsewhere have the width and the stem of torchvision's networks.
#[test]
fn a_file_of_weights_decides_on_the_network() {
    let file = "model.backbone.init_cfg={ type = \"Pretrained\", checkpoint = \"resnet18.pth\" }";
    for (width, height) in [(32, 32), (500, 375)] {
        let backbone = choose(200, width, height, 1, &[file]).config.model.backbone;
        assert_eq!((backbone.base_channels, backbone.depth), (64, 18));
        assert_eq!(backbone.kind, BackboneType::ResNet);
    }
    let own = choose(200, 32, 32, 1, &[file, "model.backbone.base_channels=8"]);
    assert_eq!(own.config.model.backbone.base_channels, 8);
}

#[test]
fn what_is_wrong_is_named_by_its_flag() {
    for (set, words) in [
        ("data.size=0", "--set data.size=0: data.size is 0"),
        ("data.size=big", "--set data.size=big"),
        ("runner.max_epochs=0", "--set runner.max_epochs=0"),
        ("model.backbone.depth=19", "--set model.backbone.depth=19"),
        (
            "model.backbone.base_channels=0",
            "--set model.backbone.base_channels=0",
        ),
        ("model.head=3", "--set model.head=3"),
        ("no", "no `=`"),
        ("optimizer.lrr=1", "did you mean lr?"),
    ] {
        let error = derive(&facts(200, 64, 64), 2, &[set.to_string()]).unwrap_err();
        assert!(error.to_string().contains(words), "{set}: {error}");
    }
}

#[test]
fn grey_pictures_have_no_colours_to_change() {
    let mut grey = facts(60_000, 28, 28);
    (grey.grey, grey.voters, grey.classes) = (true, 57_000, 10);
    let derived = derive(&grey, 2, &[]).unwrap();
    let Pipeline::List(steps) = &derived.config.data.pipeline else {
        panic!("{:?}", derived.config.data.pipeline);
    };
    let names: Vec<_> = steps.iter().map(Transform::name).collect();
    assert_eq!(names, ["RandomResizedCrop", "ColorJitter", "Normalize"]);
    assert_eq!(derived.config.evaluation.k, 200);
    let mut few = facts(200, 28, 28);
    (few.voters, few.classes) = (190, 10);
    assert_eq!(derive(&few, 2, &[]).unwrap().config.evaluation.k, 9);
    let normalize = derived.config.pipeline().unwrap();
    assert_eq!(normalize.normalize().mean, [0.481, 0.457, 0.4]);
}
