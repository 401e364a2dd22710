//! Recipes: the configurations that are part of the program, and files of one's own.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::config::load::{did_you_mean, end};
use crate::config::mmselfsup::{self, Translation};

/// A configuration's text and where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe {
    /// An embedded recipe's name, or the file's name without its ending.
    pub name: String,
    /// The file; `None` for an embedded recipe.
    pub path: Option<PathBuf>,
    /// TOML.
    pub text: String,
    /// How the text came about, if the file is a configuration of MMSelfSup.
    pub translation: Option<Translation>,
}

macro_rules! embedded {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../recipes/", $name, ".toml")),
        )
    };
}

/// Names and texts of the embedded recipes.
pub const EMBEDDED: [(&str, &str); 8] = [
    embedded!("patterns"),
    embedded!("folder"),
    embedded!("cifar10-resnet18-w16-10e"),
    embedded!("cifar10-resnet18-200e"),
    embedded!("npid_resnet50_8xb32-steplr-200e_in1k"),
    embedded!("npid-ensure-neg_resnet50_8xb32-steplr-200e_in1k"),
    embedded!("npid-nce4096_resnet18_b256-steplr-200e_in1k"),
    embedded!("npid-nce4096_resnet50_b256-steplr-200e_in1k"),
];

/// Endings of recipes' files.
const FILES: [&str; 2] = ["toml", "py"];

/// Endings of files that somebody may take for a recipe.
const WEIGHTS: [&str; 3] = ["pth", "pt", "safetensors"];

/// The recipe of this name, or in this file.
///
/// # Errors
/// If there is neither, or the file can't be read.
pub fn find(name: &str) -> Result<Recipe, Error> {
    if let Some((name, text)) = EMBEDDED.iter().find(|(known, _)| *known == name) {
        return Ok(Recipe {
            name: (*name).to_string(),
            path: None,
            text: (*text).to_string(),
            translation: None,
        });
    }
    let path = Path::new(name);
    let ending = path.extension().and_then(|ending| ending.to_str());
    if path.exists() || ending.is_some_and(|e| FILES.contains(&e) || WEIGHTS.contains(&e)) {
        return read(path);
    }
    let names = EMBEDDED.iter().map(|(known, _)| *known);
    Err(Error::input(format!(
        "no recipe or file is called {name}{} recipes are {}",
        end(did_you_mean(name, names.clone())),
        names.collect::<Vec<_>>().join(", ")
    )))
}

/// The recipe in a file: TOML, or MMSelfSup's Python (`.py`), which is translated.
///
/// # Errors
/// If it can't be read as text; as [`mmselfsup::translate`].
pub fn read(path: &Path) -> Result<Recipe, Error> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    if ending.is_some_and(|ending| WEIGHTS.contains(&ending)) {
        return Err(Error::input(format!(
            "{}: is a file of weights, not a recipe; npid import makes a run of it, and \
             model.backbone.init_cfg begins from its weights",
            path.display()
        )));
    }
    let translation = match ending {
        Some("py") => Some(mmselfsup::translate(path)?),
        _ => None,
    };
    let text = match &translation {
        Some(translation) => translation.text.clone(),
        None => std::fs::read_to_string(path).map_err(|error| {
            Error::input(format!("{}: cannot be read ({error})", path.display()))
        })?,
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy());
    Ok(Recipe {
        name: stem.map_or_else(|| "run".to_string(), String::from),
        path: Some(path.to_path_buf()),
        text,
        translation,
    })
}

impl Recipe {
    /// The first line of the leading comment: what the recipe is for.
    pub fn summary(&self) -> &str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches(['#', ' '])
    }
}
