//! Pipelines as recipes spell them.

use npid_data::augment::{
    JitterRange, Lighting, Normalize, PRESETS, Pipeline, Transform, Workspace, preset,
};
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
        (
            r#"{ type = "RandomErasing", size = 3 }"#,
            "RandomResizedCrop",
        ),
        (
            r#"{ type = "GaussianBlur", kernel_size = 23, sigma = 2.0 }"#,
            "sigma_min",
        ),
        (
            r#"{ type = "GaussianBlur", sigma_min = 2.0, sigma_max = 0.1 }"#,
            "GaussianBlur: `sigma_min` is 2 and `sigma_max` 0.1",
        ),
        (
            r#"{ type = "GaussianBlur", sigma_min = 0.1, sigma_max = 2.0, p = 2.0 }"#,
            "GaussianBlur: `p` is 2",
        ),
        (
            r#"{ type = "Solarization", threshold = 300.0 }"#,
            "Solarization: `threshold` is 300",
        ),
        (
            r#"{ type = "Lighting", alphastd = -1.0 }"#,
            "Lighting: `alphastd` is -1",
        ),
        (
            r#"{ type = "RandomRotation", degrees = -3.0 }"#,
            "RandomRotation: `degrees` gives angles from 3 to -3",
        ),
        (
            r#"{ type = "RandomCrop", size = 8, padding = [1, 2, 3] }"#,
            "`padding` must be a number of pixels",
        ),
        (
            r#"{ type = "RandomCrop", size = 8, padding = 100000 }"#,
            "RandomCrop: `padding` is 100000",
        ),
        (
            r#"{ type = "RandomCrop", size = 8, fill = 256 }"#,
            "`fill` must be a grey",
        ),
        (
            r#"{ type = "RandomCrop", size = 8, padding_mode = "mirror" }"#,
            "symmetric",
        ),
        (
            r#"{ type = "RandomResizedCrop", size = 8, interpolation = "nearest" }"#,
            "`interpolation` is nearest; it can be bilinear",
        ),
        (
            r#"{ type = "Resize", size = 8, interpolation = 0 }"#,
            "`interpolation` is 0; it can be bilinear",
        ),
        (
            r#"{ type = "RandomApply", transforms = [] }"#,
            "RandomApply: `transforms` is empty",
        ),
        (
            r#"{ type = "RandomApply", transforms = [{ type = "CenterCrop", size = 8 }] }"#,
            "RandomApply: CenterCrop would leave the size",
        ),
        (
            r#"{ type = "RandomApply", transforms = [{ type = "ColorJitter", hue = 0.6 }] }"#,
            "RandomApply: ColorJitter: `hue` is 0.6",
        ),
        (
            &format!(r#"{{ type = "RandomApply", transforms = [{normalize}] }}"#),
            "RandomApply: Normalize is the same for every picture",
        ),
        (
            &format!("{normalize}, {{ type = \"Lighting\" }}"),
            "Lighting follows Normalize",
        ),
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
    let (order, size) = names("imagenet-mocov2");
    let expected = "RandomResizedCrop RandomApply RandomGrayscale GaussianBlur \
                    RandomHorizontalFlip ToTensor Normalize";
    assert_eq!((order.as_str(), size), (expected, 224));
    assert!(PRESETS.iter().all(|name| preset(name).is_some()));
    assert!(preset("moco").is_none());
}

