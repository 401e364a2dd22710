//! What is printed, and whether it could be.
//!
//! A result that nobody gets is a failure (a full disk), except where the reader has gone on
//! purpose (`npid ... | head -1`): a closed pipe ends nothing and fails nothing.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

use npid_learn::Error;

/// Why standard output could not be written, from the first time that it could not.
static FAILED: OnceLock<String> = OnceLock::new();

/// Prints a line on standard output.
pub fn line(text: Arguments<'_>) {
    note(writeln!(std::io::stdout(), "{text}"));
}

/// Prints a result as one line of JSON.
///
/// # Errors
/// [`Error::Run`] if it has no such form.
pub fn json(result: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(result)
        .map_err(|error| Error::run(format!("the result can't be printed: {error}")))?;
    line(format_args!("{text}"));
    Ok(())
}

/// Prints a line on standard error. That nobody can read it is no reason to fail.
pub fn complain(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether everything that [`line()`] was given has been written.
///
/// # Errors
/// [`Error::Run`] if standard output could not be written, other than for a closed pipe.
pub fn written() -> Result<(), Error> {
    note(std::io::stdout().flush());
    match FAILED.get() {
        None => Ok(()),
        Some(why) => Err(Error::run(format!(
            "standard output can't be written ({why}), so the result is incomplete there; make \
             room or send it elsewhere"
        ))),
    }
}

fn note(done: std::io::Result<()>) {
    if let Err(error) = done
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first reason is the one to tell.
        let _ = FAILED.set(error.to_string());
    }
}

/// `1 picture`, `2 pictures`: a number with what it counts.
pub fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        n if what.ends_with('y') => format!("{n} {}ies", &what[..what.len() - 1]),
        n => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let said = [
            count(1, "epoch"),
            count(2, "query"),
            count(1, "query"),
            count(30, "picture"),
        ];
        assert_eq!(said, ["1 epoch", "2 queries", "1 query", "30 pictures"]);
    }
}
