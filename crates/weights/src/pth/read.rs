//! Reads a `.pth` file: its object as a graph of values, and where its storages lie.
//!
//! Source: `torch.serialization` (`_load` for the zip format of PyTorch 1.6 and later,
//! `_legacy_load` for the format before it).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::zip::{self, Failure};
use crate::error::Error;
use crate::pickle::{self, Dtype, Ended, Graph, Limits, Node, Value};

/// The first object of a file of the old format: 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The second.
const PROTOCOL: i64 = 1001;

/// The largest pickle that is read. Names, shapes and settings take some hundred kilobytes.
const MAX_PICKLE: u64 = 64 << 20;

/// Where a storage lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of its first byte.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

/// An object and its storages, by key.
pub(crate) type Object = (Graph, HashMap<String, Place>);

/// Reads a file of the zip format.
pub(crate) fn archive(path: &Path, file: &mut File, length: u64) -> Result<Object, Error> {
    let entries = zip::entries(file, length).map_err(|failure| match failure {
        Failure::Io(error) => Error::io(path, error),
        Failure::Bad(what) => Error::broken(path, what),
    })?;
    // NAME/data.pkl; NAME is the file's name when it was saved.
    let mut names: Vec<&String> = entries.keys().collect();
    names.sort();
    let find = |ending: &str| {
        let mut names = names.iter();
        names.find_map(|name| name.strip_suffix(ending).filter(|n| !n.contains('/')))
    };
    if find("/constants.pkl").is_some() {
        return Err(Error::format(
            path,
            "a TorchScript program, which isn't run here; save its weights in Python with \
             torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        ));
    }
    let Some(folder) = find("/data.pkl") else {
        return Err(Error::format(
            path,
            "a zip archive, but not one of PyTorch's (there is no data.pkl in it)",
        ));
    };
    if let Some(entry) = entries.get(&format!("{folder}/byteorder")) {
        let bytes = bytes(path, file, entry.offset, entry.size.min(16))?;
        if bytes != b"little" {
            return Err(Error::format(path, BIG_ENDIAN));
        }
    }
    let entry = entries[&format!("{folder}/data.pkl")];
    if entry.size > MAX_PICKLE {
        return Err(Error::broken(path, TOO_LARGE));
    }
    let text = bytes(path, file, entry.offset, entry.size)?;
    let (graph, _) = parse(path, &text)?;
    let data = format!("{folder}/data/");
    let places = entries.iter().filter_map(|(name, entry)| {
        let key = name.strip_prefix(&data)?.to_string();
        let place = Place {
            offset: entry.offset,
            size: entry.size,
        };
        Some((key, place))
    });
    Ok((graph, places.collect()))
}

const BIG_ENDIAN: &str =
    "written on a big-endian machine, which isn't read; load and save it again in Python";

const TOO_LARGE: &str = "its object without the numbers of its tensors is over 64 MiB; save the \
                         state_dict alone in Python";

const SHORT: &str = "it is cut short; copy or download it again";

/// Reads a file of the old format: five pickles, then the storages one after the other.
pub(crate) fn legacy(path: &Path, file: &mut File, length: u64) -> Result<Object, Error> {
    let head = bytes(path, file, 0, length.min(MAX_PICKLE))?;
    let mut at = 0;
    let mut next = || -> Result<Graph, Error> {
        let (graph, size) = parse(path, &head[at..]).map_err(|error| match error {
            Error::Broken { what, .. } if what == SHORT && length > MAX_PICKLE => {
                Error::broken(path, TOO_LARGE)
            }
            other => other,
        })?;
        at += size;
        Ok(graph)
    };
    let magic = next()?;
    if !magic.value().is_whole(&MAGIC) {
        return Err(Error::format(
            path,
            "a pickle, but not one of PyTorch's (its first object isn't PyTorch's magic number)",
        ));
    }
    let protocol = next()?.value().integer();
    if protocol != Some(PROTOCOL) {
        return Err(Error::format(
            path,
            "of a version of PyTorch's format that isn't known (1001 is)",
        ));
    }
    let little = next()?
        .value()
        .get("little_endian")
        .and_then(Value::integer);
    if little == Some(0) {
        return Err(Error::format(path, BIG_ENDIAN));
    }
    let object = next()?;
    let keys = next()?;
    let keys = keys.value().list().unwrap_or_default();

    let kinds = kinds(&object);
    let mut places = HashMap::new();
    let mut offset = at as u64;
    for key in keys {
        let key = (key.text().map(String::from))
            .or_else(|| key.integer().map(|key| key.to_string()))
            .ok_or_else(|| Error::broken(path, "a storage without a key"))?;
        // Number of elements, then the elements.
        let mut count = [0; 8];
        if offset + 8 > length {
            return Err(Error::broken(path, SHORT));
        }
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut count))
            .map_err(|error| Error::io(path, error))?;
        let Some(&dtype) = kinds.get(key.as_str()) else {
            return Err(Error::broken(
                path,
                format!("its storage {key} belongs to no tensor, so its length isn't known"),
            ));
        };
        let size = u64::from_le_bytes(count).checked_mul(dtype.size() as u64);
        let end = size.and_then(|size| size.checked_add(offset + 8));
        let (Some(size), Some(end)) = (size, end.filter(|&end| end <= length)) else {
            return Err(Error::broken(path, SHORT));
        };
        let place = Place {
            offset: offset + 8,
            size,
        };
        places.insert(key, place);
        offset = end;
    }
    Ok((object, places))
}

/// The type of each storage that the object names.
fn kinds(graph: &Graph) -> HashMap<&str, Dtype> {
    (graph.nodes.iter())
        .filter_map(|node| match node {
            Node::Storage(storage) => Some((storage.key.as_str(), storage.dtype)),
            _ => None,
        })
        .collect()
}

fn parse(path: &Path, text: &[u8]) -> Result<(Graph, usize), Error> {
    pickle::parse(text, Limits::default()).map_err(|ended| match ended {
        Ended::Short => Error::broken(path, SHORT),
        Ended::Bad(what) => Error::broken(path, what),
    })
}

fn bytes(path: &Path, file: &mut File, offset: u64, size: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| Error::io(path, error))?;
    Ok(bytes)
}
