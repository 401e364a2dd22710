//! What is wrong with a file, and where.

use std::path::{Path, PathBuf};

/// Why a configuration could not be read: one line that names the file and, where there is one,
/// the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {what}", file.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct Error {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1; `None` where the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Error {
    /// About a whole file.
    pub(crate) fn file(file: &Path, what: impl Into<String>) -> Self {
        Error {
            file: file.to_path_buf(),
            line: None,
            what: what.into(),
        }
    }
}

/// What is wrong with a line of the file that is being read.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl Fault {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        Fault {
            line,
            what: what.into(),
        }
    }

    /// For what Python knows and this reader doesn't.
    pub(crate) fn not_understood(line: usize, what: impl std::fmt::Display) -> Self {
        Fault::new(
            line,
            format!(
                "{what} isn't understood; npid reads the literal part of such files and runs \
                 nothing"
            ),
        )
    }

    pub(crate) fn at(self, file: &Path) -> Error {
        Error {
            file: file.to_path_buf(),
            line: Some(self.line),
            what: self.what,
        }
    }
}
