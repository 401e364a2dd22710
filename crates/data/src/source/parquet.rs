//! A parquet file in the layout of Hugging Face's data sets: a column of encoded pictures, and
//! perhaps one of labels.

mod numbers;
mod schema;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::SerializedFileReader;

use super::file::{KEEP_BYTES, SharedFile, check_encoded};
use super::labels::numbered;
use super::{ContentHash, Description, Error, Picture, PictureError, Source};
use crate::decode::{Format, decode};
use schema::{
    check_compression, class_names, column_names, huggingface_features, image_column,
    kind_of_column, label_column, leaf,
};

/// Pictures in a parquet file.
///
/// The pictures are in the column `image` or `img`, or the one that the file's `huggingface`
/// metadata declares an image: bytes, or a struct with `bytes` in it. Labels are in the integer
/// column `label`, or the first one declared a class label, or `labels` or `fine_label`; negative
/// ones (Hugging Face's mark of a hidden test label) and nulls are none.
///
/// Rows are read in shuffled order, and a parquet file can only be read by the page, about 1 MiB:
/// for small pictures (CIFAR-10: 50,000 in 20 MB) that would be a hundred times the work, so up to
/// 1 GiB in all is kept in memory, encoded. Larger files hold larger pictures, of which a page has
/// few, and are read again each time, so that memory stays bounded.
pub struct ParquetSource {
    path: PathBuf,
    name: String,
    reader: SerializedFileReader<SharedFile>,
    image_column: usize,
    /// First row of each row group, and the number of rows at the end.
    starts: Vec<usize>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    notes: Vec<String>,
    /// All encoded pictures, or `None` for a file too large for that.
    kept: Option<Kept>,
    bytes: u64,
}

/// Encoded pictures in one buffer.
struct Kept {
    bytes: Vec<u8>,
    /// Where each row begins, and the end; an absent picture takes no bytes.
    offsets: Vec<usize>,
}

