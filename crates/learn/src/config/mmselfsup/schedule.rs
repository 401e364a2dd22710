//! The optimiser, the learning rate over time, and how long, how often saved and said.

use npid_mmconfig::{Kind, Place, Value};

use super::optimizer::optimizer;
use super::section::{Out, Section, refuse};
use crate::Error;

const F32: &str = "npid computes in 32 bits, which needs no scaling of the loss";
const HOOK: &str = "there is one process, and nothing to reduce between several";

/// `optimizer` and `optimizer_config` of 0.x.
pub(super) fn optimizer_and_config(
    part: Section,
    config: Option<Section>,
    out: &mut Out,
) -> Result<(), Error> {
    optimizer(part, None, out)?;
    let Some(mut config) = config else {
        return Ok(());
    };
    if let Some((kind, _)) = config.kind()? {
        let known = [
            "OptimizerHook",
            "DistOptimizerHook",
            "Fp16OptimizerHook",
            "GradAccumFp16OptimizerHook",
            "GradientCumulativeOptimizerHook",
            "GradientCumulativeFp16OptimizerHook",
        ];
        if !known.contains(&kind) {
            return Err(Error::input(format!(
                "{}: optimizer_config.type is {kind}; npid has MMSelfSup's DistOptimizerHook, \
                 which needs no name",
                config.place
            )));
        }
    }
    let interval = "optimizer_config.update_interval";
    accumulate(&mut config, "update_interval", interval, out)?;
    accumulate(&mut config, "cumulative_iters", interval, out)?;
    config.only(
        "grad_clip",
        &[],
        "npid cuts no gradients off; it must be None",
    )?;
    let none_frozen = "npid freezes whole stages: model.backbone.frozen_stages";
    config.only(
        "frozen_layers_cfg",
        &[Kind::Dict(Default::default())],
        none_frozen,
    )?;
    config.ignore(out, &["coalesce", "bucket_size_mb", "distributed"], HOOK);
    config.ignore(out, &["use_fp16", "loss_scale", "grad_scaler"], F32);
    config.finish()
}

/// Micro-batches of an optimiser step. One is what there is without the key.
fn accumulate(part: &mut Section, from: &str, to: &str, out: &mut Out) -> Result<(), Error> {
    let place = part.dict.get(from).map(|value| value.place.clone());
    if let (Some(n), Some(place)) = (part.count(from)?, place)
        && n > 1
    {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        out.set(to, n, &place);
        out.notes.push(format!(
            "an optimiser step every {n} batches ({}); batch norm and memory bank act on each, as \
             in MMSelfSup",
            part.path(from)
        ));
    }
    Ok(())
}

/// `optim_wrapper` of 1.x.
pub(super) fn optim_wrapper(mut part: Section, out: &mut Out) -> Result<(), Error> {
    match part.kind()? {
        Some(("OptimWrapper", _)) | None => {}
        Some(("AmpOptimWrapper", _)) => out.ignore("optim_wrapper.type AmpOptimWrapper", F32),
        Some((kind, _)) => {
            return Err(Error::input(format!(
                "{}: optim_wrapper.type is {kind}; it must be OptimWrapper",
                part.place
            )));
        }
    }
    let interval = "optimizer_config.update_interval";
    accumulate(&mut part, "accumulative_counts", interval, out)?;
    part.only(
        "clip_grad",
        &[],
        "npid cuts no gradients off; it must be None",
    )?;
    part.ignore(out, &["loss_scale", "dtype", "use_fp16"], F32);
    let default = [Kind::Str("DefaultOptimWrapperConstructor".into())];
    part.only(
        "constructor",
        &default,
        "npid has mmengine's default constructor",
    )?;
    let paramwise = part.section("paramwise_cfg")?;
    match part.section("optimizer")? {
        Some(inner) => optimizer(inner, paramwise, out)?,
        None => return Err(part.missing("optimizer")),
    }
    part.finish()
}

