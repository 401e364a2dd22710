//! Checkpoints: all of an engine's state and where the run stands, in one safetensors file.
//!
//! A file is written under a temporary name in the same folder, synced and renamed, so that a
//! name `step-*.safetensors` always is a whole file; the folder is synced last. Tensors are
//! written and read one at a time: beside the engine's own copy there is one of the largest
//! tensor (the bank) and no more. The metadata holds a SHA-256 of the whole file, which is checked
//! before anything in it is used. Equal states and cursors give equal bytes.

mod choice;

pub use choice::Choice;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use npid_data::source::ContentHash;
use npid_engine::mapped::{decode, encode};
use npid_engine::{Description, Engine, StateEntry, StateKind};
use npid_network::method::RowType;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::health::Health;
use crate::progress::KnnReport;
use crate::run::cure;

/// Version of the format; see `docs/formats.md`.
pub const VERSION: u32 = 1;

/// The key of the file's metadata under which [`Meta`] is kept, as JSON.
pub const META_KEY: &str = "npid";

/// What stands in place of the file's SHA-256 while it is computed.
const UNSEALED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The largest header that is read: names and shapes of some hundred thousand tensors.
const MAX_HEADER: u64 = 100_000_000;

/// Where a run stands: the next step to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs finished, evaluation included.
    pub epoch: u32,
    /// Optimiser steps taken in the unfinished epoch.
    pub step_in_epoch: u64,
    /// Optimiser steps taken in all.
    pub step: u64,
}

/// A sum of losses and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSum {
    /// The sum. (serde_json's `float_roundtrip` brings the same bits back.)
    pub sum: f64,
    /// How many were added.
    pub count: u64,
}

impl LossSum {
    /// Adds a loss.
    pub fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.count += 1;
    }

    /// The mean, 0 before anything was added.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    /// The mean, and an empty sum in its place.
    pub fn take(&mut self) -> f64 {
        std::mem::take(self).mean()
    }
}

/// A checkpoint's kNN figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step of the checkpoint.
    pub step: u64,
    /// Its kNN top-1, percent.
    pub knn_top1: f64,
}

/// The figures known so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// kNN of the images themselves.
    pub pixels: Option<KnnReport>,
    /// kNN of the untrained network.
    pub untrained: Option<KnnReport>,
    /// The latest kNN of the network in training.
    pub trained: Option<KnnReport>,
    /// The checkpoint with the best kNN.
    pub best: Option<Best>,
}

/// What a checkpoint holds beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// [`VERSION`].
    pub version: u32,
    /// The next step.
    pub cursor: Cursor,
    /// The run's seed.
    pub seed: u64,
    /// Rows whose image could not be read: never trained, drawn or counted.
    pub skipped: BTreeSet<u64>,
    /// Those of them that were known when the unfinished epoch began: its order leaves them out.
    pub epoch_skipped: BTreeSet<u64>,
    /// SHA-256 of the configuration, less what may differ between two starts of a run.
    pub config: String,
    /// SHA-256 of the weights by which negatives are drawn, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neg_weights: Option<String>,
    /// What tells the collection whose rows these are from those the run had before: a digest of
    /// its names, labels and contents, which its table of images bears too. `None` until the
    /// collection changes for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Where the rows of the memory bank are in files of their own: which state of them belongs to
    /// this checkpoint (see `bank_file`). `None` where they are in here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
    /// Losses since the last log line.
    pub log: LossSum,
    /// Losses of the unfinished epoch; of the finished one at its end.
    pub epoch: LossSum,
    /// kNN figures.
    pub figures: Figures,
    /// What is known of the bank's health.
    #[serde(default)]
    pub health: Health,
}

impl Meta {
    /// What of an engine's state its file holds.
    fn holds(&self, state: Vec<StateEntry>) -> Vec<StateEntry> {
        let elsewhere = |e: &StateEntry| e.kind == StateKind::Bank && self.rows.is_some();
        (state.into_iter())
            .filter(|e| e.saved() && !elsewhere(e))
            .collect()
    }
}

/// The name of the checkpoint of `step`.
pub fn file_name(step: u64) -> String {
    format!("step-{step:08}.safetensors")
}

