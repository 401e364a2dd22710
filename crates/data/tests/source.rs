//! What a path is taken for, and what is read from it.

mod common;

use common::{Row, jpeg, open_error, picture, png, write, write_parquet, write_parquet_with};
use npid_data::inspect::inspect;
use npid_data::source::{ContentHash, Error, Source, first_readable, open};

#[test]
fn a_folder_of_folders_has_classes_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("dog/b.JPG", jpeg(&picture(9, 7, 1))),
        ("dog/deep/er/a.jpeg", jpeg(&picture(8, 8, 2))),
        ("cat/z.png", png(&picture(5, 6, 3))),
        // In path order its files lie between those of "cat" and "cat/".
        ("cat-2/1.PnG", png(&picture(4, 4, 4))),
        ("loose.png", png(&picture(3, 3, 5))),
        ("cat/notes.txt", b"not a picture".to_vec()),
        (".hidden/x.png", png(&picture(3, 3, 6))),
        ("dog/.y.png", png(&picture(3, 3, 7))),
        ("empty/readme", Vec::new()),
    ] {
        write(dir.path(), name, &bytes);
    }
    let source = open(dir.path()).unwrap();
    let rows: Vec<_> = (0..source.len())
        .map(|row| (source.name(row), source.label(row)))
        .collect();
    let expect = |name: &str, label| (name.to_owned(), label);
    assert_eq!(
        rows,
        [
            expect("cat-2/1.PnG", Some(1)),
            expect("cat/z.png", Some(0)),
            expect("dog/b.JPG", Some(2)),
            expect("dog/deep/er/a.jpeg", Some(2)),
            expect("loose.png", None),
        ]
    );
    assert_eq!(source.classes(), ["cat", "cat-2", "dog"]);
    assert_eq!(source.picture(1).unwrap(), picture(5, 6, 3));
    let hash = ContentHash::of(&png(&picture(5, 6, 3)));
    assert_eq!(source.content_hash(1).unwrap(), hash);
    assert_eq!(
        source.picture_and_hash(1).unwrap(),
        (picture(5, 6, 3), hash)
    );

    let summary = inspect(source.as_ref(), 100);
    assert_eq!(summary.description.kind, "folder");
    assert_eq!(
        (summary.description.images, summary.description.labelled),
        (5, 4)
    );
    let counts: Vec<_> = summary.per_class.iter().map(|c| c.images).collect();
    assert_eq!(counts, [1, 1, 2]);
    let width = summary.sample.width.unwrap();
    assert_eq!((width.min, width.median, width.max), (3, 5, 9));
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["images"], 5);
    assert_eq!(json["per_class"][2]["class"], "dog");
    assert!(summary.to_string().contains("dog: 2"), "{summary}");
}

#[test]
fn a_flat_folder_has_no_labels() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b.png", &png(&picture(4, 4, 1)));
    write(dir.path(), "a.jpg", &jpeg(&picture(4, 4, 2)));
    let source = open(dir.path()).unwrap();
    assert_eq!((source.name(0), source.label(0)), ("a.jpg".into(), None));
    assert!(source.classes().is_empty());
    let text = inspect(source.as_ref(), 10).to_string();
    assert!(text.contains("classes: none"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    write(elsewhere.path(), "1.png", &png(&picture(4, 4, 1)));
    write(dir.path(), "a/2.png", &png(&picture(4, 4, 2)));
    symlink(elsewhere.path(), dir.path().join("b")).unwrap();
    symlink(dir.path(), dir.path().join("a/back")).unwrap();
    symlink("nowhere", dir.path().join("a/gone.png")).unwrap();
    let source = open(dir.path()).unwrap();
    let names: Vec<_> = (0..source.len()).map(|row| source.name(row)).collect();
    assert_eq!(names, ["a/2.png", "a/gone.png", "b/1.png"]);
    assert_eq!(source.picture(1).unwrap_err().reason, "the file is gone");
}

#[test]
fn what_is_no_collection_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nothing/here");
    assert!(matches!(open(&path).err(), Some(Error::Missing { .. })));
    assert!(open_error(&path).contains("no such file or folder"));

    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let line = open_error(&empty);
    assert!(
        line.contains("no picture found") && line.contains("it is empty"),
        "{line}"
    );

    write(&empty, "a.heic", b"ftyp");
    write(&empty, "b.txt", b"");
    let line = open_error(&empty);
    assert!(line.contains("but 2 other files"), "{line}");

    write(dir.path(), "one.png", &png(&picture(4, 4, 1)));
    let line = open_error(&dir.path().join("one.png"));
    assert!(line.contains("single picture"), "{line}");

    write(dir.path(), "zeros.dat", &[0; 100]);
    let line = open_error(&dir.path().join("zeros.dat"));
    assert!(line.contains("not a collection npid knows"), "{line}");

    write(dir.path(), "cut.parquet", b"PAR1 and no more");
    let line = open_error(&dir.path().join("cut.parquet"));
    assert!(line.contains("not a readable parquet file"), "{line}");
}

