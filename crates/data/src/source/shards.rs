//! WebDataset's tar shards.
//!
//! Source: <https://github.com/webdataset/webdataset>. Files of one sample follow each other and
//! share a key, the name up to the first dot of its last part: `0001.jpg`, `0001.cls`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file::{SharedFile, check_encoded, printable};
use super::folder::formats_by_name;
use super::labels::Labels;
use super::search::{is_picture, name_of};
use super::tar::{Member, Walk};
use super::{ContentHash, Description, Error, Picture, PictureError, Source};
use crate::decode::decode;

/// The largest label file that is read, in bytes.
const MAX_LABEL: u64 = 1 << 20;

/// Pictures in tar files, read where they lie; nothing is unpacked.
///
/// A row is a sample: consecutive members with one key, of which one is a picture by its ending.
/// Where there are several, those with further parts before the ending (`0001.mask.png`) give way
/// to those without (`0001.jpg`), and of these the first counts. A sample's label is the content of
/// its `.cls`, or `label`, `cls` or `class` in its `.json`; see `Labels` for what labels are.
/// Rows are in the order of the shards and of the members in them.
pub struct ShardSource {
    shards: Vec<Shard>,
    rows: Vec<Row>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    notes: Vec<String>,
}

struct Shard {
    name: String,
    file: SharedFile,
}

/// Where a picture lies.
struct Row {
    shard: u32,
    offset: u64,
    size: u64,
    name: Box<str>,
}

/// A sample as far as it has been read.
#[derive(Default)]
struct Sample {
    key: Vec<u8>,
    picture: Option<Member>,
    /// Whether the picture's ending has further parts before it.
    is_compound: bool,
    cls: Option<String>,
    json: Option<String>,
}

impl ShardSource {
    /// Walks over the headers of these tars, which lie below `root`, in this order, and reads their
    /// labels.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a tar that is damaged or cut short, [`Error::Empty`] if there is no
    /// picture in them, [`Error::Io`].
    pub fn open(root: &Path, files: &[PathBuf]) -> Result<Self, Error> {
        let mut source = ShardSource {
            shards: Vec::new(),
            rows: Vec::new(),
            labels: Vec::new(),
            classes: Vec::new(),
            notes: Vec::new(),
        };
        let mut labels = Labels::default();
        let mut left_out = 0;
        for name in files {
            let path = root.join(name);
            let file = SharedFile::open(&path).map_err(|e| Error::io(&path, e))?;
            let shard = source.shards.len() as u32;
            let mut walk = Walk::file(&path, &file)?;
            let mut sample = Sample::default();
            let mut add = |sample: Sample| {
                let Some(picture) = sample.picture else {
                    return;
                };
                labels.push(sample.cls.or(sample.json).as_deref());
                source.rows.push(Row {
                    shard,
                    offset: picture.offset,
                    size: picture.size,
                    name: printable(&picture.name).into(),
                });
            };
            while let Some(member) = walk.next()? {
                let (key, ending) = split_key(&member.name);
                if key != sample.key {
                    add(std::mem::take(&mut sample));
                    sample.key = key.to_vec();
                }
                let ending = String::from_utf8_lossy(ending).to_lowercase();
                if is_picture(Path::new(&format!("x.{ending}"))) {
                    let is_compound = ending.contains('.');
                    // Of samples all of whose pictures are compound each is a row, since then the
                    // dots are more likely part of a name.
                    match &sample.picture {
                        Some(_) if is_compound && sample.is_compound => {
                            let key = sample.key.clone();
                            add(std::mem::take(&mut sample));
                            sample.key = key;
                        }
                        Some(_) if is_compound || !sample.is_compound => {
                            left_out += 1;
                            continue;
                        }
                        Some(_) => left_out += 1,
                        None => {}
                    }
                    sample.is_compound = is_compound;
                    sample.picture = Some(member);
                } else if ending == "cls" && member.size <= MAX_LABEL {
                    sample.cls = label_of_text(&walk.content(&member)?);
                } else if ending == "json" && member.size <= MAX_LABEL {
                    sample.json = label_of_json(&walk.content(&member)?);
                }
            }
            add(sample);
            source.shards.push(Shard {
                name: name_of(name),
                file,
            });
        }
        if source.rows.is_empty() {
            let path = match files {
                [one] => root.join(one),
                _ => root.to_path_buf(),
            };
            return Err(Error::Empty {
                path,
                hint: "; a tar of pictures has members such as 0001.jpg, and 0001.cls with its \
                       label"
                    .into(),
            });
        }
        if left_out > 0 {
            source.notes.push(format!(
                "{left_out} pictures in the tars are further ones of a sample that has one already, \
                 and are left out"
            ));
        }
        (source.labels, source.classes) = labels.finish();
        Ok(source)
    }

    fn read(&self, row: usize) -> Result<Vec<u8>, PictureError> {
        let row = &self.rows[row];
        check_encoded(row.size)?;
        let file = &self.shards[row.shard as usize].file;
        file.read(row.offset, row.size)
            .map_err(|error| PictureError::new(format!("the tar can't be read there: {error}")))
    }
}

/// A member's key, and its ending without the dot.
fn split_key(name: &[u8]) -> (&[u8], &[u8]) {
    let last = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    match name[last..].iter().position(|&b| b == b'.') {
        Some(dot) => (&name[..last + dot], &name[last + dot + 1..]),
        None => (name, b""),
    }
}

fn label_of_text(content: &[u8]) -> Option<String> {
    let text = printable(content.trim_ascii());
    Some(text).filter(|text| !text.is_empty())
}

fn label_of_json(content: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(content).ok()?;
    ["label", "cls", "class"]
        .iter()
        .find_map(|key| match value.get(key)? {
            Value::String(text) => label_of_text(text.as_bytes()),
            Value::Number(number) => number.is_i64().then(|| number.to_string()),
            _ => None,
        })
}

impl Source for ShardSource {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn name(&self, row: usize) -> String {
        let row = &self.rows[row];
        format!("{}/{}", self.shards[row.shard as usize].name, row.name)
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
        let unnamed = self.labels.iter().flatten().max();
        Description {
            kind: "tar shards".into(),
            images: self.len(),
            classes: (self.classes.len()).max(unnamed.map_or(0, |m| *m as usize + 1)),
            labelled: self.labels.iter().flatten().count(),
            formats: formats_by_name(self.rows.iter().map(|row| Path::new(&*row.name))),
            bytes: Some(self.rows.iter().map(|row| row.size).sum()),
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
