//! A parquet file in the layout of Hugging Face's data sets: a column of encoded pictures, and
//! perhaps one of labels.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::SerializedFileReader;
use serde_json::Value;

use super::{ContentHash, Description, Error, Picture, PictureError, Source};
use crate::decode::{Format, decode};

/// Encoded pictures up to this size in all (1 GiB) are kept in memory.
///
/// Rows are read in shuffled order, and a parquet file can only be read by the page, about 1 MiB:
/// for small pictures (CIFAR-10: 50,000 in 20 MB) that would be a hundred times the work, so they
/// are kept. Larger files hold larger pictures, of which a page has few, and are read again each
/// time, so that memory stays bounded.
const KEEP_BYTES: u64 = 1 << 30;

/// Pictures in a parquet file.
///
/// The pictures are in the column `image` or `img`, or the one that the file's `huggingface`
/// metadata declares an image: bytes, or a struct with `bytes` in it. Labels are in the integer
/// column `label`, or the first one declared a class label, or `labels` or `fine_label`; negative
/// ones (Hugging Face's mark of a hidden test label) and nulls are none.
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
        let damaged = |error: ParquetError| Error::Parquet {
            path: path.into(),
            reason: error.to_string(),
        };
        let file = SharedFile::open(path).map_err(|source| Error::Io {
            path: path.into(),
            source,
        })?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let metadata = reader.metadata();
        let features = huggingface_features(metadata);
        let image_column =
            image_column(metadata, &features).ok_or_else(|| Error::NoImageColumn {
                path: path.into(),
                columns: column_names(metadata),
            })?;
        let mut starts = vec![0];
        let mut bytes = 0;
        for group in metadata.row_groups() {
            let rows = usize::try_from(group.num_rows()).unwrap_or(0);
            starts.push(starts[starts.len() - 1] + rows);
            bytes += u64::try_from(group.column(image_column).uncompressed_size()).unwrap_or(0);
        }
        let rows = starts[starts.len() - 1];
        if rows == 0 {
            return Err(Error::NoRows { path: path.into() });
        }
        let (label, notes) = label_column(metadata, &features);
        let label_index = label.as_ref().map(|(column, _)| *column);
        for column in [Some(image_column), label_index].into_iter().flatten() {
            check_compression(path, metadata, column)?;
        }
        let (labels, classes) = match &label {
            Some((column, name)) => (
                read_labels(&reader, *column).map_err(damaged)?,
                class_names(&features, name),
            ),
            None => (vec![None; rows], Vec::new()),
        };
        if labels.len() != rows {
            return Err(Error::Parquet {
                path: path.into(),
                reason: format!("{} labels for {rows} rows", labels.len()),
            });
        }
        let mut source = ParquetSource {
            path: path.into(),
            name: path
                .file_name()
                .map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
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
            source.kept = Some(source.keep().map_err(damaged)?);
        }
        Ok(source)
    }

    fn column(&self, group: usize) -> Result<ColumnReaderImpl<ByteArrayType>, ParquetError> {
        let group = self.reader.get_row_group(group)?;
        match group.get_column_reader(self.image_column)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(reader),
            _ => Err(ParquetError::General(
                "the image column isn't of bytes".into(),
            )),
        }
    }

    fn keep(&self) -> Result<Kept, ParquetError> {
        let mut kept = Kept {
            bytes: Vec::new(),
            offsets: vec![0],
        };
        let present = self.present_level();
        for (group, ends) in self.starts.windows(2).enumerate() {
            let mut reader = self.column(group)?;
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
            let mut reader = self.column(group)?;
            reader.skip_records(row - self.starts[group])?;
            let (_, mut values) = read_some(&mut reader, 1, self.present_level())?;
            Ok(values.pop())
        };
        match read() {
            Ok(Some(value)) if !value.data().is_empty() => use_bytes(value.data()),
            Ok(_) => Err(absent()),
            Err(error) => Err(PictureError::new(format!(
                "{} can't be read there: {error}",
                self.path.display()
            ))),
        }
    }
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
            let format = |bytes: &[u8]| match Format::of(bytes) {
                Format::Jpeg => Ok("JPEG"),
                Format::Png => Ok("PNG"),
                Format::Other(what) => Err(PictureError::new(what)),
            };
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

/// What the file says about its columns: Hugging Face's `info.features`, or null.
fn huggingface_features(metadata: &ParquetMetaData) -> Value {
    let entries = metadata.file_metadata().key_value_metadata();
    entries
        .into_iter()
        .flatten()
        .find(|entry| entry.key == "huggingface")
        .and_then(|entry| serde_json::from_str::<Value>(entry.value.as_deref()?).ok())
        .and_then(|mut value| Some(value.get_mut("info")?.get_mut("features")?.take()))
        .unwrap_or(Value::Null)
}

/// Names of the features of a type, in the order of the file.
fn features_of_type<'a>(features: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a str> {
    features
        .as_object()
        .into_iter()
        .flatten()
        .filter(move |(_, feature)| feature.get("_type").and_then(Value::as_str) == Some(kind))
        .map(|(name, _)| name.as_str())
}

/// The leaf column with this path, of a physical type that `accepts`.
fn leaf(
    metadata: &ParquetMetaData,
    path: &str,
    accepts: impl Fn(PhysicalType) -> bool,
) -> Option<usize> {
    let schema = metadata.file_metadata().schema_descr();
    (0..schema.num_columns()).find(|&index| {
        let column = schema.column(index);
        column.path().string() == path
            && column.max_rep_level() == 0
            && accepts(column.physical_type())
    })
}

