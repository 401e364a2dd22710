//! `data` (MMSelfSup 0.x) and `train_dataloader` (1.x): where the pictures are, and the batch.

use std::path::Path;

use npid_mmconfig::{Kind, Place, Value};

use super::Pictures;
use super::section::{Out, Section, refuse};
use crate::Error;

/// How many processes MMSelfSup would train with, and how that is known.
pub(super) struct Gpus {
    pub(super) number: u64,
    pub(super) known_by: String,
    /// B in `AxB` of the file's name.
    pub(super) named_batch: Option<u64>,
}

/// `AxB` in a file's name: A GPUs, and B pictures for each.
pub(super) fn in_name(path: &Path) -> Option<(u64, u64)> {
    let stem = path.file_stem()?.to_str()?;
    stem.split(['_', '-']).find_map(|word| {
        let (gpus, batch) = word.split_once("xb")?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits
                .then(|| text.parse().ok())
                .flatten()
                .filter(|&n: &u64| n > 0)
        };
        Some((number(gpus)?, number(batch)?))
    })
}

/// What is left to do with the pictures once the batch is known.
pub(super) struct Augmented<'a> {
    pub(super) pipeline: &'a Value,
    /// Whether MMSelfSup converts and normalises on the GPU instead of in the pipeline.
    pub(super) prefetch: bool,
}

/// `data` of MMSelfSup 0.x and OpenSelfSup.
pub(super) fn data<'a>(
    mut data: Section<'a>,
    gpus: &Gpus,
    prefetch: bool,
    out: &mut Out,
) -> Result<Augmented<'a>, Error> {
    let at = data.place.clone();
    // The old name wins where both are given, as in MMSelfSup.
    let new = data.count("samples_per_gpu")?;
    let old = data.count("imgs_per_gpu")?;
    let key = if old.is_some() {
        "imgs_per_gpu"
    } else {
        "samples_per_gpu"
    };
    let Some(batch) = old.or(new) else {
        return Err(data.missing("samples_per_gpu"));
    };
    let place = data.dict.get(key).map_or(&at, |value| &value.place).clone();
    let key = data.path(key);
    total(&key, batch, gpus, &place, out)?;
    data.copy(out, &[("drop_last", "data.drop_last")])?;
    for key in ["sampling_replace", "replace"] {
        data.only(
            key,
            &[Kind::Bool(false)],
            "npid shows each picture once an epoch",
        )?;
    }
    data.ignore(out, &["workers_per_gpu"], WORKERS);
    data.ignore(
        out,
        &["persistent_workers", "pin_memory", "prefetch_factor"],
        LOADER,
    );
    data.ignore(
        out,
        &["val", "test", "val_nn", "val_dataloader", "test_dataloader"],
        JUDGED,
    );
    let Some(train) = data.take("train") else {
        return Err(data.missing("train"));
    };
    data.finish()?;
    let mut train = Section::new("data.train", train)?;
    let kind = train.kind()?.map(|(kind, _)| kind);
    if !matches!(kind, Some("SingleViewDataset" | "NPIDDataset") | None) {
        return Err(Error::input(format!(
            "{}: data.train.type is {}; NPID learns from one view of each picture, so it must be \
             SingleViewDataset (NPIDDataset in OpenSelfSup)",
            train.place,
            kind.unwrap_or_default()
        )));
    }
    let Some(source) = train.section("data_source")? else {
        return Err(train.missing("data_source"));
    };
    data_source(source, out)?;
    let Some(pipeline) = train.take("pipeline") else {
        return Err(train.missing("pipeline"));
    };
    let prefetch = train.boolean("prefetch")?.unwrap_or(prefetch);
    train.finish()?;
    Ok(Augmented { pipeline, prefetch })
}

const WORKERS: &str = "npid chooses its loading threads itself; --workers N";
const LOADER: &str = "settings of PyTorch's loader";
pub(super) const JUDGED: &str = "npid judges a run by its own kNN figure; --val PATH, evaluation.*";