/// `lr_config` of 0.x: mmcv's learning-rate hooks.
pub(super) fn lr_config(mut part: Section, epochs: i64, out: &mut Out) -> Result<(), Error> {
    let at = part.place.clone();
    let Some(policy) = part.text("policy")? else {
        return Err(part.missing("policy"));
    };
    // mmcv takes the class's name or its beginning.
    match policy.trim_end_matches("LrUpdaterHook") {
        "step" | "Step" => {
            out.set("lr_config.policy", "step", &at);
            let Some(step) = part.take("step") else {
                return Err(part.missing("step"));
            };
            match step.as_int() {
                // Every n epochs.
                Some(n) if n >= 1 => {
                    let at: Vec<_> = (1..).map(|i| i * n).take_while(|&t| t < epochs).collect();
                    match at.is_empty() {
                        false => out.set("lr_config.step", at, &step.place),
                        true => out.set("lr_config.policy", "fixed", &step.place),
                    }
                }
                _ => {
                    let path = part.path("step");
                    out.set(
                        "lr_config.step",
                        super::section::to_toml(&path, step)?,
                        &step.place,
                    );
                }
            }
            part.copy(
                out,
                &[("gamma", "lr_config.gamma"), ("min_lr", "lr_config.min_lr")],
            )?;
        }
        "CosineAnnealing" | "CosineAnealing" => {
            out.set("lr_config.policy", "CosineAnnealing", &at);
            if let Some(ratio) = part.take("min_lr_ratio") {
                let lr = out.table.get("optimizer").and_then(|o| o.get("lr"));
                let lr = lr.and_then(|lr| lr.as_float().or(lr.as_integer().map(|n| n as f64)));
                let (Some(ratio), Some(lr)) = (ratio.as_number(), lr) else {
                    let path = part.path("min_lr_ratio");
                    return Err(refuse(&path, ratio, "it must be a number"));
                };
                out.set("lr_config.min_lr", lr * ratio, &at);
            }
            part.copy(out, &[("min_lr", "lr_config.min_lr")])?;
        }
        "fixed" | "Fixed" => out.set("lr_config.policy", "fixed", &at),
        _ => {
            return Err(Error::input(format!(
                "{at}: lr_config.policy is {policy}; npid has step, CosineAnnealing and fixed"
            )));
        }
    }
    part.copy(out, &[("by_epoch", "lr_config.by_epoch")])?;
    match part.text("warmup")? {
        // mmcv reads the other keys only if there is one.
        None => {
            for key in ["warmup_iters", "warmup_ratio", "warmup_by_epoch"] {
                part.take(key);
            }
        }
        Some("linear") => part.copy(
            out,
            &[
                ("warmup_iters", "lr_config.warmup_iters"),
                ("warmup_ratio", "lr_config.warmup_ratio"),
                ("warmup_by_epoch", "lr_config.warmup_by_epoch"),
            ],
        )?,
        Some(other) => {
            return Err(Error::input(format!(
                "{at}: lr_config.warmup is {other}; npid has linear"
            )));
        }
    }
    part.finish()
}

/// `param_scheduler` of 1.x: mmengine's schedulers, as far as they make one of npid's policies.
pub(super) fn param_scheduler(list: &Value, epochs: i64, out: &mut Out) -> Result<(), Error> {
    let name = "param_scheduler";
    let mut policy = false;
    for item in list.as_items().unwrap_or(std::slice::from_ref(list)) {
        let mut part = Section::new(name, item)?;
        let at = part.place.clone();
        let kind = part.kind()?.map(|(kind, _)| kind);
        let by_epoch = part.boolean("by_epoch")?.unwrap_or(true);
        let begin = part.integer("begin")?.unwrap_or(0);
        let end = part.integer("end")?;
        part.take("verbose");
        part.take("convert_to_iter_based");
        let whole = || {
            let covers = begin == 0 && end.is_none_or(|end| !by_epoch || end >= epochs);
            match covers && by_epoch {
                true => Ok(()),
                false => Err(Error::input(format!(
                    "{at}: {name} has a {} for a part of the training, or by steps; npid's \
                     policies take all of it, by epochs",
                    kind.unwrap_or_default()
                ))),
            }
        };
        match kind {
            Some("LinearLR") if begin == 0 && !policy => {
                let Some(end) = end.filter(|&end| end > 0) else {
                    return Err(part.missing("end"));
                };
                let full = "npid's warm-up ends at the full rate";
                part.only("end_factor", &[Kind::Float(1.0)], full)?;
                let start = part.number("start_factor")?.unwrap_or(1.0 / 3.0);
                out.set("lr_config.warmup_iters", end, &at);
                out.set("lr_config.warmup_by_epoch", by_epoch, &at);
                out.set("lr_config.warmup_ratio", start, &at);
            }
            Some("MultiStepLR") if !policy => {
                whole()?;
                out.set("lr_config.policy", "step", &at);
                part.copy(
                    out,
                    &[
                        ("milestones", "lr_config.step"),
                        ("gamma", "lr_config.gamma"),
                    ],
                )?;
                policy = true;
            }
            Some("CosineAnnealingLR") if !policy => {
                whole()?;
                let ends = "npid's cosine ends with the training (runner.max_epochs)";
                part.only("T_max", &[Kind::Int(epochs)], ends)?;
                out.set("lr_config.policy", "CosineAnnealing", &at);
                part.copy(out, &[("eta_min", "lr_config.min_lr")])?;
                policy = true;
            }
            _ => {
                return Err(refuse(
                    name,
                    item,
                    "npid has one MultiStepLR or CosineAnnealingLR, with a LinearLR before it",
                ));
            }
        }
        part.finish()?;
    }
    Ok(())
}

