//! Known data sets, downloaded from their home pages, checked and unpacked.
//!
//! [`catalog`] says what each consists of: files with their published sizes and MD5 sums and, of
//! archives, the files that are taken out. [`fetch`] brings a data set into a folder:
//!
//! - a file grows under the name `FILE.part` and is continued there after an interruption, by an
//!   HTTP range request (RFC 9110, section 14) that names the version begun with;
//! - nothing has its final name before its sum has been found right;
//! - of an archive only listed files are written, each of its known size, in a folder that gets
//!   its name when all are there.
//!
//! MD5 finds damage and wrong files. It is no proof against forgery; for that there is TLS where
//! the home page has it.

pub mod catalog;
mod download;
mod unpack;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::{Digest, Md5};

pub use catalog::{Archive, DataSet, Member, RemoteFile};

/// Why a data set could not be brought. One line that names the flag, URL or file and says what to
/// do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something given can't be used.
    #[error("{0}")]
    Input(String),
    /// Something failed on the way: the network, the server, the disk.
    #[error("{0}")]
    Failed(String),
}

/// How to fetch.
#[derive(Clone, Debug)]
pub struct Options {
    /// In place of the home page: the URL of a folder that holds the files under their names.
    pub mirror: Option<String>,
    /// How often a broken connection is tried again without having brought anything.
    pub retries: u32,
    /// The wait before the first of those; each further one is twice as long.
    pub pause: Duration,
    /// How long to wait for a connection, and for the next bytes of one.
    pub patience: Duration,
    /// Whether to go through the proxy that `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY` names, with
    /// `NO_PROXY`'s exceptions.
    pub proxy: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mirror: None,
            retries: 4,
            pause: Duration::from_secs(1),
            patience: Duration::from_secs(60),
            proxy: true,
        }
    }
}

/// Hears what a fetch does. Every method does nothing unless it is overridden; `()` is a listener
/// that ignores everything.
pub trait Listener {
    /// `name` is about to come from `url`; `done` of its `total` bytes are there from before.
    fn begin(&mut self, _name: &str, _url: &str, _done: u64, _total: u64) {}

    /// So many bytes of the file are there.
    fn progress(&mut self, _done: u64) {}

    /// A file's sum is being computed, or its content unpacked.
    fn working(&mut self, _what: &str) {}

    /// Something a person should know.
    fn note(&mut self, _text: &str) {}
}

impl Listener for () {}

/// What a fetch has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that came over the network.
    pub downloaded: u64,
    /// Whether everything was there before.
    pub already: bool,
    /// What there is now: a folder for each archive, else the files.
    pub paths: Vec<PathBuf>,
}

/// Brings a data set into the folder `out`, which is made where it is missing. What is there
/// already and whole is left alone; a file that was downloaded by hand is checked and used.
///
/// # Errors
/// [`Error::Input`] for a mirror that is no URL, a folder that can't be written, or files in it
/// that are something else; [`Error::Failed`] if the files can't be had, are others than the
/// published ones or can't be written. What came so far of a file stays in `FILE.part`.
pub fn fetch(
    set: &DataSet,
    out: &Path,
    options: &Options,
    listener: &mut dyn Listener,
) -> Result<Fetched, Error> {
    let client = download::Client::new(options)?;
    // The folders that aren't there yet, the innermost first.
    let made: Vec<&Path> = (out.ancestors())
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    let fetched = fs::create_dir_all(out)
        .map_err(|error| {
            Error::Input(format!(
                "--out {}: can't be written ({error}); name a folder that can",
                out.display()
            ))
        })
        .and_then(|()| all(set, out, &client, listener));
    if fetched.is_err() {
        // Empty ones only; with a `.part` in it a folder stays.
        for folder in made {
            let _ = fs::remove_dir(folder);
        }
    }
    fetched
}

fn all(
    set: &DataSet,
    out: &Path,
    client: &download::Client,
    listener: &mut dyn Listener,
) -> Result<Fetched, Error> {
    let mut fetched = Fetched {
        downloaded: 0,
        already: true,
        paths: Vec::new(),
    };
    for file in &set.files {
        let path = out.join(&file.name);
        let kept = match &file.archive {
            Some(archive) => out.join(&archive.folder),
            None => path.clone(),
        };
        let there = match &file.archive {
            Some(archive) => unpack::is_complete(archive, &kept)?,
            None => is_whole(file, &path, listener)?,
        };
        if !there {
            fetched.already = false;
            one(set, file, &path, client, &mut fetched, listener)?;
        }
        fetched.paths.push(kept);
    }
    Ok(fetched)
}

/// Brings one file, and unpacks it where it is an archive.
fn one(
    set: &DataSet,
    file: &RemoteFile,
    path: &Path,
    client: &download::Client,
    fetched: &mut Fetched,
    listener: &mut dyn Listener,
) -> Result<(), Error> {
    let fail = |error: std::io::Error| {
        Error::Failed(format!("{}: can't be written ({error})", path.display()))
    };
    let Some(archive) = &file.archive else {
        let part = client.get(set, file, path, fetched, listener)?;
        fs::rename(part.path(), path).map_err(fail)?;
        part.forget();
        return Ok(());
    };
    let out = path.parent().unwrap_or(Path::new("."));
    let unpacking = format!("{}: unpacking", file.name);
    // A file of the final name was put there by hand, and stays.
    if is_whole(file, path, listener)? {
        listener.working(&unpacking);
        return unpack::unpack(archive, path, out);
    }
    let part = client.get(set, file, path, fetched, listener)?;
    listener.working(&unpacking);
    unpack::unpack(archive, part.path(), out)?;
    fs::remove_file(part.path()).map_err(fail)?;
    part.forget();
    Ok(())
}

/// Whether a file is there under its final name.
///
/// # Errors
/// [`Error::Input`] if it is another than the published one.
fn is_whole(file: &RemoteFile, path: &Path, listener: &mut dyn Listener) -> Result<bool, Error> {
    let fail = |what: String| {
        Err(Error::Input(format!(
            "{}: {what}; remove it and run the command again",
            path.display()
        )))
    };
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return fail("it is no file".into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return fail(format!("can't be read ({error})")),
    };
    if bytes != file.bytes {
        let whole = file.bytes;
        return fail(format!(
            "it has {bytes} bytes where the published file has {whole}"
        ));
    }
    listener.working(&format!("{}: checking", file.name));
    match md5_of(path) {
        Ok(sum) if sum == file.md5 => Ok(true),
        Ok(sum) => fail(format!(
            "its MD5 sum is {sum} where the published one is {}",
            file.md5
        )),
        Err(error) => fail(format!("can't be read ({error})")),
    }
}

/// A file's MD5 sum in hexadecimal.
fn md5_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut sum = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => sum.update(&buffer[..n]),
        }
    }
    Ok(sum.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
