//! `npid`: the command line of non-parametric instance discrimination.
//!
//! Flags, what is shown, and exit codes; the work is done by the library crates.

/// Prints a line on standard output. A closed pipe ends nothing.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod args;
mod bench;
mod data;
mod display;
mod embed;
mod engine;
mod eval;
mod stop;
mod train;

use std::process::ExitCode;

use args::{Bench, Command, Data, Eval};
use npid_learn::Error;

fn main() -> ExitCode {
    let done = args::parse()
        .map_err(Error::Input)
        .and_then(|cli| match cli.command {
            Command::Train(args) => train::run(&args),
            Command::Eval(Eval::Knn(args)) => eval::knn(&args),
            Command::Embed(args) => embed::run(&args),
            Command::Data(Data::Inspect { path, output }) => data::inspect(&path, output),
            Command::Data(Data::Patterns { out, output }) => data::patterns(&out, output),
            Command::Bench(Bench::Step(args)) => bench::step(&args),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.to_string().replace('\n', " "));
            ExitCode::from(error.exit_code())
        }
    }
}