/// The step in a checkpoint's file name.
fn step_of(name: &str) -> Option<u64> {
    (name.strip_prefix("step-")?.strip_suffix(".safetensors")?)
        .parse()
        .ok()
}

/// The checkpoints in `folder`, by step, the newest first; none where there is no such folder.
///
/// # Errors
/// If the folder can't be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = files(folder, step_of)?;
    found.reverse();
    Ok(found)
}

/// The files in `folder` in whose names `step_of` finds a step, by it, the oldest first; none where
/// there is no such folder.
///
/// # Errors
/// If the folder can't be read.
pub(crate) fn files(
    folder: &Path,
    step_of: fn(&str) -> Option<u64>,
) -> Result<Vec<(u64, PathBuf)>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::input(format!(
                "{}: cannot be read ({error}); check its permissions",
                folder.display()
            )));
        }
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let step = step_of(entry.file_name().to_str()?)?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Writes `folder/step-*.safetensors` and returns its path.
///
/// # Errors
/// [`Error::Run`] if it can't be written (a full disk, a limit on the size of files): the
/// temporary file is gone then and every earlier checkpoint as it was.
pub fn save(folder: &Path, engine: &dyn Engine, meta: &Meta) -> Result<PathBuf, Error> {
    let path = folder.join(file_name(meta.cursor.step));
    let temporary = temporary_of(&path);
    let written = write(&temporary, engine, meta)
        .and_then(|()| Ok(fs::rename(&temporary, &path)?))
        .and_then(|()| Ok(sync_folder(folder)?));
    match written {
        Ok(()) => Ok(path),
        Err(error) => {
            // The error to report is the first one; a temporary that stays is removed by a resume.
            let _ = fs::remove_file(&temporary);
            let earlier = list(folder).is_ok_and(|all| !all.is_empty());
            let what_now = match (folder.exists(), earlier) {
                (false, _) => cure(&path),
                (true, true) => {
                    "earlier checkpoints are intact: make room, then continue with --resume"
                }
                (true, false) => "it is the first: make room, then begin again with --resume",
            };
            Err(Error::run(format!(
                "{}: the checkpoint can't be written ({error}); {what_now}",
                path.display()
            )))
        }
    }
}

/// The name under which `path` is written before it is renamed.
pub(crate) fn temporary_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Makes a rename in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    // Folders can only be opened as files on Unix; elsewhere the rename alone must do.
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Why a checkpoint could not be written.
type WriteError = Box<dyn std::error::Error>;

fn write(path: &Path, engine: &dyn Engine, meta: &Meta) -> Result<(), WriteError> {
    let entries = meta.holds(engine.state());
    let mut offset = 0;
    let tensors = entries.iter().map(|entry| {
        let start = offset;
        offset += entry.dtype.bytes() * entry.len();
        let info = TensorInfo {
            dtype: stored(entry.dtype),
            shape: entry.shape.clone(),
            data_offsets: (start, offset),
        };
        (entry.name.clone(), info)
    });
    let tensors = tensors.collect();
    // One key alone: with several, their order in the file would change from run to run.
    let sha256 = UNSEALED;
    let text = serde_json::to_string(&Sealed { sha256, meta })?;
    let texts = [(META_KEY.to_string(), text)];
    let header = Metadata::new(Some(texts.into_iter().collect()), tensors)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let hashing = Hashing {
        file: File::create(path)?,
        sha256: Sha256::new(),
    };
    let mut file = BufWriter::with_capacity(BUFFER, hashing);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut bytes = Vec::with_capacity(BUFFER);
    for entry in &entries {
        for values in engine.read(&entry.name)?.chunks(BUFFER / 4) {
            bytes.clear();
            encode(entry.dtype, values, &mut bytes);
            file.write_all(&bytes)?;
        }
    }
    file.flush()?;
    let Hashing { mut file, sha256 } = file.into_inner().map_err(|error| error.into_error())?;
    let at = seal(&header, UNSEALED).ok_or("its header has no place for a SHA-256")?;
    file.seek(SeekFrom::Start(8 + at as u64))?;
    file.write_all(hex(sha256).as_bytes())?;
    file.sync_all()?;
    Ok(())
}

