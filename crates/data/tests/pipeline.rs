//! Pipelines as recipes spell them.

use npid_data::augment::{JitterRange, Normalize, PRESETS, Pipeline, Transform, Workspace, preset};
use npid_data::source::Picture;
use npid_network::philox::{Purpose, Stream};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Recipe {
    pipeline: Pipeline,
}

fn parse(toml: &str) -> Result<Pipeline, String> {
    toml::from_str::<Recipe>(toml)
        .map(|recipe| recipe.pipeline)
        .map_err(|error| error.to_string())
}

#[test]
fn a_recipe_spells_torchvisions_names() {
    let pipeline = parse(
        r#"pipeline = [
            { type = "RandomResizedCrop", size = 32, scale = [0.3, 1.0] },
            { type = "ColorJitter", brightness = 0.4, contrast = [0.5, 1.5], hue = 0.1 },
            { type = "RandomGrayscale", prob = 0.5 },
            { type = "RandomHorizontalFlip" },
            { type = "ToTensor" },
            { type = "Normalize", mean = [0.5, 0.4, 0.3], std = [0.2, 0.25, 0.3] },
            { type = "RandomHorizontalFlip", p = 0.25 },
        ]"#,
    )
    .unwrap();
    assert_eq!(pipeline.output_size(), (32, 32));
    assert_eq!(pipeline.normalize().mean, [0.5, 0.4, 0.3]);
    assert_eq!(pipeline.normalize().std, [0.2, 0.25, 0.3]);
    let Transform::ColorJitter(jitter) = &pipeline.steps()[1] else {
        panic!("{:?}", pipeline.steps());
    };
    assert_eq!(jitter.contrast, JitterRange::Bounds([0.5, 1.5]));
    assert_eq!(jitter.saturation, JitterRange::Around(0.0));
    let Transform::RandomGrayscale(grayscale) = &pipeline.steps()[2] else {
        panic!("{:?}", pipeline.steps());
    };
    assert_eq!(grayscale.p, 0.5);
    // Written and read again it is the same.
    let json = serde_json::to_string(&pipeline).unwrap();
    assert_eq!(serde_json::from_str::<Pipeline>(&json).unwrap(), pipeline);
}

