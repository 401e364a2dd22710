//! A backbone's weights from a file: `init_cfg = { type = "Pretrained", ... }`.

use std::path::Path;

use npid_engine::Engine;
use npid_engine::state::StateKind;
use npid_weights::resnet::{self, Matched};
use serde::Serialize;

use crate::config::{Config, InitCfg};
use crate::error::Error;

/// Which weights of a file a network was given; `weights.json` of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub checkpoint: String,
    /// What came before the backbone's names in it.
    pub prefix: String,
    /// The network's name and the file's of each weight that was taken.
    pub loaded: Vec<(String, String)>,
    /// The network's names that the file has nothing for.
    pub missing: Vec<String>,
    /// The file's names that the network has no use for.
    pub unused: Vec<String>,
}

impl Report {
    /// What was matched in the file at `path`.
    pub fn new(path: &Path, prefix: String, matched: Matched) -> Self {
        Report {
            checkpoint: path.display().to_string(),
            prefix,
            loaded: matched.loaded,
            missing: matched.missing,
            unused: matched.unused,
        }
    }

    /// Writes it into a run folder.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join("weights.json");
        let fail = |error: &dyn std::fmt::Display| {
            Error::run(format!(
                "{}: can't be written ({error}); make room",
                path.display()
            ))
        };
        let text = serde_json::to_string_pretty(self).map_err(|error| fail(&error))?;
        std::fs::write(&path, text + "\n").map_err(|error| fail(&error))
    }
}

/// Gives the backbone of `engine` the weights and running statistics that `config` names; `None`
/// where it names none. Also returns a sentence for people.
///
/// # Errors
/// [`Error::Input`] naming the key and the file: it can't be read, holds no such network, or one of
/// other shapes. The engine may then hold some of the weights, and must not be used.
pub fn load(engine: &mut dyn Engine, config: &Config) -> Result<Option<(Report, String)>, Error> {
    let InitCfg::Pretrained { checkpoint, prefix } = &config.model.backbone.init_cfg else {
        return Ok(None);
    };
    let named = |error: Error| match error {
        Error::Input(text) => Error::Input(format!("model.backbone.init_cfg: {text}")),
        other => other,
    };
    let mut read = || -> Result<(String, Matched), Error> {
        let file = npid_weights::read(checkpoint)?;
        let before = resnet::prefix(&file, prefix.as_deref())?;
        let entries = engine.state();
        let wanted = (entries.iter())
            .filter(|entry| matches!(entry.kind, StateKind::Param(_) | StateKind::Statistic(_)))
            .filter(|entry| entry.name.starts_with("backbone."))
            .map(|entry| (entry.name.as_str(), &entry.shape[..]));
        let matched = resnet::matched(&file, &before, wanted, &|_| None)?;
        matched.load(&file, &mut |name, tensor| -> Result<(), Error> {
            Ok(engine.write(name, &tensor.data)?)
        })?;
        Ok((before, matched))
    };
    let (before, matched) = read().map_err(named)?;
    let note = format!(
        "backbone from {}: {}",
        checkpoint.display(),
        matched.summary()
    );
    Ok(Some((Report::new(checkpoint, before, matched), note)))
}
