//! Collections of pictures: what a source is, how a path is recognised, and what can go wrong.
//!
//! A [`Source`] numbers its pictures by row, 0..len, in an order that depends on the collection's
//! content alone. The row is the picture's identity everywhere: in the memory bank, in the
//! shuffled order, in the draws of the augmentation and in every file npid writes.
//!
//! One file below this module holds one kind of source. `layout` finds out what a path holds, and
//! `open` makes sources of that; a further kind is a file here, a `layout::Kind` and
//! an arm in `open`.

mod brace;
mod cifar;
mod error;
mod file;
mod folder;
mod idx;
mod join;
mod labels;
mod layout;
mod list;
mod open;
mod parquet;
mod raw;
mod search;
mod shards;
mod split;
mod stl10;
mod tar;

pub use error::Error;
pub use folder::FolderSource;
pub use join::Joined;
pub use list::ListSource;
pub use open::{Opened, Options, Wanted, find, open};
pub use parquet::ParquetSource;
pub use raw::RawSource;
use serde::Serialize;
pub use shards::ShardSource;

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
/// a picture is generated or stored as plain pixels, and never was encoded.
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
    /// The kind of source, as a person would name it: "folder", "list file", "parquet file",
    /// "parquet folder", "tar shards", "CIFAR-10 binary", "CIFAR-100 binary", "IDX",
    /// "STL-10 binary", "patterns"; several at once are joined by " + ".
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

    /// Whether there are no rows at all. [`open()`] never returns such a source.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The picture's name within the collection: a path relative to its root with `/` between the
    /// parts, `file.parquet#123` in a file of rows, or `shard.tar/name` in a tar. Control
    /// characters are escaped, so that a name can be printed.
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

    /// The numbers in a column of this name, one for each row in order, as f64.
    ///
    /// # Errors
    /// [`Error::Column`] where the source has no columns (all but parquet), none of this name, or
    /// one that holds something else than numbers, or no number in some row.
    fn column(&self, name: &str) -> Result<Vec<f64>, Error> {
        Err(Error::Column {
            column: name.into(),
            what: format!(
                "there are no columns beside these pictures ({}); only parquet files have some",
                self.describe().kind
            ),
        })
    }

    /// What a person should know about how the collection was understood, a sentence each; found
    /// out when it was opened, so that asking costs nothing.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the collection is, without decoding anything.
    fn describe(&self) -> Description;
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
