//! MMSelfSup's own configurations, as npid's.
//!
//! [`translate`] reads the file with `npid_mmconfig`, which runs nothing, and goes through it key by
//! key: each is handed over, passed with a note because it means nothing here, or refused with its
//! line because the run would be another one. The keys of MMSelfSup 0.x, of OpenSelfSup before it
//! and of 1.x are known; `docs/mmselfsup.md` lists them.

mod data;
mod model;
mod optimizer;
mod pipeline;
mod schedule;
mod section;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use npid_mmconfig::{Kind, Place, Value};

use crate::Error;
use data::{Gpus, JUDGED};
use section::{Out, Section, refuse};

/// What became of a configuration of MMSelfSup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The same as a recipe: TOML.
    pub text: String,
    /// npid's dotted keys, and the file and line that gave rise to them.
    pub places: Vec<(String, Place)>,
    /// Where it says that the pictures are.
    pub pictures: Vec<Pictures>,
    /// What one should know, a line each: how the batch comes about, what differs, and which keys
    /// have no effect.
    pub notes: Vec<String>,
}

/// A path of pictures, as MMSelfSup reads it: relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// MMSelfSup's key.
    pub key: String,
    /// A folder, or a list file.
    pub path: PathBuf,
    /// Where it was written.
    pub place: Place,
}

impl Translation {
    /// Looks whether the pictures are where the configuration says.
    ///
    /// # Errors
    /// The first path that isn't there, with its key and line and what to do.
    pub fn check_pictures(&self) -> Result<(), Error> {
        let Some(gone) = self
            .pictures
            .iter()
            .find(|pictures| !pictures.path.exists())
        else {
            return Ok(());
        };
        let folder = self.pictures.iter().find(|pictures| pictures.path.is_dir());
        let example = match folder {
            Some(folder) => format!("such as --data {}", folder.path.display()),
            None => "a folder or a list".to_string(),
        };
        Err(Error::input(format!(
            "{}: {} is {}, which isn't there (relative paths begin in the working directory, as in \
             MMSelfSup); say where the pictures are with --data PATH, {example}",
            gone.place,
            gone.key,
            gone.path.display()
        )))
    }

