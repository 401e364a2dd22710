//! `npid train`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use npid_data::source::first_readable;
use npid_engine::{Description, Dtype, Engine, Sizes};
use npid_learn::collections::Collections;
use npid_learn::config::load::load;
use npid_learn::config::{Paths, Pipeline};
use npid_learn::derive::{Choice, Facts, SAMPLE, derive};
use npid_learn::plan::Plan;
use npid_learn::recipes::{self, EMBEDDED};
use npid_learn::trainer::{self, Changes, Options, Summary};
use npid_learn::{Config, Error};

use crate::args::Train;
use crate::display::{Display, duration};
use crate::engine::{engine, threads};
use crate::out::{self, count};
use crate::{plan, stop, translated};

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
    if let (Some(epochs), None) = (args.epochs, &args.resume) {
        return Err(Error::input(format!(
            "--epochs {epochs}: it goes with --resume; a new run takes --set \
             runner.max_epochs={epochs}"
        )));
    }
    if args.print_config {
        return print_config(args);
    }
    let mut display = Display::new(args.output.json);
    let options = Options {
        threads: args.machine.threads.unwrap_or(0),
        workers: args.workers,
        strict: args.strict,
        stop: stop::flag(),
    };
    let make = |description: &_, sizes, dtype| engine(&args.machine, description, sizes, dtype);
    let summary = match &args.resume {
        Some(folder) => {
            let changes = Changes {
                data: Paths::new(args.data.clone()),
                val: Paths::new(args.val.clone()),
                epochs: args.epochs,
                dtype: args.activations.dtype.chosen(),
            };
            trainer::resume(folder, &changes, &options, make, &mut display)
        }
        None => {
            let settings = settings(args)?;
            let foreseen = if args.dry_run || settings.derived.is_some() {
                Some(foresee(&settings, &options, make)?)
            } else {
                None
            };
            if args.dry_run && args.output.json {
                return out::json(&foreseen);
            }
            settings.notes.iter().for_each(|note| display.line(note));
            let derived = settings.derived.is_some();
            for line in foreseen.iter().flat_map(|plan| plan::lines(plan, derived)) {
                display.line(&line);
            }
            if args.dry_run {
                display.line("Nothing was written. Leave --dry-run out to start.");
                display.finish();
                return Ok(());
            }
            display.line("");
            trainer::train(
                &settings.config,
                &settings.out,
                &options,
                make,
                &mut display,
            )
        }
    };
    display.finish();
    let summary = summary?;
    if args.output.json {
        out::json(&summary)?;
    } else {
        explain(&summary, display.queries());
    }
    Ok(())
}

/// What the flags ask for.
struct Settings {
    config: Config,
    /// The run's folder.
    out: PathBuf,
    /// Where the configuration was derived from the pictures: what was seen, and the choices.
    derived: Option<(Facts, Vec<Choice>)>,
    /// What there is to say where another program's configuration was translated, a line each.
    notes: Vec<String>,
}

/// What a run of these settings will be.
fn foresee<F>(settings: &Settings, options: &Options<'_>, make: F) -> Result<Plan, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    let collections = Collections::open(&settings.config.data)?;
    let (facts, choices) = match settings.derived.clone() {
        Some((facts, choices)) => (Some(facts), choices),
        None => (None, Vec::new()),
    };
    npid_learn::plan::plan(
        &settings.config,
        &collections,
        facts,
        choices,
        options,
        make,
    )
}

