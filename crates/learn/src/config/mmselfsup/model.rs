//! `model`: the algorithm's parts, with MMSelfSup's defaults where a key is left out.

use npid_mmconfig::{Kind, Value};

use super::section::{Out, Section, ints, refuse};
use crate::Error;

/// Why a value of the network can't be used.
const FIXED: &str = "npid's ResNet has no such variant; it must be left out";

/// `model`. `gpus` is the number of processes MMSelfSup would train with. The values of
/// `data_preprocessor` (MMSelfSup 1.x), if there is one, are handed back.
pub(super) fn model<'a>(
    mut model: Section<'a>,
    gpus: u64,
    out: &mut Out,
) -> Result<Option<Section<'a>>, Error> {
    let at = model.place.clone();
    match model.kind()? {
        Some(("NPID", _)) => {}
        Some((other, _)) => {
            return Err(Error::input(format!(
                "{at}: model.type is {other}; npid trains NPID and no other algorithm, so take a \
                 configuration of configs/selfsup/npid"
            )));
        }
        None => return Err(model.missing("type")),
    }
    out.set("model.type", "NPID", &at);
    model.copy(
        out,
        &[
            ("neg_num", "model.neg_num"),
            ("ensure_neg", "model.ensure_neg"),
        ],
    )?;
    let pretrained = model.take("pretrained");
    match model.section("backbone")? {
        Some(part) => backbone(part, pretrained, gpus, out)?,
        None => return Err(model.missing("backbone")),
    }
    if let Some(part) = model.section("neck")? {
        neck(part, gpus, out)?;
    }
    match model.section("head")? {
        Some(part) => head(part, out)?,
        None => return Err(model.missing("head")),
    }
    match model.section("memory_bank")? {
        Some(part) => memory_bank(part, out)?,
        None => return Err(model.missing("memory_bank")),
    }
    // One development version has it here.
    if let Some(part) = model.section("loss")? {
        loss(part)?;
    }
    for key in ["train_cfg", "test_cfg"] {
        if let Some(part) = model.section(key)? {
            part.finish()?;
        }
    }
    model.only("init_cfg", &[], "each part has its own; it must be None")?;
    let preprocessor = model.section("data_preprocessor")?;
    model.finish()?;
    Ok(preprocessor)
}

