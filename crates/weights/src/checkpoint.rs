//! A file of weights, opened: what is in it, and its tensors one at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::Tensor;
use crate::error::Error;
use crate::pickle::{Dtype, Graph, Id, Node, TensorRef, Value};
use crate::pth::{self, Place};
use crate::safetensors;

/// The most tensors that are listed.
const MAX_TENSORS: usize = 200_000;

/// Bytes that the names of all tensors may take.
const MAX_NAMES: usize = 64 << 20;

/// How deep dicts and modules may lie in each other.
const MAX_DEPTH: usize = 64;

/// Values that are looked at to list the tensors. A small pickle can name the same dict in many
/// places, and those places in many others.
const MAX_VISITS: usize = 4_000_000;

/// Elements that a tensor may have beyond those of its storage (one number shown many times).
const MAX_REPEATED: u64 = 1 << 20;

/// Bytes read at once.
const BUFFER: usize = 1 << 16;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PyTorch's zip format (1.6 and later).
    Pth,
    /// PyTorch's format before that.
    LegacyPth,
    /// safetensors.
    Safetensors,
}

/// A file of weights. Tensors are read when they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    format: Format,
    graph: Graph,
    places: HashMap<String, Place>,
    texts: HashMap<String, String>,
    /// Every tensor, and every object that wasn't built, by its dotted name in the file's order.
    names: Vec<(String, Id)>,
    index: HashMap<String, usize>,
}

/// Opens a file of weights. What it is, is found by its first bytes.
///
/// # Errors
/// One line that names the file: it can't be read, is of no known format, is cut short or damaged,
/// or calls something.
pub fn read(path: &Path) -> Result<Checkpoint, Error> {
    let io = |error| Error::io(path, error);
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut head = [0; 262];
    let known = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .min(head.len());
    file.read_exact(&mut head[..known]).map_err(io)?;
    let head = &head[..known];
    let mut texts = HashMap::new();
    // A safetensors file can begin with a pickle's 0x80: its first eight bytes are the length of
    // the header, which is JSON and lies within the file. A pickle's would be far too large for it.
    let json = head.get(8) == Some(&b'{')
        && (head.first_chunk()).is_some_and(|bytes| u64::from_le_bytes(*bytes) <= length);
    let (format, (graph, places)) = match head {
        [] => return Err(Error::format(path, "an empty file")),
        [b'P', b'K', 3, 4, ..] => (Format::Pth, pth::archive(path, &mut file, length)?),
        [0x80, ..] if !json => (Format::LegacyPth, pth::legacy(path, &mut file, length)?),
        _ if head.get(257..262) == Some(b"ustar") => {
            return Err(Error::format(
                path,
                "a tar archive; if PyTorch before 0.1.10 wrote it, load and save it again with a \
                 later one",
            ));
        }
        _ if head.get(8) == Some(&b'{') => {
            let (graph, places, found) = safetensors::open(path, &mut file, length)?;
            texts = found;
            (Format::Safetensors, (graph, places))
        }
        _ => {
            return Err(Error::format(
                path,
                "not a file of weights (.pth by PyTorch and .safetensors are read, and told by \
                 their first bytes)",
            ));
        }
    };
    let (names, index) = names(&graph).map_err(|what| Error::broken(path, what))?;
    let checkpoint = Checkpoint {
        path: path.to_path_buf(),
        file,
        format,
        graph,
        places,
        texts,
        names,
        index,
    };
    // A file that is cut short or lies about its sizes is found out before anything is used.
    for (name, tensor) in checkpoint.iter() {
        checkpoint.place(name, tensor)?;
    }
    Ok(checkpoint)
}

