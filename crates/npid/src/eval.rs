//! `npid eval`.

use npid_learn::{Error, eval};

use crate::args::Knn;
use crate::display::{Display, voters};
use crate::engine::looking;
use crate::out::{self, count};
use crate::stop;

/// Measures a run's kNN figure.
///
/// # Errors
/// If the run or the queries can't be used.
pub fn knn(args: &Knn) -> Result<(), Error> {
    let mut display = Display::new(args.output.json);
    let options = eval::Options {
        checkpoint: args.checkpoint,
        threads: args.machine.threads.unwrap_or(0),
        workers: args.workers,
        stop: stop::flag(),
    };
    let report = eval::evaluate_knn(
        &args.run,
        &args.data,
        args.k,
        args.temperature,
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
        "kNN top-1: {:.1} %, top-5: {:.1} %  (after epoch {}; {}, {}, k {}, temperature \
         {})",
        report.knn_top1,
        report.knn_top5,
        report.epoch,
        count(report.queries, "query"),
        voters(report.rows),
        report.k,
        report.tau,
    );
    Ok(())
}
