//! The data set as files, for people to look at and for other programs to read.

use super::{CLASSES, Patterns, Split};
use crate::source::Source;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Why the data set could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The folder already holds something.
    #[error("{}: the folder isn't empty; name a new one", path.display())]
    NotEmpty {
        /// The folder as given.
        path: PathBuf,
    },
    /// The folder can't be made, or what is there can't be looked into.
    #[error("{}: cannot be written ({reason}); name a folder that can", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// Writing began and could not be finished. What was written has been removed.
    #[error(
        "{}: can't be written ({reason}); make room for it or name a folder elsewhere",
        path.display()
    )]
    Unfinished {
        /// The folder or file.
        path: PathBuf,
        /// The operating system's or the encoder's words.
        reason: String,
    },
}

/// Writes both splits below `dir`: `train/CLASS/NNNN.png` and `val/CLASS/NNNN.png`, `train` and
/// `val` of them, NNNN being the picture's index and each `size` x `size` pixels.
///
/// `dir` is made where it doesn't exist. Opened as a folder, `dir/train` holds the pictures of
/// `Patterns::new(Split::Train, train, size, seed)` with the same names and labels, ordered by
/// name.
///
/// # Errors
/// If `dir` holds anything already (then nothing is written), or something can't be written (then
/// what was written is removed again).
pub fn write(
    dir: &Path,
    train: usize,
    val: usize,
    size: usize,
    seed: u64,
) -> Result<(), WriteError> {
    let io = |path: &Path, error: std::io::Error| WriteError::Io {
        path: path.to_path_buf(),
        reason: error.to_string(),
    };
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(WriteError::NotEmpty {
                    path: dir.to_path_buf(),
                });
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(dir, error)),
    }
    // The folders above the pictures that aren't there yet, the innermost first.
    let made: Vec<&Path> = (dir.ancestors())
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    let written = fs::create_dir_all(dir)
        .map_err(|error| io(dir, error))
        .and_then(|()| {
            write_split(dir, Split::Train, train, size, seed)?;
            write_split(dir, Split::Val, val, size, seed)
        });
    if written.is_err() {
        // The folder was new or empty, so all of this is ours; the first error is the one to
        // report.
        for split in [Split::Train, Split::Val] {
            let _ = fs::remove_dir_all(dir.join(split.name()));
        }
        for folder in made {
            let _ = fs::remove_dir(folder);
        }
    }
    written
}

/// Writes one split below `dir`, which exists.
fn write_split(
    dir: &Path,
    split: Split,
    count: usize,
    size: usize,
    seed: u64,
) -> Result<(), WriteError> {
    let unfinished = |path: &Path, reason: String| WriteError::Unfinished {
        path: path.to_path_buf(),
        reason,
    };
    let root = dir.join(split.name());
    for class in CLASSES {
        let folder = root.join(class);
        fs::create_dir_all(&folder).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => WriteError::Io {
                path: folder.clone(),
                reason: error.to_string(),
            },
            _ => unfinished(&folder, error.to_string()),
        })?;
    }
    let patterns = Patterns::new(split, count, size, seed);
    for index in 0..count {
        let path = root.join(patterns.name(index));
        write_png(&path, size, &patterns.render(index))
            .map_err(|error| unfinished(&path, error.to_string()))?;
    }
    Ok(())
}

/// One square RGB picture as an 8-bit PNG.
fn write_png(path: &Path, size: usize, rgb: &[u8]) -> Result<(), png::EncodingError> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(&mut file, size as u32, size as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(file.flush()?)
}
