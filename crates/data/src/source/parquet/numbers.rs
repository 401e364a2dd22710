//! Columns of numbers, read whole.

use parquet::column::reader::ColumnReader;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader};
use parquet::file::serialized_reader::SerializedFileReader;

use super::read_some;

/// A column of whole numbers (int32 or int64), row by row.
pub(super) fn integers<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    column: usize,
) -> Result<Vec<Option<i64>>, ParquetError> {
    let mut all = Vec::new();
    each_group(reader, column, |reader, rows, present| match reader {
        ColumnReader::Int64ColumnReader(mut r) => add(&mut all, read_some(&mut r, rows, present)?),
        ColumnReader::Int32ColumnReader(mut r) => add(&mut all, read_some(&mut r, rows, present)?),
        _ => Err(ParquetError::General(
            "not a column of whole numbers".into(),
        )),
    })?;
    Ok(all)
}

/// A column of numbers, row by row: of floating-point (float or double) or whole ones.
pub(super) fn floats<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    column: usize,
) -> Result<Vec<Option<f64>>, ParquetError> {
    let mut all = Vec::new();
    each_group(reader, column, |reader, rows, present| match reader {
        ColumnReader::DoubleColumnReader(mut r) => add(&mut all, read_some(&mut r, rows, present)?),
        ColumnReader::FloatColumnReader(mut r) => add(&mut all, read_some(&mut r, rows, present)?),
        ColumnReader::Int32ColumnReader(mut r) => add(&mut all, read_some(&mut r, rows, present)?),
        ColumnReader::Int64ColumnReader(mut r) => {
            let (there, values) = read_some(&mut r, rows, present)?;
            let values: Vec<f64> = values.into_iter().map(|v| v as f64).collect();
            add(&mut all, (there, values))
        }
        _ => Err(ParquetError::General("not a column of numbers".into())),
    })?;
    Ok(all)
}

/// Hands over the column's reader of each row group, with the number of its rows and the definition
/// level of a value that is there.
fn each_group<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
    column: usize,
    mut read: impl FnMut(ColumnReader, usize, i16) -> Result<(), ParquetError>,
) -> Result<(), ParquetError> {
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let present = schema.column(column).max_def_level();
    for group in 0..reader.num_row_groups() {
        let rows = usize::try_from(metadata.row_group(group).num_rows()).unwrap_or(0);
        let values = reader.get_row_group(group)?.get_column_reader(column)?;
        read(values, rows, present)?;
    }
    Ok(())
}

/// Appends the rows of a group.
fn add<V, T: From<V>>(
    all: &mut Vec<Option<T>>,
    (there, values): (Vec<bool>, Vec<V>),
) -> Result<(), ParquetError> {
    let mut values = values.into_iter();
    for is_there in there {
        all.push(is_there.then(|| values.next()).flatten().map(T::from));
    }
    Ok(())
}