impl ParquetSource {
    /// Reads the file's metadata and labels, and its pictures if they are small in all.
    ///
    /// # Errors
    /// [`Error::Parquet`] for a damaged file, [`Error::NoImageColumn`], [`Error::Io`], and
    /// [`Error::NoRows`] for one without rows, [`Error::Compression`] for one that can't be unpacked.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_keeping(path, KEEP_BYTES)
    }

    /// As [`ParquetSource::open`], with another limit, in bytes, up to which all encoded pictures
    /// are kept in memory; above it each is read from the file whenever it is asked for.
    ///
    /// # Errors
    /// As [`ParquetSource::open`].
    pub fn open_keeping(path: &Path, keep_bytes: u64) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        Self::open_named(path, super::file::printable(name), keep_bytes)
    }

    /// As [`ParquetSource::open_keeping`]; `name` stands before the row in the pictures' names.
    pub(super) fn open_named(path: &Path, name: String, keep_bytes: u64) -> Result<Self, Error> {
        let damaged = |error: ParquetError| Error::Parquet {
            path: path.into(),
            reason: error.to_string(),
        };
        let file = SharedFile::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.length();
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let metadata = reader.metadata();
        let features = huggingface_features(metadata);
        let image_column =
            image_column(metadata, &features).ok_or_else(|| Error::NoImageColumn {
                path: path.into(),
                columns: column_names(metadata),
            })?;
        let mut starts = vec![0];
        let mut bytes: u64 = 0;
        for group in metadata.row_groups() {
            // No file has a row in less than a byte, and few an absurd number of them; what follows
            // takes memory for each.
            let rows = usize::try_from(group.num_rows()).ok();
            let end = rows.and_then(|rows| rows.checked_add(starts[starts.len() - 1]));
            let end = end.filter(|&end| end as u64 <= length.max(1 << 20));
            starts.push(end.ok_or_else(|| Error::Parquet {
                path: path.into(),
                reason: format!("it says {} rows in {length} bytes", group.num_rows()),
            })?);
            let group = u64::try_from(group.column(image_column).uncompressed_size());
            bytes = bytes.saturating_add(group.unwrap_or(0));
        }
        let rows = starts[starts.len() - 1];
        if rows == 0 {
            return Err(Error::NoRows {
                path: path.into(),
                kind: "a parquet file",
            });
        }
        let (label, notes) = label_column(metadata, &features);
        let label_index = label.as_ref().map(|(column, _)| *column);
        for column in [Some(image_column), label_index].into_iter().flatten() {
            check_compression(path, metadata, column)?;
        }
        let (labels, mut classes) = match &label {
            Some((column, _)) => {
                let values = guarded(|| numbers::integers(&reader, *column));
                numbered(values.map_err(damaged)?)
            }
            None => (vec![None; rows], Vec::new()),
        };
        if labels.len() != rows {
            return Err(Error::Parquet {
                path: path.into(),
                reason: format!("{} labels for {rows} rows", labels.len()),
            });
        }
        if let (Some((_, name)), true) = (&label, classes.is_empty()) {
            classes = class_names(&features, name);
        }
        let mut source = ParquetSource {
            path: path.into(),
            name,
            reader,
            image_column,
            starts,
            labels,
            classes,
            notes,
            kept: None,
            bytes,
        };
        if bytes <= keep_bytes {
            source.kept = Some(guarded(|| source.keep(keep_bytes)).map_err(damaged)?);
        }
        Ok(source)
    }

    /// Encoded bytes that are kept in memory.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.bytes.len() as u64)
    }

    fn images(&self, group: usize) -> Result<ColumnReaderImpl<ByteArrayType>, ParquetError> {
        let group = self.reader.get_row_group(group)?;
        match group.get_column_reader(self.image_column)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(reader),
            _ => Err(ParquetError::General(
                "the image column isn't of bytes".into(),
            )),
        }
    }

    fn keep(&self, most: u64) -> Result<Kept, ParquetError> {
        let mut kept = Kept {
            bytes: Vec::new(),
            offsets: vec![0],
        };
        let present = self.present_level();
        for (group, ends) in self.starts.windows(2).enumerate() {
            let mut reader = self.images(group)?;
            let mut left = ends[1] - ends[0];
            while left > 0 {
                // By the batch, so that only a part of the file is in memory twice.
                let (rows, values) = read_some(&mut reader, left.min(256), present)?;
                if rows.is_empty() {
                    return Err(ParquetError::General(format!("{left} rows are missing")));
                }
                left -= rows.len();
                let mut values = values.iter();
                for is_present in rows {
                    if let Some(value) = is_present.then(|| values.next()).flatten() {
                        kept.bytes.extend_from_slice(value.data());
                    }
                    if kept.bytes.len() as u64 > most {
                        let what = "its pictures are larger than it says";
                        return Err(ParquetError::General(what.into()));
                    }
                    kept.offsets.push(kept.bytes.len());
                }
            }
        }
        Ok(kept)
    }

    /// The definition level of a picture that is there; lower where it, or its struct, is null.
    fn present_level(&self) -> i16 {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        schema.column(self.image_column).max_def_level()
    }

    /// The encoded picture of a row.
    fn encoded<R>(
        &self,
        row: usize,
        use_bytes: impl FnOnce(&[u8]) -> Result<R, PictureError>,
    ) -> Result<R, PictureError> {
        let absent = || PictureError::new("the row holds no picture bytes");
        if let Some(kept) = &self.kept {
            let bytes = &kept.bytes[kept.offsets[row]..kept.offsets[row + 1]];
            return if bytes.is_empty() {
                Err(absent())
            } else {
                use_bytes(bytes)
            };
        }
        let group = self.starts.partition_point(|&start| start <= row) - 1;
        let read = || -> Result<Option<ByteArray>, ParquetError> {
            let mut reader = self.images(group)?;
            reader.skip_records(row - self.starts[group])?;
            let (_, mut values) = read_some(&mut reader, 1, self.present_level())?;
            Ok(values.pop())
        };
        match guarded(read) {
            Ok(Some(value)) if !value.data().is_empty() => {
                check_encoded(value.data().len() as u64)?;
                use_bytes(value.data())
            }
            Ok(_) => Err(absent()),
            Err(error) => Err(PictureError::new(format!(
                "{} can't be read there: {error}",
                self.path.display()
            ))),
        }
    }
}

