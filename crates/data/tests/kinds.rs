//! Every kind of source holds the same pictures and labels as a folder of PNGs, and what is found at
//! a path is what a person meant.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Set, gzip, open_error, picture, png, tar, write, write_parquet};
use npid_data::inspect::inspect;
use npid_data::source::{Opened, Options, Source, Wanted, find, open};

fn find_at(path: &Path, wanted: Wanted) -> Opened {
    find(&[path.to_path_buf()], wanted, &Options::default()).unwrap()
}

/// Training and query parts, each as a set should be, and what is said about them.
#[track_caller]
fn check_parts(path: &Path, train: &Set, val: &Set, kind: &str, says: &[&str]) {
    let both = find_at(path, Wanted::Both);
    train.check(both.pictures.as_ref(), kind);
    val.check(both.val.unwrap().as_ref(), kind);
    assert_eq!(both.pictures.describe().kind, kind);
    assert_eq!(both.found.len(), 1, "{:?}", both.found);
    for part in says {
        assert!(both.found[0].contains(part), "{:?}", both.found);
    }
    let only = find_at(path, Wanted::Train);
    assert!(only.val.is_none());
    train.check(only.pictures.as_ref(), kind);
    val.check(find_at(path, Wanted::Queries).pictures.as_ref(), kind);
    let all = open(path).unwrap();
    assert_eq!(all.len(), train.pictures.len() + val.pictures.len());
    assert_eq!(all.picture(train.pictures.len()).unwrap(), val.pictures[0]);
    let mut names: Vec<String> = (0..all.len()).map(|row| all.name(row)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all.len(), "names tell rows apart");
}

fn sets(width: usize, height: usize, grey: bool) -> (Set, Set) {
    let all = Set::new(21, width, height, grey);
    let order = |rows: &[usize]| Set {
        pictures: rows.iter().map(|&i| all.pictures[i].clone()).collect(),
        labels: rows.iter().map(|&i| all.labels[i]).collect(),
    };
    let (val, train): (Vec<usize>, Vec<usize>) = (0..21).partition(|i| i % 3 == 1);
    (order(&train), order(&val))
}

#[test]
fn imagenets_folders() {
    let dir = tempfile::tempdir().unwrap();
    let (train, val) = sets(12, 9, false);
    train.write_folder(&dir.path().join("train"));
    val.write_folder(&dir.path().join("val"));
    write(dir.path(), "meta/train.txt", b"0/000.png 0\n");
    let says = ["train/ to train on, val/ as", "not used: meta/"];
    check_parts(dir.path(), &train, &val, "folder", &says);
    // Names are as if each had been given alone; as one collection, the folders tell them apart.
    let both = find_at(dir.path(), Wanted::Both);
    assert_eq!(both.pictures.name(0), "0/000.png");
    assert_eq!(open(dir.path()).unwrap().name(0), "train/0/000.png");
    // `test` asks only where there is no `val`.
    val.write_folder(&dir.path().join("test"));
    let found = &find_at(dir.path(), Wanted::Both).found[0];
    assert!(found.contains("not used: meta/ and test/"), "{found}");

    // With a class beside it, `train` is a class.
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "train/1.png", &png(&picture(4, 4, 1)));
    let found = find_at(dir.path(), Wanted::Both);
    assert_eq!(
        (found.pictures.name(0), found.found.len()),
        ("1.png".into(), 1)
    );
    write(dir.path(), "bus/1.png", &png(&picture(4, 4, 1)));
    let found = find_at(dir.path(), Wanted::Both);
    assert_eq!(found.pictures.classes(), ["bus", "train"]);
    assert!(found.val.is_none() && found.found.is_empty());
}