#[test]
fn nothing_readable_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.jpg", b"hello");
    write(dir.path(), "b.jpg", b"<html>");
    let source = open(dir.path()).unwrap();
    let line = first_readable(source.as_ref(), |_| false)
        .unwrap_err()
        .to_string();
    assert!(
        line.contains("none of the 2 pictures") && line.contains("a.jpg"),
        "{line}"
    );

    write(dir.path(), "c.png", &png(&picture(2, 3, 1)));
    let source = open(dir.path()).unwrap();
    let (row, first) = first_readable(source.as_ref(), |_| false).unwrap();
    assert_eq!((row, first), (2, picture(2, 3, 1)));
    assert!(first_readable(source.as_ref(), |row| row == 2).is_err());
    let sample = inspect(source.as_ref(), 10).sample;
    assert_eq!((sample.images, sample.unreadable), (3, 2));
    assert_eq!(sample.examples[1].name, "b.jpg");
}

fn rows() -> Vec<Row> {
    (0..23)
        .map(|row| {
            let small = picture(4 + row as usize % 3, 5, row as u8);
            let bytes = if row % 2 == 0 {
                png(&small)
            } else {
                jpeg(&small)
            };
            match row {
                6 => (None, Some(1)),
                7 => (Some(bytes), None),
                8 => (Some(bytes), Some(-1)),
                9 => (Some(b"no picture".to_vec()), Some(2)),
                _ => (Some(bytes), Some(row % 3)),
            }
        })
        .collect()
}

#[test]
fn a_parquet_file_is_read_in_both_layouts() {
    let dir = tempfile::tempdir().unwrap();
    for structs in [true, false] {
        // Its name says nothing; its first bytes do.
        let path = dir.path().join(format!("data-{structs}"));
        write_parquet(&path, &rows(), 10, structs, &["ant", "bee", "cow"]);
        let source = open(&path).unwrap();
        assert_eq!(source.classes(), ["ant", "bee", "cow"]);
        check_rows(source.as_ref(), &format!("data-{structs}"));
        let description = source.describe();
        assert_eq!(description.kind, "parquet file");
        assert_eq!((description.images, description.labelled), (23, 21));
        assert_eq!(description.formats, [("PNG".to_owned(), 23)]);
    }
}

fn check_rows(source: &dyn Source, name: &str) {
    assert_eq!(source.len(), 23);
    assert_eq!(source.name(22), format!("{name}#22"));
    // In no order, as training reads.
    for row in (0..23).map(|i| i * 7 % 23) {
        let label = match row {
            6 => Some(1),
            7 | 8 => None,
            9 => Some(2),
            _ => Some(row as u32 % 3),
        };
        assert_eq!(source.label(row), label, "row {row}");
        let expected = picture(4 + row % 3, 5, row as u8);
        match row {
            6 => {
                let reason = source.picture(row).unwrap_err().reason;
                assert_eq!(reason, "the row holds no picture bytes");
            }
            9 => {
                assert!(source.picture(row).is_err());
                let hash = ContentHash::of(b"no picture");
                assert_eq!(source.content_hash(row).unwrap(), hash);
            }
            row if row % 2 == 0 => assert_eq!(source.picture(row).unwrap(), expected),
            _ => assert_eq!(source.picture(row).unwrap().width, expected.width),
        }
    }
}

