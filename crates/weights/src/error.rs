//! What can go wrong with a file of weights.

use std::path::{Path, PathBuf};

/// Why a file's weights can't be had. Each message is one line that names the file, says what is
/// wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be opened or read.
    #[error("{}: cannot be read ({source}); check its name and permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// No format that is known, or one that isn't read.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it looks like, and what to do.
        what: String,
    },
    /// A known format, but cut short, damaged or made to do harm.
    #[error("{}: {what}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The weights in it aren't those that are wanted.
    #[error("{}: {what}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Which, and what to do.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn format(path: &Path, what: impl Into<String>) -> Self {
        Error::Format {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }

    pub(crate) fn broken(path: &Path, what: impl Into<String>) -> Self {
        Error::Broken {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }

    pub(crate) fn mismatch(path: &Path, what: impl Into<String>) -> Self {
        Error::Mismatch {
            path: path.to_path_buf(),
            what: what.into(),
        }
    }
}
