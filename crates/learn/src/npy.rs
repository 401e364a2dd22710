//! NumPy's array files: version 1.0, `<f4`, C order.
//!
//! Source: NumPy's `lib/format.py`. A file is a magic, a length, a Python literal padded to a
//! multiple of 64 bytes, and the numbers.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::temporary_of;
use crate::error::Error;

/// Bytes before the numbers: enough for two 64-bit sizes.
const HEADER: usize = 128;

/// An N x D array of f32 that is written row by row, N being known at the end only. It takes its
/// name when it is whole; one that is dropped before leaves nothing.
#[derive(Debug)]
pub struct NpyWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
    dim: usize,
    rows: usize,
}

impl NpyWriter {
    /// Starts the file of rows of `dim` numbers.
    ///
    /// # Errors
    /// [`Error::Input`] naming `--out` if it can't be made, [`Error::Run`] if nothing can be written.
    pub fn create(path: &Path, dim: usize) -> Result<Self, Error> {
        let temporary = temporary_of(path);
        let file = File::create(&temporary).map_err(|error| {
            Error::input(format!(
                "--out {}: cannot be written ({error}); name a file in a folder that exists",
                path.display()
            ))
        })?;
        let mut file = BufWriter::new(file);
        let written = file.write_all(&[0; HEADER]);
        // From here on the temporary file is removed whatever happens.
        let writer = NpyWriter {
            path: path.to_path_buf(),
            temporary,
            file: Some(file),
            dim,
            rows: 0,
        };
        match written {
            Ok(()) => Ok(writer),
            Err(error) => Err(writer.failed(error)),
        }
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::run(format!(
            "{}: can't be written ({error}); make room for it",
            self.path.display()
        ))
    }

    /// Adds whole rows.
    ///
    /// # Errors
    /// [`Error::Run`] if they can't be written.
    pub fn write(&mut self, rows: &[f32]) -> Result<(), Error> {
        debug_assert_eq!(rows.len() % self.dim, 0);
        self.rows += rows.len() / self.dim;
        if let Some(file) = &mut self.file {
            let written = rows
                .iter()
                .try_for_each(|value| file.write_all(&value.to_le_bytes()));
            written.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Writes the header and gives the file its name. Returns the number of rows.
    ///
    /// # Errors
    /// [`Error::Run`] if that fails.
    pub fn finish(mut self) -> Result<usize, Error> {
        let Some(file) = self.file.take() else {
            return Ok(self.rows); // only `finish` takes it
        };
        let header = header(self.rows, self.dim);
        let named = (|| {
            let mut file = file.into_inner().map_err(|error| error.into_error())?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            file.sync_all()?;
            fs::rename(&self.temporary, &self.path)
        })();
        named.map_err(|error| self.failed(error))?;
        Ok(self.rows)
    }
}

impl Drop for NpyWriter {
    fn drop(&mut self) {
        // After `finish` there is no temporary any more, and an error here has nobody to hear it.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn header(rows: usize, dim: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((HEADER - 10) as u16).to_le_bytes());
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    header.extend(text.as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_numpys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let mut writer = NpyWriter::create(&path, 3).unwrap();
        writer.write(&[1.0, -2.0, 0.5]).unwrap();
        writer.write(&[0.0, 1e-9, 3.0]).unwrap();
        assert_eq!(writer.finish().unwrap(), 2);
        // numpy.save of the same array, NumPy 2.4.
        let mut expected = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, \
            'shape': (2, 3), }"
            .to_vec();
        expected.resize(127, b' ');
        expected.push(b'\n');
        for value in [1.0f32, -2.0, 0.5, 0.0, 1e-9, 3.0] {
            expected.extend(value.to_le_bytes());
        }
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn an_abandoned_array_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = NpyWriter::create(&folder.path().join("a.npy"), 2).unwrap();
        writer.write(&[1.0, 2.0]).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = folder.path().join("no/such/a.npy");
        assert_eq!(NpyWriter::create(&missing, 2).unwrap_err().exit_code(), 2);
    }
}