#[test]
fn lists() {
    let dir = tempfile::tempdir().unwrap();
    let set = Set::new(12, 8, 6, false);
    set.write_list(dir.path(), "all.txt");
    let list = dir.path().join("all.txt");
    let source = open(&list).unwrap();
    set.check(source.as_ref(), "list");
    assert_eq!(source.name(3), "flat/003.png");
    let summary = inspect(source.as_ref(), 5);
    assert_eq!(summary.description.kind, "list file");
    assert_eq!(
        (summary.description.classes, summary.description.labelled),
        (3, 12)
    );
    assert_eq!(summary.description.formats, [("PNG".to_owned(), 12)]);

    // Words, spaces, a line again, CR LF and a byte-order mark.
    write(dir.path(), "my cats/a b.png", &png(&picture(3, 3, 1)));
    let text = "\u{feff}my cats/a b.png\tbig cat\r\n\r\nmy cats/a b.png dog\r\nflat/000.png\r\n";
    write(dir.path(), "words.txt", text.as_bytes());
    let source = open(&dir.path().join("words.txt")).unwrap();
    assert_eq!(source.classes(), ["big cat", "dog"]);
    let labels: Vec<_> = (0..3).map(|row| source.label(row)).collect();
    assert_eq!(labels, [Some(0), Some(1), None]);
    assert!(source.notes()[0].contains("1 line of the list names a picture again"));

    // MMSelfSup's layout: `meta/flat.txt` lists what is below `flat`.
    write(dir.path(), "meta/flat.txt", b"000.png 1\n001.png 0\n");
    let source = open(&dir.path().join("meta/flat.txt")).unwrap();
    assert_eq!(source.picture(1).unwrap(), set.pictures[1]);
    assert!(source.notes()[0].starts_with("paths in the list start at "));
    // And any other place, when it is said.
    write(dir.path(), "else.txt", b"a b.png\n");
    let options = Options {
        data_prefix: Some(dir.path().join("my cats")),
    };
    let found = find(&[dir.path().join("else.txt")], Wanted::Both, &options).unwrap();
    assert_eq!(found.pictures.picture(0).unwrap(), picture(3, 3, 1));
}

#[test]
fn lists_that_can_not_be_used() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.png", &png(&picture(3, 3, 1)));
    let long = format!("a.png 1\n{}.png\n", "x".repeat(20_000));
    let utf16: Vec<u8> = "\u{feff}a.png"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (text, says) in [
        (
            &b"a.png 0\ngone.png 1\n"[..],
            "line 2: gone.png: no such file",
        ),
        (b"a.png 0\n. 1\n", "line 2: .: it is not a file"),
        (b"a.png 0\na\0b.png 1\n", "line 2: it holds a NUL byte"),
        (b"a.png 0\n\xe9t\xe9.png 1\n", "line 2: it is not UTF-8"),
        (long.as_bytes(), "line 2: it is longer than 16 KiB"),
        (&utf16, "line 1: the list is UTF-16"),
        (b"\n \n", "a list without rows"),
        (
            b"\x1b[2Jevil.png 1\n",
            "line 1: \\u{1b}[2Jevil.png: no such file",
        ),
    ] {
        write(dir.path(), "list.txt", text);
        let line = open_error(&dir.path().join("list.txt"));
        assert!(line.contains(says) && line.contains("list.txt"), "{line}");
    }
}