/// How a safetensors file names a type.
fn stored(dtype: RowType) -> Dtype {
    match dtype {
        RowType::F32 => Dtype::F32,
        RowType::Bf16 => Dtype::BF16,
        RowType::F16 => Dtype::F16,
    }
}

/// Bytes read or written at once.
const BUFFER: usize = 1 << 18;

/// A checkpoint's metadata: [`Meta`], and the SHA-256 of the file with [`UNSEALED`] in its place.
#[derive(Serialize)]
struct Sealed<'a> {
    sha256: &'a str,
    #[serde(flatten)]
    meta: &'a Meta,
}

/// Where in a header the SHA-256 stands.
fn seal(header: &[u8], sha256: &str) -> Option<usize> {
    let digits = sha256.as_bytes();
    if digits.len() != UNSEALED.len() {
        return None;
    }
    header.windows(digits.len()).position(|w| w == digits)
}

fn hex(sha256: Sha256) -> String {
    ContentHash(sha256.finalize().into()).to_string()
}

/// A file, and the SHA-256 of what was written to it.
struct Hashing {
    file: File,
    sha256: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Why a checkpoint can't be used.
pub(crate) enum Unusable {
    /// What the disk holds is not what was written: an earlier one may serve.
    Damaged(Error),
    /// It may be whole, but this process can't use it. Going on from an earlier one would
    /// overwrite it.
    Refused(Error),
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Damaged(error) | Unusable::Refused(error) => error,
        }
    }
}

/// A checkpoint that was opened and found whole.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    meta: Meta,
    tensors: Metadata,
    data_start: u64,
}