fn image_column(metadata: &ParquetMetaData, features: &Value) -> Option<usize> {
    let is_bytes = |kind| kind == PhysicalType::BYTE_ARRAY;
    ["image", "img"]
        .into_iter()
        .chain(features_of_type(features, "Image"))
        .find_map(|name| {
            leaf(metadata, &format!("{name}.bytes"), is_bytes)
                .or_else(|| leaf(metadata, name, is_bytes))
        })
}

/// The column of labels with its name, and what is to be said about columns that look like labels
/// but can't be read as such.
fn label_column(
    metadata: &ParquetMetaData,
    features: &Value,
) -> (Option<(usize, String)>, Vec<String>) {
    let is_integer = |kind| matches!(kind, PhysicalType::INT32 | PhysicalType::INT64);
    let names = ["label"]
        .into_iter()
        .chain(features_of_type(features, "ClassLabel"))
        .chain(["labels", "fine_label"]);
    let mut notes = Vec::new();
    for name in names {
        if let Some(column) = leaf(metadata, name, is_integer) {
            return (Some((column, name.to_owned())), notes);
        }
        if let Some(kind) = kind_of_column(metadata, name) {
            let note = format!(
                "column {name} is {kind} and is not read; labels are whole numbers (int32 or int64)"
            );
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    (None, notes)
}

/// What the column of this name holds, for people.
fn kind_of_column(metadata: &ParquetMetaData, name: &str) -> Option<String> {
    let root = metadata.file_metadata().schema_descr().root_schema();
    let field = root
        .get_fields()
        .iter()
        .find(|field| field.name() == name)?;
    if field.is_group() {
        return Some("a list or a struct".into());
    }
    let text = matches!(
        field.get_basic_info().logical_type_ref(),
        Some(LogicalType::String)
    ) || field.get_basic_info().converted_type() == ConvertedType::UTF8;
    Some(match field.get_physical_type() {
        PhysicalType::BYTE_ARRAY if text => "text".into(),
        PhysicalType::BYTE_ARRAY | PhysicalType::FIXED_LEN_BYTE_ARRAY => "bytes".into(),
        PhysicalType::FLOAT | PhysicalType::DOUBLE => "floating-point numbers".into(),
        PhysicalType::BOOLEAN => "true or false".into(),
        other => format!("of type {other}, repeated or not a plain number"),
    })
}

/// Whether a column's pages can be unpacked.
fn check_compression(path: &Path, metadata: &ParquetMetaData, column: usize) -> Result<(), Error> {
    for group in metadata.row_groups() {
        let column = group.column(column);
        let codec = match column.compression() {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::ZSTD(_) => continue,
            Compression::BROTLI(_) => "brotli".into(),
            other => other.to_string().to_lowercase(),
        };
        return Err(Error::Compression {
            path: path.into(),
            column: column.column_path().string(),
            codec,
        });
    }
    Ok(())
}

fn class_names(features: &Value, label: &str) -> Vec<String> {
    let names = features.get(label).and_then(|feature| feature.get("names"));
    names
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|name| {
            name.as_str()
                .map_or_else(|| name.to_string(), str::to_owned)
        })
        .collect()
}

fn column_names(metadata: &ParquetMetaData) -> Vec<String> {
    let schema = metadata.file_metadata().schema_descr();
    let describe = |column: &parquet::schema::types::ColumnDescPtr| {
        format!("{} ({})", column.path().string(), column.physical_type())
    };
    schema.columns().iter().map(describe).collect()
}

fn read_labels<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    column: usize,
) -> Result<Vec<Option<u32>>, ParquetError> {
    let present = reader
        .metadata()
        .file_metadata()
        .schema_descr()
        .column(column)
        .max_def_level();
    let mut labels = Vec::new();
    let mut add = |rows: Vec<bool>, values: Vec<i64>| {
        let mut values = values.into_iter();
        for is_present in rows {
            let value = is_present.then(|| values.next()).flatten();
            labels.push(value.and_then(|value| u32::try_from(value).ok()));
        }
    };
    for group in 0..reader.num_row_groups() {
        let rows = usize::try_from(reader.metadata().row_group(group).num_rows()).unwrap_or(0);
        match reader.get_row_group(group)?.get_column_reader(column)? {
            ColumnReader::Int64ColumnReader(mut reader) => {
                let (rows, values) = read_some(&mut reader, rows, present)?;
                add(rows, values);
            }
            ColumnReader::Int32ColumnReader(mut reader) => {
                let (rows, values) = read_some(&mut reader, rows, present)?;
                add(rows, values.into_iter().map(i64::from).collect());
            }
            _ => {}
        }
    }
    Ok(labels)
}

/// A file that several threads read at once. The parquet crate's own reader of [`File`] shares one
/// position among its clones; this one opens the file anew for each read.
struct SharedFile {
    path: Arc<Path>,
    length: u64,
}

impl SharedFile {
    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(SharedFile {
            path: path.into(),
            length: File::open(path)?.metadata()?.len(),
        })
    }

    fn at(&self, start: u64) -> std::io::Result<File> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(self.at(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        let mut buffer = Vec::with_capacity(length.min(1 << 24));
        let read = self
            .at(start)?
            .take(length as u64)
            .read_to_end(&mut buffer)?;
        if read != length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} expected, {read} found"
            )));
        }
        Ok(buffer.into())
    }
}
