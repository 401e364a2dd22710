//! `optimizer`: SGD and LARS, and what they do differently for some parameters.

use npid_mmconfig::{Kind, Value};

use super::section::{Out, Section, refuse, to_toml};
use crate::Error;

/// `optimizer`; `paramwise` is 1.x's `paramwise_cfg`, which stands beside it.
pub(super) fn optimizer(
    mut part: Section,
    paramwise: Option<Section>,
    out: &mut Out,
) -> Result<(), Error> {
    let at = part.place.clone();
    let Some((kind, _)) = part.kind()? else {
        return Err(part.missing("type"));
    };
    if !["SGD", "LARS"].contains(&kind) {
        return Err(Error::input(format!(
            "{at}: optimizer.type is {kind}; npid has SGD and LARS"
        )));
    }
    out.set("optimizer.type", kind, &at);
    if part.dict.get("lr").is_none() {
        return Err(part.missing("lr"));
    }
    part.copy(
        out,
        &[
            ("lr", "optimizer.lr"),
            ("momentum", "optimizer.momentum"),
            ("weight_decay", "optimizer.weight_decay"),
            ("nesterov", "optimizer.nesterov"),
        ],
    )?;
    if kind == "LARS" {
        part.copy(out, &[("eta", "optimizer.eta"), ("eps", "optimizer.eps")])?;
    }
    part.only(
        "dampening",
        &[Kind::Float(0.0)],
        "npid's momentum isn't dampened",
    )?;
    let decay = part.number("weight_decay")?.unwrap_or(0.0);
    if let Some(options) = part.section("paramwise_options")? {
        by_regex(options, decay, out)?;
    }
    if let Some(cfg) = part.section("paramwise_cfg")? {
        by_kind(cfg, out)?;
    }
    if let Some(cfg) = paramwise {
        by_kind(cfg, out)?;
    }
    part.finish()
}

/// MMSelfSup 0.x: options by a regular expression on the parameter's name. npid knows those that
/// its published configurations have.
fn by_regex(options: Section, decay: f64, out: &mut Out) -> Result<(), Error> {
    let norms = [
        r"(bn|gn)(\d+)?.(weight|bias)",
        r"(bn|ln|gn)(\d+)?.(weight|bias)",
        r"(bn|gn|norm)(\d+)?.(weight|bias)",
    ];
    let mut seen = (false, false);
    for (pattern, value) in options.dict.iter() {
        let path = options.path(&format!("'{pattern}'"));
        let kind = match pattern {
            "bias" => "bias",
            _ if norms.contains(&pattern) => "norm",
            _ => {
                return Err(refuse(
                    &path,
                    value,
                    &format!(
                        "npid knows the patterns '{}' and 'bias', for batch norms and biases",
                        norms[0]
                    ),
                ));
            }
        };
        match kind {
            "bias" => seen.1 = true,
            _ => seen.0 = true,
        }
        let mut part = Section::new(path.clone(), value)?;
        let absolute = part.take("weight_decay");
        let factor = part.take("weight_decay_mult");
        let decay_mult = match (absolute, factor) {
            (Some(value), _) => match value.as_number() {
                Some(0.0) => Some((0.0, value)),
                Some(x) if decay > 0.0 => Some((x / decay, value)),
                _ => {
                    return Err(refuse(
                        &path,
                        value,
                        "it must be a number, beside a weight_decay",
                    ));
                }
            },
            (None, Some(value)) => match value.as_number() {
                Some(x) => Some((x, value)),
                None => return Err(refuse(&path, value, "it must be a number")),
            },
            (None, None) => None,
        };
        if let Some((mult, value)) = decay_mult {
            out.set(
                &format!("optimizer.paramwise_cfg.{kind}_decay_mult"),
                mult,
                &value.place,
            );
        }
        part.copy(
            out,
            &[(
                "lars_exclude",
                &format!("optimizer.paramwise_cfg.{kind}_lars_exclude"),
            )],
        )?;
        if kind == "bias" {
            part.copy(out, &[("lr_mult", "optimizer.paramwise_cfg.bias_lr_mult")])?;
        }
        part.finish()?;
    }
    match seen {
        (false, true) => Err(Error::input(format!(
            "{}: {} has the pattern 'bias' alone, which in MMSelfSup takes the shifts of batch \
             norms too; npid tells them apart, so add '{}'",
            options.place,
            options.path("").trim_end_matches('.'),
            norms[0]
        ))),
        (true, _) => {
            out.notes.push(format!(
                "{}: paramwise_options hold for all batch norms; MMSelfSup's pattern misses the \
                 scales of those on shortcuts (downsample.1.weight)",
                options.place
            ));
            Ok(())
        }
        (false, false) => Ok(()),
    }
}

/// mmcv's and mmengine's `paramwise_cfg`: by kind of parameter, or the `custom_keys` for norms and
/// biases that MMSelfSup 1.x has.
fn by_kind(mut cfg: Section, out: &mut Out) -> Result<(), Error> {
    cfg.copy(
        out,
        &[
            ("norm_decay_mult", "optimizer.paramwise_cfg.norm_decay_mult"),
            ("bias_decay_mult", "optimizer.paramwise_cfg.bias_decay_mult"),
            ("bias_lr_mult", "optimizer.paramwise_cfg.bias_lr_mult"),
        ],
    )?;
    if let Some(keys) = cfg.section("custom_keys")? {
        let same = |a: Option<&Value>, b: Option<&Value>| a.is_some() && a == b;
        let (norm, bias) = (keys.dict.get("bn"), keys.dict.get("bias"));
        let complete = same(norm, bias) && same(norm, keys.dict.get("downsample.1"));
        let (Some(norm), true, 3) = (norm, complete, keys.dict.len()) else {
            return Err(Error::input(format!(
                "{}: custom_keys must be 'bn', 'bias' and 'downsample.1' with the same values, as \
                 in MMSelfSup's own files: npid tells batch norms and biases apart, not names",
                keys.place
            )));
        };
        let mut part = Section::new(keys.path("'bn'"), norm)?;
        for (key, to) in [
            ("decay_mult", "decay_mult"),
            ("lars_exclude", "lars_exclude"),
        ] {
            if let Some(value) = part.take(key) {
                for kind in ["norm", "bias"] {
                    let value_of = to_toml(&part.path(key), value)?;
                    out.set(
                        &format!("optimizer.paramwise_cfg.{kind}_{to}"),
                        value_of,
                        &value.place,
                    );
                }
            }
        }
        part.finish()?;
    }
    cfg.finish()
}
