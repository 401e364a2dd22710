//! safetensors files.
//!
//! Source: the format's description in its repository, huggingface/safetensors.

use std::io::{self, Write};

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata, TensorInfo};

use crate::Tensors;

/// Elements that are turned into bytes at once.
const CHUNK: usize = 1 << 14;

/// Writes the counters of `tensors`, I64 (first, so that every number begins at a multiple of its
/// size, as in files of the format's own library), and the tensors in their order, all F32, with `metadata` as the file's texts by key. Equal
/// tensors and one text at most give equal bytes (the format's header keeps texts in no order).
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
    let texts = (metadata.iter()).map(|(key, text)| (key.to_string(), text.to_string()));
    let texts = (!metadata.is_empty()).then(|| texts.collect());
    let header = Metadata::new(texts, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
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
