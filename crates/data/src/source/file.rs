//! Files: read at a place, by several threads at once, and never more than is sensible.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::PictureError;

/// The largest encoded picture that is read, in bytes (1 GiB).
pub(super) const MAX_ENCODED: u64 = 1 << 30;

/// The largest collection that is held in memory, in bytes (1 GiB): small pictures in a file that
/// can't be read at a place.
pub(super) const KEEP_BYTES: u64 = 1 << 30;

/// A file that several threads read at once: it is opened anew for each read, so that a collection
/// of thousands of files holds none of them open.
pub(super) struct SharedFile {
    path: PathBuf,
    length: u64,
}

impl SharedFile {
    /// # Errors
    /// If it can't be opened, or is a folder, a pipe or a device.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        regular(path)?;
        Ok(SharedFile {
            path: path.into(),
            length: File::open(path)?.metadata()?.len(),
        })
    }

    /// Its length in bytes when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// A reader from byte `start` on.
    pub(super) fn from(&self, start: u64) -> io::Result<File> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    /// The `length` bytes at `start`. Memory grows with what is really there.
    ///
    /// # Errors
    /// Among the system's, [`io::ErrorKind::UnexpectedEof`] if there are fewer.
    pub(super) fn read(&self, start: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(length.min(1 << 24) as usize);
        let read = self.from(start)?.take(length).read_to_end(&mut buffer)?;
        if read as u64 != length {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{length} bytes at {start} expected, {read} found"),
            ));
        }
        Ok(buffer)
    }

    /// From its start to its end, in large pieces.
    pub(super) fn stream(&self) -> io::Result<BufReader<File>> {
        Ok(BufReader::with_capacity(1 << 18, self.from(0)?))
    }
}

/// Fails for a folder, and for pipes and devices, which may never end.
pub(super) fn regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        Ok(())
    } else {
        Err(io::Error::other("it is not a file"))
    }
}

/// A whole file that holds one picture.
pub(super) fn picture_bytes(path: &Path) -> Result<Vec<u8>, PictureError> {
    let read = || {
        regular(path)?;
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        check_encoded(length).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(length as usize);
        file.take(MAX_ENCODED).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: io::Error| {
        PictureError::new(match error.kind() {
            io::ErrorKind::NotFound => "the file is gone".into(),
            _ => format!("the file can't be read: {error}"),
        })
    })
}

/// Refuses encoded pictures above [`MAX_ENCODED`].
pub(super) fn check_encoded(bytes: u64) -> Result<(), PictureError> {
    if bytes > MAX_ENCODED {
        return Err(PictureError::new(format!(
            "{bytes} bytes are more than the {MAX_ENCODED} that npid reads of one picture"
        )));
    }
    Ok(())
}

/// A name from a file, fit to be printed: what isn't UTF-8 is replaced, and control characters,
/// which a terminal would obey, are escaped.
pub(super) fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for c in String::from_utf8_lossy(name).chars() {
        // Beside the control characters, those that turn the direction of the text around.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_printed() {
        assert_eq!(printable("Käse/1.jpg".as_bytes()), "Käse/1.jpg");
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("gpj.\u{202e}x".as_bytes()), "gpj.\\u{202e}x");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn reads_what_is_there_and_says_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"0123456789").unwrap();
        let file = SharedFile::open(&path).unwrap();
        assert_eq!(file.read(3, 4).unwrap(), b"3456");
        let error = file.read(8, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(SharedFile::open(folder.path()).is_err());
        assert!(picture_bytes(folder.path()).is_err());
    }
}