/// Passes over the pictures: `runner`, `total_epochs` (OpenSelfSup) or `train_cfg` (1.x). The last
/// of these that is there counts.
pub(super) fn epochs(
    total: Option<&Value>,
    runner: Option<Section>,
    train_cfg: Option<Section>,
    out: &mut Out,
) -> Result<i64, Error> {
    let mut found: Option<(i64, Place)> = None;
    if let Some(value) = total {
        match value.as_int() {
            Some(n) => found = Some((n, value.place.clone())),
            None => return Err(refuse("total_epochs", value, "it must be a whole number")),
        }
    }
    for (part, known) in [
        (runner, "EpochBasedRunner"),
        (train_cfg, "EpochBasedTrainLoop"),
    ] {
        let Some(mut part) = part else { continue };
        let at = part.place.clone();
        match part.kind()? {
            Some((kind, _)) if kind == known => {}
            None => {}
            Some((kind, _)) => {
                return Err(Error::input(format!(
                    "{at}: {} is {kind}; npid counts epochs, so it must be {known} with max_epochs",
                    part.path("type")
                )));
            }
        }
        part.only("by_epoch", &[Kind::Bool(true)], "npid counts epochs")?;
        let place = part.dict.get("max_epochs").map(|value| value.place.clone());
        if let (Some(n), Some(place)) = (part.integer("max_epochs")?, place) {
            found = Some((n, place));
        }
        for key in ["val_interval", "val_begin", "dynamic_intervals"] {
            part.take(key);
        }
        part.finish()?;
    }
    let Some((epochs, place)) = found else {
        return Err(Error::input(
            "runner.max_epochs is missing: nothing says how long to train; add runner = \
             dict(type='EpochBasedRunner', max_epochs=200)",
        ));
    };
    out.set("runner.max_epochs", epochs, &place);
    Ok(epochs)
}

/// `checkpoint_config`, or the `checkpoint` of 1.x's `default_hooks`.
pub(super) fn checkpoint(mut part: Section, epochs: i64, out: &mut Out) -> Result<(), Error> {
    let at = part.place.clone();
    part.take("type");
    part.only("by_epoch", &[Kind::Bool(true)], "npid saves between epochs")?;
    // mmcv's default never saves, but for the end.
    let interval = part
        .integer("interval")?
        .filter(|&n| n > 0)
        .unwrap_or(epochs.max(1));
    out.set("checkpoint.interval", interval, &at);
    let keep = part.integer("max_keep_ckpts")?.filter(|&n| n > 0);
    // Without a number all are kept.
    let all = (epochs.max(1) - 1) / interval + 1;
    out.set("checkpoint.keep", keep.unwrap_or(all), &at);
    let shape = "npid's checkpoints hold everything, in its run's folder";
    let keys = [
        "save_optimizer",
        "save_param_scheduler",
        "out_dir",
        "create_symlink",
        "save_last",
        "filename_tmpl",
        "file_client_args",
        "backend_args",
        "sync_buffer",
    ];
    part.ignore(out, &keys, shape);
    part.finish()
}

/// `log_config`, or the `logger` of 1.x's `default_hooks`.
pub(super) fn log(mut part: Section, out: &mut Out) -> Result<(), Error> {
    part.take("type");
    match part.take("interval") {
        Some(value) => {
            let path = part.path("interval");
            out.set(
                "log.interval",
                super::section::to_toml(&path, value)?,
                &value.place,
            );
        }
        // mmcv's default, which isn't npid's.
        None => out.set("log.interval", 10, &part.place),
    }
    let logs = "npid writes metrics.jsonl";
    let keys = [
        "hooks",
        "by_epoch",
        "ignore_last",
        "reset_flag",
        "log_metric_by_epoch",
        "out_suffix",
    ];
    part.ignore(out, &keys, logs);
    part.finish()
}
