//! CIFAR-10 and CIFAR-100 in their binary version.
//!
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>. A record is one label byte (CIFAR-10), or
//! a coarse and a fine one (CIFAR-100), and 3,072 bytes of pixels: the red, green and blue planes of
//! 32 x 32, row by row.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::file::{KEEP_BYTES, SharedFile};
use super::raw::{Bytes, Pixels, RawSource, Records, Shape, class_names};
use super::tar::Walk;
use super::{Error, search::name_of};

/// Bytes of a picture.
const PIXELS: usize = 3072;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cifar {
    /// Ten classes.
    Ten,
    /// A hundred classes, the fine ones.
    Hundred,
}

impl Cifar {
    /// Which one a file of this name is of, and whether it is the test part.
    pub(super) fn of_file(name: &str) -> Option<(Cifar, bool)> {
        match name {
            "test_batch.bin" => Some((Cifar::Ten, true)),
            "train.bin" => Some((Cifar::Hundred, false)),
            "test.bin" => Some((Cifar::Hundred, true)),
            name => {
                let batch = name.strip_prefix("data_batch_")?.strip_suffix(".bin")?;
                batch.parse::<u32>().ok().map(|_| (Cifar::Ten, false))
            }
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Cifar::Ten => "CIFAR-10 binary",
            Cifar::Hundred => "CIFAR-100 binary",
        }
    }

    fn classes(self) -> usize {
        match self {
            Cifar::Ten => 10,
            Cifar::Hundred => 100,
        }
    }

    /// Bytes of labels before the pixels; the last one counts.
    fn label_bytes(self) -> usize {
        match self {
            Cifar::Ten => 1,
            Cifar::Hundred => 2,
        }
    }

    fn record(self) -> usize {
        self.label_bytes() + PIXELS
    }

    /// The file that may name the classes.
    fn names(self) -> &'static str {
        match self {
            Cifar::Ten => "batches.meta.txt",
            Cifar::Hundred => "fine_label_names.txt",
        }
    }
}

/// The pictures of these files, which lie below `root`, in this order.
pub(super) fn open(root: &Path, files: &[PathBuf], cifar: Cifar) -> Result<RawSource, Error> {
    let (mut records, mut labels) = (Vec::new(), Vec::new());
    for name in files {
        let path = root.join(name);
        let io = |source| Error::io(&path, source);
        let file = SharedFile::open(&path).map_err(io)?;
        let len = number(&path, file.length(), cifar)?;
        let mut reader = file.stream().map_err(io)?;
        let mut record = vec![0; cifar.record()];
        for index in 0..len {
            reader.read_exact(&mut record).map_err(io)?;
            labels.push(Some(label(&path, &record, index, cifar)?));
        }
        records.push(Records {
            name: name_of(name),
            bytes: Bytes::File(file),
            first: cifar.label_bytes() as u64,
            stride: cifar.record() as u64,
            len,
        });
    }
    let folder = files.first().map(|file| root.join(file));
    let folder = folder.as_deref().and_then(Path::parent).unwrap_or(root);
    let classes = class_names(&folder.join(cifar.names()), cifar.classes());
    Ok(source(cifar, records, labels, classes))
}

/// The pictures in the archive as it is downloaded, `.tar.gz`: the test part or the rest. They are
/// unpacked into memory, since a compressed file can't be read at a place.
pub(super) fn open_archive(path: &Path, cifar: Cifar, test: bool) -> Result<RawSource, Error> {
    let io = |source| Error::io(path, source);
    let file = SharedFile::open(path).map_err(io)?;
    let mut walk = Walk::stream(path, GzDecoder::new(file.stream().map_err(io)?));
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    let mut classes = Vec::new();
    let mut kept = 0;
    while let Some(member) = walk.next()? {
        let name = member
            .name
            .rsplit(|&b| b == b'/')
            .next()
            .unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        if Cifar::of_file(&name) == Some((cifar, test)) {
            kept += member.size;
            if kept > KEEP_BYTES {
                return Err(Error::unusable(
                    path,
                    format!("it unpacks to more than {KEEP_BYTES} bytes, which CIFAR doesn't"),
                    "download it again, or unpack it",
                ));
            }
            found.push((name, walk.content(&member)?));
        } else if name == cifar.names() && member.size < 1 << 16 {
            let text = walk.content(&member)?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
            classes = names
                .map(|n| super::file::printable(n.as_bytes()))
                .collect();
        }
    }
    if classes.len() != cifar.classes() {
        classes.clear();
    }
    found.sort();
    let (mut records, mut labels) = (Vec::new(), Vec::new());
    for (name, bytes) in found {
        let len = number(path, bytes.len() as u64, cifar)?;
        for (index, record) in bytes.chunks_exact(cifar.record()).enumerate() {
            labels.push(Some(label(path, record, index, cifar)?));
        }
        records.push(Records {
            name,
            bytes: Bytes::Memory(bytes),
            first: cifar.label_bytes() as u64,
            stride: cifar.record() as u64,
            len,
        });
    }
    if labels.is_empty() {
        return Err(Error::NoRows {
            path: path.into(),
            kind: "an archive of CIFAR",
        });
    }
    Ok(source(cifar, records, labels, classes))
}

fn source(
    cifar: Cifar,
    records: Vec<Records>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
) -> RawSource {
    let shape = Shape {
        width: 32,
        height: 32,
        pixels: Pixels::PlanesByRow,
    };
    RawSource::new(cifar.kind(), shape, records, labels, classes, Vec::new())
}

/// The number of records in a file of this length.
fn number(path: &Path, length: u64, cifar: Cifar) -> Result<usize, Error> {
    let record = cifar.record() as u64;
    if length == 0 || !length.is_multiple_of(record) {
        return Err(Error::unusable(
            path,
            format!(
                "{length} bytes are no whole number of {}'s records of {record}",
                cifar.kind()
            ),
            "it is cut short or something else; download it again",
        ));
    }
    Ok(usize::try_from(length / record).unwrap_or(usize::MAX))
}

fn label(path: &Path, record: &[u8], index: usize, cifar: Cifar) -> Result<u32, Error> {
    let label = u32::from(record[cifar.label_bytes() - 1]);
    if label as usize >= cifar.classes() {
        return Err(Error::unusable(
            path,
            format!(
                "record {index} has the label {label}, beyond {}'s {} classes",
                cifar.kind(),
                cifar.classes()
            ),
            "it is something else, or damaged; download it again",
        ));
    }
    Ok(label)
}
