//! Tables beside a run's arrays: parquet files, a row for each row of an array.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use crate::checkpoint::temporary_of;
use crate::error::Error;
use crate::run::cure;

/// Rows that are handed to the encoder at once.
const CHUNK: usize = 1 << 14;

/// One column; all of a table have the same length.
pub enum Column<'a> {
    /// Whole numbers (INT64).
    Numbers(&'a dyn Fn(usize) -> Option<i64>),
    /// Text (UTF-8).
    Text(&'a dyn Fn(usize) -> Option<String>),
}

/// Writes a parquet file of `rows` rows and named columns, all of which may hold nulls: under a
/// temporary name first, renamed when it is whole.
///
/// # Errors
/// [`Error::Run`] naming the file if it can't be written.
pub fn write(
    path: &Path,
    rows: usize,
    columns: &[(&str, Column<'_>)],
) -> std::result::Result<(), Error> {
    write_with(path, rows, columns, &[])
}

/// As [`write()`], with pairs of key and value in the file's own metadata.
///
/// # Errors
/// As [`write()`].
pub fn write_with(
    path: &Path,
    rows: usize,
    columns: &[(&str, Column<'_>)],
    metadata: &[(&str, &str)],
) -> std::result::Result<(), Error> {
    let temporary = temporary_of(path);
    let written = write_to(&temporary, rows, columns, metadata)
        .map_err(|error| error.to_string())
        .and_then(|()| fs::rename(&temporary, path).map_err(|error| error.to_string()));
    written.map_err(|error| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        Error::run(format!(
            "{}: can't be written ({error}); {}",
            path.display(),
            cure(path)
        ))
    })
}

fn write_to(
    path: &Path,
    rows: usize,
    columns: &[(&str, Column<'_>)],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let fields: String = (columns.iter())
        .map(|(name, column)| match column {
            Column::Numbers(_) => format!("OPTIONAL INT64 {name}; "),
            Column::Text(_) => format!("OPTIONAL BYTE_ARRAY {name} (UTF8); "),
        })
        .collect();
    let schema = Arc::new(parse_message_type(&format!(
        "message images {{ {fields}}}"
    ))?);
    let pairs: Vec<KeyValue> = (metadata.iter())
        .map(|&(key, value)| KeyValue::new(key.to_string(), value.to_string()))
        .collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata((!pairs.is_empty()).then_some(pairs))
        .build();
    let mut file = File::create(path)?;
    let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (_, column) in columns {
        let Some(mut sink) = group.next_column()? else {
            break; // the schema above has as many columns
        };
        for start in (0..rows).step_by(CHUNK) {
            write_chunk(&mut sink, start..rows.min(start + CHUNK), column)?;
        }
        sink.close()?;
    }
    group.close()?;
    writer.close()?;
    file.sync_all()?;
    Ok(())
}

fn write_chunk(
    sink: &mut SerializedColumnWriter<'_>,
    rows: std::ops::Range<usize>,
    column: &Column<'_>,
) -> Result<()> {
    /// A value's definition level is 1, a null's 0 and no value.
    fn split<T>(cells: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        for cell in cells {
            levels.push(i16::from(cell.is_some()));
            values.extend(cell);
        }
        (values, levels)
    }
    match column {
        Column::Numbers(cell) => {
            let (values, levels) = split(rows.map(cell));
            (sink.typed::<Int64Type>()).write_batch(&values, Some(&levels), None)?;
        }
        Column::Text(cell) => {
            let (values, levels) =
                split(rows.map(|row| cell(row).map(|t| ByteArray::from(t.into_bytes()))));
            (sink.typed::<ByteArrayType>()).write_batch(&values, Some(&levels), None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    #[test]
    fn what_is_written_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.parquet");
        let rows = CHUNK + 3;
        let label = |row: usize| (!row.is_multiple_of(3)).then_some(row as i64 * 7);
        let name = |row: usize| (!row.is_multiple_of(5)).then(|| format!("é/{row}.png"));
        let columns = [
            ("label", Column::Numbers(&label)),
            ("path", Column::Text(&name)),
        ];
        write(&path, rows, &columns).unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let mut seen = 0;
        for (row, cells) in reader.get_row_iter(None).unwrap().enumerate() {
            let cells = cells.unwrap();
            assert_eq!(cells.get_long(0).ok(), label(row));
            assert_eq!(cells.get_string(1).ok().cloned(), name(row));
            seen += 1;
        }
        assert_eq!(seen, rows);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary is left"
        );
    }
}