fn backbone(
    mut part: Section,
    pretrained: Option<&Value>,
    gpus: u64,
    out: &mut Out,
) -> Result<(), Error> {
    let at = part.place.clone();
    let Some((kind, library)) = part.kind()? else {
        return Err(part.missing("type"));
    };
    if !["ResNet", "ResNet_CIFAR"].contains(&kind) {
        return Err(Error::input(format!(
            "{at}: model.backbone.type is {kind}; npid has ResNet and ResNet_CIFAR"
        )));
    }
    out.set("model.backbone.type", kind, &at);
    // MMClassification counts its four stages from 0, and begins residual branches at zero.
    let of_mmcls = library == Some("mmcls") || kind == "ResNet_CIFAR";
    if let Some(value) = part.take("out_indices") {
        let items = value.as_items().unwrap_or(std::slice::from_ref(value));
        let mut stages = Vec::new();
        for item in items {
            let stage = item
                .as_int()
                .and_then(|n| n.checked_add(i64::from(of_mmcls)));
            match stage.filter(|n| (0..=4).contains(n)) {
                Some(n) => stages.push(n),
                None => {
                    let most = if of_mmcls { 3 } else { 4 };
                    let why = format!("stages are numbers from 0 to {most}");
                    return Err(refuse("model.backbone.out_indices", value, &why));
                }
            }
        }
        if stages.last() != Some(&4) {
            let last = if of_mmcls { 3 } else { 4 };
            let why = format!("the neck reads the last of them, and npid's reads stage {last}");
            return Err(refuse("model.backbone.out_indices", value, &why));
        }
        out.set("model.backbone.out_indices", stages, &value.place);
    }
    if let Some(channels) = part.take("base_channels") {
        let path = "model.backbone.base_channels";
        out.set(
            path,
            super::section::to_toml(path, channels)?,
            &channels.place,
        );
        // MMSelfSup's stem keeps its 64 channels; npid's would follow.
        if part.dict.get("stem_channels").is_none() && channels.as_int() != Some(64) {
            out.set("model.backbone.stem_channels", 64, &channels.place);
        }
    }
    part.copy(
        out,
        &[
            ("depth", "model.backbone.depth"),
            ("in_channels", "model.backbone.in_channels"),
            ("stem_channels", "model.backbone.stem_channels"),
            ("style", "model.backbone.style"),
            ("frozen_stages", "model.backbone.frozen_stages"),
            ("norm_eval", "model.backbone.norm_eval"),
            ("zero_init_residual", "model.backbone.zero_init_residual"),
        ],
    )?;
    if of_mmcls && part.dict.get("zero_init_residual").is_none() {
        out.set("model.backbone.zero_init_residual", true, &at);
    }
    part.only("num_stages", &[Kind::Int(4)], FIXED)?;
    part.only("strides", &[ints(&[1, 2, 2, 2], &at)], FIXED)?;
    part.only("dilations", &[ints(&[1, 1, 1, 1], &at)], FIXED)?;
    for key in ["deep_stem", "avg_down"] {
        part.only(key, &[Kind::Bool(false)], FIXED)?;
    }
    part.only("drop_path_rate", &[Kind::Float(0.0)], FIXED)?;
    part.only("conv_cfg", &[], FIXED)?;
    part.only("expansion", &[], FIXED)?;
    part.ignore(out, &["with_cp"], "npid keeps no map twice");
    if let Some(cfg) = part.take("norm_cfg") {
        norm("model.backbone.norm_cfg", cfg, gpus, out)?;
    }
    let init = part.take("init_cfg");
    match (pretrained, init) {
        (Some(file), _) => {
            let Some(path) = file.as_str() else {
                return Err(refuse("model.pretrained", file, "it must be a path"));
            };
            checkpoint("model.pretrained", path, file, None, out)?;
        }
        (None, Some(init)) => backbone_init(init, out)?,
        (None, None) => {}
    }
    part.finish()
}

/// `init_cfg` of a backbone: the default written out, or the weights of a file.
fn backbone_init(init: &Value, out: &mut Out) -> Result<(), Error> {
    let path = "model.backbone.init_cfg";
    let steps = init.as_items().unwrap_or(std::slice::from_ref(init));
    for step in steps {
        let mut step = Section::new(path, step)?;
        match step.kind()? {
            Some(("Pretrained", _)) if steps.len() == 1 => {
                let Some(file) = step.take("checkpoint") else {
                    return Err(step.missing("checkpoint"));
                };
                let prefix = step.text("prefix")?;
                step.ignore(out, &["map_location"], "npid reads files itself");
                step.finish()?;
                let Some(name) = file.as_str() else {
                    return Err(refuse(
                        &format!("{path}.checkpoint"),
                        file,
                        "it must be a path",
                    ));
                };
                return checkpoint(&format!("{path}.checkpoint"), name, file, prefix, out);
            }
            Some(("Kaiming", _)) => {
                step.only("distribution", &[Kind::Str("normal".into())], FIXED_INIT)?;
                step.only("mode", &[Kind::Str("fan_out".into())], FIXED_INIT)?;
                step.only("nonlinearity", &[Kind::Str("relu".into())], FIXED_INIT)?;
                step.only("a", &[Kind::Int(0)], FIXED_INIT)?;
                step.only("bias", &[Kind::Int(0)], FIXED_INIT)?;
                layers(&mut step, &["Conv2d"])?;
            }
            Some(("Constant", _)) => {
                step.only("val", &[Kind::Int(1)], FIXED_INIT)?;
                step.only("bias", &[Kind::Int(0)], FIXED_INIT)?;
                layers(&mut step, &["_BatchNorm", "GroupNorm", "BatchNorm2d"])?;
            }
            _ => return Err(refuse(path, init, FIXED_INIT)),
        }
        step.finish()?;
    }
    Ok(())
}

/// Why another start can't be used.
const FIXED_INIT: &str = "npid's networks start as MMSelfSup's by default (Kaiming for \
                          convolutions, 1 and 0 for batch norms, a normal of 0.01 for the neck), \
                          as PyTorch's layers, or from a file; leave it out, or see \
                          model.backbone.init_cfg";

