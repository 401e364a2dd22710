//! Zip archives as PyTorch writes them: every entry stored, not compressed.
//!
//! Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; PyTorch's `inline_container.cc`, which
//! begins the bytes of each entry at a multiple of 64.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Where the bytes of an entry begin: a multiple of this.
const ALIGNMENT: u64 = 64;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

/// The extra field of sizes beyond 32 bits.
const LARGE: u16 = 0x0001;

/// The largest directory that is read: that of some hundred thousand entries.
const MAX_DIRECTORY: u64 = 64 << 20;

/// The extra field that PyTorch pads with: "FB".
const PADDING: u16 = 0x4246;

/// "Version needed to extract" 1.0: stored entries.
const VERSION: u16 = 10;

/// 1 January 1980, the earliest date there is: equal contents give equal bytes.
const DATE: u16 = (1 << 5) | 1;

/// An archive in the making.
pub struct Writer<W> {
    out: W,
    at: u64,
    directory: Vec<u8>,
    entries: u16,
}

impl<W: Write> Writer<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Writer {
            out,
            at: 0,
            directory: Vec::new(),
            entries: 0,
        }
    }

    /// Adds an entry whose bytes are `parts` one after the other. They are gone through twice:
    /// the checksum comes first.
    ///
    /// # Errors
    /// If it can't be written; if the archive would pass 4 GiB or 65,535 entries.
    pub fn entry<'a, I>(&mut self, name: &str, parts: I) -> io::Result<()>
    where
        I: Iterator<Item = std::borrow::Cow<'a, [u8]>> + Clone,
    {
        let mut crc = crc32fast::Hasher::new();
        let mut size = 0;
        for part in parts.clone() {
            crc.update(&part);
            size += part.len() as u64;
        }
        let crc = crc.finalize();
        // Where the bytes would begin with an extra field that is only its own header.
        let unpadded = self.at + 30 + name.len() as u64 + 4;
        let padding = (unpadded.next_multiple_of(ALIGNMENT) - unpadded) as u16;
        let too_large =
            || io::Error::other("it would pass the 4 GiB or 65,535 entries of a plain zip archive");
        let offset = u32::try_from(self.at).map_err(|_| too_large())?;
        let size = u32::try_from(size).map_err(|_| too_large())?;
        let length = u16::try_from(name.len()).map_err(io::Error::other)?;
        self.entries = self.entries.checked_add(1).ok_or_else(too_large)?;

        // What the local header and the central directory both say, 26 bytes.
        let mut common = Vec::new();
        for half in [VERSION, 0, 0, 0, DATE] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc, size, size] {
            common.extend(word.to_le_bytes());
        }
        common.extend(length.to_le_bytes());

        let mut header = LOCAL.to_le_bytes().to_vec();
        header.extend(&common);
        header.extend((padding + 4).to_le_bytes());
        header.extend(name.as_bytes());
        header.extend(PADDING.to_le_bytes());
        header.extend(padding.to_le_bytes());
        header.resize(header.len() + usize::from(padding), b'Z');
        self.out.write_all(&header)?;
        for part in parts {
            self.out.write_all(&part)?;
        }
        self.at += header.len() as u64 + u64::from(size);

        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(VERSION.to_le_bytes());
        self.directory.extend(&common);
        // No extra field, no comment, disk 0, no attributes.
        self.directory.extend([0; 12]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        Ok(())
    }

    /// Writes the directory and hands the output back, flushed.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn finish(mut self) -> io::Result<W> {
        let start = u32::try_from(self.at).map_err(io::Error::other)?;
        let size = u32::try_from(self.directory.len()).map_err(io::Error::other)?;
        let mut end = END.to_le_bytes().to_vec();
        end.extend([0; 4]);
        end.extend(self.entries.to_le_bytes());
        end.extend(self.entries.to_le_bytes());
        end.extend(size.to_le_bytes());
        end.extend(start.to_le_bytes());
        end.extend([0; 2]);
        self.out.write_all(&self.directory)?;
        self.out.write_all(&end)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Where the bytes of an entry lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub size: u64,
}

