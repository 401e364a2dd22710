//! `bank/rows.TYPE`: all rows, as they were at one step; and `bank/rows.json`, which says at which.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use npid_engine::mapped::{MappedRows, encode};
use npid_network::method::RowType;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::delta::Delta;
use super::{Id, Shape, disk};
use crate::checkpoint::temporary_of;
use crate::error::Error;
use crate::run::{RunFolder, cure};

/// Version of `rows.json`; see `docs/formats.md`.
const VERSION: u32 = 1;

/// `rows.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    /// N.
    rows: usize,
    /// D.
    dim: usize,
    dtype: String,
    /// The step whose rows these are.
    step: u64,
    /// What tells this state of the bank from all others, in hexadecimal.
    id: String,
    /// While changes are written in: the state that they lead to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The folder of the bank's files.
pub fn folder(run: &RunFolder) -> PathBuf {
    run.path().join("bank")
}

fn rows_path(run: &RunFolder, dtype: RowType) -> PathBuf {
    folder(run).join(format!("rows.{}", dtype.name()))
}

fn state_path(run: &RunFolder) -> PathBuf {
    folder(run).join("rows.json")
}

/// What to say of a file that can't be written.
pub fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::run(format!(
        "{}: can't be written ({error}); {}, then continue with --resume",
        path.display(),
        cure(path)
    ))
}

/// All rows, on the disk.
#[derive(Debug)]
pub struct Base {
    path: PathBuf,
    state_path: PathBuf,
    file: File,
    pub shape: Shape,
    /// The step whose rows these are.
    pub step: u64,
    pub id: Id,
    /// The state that the file has in part, where writing changes in was not finished.
    pub next: Option<Id>,
}

impl Base {
    /// Opens the rows of a run.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file that is missing, can't be read or is none of this run's.
    pub fn open(run: &RunFolder) -> Result<Self, Error> {
        let state_path = state_path(run);
        let fail = |path: &Path, what: &str| {
            Error::input(format!(
                "{}: {what}; every checkpoint of the run needs it: restore it, or start a new run",
                path.display()
            ))
        };
        let unreadable = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => fail(path, "it is missing"),
            _ => fail(path, &format!("cannot be read ({error})")),
        };
        let text = fs::read(&state_path).map_err(|error| unreadable(&state_path, error))?;
        let state: State = serde_json::from_slice(&text)
            .map_err(|error| fail(&state_path, &format!("it is damaged ({error})")))?;
        if state.version != VERSION {
            return Err(Error::input(format!(
                "{}: the memory bank is of version {}, this npid reads version {VERSION}; use the \
                 npid that wrote it",
                state_path.display(),
                state.version
            )));
        }
        let next = (state.next.as_deref())
            .map(|next| Id::parse(next).ok_or_else(|| fail(&state_path, "it is damaged")))
            .transpose()?;
        let (Some(dtype), Some(id)) = (RowType::named(&state.dtype), Id::parse(&state.id)) else {
            return Err(fail(&state_path, "it is damaged"));
        };
        let shape = Shape {
            rows: state.rows,
            dim: state.dim,
            dtype,
        };
        let path = rows_path(run, dtype);
        let file = (File::options().read(true).write(true).open(&path))
            .map_err(|error| unreadable(&path, error))?;
        let length = (file.metadata())
            .map_err(|error| unreadable(&path, error))?
            .len();
        if Some(length) != shape.bytes() {
            return Err(fail(
                &path,
                &format!(
                    "it has {length} bytes, not those of {} rows of {} numbers",
                    shape.rows, shape.dim
                ),
            ));
        }
        Ok(Base {
            path,
            state_path,
            file,
            shape,
            step: state.step,
            id,
            next,
        })
    }

    /// Maps the rows.
    ///
    /// # Errors
    /// [`Error::Run`] if the system doesn't.
    pub fn map(&self) -> Result<MappedRows, Error> {
        let Shape { rows, dim, dtype } = self.shape;
        MappedRows::open(&self.file, dtype, rows * dim).map_err(|error| {
            Error::run(format!(
                "{}: can't be mapped into memory ({error}); take \
                 model.memory_bank.storage = \"memory\" in a new run",
                self.path.display()
            ))
        })
    }

    /// Takes changes of the state it holds: afterwards the file holds the state they lead to.
    ///
    /// However far this comes before the process ends, the changes can be taken again: until
    /// `rows.json` says otherwise the file counts as the state before. That it may be only partly
    /// so, and of use for states with these changes alone, `rows.json` says first.
    ///
    /// # Errors
    /// If the changes can't be read or the file not be written.
    pub fn take(&mut self, delta: &Delta) -> Result<(), Error> {
        self.say(self.step, self.id, Some(delta.id))?;
        let stride = self.shape.stride();
        let written = delta
            .each(self.shape, &mut |rows, bytes| {
                // Neighbours go out together.
                let mut from = 0;
                for to in 1..=rows.len() {
                    if to == rows.len() || rows[to] != rows[to - 1] + 1 {
                        let at = rows[from] * stride as u64;
                        disk::write_at(&self.file, at, &bytes[from * stride..to * stride])?;
                        from = to;
                    }
                }
                Ok(())
            })
            .and_then(|()| disk::sync(&self.file));
        written.map_err(|error| unwritable(&self.path, &error))?;
        self.say(delta.step, delta.id, None)
    }

    /// Says which state the file holds.
    fn say(&mut self, step: u64, id: Id, next: Option<Id>) -> Result<(), Error> {
        (self.step, self.id, self.next) = (step, id, next);
        let state = State {
            version: VERSION,
            rows: self.shape.rows,
            dim: self.shape.dim,
            dtype: self.shape.dtype.name().into(),
            step,
            id: id.to_string(),
            next: next.map(|next| next.to_string()),
        };
        let temporary = temporary_of(&self.state_path);
        let written = serde_json::to_vec(&state)
            .map_err(io::Error::other)
            .and_then(|text| {
                let file = disk::create(&temporary)?;
                disk::write(&file, &text)?;
                disk::sync(&file)
            })
            .and_then(|()| disk::rename(&temporary, &self.state_path));
        written.map_err(|error| {
            // The first error is the one to report.
            let _ = disk::remove(&temporary);
            unwritable(&self.state_path, &error)
        })
    }
}

