//! Collections of pictures: what a source is, how a path is recognised, and what can go wrong.
//!
//! A [`Source`] numbers its pictures by row, 0..len, in an order that depends on the collection's
//! content alone. The row is the picture's identity everywhere: in the memory bank, in the
//! shuffled order, in the draws of the augmentation and in every file npid writes.
//!
//! One file below this module holds one kind of source; [`open`] is the only place that knows
//! which kinds exist. A further kind is a file there and a line in [`open`].

mod folder;
mod parquet;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use folder::{FolderSource, splits};
pub use parquet::ParquetSource;
use serde::Serialize;

use crate::decode::Format;

/// One decoded picture: 8-bit RGB, rows from top to bottom, channels last (H x W x 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels, at least 1.
    pub width: usize,
    /// Height in pixels, at least 1.
    pub height: usize,
    /// `height * width * 3` bytes: R, G, B of each pixel, row by row.
    pub rgb: Vec<u8>,
}

/// Why one picture could not be read. The collection itself is fine: the row is skipped, counted
/// and listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PictureError {
    /// What is wrong with it, in a few words, without its name.
    pub reason: String,
}

impl PictureError {
    /// An error with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        PictureError {
            reason: reason.into(),
        }
    }
}

/// SHA-256 of a picture's encoded bytes (what `sha256sum FILE` prints), or of its RGB bytes where
/// a picture is generated and never was encoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        ContentHash(sha2::Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for ContentHash {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What a source says about itself without decoding a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The kind of source, as a person would name it: "folder", "parquet file", "patterns".
    pub kind: String,
    /// Number of pictures (rows).
    pub images: usize,
    /// Number of classes; 0 where nothing is labelled.
    pub classes: usize,
    /// Number of rows that have a label.
    pub labelled: usize,
    /// File kinds with the number of each, most frequent first, as far as names tell.
    pub formats: Vec<(String, usize)>,
    /// Encoded bytes in all; `None` where finding out would take long or nothing is encoded.
    pub bytes: Option<u64>,
    /// As [`Source::notes`].
    pub notes: Vec<String>,
}

/// One collection of pictures, addressed by row 0..len.
///
/// Reading takes `&self` and may happen from several threads at once; the same row gives the same
/// answer every time.
pub trait Source: Send + Sync {
    /// Number of rows, unreadable pictures included.
    fn len(&self) -> usize;

    /// Whether there are no rows at all. [`open`] never returns such a source.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The picture's name within the collection: a path relative to its root with `/` between the
    /// parts, or `file.parquet#123`.
    fn name(&self, row: usize) -> String;

    /// Index of the picture's class in [`Source::classes`], or of an unnamed class; `None` where
    /// the row isn't labelled.
    fn label(&self, row: usize) -> Option<u32>;

    /// Names of the classes, by label; empty where there are none or they have no names.
    fn classes(&self) -> &[String];

    /// Reads and decodes one picture.
    ///
    /// # Errors
    /// The reason, where it can't be read.
    fn picture(&self, row: usize) -> Result<Picture, PictureError>;

    /// Hash of the picture's content.
    ///
    /// # Errors
    /// The reason, where its bytes can't be read. Bytes that don't decode still have a hash.
    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError>;

    /// Both at once, for sources that can do it with one read.
    ///
    /// # Errors
    /// As [`Source::picture`].
    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        Ok((self.picture(row)?, self.content_hash(row)?))
    }

    /// What a person should know about how the collection was understood, a sentence each; found
    /// out when it was opened, so that asking costs nothing.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the collection is, without decoding anything.
    fn describe(&self) -> Description;
}

/// Why a collection can't be used at all. Each message is one line that names the path and says
/// what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path doesn't exist.
    #[error(
        "{}: no such file or folder; give a folder of JPEG or PNG pictures or a parquet file",
        path.display()
    )]
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
    #[error("{}: no JPEG or PNG found in it or below it{hint}", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was found instead, or what to do.
        hint: String,
    },
    /// A file that is no known collection.
    #[error("{}: not a collection npid knows ({what}); give a folder of JPEG or PNG pictures or a parquet file", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        what: String,
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
    /// A parquet file without rows.
    #[error("{}: a parquet file without rows; write or download it again", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A parquet file whose pictures or labels are compressed in a way that isn't read.
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

/// Opens the collection at `path`, whose kind is recognised from the path alone: a folder of JPEG
/// and PNG pictures, or a parquet file in the layout of Hugging Face's data sets.
///
/// # Errors
/// If nothing is there, or it holds no pictures; see [`Error`].
pub fn open(path: &Path) -> Result<Arc<dyn Source>, Error> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { path: path.into() },
        _ => Error::Io {
            path: path.into(),
            source,
        },
    };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(Arc::new(FolderSource::open(path)?));
    }
    // Files are told apart by their first bytes, which are always there; names lie or are missing.
    let mut start = [0; 16];
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = std::io::Read::read(&mut file, &mut start).map_err(io)?;
    if start[..length].starts_with(b"PAR1") {
        return Ok(Arc::new(ParquetSource::open(path)?));
    }
    let what = match Format::of(&start[..length]) {
        Format::Jpeg | Format::Png => "it is a single picture",
        Format::Other(_) if length == 0 => "the file is empty",
        Format::Other(_) => "neither a folder nor a parquet file",
    };
    Err(Error::Unknown {
        path: path.into(),
        what: what.into(),
    })
}

/// The first row, in ascending order and not `excluded`, whose picture can be read, with that
/// picture. Whoever is about to read a collection asks this first, so that a collection without
/// one readable picture is an input error and not an endless search.
///
/// # Errors
/// [`Error::NothingReadable`], after every row has been tried.
pub fn first_readable(
    source: &dyn Source,
    excluded: impl Fn(usize) -> bool,
) -> Result<(usize, Picture), Error> {
    let mut first = None;
    for row in (0..source.len()).filter(|&row| !excluded(row)) {
        match source.picture(row) {
            Ok(picture) => return Ok((row, picture)),
            Err(error) => {
                first.get_or_insert((row, error));
            }
        }
    }
    let (name, reason) = match first {
        Some((row, error)) => (source.name(row), error.reason),
        None => ("none".into(), "every picture is excluded".into()),
    };
    Err(Error::NothingReadable {
        images: source.len(),
        name,
        reason,
    })
}