/// MMSelfSup's list for MoCo-v2 as it stands in its configuration, and torchvision's names and
/// numbers for the same things.
#[test]
fn the_preset_of_mocov2_is_mmselfsups_list() {
    let spelled = |apply: &str, chance: &str, interpolation: &str| {
        parse(&format!(
            r#"pipeline = [
                {{ type = "RandomResizedCrop", size = 224, scale = [0.2, 1.0]{interpolation} }},
                {{ type = "{apply}", {chance} = 0.8, transforms = [
                    {{ type = "ColorJitter", brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 }},
                ] }},
                {{ type = "RandomGrayscale", {chance} = 0.2 }},
                {{ type = "GaussianBlur", sigma_min = 0.1, sigma_max = 2.0, {chance} = 0.5 }},
                {{ type = "RandomHorizontalFlip" }},
                {{ type = "ToTensor" }},
                {{ type = "Normalize", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }},
            ]"#
        ))
        .unwrap()
    };
    let listed = spelled("RandomAppliedTrans", "p", "");
    assert_eq!(
        listed,
        Pipeline::new(preset("imagenet-mocov2").unwrap()).unwrap()
    );
    assert_eq!(
        listed,
        spelled("RandomApply", "prob", ", interpolation = 2")
    );
    assert_ne!(listed, spelled("RandomApply", "p", ", interpolation = 3"));
    let json = serde_json::to_string(&spelled("RandomApply", "p", ", interpolation = 3")).unwrap();
    assert!(json.contains(r#""interpolation":"bicubic""#), "{json}");
}

/// What is inside happens together and as often as it should, and what is drawn after it doesn't
/// depend on what is inside.
#[test]
fn random_apply_is_all_or_nothing() {
    let pipeline = parse(
        r#"pipeline = [
            { type = "CenterCrop", size = [1, 2] },
            { type = "RandomApply", p = 0.8, transforms = [
                { type = "RandomHorizontalFlip", p = 1.0 },
                { type = "Solarization", threshold = 0, p = 1.0 },
                { type = "RandomVerticalFlip", p = 0.5 },
            ] },
        ]"#,
    )
    .unwrap();
    let shown = Picture {
        width: 2,
        height: 1,
        rgb: vec![200, 0, 0, 0, 100, 0],
    };
    let (mut out, mut workspace) = ([0; 6], Workspace::default());
    let (draws, mut applied) = (20_000u64, 0u64);
    for item in 0..draws {
        let mut stream = Stream::new(4, Purpose::Augment, 0, item, 0);
        pipeline.augment(&shown, &mut stream, &mut workspace, &mut out);
        match out {
            [200, 0, 0, 0, 100, 0] => {}
            [255, 155, 255, 55, 255, 255] => applied += 1,
            other => panic!("{other:?}"),
        }
    }
    let expected = 0.8 * draws as f64;
    let deviation = (expected * 0.2).sqrt();
    let off = (applied as f64 - expected) / deviation;
    assert!(off.abs() < 4.0, "{applied} of {draws}: {off} deviations");
}

/// CIFAR's crop: never fails, whatever the picture's size, and a picture that fits isn't padded.
#[test]
fn a_crop_larger_than_the_picture_is_padded() {
    let pipeline =
        parse(r#"pipeline = [{ type = "RandomCrop", size = 4, fill = [1, 2, 3] }]"#).unwrap();
    let (mut out, mut workspace) = (vec![0; pipeline.output_bytes()], Workspace::default());
    for (width, height) in [(1, 1), (3, 9), (9, 3), (4, 4), (30, 20)] {
        let shown = Picture {
            width,
            height,
            rgb: vec![90; width * height * 3],
        };
        for item in 0..30 {
            let mut stream = Stream::new(0, Purpose::Augment, 0, item, 0);
            pipeline.augment(&shown, &mut stream, &mut workspace, &mut out);
            let pixels = out.chunks_exact(3);
            let picture = pixels.clone().filter(|p| *p == [90; 3]).count();
            let filled = pixels.filter(|p| *p == [1, 2, 3]).count();
            assert_eq!(picture + filled, 16);
            if width >= 4 && height >= 4 {
                assert_eq!(filled, 0);
            }
        }
    }
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
    let mut steps = preset("imagenet-mocov2").unwrap();
    steps.insert(
        0,
        serde_json::from_str(r#"{"type": "RandomCrop", "size": 9, "padding_mode": "reflect"}"#)
            .unwrap(),
    );
    steps.insert(0, Transform::Lighting(Lighting { alphastd: 0.1 }));
    let blurred = r#"{"type": "GaussianBlur", "sigma_min": 30.0, "sigma_max": 50.0, "p": 1.0}"#;
    steps.insert(0, serde_json::from_str(blurred).unwrap());
    let pipeline = Pipeline::new(steps).unwrap();
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
