//! The augmentation against torchvision's numbers (`golden/augment/make.py`).

use std::path::Path;

use npid_data::augment::{
    CenterCrop, ColorJitter, CropBox, Degrees, Drawn, EvalView, Extent, Factors, GaussianBlur,
    Interpolation, JitterStep, Lighting, Pipeline, RandomApply, RandomCrop, RandomGrayscale,
    RandomHorizontalFlip, RandomResizedCrop, RandomRotation, RandomVerticalFlip, Resize,
    Solarization, Transform, Workspace,
};
use npid_data::source::Picture;
use serde_json::Value;

struct Golden {
    index: Value,
    pixels: Vec<u8>,
}

impl Golden {
    fn load() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/augment");
        let index = std::fs::read_to_string(folder.join("cases.json")).unwrap();
        Golden {
            index: serde_json::from_str(&index).unwrap(),
            pixels: std::fs::read(folder.join("pixels.bin")).unwrap(),
        }
    }

    fn picture(&self, place: &Value) -> Picture {
        let number = |key: &str| place[key].as_u64().unwrap() as usize;
        let (width, height) = (number("width"), number("height"));
        let rgb = self.pixels[number("offset")..][..width * height * 3].to_vec();
        Picture { width, height, rgb }
    }

    fn cases(&self) -> impl Iterator<Item = (&Value, Picture, Picture)> {
        self.index["cases"].as_array().unwrap().iter().map(|case| {
            let input = &self.index["inputs"][case["input"].as_str().unwrap()];
            (case, self.picture(input), self.picture(&case["expected"]))
        })
    }
}

fn extent(size: &Value) -> Extent {
    serde_json::from_value(size.clone()).unwrap()
}

fn interpolation(op: &Value) -> Interpolation {
    match op.get("interpolation") {
        Some(name) => serde_json::from_value(name.clone()).unwrap(),
        None => Interpolation::Bilinear,
    }
}

/// An operation of the script as a step and what was drawn for it.
fn step(op: &Value) -> (Transform, Drawn) {
    let number = |key: &str| op[key].as_u64().unwrap() as usize;
    match op["op"].as_str().unwrap() {
        "crop" => (
            Transform::RandomResizedCrop(RandomResizedCrop {
                size: extent(&op["size"]),
                scale: [0.2, 1.0],
                ratio: [0.75, 1.333],
                interpolation: interpolation(op),
            }),
            Drawn::Crop(CropBox {
                top: number("top"),
                left: number("left"),
                height: number("height"),
                width: number("width"),
            }),
        ),
        "resize" => (
            Transform::Resize(Resize {
                size: extent(&op["size"]),
                interpolation: interpolation(op),
            }),
            Drawn::Fixed,
        ),
        "center_crop" => (
            Transform::CenterCrop(CenterCrop {
                size: extent(&op["size"]),
            }),
            Drawn::Fixed,
        ),
        "grayscale" => (
            Transform::RandomGrayscale(RandomGrayscale { p: 1.0 }),
            Drawn::Grayscale(true),
        ),
        "flip" => (
            Transform::RandomHorizontalFlip(RandomHorizontalFlip { p: 1.0 }),
            Drawn::Flip(true),
        ),
        "jitter" => {
            let order: Vec<JitterStep> = op["order"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| match name.as_str().unwrap() {
                    "brightness" => JitterStep::Brightness,
                    "contrast" => JitterStep::Contrast,
                    "saturation" => JitterStep::Saturation,
                    "hue" => JitterStep::Hue,
                    other => panic!("{other}"),
                })
                .collect();
            let factors = Factors {
                order: order.try_into().unwrap(),
                brightness: op["brightness"].as_f64(),
                contrast: op["contrast"].as_f64(),
                saturation: op["saturation"].as_f64(),
                hue: op["hue"].as_f64(),
            };
            let jitter = Transform::ColorJitter(ColorJitter::default());
            (jitter, Drawn::Jitter(factors))
        }
        "vertical_flip" => (
            Transform::RandomVerticalFlip(RandomVerticalFlip { p: 1.0 }),
            Drawn::Flip(true),
        ),
        "random_crop" => {
            let crop: RandomCrop = serde_json::from_value(serde_json::json!({
                "size": op["size"],
                "padding": op["padding"],
                "pad_if_needed": op["pad_if_needed"],
                "fill": op["fill"],
                "padding_mode": op["padding_mode"],
            }))
            .unwrap();
            let place = Drawn::Place(number("top"), number("left"));
            (Transform::RandomCrop(crop), place)
        }
        "blur" => (
            Transform::GaussianBlur(GaussianBlur {
                sigma_min: 0.1,
                sigma_max: 2.0,
                p: 0.5,
            }),
            Drawn::Blur(op["sigma"].as_f64()),
        ),
        "solarize" => (
            Transform::Solarization(Solarization {
                threshold: op["threshold"].as_f64().unwrap(),
                p: 0.5,
            }),
            Drawn::Solarize(true),
        ),
        "lighting" => (
            Transform::Lighting(Lighting { alphastd: 0.1 }),
            Drawn::Lighting(serde_json::from_value(op["alpha"].clone()).unwrap()),
        ),
        "rotate" => (
            Transform::RandomRotation(RandomRotation {
                degrees: Degrees::Around(180.0),
                fill: serde_json::from_value(op["fill"].clone()).unwrap(),
            }),
            Drawn::Rotate(op["degrees"].as_f64().unwrap()),
        ),
        "apply" => {
            let inner = op["ops"].as_array().unwrap().iter().map(step);
            let (transforms, drawn) = inner.unzip();
            (
                Transform::RandomApply(RandomApply { transforms, p: 0.8 }),
                Drawn::Apply(Some(drawn)),
            )
        }
        other => panic!("{other}"),
    }
}

