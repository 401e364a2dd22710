//! What can be wrong with a collection as a whole.

use std::path::{Path, PathBuf};

/// What can be given, for messages.
const GIVE: &str = "give a folder of pictures, a list file, a parquet file, tar shards, or CIFAR, \
                    STL-10 or IDX files";

/// Why a collection can't be used at all. Each message is one line that names the path and says
/// what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path doesn't exist.
    #[error("{}: no such file or folder; {GIVE}", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The path, or something under it, can't be read.
    #[error("{}: cannot be read ({source}); check its permissions", path.display())]
    Io {
        /// What was being read.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A folder without pictures.
    #[error("{}: no picture found in it or below it{hint}", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was found instead, or what to do.
        hint: String,
    },
    /// A file that is no known collection.
    #[error("{}: not a collection npid knows ({what}); {GIVE}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        what: String,
    },
    /// A file of a known kind that is damaged, cut short or contradicts itself.
    #[error("{}: {what}; {cure}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
        /// What to do.
        cure: String,
    },
    /// A line of a list that can't be used.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// The list.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The same collection twice among several.
    #[error("{}: given twice, so that every picture would have two rows; give it once", path.display())]
    Twice {
        /// The path as given the second time.
        path: PathBuf,
    },
    /// A parquet file without pictures in it.
    #[error(
        "{}: no image column; its columns are {}; name one `image`, of bytes or of a struct with `bytes`",
        path.display(), columns.join(", ")
    )]
    NoImageColumn {
        /// The file.
        path: PathBuf,
        /// Its columns with their types.
        columns: Vec<String>,
    },
    /// A file without rows.
    #[error("{}: {kind} without rows; write or download it again", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
        /// What kind of file, with its article.
        kind: &'static str,
    },
    /// A parquet file with a column that is compressed in a way that isn't read.
    #[error(
        "{}: column {column} is compressed with {codec}; npid reads none, snappy, gzip and zstd: \
         write the file again with one of them",
        path.display()
    )]
    Compression {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The compression's name.
        codec: String,
    },
    /// A parquet file that can't be understood.
    #[error("{}: not a readable parquet file ({reason}); write or download it again", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's words.
        reason: String,
    },
    /// A column of numbers that was asked for and isn't there, or holds something else.
    #[error("column {column}: {what}")]
    Column {
        /// The column's name.
        column: String,
        /// Where it was looked for, what is wrong, and what to do.
        what: String,
    },
    /// Not one picture can be read.
    #[error("{} {name}: {reason}", match images {
        1 => "the only picture can't be read, it is".to_owned(),
        n => format!("none of the {n} pictures can be read; the first is"),
    })]
    NothingReadable {
        /// Number of pictures tried.
        images: usize,
        /// Name of the first.
        name: String,
        /// What is wrong with the first.
        reason: String,
    },
}

impl Error {
    /// What the system says about `path`: that it is missing, or can't be read.
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::NotFound => Error::Missing { path: path.into() },
            _ => Error::Io {
                path: path.into(),
                source,
            },
        }
    }

    /// An [`Error::Unusable`].
    pub(super) fn unusable(path: &Path, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Error::Unusable {
            path: path.into(),
            what: what.into(),
            cure: cure.into(),
        }
    }
}
