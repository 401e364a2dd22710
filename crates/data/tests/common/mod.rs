//! Data that the tests make for themselves.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use npid_data::source::{Picture, open};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A picture of one colour gradient that tells it from others.
pub fn picture(width: usize, height: usize, seed: u8) -> Picture {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            rgb.extend([
                seed.wrapping_mul(37),
                (x * 255 / width) as u8,
                (y * 255 / height) as u8,
            ]);
        }
    }
    Picture { width, height, rgb }
}

pub fn png(picture: &Picture) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&picture.rgb).unwrap();
    writer.finish().unwrap();
    bytes
}

pub fn jpeg(picture: &Picture) -> Vec<u8> {
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 95)
        .encode(
            &picture.rgb,
            picture.width as u16,
            picture.height as u16,
            jpeg_encoder::ColorType::Rgb,
        )
        .unwrap();
    bytes
}

pub fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The one line that opening this path ends with.
pub fn open_error(path: &Path) -> String {
    let error = open(path).err().expect("an error").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// One row of a parquet file: its encoded picture, if any, and its label, if any.
pub type Row = (Option<Vec<u8>>, Option<i64>);

/// Writes rows as Hugging Face does, `group` of them in each row group. With `structs` the
/// pictures are in `image.bytes`, else in `image` itself.
pub fn write_parquet(path: &Path, rows: &[Row], group: usize, structs: bool, names: &[&str]) {
    write_parquet_with(path, rows, group, structs, names, Compression::SNAPPY);
}

/// As [`write_parquet`], compressed in this way.
pub fn write_parquet_with(
    path: &Path,
    rows: &[Row],
    group: usize,
    structs: bool,
    names: &[&str],
    compression: Compression,
) {
    let image = if structs {
        "optional group image { optional binary bytes; optional binary path (UTF8); }"
    } else {
        "optional binary image;"
    };
    let schema = format!("message schema {{ {image} optional int64 label; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let features = serde_json::json!({ "info": { "features": {
        "image": { "_type": "Image" },
        "label": { "_type": "ClassLabel", "names": names },
    }}});
    let properties = WriterProperties::builder()
        .set_key_value_metadata(Some(vec![KeyValue::new(
            "huggingface".to_owned(),
            features.to_string(),
        )]))
        .set_compression(compression)
        // Several pages in a row group, so that reading one row has some to pass over.
        .set_data_page_row_count_limit(4)
        .set_write_batch_size(2)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let present = if structs { 2 } else { 1 };
    for rows in rows.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let bytes: Vec<ByteArray> = rows
            .iter()
            .filter_map(|(bytes, _)| bytes.clone().map(ByteArray::from))
            .collect();
        let levels: Vec<i16> = rows
            .iter()
            .map(|(bytes, _)| if bytes.is_some() { present } else { 0 })
            .collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&bytes, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        if structs {
            let levels: Vec<i16> = levels.iter().map(|level| level / 2).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&[], Some(&levels), None)
                .unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().filter_map(|(_, label)| *label).collect();
        let levels: Vec<i16> = rows
            .iter()
            .map(|(_, label)| i16::from(label.is_some()))
            .collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&labels, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}
