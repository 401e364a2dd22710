//! A text list of pictures, `path [label]` a line: MMSelfSup's `ann_file`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::file::{picture_bytes, printable};
use super::folder::formats_by_name;
use super::labels::Labels;
use super::search::is_picture;
use super::{ContentHash, Description, Error, Picture, PictureError, Source};
use crate::decode::decode;

/// The longest line, in bytes; paths are at most 4,096 on Linux.
const MAX_LINE: usize = 16 << 10;

/// Above this many pictures their sizes are not looked up to describe the list.
const MAX_SIZED: usize = 200_000;

/// Pictures named in a text file, a line each, in its order.
///
/// A line is a path, or a path and a label. The label stands after a tab, or after the last space,
/// unless the whole line ends like a picture's name (`my cat.jpg`). Where every label is a whole
/// number they are the labels (negative ones are none); else the distinct words, in ascending
/// order, are the classes. Lines may end in CR LF; empty ones are passed over; a byte-order mark is
/// ignored.
///
/// Relative paths start at a folder that can be given. Otherwise at the list's own; and if the first
/// picture isn't there, at the folder named like the list, in the list's folder or beside that
/// (MMSelfSup's `meta/train.txt` beside `train/`), or at the folder above.
pub struct ListSource {
    prefix: PathBuf,
    /// As written in the list.
    files: Vec<Box<str>>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    notes: Vec<String>,
}

impl ListSource {
    /// Reads the list, and looks whether everything it names is there. `prefix` is the folder that
    /// relative paths start at.
    ///
    /// # Errors
    /// [`Error::Line`] for a line that isn't UTF-8, holds a NUL byte, is longer than 16 KiB, or
    /// names something that is no file; [`Error::NoRows`] for an empty list; [`Error::Io`].
    pub fn open(path: &Path, prefix: Option<&Path>) -> Result<Self, Error> {
        let io = |source| Error::io(path, source);
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let (mut files, mut lines) = (Vec::new(), Vec::new());
        let mut labels = Labels::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let limit = MAX_LINE as u64 + 1;
            let read = (reader.by_ref().take(limit)).read_until(b'\n', &mut line);
            if read.map_err(io)? == 0 {
                break;
            }
            let wrong = |what: &str| Error::Line {
                path: path.into(),
                line: number,
                what: what.into(),
            };
            if let Some((file, label)) = parse(&line, number == 1).map_err(wrong)? {
                files.push(Box::from(file));
                lines.push(number);
                labels.push(label);
            }
        }
        let Some(first) = files.first() else {
            return Err(Error::NoRows {
                path: path.into(),
                kind: "a list",
            });
        };
        let mut notes = Vec::new();
        let prefix = match prefix {
            Some(prefix) => prefix.to_path_buf(),
            None => {
                let (prefix, own) = find_prefix(path, first);
                if !own {
                    let prefix = printable(prefix.as_os_str().as_encoded_bytes());
                    notes.push(format!("paths in the list start at {prefix}"));
                }
                prefix
            }
        };
        let mut seen = HashSet::new();
        let mut again = 0;
        for (file, &line) in files.iter().zip(&lines) {
            let wrong = |what: String| Error::Line {
                path: path.into(),
                line,
                what: format!("{}: {what}", printable(file.as_bytes())),
            };
            match fs::metadata(prefix.join(&**file)) {
                Ok(found) if found.is_file() => {}
                Ok(_) => return Err(wrong("it is not a file; a list names pictures".into())),
                Err(error) => {
                    return Err(wrong(match error.kind() {
                        std::io::ErrorKind::NotFound => format!(
                            "no such file (relative paths start at {}); correct or remove the \
                             line, or say with data.data_prefix where paths start",
                            printable(prefix.as_os_str().as_encoded_bytes())
                        ),
                        _ => format!("it can't be read ({error})"),
                    }));
                }
            }
            again += usize::from(!seen.insert(&**file));
        }
        if again > 0 {
            let s = if again == 1 { "" } else { "s" };
            notes.push(format!(
                "{again} line{s} of the list name{} a picture again; every line is a row of its own",
                if again == 1 { "s" } else { "" }
            ));
        }
        let (labels, classes) = labels.finish();
        Ok(ListSource {
            prefix,
            files,
            labels,
            classes,
            notes,
        })
    }

    fn path(&self, row: usize) -> PathBuf {
        self.prefix.join(&*self.files[row])
    }
}

