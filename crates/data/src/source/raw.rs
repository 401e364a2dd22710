//! Plain pixels in records of one size: what CIFAR, STL-10 and IDX files have in common.

use super::file::SharedFile;
use super::{ContentHash, Description, Picture, PictureError, Source};

/// Where the bytes are.
pub(super) enum Bytes {
    File(SharedFile),
    /// What was unpacked.
    Memory(Vec<u8>),
}

impl Bytes {
    fn read(&self, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
        match self {
            Bytes::File(file) => file.read(start, length as u64),
            Bytes::Memory(bytes) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX);
                let end = start.saturating_add(length);
                let found = bytes.get(start..end);
                Ok(found.ok_or(std::io::ErrorKind::UnexpectedEof)?.to_vec())
            }
        }
    }
}

/// One file of records.
pub(super) struct Records {
    /// Names its pictures, as `NAME#INDEX`.
    pub name: String,
    pub bytes: Bytes,
    /// Where the first picture's pixels begin.
    pub first: u64,
    /// From one picture to the next.
    pub stride: u64,
    /// Number of records.
    pub len: usize,
}

/// How a picture's pixels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    /// One byte a pixel, row by row.
    Grey,
    /// All of red, then green, then blue, each row by row (CIFAR).
    PlanesByRow,
    /// All of red, then green, then blue, each column by column (STL-10, written by MATLAB).
    PlanesByColumn,
}

/// What is the same for all pictures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub width: usize,
    pub height: usize,
    pub pixels: Pixels,
}

impl Shape {
    /// Bytes of a picture.
    fn bytes(self) -> usize {
        let channels = if self.pixels == Pixels::Grey { 1 } else { 3 };
        self.width * self.height * channels
    }

    /// The picture that these bytes are.
    fn picture(self, stored: &[u8]) -> Picture {
        let (width, height) = (self.width, self.height);
        let plane = width * height;
        let mut rgb = Vec::with_capacity(plane * 3);
        for y in 0..height {
            for x in 0..width {
                match self.pixels {
                    Pixels::Grey => rgb.extend([stored[y * width + x]; 3]),
                    Pixels::PlanesByRow => {
                        rgb.extend([0, 1, 2].map(|c| stored[c * plane + y * width + x]));
                    }
                    Pixels::PlanesByColumn => {
                        rgb.extend([0, 1, 2].map(|c| stored[c * plane + x * height + y]));
                    }
                }
            }
        }
        Picture { width, height, rgb }
    }
}

/// Pictures stored as plain pixels in records of one size. Their content hash is that of their RGB
/// bytes: there is nothing encoded.
pub struct RawSource {
    kind: &'static str,
    shape: Shape,
    files: Vec<Records>,
    /// First row of each file, and the number of rows at the end.
    starts: Vec<usize>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    notes: Vec<String>,
}

impl RawSource {
    /// `labels` has one for each record, in the order of the files.
    pub(super) fn new(
        kind: &'static str,
        shape: Shape,
        files: Vec<Records>,
        labels: Vec<Option<u32>>,
        classes: Vec<String>,
        notes: Vec<String>,
    ) -> Self {
        let mut starts = vec![0];
        for file in &files {
            starts.push(starts[starts.len() - 1] + file.len);
        }
        debug_assert_eq!(starts[starts.len() - 1], labels.len());
        RawSource {
            kind,
            shape,
            files,
            starts,
            labels,
            classes,
            notes,
        }
    }

    /// The file that a row is in, and its index there.
    fn place(&self, row: usize) -> (&Records, usize) {
        let file = self.starts.partition_point(|&start| start <= row) - 1;
        (&self.files[file], row - self.starts[file])
    }
}

impl Source for RawSource {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn name(&self, row: usize) -> String {
        let (file, index) = self.place(row);
        format!("{}#{index}", file.name)
    }

    fn label(&self, row: usize) -> Option<u32> {
        self.labels[row]
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        let (file, index) = self.place(row);
        let start = file.first + file.stride * index as u64;
        let stored = file.bytes.read(start, self.shape.bytes());
        let stored = stored
            .map_err(|error| PictureError::new(format!("the file can't be read there: {error}")))?;
        Ok(self.shape.picture(&stored))
    }

    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        Ok(ContentHash::of(&self.picture(row)?.rgb))
    }

    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        let picture = self.picture(row)?;
        let hash = ContentHash::of(&picture.rgb);
        Ok((picture, hash))
    }

    fn describe(&self) -> Description {
        let unnamed = self.labels.iter().flatten().max();
        let bytes = self.len() as u64 * self.shape.bytes() as u64;
        Description {
            kind: self.kind.into(),
            images: self.len(),
            classes: (self.classes.len()).max(unnamed.map_or(0, |m| *m as usize + 1)),
            labelled: self.labels.iter().flatten().count(),
            formats: vec![("plain pixels".into(), self.len())],
            bytes: Some(bytes),
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Class names, one a line, from a file that may lie beside the pictures; none where it doesn't, or
/// holds something else.
pub(super) fn class_names(path: &std::path::Path, classes: usize) -> Vec<String> {
    let Ok(file) = SharedFile::open(path) else {
        return Vec::new();
    };
    let text = file.read(0, file.length().min(1 << 16)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<String> = names
        .map(|n| super::file::printable(n.as_bytes()))
        .collect();
    if names.len() == classes {
        names
    } else {
        Vec::new()
    }
}