/// Sets the batch over all GPUs, and says how it comes about.
fn total(key: &str, batch: u64, gpus: &Gpus, place: &Place, out: &mut Out) -> Result<(), Error> {
    let product = batch.checked_mul(gpus.number);
    let Some(total) = product.and_then(|total| i64::try_from(total).ok()) else {
        return Err(Error::input(format!(
            "{place}: {key} is {batch}; it is too large"
        )));
    };
    out.set("data.batch_size", total, place);
    let (number, why) = (gpus.number, &gpus.known_by);
    let units = if number == 1 { "GPU" } else { "GPUs" };
    out.notes.push(format!(
        "batch of {total}: {number} {units} ({why}) x {batch} pictures ({key}); for another, --set \
         data.batch_size=N, with an optimizer.lr that fits it"
    ));
    if let Some(named) = gpus.named_batch.filter(|&named| named != batch) {
        out.notes.push(format!(
            "{place}: {key} is {batch}, though the file's name says {named}; {batch} counts, as in \
             MMSelfSup"
        ));
    }
    Ok(())
}

/// `data_source` of 0.x, with OpenSelfSup's names for its keys.
fn data_source(mut source: Section, out: &mut Out) -> Result<(), Error> {
    let at = source.place.clone();
    let Some((kind, _)) = source.kind()? else {
        return Err(source.missing("type"));
    };
    if ![
        "ImageNet",
        "ImageList",
        "ImageNet21k",
        "Places205",
        "CIFAR10",
        "CIFAR100",
        "Cifar10",
    ]
    .contains(&kind)
    {
        return Err(Error::input(format!(
            "{at}: data.train.data_source.type is {kind}; npid reads ImageNet, ImageList, \
             ImageNet21k, Places205, CIFAR10 and CIFAR100, and others with --data PATH"
        )));
    }
    let prefix = source.take("data_prefix").or(source.take("root"));
    let list = source.take("ann_file").or(source.take("list_file"));
    place_pictures(&source, prefix, list, out)?;
    source.only(
        "color_type",
        &[Kind::Str("color".into())],
        "npid reads colour",
    )?;
    source.only(
        "channel_order",
        &[Kind::Str("rgb".into())],
        "npid reads RGB",
    )?;
    let labels = ["classes", "test_mode", "return_label", "split"];
    source.ignore(out, &labels, "no label is needed to train");
    let readers = ["memcached", "mclient_path"];
    source.ignore(out, &readers, "npid reads files itself");
    if let Some(args) = source.section("file_client_args")? {
        disk(args)?;
    }
    source.finish()
}

/// `file_client_args`: files on a disk.
pub(super) fn disk(mut args: Section) -> Result<(), Error> {
    args.only(
        "backend",
        &[Kind::Str("disk".into()), Kind::Str("local".into())],
        "npid reads files on disks; copy the pictures to one and say where with --data PATH",
    )?;
    args.finish()
}

/// Sets `data.path` and `data.data_prefix`.
fn place_pictures(
    source: &Section,
    prefix: Option<&Value>,
    list: Option<&Value>,
    out: &mut Out,
) -> Result<(), Error> {
    let mut text = |key: &str, value: &Value| match value.as_str() {
        Some(text) => {
            out.pictures.push(Pictures {
                key: source.path(key),
                path: text.into(),
                place: value.place.clone(),
            });
            Ok(text.to_string())
        }
        None => Err(refuse(&source.path(key), value, "it must be a path")),
    };
    let Some(list) = list else {
        let prefix = prefix.ok_or_else(|| source.missing("data_prefix"))?;
        let path = text("data_prefix", prefix)?;
        out.set("data.path", path, &prefix.place);
        return Ok(());
    };
    let paths = match list.as_items() {
        None => toml::Value::String(text("ann_file", list)?),
        Some([]) => return Err(refuse(&source.path("ann_file"), list, "a path is needed")),
        Some(several) => {
            let paths = several
                .iter()
                .map(|item| Ok(text("ann_file", item)?.into()));
            toml::Value::Array(paths.collect::<Result<_, Error>>()?)
        }
    };
    let prefix = match prefix {
        Some(prefix) => Some((text("data_prefix", prefix)?, &prefix.place)),
        None => None,
    };
    out.set("data.path", paths, &list.place);
    if let Some((path, place)) = prefix {
        out.set("data.data_prefix", path, place);
    }
    Ok(())
}