#[test]
fn cifar() {
    let (train, val) = sets(32, 32, false);
    let (first, second) = (train.part(0..5), train.part(5..train.pictures.len()));
    for (coarse, kind) in [(0, "CIFAR-10 binary"), (1, "CIFAR-100 binary")] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cifar");
        let files = if coarse == 0 {
            vec![
                ("data_batch_1.bin", first.cifar(0)),
                ("data_batch_2.bin", second.cifar(0)),
                ("test_batch.bin", val.cifar(0)),
            ]
        } else {
            vec![("train.bin", train.cifar(1)), ("test.bin", val.cifar(1))]
        };
        for (name, bytes) in &files {
            write(&folder, name, bytes);
        }
        let (train_name, val_name) = (files[0].0, files[files.len() - 1].0);
        let says = [train_name, val_name];
        check_parts(&folder, &train, &val, kind, &says);
        // A folder that holds nothing but that folder, and the file alone.
        check_parts(dir.path(), &train, &val, kind, &says);
        let file = open(&folder.join(val_name)).unwrap();
        val.check(file.as_ref(), kind);
        assert_eq!(file.name(2), format!("{val_name}#2"));
        // Names of the classes where they lie beside.
        let names: Vec<String> = (0..if coarse == 0 { 10 } else { 100 })
            .map(|i| format!("class {i}\n"))
            .collect();
        let meta = ["batches.meta.txt", "fine_label_names.txt"][coarse];
        write(&folder, meta, (names.concat() + "\n").as_bytes());
        assert_eq!(open(&folder).unwrap().classes()[2], "class 2");

        // As it is downloaded.
        let top = ["cifar-10-batches-bin", "cifar-100-binary"][coarse];
        let mut members: Vec<(String, Vec<u8>)> = (files.iter())
            .map(|(name, bytes)| (format!("{top}/{name}"), bytes.clone()))
            .collect();
        members.insert(0, (format!("{top}/{meta}"), names.concat().into_bytes()));
        let archive = dir.path().join("cifar.tar.gz");
        std::fs::write(&archive, gzip(&tar(&members))).unwrap();
        check_parts(&archive, &train, &val, kind, &says);
        assert_eq!(open(&archive).unwrap().classes()[2], "class 2");
    }

    let dir = tempfile::tempdir().unwrap();
    let whole = train.cifar(0);
    write(dir.path(), "test_batch.bin", &whole[..whole.len() - 1]);
    let line = open_error(&dir.path().join("test_batch.bin"));
    assert!(
        line.contains("no whole number of CIFAR-10 binary's records of 3073"),
        "{line}"
    );
    let mut wrong = whole.clone();
    wrong[3073 * 4] = 10;
    write(dir.path(), "test_batch.bin", &wrong);
    let line = open_error(dir.path());
    assert!(line.contains("record 4 has the label 10"), "{line}");
    let python = gzip(&tar(&[(
        "cifar-10-batches-py/data_batch_1".into(),
        vec![0; 9],
    )]));
    std::fs::write(dir.path().join("cifar.tar.gz"), &python).unwrap();
    let line = open_error(&dir.path().join("cifar.tar.gz"));
    assert!(line.contains("download the binary version"), "{line}");
}

#[test]
fn stl10() {
    let (train, val) = sets(96, 96, false);
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = train.stl10();
    write(dir.path(), "train_X.bin", &x);
    write(dir.path(), "train_y.bin", &y);
    let (x, y) = val.stl10();
    write(dir.path(), "test_X.bin", &x);
    write(dir.path(), "test_y.bin", &y);
    let says = ["train_X.bin to train on, test_X.bin"];
    check_parts(dir.path(), &train, &val, "STL-10 binary", &says);
    // The unlabelled part is trained on too.
    write(dir.path(), "unlabeled_X.bin", &val.stl10().0);
    let found = find_at(dir.path(), Wanted::Both);
    let train_len = train.pictures.len();
    assert_eq!(found.pictures.len(), train_len + val.pictures.len());
    assert_eq!(found.pictures.label(train_len), None);
    assert_eq!(found.pictures.picture(train_len).unwrap(), val.pictures[0]);
    assert!(found.found[0].contains("train_X.bin and unlabeled_X.bin to train on"));

    write(dir.path(), "train_y.bin", &[1; 3]);
    let line = open_error(dir.path());
    assert!(
        line.contains("train_y.bin: 3 labels for the 14 pictures"),
        "{line}"
    );
    write(dir.path(), "train_X.bin", &[0; 100]);
    let line = open_error(dir.path());
    assert!(
        line.contains("no whole number of STL-10's pictures"),
        "{line}"
    );
}