/// A damaged file is an error, also where its reader gives up with a panic.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    crate::decode::catch(read).unwrap_or_else(|| {
        let what = "the reader gave up on it with a panic";
        Err(ParquetError::General(what.into()))
    })
}

/// Reads up to `rows` rows: for each whether it is there, and the values that are.
fn read_some<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    present: i16,
) -> Result<(Vec<bool>, Vec<T::T>), ParquetError> {
    let mut levels = Vec::new();
    let mut values = Vec::new();
    let (read, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values)?;
    let rows = if present == 0 {
        vec![true; read]
    } else {
        levels.iter().map(|&level| level == present).collect()
    };
    Ok((rows, values))
}

impl Source for ParquetSource {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn name(&self, row: usize) -> String {
        format!("{}#{row}", self.name)
    }

    fn label(&self, row: usize) -> Option<u32> {
        self.labels[row]
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        self.encoded(row, decode)
    }

    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        self.encoded(row, |bytes| Ok(ContentHash::of(bytes)))
    }

    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        self.encoded(row, |bytes| Ok((decode(bytes)?, ContentHash::of(bytes))))
    }

    fn column(&self, name: &str) -> Result<Vec<f64>, Error> {
        let path = self.path.display();
        let wrong = |what: String| Error::Column {
            column: name.into(),
            what,
        };
        let metadata = self.reader.metadata();
        let is_number = |kind| {
            matches!(
                kind,
                PhysicalType::INT32
                    | PhysicalType::INT64
                    | PhysicalType::FLOAT
                    | PhysicalType::DOUBLE
            )
        };
        let Some(column) = leaf(metadata, name, is_number) else {
            return Err(wrong(match kind_of_column(metadata, name) {
                Some(kind) => format!("in {path} it is {kind}; it must be numbers"),
                None => format!(
                    "{path} has no such column; its columns are {}",
                    column_names(metadata).join(", ")
                ),
            }));
        };
        check_compression(&self.path, metadata, column)?;
        let values = guarded(|| numbers::floats(&self.reader, column));
        let values = values.map_err(|error| Error::Parquet {
            path: self.path.clone(),
            reason: format!("column {name}: {error}"),
        })?;
        if values.len() != self.len() {
            let (found, rows) = (values.len(), self.len());
            return Err(wrong(format!(
                "{path} has {found} values in it for {rows} rows"
            )));
        }
        let row = values.iter().position(Option::is_none);
        match row {
            Some(row) => Err(wrong(format!(
                "row {row} of {path} has none; every row needs a number"
            ))),
            None => Ok(values.into_iter().flatten().collect()),
        }
    }

    fn describe(&self) -> Description {
        let labelled = self.labels.iter().flatten().count();
        let unnamed = self
            .labels
            .iter()
            .flatten()
            .max()
            .map_or(0, |m| *m as usize + 1);
        // Every row is of the first one's kind as far as anyone knows without reading all.
        let format = (0..self.len().min(16)).find_map(|row| {
            let format = |bytes: &[u8]| Ok(Format::of(bytes).name().unwrap_or("other"));
            self.encoded(row, format).ok()
        });
        Description {
            kind: "parquet file".into(),
            images: self.len(),
            classes: self.classes.len().max(unnamed),
            labelled,
            formats: format
                .map(|format| (format.to_owned(), self.len()))
                .into_iter()
                .collect(),
            bytes: Some(self.bytes),
            notes: self.notes(),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.length()
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(self.from(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        let read = self.read(start, length as u64);
        Ok(read.map_err(|e| ParquetError::EOF(e.to_string()))?.into())
    }
}