/// Why an archive can't be read.
#[derive(Debug)]
pub enum Failure {
    /// The file can't be read.
    Io(io::Error),
    /// What is wrong with the archive.
    Bad(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// The entries of the archive in `file`, `length` bytes long, by name. Every entry lies within the
/// file, and none is compressed: PyTorch compresses none, and so there is nothing to blow up.
///
/// # Errors
/// If it is no whole archive, or one of several files, or has a compressed or encrypted entry.
pub fn entries(file: &mut File, length: u64) -> Result<HashMap<String, Entry>, Failure> {
    let bad = |what: &str| Failure::Bad(what.to_string());
    let (start, size) = directory(file, length)?;
    if size > MAX_DIRECTORY {
        return Err(bad("its zip directory is over 64 MiB"));
    }
    if start.checked_add(size).is_none_or(|end| end > length) {
        return Err(bad("its zip directory lies beyond its end"));
    }
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    let mut entries = HashMap::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let short = || bad("its zip directory is cut short");
        let head = rest.get(..46).ok_or_else(short)?;
        if word(head, 0) != CENTRAL {
            return Err(bad("its zip directory is damaged"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(half(head, at)));
        let tail = rest
            .get(46..46 + name + extra + comment)
            .ok_or_else(short)?;
        rest = &rest[46 + tail.len()..];
        let (name, tail) = tail.split_at(name);
        let name = String::from_utf8_lossy(name).into_owned();
        let mut numbers = [word(head, 24), word(head, 20), word(head, 42)].map(u64::from);
        large(&tail[..extra], &mut numbers).ok_or_else(short)?;
        let [size, packed, at] = numbers;
        if half(head, 8) & 1 != 0 {
            return Err(Failure::Bad(format!("its entry {name} is encrypted")));
        }
        if half(head, 10) != 0 || size != packed {
            return Err(Failure::Bad(format!(
                "its entry {name} is compressed, which PyTorch never does; unpack it and pack it \
                 again with zip -0"
            )));
        }
        let offset = data_start(file, at, length)?;
        let end = offset.and_then(|offset| offset.checked_add(size));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= length => {
                entries.insert(name, Entry { offset, size });
            }
            _ => {
                return Err(Failure::Bad(format!(
                    "its entry {name} lies beyond its end; the file is cut short or damaged"
                )));
            }
        }
    }
    Ok(entries)
}

/// Where the directory lies, and its size.
fn directory(file: &mut File, length: u64) -> Result<(u64, u64), Failure> {
    // The end record is followed by a comment of at most 65,535 bytes.
    let tail = length.min(22 + 65_535 + 20);
    let mut bytes = vec![0; tail as usize];
    file.seek(SeekFrom::Start(length - tail))?;
    file.read_exact(&mut bytes)?;
    let signature = END.to_le_bytes();
    let found = (0..(bytes.len() + 1).saturating_sub(22))
        .rev()
        .find(|&at| bytes[at..at + 4] == signature);
    let Some(at) = found else {
        return Err(Failure::Bad(
            "its end is missing: the zip archive is cut short; copy or download it again".into(),
        ));
    };
    let end = &bytes[at..at + 22];
    let (size, start) = (word(end, 12), word(end, 16));
    if size != u32::MAX && start != u32::MAX && half(end, 10) != u16::MAX {
        return Ok((start.into(), size.into()));
    }
    // The locator before the end record says where the record with 64 bits is.
    let locator = at.checked_sub(20).map(|at| &bytes[at..at + 20]);
    let bad = || Failure::Bad("its zip directory is damaged".into());
    let locator = locator
        .filter(|l| word(l, 0) == LOCATOR64)
        .ok_or_else(bad)?;
    let record = long(locator, 8);
    if record.checked_add(56).is_none_or(|end| end > length) {
        return Err(bad());
    }
    let mut bytes = [0; 56];
    file.seek(SeekFrom::Start(record))?;
    file.read_exact(&mut bytes)?;
    if word(&bytes, 0) != END64 {
        return Err(bad());
    }
    Ok((long(&bytes, 48), long(&bytes, 40)))
}

/// Where the bytes of the entry whose local header stands at `at` begin.
fn data_start(file: &mut File, at: u64, length: u64) -> Result<Option<u64>, Failure> {
    if at.checked_add(30).is_none_or(|end| end > length) {
        return Ok(None);
    }
    let mut header = [0; 30];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut header)?;
    if word(&header, 0) != LOCAL {
        return Ok(None);
    }
    let names = u64::from(half(&header, 26)) + u64::from(half(&header, 28));
    Ok(at.checked_add(30 + names))
}

/// Replaces those of `numbers` (size, packed size, offset) that stand in the extra field of 64-bit
/// numbers because they don't fit in 32; `None` where one is missing there.
fn large(mut extra: &[u8], numbers: &mut [u64; 3]) -> Option<()> {
    let mut wide: &[u8] = &[];
    while extra.len() >= 4 {
        let (id, size) = (half(extra, 0), usize::from(half(extra, 2)));
        let data = extra.get(4..4 + size)?;
        if id == LARGE {
            wide = data;
        }
        extra = &extra[4 + size..];
    }
    for number in numbers.iter_mut().filter(|n| **n == u64::from(u32::MAX)) {
        let value = wide.get(..8)?;
        *number = long(value, 0);
        wide = &wide[8..];
    }
    Some(())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