/// `train_dataloader` of MMSelfSup 1.x.
pub(super) fn dataloader<'a>(
    mut loader: Section<'a>,
    gpus: &Gpus,
    out: &mut Out,
) -> Result<Augmented<'a>, Error> {
    let at = loader.place.clone();
    let Some(batch) = loader.count("batch_size")? else {
        return Err(loader.missing("batch_size"));
    };
    let place = loader
        .dict
        .get("batch_size")
        .map_or(&at, |value| &value.place)
        .clone();
    total("train_dataloader.batch_size", batch, gpus, &place, out)?;
    loader.copy(out, &[("drop_last", "data.drop_last")])?;
    loader.ignore(out, &["num_workers"], WORKERS);
    let settings = [
        "persistent_workers",
        "pin_memory",
        "prefetch_factor",
        "collate_fn",
    ];
    loader.ignore(out, &settings, LOADER);
    if let Some(mut sampler) = loader.section("sampler")? {
        let once = "npid shows each picture once an epoch, in a new order";
        sampler.only("type", &[Kind::Str("DefaultSampler".into())], once)?;
        sampler.only("shuffle", &[Kind::Bool(true)], once)?;
        sampler.take("round_up");
        sampler.take("seed");
        sampler.finish()?;
    }
    let Some(mut set) = loader.section("dataset")? else {
        return Err(loader.missing("dataset"));
    };
    loader.finish()?;
    let Some((kind, _)) = set.kind()? else {
        return Err(set.missing("type"));
    };
    if ![
        "ImageNet",
        "ImageList",
        "CustomDataset",
        "ImageNet21k",
        "Places205",
    ]
    .contains(&kind)
    {
        return Err(Error::input(format!(
            "{}: train_dataloader.dataset.type is {kind}; npid reads ImageNet, ImageList, \
             CustomDataset, ImageNet21k and Places205, and others with --data PATH",
            set.place
        )));
    }
    let root = set.text("data_root")?.unwrap_or_default();
    let below = |value: &Value, text: &str| Value {
        kind: Kind::Str(Path::new(root).join(text).to_string_lossy().into_owned()),
        place: value.place.clone(),
    };
    let prefix = match set.take("data_prefix") {
        Some(value) if value.as_dict().is_some() => {
            let mut inner = Section::new("train_dataloader.dataset.data_prefix", value)?;
            let path = inner.text("img_path")?.unwrap_or_default();
            let prefix = below(value, path);
            inner.finish()?;
            Some(prefix)
        }
        Some(value) => match value.as_str() {
            Some(path) => Some(below(value, path)),
            None => return Err(refuse(&set.path("data_prefix"), value, "it must be a path")),
        },
        None if root.is_empty() => None,
        None => Some(below(
            &Value {
                kind: Kind::None,
                place: set.place.clone(),
            },
            "",
        )),
    };
    let list = match set.take("ann_file") {
        None => None,
        Some(value) => match value.as_str() {
            Some("") => None,
            Some(path) => Some(below(value, path)),
            None => return Err(refuse(&set.path("ann_file"), value, "it must be a path")),
        },
    };
    place_pictures(&set, prefix.as_ref(), list.as_ref(), out)?;
    let labels = ["classes", "test_mode", "metainfo", "with_label"];
    set.ignore(out, &labels, "no label is needed to train");
    let Some(pipeline) = set.take("pipeline") else {
        return Err(set.missing("pipeline"));
    };
    set.finish()?;
    Ok(Augmented {
        pipeline,
        prefetch: false,
    })
}
