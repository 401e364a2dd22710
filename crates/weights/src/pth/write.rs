//! Writes a `.pth` file: a `collections.OrderedDict` of tensors, as `torch.save(state_dict)` does.
//!
//! Source: `torch.serialization._save` (zip format, version 3); pickle protocol 2 (PEP 307 and
//! `Lib/pickletools.py`).

use std::borrow::Cow;
use std::io::{self, Write};

use super::zip::Writer;
use crate::Tensors;

/// Elements that are turned into bytes at once.
const CHUNK: usize = 1 << 14;

/// Writes `tensors` in their order, all f32, and then their counters, int64, so that
/// `torch.load(FILE, weights_only=True)` returns an `OrderedDict` of contiguous tensors with their
/// names; with `under`, a dictionary that holds it by that key (mmcv's `state_dict`). Equal tensors
/// give equal bytes.
///
/// # Errors
/// If `out` can't be written, or the file would pass 4 GiB.
pub fn write<W: Write>(out: W, tensors: &Tensors, under: Option<&str>) -> io::Result<W> {
    let mut zip = Writer::new(out);
    let once = |bytes: &'static [u8]| std::iter::once(Cow::Borrowed(bytes));
    let pickle = pickle(tensors, under)?;
    zip.entry(
        "archive/data.pkl",
        std::iter::once(Cow::Borrowed(&pickle[..])),
    )?;
    zip.entry("archive/byteorder", once(b"little"))?;
    for (key, (_, tensor)) in tensors.iter().enumerate() {
        let parts = (tensor.data.chunks(CHUNK)).map(|chunk| {
            let bytes = chunk.iter().flat_map(|value| value.to_le_bytes());
            Cow::Owned(bytes.collect())
        });
        zip.entry(&format!("archive/data/{key}"), parts)?;
    }
    for (i, (_, value)) in tensors.counters().iter().enumerate() {
        let bytes = std::iter::once(Cow::Owned(value.to_le_bytes().to_vec()));
        zip.entry(&format!("archive/data/{}", tensors.len() + i), bytes)?;
    }
    zip.entry("archive/version", once(b"3\n"))?;
    zip.finish()
}

/// The object: each tensor a call of `torch._utils._rebuild_tensor_v2` on its storage, which is
/// named by a persistent id.
fn pickle(tensors: &Tensors, under: Option<&str>) -> io::Result<Vec<u8>> {
    let mut out = b"\x80\x02".to_vec();
    if let Some(key) = under {
        out.push(b'}');
        text(&mut out, key)?;
    }
    ordered_dict(&mut out);
    out.push(b'(');
    let floats = (tensors.iter()).map(|(name, tensor)| (name, "FloatStorage", &tensor.shape[..]));
    let counters = (tensors.counters().iter()).map(|(name, _)| (&name[..], "LongStorage", &[][..]));
    for (key, (name, storage, shape)) in floats.chain(counters).enumerate() {
        text(&mut out, name)?;
        global(&mut out, "torch._utils", "_rebuild_tensor_v2");
        out.push(b'(');
        // The storage: ("storage", torch.FloatStorage, key, "cpu", elements).
        out.push(b'(');
        text(&mut out, "storage")?;
        global(&mut out, "torch", storage);
        text(&mut out, &key.to_string())?;
        text(&mut out, "cpu")?;
        integer(&mut out, shape.iter().product());
        out.extend(b"tQ");
        // Offset, shape, strides, requires_grad, backward hooks.
        integer(&mut out, 0);
        tuple(&mut out, shape);
        tuple(&mut out, &strides(shape));
        out.push(b'\x89');
        ordered_dict(&mut out);
        out.extend(b"tR");
    }
    out.push(b'u');
    if under.is_some() {
        out.push(b's');
    }
    out.push(b'.');
    Ok(out)
}

/// An empty `collections.OrderedDict`.
fn ordered_dict(out: &mut Vec<u8>) {
    global(out, "collections", "OrderedDict");
    out.extend(b")R");
}

/// Elements between neighbours along each index of a contiguous tensor.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").as_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    out.push(b'X');
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn integer(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J');
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            // Eight bytes of two's complement and a zero, so that it is positive.
            out.extend(b"\x8a\x09");
            out.extend((value as u64).to_le_bytes());
            out.push(0);
        }
    }
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    for &value in values {
        integer(out, value);
    }
    out.push(b't');
}
