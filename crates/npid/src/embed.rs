//! `npid embed`.

use npid_learn::{Error, eval};

use crate::args::Embed;
use crate::display::Display;
use crate::engine::engine;
use crate::stop;

/// Writes the features of a collection and the table of its rows.
///
/// # Errors
/// If the run, the collection or the file can't be used.
pub fn run(args: &Embed) -> Result<(), Error> {
    let mut display = Display::new(args.output.json);
    let options = eval::Options {
        threads: args.machine.threads.unwrap_or(0),
        workers: args.workers,
        stop: stop::flag(),
    };
    let report = eval::embed(
        &args.run,
        args.data.as_deref(),
        &args.out,
        &options,
        |description, sizes| engine(&args.machine, description, sizes),
        &mut display,
    );
    display.finish();
    let report = report?;
    if args.output.json {
        let line = serde_json::to_string(&report)
            .map_err(|error| Error::run(format!("the result can't be printed: {error}")))?;
        say!("{line}");
        return Ok(());
    }
    say!(
        "{}: {} features of {} numbers; {} says which row is which picture",
        report.array.display(),
        report.rows,
        report.dim,
        report.table.display()
    );
    if !report.skipped.is_empty() {
        say!(
            "{} pictures can't be read and have no row",
            report.skipped.len()
        );
    }
    Ok(())
}
