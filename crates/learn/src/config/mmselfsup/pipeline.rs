//! Pipelines: torchvision's transforms in MMSelfSup 0.x, mmcv's in 1.x.

use npid_mmconfig::{Kind, Place, Value};
use toml::Table;

use super::data::{Augmented, disk};
use super::section::{Out, Section, refuse, to_toml};
use crate::Error;

/// Sets `data.pipeline` and `data.size`. `norm` is what 0.x normalises with on the GPU
/// (`img_norm_cfg`), `preprocessor` what 1.x does (`model.data_preprocessor`).
pub(super) fn pipeline(
    pictures: &Augmented,
    norm: Option<&Value>,
    preprocessor: Option<Section>,
    out: &mut Out,
) -> Result<(), Error> {
    let list = pictures.pipeline;
    let Some(items) = list.as_items() else {
        return Err(refuse(
            "the pipeline",
            list,
            "it must be a list of transforms",
        ));
    };
    let mut steps = Vec::new();
    let mut places = Vec::new();
    let mut push = |step: Table, place: &Place| {
        steps.push(toml::Value::Table(step));
        places.push(place.clone());
    };
    let mut size = None;
    for item in items {
        let section = Section::new("pipeline", item)?;
        let Some(step) = transform(section, out)? else {
            continue;
        };
        let kind = step.get("type").and_then(toml::Value::as_str);
        if matches!(
            kind,
            Some("RandomResizedCrop" | "RandomCrop" | "CenterCrop" | "Resize")
        ) {
            let one = match step.get("size") {
                Some(toml::Value::Array(both)) if both.len() == 2 && both[0] == both[1] => {
                    both[0].as_integer()
                }
                Some(size) => size.as_integer(),
                None => None,
            };
            if let Some(side) = one {
                size = Some((side, item.place.clone()));
            }
        }
        push(step, &item.place);
    }
    if pictures.prefetch {
        let Some(norm) = norm else {
            return Err(Error::input(format!(
                "{}: prefetch is True, and there is no img_norm_cfg to normalise with",
                list.place
            )));
        };
        let mut norm = Section::new("img_norm_cfg", norm)?;
        let mut step = named("Normalize");
        for key in ["mean", "std"] {
            let Some(value) = norm.take(key) else {
                return Err(norm.missing(key));
            };
            step.insert(key.into(), to_toml(&norm.path(key), value)?);
        }
        push(named("ToTensor"), &norm.place);
        push(step, &norm.place);
    }
    if let Some(preprocessor) = preprocessor {
        let place = preprocessor.place.clone();
        push(named("ToTensor"), &place);
        push(normalise(preprocessor)?, &place);
    }
    out.set("data.pipeline", toml::Value::Array(steps), &list.place);
    for (i, place) in places.into_iter().enumerate() {
        out.places.push((format!("data.pipeline[{i}]"), place));
    }
    match size {
        Some((side, place)) => out.set("data.size", side, &place),
        None => {
            return Err(Error::input(format!(
                "{}: no crop of the pipeline says how large the pictures become; give one a size",
                list.place
            )));
        }
    }
    Ok(())
}

fn named(kind: &str) -> Table {
    let mut step = Table::new();
    step.insert("type".into(), kind.into());
    step
}

/// `data_preprocessor` of 1.x, whose numbers are for 0 to 255.
fn normalise(mut part: Section) -> Result<Table, Error> {
    let mut step = named("Normalize");
    for (key, default) in [("mean", 0.0), ("std", 255.0)] {
        let value = part.take(key);
        let numbers = match value {
            None => vec![default; 3],
            Some(value) => {
                let items = value.as_items().unwrap_or_default();
                let numbers: Vec<f64> = items.iter().filter_map(Value::as_number).collect();
                if items.len() != 3 || numbers.len() != 3 {
                    return Err(refuse(&part.path(key), value, "it must be three numbers"));
                }
                numbers
            }
        };
        // The shortest number that is the same in 32 bits: 57.12 / 255 is meant to be 0.224.
        let scaled = numbers.into_iter().map(|x| {
            let narrow = (x / 255.0) as f32;
            toml::Value::Float(narrow.to_string().parse().unwrap_or(f64::from(narrow)))
        });
        step.insert(key.into(), toml::Value::Array(scaled.collect()));
    }
    // Pictures are read as BGR there; either key turns them into RGB, which they are here.
    let turned = part.boolean("bgr_to_rgb")?.or(part.boolean("to_rgb")?);
    if turned == Some(false) {
        return Err(Error::input(format!(
            "{}: model.data_preprocessor leaves pictures in BGR; npid's are RGB, so set \
             bgr_to_rgb=True",
            part.place
        )));
    }
    part.take("type");
    part.only("batch_augments", &[], "npid has no augmentation of batches")?;
    for key in ["pad_size_divisor", "pad_value", "non_blocking"] {
        part.take(key);
    }
    part.finish()?;
    Ok(step)
}