/// A file above the limit of what is kept in memory is read by the page instead, from several
/// threads at once.
#[test]
fn a_large_parquet_file_is_read_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.parquet");
    write_parquet(&path, &rows(), 10, true, &["ant", "bee", "cow"]);
    let source = npid_data::source::ParquetSource::open_keeping(&path, 0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| check_rows(&source, "large.parquet"));
        }
    });
}

#[test]
fn a_parquet_file_without_pictures_names_its_columns() {
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let schema =
        parse_message_type("message m { required int64 id; optional binary text (UTF8); }");
    let file = std::fs::File::create(&path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    SerializedFileWriter::new(file, Arc::new(schema.unwrap()), properties)
        .unwrap()
        .close()
        .unwrap();
    let line = open_error(&path);
    assert!(line.contains("id (INT64), text (BYTE_ARRAY)"), "{line}");

    let path = dir.path().join("none.parquet");
    write_parquet(&path, &[], 10, true, &[]);
    let line = open_error(&path);
    assert!(
        line.contains("without rows") && !line.contains("JPEG"),
        "{line}"
    );
}

#[test]
fn a_parquet_file_is_read_in_every_compression_that_is_named() {
    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    let dir = tempfile::tempdir().unwrap();
    for (name, compression) in [
        ("none", Compression::UNCOMPRESSED),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
    ] {
        let path = dir.path().join(name);
        write_parquet_with(
            &path,
            &rows(),
            10,
            true,
            &["ant", "bee", "cow"],
            compression,
        );
        check_rows(open(&path).unwrap().as_ref(), name);
    }

    // The compression of the column of labels, as the footer has it: a file that says brotli.
    let path = dir.path().join("brotli.parquet");
    write_parquet(&path, &rows(), 100, true, &[]);
    let mut bytes = std::fs::read(&path).unwrap();
    let codec = (bytes.windows(7)).rposition(|w| w == b"label\x15\x02");
    bytes[codec.unwrap() + 6] = 8;
    std::fs::write(&path, bytes).unwrap();
    let line = open_error(&path);
    for part in ["column label", "with brotli", "none, snappy, gzip and zstd"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn labels_of_another_type_are_named() {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;
    let dir = tempfile::tempdir().unwrap();
    for (column, says) in [
        ("binary label (UTF8)", "column label is text"),
        ("double label", "column label is floating-point numbers"),
        ("double labels", "column labels is floating-point numbers"),
    ] {
        let path = dir.path().join("t.parquet");
        let schema = format!("message m {{ required binary image; required {column}; }}");
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let file = std::fs::File::create(&path).unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut image = group.next_column().unwrap().unwrap();
        let bytes = ByteArray::from(png(&picture(4, 4, 1)));
        let typed = image.typed::<ByteArrayType>();
        typed.write_batch(&[bytes], None, None).unwrap();
        image.close().unwrap();
        let mut label = group.next_column().unwrap().unwrap();
        if column.starts_with("binary") {
            let typed = label.typed::<ByteArrayType>();
            typed.write_batch(&["cat".into()], None, None).unwrap();
        } else {
            let typed = label.typed::<DoubleType>();
            typed.write_batch(&[1.0], None, None).unwrap();
        }
        label.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let source = open(&path).unwrap();
        assert_eq!(source.label(0), None);
        let notes = source.notes();
        assert!(notes.len() == 1 && notes[0].starts_with(says), "{notes:?}");
    }
}

/// Damage anywhere is an error with a reason, or a picture that can't be read; never a panic that is
/// not caught, and never memory for what a few bytes claim.
#[test]
fn a_damaged_parquet_file_is_an_error() {
    use npid_network::philox::{Purpose, Stream};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    write_parquet(&path, &rows(), 10, true, &["ant", "bee", "cow"]);
    let whole = std::fs::read(&path).unwrap();
    let mut stream = Stream::new(3, Purpose::Bench, 0, 0, 0);
    let (mut refused, mut read) = (0, 0);
    for trial in 0..600 {
        let mut damaged = whole.clone();
        for _ in 0..=stream.below(2) {
            let at = stream.below(damaged.len() as u64) as usize;
            damaged[at] = stream.next_u32() as u8;
        }
        std::fs::write(&path, &damaged).unwrap();
        // Kept in memory, and read by the page.
        let keep = if trial % 2 == 0 { 1 << 20 } else { 0 };
        match npid_data::source::ParquetSource::open_keeping(&path, keep) {
            Err(error) => {
                assert!(error.to_string().contains("t.parquet"), "{error}");
                refused += 1;
            }
            Ok(source) => {
                for row in 0..source.len().min(30) {
                    let picture = source.picture(row);
                    assert!(picture.is_err_and(|e| !e.reason.is_empty()) || row < 23);
                }
                read += 1;
            }
        }
    }
    assert!(refused > 50 && read > 50, "{refused} {read}");
}

#[test]
fn columns_of_numbers_are_read_and_others_named() {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    let schema = "message m { required binary image; required double w; required float f; \
                  required int64 i; optional double gap; required binary t (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(&path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for group in 0..2 {
        let mut rows = writer.next_row_group().unwrap();
        macro_rules! column {
            ($kind:ty, $values:expr, $levels:expr) => {
                let mut column = rows.next_column().unwrap().unwrap();
                let typed = column.typed::<$kind>();
                typed.write_batch(&$values, $levels, None).unwrap();
                column.close().unwrap();
            };
        }
        let base = f64::from(group) * 10.0;
        let image = [1, 2].map(|seed| ByteArray::from(png(&picture(4, 4, seed))));
        column!(ByteArrayType, image, None);
        column!(DoubleType, [base + 0.5, base + 1.5], None);
        column!(FloatType, [0.25f32, -2.0], None);
        column!(Int64Type, [7i64, 1 << 40], None);
        column!(DoubleType, [1.0], Some(&[1, 0]));
        column!(
            ByteArrayType,
            [ByteArray::from("a"), ByteArray::from("b")],
            None
        );
        rows.close().unwrap();
    }
    writer.close().unwrap();
    let source = open(&path).unwrap();
    assert_eq!(source.column("w").unwrap(), [0.5, 1.5, 10.5, 11.5]);
    assert_eq!(source.column("f").unwrap(), [0.25, -2.0, 0.25, -2.0]);
    assert_eq!(
        source.column("i").unwrap(),
        [7.0, (1u64 << 40) as f64, 7.0, (1u64 << 40) as f64]
    );
    for (name, says) in [
        ("gap", "row 1 of"),
        ("t", "it is text; it must be numbers"),
        (
            "none",
            "has no such column; its columns are image (BYTE_ARRAY), w (DOUBLE)",
        ),
    ] {
        let line = source.column(name).unwrap_err().to_string();
        assert!(
            line.starts_with(&format!("column {name}: ")) && line.contains(says),
            "{line}"
        );
    }
    // Over several files, and where there are none.
    let twice = dir.path().join("two");
    std::fs::create_dir(&twice).unwrap();
    std::fs::copy(&path, twice.join("a.parquet")).unwrap();
    std::fs::copy(&path, twice.join("b.parquet")).unwrap();
    assert_eq!(open(&twice).unwrap().column("w").unwrap().len(), 8);
    write(dir.path(), "pictures/a.png", &png(&picture(4, 4, 1)));
    let folder = open(&dir.path().join("pictures")).unwrap();
    let line = folder.column("w").unwrap_err().to_string();
    assert!(line.contains("only parquet files have some"), "{line}");
}
