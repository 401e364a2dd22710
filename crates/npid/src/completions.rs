//! `npid completions` and `npid man`, both made from the flags.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use npid_learn::Error;

use crate::args::{Cli, Completions, Man};

/// Prints a shell's completion script.
pub fn completions(args: &Completions) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "npid", &mut script);
    say!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

/// Prints npid's manual page, or writes one for every command.
///
/// # Errors
/// If a page can't be written.
pub fn man(args: &Man) -> Result<(), Error> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &args.out {
        None => {
            let page = page(&command)
                .map_err(|error| Error::run(format!("the manual page can't be made: {error}")))?;
            say!("{}", String::from_utf8_lossy(&page).trim_end());
            Ok(())
        }
        Some(folder) => {
            let fail = |error: std::io::Error| {
                Error::input(format!(
                    "--out {}: can't be written ({error}); name a folder that can",
                    folder.display()
                ))
            };
            fs::create_dir_all(folder).map_err(fail)?;
            let pages = write(&command, folder).map_err(fail)?;
            say!(
                "{} in {}; man -l {} shows the first",
                crate::out::count(pages, "page"),
                folder.display(),
                folder.join("npid.1").display()
            );
            Ok(())
        }
    }
}

/// The page of one command, which names those below it.
fn page(command: &clap::Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// Writes the pages of a command and of all below it: `npid-data-fetch.1` and so on. Returns how
/// many.
fn write(command: &clap::Command, folder: &Path) -> std::io::Result<usize> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let page = page(command)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    let mut pages = 1;
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        pages += write(below, folder)?;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command and every flag says what it is for: help, completions and manual are made of
    /// that.
    #[test]
    fn everything_has_help() {
        fn check(command: &clap::Command, path: &str, seen: &mut usize) {
            assert!(command.get_about().is_some(), "{path} has no description");
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{path}: {id} has no help");
                for value in argument.get_possible_values() {
                    let name = value.get_name();
                    let shell = id == "shell"; // clap_complete's own, whose names say all
                    assert!(
                        shell || value.get_help().is_some() || ["true", "false"].contains(&name),
                        "{path}: {id}={name} has no help"
                    );
                }
                *seen += 1;
            }
            for below in command.get_subcommands() {
                check(below, &format!("{path} {}", below.get_name()), seen);
            }
        }
        let mut command = Cli::command();
        command.build();
        let mut seen = 0;
        check(&command, "npid", &mut seen);
        assert!(seen > 50, "{seen} flags");
        Cli::command().debug_assert();
    }
}
