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

/// Pictures of one size with their labels, which never fall: a folder of them has the same order.
pub struct Set {
    pub pictures: Vec<Picture>,
    pub labels: Vec<u32>,
}

impl Set {
    /// `len` pictures of three classes.
    pub fn new(len: usize, width: usize, height: usize, grey: bool) -> Self {
        let pictures = (0..len).map(|i| {
            let mut made = picture(width, height, i as u8 + 1);
            for (at, pixel) in made.rgb.chunks_exact_mut(3).enumerate() {
                // Something of which no two rows or columns are alike.
                pixel[1] ^= (at * at + 7 * i) as u8;
                if grey {
                    pixel.fill(pixel[1]);
                }
            }
            made
        });
        Set {
            pictures: pictures.collect(),
            labels: (0..len).map(|i| (i * 3 / len) as u32).collect(),
        }
    }

    fn rows(&self) -> impl Iterator<Item = (usize, &Picture, u32)> {
        let rows = self.pictures.iter().zip(&self.labels).enumerate();
        rows.map(|(i, (picture, &label))| (i, picture, label))
    }

    /// The part of a set.
    pub fn part(&self, rows: std::ops::Range<usize>) -> Set {
        Set {
            pictures: self.pictures[rows.clone()].to_vec(),
            labels: self.labels[rows].to_vec(),
        }
    }

    /// `root/LABEL/NUMBER.png`.
    pub fn write_folder(&self, root: &Path) {
        for (i, picture, label) in self.rows() {
            write(root, &format!("{label}/{i:03}.png"), &png(picture));
        }
    }

    /// Pictures in `root/flat`, and `root/NAME` that lists them with their labels.
    pub fn write_list(&self, root: &Path, name: &str) {
        let mut lines = String::new();
        for (i, picture, label) in self.rows() {
            write(root, &format!("flat/{i:03}.png"), &png(picture));
            lines += &format!("flat/{i:03}.png {label}\n");
        }
        write(root, name, lines.as_bytes());
    }

    /// CIFAR's records, with this many bytes before the last of their labels.
    pub fn cifar(&self, coarse: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (_, picture, label) in self.rows() {
            bytes.resize(bytes.len() + coarse, 9);
            bytes.push(label as u8);
            for channel in 0..3 {
                bytes.extend(picture.rgb.iter().skip(channel).step_by(3));
            }
        }
        bytes
    }

    /// STL-10's pictures and labels.
    pub fn stl10(&self) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = Vec::new();
        for (_, picture, _) in self.rows() {
            let (width, height) = (picture.width, picture.height);
            for channel in 0..3 {
                for x in 0..width {
                    bytes.extend((0..height).map(|y| picture.rgb[(y * width + x) * 3 + channel]));
                }
            }
        }
        (bytes, self.labels.iter().map(|&l| l as u8 + 1).collect())
    }

    /// IDX files of pictures and labels.
    pub fn idx(&self) -> (Vec<u8>, Vec<u8>) {
        let long = |n: usize| (n as u32).to_be_bytes();
        let first = &self.pictures[0];
        let mut images = vec![0, 0, 8, 3];
        for n in [self.pictures.len(), first.height, first.width] {
            images.extend(long(n));
        }
        for (_, picture, _) in self.rows() {
            images.extend(picture.rgb.iter().step_by(3));
        }
        let mut labels = vec![0, 0, 8, 1];
        labels.extend(long(self.labels.len()));
        labels.extend(self.labels.iter().map(|&label| label as u8));
        (images, labels)
    }

    /// A WebDataset shard.
    pub fn tar(&self) -> Vec<u8> {
        let mut members = Vec::new();
        for (i, picture, label) in self.rows() {
            members.push((format!("{i:03}.png"), png(picture)));
            members.push((format!("{i:03}.cls"), label.to_string().into_bytes()));
        }
        tar(&members)
    }

    /// Rows of a parquet file.
    pub fn parquet_rows(&self) -> Vec<Row> {
        let row = |(_, picture, label)| (Some(png(picture)), Some(i64::from(label)));
        self.rows().map(row).collect()
    }

    /// That a source holds these pictures and labels, in this order.
    #[track_caller]
    pub fn check(&self, source: &dyn npid_data::source::Source, what: &str) {
        assert_eq!(source.len(), self.pictures.len(), "{what}");
        for (i, picture, label) in self.rows() {
            assert_eq!(&source.picture(i).unwrap(), picture, "{what}, row {i}");
            assert_eq!(source.label(i), Some(label), "{what}, row {i}");
            let (again, hash) = source.picture_and_hash(i).unwrap();
            assert_eq!(&again, picture, "{what}, row {i}");
            assert_eq!(source.content_hash(i), Ok(hash), "{what}, row {i}");
        }
    }
}

/// A tar of these files.
pub fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Packed as gzip does.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}
