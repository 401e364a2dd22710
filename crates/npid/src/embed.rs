//! `npid embed`.

use npid_learn::Error;
use npid_learn::eval::{self, EmbedReport};

use crate::args::Embed;
use crate::display::Display;
use crate::engine::looking;
use crate::out::{self, count};
use crate::stop;

/// Writes the features of a collection and the table of its rows.
///
/// # Errors
/// If the run, the collection or the file can't be used.
pub fn run(args: &Embed) -> Result<(), Error> {
    let mut display = Display::new(args.output.json);
    let options = eval::Options {
        checkpoint: args.checkpoint,
        threads: args.machine.threads.unwrap_or(0),
        workers: args.workers,
        stop: stop::flag(),
    };
    let report = eval::embed(
        &args.run,
        &args.data,
        &args.out,
        &options,
        |description, sizes, dtype| {
            let dtype = args.activations.dtype.chosen().or(dtype);
            looking(&args.machine, description, sizes, dtype)
        },
        &mut display,
    );
    display.finish();
    let report = report?;
    if args.output.json {
        return out::json(&report);
    }
    say!(
        "{}: {}{} of {}; {} says which row is which picture",
        report.array.display(),
        count(report.rows, "feature"),
        splits(&report),
        count(report.dim, "number"),
        report.table.display()
    );
    if !report.skipped.is_empty() {
        say!(
            "{} can't be read and {} no row",
            count(report.skipped.len(), "picture"),
            if report.skipped.len() == 1 {
                "has"
            } else {
                "have"
            }
        );
    }
    Ok(())
}

/// How many of a run's own pictures are of which split: ` (600 train + 200 val)`.
fn splits(report: &EmbedReport) -> String {
    if report.splits.len() < 2 {
        return String::new();
    }
    let parts: Vec<String> = (report.splits.iter())
        .map(|(split, rows)| format!("{rows} {split}"))
        .collect();
    format!(" ({})", parts.join(" + "))
}
