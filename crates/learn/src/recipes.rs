//! Recipes: the configurations that are part of the program, and files of one's own.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::config::load::{did_you_mean, end};

/// A configuration's text and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// An embedded recipe's name, or the file's name without its ending.
    pub name: String,
    /// The file; `None` for an embedded recipe.
    pub path: Option<PathBuf>,
    /// TOML.
    pub text: String,
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
        });
    }
    let path = Path::new(name);
    if path.exists() || name.ends_with(".toml") {
        return read(path);
    }
    let names = EMBEDDED.iter().map(|(known, _)| *known);
    Err(Error::input(format!(
        "no recipe or file is called {name}{} recipes are {}",
        end(did_you_mean(name, names.clone())),
        names.collect::<Vec<_>>().join(", ")
    )))
}

/// The recipe in a file.
///
/// # Errors
/// If it can't be read as text.
pub fn read(path: &Path) -> Result<Recipe, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::input(format!("{}: cannot be read ({error})", path.display())))?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy());
    Ok(Recipe {
        name: stem.map_or_else(|| "run".to_string(), String::from),
        path: Some(path.to_path_buf()),
        text,
    })
}

impl Recipe {
    /// The first line of the leading comment: what the recipe is for.
    pub fn summary(&self) -> &str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches(['#', ' '])
    }
}