    /// Where the value of a dotted key, or of one that holds it, was written.
    pub fn place(&self, key: &str) -> Option<&Place> {
        let holds = |known: &str| {
            key.strip_prefix(known)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let fitting = self.places.iter().filter(|(known, _)| holds(known));
        // Of two places the later one overrode the other.
        fitting
            .rev()
            .max_by_key(|(known, _)| known.len())
            .map(|(_, place)| place)
    }
}

const PROCESS: &str = "npid is one process, without a process group or CUDA to set up";
const SHOWN: &str = "npid has its own log and display";
const REPEATED: &str = "a seed always repeats a run here";

/// Reads the file at `path` and its bases as a configuration of MMSelfSup, and says the same in
/// npid's keys.
///
/// The number of GPUs, which MMSelfSup learns from its launcher, is that of `gpu_ids` in a file
/// that MMSelfSup has saved, else the `8` of `8xb32` in the file's name, else 1.
///
/// # Errors
/// One line with file, line and key: what can't be read or isn't understood; what npid has nothing
/// like and would change the run.
pub fn translate(path: &Path) -> Result<Translation, Error> {
    let config = npid_mmconfig::read(path).map_err(|error| Error::input(error.to_string()))?;
    let whole = Place {
        file: path.into(),
        line: 1,
    };
    let mut top = Section::of("", &config.root, whole);
    let mut out = Out::default();
    let missing = |key: &str| {
        Error::input(format!(
            "{}: {key} is missing, in the file and in its bases; is it a configuration of \
             MMSelfSup?",
            path.display()
        ))
    };

    let gpus = gpus(path, &mut top)?;
    let Some(part) = top.section("model")? else {
        return Err(missing("model"));
    };
    let preprocessor = model::model(part, gpus.number, &mut out)?;

    let prefetch = top.boolean("prefetch")?.unwrap_or(false);
    let norm = top.take("img_norm_cfg");
    let pictures = match (top.section("data")?, top.section("train_dataloader")?) {
        (_, Some(loader)) => data::dataloader(loader, &gpus, &mut out)?,
        (Some(part), None) => data::data(part, &gpus, prefetch, &mut out)?,
        (None, None) => return Err(missing("data")),
    };
    pipeline::pipeline(&pictures, norm, preprocessor, &mut out)?;

    // In 1.x `optimizer` is a name that `optim_wrapper` is written with.
    let (part, config_part) = (top.section("optimizer")?, top.section("optimizer_config")?);
    match (top.section("optim_wrapper")?, part) {
        (Some(wrapper), _) => schedule::optim_wrapper(wrapper, &mut out)?,
        (None, Some(part)) => schedule::optimizer_and_config(part, config_part, &mut out)?,
        (None, None) => return Err(missing("optimizer")),
    }
    let total = top.take("total_epochs");
    let (runner, train_cfg) = (top.section("runner")?, top.section("train_cfg")?);
    // OpenSelfSup's base has an empty one.
    let train_cfg = train_cfg.filter(|part| !part.dict.is_empty());
    let epochs = schedule::epochs(total, runner, train_cfg, &mut out)
        .map_err(|error| prefixed(path, error))?;
    if let Some(part) = top.section("lr_config")? {
        schedule::lr_config(part, epochs, &mut out)?;
    }
    if let Some(list) = top.take("param_scheduler") {
        schedule::param_scheduler(list, epochs, &mut out)?;
    }
    hooks(&mut top, epochs, &mut out)?;
    rest(&mut top, &config.read, &mut out)?;
    // What was published was computed so; `--dtype bf16` is there for who wants it.
    let whole = top.place.clone();
    out.set("dtype", "f32", &whole);

    let text = toml::to_string(&out.table)
        .map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
    Ok(Translation {
        text,
        places: std::mem::take(&mut out.places),
        pictures: std::mem::take(&mut out.pictures),
        notes: out.into_notes(),
    })
}

/// Puts the file before a message that has no place.
fn prefixed(path: &Path, error: Error) -> Error {
    match error {
        Error::Input(message) if message.starts_with("runner.max_epochs is missing") => {
            Error::input(format!("{}: {message}", path.display()))
        }
        other => other,
    }
}

fn gpus(path: &Path, top: &mut Section) -> Result<Gpus, Error> {
    let named = data::in_name(path);
    let ids = top.take("gpu_ids");
    let (number, known_by) = match (ids.and_then(Value::as_items), named) {
        (Some(ids), _) if !ids.is_empty() => (ids.len() as u64, "gpu_ids".to_string()),
        (_, Some((gpus, batch))) => (gpus, format!("{gpus}xb{batch} in the file's name")),
        (_, None) => (1, "no 8xb32 or the like in the file's name".to_string()),
    };
    Ok(Gpus {
        number,
        known_by,
        named_batch: named.map(|(_, batch)| batch),
    })
}

/// What is saved and logged, and hooks that do something else.
fn hooks(top: &mut Section, epochs: i64, out: &mut Out) -> Result<(), Error> {
    if let Some(part) = top.section("checkpoint_config")? {
        schedule::checkpoint(part, epochs, out)?;
    }
    if let Some(part) = top.section("log_config")? {
        schedule::log(part, out)?;
    }
    if let Some(mut hooks) = top.section("default_hooks")? {
        if let Some(part) = hooks.section("checkpoint")? {
            schedule::checkpoint(part, epochs, out)?;
        }
        if let Some(part) = hooks.section("logger")? {
            schedule::log(part, out)?;
        }
        let others: Vec<_> = hooks.rest().map(|(key, _)| hooks.path(key)).collect();
        for key in others {
            out.ignore(key, SHOWN);
        }
    }
    if let Some(list) = top.take("custom_hooks") {
        for hook in list.as_items().unwrap_or(std::slice::from_ref(list)) {
            let mut hook = Section::new("custom_hooks", hook)?;
            let kind = hook.kind()?.map_or("hook", |(kind, _)| kind);
            match kind {
                "ValidateHook" | "SelfSupVisualizationHook" => {
                    out.ignore(format!("custom_hooks {kind}"), JUDGED);
                }
                _ => out.notes.push(format!(
                    "{}: custom_hooks has a {kind}, and npid runs no hooks; whatever it did to the \
                     training is missing",
                    hook.place
                )),
            }
        }
    }
    Ok(())
}

/// The keys that are left: those that mean nothing here, and those that would.
fn rest(
    top: &mut Section,
    read: &std::collections::BTreeSet<String>,
    out: &mut Out,
) -> Result<(), Error> {
    top.copy(out, &[("seed", "seed")])?;
    if let Some(mut randomness) = top.section("randomness")? {
        randomness.copy(out, &[("seed", "seed")])?;
        randomness.ignore(out, &["deterministic", "diff_rank_seed"], REPEATED);
        randomness.finish()?;
    }
    for (key, flag) in [
        ("load_from", ""),
        ("resume_from", "--resume RUN"),
        ("resume", "--resume RUN"),
    ] {
        match top.take(key) {
            None => {}
            Some(value) if value.as_bool() == Some(false) => {}
            Some(value) => {
                let why = match flag {
                    "" => "set it to None, and name the weights to start from as \
                           model.backbone.init_cfg = dict(type='Pretrained', checkpoint=...)"
                        .to_string(),
                    flag => format!("set it to None; a run of npid goes on with npid train {flag}"),
                };
                return Err(refuse(key, value, &why));
            }
        }
    }
    if let Some(value) = top.take("workflow") {
        let only_training = value.as_items().is_some_and(|flow| {
            flow.iter().all(|step| {
                let step = step.as_items().unwrap_or_default();
                step.first().and_then(Value::as_str) == Some("train")
            })
        });
        if !only_training {
            return Err(refuse(
                "workflow",
                value,
                "npid trains; it must be [('train', 1)]",
            ));
        }
    }
    if let Some(mut scale) = top.section("auto_scale_lr")? {
        let off = "npid takes optimizer.lr as it is; set enable=False and write the scaled rate";
        scale.only("enable", &[Kind::Bool(false)], off)?;
    }
    top.only(
        "momentum_config",
        &[],
        "npid's momentum stays; it must be None",
    )?;
    let process = [
        "dist_params",
        "cudnn_benchmark",
        "find_unused_parameters",
        "opencv_num_threads",
        "mp_start_method",
        "persistent_workers",
        "env_cfg",
        "launcher",
        "device",
        "gpus",
        "default_scope",
    ];
    top.ignore(out, &process, PROCESS);
    top.ignore(out, &["deterministic"], REPEATED);
    top.ignore(out, &["fp16", "use_fp16"], "npid computes in 32 bits");
    let shown = ["log_level", "log_processor", "vis_backends", "visualizer"];
    top.ignore(out, &shown, SHOWN);
    let judged = [
        "evaluation",
        "val_dataloader",
        "val_evaluator",
        "val_cfg",
        "test_dataloader",
        "test_evaluator",
        "test_cfg",
    ];
    top.ignore(out, &judged, JUDGED);
    top.ignore(
        out,
        &["work_dir", "auto_resume"],
        "--out DIR and --resume DIR",
    );
    top.ignore(out, &["custom_imports"], "npid imports nothing");
    // Names that others are written with, here or in the file that this one was saved from.
    let helpers = [
        "data_source",
        "dataset_type",
        "data_root",
        "train_pipeline",
        "test_pipeline",
        "extract_pipeline",
        "data_source_cfg",
        "data_train_list",
        "data_train_root",
        "file_client_args",
        "update_interval",
        "optimizer",
    ];
    let unknown: Vec<_> = top
        .rest()
        .filter(|(key, _)| !helpers.contains(key) && !read.contains(*key))
        .map(|(key, value)| format!("{key} ({})", value.place))
        .collect();
    if !unknown.is_empty() {
        out.notes.push(format!(
            "not known to npid, and passed over: {}",
            unknown.join(", ")
        ));
    }
    Ok(())
}
