//! A folder of pictures, searched to any depth.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::file::{picture_bytes, printable};
use super::search::{Search, name_of};
use super::{ContentHash, Description, Error, Picture, PictureError, Source};
use crate::decode::{Format, decode};

/// Above this many files their sizes are not looked up to describe the folder: on a network file
/// system that alone could take minutes.
const MAX_SIZED: usize = 200_000;

/// Pictures in a folder and everything below it.
///
/// A file is taken for a picture by its extension (`.jpg`, `.jpeg`, `.png`, `.webp`, `.bmp`,
/// `.tif`, `.tiff`, `.gif`, in any case); what it really is its content tells when it is read.
/// Names that begin with a dot are ignored. Links are followed, except into a folder that holds
/// them. Rows are in ascending order of the path's bytes, with `/` between its parts on every
/// system.
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
        let search = Search::of(root)?;
        if search.pictures.is_empty() {
            return Err(Error::Empty {
                path: root.into(),
                hint: "; give the folder that holds the pictures".into(),
            });
        }
        Ok(Self::of(root, search.pictures))
    }

    /// The pictures at these paths below `root`, in this order.
    pub(super) fn of(root: &Path, files: Vec<PathBuf>) -> Self {
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
        FolderSource {
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
        }
    }

    fn read(&self, row: usize) -> Result<Vec<u8>, PictureError> {
        picture_bytes(&self.root.join(&self.files[row]))
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
        let size = |file: &Path| fs::metadata(self.root.join(file)).map_or(0, |m| m.len());
        let bytes =
            (self.files.len() <= MAX_SIZED).then(|| self.files.iter().map(|file| size(file)).sum());
        Description {
            kind: "folder".into(),
            images: self.files.len(),
            classes: self.classes.len(),
            labelled: self.labels.iter().flatten().count(),
            formats: formats_by_name(self.files.iter().map(|file| file.as_ref())),
            bytes,
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        let beside = self.labels.iter().filter(|label| label.is_none()).count();
        match beside {
            _ if beside == self.files.len() => vec![],
            0 => vec![],
            1 => vec!["1 picture lies beside the class folders and has no label".into()],
            n => vec![format!(
                "{n} pictures lie beside the class folders and have no label"
            )],
        }
    }
}

/// Kinds of pictures with the number of each, most frequent first, as far as names tell.
pub(super) fn formats_by_name<'a>(names: impl Iterator<Item = &'a Path>) -> Vec<(String, usize)> {
    let mut formats = BTreeMap::new();
    for name in names {
        let format = name
            .extension()
            .and_then(OsStr::to_str)
            .map_or("other", Format::name_of_ending);
        *formats.entry(format.to_owned()).or_insert(0) += 1;
    }
    let mut formats: Vec<(String, usize)> = formats.into_iter().collect();
    formats.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    formats
}

fn part_name(part: &OsStr) -> String {
    printable(part.as_encoded_bytes())
}
