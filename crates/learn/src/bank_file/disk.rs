//! The file operations of a bank in a file. Each may be the last one before the process is killed,
//! which is what the tests make of them.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use crate::checkpoint::sync_folder;

/// Makes an empty file.
pub fn create(path: &Path) -> io::Result<File> {
    alive()?;
    File::create(path)
}

/// Writes all of `bytes`.
pub fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    if let Err(killed) = alive() {
        // Nothing keeps a write from being cut in two.
        file.write_all(&bytes[..bytes.len() / 2])?;
        return Err(killed);
    }
    file.write_all(bytes)
}

/// Writes all of `bytes` at a place.
pub fn write_at(mut file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    write(file, bytes)
}

/// Makes what was written durable.
pub fn sync(file: &File) -> io::Result<()> {
    alive()?;
    file.sync_all()
}

/// Gives a file another name, durably.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    alive()?;
    fs::rename(from, to)?;
    alive()?;
    match to.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Removes a file.
pub fn remove(path: &Path) -> io::Result<()> {
    alive()?;
    fs::remove_file(path)
}

#[cfg(not(test))]
pub fn alive() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
thread_local! {
    /// Operations until the process counts as killed.
    static LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// From now on `operations` are done, and none after; `None` ends that.
#[cfg(test)]
pub fn kill_after(operations: Option<u32>) {
    LEFT.set(operations);
}

#[cfg(test)]
pub fn alive() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => Err(io::Error::other("killed")),
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