impl Checkpoint {
    /// Opens a checkpoint and checks that it is whole, undamaged and of this version. Reads the
    /// whole file once.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file: it can't be read, is cut short or damaged, is no
    /// checkpoint, or is of another version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Checkpoint::try_open(path)?)
    }

    fn try_open(path: &Path) -> Result<Self, Unusable> {
        let fail = |what: String| Error::input(format!("{}: {what}", path.display()));
        let io = |error: std::io::Error| {
            Unusable::Refused(fail(format!(
                "cannot be read ({error}); check its permissions, or delete it to go on from an \
                 earlier one"
            )))
        };
        let foreign = |what: &str| {
            Unusable::Damaged(fail(format!(
                "not a checkpoint of npid ({what}); give a run folder that npid train wrote"
            )))
        };
        let short = |have: u64, want: u64| {
            Unusable::Damaged(fail(format!(
                "the checkpoint is cut short ({have} of {want} bytes); delete it to go on from an \
                 earlier one"
            )))
        };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length < 8 {
            return Err(short(length, 8));
        }
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(io)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER {
            return Err(foreign("its header has an impossible length"));
        }
        let data_start = 8 + size;
        if length < data_start {
            return Err(short(length, data_start));
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(io)?;
        let tensors: Metadata =
            serde_json::from_slice(&header).map_err(|error| foreign(&error.to_string()))?;
        let text = (tensors.metadata().as_ref())
            .and_then(|texts| texts.get(META_KEY))
            .ok_or_else(|| foreign("its metadata has no key `npid`"))?;

        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } =
            serde_json::from_str(text).map_err(|error| foreign(&error.to_string()))?;
        if version != VERSION {
            return Err(Unusable::Refused(fail(format!(
                "the checkpoint is of version {version}, this npid reads version {VERSION}; use \
                 the npid that wrote it"
            ))));
        }
        #[derive(Deserialize)]
        struct Seal {
            sha256: String,
        }
        let Seal { sha256 } =
            serde_json::from_str(text).map_err(|error| foreign(&error.to_string()))?;
        let at = seal(&header, &sha256).ok_or_else(|| foreign("its SHA-256 has another length"))?;
        let meta = serde_json::from_str(text).map_err(|error| foreign(&error.to_string()))?;
        let whole = data_start + tensors.data_len() as u64;
        if length < whole {
            return Err(short(length, whole));
        }
        if length > whole {
            return Err(foreign("bytes follow its last tensor"));
        }
        let mut found = Sha256::new();
        found.update(size.to_le_bytes());
        header[at..at + UNSEALED.len()].copy_from_slice(UNSEALED.as_bytes());
        found.update(&header);
        let mut bytes = vec![0; BUFFER];
        loop {
            match file.read(&mut bytes).map_err(io)? {
                0 => break,
                n => found.update(&bytes[..n]),
            }
        }
        if hex(found) != sha256 {
            return Err(Unusable::Damaged(fail(
                "the checkpoint is damaged (its bytes don't match its SHA-256); delete it to go \
                 on from an earlier one"
                    .into(),
            )));
        }
        Ok(Checkpoint {
            path: path.to_path_buf(),
            file,
            meta,
            tensors,
            data_start,
        })
    }

    /// The newest checkpoint of `folder` that is whole, and a sentence for each newer one that is
    /// damaged. `None` where there is no checkpoint at all.
    ///
    /// # Errors
    /// If there are checkpoints but all are damaged: what is wrong with the newest. If there is one
    /// of another version, or that can't be read, before a whole one is met.
    pub fn newest(folder: &Path) -> Result<Option<(Self, Vec<String>)>, Error> {
        Checkpoint::newest_that(folder, &|_| Ok(()))
    }

    /// As [`Checkpoint::newest`], of those that `usable` doesn't object to.
    pub(crate) fn newest_that(
        folder: &Path,
        usable: &dyn Fn(&Checkpoint) -> Result<(), Unusable>,
    ) -> Result<Option<(Self, Vec<String>)>, Error> {
        let mut damaged: Vec<Error> = Vec::new();
        for (_, path) in list(folder)? {
            let opened = Checkpoint::try_open(&path);
            match opened.and_then(|checkpoint| usable(&checkpoint).map(|()| checkpoint)) {
                Ok(checkpoint) => {
                    let warnings = (damaged.iter())
                        .map(|error| {
                            format!("{error}; taking {}", file_name(checkpoint.meta.cursor.step))
                        })
                        .collect();
                    return Ok(Some((checkpoint, warnings)));
                }
                Err(Unusable::Damaged(error)) => damaged.push(error),
                Err(Unusable::Refused(error)) => return Err(error),
            }
        }
        match damaged.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the run stood.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Puts every saved state of `engine` back and excludes the skipped rows. With `whole`, the
    /// file must hold nothing else; without, what belongs to training alone (optimiser, bank) may
    /// be left over.
    ///
    /// # Errors
    /// [`Error::Input`] listing missing, unused and mismatched names if the checkpoint is of
    /// another architecture (nothing was changed then), or if the file can't be read.
    pub fn load_into(&self, engine: &mut dyn Engine, whole: bool) -> Result<(), Error> {
        let entries = self.meta.holds(engine.state());
        self.check(&entries, whole)?;
        for entry in &entries {
            engine.write(&entry.name, &self.read(&entry.name)?)?;
        }
        if whole {
            let skipped: Vec<u64> = self.meta.skipped.iter().copied().collect();
            engine.exclude_rows(&skipped)?;
        }
        Ok(())
    }

    /// As [`Checkpoint::load_into`] of a whole checkpoint, for an engine whose bank has another
    /// length: its rows stay as they are, and none is excluded. Returns the file's rows, each of as
    /// many numbers as the engine's.
    ///
    /// # Errors
    /// As [`Checkpoint::load_into`].
    pub fn load_apart_from_rows(&self, engine: &mut dyn Engine) -> Result<Vec<f32>, Error> {
        let mut entries: Vec<StateEntry> =
            engine.state().into_iter().filter(|e| e.saved()).collect();
        let shape = self.tensors.info(npid_engine::state::BANK);
        let rows = shape.and_then(|info| info.shape.first().copied());
        for entry in entries.iter_mut().filter(|e| e.kind == StateKind::Bank) {
            entry.shape[0] = rows.unwrap_or(entry.shape[0]);
        }
        self.check(&entries, true)?;
        for entry in entries.iter().filter(|e| e.kind != StateKind::Bank) {
            engine.write(&entry.name, &self.read(&entry.name)?)?;
        }
        self.read(npid_engine::state::BANK)
    }

    /// Checks that the file holds every tensor of the network of `description` in its shape, and
    /// nothing else but what belongs to training alone.
    ///
    /// # Errors
    /// [`Error::Input`] listing missing, unused and mismatched names.
    pub fn check_network(&self, description: &Description) -> Result<(), Error> {
        let of_network = |entry: &StateEntry| {
            matches!(entry.kind, StateKind::Param(_) | StateKind::Statistic(_))
        };
        let entries = npid_engine::state::entries(description).into_iter();
        self.check(&entries.filter(of_network).collect::<Vec<_>>(), false)
    }

    /// The elements of a tensor, by its name.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such tensor of numbers, or the file can't be read.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, Error> {
        let fail = |what: String| Error::input(format!("{}: {what}", self.path.display()));
        let io = |error: std::io::Error| fail(format!("cannot be read ({error})"));
        let found = self.tensors.info(name).and_then(|info| {
            let mut known = RowType::NAMED.into_iter().map(|(_, dtype)| dtype);
            let dtype = known.find(|&dtype| stored(dtype) == info.dtype)?;
            Some((info.data_offsets, dtype))
        });
        let Some(((start, end), dtype)) = found else {
            return Err(fail(format!("there is no {name} in it")));
        };
        let mut file = &self.file;
        (file.seek(SeekFrom::Start(self.data_start + start as u64))).map_err(io)?;
        let mut values = Vec::with_capacity((end - start) / dtype.bytes());
        let mut bytes = vec![0; BUFFER.min(end - start)];
        for at in (start..end).step_by(BUFFER) {
            let bytes = &mut bytes[..BUFFER.min(end - at)];
            file.read_exact(bytes).map_err(io)?;
            values.extend(decode(dtype, bytes));
        }
        Ok(values)
    }

    /// Compares names and shapes.
    fn check(&self, entries: &[StateEntry], whole: bool) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut mismatched = Vec::new();
        for entry in entries {
            match self.tensors.info(&entry.name) {
                None => missing.push(entry.name.clone()),
                Some(info) if info.dtype != stored(entry.dtype) => {
                    let (name, found, wanted) = (&entry.name, info.dtype, stored(entry.dtype));
                    mismatched.push(format!("{name} is {found}, not {wanted}"));
                }
                Some(info) if info.shape != entry.shape => mismatched.push(format!(
                    "{} is {:?}, the configuration asks for {:?}",
                    entry.name, info.shape, entry.shape
                )),
                Some(_) => {}
            }
        }
        if whole && missing.iter().any(|name| name == npid_engine::state::BANK) {
            return Err(Error::input(format!(
                "{}: it holds a network alone, without a memory bank, so there is no run to go on \
                 with; begin one from its weights with --set 'model.backbone.init_cfg={{ type = \
                 \"Pretrained\", checkpoint = \"{0}\" }}'",
                self.path.display()
            )));
        }
        let training = |name: &str| {
            use npid_engine::state::{BANK, LOG_Z, MOMENTUM};
            name.starts_with(MOMENTUM) || name == BANK || name == LOG_Z
        };
        let known: std::collections::HashSet<&str> =
            entries.iter().map(|entry| entry.name.as_str()).collect();
        let unused: Vec<String> = (self.tensors.offset_keys().into_iter())
            .filter(|name| !known.contains(name.as_str()) && (whole || !training(name)))
            .collect();
        let parts: Vec<String> = [
            ("missing", missing),
            ("unused", unused),
            ("of another shape", mismatched),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", brief(&names)))
        .collect();
        if parts.is_empty() {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: a checkpoint of another architecture ({}); restore the config.toml that the run \
             was started with",
            self.path.display(),
            parts.join("; ")
        )))
    }
}

/// The first three names and how many more there are.
fn brief(names: &[String]) -> String {
    let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Lets a write past a limit on the size of files (`ulimit -f`) fail with an error, as a full disk
/// does, where the signal it sends would end the process without a word. Once a process.
pub fn survive_file_size_limit() {
    #[cfg(unix)]
    {
        use std::sync::{Arc, Once, atomic::AtomicBool};
        static ONCE: Once = Once::new();
        // If the handler can't be set, the process ends by the signal, as it would have before.
        ONCE.call_once(|| {
            let flag = Arc::new(AtomicBool::new(false));
            let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, flag);
        });
    }
}
