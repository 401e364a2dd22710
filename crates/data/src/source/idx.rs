//! IDX files: MNIST, Fashion-MNIST, KMNIST, EMNIST.
//!
//! Source: <http://yann.lecun.com/exdb/mnist/>. A magic number 0x00 0x00 TYPE DIMENSIONS, the size of
//! each dimension (big-endian, 4 bytes), then the values, the last dimension fastest. TYPE 0x08 is
//! unsigned bytes.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::Error;
use super::file::{KEEP_BYTES, SharedFile};
use super::raw::{Bytes, Pixels, RawSource, Records, Shape};
use crate::decode::MAX_PIXELS;

/// Whether a file of this name holds pictures: `train-images-idx3-ubyte`, with a dot instead of the
/// last dash but one or with `.gz` behind it as well.
pub(super) fn is_images(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.contains("images") && name.ends_with("idx3-ubyte")
}

/// Whether a file that begins like this holds pictures.
pub(super) fn begins(start: &[u8]) -> bool {
    start.starts_with(&[0, 0, 8, 3])
}

/// A file's content, unpacked if it is packed, and the sizes in its header.
struct Idx {
    bytes: Bytes,
    sizes: Vec<u64>,
    header: u64,
}

/// Opens a file that must have this many dimensions of unsigned bytes, and as many bytes as its
/// header says: compared before memory is taken for them.
fn read(path: &Path, dimensions: usize) -> Result<Idx, Error> {
    let io = |source| Error::io(path, source);
    let wrong = |what: String| Error::unusable(path, what, "it is damaged; download it again");
    let file = SharedFile::open(path).map_err(io)?;
    let mut reader = file.stream().map_err(io)?;
    let mut magic = [0; 2];
    reader.read_exact(&mut magic).map_err(io)?;
    let packed = magic == [0x1f, 0x8b];
    let unpack = |file: &SharedFile| Ok::<_, io::Error>(MultiGzDecoder::new(file.stream()?));
    let header_bytes = 4 + 4 * dimensions;
    let mut header = vec![0; header_bytes];
    if packed {
        unpack(&file).map_err(io)?.read_exact(&mut header)
    } else {
        file.stream().map_err(io)?.read_exact(&mut header)
    }
    .map_err(|error| wrong(format!("its header can't be read ({error})")))?;
    if header[..2] != [0, 0] || header[2] != 8 || usize::from(header[3]) != dimensions {
        return Err(wrong(format!(
            "it begins with {:02x?}, and IDX files of unsigned bytes in {dimensions} dimensions \
             with [00, 00, 08, {dimensions:02x}]",
            &header[..4]
        )));
    }
    let sizes: Vec<u64> = (header[4..].chunks_exact(4))
        .map(|size| size.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
        .collect();
    let said = || {
        let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
        sizes.join(" x ")
    };
    let total = (sizes.iter())
        .try_fold(1u64, |product, &size| product.checked_mul(size))
        .and_then(|total| total.checked_add(header_bytes as u64))
        .ok_or_else(|| wrong(format!("its header says {} bytes", said())))?;
    let length_wrong = |length: &str| {
        wrong(format!(
            "its header says {} bytes, which with it makes {total}, but the file has {length}",
            said()
        ))
    };
    if !packed {
        if file.length() != total {
            return Err(length_wrong(&file.length().to_string()));
        }
        return Ok(Idx {
            bytes: Bytes::File(file),
            sizes,
            header: header_bytes as u64,
        });
    }
    if total > KEEP_BYTES {
        return Err(Error::unusable(
            path,
            format!(
                "its header says {} bytes, more than the {KEEP_BYTES} that are unpacked into memory",
                said()
            ),
            "unpack it with gunzip",
        ));
    }
    // Grows with what is there, one byte beyond what should be.
    let mut bytes = Vec::new();
    (unpack(&file)
        .map_err(io)?
        .take(total + 1)
        .read_to_end(&mut bytes))
    .map_err(|error| wrong(format!("it can't be unpacked ({error})")))?;
    if bytes.len() as u64 != total {
        let more = bytes.len() as u64 > total;
        return Err(length_wrong(&if more {
            "more".to_owned()
        } else {
            bytes.len().to_string()
        }));
    }
    Ok(Idx {
        bytes: Bytes::Memory(bytes),
        sizes,
        header: header_bytes as u64,
    })
}

/// The pictures of a file, with the labels beside it.
pub(super) fn open(path: &Path) -> Result<RawSource, Error> {
    let images = read(path, 3)?;
    let (len, height, width) = (images.sizes[0], images.sizes[1], images.sizes[2]);
    if len == 0 {
        return Err(Error::NoRows {
            path: path.into(),
            kind: "an IDX file",
        });
    }
    if width == 0 || height == 0 || width * height > MAX_PIXELS {
        return Err(Error::unusable(
            path,
            format!("its header says pictures of {width} x {height}"),
            "it is damaged; download it again",
        ));
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let mut notes = Vec::new();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let labels = match labels_of(path) {
        Some(beside) => labels(&beside, len, &name)?,
        None => {
            notes.push(format!(
                "{name} has no labels: no such file beside it with labels-idx1 in its name"
            ));
            vec![None; len]
        }
    };
    let shape = Shape {
        width: width as usize,
        height: height as usize,
        pixels: Pixels::Grey,
    };
    let records = Records {
        name: super::file::printable(name.as_bytes()),
        bytes: images.bytes,
        first: images.header,
        stride: width * height,
        len,
    };
    Ok(RawSource::new(
        "IDX",
        shape,
        vec![records],
        labels,
        Vec::new(),
        notes,
    ))
}

/// The file of labels beside a file of pictures, packed or not.
fn labels_of(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let labels = plain.replace("images", "labels").replace("idx3", "idx1");
    if labels == plain {
        return None;
    }
    let candidates = [labels.clone(), labels + ".gz"];
    candidates
        .into_iter()
        .map(|name| images.with_file_name(name))
        .find(|path| path.is_file())
}

fn labels(path: &Path, len: usize, images: &str) -> Result<Vec<Option<u32>>, Error> {
    let labels = read(path, 1)?;
    if labels.sizes[0] != len as u64 {
        return Err(Error::unusable(
            path,
            format!(
                "{} labels for the {len} pictures of {images}",
                labels.sizes[0]
            ),
            "they are of two sets; download both again",
        ));
    }
    let bytes = match labels.bytes {
        Bytes::Memory(bytes) => bytes[labels.header as usize..].to_vec(),
        Bytes::File(file) => file
            .read(labels.header, labels.sizes[0])
            .map_err(|e| Error::io(path, e))?,
    };
    Ok(bytes.into_iter().map(|label| Some(label.into())).collect())
}
