//! Which checkpoint of a run is meant.

use super::{Checkpoint, file_name, list};
use crate::error::Error;
use crate::run::RunFolder;

/// Which checkpoint of a run is meant; parsed from what a person types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The newest whole one: `last`.
    #[default]
    Last,
    /// The one with the best kNN figure so far: `best`.
    Best,
    /// The one after so many optimiser steps: `step-00000120` (with or without `.safetensors`) or
    /// `120`.
    Step(u64),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => return Ok(Choice::Last),
            "best" => return Ok(Choice::Best),
            _ => {}
        }
        let name = text.strip_suffix(".safetensors").unwrap_or(text);
        let step = name.strip_prefix("step-").unwrap_or(name);
        let digits = step.bytes().all(|b| b.is_ascii_digit());
        match step.parse() {
            Ok(step) if digits => Ok(Choice::Step(step)),
            _ => Err("it must be last, best, or a checkpoint's name such as step-00000120".into()),
        }
    }
}

impl Choice {
    /// Opens the checkpoint of `folder` that is meant, with a sentence for each newer one that is
    /// damaged and was passed over.
    ///
    /// # Errors
    /// [`Error::Input`] naming `--run` or `--checkpoint` if there is no such checkpoint; else as
    /// [`Checkpoint::newest`] and [`Checkpoint::open`].
    pub fn open(self, folder: &RunFolder) -> Result<(Checkpoint, Vec<String>), Error> {
        let newest = || {
            Checkpoint::newest(&folder.checkpoints())?.ok_or_else(|| {
                Error::input(format!(
                    "--run {}: there is no checkpoint in it; let npid train --resume it first",
                    folder.path().display()
                ))
            })
        };
        match self {
            Choice::Last => newest(),
            Choice::Step(step) => Ok((open(folder, &step.to_string(), step)?, Vec::new())),
            Choice::Best => {
                let (newest, warnings) = newest()?;
                let Some(best) = newest.meta().figures.best else {
                    return Err(Error::input(format!(
                        "--checkpoint best: no kNN figure was measured in {} yet; take last",
                        folder.path().display()
                    )));
                };
                match best.step == newest.meta().cursor.step {
                    true => Ok((newest, warnings)),
                    false => Ok((open(folder, "best", best.step)?, warnings)),
                }
            }
        }
    }
}

fn open(folder: &RunFolder, asked: &str, step: u64) -> Result<Checkpoint, Error> {
    let all = list(&folder.checkpoints())?;
    match all.iter().find(|(there, _)| *there == step) {
        Some((_, path)) => Checkpoint::open(path),
        None => {
            let there: Vec<String> = (all.iter().rev())
                .map(|(step, _)| file_name(*step).replace(".safetensors", ""))
                .collect();
            let there = match there.is_empty() {
                true => "none is there".to_string(),
                false => format!("there are {}", there.join(", ")),
            };
            Err(Error::input(format!(
                "--checkpoint {asked}: there is no {} in {}; {there}",
                file_name(step),
                folder.checkpoints().display()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_one() {
        let step = Ok(Choice::Step(120));
        for (text, choice) in [
            ("last", Ok(Choice::Last)),
            ("best", Ok(Choice::Best)),
            ("step-00000120.safetensors", step.clone()),
            ("step-00000120", step.clone()),
            ("120", step),
        ] {
            assert_eq!(text.parse(), choice, "{text}");
        }
        for text in [
            "",
            "newest",
            "step-",
            "+5",
            "-5",
            "../step-3",
            "1e3",
            "step-99999999999999999999",
        ] {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
    }
}