/// One transform as npid writes it; `None` for what it needs none for.
fn transform(mut section: Section, out: &mut Out) -> Result<Option<Table>, Error> {
    let Some((kind, _)) = section.kind()? else {
        return Err(section.missing("type"));
    };
    let kind = match kind {
        // Reading and packing are the loader's.
        "LoadImageFromFile" => {
            if let Some(args) = section.section("file_client_args")? {
                disk(args)?;
            }
            section.only(
                "color_type",
                &[Kind::Str("color".into())],
                "npid reads colour",
            )?;
            return Ok(None);
        }
        "PackSelfSupInputs" | "PackClsInputs" | "PackInputs" => return Ok(None),
        // 1.x
        "RandomFlip" => match section.text("direction")? {
            None | Some("horizontal") => "RandomHorizontalFlip",
            Some("vertical") => "RandomVerticalFlip",
            Some(_) => {
                return Err(Error::input(format!(
                    "{}: RandomFlip's direction must be 'horizontal' or 'vertical'",
                    section.place
                )));
            }
        },
        "RandomGaussianBlur" => "GaussianBlur",
        "RandomSolarize" => "Solarization",
        "RandomAppliedTrans" => "RandomApply",
        "MultiView" => {
            return Err(Error::input(format!(
                "{}: MultiView makes several views of a picture; NPID learns from one",
                section.place
            )));
        }
        other => other,
    };
    let mut step = named(kind);
    if kind == "RandomGrayscale" {
        let grey = "npid's grey has three channels, weighted as PIL's (0.299, 0.587, 0.114)";
        section.only("keep_channels", &[Kind::Bool(true)], grey)?;
        section.take("color_format");
        if let Some(weights) = section.take("channel_weights") {
            let items = weights.as_items().unwrap_or_default();
            let numbers: Vec<f64> = items.iter().filter_map(Value::as_number).collect();
            // In BGR; published files write 0.2989.
            let pil = [0.114, 0.587, 0.299];
            let near = |(a, b): (&f64, f64)| (a - b).abs() < 2e-4;
            if numbers.len() != 3 || !numbers.iter().zip(pil).all(near) {
                return Err(refuse(&section.path("channel_weights"), weights, grey));
            }
        }
    }
    if section.dict.get("backend").is_some() {
        let name = section.text("backend")?;
        if name != Some("pillow") {
            out.notes.push(format!(
                "{}: {kind} resizes with {}, which doesn't smooth; npid resizes as Pillow",
                section.place,
                name.unwrap_or("cv2")
            ));
        }
    }
    let inner = section.take("transforms");
    if let Some(inner) = inner {
        let items = inner.as_items().unwrap_or(std::slice::from_ref(inner));
        let mut list = Vec::new();
        for item in items {
            let part = Section::new("transforms", item)?;
            list.extend(transform(part, out)?.map(toml::Value::Table));
        }
        step.insert("transforms".into(), toml::Value::Array(list));
    }
    let others: Vec<_> = section.rest().collect();
    for (key, value) in others {
        if value.is_none() {
            continue;
        }
        let name = match (kind, key) {
            (_, "prob") => "p",
            // mmcls 1.x; `scale` is the share of the area where there is no such key.
            ("RandomResizedCrop", "scale") if has(&section, "crop_ratio_range") => "size",
            ("RandomResizedCrop", "crop_ratio_range") => "scale",
            ("RandomResizedCrop", "aspect_ratio_range") => "ratio",
            ("CenterCrop", "crop_size") => "size",
            ("Solarization", "thr") => "threshold",
            _ => key,
        };
        step.insert(name.into(), to_toml(&section.path(key), value)?);
    }
    square(kind, &mut step);
    Ok(Some(step))
}

fn has(section: &Section, key: &str) -> bool {
    section.dict.get(key).is_some()
}

/// Writes the size of a crop with equal sides as one number. A Resize to one number is another
/// operation.
fn square(kind: &str, step: &mut Table) {
    if kind == "Resize" {
        return;
    }
    if let Some(toml::Value::Array(sides)) = step.get("size")
        && let [height, width] = sides.as_slice()
        && height == width
    {
        let side = height.clone();
        step.insert("size".into(), side);
    }
}
