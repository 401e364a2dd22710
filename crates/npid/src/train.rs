//! `npid train`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use npid_learn::config::load::load;
use npid_learn::recipes::{self, EMBEDDED};
use npid_learn::trainer::{self, Options, Summary};
use npid_learn::{Config, Error};

use crate::args::Train;
use crate::display::{Display, duration};
use crate::engine::engine;
use crate::stop;

/// The recipe for the built-in pictures.
const BUILT_IN: &str = "patterns";

/// Trains a new run, or goes on with one, and says what came out of it.
///
/// # Errors
/// As the trainer's; input errors of flags and recipes.
pub fn run(args: &Train) -> Result<(), Error> {
    if args.list_recipes {
        list_recipes(args.output.json);
        return Ok(());
    }
    let mut display = Display::new(args.output.json);
    let options = Options {
        threads: args.machine.threads.unwrap_or(0),
        workers: args.workers,
        strict: args.strict,
        stop: stop::flag(),
    };
    let make = |description: &_, sizes| engine(&args.machine, description, sizes);
    let summary = match &args.resume {
        Some(folder) => trainer::resume(folder, &options, make, &mut display),
        None => {
            let (config, out) = settings(args)?;
            trainer::train(&config, &out, &options, make, &mut display)
        }
    };
    display.finish();
    let summary = summary?;
    if args.output.json {
        let line = serde_json::to_string(&summary)
            .map_err(|error| Error::run(format!("the result can't be printed: {error}")))?;
        say!("{line}");
    } else {
        explain(&summary);
    }
    Ok(())
}

/// The configuration that the flags ask for, and the run's folder.
fn settings(args: &Train) -> Result<(Config, PathBuf), Error> {
    let default = if args.data.is_some() {
        "folder"
    } else {
        BUILT_IN
    };
    let recipe = recipes::find(args.recipe.as_deref().unwrap_or(default))?;
    let mut config = load(&recipe, &args.set)?;
    if let Some(path) = &args.data {
        config.data.path = Some(path.clone());
        // Queries that a recipe names belong to the pictures it names.
        config.data.val = None;
    }
    if let Some(path) = &args.val {
        config.data.val = Some(path.clone());
    }
    // The embedded recipes but one are settings for pictures that somebody has.
    if config.data.path.is_none() && recipe.path.is_none() && recipe.name != BUILT_IN {
        return Err(Error::input(format!(
            "--data: recipe {} needs pictures; say where they are with --data PATH",
            recipe.name
        )));
    }
    let out = (args.out.clone()).unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    Ok((config, out))
}

fn list_recipes(json: bool) {
    let recipes = EMBEDDED.map(|(name, _)| name);
    let summaries = recipes.map(|name| recipes::find(name).map(|r| r.summary().to_string()));
    if json {
        let list: Vec<_> = (recipes.iter().zip(&summaries))
            .map(|(name, summary)| {
                serde_json::json!({"name": name, "summary": summary.as_deref().unwrap_or_default()})
            })
            .collect();
        say!("{}", serde_json::json!({ "recipes": list }));
        return;
    }
    for (name, summary) in recipes.iter().zip(&summaries) {
        say!("{name}\n    {}", summary.as_deref().unwrap_or_default());
    }
}

/// What came out, what it means, and what to try next.
fn explain(summary: &Summary) {
    let run = summary.run.display();
    say!("");
    say!(
        "{} epochs, {} steps in {} ({:.0} images/s); loss {:.4}, chance {:.3}",
        summary.epochs,
        summary.steps,
        duration(Duration::from_secs_f64(summary.seconds)),
        summary.images_per_s,
        summary.loss,
        summary.chance_loss,
    );
    if summary.skipped > 0 {
        say!(
            "{} pictures could not be read; {run}/images.parquet lists them",
            summary.skipped
        );
    }
    match (
        summary.knn_top1,
        summary.knn_top1_untrained,
        summary.knn_top1_pixels,
    ) {
        (Some(trained), Some(untrained), Some(pixels)) => {
            say!(
                "kNN top-1: {trained:.1} %   (untrained network {untrained:.1} %, raw pixels \
                 {pixels:.1} %)"
            );
            say!("{}", verdict(trained, untrained.max(pixels)));
        }
        _ => say!(
            "No kNN figure: without labelled pictures (sub-folders are classes) there is nothing \
             to measure with.",
        ),
    }
    say!("The run is in {run}. Next:");
    say!("  npid embed --run {run} --out features.npy   # a feature for each picture");
    if summary.knn_top1.is_some() {
        say!("  npid eval knn --run {run}                   # the figure again, with other -k");
    }
    say!("  npid train --data PATH                      # the same on your own pictures");
}

/// What a kNN figure says beside the better of the two that took no learning.
fn verdict(trained: f64, baseline: f64) -> &'static str {
    match trained - baseline {
        gain if gain >= 5.0 => {
            "It learned: pictures of one class lie nearer to each other than before, and no label \
             was used for that."
        }
        gain if gain > 0.0 => {
            "It learned a little: more epochs (runner.max_epochs) or another \
             model.head.temperature may help."
        }
        _ => {
            "It has not learned what these labels name: more epochs (runner.max_epochs), another \
             model.head.temperature or optimizer.lr may help."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gain_over_both_baselines_is_called_learning() {
        assert!(verdict(50.0, 15.0).starts_with("It learned:"));
        assert!(verdict(16.0, 15.0).starts_with("It learned a little"));
        assert!(verdict(15.0, 15.0).starts_with("It has not learned"));
    }
}
