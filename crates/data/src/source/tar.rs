//! A walk over the members of a tar: their names, and where their content lies.
//!
//! Sources: POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar's
//! manual, "Basic Tar Format". A header is 512 bytes, and so is the unit that contents are padded to.
//!
//! Nothing is ever written where a member's name says: names are only names. Of a header nothing is
//! believed: sizes are compared with the file, and extended headers are read up to a limit.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::Error;
use super::file::{SharedFile, printable};

const BLOCK: u64 = 512;

/// The longest extended header and the longest name that are read, in bytes.
const MAX_EXTENDED: u64 = 1 << 20;
const MAX_NAME: usize = 64 << 10;

/// The largest content that [`Walk::content`] reads at once, in bytes.
const MAX_CONTENT: u64 = 1 << 30;

/// A regular file in a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// As stored, without a leading `./`.
    pub name: Vec<u8>,
    /// Where its content begins.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

/// What a walk reads from.
pub(super) trait Forward: Read {
    /// Passes over `bytes`; beyond the end is not an error here.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl Forward for BufReader<File> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
    }
}

/// A stream that can't be sought in.
pub(super) struct Stream<R>(R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Forward for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut self.0.by_ref().take(bytes), &mut io::sink()).map(|_| ())
    }
}

/// The walk.
pub(super) struct Walk<'a, R> {
    path: &'a Path,
    reader: R,
    /// Where the reader is, and where the next header is.
    at: u64,
    next: u64,
    /// The tar's length, where it is known.
    length: Option<u64>,
}

impl<'a> Walk<'a, BufReader<File>> {
    /// Over a file.
    pub(super) fn file(path: &'a Path, file: &SharedFile) -> Result<Self, Error> {
        let reader = file.from(0).map_err(|e| Error::io(path, e))?;
        Ok(Walk {
            path,
            // Small: most of what lies between two headers is passed over.
            reader: BufReader::with_capacity(4 << 10, reader),
            at: 0,
            next: 0,
            length: Some(file.length()),
        })
    }
}

impl<'a, R: Read> Walk<'a, Stream<R>> {
    /// Over what comes out of `reader`; `path` is named in errors.
    pub(super) fn stream(path: &'a Path, reader: R) -> Self {
        Walk {
            path,
            reader: Stream(reader),
            at: 0,
            next: 0,
            length: None,
        }
    }
}

/// What extended headers say of the next member.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<R: Forward> Walk<'_, R> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::unusable(
            self.path,
            format!("not a whole tar: {what}"),
            "write or download it again",
        )
    }

    fn damaged(&self, start: u64, what: &str) -> Error {
        self.wrong(format!("the header at byte {start} {what}"))
    }

    /// Moves the reader to `place`, which is never behind it.
    fn go(&mut self, place: u64) -> Result<(), Error> {
        let skip = place.saturating_sub(self.at);
        self.reader
            .skip(skip)
            .map_err(|e| Error::io(self.path, e))?;
        self.at += skip;
        Ok(())
    }

    /// Fills the buffer; false where the tar ends before its first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.wrong(format!("it can't be read ({error})"))),
            }
        }
        self.at += filled as u64;
        match filled {
            0 => Ok(false),
            n if n == buffer.len() => Ok(true),
            _ => Err(self.wrong(format!("it ends in the middle of byte {}'s block", self.at))),
        }
    }

    /// The next regular file; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unusable`] for damage, or a member that goes beyond the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut extended = Extended::default();
        loop {
            let start = self.next;
            self.go(start)?;
            let mut header = [0; BLOCK as usize];
            if !self.fill(&mut header)? || header == [0; BLOCK as usize] {
                return Ok(None);
            }
            if !checksum_fits(&header) {
                return Err(self.damaged(start, "is damaged"));
            }
            let kind = header[156];
            // Extended headers never describe each other.
            let is_extended = matches!(kind, b'x' | b'g' | b'L' | b'K');
            let stated = number(&header[124..136]);
            let stated = stated.ok_or_else(|| self.damaged(start, "has no valid size"))?;
            let (mut name, mut size) = (name_in(&header), stated);
            if !is_extended {
                name = extended.name.take().unwrap_or(name);
                size = extended.size.take().unwrap_or(size);
            }
            // Links, devices and folders have no content, whatever their size says.
            let stored = if (b'1'..=b'6').contains(&kind) {
                0
            } else {
                size
            };
            let offset = start + BLOCK;
            let end = (stored.checked_next_multiple_of(BLOCK)).and_then(|s| offset.checked_add(s));
            // The padding of the last member may be missing.
            let beyond = |length: u64| offset.checked_add(stored).is_none_or(|end| end > length);
            let Some(end) = end.filter(|_| !self.length.is_some_and(beyond)) else {
                return Err(self.wrong(format!(
                    "{} of {stored} bytes at byte {start} goes beyond its end",
                    shown(&name)
                )));
            };
            self.next = end;
            if is_extended {
                if stored > MAX_EXTENDED {
                    let what = format!("has {stored} bytes of extensions");
                    return Err(self.damaged(start, &what));
                }
                let mut content = vec![0; stored as usize];
                if stored > 0 && !self.fill(&mut content)? {
                    return Err(self.wrong("it ends in an extended header"));
                }
                match kind {
                    b'L' => extended.name = Some(until_nul(&content).to_vec()),
                    b'x' => read_pax(&content, &mut extended)
                        .ok_or_else(|| self.damaged(start, "has extensions that can't be read"))?,
                    // Global defaults and the names of links' targets change nothing here.
                    _ => {}
                }
                if (extended.name.as_ref()).is_some_and(|name| name.len() > MAX_NAME) {
                    return Err(self.damaged(start, "has a name of more than 64 KiB"));
                }
                continue;
            }
            let sparse = std::mem::take(&mut extended.sparse);
            let is_folder = kind == 0 && name.ends_with(b"/");
            if matches!(kind, 0 | b'0' | b'7') && !sparse && !is_folder {
                let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
                return Ok(Some(Member { name, offset, size }));
            }
        }
    }

    /// The content of the member that [`Walk::next`] has just returned.
    ///
    /// # Errors
    /// As [`Walk::next`]; also for a content above 1 GiB.
    pub(super) fn content(&mut self, member: &Member) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        if member.size > MAX_CONTENT {
            return Err(self.wrong(format!(
                "{} has {} bytes, too many",
                shown(&member.name),
                member.size
            )));
        }
        let read = self
            .reader
            .by_ref()
            .take(member.size)
            .read_to_end(&mut content);
        self.at += content.len() as u64;
        match read {
            Ok(read) if read as u64 == member.size => Ok(content),
            Ok(_) => Err(self.wrong(format!("it ends in {}", shown(&member.name)))),
            Err(error) => Err(self.wrong(format!("it can't be read ({error})"))),
        }
    }
}