#[test]
fn idx() {
    let (train, val) = sets(11, 7, true);
    let dir = tempfile::tempdir().unwrap();
    for (set, name) in [(&train, "train"), (&val, "t10k")] {
        let (images, labels) = set.idx();
        write(dir.path(), &format!("{name}-images-idx3-ubyte"), &images);
        write(
            dir.path(),
            &format!("{name}-labels-idx1-ubyte.gz"),
            &gzip(&labels),
        );
        // torchvision leaves both.
        write(
            dir.path(),
            &format!("{name}-images-idx3-ubyte.gz"),
            &gzip(&images),
        );
    }
    let says = ["train-images-idx3-ubyte to train on, t10k-images-idx3-ubyte as"];
    check_parts(dir.path(), &train, &val, "IDX", &says);
    let packed = dir.path().join("train-images-idx3-ubyte.gz");
    train.check(open(&packed).unwrap().as_ref(), "packed");

    let images = dir.path().join("train-images-idx3-ubyte");
    let whole = std::fs::read(&images).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let huge = [0xff; 12];
    let cut = whole[..whole.len() - 1].to_vec();
    for (bytes, says) in [
        (
            with(4, &huge),
            "its header says 4294967295 x 4294967295 x 4294967295 bytes",
        ),
        (with(4, &huge[..4]), "but the file has"),
        (with(8, &[0; 8]), "but the file has"),
        (cut, "but the file has"),
        (with(2, &[13]), "of unsigned bytes"),
        (whole[..9].to_vec(), "its header can't be read"),
    ] {
        for packed in [false, true] {
            let name = if packed {
                "x-images-idx3-ubyte.gz"
            } else {
                "x-images-idx3-ubyte"
            };
            write(
                dir.path(),
                &format!("bad/{name}"),
                &if packed { gzip(&bytes) } else { bytes.clone() },
            );
            let line = open_error(&dir.path().join("bad"));
            let known = line.contains(says) || line.contains("more than the 1073741824");
            assert!(known, "{line}");
            std::fs::remove_file(dir.path().join("bad").join(name)).unwrap();
        }
    }
    // No pixels at all takes no bytes, however many pictures there are.
    let mut none = vec![0, 0, 8, 3];
    none.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    write(dir.path(), "bad/x-images-idx3-ubyte", &none);
    let line = open_error(&dir.path().join("bad"));
    assert!(line.contains("pictures of 0 x 0"), "{line}");
    // A bomb: a packed file that goes on and on.
    let mut bomb = val.idx().0;
    bomb.resize(bomb.len() + 5_000_000, 0);
    write(dir.path(), "bad/x-images-idx3-ubyte", &gzip(&bomb));
    let line = open_error(&dir.path().join("bad"));
    assert!(line.contains("but the file has more"), "{line}");
    // Labels of another set.
    write(dir.path(), "train-labels-idx1-ubyte", &val.idx().1);
    let line = open_error(dir.path());
    assert!(line.contains("7 labels for the 14 pictures"), "{line}");
}

