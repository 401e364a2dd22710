//! `npid import`.

use std::path::Path;

use npid_learn::Error;
use npid_learn::config::Paths;
use npid_learn::import::{self, BankOrigin, Options, OwnRows, Report, Request};
use npid_learn::recipes;

use crate::args::Import;
use crate::display::Display;
use crate::engine::engine;
use crate::out::{self, count};
use crate::stop;

/// Makes a run of a file of weights and says what it holds.
///
/// # Errors
/// If the file or the pictures can't be used, or don't belong together.
pub fn run(args: &Import) -> Result<(), Error> {
    let recipe = args.recipe.as_deref().map(recipes::find).transpose()?;
    let out = match (&args.out, args.file.file_stem()) {
        (Some(out), _) => out.clone(),
        (None, Some(stem)) => Path::new("runs").join(stem),
        (None, None) => Path::new("runs").join("imported"),
    };
    let (data, val) = (Paths::new(args.data.clone()), Paths::new(args.val.clone()));
    let Some(data) = data else {
        return Err(Error::input("--data: say where the pictures are"));
    };
    let request = Request {
        file: &args.file,
        prefix: args.prefix.as_deref(),
        data: &data,
        val: val.as_ref(),
        out: &out,
        recipe,
        sets: &args.set,
    };
    let options = Options {
        workers: args.workers,
        stop: stop::flag(),
    };
    let mut display = Display::new(args.output.json);
    let report = import::import(
        &request,
        &options,
        |description, sizes, dtype| {
            let dtype = args.activations.dtype.chosen().or(dtype);
            engine(&args.machine, description, sizes, dtype)
        },
        &mut display,
    );
    display.finish();
    let report = report?;
    if args.output.json {
        return out::json(&report);
    }
    explain(&report);
    Ok(())
}

/// What was imported, what it rests on, and what to try next.
fn explain(report: &Report) {
    let run = report.run.display();
    let from = match report.from {
        "network" => "A network".to_string(),
        name => format!("{name}'s run"),
    };
    say!(
        "{from}: ResNet-{} of {} channels, {} features{}",
        report.depth,
        report.base_channels,
        report.feat_dim,
        match report.memory_bank {
            BankOrigin::None => String::new(),
            _ => format!(", {} finished", count(report.epoch as usize, "epoch")),
        }
    );
    match (report.memory_bank, report.own_rows) {
        (BankOrigin::Kept, own) => {
            say!(
                "The memory bank is kept: row i must be picture i of the collection, as npid \
                 numbers it ({run}/images.parquet)."
            );
            if let Some(own) = own {
                say!("{}", verdict(own));
            }
        }
        (BankOrigin::Computed, _) => say!("The memory bank holds the features of the pictures."),
        (BankOrigin::None, _) => say!(
            "There is no memory bank, so the run can embed and be measured, but not be gone on \
             with."
        ),
    }
    say!(
        "Settings that the file doesn't hold are those of {}: see {run}/config.toml.",
        report.recipe
    );
    say!("The run is in {run}. Next:");
    say!("  npid embed --run {run} --out features.npy   # a feature for each picture");
    if report.memory_bank != BankOrigin::None {
        say!("  npid train --resume {run}   # go on with it");
    }
}

/// What the comparison of pictures with their rows says.
fn verdict(own: OwnRows) -> String {
    let OwnRows { asked, nearest } = own;
    let found = format!(
        "Of {asked} pictures spread over the collection, {nearest} are nearest to their own row \
         among these {asked}"
    );
    // Among n rows one in n is found by chance.
    match nearest * 2 >= asked {
        true => format!("{found}, so rows and pictures belong together."),
        false => format!(
            "{found}: either the network has learned little, or these aren't the pictures it was \
             trained on, in the same order."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_fit_are_said_so() {
        let verdict = |nearest| verdict(OwnRows { asked: 64, nearest });
        assert!(verdict(60).ends_with("belong together."));
        assert!(verdict(1).contains("aren't the pictures"));
    }
}