impl Checkpoint {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The object that was saved: mostly a dict. Of a safetensors file, a dict of its tensors.
    pub fn root(&self) -> Value<'_> {
        self.graph.value()
    }

    /// A text of a safetensors file's metadata.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Names and shapes of all tensors, in the file's order. Names of what lies in dicts are
    /// joined by dots: `state_dict.backbone.conv1.weight`. A module that was saved whole lends its
    /// parameters and buffers the names that its `state_dict` would have.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.iter().map(|(name, tensor)| (name, &tensor.shape[..]))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.named(name)?.tensor().map(|tensor| &tensor.shape[..])
    }

    /// The class of an object that stands under this name and wasn't built, or the function whose
    /// result it would be. An empty name is the file's object itself.
    pub fn opaque(&self, name: &str) -> Option<&str> {
        let value = if name.is_empty() {
            self.root()
        } else {
            self.named(name)?
        };
        value.class()
    }

    fn named(&self, name: &str) -> Option<Value<'_>> {
        let (_, id) = self.names[*self.index.get(name)?];
        Some(self.graph.at(id))
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &TensorRef)> {
        self.names.iter().filter_map(|(name, id)| {
            let tensor = self.graph.at(*id).tensor()?;
            Some((name.as_str(), tensor))
        })
    }

    /// Reads a tensor, whatever its type, as f32.
    ///
    /// # Errors
    /// If there is none of this name, or it can't be read.
    pub fn load(&self, name: &str) -> Result<Tensor, Error> {
        match self.named(name).and_then(Value::tensor) {
            Some(tensor) => self.load_tensor(name, tensor),
            None => Err(Error::mismatch(&self.path, format!("it has no {name}"))),
        }
    }

    /// Reads a tensor found in [`root`](Checkpoint::root); `name` is for messages.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn load_tensor(&self, name: &str, tensor: &TensorRef) -> Result<Tensor, Error> {
        let span = self.place(name, tensor)?;
        let dtype = tensor.storage.dtype;
        let io = |error| Error::io(&self.path, error);
        let mut reader = &self.file;
        reader.seek(SeekFrom::Start(span.offset)).map_err(io)?;
        let count = (span.size / dtype.size() as u64) as usize;
        let mut values = Vec::with_capacity(count);
        let mut left = span.size;
        let mut bytes = vec![0; BUFFER];
        while left > 0 {
            let part = left.min(BUFFER as u64) as usize;
            reader.read_exact(&mut bytes[..part]).map_err(io)?;
            numbers(dtype, &bytes[..part], &mut values);
            left -= part as u64;
        }
        let shape: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
        let strides: Vec<usize> = tensor.strides.iter().map(|&n| n as usize).collect();
        if !contiguous(&shape, &strides) {
            values = gather(&values, &shape, &strides);
        }
        // A contiguous tensor's span is its elements, in order.
        Ok(Tensor {
            shape,
            data: values,
        })
    }

    /// Where the elements of a tensor lie, from the first to the last; checks everything that
    /// [`Checkpoint::load_tensor`] relies on.
    fn place(&self, name: &str, tensor: &TensorRef) -> Result<Place, Error> {
        let bad = |what: String| Error::broken(&self.path, format!("{name}: {what}"));
        let storage = &tensor.storage;
        let size = storage.dtype.size() as u64;
        let missing = || bad(format!("its storage {} is missing", storage.key));
        let place = self.places.get(&storage.key).ok_or_else(missing)?;
        let beyond = || {
            bad(format!(
                "it asks for numbers that storage {} ({} bytes) doesn't have; the file is damaged",
                storage.key, place.size
            ))
        };
        let start = (storage.skip.checked_add(tensor.offset)).ok_or_else(beyond)?;
        let mut last = 0_u64;
        let mut count = 1_u64;
        for (&n, &stride) in tensor.shape.iter().zip(&tensor.strides) {
            count = count.checked_mul(n).ok_or_else(beyond)?;
            let reach = n.saturating_sub(1).checked_mul(stride);
            last = reach.and_then(|r| last.checked_add(r)).ok_or_else(beyond)?;
        }
        let span = if count == 0 {
            0
        } else {
            last.checked_add(1).ok_or_else(beyond)?
        };
        let end = start.checked_add(span).ok_or_else(beyond)?;
        let declared = storage.skip.checked_add(storage.len).ok_or_else(beyond)?;
        let bytes = end.max(declared).checked_mul(size).ok_or_else(beyond)?;
        if end > declared || bytes > place.size {
            return Err(beyond());
        }
        if count > span.max(MAX_REPEATED) {
            return Err(bad(format!("{count} elements made of {span} numbers")));
        }
        Ok(Place {
            offset: place.offset + start * size,
            size: span * size,
        })
    }

    /// An error about this file's weights.
    pub(crate) fn mismatch(&self, what: impl Into<String>) -> Error {
        Error::mismatch(&self.path, what)
    }
}