/// The configuration that the flags ask for, and the run's folder.
fn settings(args: &Train) -> Result<Settings, Error> {
    let (data, val) = (Paths::new(args.data.clone()), Paths::new(args.val.clone()));
    for (flag, given, key) in [("--data", &data, "data.path"), ("--val", &val, "data.val")] {
        if let (Some(paths), Some(set)) = (given, setting(&args.set, key)) {
            return Err(Error::input(format!(
                "--set {set}: {flag} {paths} says the same key; leave one of them out"
            )));
        }
    }
    let dtype = args.activations.dtype.chosen();
    if let (Some(dtype), Some(set)) = (dtype, setting(&args.set, "dtype")) {
        return Err(Error::input(format!(
            "--set {set}: --dtype {} says the same key; leave one of them out",
            dtype.name()
        )));
    }
    if let (None, Some(data)) = (&args.recipe, &data) {
        let mut settings = derived(args, data.clone(), val)?;
        settings.config.dtype = dtype.or(settings.config.dtype);
        return Ok(settings);
    }
    let recipe = recipes::find(args.recipe.as_deref().unwrap_or(BUILT_IN))?;
    let mut config = load(&recipe, &args.set)?;
    config.dtype = dtype.or(config.dtype);
    if data.is_some() {
        config.data.path = data;
        if setting(&args.set, "data.val").is_none() {
            // Queries that a recipe names belong to the pictures it names.
            config.data.val = None;
        }
    }
    if val.is_some() {
        config.data.val = val;
    }
    let notes = match &recipe.translation {
        None => Vec::new(),
        Some(translation) => {
            let other = !args.data.is_empty() || setting(&args.set, "data.path").is_some();
            translated::settle(translation, args, other, &mut config)?
        }
    };
    // The embedded recipes but one are settings for pictures that somebody has.
    let none = config.data.path.is_none() && recipe.path.is_none() && recipe.name != BUILT_IN;
    if none && !args.print_config {
        return Err(Error::input(format!(
            "--data: recipe {} needs pictures; say where they are with --data PATH",
            recipe.name
        )));
    }
    let out = (args.out.clone()).unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    Ok(Settings {
        config,
        out,
        derived: None,
        notes,
    })
}

/// Settings for the pictures at `path`, derived from them.
fn derived(args: &Train, path: Paths, val: Option<Paths>) -> Result<Settings, Error> {
    // First without a look at the pictures: a flag that is wrong for any is the quicker answer.
    let nothing = Facts {
        images: 1000,
        sampled: 0,
        width: 32,
        height: 32,
        shorter: 32,
        grey: false,
        mean: [0.5; 3],
        std: [0.25; 3],
        voters: 0,
        classes: 0,
    };
    let cores = threads(&args.machine);
    let blind = derive(&nothing, cores, &args.set)?.config;
    let mut data = blind.data.clone();
    data.path = Some(path.clone());
    data.val = val.or(data.val);
    let collections = Collections::open(&data)?;
    let train = collections.train.as_ref();
    first_readable(train, |_| false)?;
    let (split, _) = collections.knn_split(&blind, usize::MAX);
    let facts = Facts::of(train, split.as_ref(), cores).ok_or_else(|| {
        Error::input(format!(
            "--data {path}: none of {} pictures spread over it can be read; npid data inspect says \
             why, and with a recipe (npid train --list-recipes) those that can be are used",
            train.len().min(SAMPLE)
        ))
    })?;
    let derived = derive(&facts, cores, &args.set)?;
    let mut config = derived.config;
    config.data.path = data.path;
    config.data.val = data.val;
    let out = args.out.clone().unwrap_or_else(|| run_name(&path));
    Ok(Settings {
        config,
        out,
        derived: Some((facts, derived.choices)),
        notes: Vec::new(),
    })
}

/// `runs/` and what a person would call the pictures at the first of `paths`.
fn run_name(paths: &Paths) -> PathBuf {
    let Some(path) = paths.as_slice().first() else {
        return Path::new("runs").join("pictures");
    };
    // `.` and `..` have no name of their own.
    let absolute = path.canonicalize();
    let path = absolute.as_deref().unwrap_or(path);
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    // `imagenet/train` is ImageNet's.
    let split = name.is_some_and(|name| name == "train");
    let above = path.parent().and_then(Path::file_name);
    let name = if split { above.or(name) } else { name };
    Path::new("runs").join(name.unwrap_or("pictures".as_ref()))
}

/// Prints the configuration that the flags ask for, every key and transform written out.
fn print_config(args: &Train) -> Result<(), Error> {
    let Settings {
        mut config, notes, ..
    } = settings(args)?;
    for note in notes {
        out::complain(format_args!("{note}"));
    }
    config.data.pipeline = Pipeline::List(config.pipeline()?.steps().to_vec());
    if args.output.json {
        return out::json(&config);
    }
    out::line(format_args!("{}", config.to_toml()?.trim_end()));
    Ok(())
}