#[test]
fn mistakes_name_the_step_and_the_key() {
    let crop = r#"{ type = "RandomResizedCrop", size = 32 }"#;
    let normalize = r#"{ type = "Normalize", mean = [0.5, 0.5, 0.5], std = [0.2, 0.2, 0.2] }"#;
    for (step, words) in [
        (r#"{ type = "RandomCrop", size = 3 }"#, "RandomResizedCrop"),
        (r#"{ type = "RandomGrayscale", q = 0.5 }"#, "expected `p`"),
        (r#"{ type = "ToTensor", size = 3 }"#, "size"),
        (
            r#"{ type = "RandomGrayscale", p = 1.5 }"#,
            "RandomGrayscale: `p` is 1.5",
        ),
        (
            r#"{ type = "RandomResizedCrop", size = 0 }"#,
            "RandomResizedCrop: `size` is 0 x 0",
        ),
        (
            r#"{ type = "RandomResizedCrop", size = "big" }"#,
            "`size` must be a number of pixels",
        ),
        (
            r#"{ type = "RandomResizedCrop", size = 8, scale = [1.0, 0.2] }"#,
            "`scale` is [1, 0.2]",
        ),
        (
            r#"{ type = "RandomResizedCrop", size = 8, ratio = [0.0, 1.0] }"#,
            "`ratio` is [0, 1]",
        ),
        (
            r#"{ type = "ColorJitter", hue = 0.6 }"#,
            "ColorJitter: `hue` is 0.6",
        ),
        (
            r#"{ type = "ColorJitter", brightness = -1.0 }"#,
            "ColorJitter: `brightness` is -1",
        ),
        (
            r#"{ type = "ColorJitter", saturation = nan }"#,
            "ColorJitter: `saturation` is NaN",
        ),
        (
            r#"{ type = "Normalize", mean = [123.675, 116.28, 103.53], std = [0.2, 0.2, 0.2] }"#,
            "divide by 255",
        ),
        (
            r#"{ type = "Normalize", mean = [0.5, 0.5, 0.5], std = [0.2, 0.0, 0.2] }"#,
            "`std` holds a 0",
        ),
        (
            &format!("{normalize}, {{ type = \"RandomGrayscale\" }}"),
            "RandomGrayscale follows Normalize",
        ),
        (&format!("{normalize}, {normalize}"), "occurs twice"),
    ] {
        let error = parse(&format!("pipeline = [{crop}, {step}]")).unwrap_err();
        assert!(error.contains(words), "{step}: {error}");
    }
    let error = parse(r#"pipeline = [{ type = "RandomHorizontalFlip" }]"#).unwrap_err();
    assert!(error.contains("no step fixes the size"), "{error}");
    let error = parse(r#"pipeline = [{ type = "Resize", size = 8 }]"#).unwrap_err();
    assert!(error.contains("no step fixes the size"), "{error}");
    assert!(parse(r#"pipeline = [{ type = "Resize", size = [8, 9] }]"#).is_ok());
}

#[test]
fn presets_are_the_published_orders() {
    let names = |preset_name: &str| {
        let pipeline = Pipeline::new(preset(preset_name).unwrap()).unwrap();
        let names: Vec<_> = pipeline.steps().iter().map(Transform::name).collect();
        (names.join(" "), pipeline.output_size().0)
    };
    let (order, size) = names("imagenet-npid");
    let expected =
        "RandomResizedCrop RandomGrayscale ColorJitter RandomHorizontalFlip ToTensor Normalize";
    assert_eq!((order.as_str(), size), (expected, 224));
    let (order, size) = names("cifar-npid");
    let expected = "RandomResizedCrop ColorJitter RandomGrayscale ToTensor Normalize";
    assert_eq!((order.as_str(), size), (expected, 32));
    let (order, _) = names("cifar-npid-flip");
    let expected =
        "RandomResizedCrop ColorJitter RandomGrayscale RandomHorizontalFlip ToTensor Normalize";
    assert_eq!(order, expected);
    assert!(PRESETS.iter().all(|name| preset(name).is_some()));
    assert!(preset("moco").is_none());
}

/// Chances are as given, each step is done in its turn, and a step after the crop sees its size.
#[test]
fn steps_act_as_often_as_they_should() {
    let grey_then_flip = Pipeline::new(
        serde_json::from_str(
            r#"[{"type": "RandomGrayscale", "p": 0.3}, {"type": "RandomHorizontalFlip", "p": 0.6},
                {"type": "CenterCrop", "size": [1, 2]}]"#,
        )
        .unwrap(),
    )
    .unwrap();
    let shown = Picture {
        width: 2,
        height: 1,
        rgb: vec![200, 0, 0, 0, 100, 0],
    };
    let (mut grey, mut flipped) = (0, 0);
    let mut out = [0; 6];
    let mut workspace = Workspace::default();
    for item in 0..5000 {
        let mut stream = Stream::new(1, Purpose::Augment, 0, item, 0);
        grey_then_flip.augment(&shown, &mut stream, &mut workspace, &mut out);
        // L is 60 for the red pixel and 59 for the green one.
        match out {
            [200, 0, 0, 0, 100, 0] => {}
            [0, 100, 0, 200, 0, 0] => flipped += 1,
            [60, 60, 60, 59, 59, 59] => grey += 1,
            [59, 59, 59, 60, 60, 60] => {
                grey += 1;
                flipped += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((1400..1600).contains(&grey), "{grey}");
    assert!((2880..3120).contains(&flipped), "{flipped}");
    assert_eq!(grey_then_flip.normalize(), &Normalize::NONE);
}

/// A picture of one pixel, and one a pixel high, go through everything.
#[test]
fn tiny_and_narrow_pictures_go_through() {
    let pipeline = Pipeline::new(preset("imagenet-npid").unwrap()).unwrap();
    let mut workspace = Workspace::default();
    let mut out = vec![0; pipeline.output_bytes()];
    for (width, height) in [(1, 1), (1, 700), (700, 1), (3, 2)] {
        let shown = Picture {
            width,
            height,
            rgb: vec![90; width * height * 3],
        };
        for item in 0..20 {
            let mut stream = Stream::new(1, Purpose::Augment, 0, item, 0);
            pipeline.augment(&shown, &mut stream, &mut workspace, &mut out);
            let first = [out[0], out[1], out[2]];
            assert!(out.chunks_exact(3).all(|pixel| pixel == first));
        }
    }
}
