//! Rows that changed between two checkpoints, in a file `step-NNNNNNNN.rows`.
//!
//! Little-endian: a header of 80 bytes, the numbers of the rows (8 bytes each, rising), the rows
//! (`feat_dim` numbers each), and the SHA-256 of all that comes before. As the header holds the
//! SHA-256 of the file before, each stands for all changes up to its own: it is the id of a state
//! of the bank.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use npid_engine::Engine;
use npid_engine::mapped::{decode, encode};
use npid_network::method::RowType;
use sha2::{Digest, Sha256};

use super::{Id, Shape, disk};
use crate::checkpoint::temporary_of;

/// Version of the format; see `docs/formats.md`.
const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"npidrows";

/// Bytes of the header.
const HEADER: usize = 80;

/// Bytes of the SHA-256 at the end.
const SEAL: usize = 32;

/// Rows that are read or written at once.
pub const CHUNK: usize = 1024;

/// The name of the file of changes up to `step`.
pub fn file_name(step: u64) -> String {
    format!("step-{step:08}.rows")
}

/// The step in the name of such a file.
pub fn step_of(name: &str) -> Option<u64> {
    (name.strip_prefix("step-")?.strip_suffix(".rows")?)
        .parse()
        .ok()
}

/// Gets rows and their bytes.
pub type Each<'a> = &'a mut dyn FnMut(&[u64], &[u8]) -> io::Result<()>;

/// Why a file of changes can't be used.
pub enum Bad {
    /// The disk doesn't give it.
    Unreadable(io::Error),
    /// It isn't what was written, or not by this run.
    Damaged(String),
    /// It is of another version.
    Version(u32),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Bad::Damaged("cut short".into()),
            _ => Bad::Unreadable(error),
        }
    }
}

/// A type of numbers, as the header has it.
fn code(dtype: RowType) -> u32 {
    match dtype {
        RowType::F32 => 0,
        RowType::Bf16 => 1,
        RowType::F16 => 2,
    }
}

/// Changes on the disk, found whole.
#[derive(Debug)]
pub struct Delta {
    path: PathBuf,
    /// The step they lead to.
    pub step: u64,
    /// The state they change.
    pub previous: Id,
    /// The state they lead to.
    pub id: Id,
    /// The rows that changed, rising.
    pub rows: Vec<u64>,
}

/// A file, and the SHA-256 of what was written to it.
struct Hashed {
    file: File,
    sha256: Sha256,
}

impl Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        disk::write(&self.file, bytes)
    }
}

impl Delta {
    /// Writes `rows` (rising, at least one) of the engine to `path`, under a temporary name first.
    ///
    /// # Errors
    /// If that fails; nothing is left behind then.
    pub fn write(
        path: &Path,
        shape: Shape,
        step: u64,
        previous: Id,
        rows: Vec<u64>,
        engine: &dyn Engine,
    ) -> io::Result<Self> {
        let temporary = temporary_of(path);
        let written = Delta::fill(&temporary, shape, step, previous, &rows, engine)
            .and_then(|id| disk::rename(&temporary, path).map(|()| id));
        match written {
            Ok(id) => Ok(Delta {
                path: path.to_path_buf(),
                step,
                previous,
                id,
                rows,
            }),
            Err(error) => {
                // The first error is the one to report; a temporary that stays is removed by a
                // resume.
                let _ = disk::remove(&temporary);
                Err(error)
            }
        }
    }