/// The last of the `--set` flags that sets `key`.
fn setting<'a>(sets: &'a [String], key: &str) -> Option<&'a String> {
    let sets_it = |set: &&String| {
        set.split_once('=')
            .is_some_and(|(name, _)| name.trim() == key)
    };
    sets.iter().rev().find(sets_it)
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
fn explain(summary: &Summary, queries: Option<usize>) {
    let run = summary.run.display();
    say!("");
    say!(
        "{}, {} in {} ({:.0} images/s); loss {:.4}, chance {:.3}",
        count(summary.epochs as usize, "epoch"),
        count(summary.steps as usize, "step"),
        duration(Duration::from_secs_f64(summary.seconds)),
        summary.images_per_s,
        summary.loss,
        summary.chance_loss,
    );
    if summary.skipped > 0 {
        say!(
            "{} could not be read; {run}/images.parquet lists {}",
            count(summary.skipped, "picture"),
            if summary.skipped == 1 { "it" } else { "them" }
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
            let queries = queries.unwrap_or(0);
            say!("{}", verdict(trained, untrained, pixels, queries));
        }
        _ => say!(
            "No kNN figure: without labelled pictures there is nothing to measure with. (Labels \
             are a folder's sub-folders, or a parquet file's column `label` of whole numbers.)",
        ),
    }
    say!("The run is in {run}. Next:");
    let mut next = vec![(
        format!("npid embed --run {run} --out features.npy"),
        "a feature for each picture",
    )];
    if summary.knn_top1.is_some() {
        next.push((
            format!("npid eval knn --run {run}"),
            "the figure again, with other -k",
        ));
    }
    next.push((
        "npid train --data PATH".to_string(),
        "the same on your own pictures",
    ));
    let width = next
        .iter()
        .map(|(command, _)| command.chars().count())
        .max();
    for (command, what) in &next {
        say!("  {command:0$}   # {what}", width.unwrap_or(0));
    }
}

/// Fewer queries than this say nothing: one picture more or less is more than a percent.
const ENOUGH_QUERIES: usize = 100;

/// A gain, in points of top-1, that is more than chance among [`ENOUGH_QUERIES`] or more.
const CLEAR_GAIN: f64 = 5.0;

/// What a kNN figure of `queries` queries says beside the two that took no learning; all percent.
fn verdict(trained: f64, untrained: f64, pixels: f64, queries: usize) -> String {
    if queries < ENOUGH_QUERIES {
        return format!(
            "{} {} too few to tell whether it learned: each is {:.1} points of the figure. Let \
             {ENOUGH_QUERIES} or more labelled pictures ask (--val PATH).",
            count(queries, "query"),
            if queries == 1 { "is" } else { "are" },
            100.0 / queries.max(1) as f64,
        );
    }
    let more = "more epochs (runner.max_epochs), another model.head.temperature or optimizer.lr \
                may help";
    match (trained > untrained, trained > pixels) {
        (true, true) if trained - untrained.max(pixels) >= CLEAR_GAIN => {
            "It learned: pictures of one class lie nearer to each other than before, and no label \
             was used for that."
                .to_string()
        }
        (true, true) => {
            format!("It is a little above both the untrained network and raw pixels: {more}.")
        }
        (true, false) => format!(
            "It is above the untrained network, but not above raw pixels, which tell these classes \
             apart as well: {more}."
        ),
        (false, true) => format!(
            "It is above raw pixels, but not above the untrained network, so for these classes the \
             training has gained nothing yet: {more}."
        ),
        (false, false) => format!(
            "It is above neither the untrained network nor raw pixels: it has not learned what \
             these labels name. {}.",
            more.replacen('m', "M", 1)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_says_what_the_figures_say() {
        for (trained, untrained, pixels, queries, says) in [
            (50.0, 12.0, 15.0, 1000, "It learned: "),
            (16.0, 15.0, 12.0, 1000, "a little above both"),
            (
                100.0,
                0.0,
                100.0,
                400,
                "above the untrained network, but not above raw pixels",
            ),
            (
                15.0,
                15.0,
                12.0,
                400,
                "above raw pixels, but not above the untrained network",
            ),
            (
                15.0,
                15.0,
                15.0,
                400,
                "neither the untrained network nor raw pixels",
            ),
            (100.0, 0.0, 0.0, 99, "99 queries are too few"),
            (
                100.0,
                0.0,
                0.0,
                1,
                "1 query is too few to tell whether it learned: each is 100.0",
            ),
        ] {
            let said = verdict(trained, untrained, pixels, queries);
            assert!(said.contains(says), "{said}");
        }
    }
}