#[test]
fn tar_shards() {
    let (train, val) = sets(10, 8, false);
    let dir = tempfile::tempdir().unwrap();
    let split = train.pictures.len() / 2;
    write(dir.path(), "a-train-00.tar", &train.part(0..split).tar());
    write(
        dir.path(),
        "a-train-01.tar",
        &train.part(split..train.pictures.len()).tar(),
    );
    write(dir.path(), "a-validation-00.tar", &val.tar());
    let says = ["a-train-00.tar and a-train-01.tar to train on, a-validation-00.tar"];
    check_parts(dir.path(), &train, &val, "tar shards", &says);
    let pattern = dir.path().join("a-train-{00..01}.tar");
    let source = open(&pattern).unwrap();
    train.check(source.as_ref(), "pattern");
    assert_eq!(source.name(split), "a-train-01.tar/000.png");
    let line = open_error(&dir.path().join("a-train-{00..02}.tar"));
    assert!(line.contains("a-train-02.tar: no such file"), "{line}");

    // Labels by name in a .json; further pictures of a sample; dots in the names of a plain tar.
    let image = |seed| png(&picture(4, 4, seed));
    let members = [
        ("x/0.jpg".into(), image(1)),
        (
            "x/0.json".into(),
            br#"{"label": "cat", "url": "a"}"#.to_vec(),
        ),
        ("x/0.mask.png".into(), image(2)),
        ("x/1.mask.png".into(), image(3)),
        ("x/1.png".into(), image(4)),
        ("x/1.cls".into(), b"dog\n".to_vec()),
        ("x/2.txt".into(), b"a caption".to_vec()),
        ("y/my.first.jpg".into(), image(5)),
        ("y/my.second.jpg".into(), image(6)),
    ];
    write(dir.path(), "mixed/m.tar", &tar(&members));
    let source = open(&dir.path().join("mixed")).unwrap();
    let names: Vec<String> = (0..source.len()).map(|row| source.name(row)).collect();
    assert_eq!(
        names,
        [
            "m.tar/x/0.jpg",
            "m.tar/x/1.png",
            "m.tar/y/my.first.jpg",
            "m.tar/y/my.second.jpg"
        ]
    );
    assert_eq!(source.classes(), ["cat", "dog"]);
    let labels: Vec<_> = (0..4).map(|row| source.label(row)).collect();
    assert_eq!(labels, [Some(0), Some(1), None, None]);
    assert_eq!(source.picture(1).unwrap(), picture(4, 4, 4));
    assert!(
        source.notes()[0].starts_with("2 pictures in the tars"),
        "{:?}",
        source.notes()
    );
}

#[test]
fn hostile_tars() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    let image = png(&picture(4, 4, 1));
    // A name is only a name.
    let escape = "../../escape\x1b[31m.png";
    write(&inside, "t.tar", &tar(&[(escape.into(), image.clone())]));
    let source = open(&inside.join("t.tar")).unwrap();
    assert_eq!(source.name(0), "t.tar/../../escape\\u{1b}[31m.png");
    assert_eq!(source.picture(0).unwrap(), picture(4, 4, 1));
    let everything: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(everything.len(), 1, "nothing is written");

    let whole = tar(&[("a.png".into(), image.clone()), ("b.png".into(), image)]);
    write(&inside, "t.tar", &whole[..520]);
    let line = open_error(&inside);
    assert!(
        line.contains("t.tar: not a whole tar: ") && line.contains("beyond its end"),
        "{line}"
    );
    write(
        &inside,
        "t.tar",
        &tar(&[("readme.txt".into(), b"hello".to_vec())]),
    );
    let line = open_error(&inside.join("t.tar"));
    assert!(line.contains("no picture found"), "{line}");
    std::fs::write(inside.join("t.tar"), gzip(&whole)).unwrap();
    let line = open_error(&inside.join("t.tar"));
    assert!(line.contains("a compressed tar"), "{line}");
}

