//! STL-10 in its binary version.
//!
//! Source: <https://cs.stanford.edu/~acoates/stl10/>. `*_X.bin` holds pictures of 96 x 96, 27,648
//! bytes each: the red, green and blue planes, column by column. `*_y.bin` holds a byte for each, 1
//! to 10.

use std::path::{Path, PathBuf};

use super::file::SharedFile;
use super::raw::{Bytes, Pixels, RawSource, Records, Shape, class_names};
use super::{Error, search::name_of};

const SIDE: usize = 96;
const RECORD: u64 = (SIDE * SIDE * 3) as u64;
const CLASSES: usize = 10;

/// Names of the files of pictures.
pub(super) const TRAIN: &str = "train_X.bin";
pub(super) const UNLABELED: &str = "unlabeled_X.bin";
pub(super) const TEST: &str = "test_X.bin";

/// Whether a file of this name holds pictures of STL-10.
pub(super) fn is_name(name: &str) -> bool {
    [TRAIN, UNLABELED, TEST].contains(&name)
}

/// The pictures of these files, which lie below `root`, in this order, with the labels beside them.
pub(super) fn open(root: &Path, files: &[PathBuf]) -> Result<RawSource, Error> {
    let (mut records, mut labels, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for name in files {
        let path = root.join(name);
        let file = SharedFile::open(&path).map_err(|e| Error::io(&path, e))?;
        let length = file.length();
        if length == 0 || !length.is_multiple_of(RECORD) {
            return Err(Error::unusable(
                &path,
                format!("{length} bytes are no whole number of STL-10's pictures of {RECORD}"),
                "it is cut short or something else; download it again",
            ));
        }
        let len = usize::try_from(length / RECORD).unwrap_or(usize::MAX);
        labels.extend(labels_of(&path, len, &mut notes)?);
        records.push(Records {
            name: name_of(name),
            bytes: Bytes::File(file),
            first: 0,
            stride: RECORD,
            len,
        });
    }
    let folder = files.first().map(|file| root.join(file));
    let folder = folder.as_deref().and_then(Path::parent).unwrap_or(root);
    let classes = class_names(&folder.join("class_names.txt"), CLASSES);
    let shape = Shape {
        width: SIDE,
        height: SIDE,
        pixels: Pixels::PlanesByColumn,
    };
    Ok(RawSource::new(
        "STL-10 binary",
        shape,
        records,
        labels,
        classes,
        notes,
    ))
}

/// The labels that lie beside the pictures at `path`; the unlabelled part has none.
fn labels_of(path: &Path, len: usize, notes: &mut Vec<String>) -> Result<Vec<Option<u32>>, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name == UNLABELED {
        return Ok(vec![None; len]);
    }
    let labels = path.with_file_name(name.replace("_X.bin", "_y.bin"));
    if !labels.exists() {
        notes.push(format!(
            "{name} has no labels: {} is missing",
            labels.display()
        ));
        return Ok(vec![None; len]);
    }
    let wrong = |what: String| {
        Error::unusable(
            &labels,
            what,
            "it is damaged or of another set; download it again",
        )
    };
    let io = |source| Error::io(&labels, source);
    let file = SharedFile::open(&labels).map_err(io)?;
    if file.length() != len as u64 {
        return Err(wrong(format!(
            "{} labels for the {len} pictures of {name}",
            file.length()
        )));
    }
    let bytes = file.read(0, len as u64).map_err(io)?;
    if let Some(row) = bytes.iter().position(|b| !(1..=CLASSES as u8).contains(b)) {
        return Err(wrong(format!(
            "label {row} is {}, and STL-10's are 1 to {CLASSES}",
            bytes[row]
        )));
    }
    Ok(bytes.iter().map(|&b| Some(u32::from(b) - 1)).collect())
}
