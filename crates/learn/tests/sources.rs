//! A run sees pictures and labels, not where they came from: every kind of source gives the run that
//! a folder of the same pictures gives, to the bit.

mod common;
#[path = "../../data/tests/common/mod.rs"]
mod pictures;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Listener, config, metrics, newest, options, reference};
use npid_data::source::Source;
use npid_learn::config::Paths;
use npid_learn::trainer::{self, Change, Summary};
use pictures::{Set, write, write_parquet};
use safetensors::SafeTensors;

/// A run's metrics without clocks, its tensors, and what it said.
type Run = (Vec<serde_json::Value>, Vec<(String, Vec<u8>)>, Vec<String>);

/// Trains on `data`.
fn train(data: &[PathBuf], out: &Path) -> Run {
    let sets = ["runner.max_epochs=2", "data.batch_size=4"];
    let mut config = config(Path::new(""), &sets);
    config.data.path = Paths::new(data.to_vec());
    config.data.val = None;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut listener = Listener::default();
    let done: Result<Summary, _> =
        trainer::train(&config, out, &options(&stop), reference, &mut listener);
    assert_eq!(done.unwrap().steps, 8);
    let bytes = fs::read(newest(out)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<u8>)> = (tensors.tensors().into_iter())
        .map(|(name, tensor)| (name, tensor.data().to_vec()))
        .collect();
    tensors.sort();
    (metrics(out), tensors, listener.notes)
}

#[test]
fn every_source_gives_the_run_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    // 96 x 96 would do for all, but CIFAR has 32 x 32 and IDX is grey.
    let colour = Set::new(22, 32, 32, false);
    let grey = Set::new(22, 12, 10, true);
    let part = |set: &Set, test: bool| {
        let rows: Vec<usize> = (0..22).filter(|i| (i % 4 == 1) == test).collect();
        Set {
            pictures: rows.iter().map(|&i| set.pictures[i].clone()).collect(),
            labels: rows.iter().map(|&i| set.labels[i]).collect(),
        }
    };
    for (set, is_grey) in [(&colour, false), (&grey, true)] {
        let root = dir.path().join(if is_grey { "grey" } else { "colour" });
        let (train_set, val_set) = (part(set, false), part(set, true));
        assert_eq!(train_set.pictures.len(), 16);
        let at = |name: &str| root.join(name);
        train_set.write_folder(&at("folder/train"));
        val_set.write_folder(&at("folder/val"));
        let names = ["0", "1", "2"];
        for (name, set) in [("train", &train_set), ("test", &val_set)] {
            write(&root, &format!("shards/{name}-0.tar"), &set.tar());
            fs::create_dir_all(at("parquet")).unwrap();
            let file = at(&format!("parquet/{name}-00000-of-00001.parquet"));
            write_parquet(&file, &set.parquet_rows(), 7, true, &names);
            let (images, labels) = set.idx();
            let name = if name == "train" { "train" } else { "t10k" };
            write(&root, &format!("idx/{name}-images-idx3-ubyte"), &images);
            write(&root, &format!("idx/{name}-labels-idx1-ubyte"), &labels);
            write(
                &root,
                &format!("packed/{name}-images-idx3-ubyte.gz"),
                &pictures::gzip(&images),
            );
            write(
                &root,
                &format!("packed/{name}-labels-idx1-ubyte.gz"),
                &pictures::gzip(&labels),
            );
        }
        write(
            &root,
            "cifar/data_batch_1.bin",
            &train_set.part(0..9).cifar(0),
        );
        write(
            &root,
            "cifar/data_batch_2.bin",
            &train_set.part(9..16).cifar(0),
        );
        write(&root, "cifar/test_batch.bin", &val_set.cifar(0));
        write(&root, "cifar100/train.bin", &train_set.cifar(1));
        write(&root, "cifar100/test.bin", &val_set.cifar(1));
        let kinds: &[&str] = if is_grey {
            &["shards", "parquet", "idx", "packed"]
        } else {
            &["shards", "parquet", "cifar", "cifar100"]
        };
        let (expected, tensors, notes) = train(&[at("folder")], &at("runs/folder"));
        assert!(
            notes.iter().any(|note| note.contains("train/ to train on")),
            "{notes:?}"
        );
        let knn = expected.iter().find_map(|line| line.get("knn_top1"));
        assert!(knn.is_some(), "labels are measured with");
        for kind in kinds {
            let run = train(&[at(kind)], &at(&format!("runs/{kind}")));
            assert_eq!(run.0, expected, "{kind}");
            assert_eq!(run.1, tensors, "{kind}");
        }
    }

    // A list, and the classes' folders one by one, against the folder; all without a part for queries.
    let root = dir.path().join("lists");
    let set = part(&colour, false);
    set.write_folder(&root.join("folder"));
    set.write_list(&root, "list.txt");
    let (expected, tensors, _) = train(&[root.join("folder")], &root.join("runs/folder"));
    let list = train(&[root.join("list.txt")], &root.join("runs/list"));
    assert_eq!(list.0, expected);
    assert_eq!(list.1, tensors);
    let halves = [0..9, 9..16].map(|rows| {
        let half = root.join(format!("half-{}", rows.start));
        set.part(rows).write_folder(&half);
        half
    });
    let both = train(&halves, &root.join("runs/halves"));
    assert_eq!(both.0, expected);
    assert_eq!(both.1, tensors);
    // What was given stands in the configuration, and a run goes on by it.
    let text = fs::read_to_string(root.join("runs/halves/config.toml")).unwrap();
    assert!(
        text.contains("half-0\",") && text.contains("half-9\""),
        "{text}"
    );
    let mut listener = Listener::default();
    common::resume(&root.join("runs/halves"), &mut listener).unwrap();
    // One picture that is another is noticed.
    let changed = root.join("half-9/2/006.png");
    fs::write(&changed, pictures::png(&pictures::picture(32, 32, 99))).unwrap();
    let summary = common::resume(&root.join("runs/halves"), &mut listener).unwrap();
    let (kept, new, gone) = (15, 1, 1);
    assert_eq!(summary.change, Some(Change { kept, new, gone }));
}

#[test]
fn the_path_that_can_not_be_used_is_named_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let set = Set::new(8, 8, 8, false);
    set.write_folder(&dir.path().join("a"));
    set.write_folder(&dir.path().join("b"));
    let out = dir.path().join("run");
    let mut config = config(Path::new(""), &["runner.max_epochs=1", "data.batch_size=4"]);
    config.data.path = Some(dir.path().join("a").into());
    config.data.val = Some(dir.path().join("b").into());
    common::train(&config, &out).unwrap();
    for (folder, key) in [("b", "data.val in "), ("a", "data.path in ")] {
        fs::rename(dir.path().join(folder), dir.path().join("away")).unwrap();
        let error = common::resume(&out, &mut Listener::default()).unwrap_err();
        assert!(error.to_string().starts_with(key), "{error}");
        fs::rename(dir.path().join("away"), dir.path().join(folder)).unwrap();
    }
    let source: std::sync::Arc<dyn Source> =
        npid_data::source::open(&dir.path().join("a")).unwrap();
    set.check(source.as_ref(), "folder");
}