fn run(case: &Value, input: &Picture, (height, width): (usize, usize)) -> Vec<u8> {
    let (mut steps, mut drawn): (Vec<_>, Vec<_>) =
        case["ops"].as_array().unwrap().iter().map(step).unzip();
    // A pipeline must fix the size of its results; cutting the whole out does no more than that.
    steps.push(Transform::CenterCrop(CenterCrop {
        size: Extent::HeightWidth([height, width]),
    }));
    drawn.push(Drawn::Fixed);
    let pipeline = Pipeline::new(steps).unwrap();
    let mut out = vec![0; pipeline.output_bytes()];
    pipeline.apply(input, &drawn, &mut Workspace::default(), &mut out);
    out
}

/// The issue allows 1 of 255, and 2 where the hue is turned; the arithmetic is PIL's, so there is
/// no difference at all, and this holds it there.
#[test]
fn every_operation_is_torchvisions() {
    let golden = Golden::load();
    let mut cases = 0;
    for (case, input, expected) in golden.cases() {
        let got = run(case, &input, (expected.height, expected.width));
        let (worst, difference) = got
            .iter()
            .zip(&expected.rgb)
            .map(|(a, b)| a.abs_diff(*b))
            .enumerate()
            .max_by_key(|(_, difference)| *difference)
            .unwrap();
        assert_eq!(difference, 0, "{case} differs most at byte {worst}");
        cases += 1;
    }
    assert!(cases > 100, "{cases}");
}

#[test]
fn evaluation_views_are_resize_and_center_crop() {
    let golden = Golden::load();
    let mut sizes = Vec::new();
    for (case, input, expected) in golden.cases() {
        let ops = case["ops"].as_array().unwrap();
        let is_view = ops.len() == 2 && ops[0]["op"] == "resize" && ops[1]["op"] == "center_crop";
        if !is_view {
            continue;
        }
        let size = expected.width;
        let mut out = vec![0; size * size * 3];
        EvalView { size }.apply(&input, &mut Workspace::default(), &mut out);
        assert!(out == expected.rgb, "the view at {size} pixels differs");
        sizes.push(size);
    }
    assert_eq!(sizes, [80, 24]);
    let (_, square, _) = golden
        .cases()
        .find(|(case, ..)| case["input"] == "square")
        .unwrap();
    let mut out = vec![0; 32 * 32 * 3];
    EvalView { size: 32 }.apply(&square, &mut Workspace::default(), &mut out);
    assert!(
        out == square.rgb,
        "a picture of the view's size must stay as it is"
    );
}