/// Passes `layer`, a name or a list of names that must be among these.
fn layers(step: &mut Section, known: &[&str]) -> Result<(), Error> {
    let Some(value) = step.take("layer") else {
        return Ok(());
    };
    let names = value.as_items().unwrap_or(std::slice::from_ref(value));
    let fits = |name: &Value| name.as_str().is_some_and(|name| known.contains(&name));
    match names.iter().all(fits) {
        true => Ok(()),
        false => Err(refuse(&step.path("layer"), value, FIXED_INIT)),
    }
}

/// Weights to start from.
fn checkpoint(
    key: &str,
    name: &str,
    value: &Value,
    prefix: Option<&str>,
    out: &mut Out,
) -> Result<(), Error> {
    if name.contains("://") {
        return Err(refuse(
            key,
            value,
            "npid fetches no weights; download the file and write its path",
        ));
    }
    let mut init = toml::Table::new();
    init.insert("type".into(), "Pretrained".into());
    init.insert("checkpoint".into(), name.into());
    // The dot at the end of mmcv's prefixes is part of the names, not of the prefix.
    if let Some(prefix) = prefix
        .map(|p| p.trim_end_matches('.'))
        .filter(|p| !p.is_empty())
    {
        init.insert("prefix".into(), prefix.into());
    }
    out.set("model.backbone.init_cfg", init, &value.place);
    Ok(())
}

/// `norm_cfg`: a batch norm as PyTorch has it.
fn norm(path: &str, value: &Value, gpus: u64, out: &mut Out) -> Result<(), Error> {
    let mut cfg = Section::new(path, value)?;
    let kind = cfg.kind()?.map(|(kind, _)| kind);
    match kind {
        Some("SyncBN") => {}
        Some("BN" | "BN1d" | "BN2d") if gpus == 1 => {}
        Some("BN" | "BN1d" | "BN2d") => out.notes.push(format!(
            "{}: {path} is a BN that isn't synchronised: MMSelfSup takes statistics over each \
             GPU's pictures, npid over the whole batch (as SyncBN)",
            value.place
        )),
        _ => {
            let why = "npid has batch norms; type must be SyncBN or BN";
            return Err(refuse(path, value, why));
        }
    }
    cfg.only(
        "requires_grad",
        &[Kind::Bool(true)],
        "npid's batch norms learn",
    )?;
    cfg.only(
        "momentum",
        &[Kind::Float(0.1)],
        "npid's batch norms have PyTorch's 0.1",
    )?;
    cfg.only(
        "eps",
        &[Kind::Float(1e-5)],
        "npid's batch norms have PyTorch's 1e-5",
    )?;
    cfg.only(
        "affine",
        &[Kind::Bool(true)],
        "npid's batch norms have scale and shift",
    )?;
    cfg.finish()
}

