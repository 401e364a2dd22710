//! `npid`: the command line of non-parametric instance discrimination.
//!
//! Flags, what is shown, and exit codes; the work is done by the library crates.

/// Prints a line on standard output; see [`out::line`].
macro_rules! say {
    ($($text:tt)*) => { crate::out::line(format_args!($($text)*)) };
}

/// Prints a line on standard error; see [`out::complain`].
macro_rules! complain {
    ($($text:tt)*) => { crate::out::complain(format_args!($($text)*)) };
}

mod args;
mod bench;
mod completions;
mod data;
mod display;
mod doctor;
mod embed;
mod engine;
mod eval;
mod export;
mod fetch;
mod import;
mod out;
mod plan;
mod stop;
mod train;
mod translated;

use std::process::ExitCode;

use args::{Bench, Command, Data, Eval};
use npid_learn::Error;

fn main() -> ExitCode {
    npid_learn::checkpoint::survive_file_size_limit();
    // A picture that makes its decoder panic is listed as unreadable; nothing else is to be said.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !npid_data::decode::is_panic_caught() {
            report(panic);
        }
    }));
    let done = args::parse()
        .map_err(Error::Input)
        .and_then(|command| match command {
            // Help or the version, which has been printed.
            None => Ok(()),
            Some(command) => run(command),
        })
        .and_then(|()| out::written());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("error: {}", error.to_string().replace('\n', " "));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Train(args) => train::run(&args),
        Command::Eval(Eval::Knn(args)) => eval::knn(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Data(Data::Inspect { paths, output }) => data::inspect(&paths, output),
        Command::Data(Data::Patterns { out, output }) => data::patterns(&out, output),
        Command::Data(Data::Fetch(args)) => fetch::run(&args),
        Command::Bench(Bench::Step(args)) => bench::step(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
        Command::Bench(Bench::Bank(args)) => bench::bank(&args),
        Command::Bench(Bench::Ops(args)) => bench::ops(&args),
    }
}