/// The path and the label of a line; `None` for an empty one.
fn parse(line: &[u8], is_first: bool) -> Result<Option<(&str, Option<&str>)>, &'static str> {
    let mut line = line.strip_suffix(b"\n").unwrap_or(line);
    if is_first {
        if line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff") {
            return Err("the list is UTF-16; save it as UTF-8");
        }
        line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    }
    if line.len() >= MAX_LINE {
        return Err("it is longer than 16 KiB; a list has one path a line");
    }
    if line.contains(&0) {
        return Err("it holds a NUL byte; a list is a text file of paths, one a line");
    }
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8; save the list as UTF-8")?;
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let (file, label) = match line.rsplit_once('\t') {
        Some(parts) => parts,
        None if is_picture(Path::new(line)) => return Ok(Some((line, None))),
        None => match line.rsplit_once(char::is_whitespace) {
            Some(parts) => parts,
            None => return Ok(Some((line, None))),
        },
    };
    let label = label.trim();
    Ok(Some((
        file.trim_end(),
        Some(label).filter(|l| !l.is_empty()),
    )))
}

/// The folder that relative paths start at, and whether it is the list's own.
fn find_prefix(list: &Path, first: &str) -> (PathBuf, bool) {
    let own = list.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let above = own.join("..");
    let stem = list.file_stem().unwrap_or_default();
    let others = [own.join(stem), above.join(stem), above];
    if Path::new(first).is_absolute() || own.join(first).is_file() {
        return (own, true);
    }
    match others.into_iter().find(|other| other.join(first).is_file()) {
        Some(other) => (other, false),
        None => (own, true),
    }
}

impl Source for ListSource {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, row: usize) -> String {
        printable(self.files[row].as_bytes())
    }

    fn label(&self, row: usize) -> Option<u32> {
        self.labels[row]
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        decode(&picture_bytes(&self.path(row))?)
    }

    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        Ok(ContentHash::of(&picture_bytes(&self.path(row))?))
    }

    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        let bytes = picture_bytes(&self.path(row))?;
        Ok((decode(&bytes)?, ContentHash::of(&bytes)))
    }

    fn describe(&self) -> Description {
        let size = |row| fs::metadata(self.path(row)).map_or(0, |m| m.len());
        let unnamed = self.labels.iter().flatten().max();
        Description {
            kind: "list file".into(),
            images: self.len(),
            classes: (self.classes.len()).max(unnamed.map_or(0, |m| *m as usize + 1)),
            labelled: self.labels.iter().flatten().count(),
            formats: formats_by_name(self.files.iter().map(|file| Path::new(&**file))),
            bytes: (self.len() <= MAX_SIZED).then(|| (0..self.len()).map(size).sum()),
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_paths_and_labels() {
        for (line, expected) in [
            ("a.jpg 3\n", Some(("a.jpg", Some("3")))),
            ("a.jpg\n", Some(("a.jpg", None))),
            ("my cat.jpg\r\n", Some(("my cat.jpg", None))),
            ("my cat.JPG  cat \r\n", Some(("my cat.JPG", Some("cat")))),
            ("my cat\t4", Some(("my cat", Some("4")))),
            ("a b.png\tpolar bear", Some(("a b.png", Some("polar bear")))),
            ("a b.png\t", Some(("a b.png", None))),
            ("n01440764/x.JPEG 0", Some(("n01440764/x.JPEG", Some("0")))),
            ("noending", Some(("noending", None))),
            ("  \r\n", None),
            ("\u{feff}a.jpg 1", Some(("a.jpg", Some("1")))),
        ] {
            assert_eq!(parse(line.as_bytes(), true).unwrap(), expected, "{line:?}");
        }
        assert!(parse(b"a\0b", false).unwrap_err().contains("NUL"));
        assert!(parse(b"\xff\xfea\0", true).unwrap_err().contains("UTF-16"));
        assert!(parse(b"\xe9.jpg", false).unwrap_err().contains("UTF-8"));
        assert!(
            parse(&[b'a'; MAX_LINE + 1], false)
                .unwrap_err()
                .contains("16 KiB")
        );
    }
}
