//! A folder of JPEG and PNG files, searched to any depth.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::{ContentHash, Description, Error, Picture, PictureError, Source};
use crate::decode::decode;

/// Above this many files their sizes are not looked up to describe the folder: on a network file
/// system that alone could take minutes.
const MAX_SIZED: usize = 200_000;

/// Pictures in a folder and everything below it.
///
/// A file is taken for a picture by its extension (`.jpg`, `.jpeg`, `.png`, in any case); what it
/// really is its content tells when it is read. Names that begin with a dot are ignored. Links are
/// followed, except into a folder that holds them. Rows are in ascending order of the path's
/// bytes, with `/` between its parts on every system.
///
/// The folder's direct sub-folders that hold pictures are the classes, in ascending order of their
/// names; pictures beside them have no label.
pub struct FolderSource {
    root: PathBuf,
    /// Paths relative to `root`, ascending.
    files: Vec<Box<Path>>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
}

impl FolderSource {
    /// Searches `root` for pictures; reads none of them.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder can't be listed, [`Error::Empty`] if there is no picture.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let mut search = Search::default();
        let canonical = root.canonicalize().map_err(|source| Error::Io {
            path: root.into(),
            source,
        })?;
        search.folder(root, Path::new(""), &mut vec![canonical])?;
        if search.pictures.is_empty() {
            return Err(Error::Empty {
                path: root.into(),
                hint: search.hint(),
            });
        }
        let mut files = search.pictures;
        files.sort_by_cached_key(|file| name_of(file).into_bytes());
        let class_of = |file: &Path| {
            let mut parts = file.iter();
            let first = parts.next()?;
            parts.next().map(|_| part_name(first))
        };
        let mut classes: Vec<String> = Vec::new();
        let mut labels = Vec::with_capacity(files.len());
        for file in &files {
            labels.push(class_of(file).map(|class| {
                // In path order a class's files need not follow each other: `a!/1.jpg` lies
                // between `a` and `a/1.jpg`. So classes are looked up and sorted below.
                match classes.iter().rposition(|known| *known == class) {
                    Some(label) => label,
                    None => {
                        classes.push(class);
                        classes.len() - 1
                    }
                }
            }));
        }
        let mut by_name: Vec<usize> = (0..classes.len()).collect();
        by_name.sort_by(|&a, &b| classes[a].cmp(&classes[b]));
        let mut rank = vec![0; classes.len()];
        for (label, &found) in by_name.iter().enumerate() {
            rank[found] = label as u32;
        }
        Ok(FolderSource {
            root: root.into(),
            labels: labels
                .into_iter()
                .map(|label| label.map(|found| rank[found]))
                .collect(),
            classes: by_name
                .iter()
                .map(|&found| classes[found].clone())
                .collect(),
            files: files.into_iter().map(PathBuf::into_boxed_path).collect(),
        })
    }

    fn read(&self, row: usize) -> Result<Vec<u8>, PictureError> {
        fs::read(self.root.join(&self.files[row])).map_err(|error| {
            PictureError::new(match error.kind() {
                std::io::ErrorKind::NotFound => "the file is gone".into(),
                _ => format!("the file can't be read: {error}"),
            })
        })
    }
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, row: usize) -> String {
        name_of(&self.files[row])
    }

    fn label(&self, row: usize) -> Option<u32> {
        self.labels[row]
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        decode(&self.read(row)?)
    }

    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        Ok(ContentHash::of(&self.read(row)?))
    }

    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        let bytes = self.read(row)?;
        Ok((decode(&bytes)?, ContentHash::of(&bytes)))
    }

    fn describe(&self) -> Description {
        let mut formats = BTreeMap::new();
        for file in &self.files {
            let format = if has_extension(file, &["png"]) {
                "PNG"
            } else {
                "JPEG"
            };
            *formats.entry(format.to_owned()).or_insert(0) += 1;
        }
        let mut formats: Vec<(String, usize)> = formats.into_iter().collect();
        formats.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let size = |file: &Path| fs::metadata(self.root.join(file)).map_or(0, |m| m.len());
        let bytes =
            (self.files.len() <= MAX_SIZED).then(|| self.files.iter().map(|file| size(file)).sum());
        Description {
            kind: "folder".into(),
            images: self.files.len(),
            classes: self.classes.len(),
            labelled: self.labels.iter().flatten().count(),
            formats,
            bytes,
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let beside = self.labels.iter().filter(|label| label.is_none()).count();
        match beside {
            _ if beside == self.files.len() => {}
            0 => {}
            1 => notes.push("1 picture lies beside the class folders and has no label".into()),
            n => notes.push(format!(
                "{n} pictures lie beside the class folders and have no label"
            )),
        }
        if let Some((train, val)) = splits(&self.classes) {
            let val = val.map_or(String::new(), |val| {
                format!(" and --val {}", self.root.join(val).display())
            });
            notes.push(format!(
                "the sub-folders of {} look like splits, not classes, and all of them are taken; \
                 to keep them apart give --data {}{val}",
                self.root.display(),
                self.root.join(train).display()
            ));
        }
        notes
    }
}

/// The classes that are really the training and the validation split, where every one of
/// `classes` has the name of a split: someone gave the folder above the one they meant.
pub fn splits(classes: &[String]) -> Option<(&str, Option<&str>)> {
    const NAMES: [&str; 5] = ["train", "val", "valid", "validation", "test"];
    let found: Vec<&str> = (NAMES.into_iter())
        .filter(|name| classes.iter().any(|class| class == name))
        .collect();
    (!found.is_empty() && found.len() == classes.len()).then(|| (found[0], found.get(1).copied()))
}

fn part_name(part: &OsStr) -> String {
    part.to_string_lossy().into_owned()
}

fn name_of(file: &Path) -> String {
    let parts: Vec<_> = file.iter().map(OsStr::to_string_lossy).collect();
    parts.join("/")
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|found| extensions.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// What a search through a folder found.
#[derive(Default)]
struct Search {
    pictures: Vec<PathBuf>,
    parquet: Option<PathBuf>,
    others: usize,
}

impl Search {
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
                    Err(_) if is_picture(&path) => {
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
            } else if is_picture(&path) {
                self.pictures.push(path);
            } else {
                self.others += 1;
                if has_extension(&path, &["parquet"]) {
                    self.parquet.get_or_insert(path);
                }
            }
        }
        Ok(())
    }

    fn hint(&self) -> String {
        match (&self.parquet, self.others) {
            (Some(file), _) => format!(
                ", but parquet files: give one of them, such as {}",
                name_of(file)
            ),
            (None, 0) => "; it is empty: give the folder that holds the pictures".into(),
            (None, others) => format!(
                ", but {others} other files: give the folder that holds the pictures, or convert \
                 them to JPEG or PNG"
            ),
        }
    }
}

fn is_picture(file: &Path) -> bool {
    has_extension(file, &["jpg", "jpeg", "png"])
}