fn neck(mut part: Section, gpus: u64, out: &mut Out) -> Result<(), Error> {
    let at = part.place.clone();
    let Some((kind, _)) = part.kind()? else {
        return Err(part.missing("type"));
    };
    out.set("model.neck.type", kind, &at);
    let copied: &[(&str, &str)] = match kind {
        "LinearNeck" => &[],
        "MoCoV2Neck" => &[("hid_channels", "model.neck.hid_channels")],
        "NonLinearNeck" => {
            part.only("vit_backbone", &[Kind::Bool(false)], FIXED)?;
            if let Some(cfg) = part.take("norm_cfg") {
                norm("model.neck.norm_cfg", cfg, gpus, out)?;
            }
            &[
                ("hid_channels", "model.neck.hid_channels"),
                ("num_layers", "model.neck.num_layers"),
                ("with_bias", "model.neck.with_bias"),
                ("with_last_bn", "model.neck.with_last_bn"),
                ("with_last_bn_affine", "model.neck.with_last_bn_affine"),
                ("with_last_bias", "model.neck.with_last_bias"),
            ]
        }
        _ => {
            return Err(Error::input(format!(
                "{at}: model.neck.type is {kind}; npid has LinearNeck, NonLinearNeck and MoCoV2Neck"
            )));
        }
    };
    part.copy(out, copied)?;
    part.copy(
        out,
        &[
            ("in_channels", "model.neck.in_channels"),
            ("out_channels", "model.neck.out_channels"),
            ("with_avg_pool", "model.neck.with_avg_pool"),
        ],
    )?;
    if let Some(init) = part.take("init_cfg") {
        for step in init.as_items().unwrap_or(std::slice::from_ref(init)) {
            let mut step = Section::new("model.neck.init_cfg", step)?;
            match step.kind()? {
                Some(("Normal", _)) => {
                    step.only("std", &[Kind::Float(0.01)], FIXED_INIT)?;
                    layers(&mut step, &["Linear"])?;
                }
                Some(("Constant", _)) => {
                    step.only("val", &[Kind::Int(1)], FIXED_INIT)?;
                    layers(&mut step, &["_BatchNorm", "GroupNorm", "BatchNorm1d"])?;
                }
                _ => return Err(refuse("model.neck.init_cfg", init, FIXED_INIT)),
            }
            step.only("mean", &[Kind::Int(0)], FIXED_INIT)?;
            step.only("bias", &[Kind::Int(0)], FIXED_INIT)?;
            step.finish()?;
        }
    }
    part.finish()
}

fn head(mut part: Section, out: &mut Out) -> Result<(), Error> {
    let at = part.place.clone();
    let Some((kind, _)) = part.kind()? else {
        return Err(part.missing("type"));
    };
    match kind {
        "ContrastiveHead" => {}
        // npid's own, for those who edit their file.
        "NCEHead" => part.copy(
            out,
            &[
                ("z_momentum", "model.head.z_momentum"),
                ("proximal", "model.head.proximal"),
            ],
        )?,
        "SoftmaxHead" => {}
        _ => {
            return Err(Error::input(format!(
                "{at}: model.head.type is {kind}; npid has ContrastiveHead, and beyond MMSelfSup \
                 NCEHead and SoftmaxHead"
            )));
        }
    }
    out.set("model.head.type", kind, &at);
    match part.dict.get("temperature") {
        Some(_) => part.copy(out, &[("temperature", "model.head.temperature")])?,
        // MMSelfSup's default, which isn't npid's.
        None => out.set("model.head.temperature", 0.1, &at),
    }
    if let Some(part) = part.section("loss")? {
        loss(part)?;
    }
    part.only("init_cfg", &[], FIXED_INIT)?;
    part.finish()
}

/// `loss` of MMSelfSup 1.x: the cross entropy that is part of the head here.
fn loss(mut part: Section) -> Result<(), Error> {
    match part.kind()? {
        Some(("CrossEntropyLoss", _)) => {}
        _ => {
            let at = &part.place;
            return Err(Error::input(format!(
                "{at}: {} must be CrossEntropyLoss, which is npid's",
                part.path("type")
            )));
        }
    }
    part.only(
        "loss_weight",
        &[Kind::Float(1.0)],
        "npid's loss isn't weighted; change the lr",
    )?;
    part.finish()
}

fn memory_bank(mut part: Section, out: &mut Out) -> Result<(), Error> {
    let at = part.place.clone();
    match part.kind()? {
        Some(("SimpleMemory", _)) => {}
        Some((other, _)) => {
            return Err(Error::input(format!(
                "{at}: model.memory_bank.type is {other}; npid has SimpleMemory"
            )));
        }
        None => return Err(part.missing("type")),
    }
    out.set("model.memory_bank.type", "SimpleMemory", &at);
    part.copy(
        out,
        &[
            ("length", "model.memory_bank.length"),
            ("feat_dim", "model.memory_bank.feat_dim"),
            ("momentum", "model.memory_bank.momentum"),
        ],
    )?;
    if part.dict.get("momentum").is_none() {
        return Err(part.missing("momentum"));
    }
    // MMSelfSup's SimpleMemory takes any keyword and reads none of them.
    let others: Vec<_> = part.rest().map(|(key, _)| part.path(key)).collect();
    for key in others {
        out.ignore(key, "MMSelfSup's SimpleMemory ignores it too");
    }
    Ok(())
}
