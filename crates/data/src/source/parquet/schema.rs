//! What a parquet file says about its columns.

use std::path::Path;

use parquet::basic::{Compression, ConvertedType, LogicalType, Type as PhysicalType};
use parquet::file::metadata::ParquetMetaData;
use serde_json::Value;

use super::super::Error;

/// What the file says about its columns: Hugging Face's `info.features`, or null.
pub(super) fn huggingface_features(metadata: &ParquetMetaData) -> Value {
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
pub(super) fn leaf(
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

pub(super) fn image_column(metadata: &ParquetMetaData, features: &Value) -> Option<usize> {
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
pub(super) fn label_column(
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
pub(super) fn kind_of_column(metadata: &ParquetMetaData, name: &str) -> Option<String> {
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
pub(super) fn check_compression(
    path: &Path,
    metadata: &ParquetMetaData,
    column: usize,
) -> Result<(), Error> {
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

pub(super) fn class_names(features: &Value, label: &str) -> Vec<String> {
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

pub(super) fn column_names(metadata: &ParquetMetaData) -> Vec<String> {
    let schema = metadata.file_metadata().schema_descr();
    let describe = |column: &parquet::schema::types::ColumnDescPtr| {
        format!("{} ({})", column.path().string(), column.physical_type())
    };
    schema.columns().iter().map(describe).collect()
}
