//! `npid export`.

use npid_learn::Error;
use npid_learn::export::{self, ExportReport, Format, Names, Options, What};

use crate::args::{Export, NamesArg, WhatArg};
use crate::display::Display;
use crate::out::{self, count};
use crate::stop;

/// Writes a run's network and says what is in the file.
///
/// # Errors
/// If the run, the checkpoint or the file can't be used.
pub fn run(args: &Export) -> Result<(), Error> {
    let mut display = Display::new(args.output.json);
    let options = Options {
        checkpoint: args.checkpoint,
        what: args.what.map(|what| match what {
            WhatArg::Backbone => What::Backbone,
            WhatArg::Embedding => What::Embedding,
            WhatArg::Map => What::Map,
        }),
        names: args.names.map(|names| match names {
            NamesArg::Torchvision => Names::Torchvision,
            NamesArg::Mmselfsup => Names::Mmselfsup,
        }),
        stop: stop::flag(),
    };
    let report = export::export(&args.run, &args.out, options, &mut display);
    display.finish();
    let report = report?;
    if args.output.json {
        return out::json(&report);
    }
    say!("{}", sentence(&report));
    match report.format {
        Format::Onnx => say!(
            "input `image`: N x 3 x {0} x {0}, RGB in 0 to 1 (normalised inside); output `{1}`: N x {2}",
            report.size,
            match report.what {
                What::Embedding => "feature",
                What::Backbone => "pooled",
                What::Map => "map",
            },
            joined(&report.output, " x "),
        ),
        Format::Pth | Format::Safetensors => {
            say!(
                "pictures: {0} x {0}, RGB in 0 to 1, less mean [{1}], divided by std [{2}]",
                report.size,
                joined(&report.mean, ", "),
                joined(&report.std, ", "),
            );
            if !report.differs.is_empty() {
                say!(
                    "unlike torchvision's ResNet: {}; docs/weights.md shows a model that they fit",
                    report.differs.join(", ")
                );
            }
        }
    }
    Ok(())
}

/// What was written, of what.
fn sentence(report: &ExportReport) -> String {
    let what = match (report.what, report.names) {
        (What::Backbone, None) => "backbone and pool",
        (What::Embedding, None) => "backbone, neck and L2 norm",
        (What::Backbone, Some(_)) => "the backbone's weights",
        (What::Embedding, Some(_)) => "the weights of backbone and neck",
        (What::Map, _) => "the backbone",
    };
    let names = match report.names {
        None => "",
        Some(Names::Torchvision) => " with torchvision's names",
        Some(Names::Mmselfsup) => " with MMSelfSup's names",
    };
    let checkpoint = report.checkpoint.file_stem().unwrap_or_default();
    format!(
        "{}: {what}{names} ({}, {:.1} MB), of {} (after {})",
        report.file.display(),
        count(report.tensors, "tensor"),
        report.bytes as f64 / 1e6,
        checkpoint.to_string_lossy(),
        count(report.epoch as usize, "epoch"),
    )
}

fn joined<T: ToString>(values: &[T], between: &str) -> String {
    let values: Vec<String> = values.iter().map(T::to_string).collect();
    values.join(between)
}