#[test]
fn parquet_folders() {
    let (train, val) = sets(9, 9, false);
    let dir = tempfile::tempdir().unwrap();
    let names = ["ant", "bee", "cow"];
    let path = |name: &str| {
        let path = dir.path().join("data").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let half = train.part(0..6).parquet_rows();
    write_parquet(
        &path("train-00000-of-00002.parquet"),
        &half,
        4,
        true,
        &names,
    );
    let half = train.part(6..train.pictures.len()).parquet_rows();
    write_parquet(
        &path("train-00001-of-00002.parquet"),
        &half,
        4,
        true,
        &names,
    );
    write_parquet(
        &path("test-00000-of-00001.parquet"),
        &val.parquet_rows(),
        4,
        true,
        &names,
    );
    let says = ["to train on, data/test-00000-of-00001.parquet as"];
    check_parts(dir.path(), &train, &val, "parquet folder", &says);
    let found = find_at(dir.path(), Wanted::Both);
    assert_eq!(
        found.pictures.name(7),
        "data/train-00001-of-00002.parquet#1"
    );
    assert_eq!(found.pictures.classes(), names);
    // Validation asks before test.
    write_parquet(
        &path("validation.parquet"),
        &val.parquet_rows(),
        4,
        true,
        &names,
    );
    let found = &find_at(dir.path(), Wanted::Both).found[0];
    assert!(found.contains("data/validation.parquet as") && found.contains("not used: data/test"));
}

#[test]
fn several_paths_are_one_collection() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, seed| write(dir.path(), name, &png(&picture(4, 4, seed)));
    file("a/cat/1.png", 1);
    file("a/dog/1.png", 2);
    file("b/x/bee/1.png", 3);
    file("b/x/dog/1.png", 4);
    write(dir.path(), "b/list.txt", b"x/bee/1.png dog\nx/bee/1.png\n");
    let paths: Vec<PathBuf> = ["b/x", "a", "b/list.txt"]
        .map(|p| dir.path().join(p))
        .into();
    let source: Arc<dyn Source> = find(&paths, Wanted::Both, &Options::default())
        .unwrap()
        .pictures;
    let rows: Vec<_> = (0..source.len())
        .map(|row| (source.name(row), source.label(row)))
        .collect();
    let row = |name: &str, label| (name.to_owned(), label);
    assert_eq!(
        rows,
        [
            row("x/bee/1.png", Some(0)),
            row("x/dog/1.png", Some(1)),
            row("a/cat/1.png", Some(2)),
            row("a/dog/1.png", Some(1)),
            row("list.txt/x/bee/1.png", Some(1)),
            row("list.txt/x/bee/1.png", None),
        ]
    );
    assert_eq!(source.classes(), ["bee", "dog", "cat"]);
    assert_eq!(source.picture(2).unwrap(), picture(4, 4, 1));
    assert_eq!(source.describe().kind, "folder + list file");

    // Numbers meet classes of that name.
    file("c/7/1.png", 5);
    write(dir.path(), "n.txt", b"c/7/1.png 7\nc/7/1.png 8\n");
    let paths: Vec<PathBuf> = ["c", "n.txt"].map(|p| dir.path().join(p)).into();
    let source = find(&paths, Wanted::Both, &Options::default())
        .unwrap()
        .pictures;
    let labels: Vec<_> = (0..3).map(|row| source.label(row)).collect();
    assert_eq!(
        (labels, source.classes()),
        (
            vec![Some(0), Some(0), Some(1)],
            &["7".into(), "8".into()][..]
        )
    );

    let paths: Vec<PathBuf> = ["a", "b/../a"].map(|p| dir.path().join(p)).into();
    let error = find(&paths, Wanted::Both, &Options::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("given twice"), "{error}");
}

#[test]
fn folders_of_every_format() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/decode");
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "rgb.png",
        "rgb.bmp",
        "lossless.webp",
        "rgb-lzw.tif",
        "palette.gif",
        "444.jpg",
    ] {
        write(dir.path(), name, &std::fs::read(golden.join(name)).unwrap());
    }
    // A pipe would be waited for, and never ends.
    #[cfg(unix)]
    {
        let made = std::process::Command::new("mkfifo")
            .arg(dir.path().join("pipe.png"))
            .status();
        assert!(made.is_ok());
    }
    let source = open(dir.path()).unwrap();
    assert_eq!(source.len(), 6);
    let summary = inspect(source.as_ref(), 10);
    assert_eq!(summary.sample.unreadable, 0);
    let mut formats = summary.description.formats.clone();
    formats.sort();
    let expected = ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WebP"].map(|f| (f.to_owned(), 1));
    assert_eq!(formats, expected);
    let rows: Vec<_> = (0..6).map(|row| source.name(row)).collect();
    let at = |name: &str| rows.iter().position(|n| n == name).unwrap();
    for same in ["rgb.bmp", "lossless.webp", "rgb-lzw.tif"] {
        assert_eq!(
            source.picture(at(same)),
            source.picture(at("rgb.png")),
            "{same}"
        );
    }
}
