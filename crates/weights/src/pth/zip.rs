//! Zip archives as PyTorch writes them: every entry stored, not compressed.
//!
//! Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5; PyTorch's `inline_container.cc`, which
//! begins the bytes of each entry at a multiple of 64.

use std::io::{self, Write};

/// Where the bytes of an entry begin: a multiple of this.
const ALIGNMENT: u64 = 64;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;

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
