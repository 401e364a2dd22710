//! A search through a folder, to any depth.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use super::file::printable;

/// Endings of pictures, in lower case.
const PICTURES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"];

/// What a search through a folder found, as paths relative to it, in ascending order of the path's
/// bytes with `/` between its parts.
#[derive(Default)]
pub(super) struct Search {
    pub pictures: Vec<PathBuf>,
    pub parquets: Vec<PathBuf>,
    pub tars: Vec<PathBuf>,
    /// Number of other files.
    pub others: usize,
}

impl Search {
    /// Searches `root`; opens no file. Names that begin with a dot are ignored. Links are followed,
    /// except into a folder that holds them; pipes and devices are no files.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder can't be listed.
    pub(super) fn of(root: &Path) -> Result<Self, Error> {
        let mut search = Search::default();
        let canonical = root.canonicalize().map_err(|e| Error::io(root, e))?;
        search.folder(root, Path::new(""), &mut vec![canonical])?;
        for files in [&mut search.pictures, &mut search.parquets, &mut search.tars] {
            files.sort_by_cached_key(|file| name_of(file).into_bytes());
        }
        Ok(search)
    }

    /// Searches `root/below`, whose own and whose ancestors' true paths are `above`.
    fn folder(&mut self, root: &Path, below: &Path, above: &mut Vec<PathBuf>) -> Result<(), Error> {
        let io = |source| Error::Io {
            path: root.join(below),
            source,
        };
        for entry in fs::read_dir(root.join(below)).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = below.join(&name);
            let mut kind = entry.file_type().map_err(io)?;
            if kind.is_symlink() {
                match fs::metadata(entry.path()) {
                    Ok(target) => kind = target.file_type(),
                    // A link to nothing that is named like a picture is an unreadable picture:
                    // listed, not silently left out.
                    Err(_) if has_extension(&path, &PICTURES) => {
                        self.pictures.push(path);
                        continue;
                    }
                    Err(_) => continue,
                }
            }
            if kind.is_dir() {
                let canonical = entry.path().canonicalize().map_err(io)?;
                // A link back to a folder that we are in would never end.
                if !above.contains(&canonical) {
                    above.push(canonical);
                    self.folder(root, &path, above)?;
                    above.pop();
                }
            } else if !kind.is_file() {
            } else if has_extension(&path, &PICTURES) {
                self.pictures.push(path);
            } else if has_extension(&path, &["parquet"]) {
                self.parquets.push(path);
            } else if has_extension(&path, &["tar"]) {
                self.tars.push(path);
            } else {
                self.others += 1;
            }
        }
        Ok(())
    }
}

/// The name of a picture at this relative path.
pub(super) fn name_of(file: &Path) -> String {
    let parts: Vec<_> = (file.iter())
        .map(|part| printable(part.as_encoded_bytes()))
        .collect();
    parts.join("/")
}

/// Whether the name ends in a dot and one of `extensions`, in upper or lower case.
pub(super) fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|found| extensions.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// Whether a file of this name is taken for a picture.
pub(super) fn is_picture(file: &Path) -> bool {
    has_extension(file, &PICTURES)
}
