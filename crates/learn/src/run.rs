//! A run on disk: its folder, its metrics and the table of its images.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Cursor};
use crate::error::Error;
use crate::progress::{EpochReport, KnnReport, Progress, StepReport};

/// The folder of a run; `docs/formats.md` describes its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder of a new run with `config_toml` in it. A name that is taken (by anything
    /// but an empty folder) gets a number: `NAME-2`, `NAME-3` and so on; nothing is overwritten.
    ///
    /// The folder appears under its name with the configuration already in it, so that a run that
    /// is killed at any moment after can be resumed.
    ///
    /// # Errors
    /// [`Error::Input`] naming `--out` if it can't be written.
    pub fn create(wanted: &Path, config_toml: &str) -> Result<Self, Error> {
        let fail = |path: &Path, error: std::io::Error| {
            Error::input(format!(
                "--out {}: cannot be written ({error}); name a folder that can",
                path.display()
            ))
        };
        let Some(name) = wanted
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
        else {
            return Err(Error::input(format!(
                "--out {}: not a name for a folder; give one",
                wanted.display()
            )));
        };
        let parent = match wanted.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(|error| fail(&parent, error))?;
        let made = parent.join(format!(".{name}.{}.tmp", std::process::id()));
        let filled = fs::create_dir(&made)
            .and_then(|()| fs::create_dir(made.join("checkpoints")))
            .and_then(|()| {
                let mut file = File::create(made.join("config.toml"))?;
                file.write_all(config_toml.as_bytes())?;
                file.sync_all()
            });
        let placed = filled.and_then(|()| place(&made, wanted, &name));
        match placed {
            Ok(path) => {
                checkpoint::sync_folder(&parent).map_err(|error| fail(&parent, error))?;
                Ok(RunFolder { path })
            }
            Err(error) => {
                // Nothing else may be left of a run that never was; the first error is reported.
                let _ = fs::remove_dir_all(&made);
                Err(fail(wanted, error))
            }
        }
    }

    /// The folder of a run that exists.
    ///
    /// # Errors
    /// [`Error::Input`] naming `flag` (`--resume` or `--run`) if it isn't one.
    pub fn open(path: &Path, flag: &str) -> Result<Self, Error> {
        let fail = |what: &str| {
            Err(Error::input(format!(
                "{flag} {}: {what}; give a run folder that npid train wrote",
                path.display()
            )))
        };
        if !path.exists() {
            return fail("no such folder");
        }
        let folder = RunFolder {
            path: path.to_path_buf(),
        };
        if !folder.config().is_file() {
            return fail("there is no config.toml in it");
        }
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`, the resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `images.parquet`.
    pub fn images(&self) -> PathBuf {
        self.path.join("images.parquet")
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Keeps every other process from training in this folder for as long as the result lives.
    /// `None`, with a warning, on a file system that has no locks.
    ///
    /// # Errors
    /// [`Error::Input`] naming `flag` if another process trains in it; [`Error::Run`] if `.lock`
    /// can't be made.
    pub fn lock(&self, flag: &str, progress: &mut dyn Progress) -> Result<Option<Lock>, Error> {
        let path = self.path.join(".lock");
        let mut options = File::options();
        let file =
            (options.write(true).create(true).truncate(false).open(&path)).map_err(|error| {
                Error::run(format!(
                    "{}: can't be written ({error}); check its permissions",
                    path.display()
                ))
            })?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Err(Error::input(format!(
                "{flag} {}: another npid is training in it; wait until it has ended, or stop it",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => {
                progress.warning(&format!(
                    "{}: can't be locked ({error}); see to it that no other npid trains in it",
                    self.path.display()
                ));
                Ok(None)
            }
        }
    }

    /// Removes what an interrupted write left behind, and makes the folder of the checkpoints
    /// where it is missing.
    ///
    /// # Errors
    /// If a file can't be removed or the folder not be made.
    pub fn tidy(&self) -> Result<(), Error> {
        let fail = |path: &Path, error: std::io::Error| {
            Error::run(format!(
                "{}: {error}; check its permissions",
                path.display()
            ))
        };
        let folder = self.checkpoints();
        fs::create_dir_all(&folder).map_err(|error| fail(&folder, error))?;
        let bank = self.path.join("bank");
        let folders = [&self.path, &folder, &bank];
        for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
            for entry in fs::read_dir(folder).map_err(|error| fail(folder, error))? {
                let path = entry.map_err(|error| fail(folder, error))?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with('.') && name.ends_with(".tmp") && path.is_file() {
                    fs::remove_file(&path).map_err(|error| fail(&path, error))?;
                }
            }
        }
        Ok(())
    }

    /// Removes checkpoints up to `step`, except the newest `keep` of them and the `best`.
    /// (Later ones can only be damaged files that a resume went back behind.)
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn prune(&self, step: u64, keep: usize, best: Option<u64>) -> Result<(), Error> {
        let all = checkpoint::list(&self.checkpoints())?;
        let ours = all.into_iter().filter(|&(s, _)| s <= step);
        for (s, path) in ours.skip(keep.max(1)) {
            if Some(s) != best {
                fs::remove_file(&path).map_err(|error| {
                    Error::run(format!(
                        "{}: can't be removed ({error}); check its permissions, then continue \
                         with --resume",
                        path.display()
                    ))
                })?;
            }
        }
        Ok(())
    }
}

impl RunFolder {
    /// The step of the oldest checkpoint that is kept to be gone on with, where the newest `keep`
    /// up to `step` are.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub(crate) fn oldest_kept(&self, step: u64, keep: usize) -> Result<Option<u64>, Error> {
        let all = checkpoint::list(&self.checkpoints())?;
        let ours = all.into_iter().map(|(s, _)| s).filter(|&s| s <= step);
        Ok(ours.take(keep.max(1)).last())
    }
}

/// Says that a process is training in a run folder. The operating system takes it back however the
/// process ends, so that the file stays without harm.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

/// What to do about a file of a run that can't be written.
pub(crate) fn cure(path: &Path) -> &'static str {
    match path.parent() {
        Some(parent) if parent != Path::new("") && !parent.exists() => {
            "its folder is gone: it must stay where it is until the run has ended"
        }
        _ => "make room for it",
    }
}

/// Renames `made` to `wanted`, or to it with the first free number.
fn place(made: &Path, wanted: &Path, name: &str) -> std::io::Result<PathBuf> {
    for number in 1u32.. {
        let path = match number {
            1 => wanted.to_path_buf(),
            n => wanted.with_file_name(format!("{name}-{n}")),
        };
        // Only an empty folder lets itself be removed.
        let free = fs::symlink_metadata(&path).is_err() || fs::remove_dir(&path).is_ok();
        if !free {
            continue;
        }
        match fs::rename(made, &path) {
            Ok(()) => return Ok(path),
            // Another run took the name in between.
            Err(_) if path.exists() => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("every number is taken"))
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line<'a> {
    /// A log line.
    Step(&'a StepReport),
    /// A finished epoch.
    Epoch(&'a EpochReport),
    /// A kNN figure that belongs to no epoch: of pixels, or of the untrained network.
    Knn(&'a KnnReport),
}

/// `metrics.jsonl`, to be added to. Every line is handed to the operating system at once.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file, keeping the lines that lie before `cursor`; `None` keeps none.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn open(path: &Path, cursor: Option<Cursor>) -> Result<Self, Error> {
        let fail = |error: std::io::Error| {
            Error::run(format!(
                "{}: can't be written ({error}); check its permissions",
                path.display()
            ))
        };
        let mut file = (File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false))
        .open(path)
        .map_err(fail)?;
        let kept = match cursor {
            Some(cursor) => lines_before(&file, cursor).map_err(fail)?,
            None => 0,
        };
        file.set_len(kept).map_err(fail)?;
        file.seek(SeekFrom::Start(kept)).map_err(fail)?;
        Ok(Metrics {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn write(&mut self, line: &Line<'_>) -> Result<(), Error> {
        let fail = |error: &dyn std::fmt::Display| {
            Error::run(format!(
                "{}: can't be written ({error}); make room, then continue with --resume",
                self.path.display()
            ))
        };
        let mut text = serde_json::to_string(line).map_err(|error| fail(&error))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| fail(&error))
    }

    /// Makes the lines so far durable.
    ///
    /// # Errors
    /// [`Error::Run`] if that fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| {
            Error::run(format!(
                "{}: can't be written ({error}); make room, then continue with --resume",
                self.path.display()
            ))
        })
    }
}

/// Length of the part of a metrics file that lies before `cursor`: up to the first line that is
/// incomplete or later.
fn lines_before(file: &File, cursor: Cursor) -> std::io::Result<u64> {
    #[derive(Deserialize)]
    struct Place {
        kind: String,
        epoch: u32,
        step: u64,
    }
    let mut reader = BufReader::new(file);
    let mut kept = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        let Ok(place) = serde_json::from_slice::<Place>(&line) else {
            return Ok(kept);
        };
        let before = match place.kind.as_str() {
            // Written after the evaluation, so an epoch whose last step is taken may be unfinished.
            "epoch" => place.epoch <= cursor.epoch,
            _ => place.step <= cursor.step,
        };
        if !before || !line.ends_with(b"\n") {
            return Ok(kept);
        }
        kept += length;
    }
}
