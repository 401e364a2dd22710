//! Files out of a `.tar.gz`, and no others.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use crate::Error;
use crate::catalog::{Archive, Member};

/// What an archive may hold beside the listed files: headers, texts, padding.
const BESIDE: u64 = 16 << 20;

/// Whether `folder` holds all that is required.
///
/// # Errors
/// [`Error::Input`] if it holds something else: a folder appears when it is whole.
pub fn is_complete(archive: &Archive, folder: &Path) -> Result<bool, Error> {
    if fs::symlink_metadata(folder).is_err() {
        return Ok(false);
    }
    for member in archive.members.iter().filter(|member| member.required) {
        let path = folder.join(&member.name);
        let bytes = fs::metadata(&path)
            .ok()
            .filter(|m| m.is_file())
            .map(|m| m.len());
        if bytes != Some(member.bytes) {
            let is = match bytes {
                None => "isn't there".to_string(),
                Some(bytes) => format!("has {bytes} bytes"),
            };
            return Err(Error::Input(format!(
                "{}: incomplete ({} {is}, and should have {} bytes); remove the folder and run the \
                 command again",
                folder.display(),
                member.name,
                member.bytes
            )));
        }
    }
    Ok(true)
}

/// Unpacks the listed files of the archive at `path` into its folder below `out`, which mustn't be
/// there yet and appears when all of them are written.
///
/// # Errors
/// [`Error::Failed`], and nothing is left, if the archive is broken, lacks a file or holds
/// something that it shouldn't: a path that leads out of it, a link, a file of another size, far
/// more than it is known to hold.
pub fn unpack(archive: &Archive, path: &Path, out: &Path) -> Result<(), Error> {
    let folder = out.join(&archive.folder);
    let made = out.join(format!(".{}.tmp", archive.folder));
    // A kill may have left one behind.
    let _ = fs::remove_dir_all(&made);
    let done = (fs::create_dir(&made).map_err(|error| write_error(&made, &error)))
        .and_then(|()| members(archive, path, &made))
        .and_then(|()| fs::rename(&made, &folder).map_err(|error| write_error(&folder, &error)));
    if done.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&made);
    }
    done
}

fn write_error(path: &Path, error: &io::Error) -> Error {
    Error::Failed(format!(
        "{}: can't be written ({error}); make room, or name another folder with --out",
        path.display()
    ))
}

fn members(archive: &Archive, path: &Path, made: &Path) -> Result<(), Error> {
    let broken = |what: String| {
        Error::Failed(format!(
            "{}: {what}; remove it and run the command again",
            path.display()
        ))
    };
    let known: u64 = archive.members.iter().map(|member| member.bytes).sum();
    let file = File::open(path).map_err(|error| broken(format!("can't be read ({error})")))?;
    let reader = Bounded {
        reader: MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file)),
        left: known + BESIDE,
    };
    let mut tar = tar::Archive::new(reader);
    let entries = tar.entries().map_err(|error| broken(error.to_string()))?;
    let mut found = Vec::new();
    // As they stand: headers that name the next entry otherwise would be read into memory whole,
    // and no name here is long enough to need one.
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(|error| broken(format!("a broken archive ({error})")))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        let Some(inside) = inside(&name) else {
            return Err(broken(format!("{name:?} leads out of the archive")));
        };
        match kind {
            EntryType::Link | EntryType::Symlink => {
                return Err(broken(format!("{name:?} is a link")));
            }
            EntryType::Regular | EntryType::Continuous => {}
            _ => continue,
        }
        let Some(member) = listed(archive, &inside) else {
            continue;
        };
        let bytes = entry.header().size().unwrap_or(u64::MAX);
        let fits = match member.required {
            true => bytes == member.bytes,
            false => bytes <= member.bytes,
        };
        if !fits || found.contains(&&member.name) {
            return Err(broken(format!(
                "{name:?} has {bytes} bytes and should be there once with {}",
                member.bytes
            )));
        }
        let target = made.join(&member.name);
        let mut file = File::create_new(&target).map_err(|error| write_error(&target, &error))?;
        copy(&mut entry, &mut file, bytes).map_err(|error| match error {
            Copy::Read(error) => broken(format!("{name:?} is broken ({error})")),
            Copy::Write(error) => write_error(&target, &error),
        })?;
        file.sync_all()
            .map_err(|error| write_error(&target, &error))?;
        found.push(&member.name);
    }
    match archive
        .members
        .iter()
        .find(|m| m.required && !found.contains(&&m.name))
    {
        Some(member) => Err(broken(format!(
            "there is no {}/{} in it",
            archive.folder, member.name
        ))),
        None => Ok(()),
    }
}

/// The parts of a path that stays inside its archive, joined by `/`.
fn inside(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn listed<'a>(archive: &'a Archive, name: &str) -> Option<&'a Member> {
    let name = name
        .strip_prefix(archive.folder.as_str())?
        .strip_prefix('/')?;
    archive.members.iter().find(|member| member.name == name)
}

/// Where copying failed.
enum Copy {
    Read(io::Error),
    Write(io::Error),
}

/// Copies exactly `bytes` bytes.
fn copy(from: &mut dyn Read, to: &mut dyn Write, bytes: u64) -> Result<(), Copy> {
    let mut left = bytes;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let want = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match from.read(&mut buffer[..want]).map_err(Copy::Read)? {
            0 => return Err(Copy::Read(io::ErrorKind::UnexpectedEof.into())),
            n => {
                to.write_all(&buffer[..n]).map_err(Copy::Write)?;
                left -= n as u64;
            }
        }
    }
    Ok(())
}

/// A reader that fails rather than give more than it may.
struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other("it holds far more than the published file"))?;
        Ok(n)
    }
}