/// The rows of a run that begins, until they are complete.
pub struct Begun {
    base: Base,
    temporary: PathBuf,
}

impl Begun {
    /// Makes the file, with no row in it yet.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be made.
    pub fn create(run: &RunFolder, shape: Shape, seed: u64) -> Result<Self, Error> {
        let path = rows_path(run, shape.dtype);
        let temporary = temporary_of(&path);
        let made = fs::create_dir_all(folder(run))
            .and_then(|()| crate::checkpoint::sync_folder(run.path()))
            .and_then(|()| {
                (File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true))
                .open(&temporary)
            });
        let file = made.map_err(|error| unwritable(&path, &error))?;
        Ok(Begun {
            base: Base {
                path,
                state_path: state_path(run),
                file,
                shape,
                step: 0,
                id: first_id(shape, seed),
                next: None,
            },
            temporary,
        })
    }

    /// Writes rows, in any order; all must be written in the end.
    ///
    /// # Errors
    /// [`Error::Run`] if that fails.
    pub fn write_rows(&mut self, rows: &[u64], values: &[f32]) -> Result<(), Error> {
        let Shape { dim, dtype, .. } = self.base.shape;
        let stride = self.base.shape.stride();
        let mut bytes = Vec::with_capacity(rows.len() * stride);
        encode(dtype, values, &mut bytes);
        debug_assert_eq!(values.len(), rows.len() * dim);
        let mut from = 0;
        for to in 1..=rows.len() {
            if to == rows.len() || rows[to] != rows[to - 1] + 1 {
                let at = rows[from] * stride as u64;
                let part = &bytes[from * stride..to * stride];
                if let Err(error) = disk::write_at(&self.base.file, at, part) {
                    return Err(self.failed(&error));
                }
                from = to;
            }
        }
        Ok(())
    }

    /// All rows are written: they are the run's now.
    ///
    /// # Errors
    /// [`Error::Run`] if that fails.
    pub fn finish(mut self) -> Result<Base, Error> {
        let placed = disk::sync(&self.base.file)
            .and_then(|()| disk::rename(&self.temporary, &self.base.path));
        if let Err(error) = placed {
            return Err(self.failed(&error));
        }
        let (step, id) = (self.base.step, self.base.id);
        self.base.say(step, id, None)?;
        Ok(self.base)
    }

    fn failed(&self, error: &io::Error) -> Error {
        // The first error is the one to report.
        let _ = disk::remove(&self.temporary);
        Error::run(format!(
            "{}: the memory bank can't be written ({error}); {}, then begin again with --resume",
            self.base.path.display(),
            match folder_is_gone(&self.base.path) {
                true => cure(&self.base.path),
                false => "make room",
            }
        ))
    }
}

fn folder_is_gone(path: &Path) -> bool {
    path.parent().is_some_and(|folder| !folder.exists())
}

/// The id of a bank before the first step.
fn first_id(shape: Shape, seed: u64) -> Id {
    let mut sha256 = Sha256::new();
    sha256.update(b"npid rows of step 0");
    for number in [shape.rows as u64, shape.dim as u64, seed] {
        sha256.update(number.to_le_bytes());
    }
    sha256.update(shape.dtype.name().as_bytes());
    Id(sha256.finalize().into())
}
