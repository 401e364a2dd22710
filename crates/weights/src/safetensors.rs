//! safetensors files.
//!
//! Source: the format's description in its repository, huggingface/safetensors.

use std::io::{self, Write};

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata, TensorInfo};

use crate::Tensors;

/// Elements that are turned into bytes at once.
const CHUNK: usize = 1 << 14;

/// Writes `tensors` in their order, all F32, with `metadata` as the file's texts by key. Equal
/// tensors and one text at most give equal bytes (the format's header keeps texts in no order).
///
/// # Errors
/// If `out` can't be written.
pub fn write<W: Write>(mut out: W, tensors: &Tensors, metadata: &[(&str, &str)]) -> io::Result<W> {
    let mut offset = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let start = offset;
        offset += 4 * tensor.len();
        let info = TensorInfo {
            dtype: Dtype::F32,
            shape: tensor.shape.clone(),
            data_offsets: (start, offset),
        };
        (name.to_string(), info)
    });
    let infos = infos.collect();
    let texts = (metadata.iter()).map(|(key, text)| (key.to_string(), text.to_string()));
    let texts = (!metadata.is_empty()).then(|| texts.collect());
    let header = Metadata::new(texts, infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, tensor) in tensors.iter() {
        for chunk in tensor.data.chunks(CHUNK) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
    }
    out.flush()?;
    Ok(out)
}
