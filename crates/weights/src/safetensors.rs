//! safetensors files.
//!
//! Source: the format's description in its repository, huggingface/safetensors.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata, TensorInfo};

use crate::Tensors;
use crate::error::Error;
use crate::pickle::{Graph, Node, StorageRef, TensorRef};
use crate::pth::Place;

/// Elements that are turned into bytes at once.
const CHUNK: usize = 1 << 14;

/// Writes the counters of `tensors`, I64 (first, so that every number begins at a multiple of its
/// size, as in files of the format's own library), and the tensors in their order, all F32, with
/// `metadata` as the file's texts by key. Equal tensors and texts give equal bytes.
///
/// # Errors
/// If `out` can't be written.
pub fn write<W: Write>(mut out: W, tensors: &Tensors, metadata: &[(&str, &str)]) -> io::Result<W> {
    let mut offset = 0;
    let mut infos: Vec<(String, TensorInfo)> = Vec::new();
    let mut info = |name: &str, dtype, shape: &[usize], bytes| {
        let start = offset;
        offset += bytes;
        let info = TensorInfo {
            dtype,
            shape: shape.to_vec(),
            data_offsets: (start, offset),
        };
        infos.push((name.to_string(), info));
    };
    for (name, _) in tensors.counters() {
        info(name, Dtype::I64, &[], 8);
    }
    for (name, tensor) in tensors.iter() {
        info(name, Dtype::F32, &tensor.shape, 4 * tensor.len());
    }
    // The library's own header has texts in no order.
    let mut lines = Vec::new();
    if !metadata.is_empty() {
        let texts: BTreeMap<_, _> = metadata.iter().copied().collect();
        lines.push(format!(
            "\"__metadata__\":{}",
            serde_json::to_string(&texts)?
        ));
    }
    for (name, info) in &infos {
        let (name, info) = (serde_json::to_string(name)?, serde_json::to_string(info)?);
        lines.push(format!("{name}:{info}"));
    }
    // What it refuses to read isn't written.
    Metadata::new(None, infos).map_err(io::Error::other)?;
    let mut header = format!("{{{}}}", lines.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, value) in tensors.counters() {
        out.write_all(&value.to_le_bytes())?;
    }
    for (_, tensor) in tensors.iter() {
        for chunk in tensor.data.chunks(CHUNK) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
    }
    out.flush()?;
    Ok(out)
}

/// The largest header that is read: names and shapes of some hundred thousand tensors.
const MAX_HEADER: u64 = 100_000_000;

/// A file's tensors as a dict, where each lies, and its texts.
type Opened = (Graph, HashMap<String, Place>, HashMap<String, String>);

/// Reads the header of a file of `length` bytes. Each tensor is a storage of its own, under its
/// name.
pub(crate) fn open(path: &Path, file: &mut File, length: u64) -> Result<Opened, Error> {
    let io = |error| Error::io(path, error);
    let mut size = [0; 8];
    file.rewind().map_err(io)?;
    file.read_exact(&mut size).map_err(io)?;
    let size = u64::from_le_bytes(size);
    let start = size.saturating_add(8);
    if size > MAX_HEADER || start > length {
        return Err(Error::broken(
            path,
            "not a safetensors file, or one cut short (its header would be longer than it is)",
        ));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| Error::broken(path, format!("not a safetensors file ({error})")))?;
    let end = start.saturating_add(metadata.data_len() as u64);
    if end > length {
        return Err(Error::broken(
            path,
            format!("it is cut short ({length} of {end} bytes); copy or download it again"),
        ));
    }
    let mut graph = Graph::default();
    let mut places = HashMap::new();
    let mut items = Vec::new();
    let mut add = |node| {
        graph.nodes.push(node);
        graph.nodes.len() as u32 - 1
    };
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let Some(dtype) = dtype(info.dtype) else {
            // One that nothing asks for (another project's scales) does no harm.
            continue;
        };
        let (from, to) = info.data_offsets;
        let place = Place {
            offset: start + from as u64,
            size: (to - from) as u64,
        };
        places.insert(name.clone(), place);
        let shape: Vec<u64> = info.shape.iter().map(|&n| n as u64).collect();
        let mut strides = vec![1_u64; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
        }
        let tensor = TensorRef {
            storage: StorageRef {
                key: name.clone(),
                dtype,
                len: place.size / dtype.size() as u64,
                skip: 0,
            },
            offset: 0,
            shape,
            strides,
        };
        let key = add(Node::Text(name.into()));
        items.push((key, add(Node::Tensor(Box::new(tensor)))));
    }
    graph.root = add(Node::Dict(items));
    let texts = metadata.metadata().clone().unwrap_or_default();
    Ok((graph, places, texts.into_iter().collect()))
}

fn dtype(dtype: Dtype) -> Option<crate::Dtype> {
    Some(match dtype {
        Dtype::F64 => crate::Dtype::F64,
        Dtype::F32 => crate::Dtype::F32,
        Dtype::F16 => crate::Dtype::F16,
        Dtype::BF16 => crate::Dtype::Bf16,
        Dtype::I64 => crate::Dtype::I64,
        Dtype::I32 => crate::Dtype::I32,
        Dtype::I16 => crate::Dtype::I16,
        Dtype::I8 => crate::Dtype::I8,
        Dtype::U8 => crate::Dtype::U8,
        Dtype::BOOL => crate::Dtype::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Tensor};

    /// Headers of every length, among them those whose first byte is a pickle's.
    #[test]
    fn what_is_written_is_read_whatever_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let mut first_bytes = std::collections::BTreeSet::new();
        for length in 0..300 {
            let name = "n".repeat(length);
            let mut tensors = Tensors::new();
            tensors.insert(&name, Tensor::new(&[2, 1], vec![0.5, -3.0]));
            tensors.count("seen", 1 << 20);
            let path = folder.path().join("a");
            let texts = [("format", "pt"), ("a", "é\"")];
            write(File::create(&path).unwrap(), &tensors, &texts).unwrap();
            first_bytes.insert(std::fs::read(&path).unwrap()[0]);
            let read = crate::read(&path).unwrap();
            assert_eq!(read.format(), Format::Safetensors);
            assert_eq!(
                read.load(&name).unwrap(),
                Tensor::new(&[2, 1], vec![0.5, -3.0])
            );
            assert_eq!(
                read.load("seen").unwrap(),
                Tensor::new(&[], vec![1048576.0])
            );
            assert_eq!(
                (read.text("format"), read.text("a")),
                (Some("pt"), Some("é\""))
            );
        }
        assert!(first_bytes.contains(&0x80), "{first_bytes:?}");
    }
}