/// Whether elements follow each other in order. Sizes of 1 may have any stride.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        if n != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected *= n;
    }
    true
}

/// The elements in order of a tensor whose first is `values[0]`.
fn gather(values: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        out.push(values[at]);
        for i in (0..shape.len()).rev() {
            index[i] += 1;
            at += strides[i];
            if index[i] < shape[i] {
                break;
            }
            at -= strides[i] * shape[i];
            index[i] = 0;
        }
    }
    out
}

/// Adds the numbers that `bytes` hold.
fn numbers(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, number: impl Fn([u8; N]) -> f32) {
        let (chunks, _) = bytes.as_chunks::<N>();
        out.extend(chunks.iter().map(|&chunk| number(chunk)));
    }
    match dtype {
        Dtype::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::Bf16 => each(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
        Dtype::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        Dtype::I16 => each(bytes, out, |b| i16::from_le_bytes(b).into()),
        Dtype::I8 => each(bytes, out, |b: [u8; 1]| (b[0] as i8).into()),
        Dtype::U8 | Dtype::Bool => each(bytes, out, |b: [u8; 1]| b[0].into()),
    }
}

/// Names and positions.
type Names = (Vec<(String, Id)>, HashMap<String, usize>);

/// Names of all tensors in dicts and modules, and of what stands in their place.
fn names(graph: &Graph) -> Result<Names, String> {
    let mut walk = Walk::default();
    walk.visit(graph.value(), &mut String::new(), 0)?;
    Ok((walk.found, walk.index))
}

#[derive(Default)]
struct Walk {
    found: Vec<(String, Id)>,
    index: HashMap<String, usize>,
    bytes: usize,
    visits: usize,
}

impl Walk {
    fn visit(&mut self, value: Value<'_>, name: &mut String, depth: usize) -> Result<(), String> {
        self.visits += 1;
        if depth > MAX_DEPTH || self.visits > MAX_VISITS {
            return Err(format!(
                "its dicts lie in each other more than {MAX_DEPTH} deep or {MAX_VISITS} times"
            ));
        }
        match value.node() {
            Node::Dict(_) => {
                for (key, value) in value.dict().unwrap_or_default() {
                    match (key.text(), key.integer()) {
                        (Some(key), _) => self.below(key, value, name, depth)?,
                        (None, Some(key)) => self.below(&key.to_string(), value, name, depth)?,
                        (None, None) => {}
                    }
                }
            }
            Node::Object(_) if value.is_module() => {
                for part in ["_parameters", "_buffers", "_modules"] {
                    if let Some(part) = value.attribute(part) {
                        self.visit(part, name, depth + 1)?;
                    }
                }
            }
            Node::Tensor(_) | Node::Object(_) => self.add(name, value.id())?,
            _ => {}
        }
        Ok(())
    }

    /// The first of a name stays, as the walk goes in the file's order.
    fn add(&mut self, name: &str, id: Id) -> Result<(), String> {
        if self.index.contains_key(name) {
            return Ok(());
        }
        self.bytes += name.len();
        if self.found.len() >= MAX_TENSORS || self.bytes > MAX_NAMES {
            return Err(format!("more than {MAX_TENSORS} tensors"));
        }
        self.index.insert(name.to_string(), self.found.len());
        self.found.push((name.to_string(), id));
        Ok(())
    }

    fn below(
        &mut self,
        key: &str,
        value: Value<'_>,
        name: &mut String,
        depth: usize,
    ) -> Result<(), String> {
        let length = name.len();
        if length + key.len() > 4096 {
            return Err("names of over 4,096 bytes".into());
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(key);
        let visited = self.visit(value, name, depth + 1);
        name.truncate(length);
        visited
    }
}