/// A name for an error's line.
fn shown(name: &[u8]) -> String {
    let name = printable(name);
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name,
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

fn name_in(header: &[u8; BLOCK as usize]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    // GNU's older format, "ustar " and two spaces, has times where POSIX has the prefix.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

/// The sum of the header's bytes, its own field counted as spaces. Some old tars summed them as
/// signed.
fn checksum_fits(header: &[u8; BLOCK as usize]) -> bool {
    let Some(stated) = number(&header[148..156]) else {
        return false;
    };
    let counted = |i: usize, b: u8| if (148..156).contains(&i) { b' ' } else { b };
    let bytes = || header.iter().enumerate().map(|(i, &b)| counted(i, b));
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
    stated == unsigned || i64::try_from(stated) == Ok(signed)
}

/// Whether a file that begins like this is a tar.
pub(super) fn begins(start: &[u8]) -> bool {
    let header = start.get(..BLOCK as usize).and_then(|s| s.try_into().ok());
    header.is_some_and(|header| header != &[0; BLOCK as usize] && checksum_fits(header))
}

/// A number field: octal digits between spaces and NULs, or, with its first bit set, big-endian
/// (GNU). `None` for anything else, a negative or a larger one.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        if field[0] != 0x80 {
            return None; // negative, or above what any file has
        }
        let (high, low) = field[1..].split_at((field.len() - 1).saturating_sub(8));
        return high
            .iter()
            .all(|&b| b == 0)
            .then(|| low.iter().fold(0, |n, &b| n << 8 | u64::from(b)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Some(0);
    }
    let octal = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    octal.then(|| u64::from_str_radix(digits, 8).ok()).flatten()
}

/// Takes name, size and sparseness out of pax's records, "LENGTH KEY=VALUE\n".
fn read_pax(mut content: &[u8], extended: &mut Extended) -> Option<()> {
    let mut keys: HashMap<&[u8], &[u8]> = HashMap::new();
    while !content.is_empty() && content[0] != 0 {
        let space = content.iter().position(|&b| b == b' ')?;
        let length = std::str::from_utf8(&content[..space]).ok()?.parse().ok()?;
        let record = content.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&b| b == b'=')?;
        keys.insert(&record[..equals], &record[equals + 1..]);
        content = &content[length..];
    }
    for (key, value) in keys {
        match key {
            b"path" => extended.name = Some(value.to_vec()),
            b"size" => extended.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
            // The content is a map of holes before the rest, and the name another's.
            key if key.starts_with(b"GNU.sparse.") => extended.sparse = true,
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member as GNU tar and Python's tarfile write it.
    fn member(name: &str, kind: u8, size: &[u8; 12], content: &[u8]) -> Vec<u8> {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(size);
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn octal(size: usize) -> [u8; 12] {
        format!("{size:011o}\0").into_bytes().try_into().unwrap()
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        member(name, b'0', &octal(content.len()), content)
    }

    fn walk(tar: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tar");
        std::fs::write(&path, tar).unwrap();
        let shared = SharedFile::open(&path).unwrap();
        let mut walk = Walk::file(&path, &shared).unwrap();
        let mut found = Vec::new();
        while let Some(member) = walk.next().map_err(|e| e.to_string())? {
            let content = walk.content(&member).map_err(|e| e.to_string())?;
            let there = shared.read(member.offset, member.size).unwrap();
            assert_eq!(content, there);
            found.push((printable(&member.name), content));
        }
        // What can't be sought in gives the same.
        let mut stream = Walk::stream(&path, tar);
        for (name, content) in &found {
            let member = stream.next().unwrap().unwrap();
            assert_eq!(&printable(&member.name), name);
            assert_eq!(&stream.content(&member).unwrap(), content);
        }
        assert!(stream.next().unwrap().is_none());
        Ok(found)
    }

    #[test]
    fn members_are_found_whatever_lies_between() {
        let long = "very/long/".repeat(30) + "name.jpg";
        let pax = format!("path={long}x\n");
        let pax = format!("{} {pax}", pax.len() + 4);
        let size = |n: u64| {
            let mut field = [0; 12];
            field[0] = 0x80;
            field[4..].copy_from_slice(&n.to_be_bytes());
            field
        };
        let tar = [
            file("./a.jpg", b"A"),
            member("folder/", b'5', &octal(0), b""),
            member("link", b'2', &octal(700), b""),
            member(
                "././@LongLink",
                b'L',
                &octal(long.len() + 1),
                (long.clone() + "\0").as_bytes(),
            ),
            file("short", &[7; 513]),
            member("pax", b'x', &octal(pax.len()), pax.as_bytes()),
            file("other", b""),
            member("b", b'0', &size(3), b"BBB"),
            member("../../etc/passwd", b'0', &octal(2), b"no"),
            vec![0; 1024],
            file("after the end", b""),
        ];
        let found = walk(&tar.concat()).unwrap();
        let expected: Vec<(String, Vec<u8>)> = vec![
            ("a.jpg".into(), b"A".to_vec()),
            (long.clone(), vec![7; 513]),
            (long + "x", vec![]),
            ("b".into(), b"BBB".to_vec()),
            ("../../etc/passwd".into(), b"no".to_vec()),
        ];
        assert_eq!(found, expected);
        // Without the blocks of zeros at the end, and without the last padding.
        let bare = [file("a", b"A"), file("b", b"BB")].concat();
        assert_eq!(walk(&bare).unwrap().len(), 2);
        assert_eq!(walk(&bare[..bare.len() - 510]).unwrap().len(), 2);
    }

    #[test]
    fn hostile_headers_are_errors() {
        let mut negative = [0xff; 12];
        negative[11] = 0xfe;
        let mut large = [0; 12];
        large[..4].copy_from_slice(&[0x80, 0, 0, 1]);
        let mut most = [0xff; 12];
        most[..4].copy_from_slice(&[0x80, 0, 0, 0]);
        let mut damaged = file("a", b"A");
        damaged[3] ^= 1;
        for (tar, says) in [
            (member("a", b'0', &negative, b""), "no valid size"),
            (member("a", b'0', &large, b""), "no valid size"),
            (member("a", b'0', &most, b""), "beyond its end"),
            (member("a", b'0', b"77777777777\0", b""), "beyond its end"),
            (
                member("a", b'0', b"-1\0\0\0\0\0\0\0\0\0\0", b""),
                "no valid size",
            ),
            (
                member("x", b'L', &octal(1 << 20 | 1), &vec![b'a'; 1 << 20 | 1]),
                "extensions",
            ),
            (
                member("x", b'L', &octal(1 << 17), &vec![b'a'; 1 << 17]),
                "64 KiB",
            ),
            (member("x", b'x', &octal(9), b"99 path=a"), "can't be read"),
            (damaged, "is damaged"),
            (file("a", b"A")[..300].to_vec(), "in the middle"),
            (file("a", &[1; 900])[..1300].to_vec(), "beyond its end"),
            (b"not a tar at all, but a text".repeat(40), "is damaged"),
        ] {
            let error = walk(&tar).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