    fn fill(
        path: &Path,
        shape: Shape,
        step: u64,
        previous: Id,
        rows: &[u64],
        engine: &dyn Engine,
    ) -> io::Result<Id> {
        let mut file = Hashed {
            file: disk::create(path)?,
            sha256: Sha256::new(),
        };
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&code(shape.dtype).to_le_bytes());
        for number in [shape.rows as u64, shape.dim as u64, step, rows.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&previous.0);
        file.write(&bytes)?;
        for rows in rows.chunks(CHUNK * 8) {
            bytes.clear();
            bytes.extend(rows.iter().flat_map(|row| row.to_le_bytes()));
            file.write(&bytes)?;
        }
        for rows in rows.chunks(CHUNK) {
            bytes.clear();
            let values = engine.read_rows(rows).map_err(io::Error::other)?;
            encode(shape.dtype, &values, &mut bytes);
            file.write(&bytes)?;
        }
        let id = Id(file.sha256.finalize().into());
        disk::write(&file.file, &id.0)?;
        disk::sync(&file.file)?;
        Ok(id)
    }

    /// Opens changes to a bank of this shape and reads all of them once.
    ///
    /// # Errors
    /// If they can't be read, are damaged or of another shape or version.
    pub fn open(path: &Path, shape: Shape) -> Result<Self, Bad> {
        let damaged = |what: &str| Bad::Damaged(what.to_string());
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut reader = Summing {
            reader: BufReader::with_capacity(1 << 18, file),
            sha256: Sha256::new(),
        };
        let mut header = [0; HEADER];
        reader.read_exact(&mut header)?;
        if header[..8] != *MAGIC {
            return Err(damaged("not a file of changed rows"));
        }
        let narrow = |at: usize| u32::from_le_bytes(array(&header[at..]));
        let wide = |at: usize| u64::from_le_bytes(array(&header[at..]));
        if narrow(8) != VERSION {
            return Err(Bad::Version(narrow(8)));
        }
        if narrow(12) != code(shape.dtype)
            || wide(16) != shape.rows as u64
            || wide(24) != shape.dim as u64
        {
            return Err(damaged("its rows are others in number, length or type"));
        }
        let (step, count) = (wide(32), wide(40));
        // What is said is checked against the file's size before memory is taken for it.
        let whole = (count.checked_mul(8 + shape.stride() as u64))
            .and_then(|bytes| bytes.checked_add((HEADER + SEAL) as u64));
        match whole {
            Some(whole) if whole > length => return Err(damaged("cut short")),
            Some(whole) if whole == length && count <= shape.rows as u64 => {}
            _ => return Err(damaged("its length contradicts its header")),
        }
        let mut rows = Vec::with_capacity(count as usize);
        let mut number = [0; 8];
        for _ in 0..count {
            reader.read_exact(&mut number)?;
            rows.push(u64::from_le_bytes(number));
        }
        let mut bytes = vec![0; shape.stride()];
        for _ in 0..count {
            reader.read_exact(&mut bytes)?;
        }
        let found: [u8; SEAL] = reader.sha256.finalize().into();
        let mut seal = [0; SEAL];
        reader.reader.read_exact(&mut seal)?;
        if found != seal {
            return Err(damaged("its bytes don't match its SHA-256"));
        }
        let rising = rows.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || rows.last().is_some_and(|&row| row >= shape.rows as u64) {
            return Err(damaged("its rows don't rise, or aren't among the bank's"));
        }
        Ok(Delta {
            path: path.to_path_buf(),
            step,
            previous: Id(array(&header[48..])),
            id: Id(seal),
            rows,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the rows, [`CHUNK`] rows at a time: `each` gets the rows and their bytes.
    ///
    /// # Errors
    /// If the file can't be read, or `each` fails.
    pub fn each(&self, shape: Shape, each: Each<'_>) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        let start = HEADER + 8 * self.rows.len();
        io::Seek::seek(&mut file, io::SeekFrom::Start(start as u64))?;
        let mut bytes = Vec::new();
        for rows in self.rows.chunks(CHUNK) {
            bytes.resize(rows.len() * shape.stride(), 0);
            file.read_exact(&mut bytes)?;
            each(rows, &bytes)?;
        }
        Ok(())
    }

    /// Gives the engine the rows.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn apply(&self, shape: Shape, engine: &mut dyn Engine) -> io::Result<()> {
        self.each(shape, &mut |rows, bytes| {
            let values = decode(shape.dtype, bytes);
            engine.write_rows(rows, &values).map_err(io::Error::other)
        })
    }
}

/// The first bytes of a slice that has as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// A reader, and the SHA-256 of what was read.
struct Summing<R> {
    reader: R,
    sha256: Sha256,
}

impl<R: Read> Summing<R> {
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(bytes)?;
        self.sha256.update(bytes);
        Ok(())
    }
}
