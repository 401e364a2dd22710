//! Runs from their first step to their last, and what they leave on disk.

mod common;

use std::fs;
use std::sync::atomic::AtomicBool;

use common::*;
use npid_learn::Error;
use npid_learn::trainer;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

#[test]
fn a_run_leaves_what_the_formats_page_says() {
    let pictures = pictures();
    let out = pictures.path().join("runs/tiny");
    let config = config(pictures.path(), &[]);
    let stop = AtomicBool::new(false);
    let mut listener = Listener::default();
    let summary = trainer::train(&config, &out, &options(&stop), reference, &mut listener).unwrap();

    // Of 42 pictures two can't be read; `features` finds that out before the first epoch, so each
    // has 40 pictures: six batches of six and one of four.
    assert_eq!((summary.epochs, summary.steps, summary.skipped), (3, 21, 2));
    assert!((summary.chance_loss - 7f64.ln()).abs() < 1e-12);
    assert_eq!(summary.run, out);
    assert_eq!(listener.losses.len(), 21);
    assert_eq!(listener.warnings.len(), 2, "{:?}", listener.warnings);
    let named = |name: &str| listener.warnings.iter().any(|text| text.contains(name));
    assert!(named("dots/notes.jpg") && named("rays/short.png"));

    let mut files = listing(&out);
    files.retain(|name| !name.starts_with("events.out.tfevents."));
    assert_eq!(files.len() + 1, listing(&out).len());
    assert_eq!(
        files,
        [
            ".lock",
            "checkpoints",
            "checkpoints/step-00000014.safetensors",
            "checkpoints/step-00000021.safetensors",
            "config.toml",
            "images.parquet",
            "metrics.jsonl",
        ]
        .into_iter()
        .chain(best_outside(&out, &[14, 21]))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );

    let lines = metrics(&out);
    let of = |kind: &str| -> Vec<&serde_json::Value> {
        lines.iter().filter(|line| line["kind"] == kind).collect()
    };
    let steps: Vec<u64> = of("step")
        .iter()
        .map(|l| l["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]);
    let epochs = of("epoch");
    assert_eq!(epochs.len(), 3);
    assert_eq!(epochs[2]["knn_top1"].as_f64(), summary.knn_top1);
    assert_eq!(epochs[2]["loss"].as_f64(), Some(summary.loss));
    let subjects: Vec<&str> = of("knn")
        .iter()
        .map(|l| l["subject"].as_str().unwrap())
        .collect();
    assert_eq!(subjects, ["untrained", "pixels"]);

    // Log lines hold the means of the losses between them.
    let mean = (listener.losses[2].1 + listener.losses[3].1) / 2.0;
    assert_eq!(of("step")[1]["loss"].as_f64(), Some(mean));
    let last: f64 = listener.losses[14..].iter().map(|(_, loss)| loss).sum();
    assert!((summary.loss - last / 7.0).abs() < 1e-12);

    let file = fs::File::open(out.join("images.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows: Vec<_> = reader
        .get_row_iter(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), 42);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row.get_long(0).unwrap(), number as i64);
        let path = row.get_string(1).unwrap();
        let bytes = fs::read(pictures.path().join("pictures/train").join(path)).unwrap();
        match row.get_string(3) {
            Ok(hash) => {
                let expected = npid_data::source::ContentHash::of(&bytes).to_string();
                assert_eq!(*hash, expected, "{path}");
            }
            Err(_) => assert!(
                row.get_string(4).is_ok(),
                "{path} has neither hash nor reason"
            ),
        }
    }
    assert_eq!(
        rows.iter().filter(|row| row.get_string(4).is_ok()).count(),
        2
    );
}

/// The best checkpoint's path, where it is none of the latest.
fn best_outside(run: &std::path::Path, latest: &[u64]) -> Option<&'static str> {
    let mut best = (f64::MIN, 0);
    for line in metrics(run) {
        if let (Some(knn), "epoch") = (line["knn_top1"].as_f64(), line["kind"].as_str()?)
            && knn > best.0
        {
            best = (knn, line["step"].as_u64()?);
        }
    }
    match best.1 {
        step if latest.contains(&step) => None,
        7 => Some("checkpoints/step-00000007.safetensors"),
        other => panic!("step {other} is no epoch's end"),
    }
}

#[test]
fn a_taken_name_gets_a_number_and_stays_as_it_was() {
    let pictures = pictures();
    let out = pictures.path().join("run");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "mine").unwrap();
    let config = config(pictures.path(), &["runner.max_epochs=1"]);
    let run = train(&config, &out).unwrap().run;
    assert_eq!(run, pictures.path().join("run-2"));
    let run = train(&config, &out).unwrap().run;
    assert_eq!(run, pictures.path().join("run-3"));
    assert_eq!(listing(&out), ["mine.txt"]);
    // An empty folder is nobody's.
    let empty = pictures.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(train(&config, &empty).unwrap().run, empty);
}

#[test]
fn what_can_not_be_used_leaves_nothing() {
    let pictures = pictures();
    let before = listing(pictures.path());
    let out = pictures.path().join("runs/bad");
    let good = config(pictures.path(), &[]);

    let mut large = good.clone();
    large.data.batch_size = 43;
    let mut missing = good.clone();
    missing.data.path = Some(pictures.path().join("nowhere").into());
    let mut unreadable = good.clone();
    let texts = pictures.path().join("pictures/train/dots");
    fs::read_dir(&texts)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .for_each(|path| fs::remove_file(path).unwrap());
    fs::write(texts.join("more.jpg"), "no picture either").unwrap();
    let before_texts = listing(pictures.path());
    unreadable.data.path = Some(texts.into());
    assert_ne!(before, before_texts);
    for (config, word) in [
        (&large, "data.batch_size"),
        (&missing, "nowhere"),
        (&unreadable, "can be read"),
    ] {
        let error = train(config, &out).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let stop = AtomicBool::new(false);
    let strict = trainer::Options {
        strict: true,
        ..options(&stop)
    };
    for start in ["features", "random"] {
        let config = config(
            pictures.path(),
            &[&format!("model.memory_bank.init={start}")],
        );
        let error = trainer::train(&config, &out, &strict, reference, &mut ()).unwrap_err();
        assert!(
            matches!(&error, Error::Input(text) if text.contains("--strict")),
            "{error}"
        );
    }
    // A file where a folder should be.
    let blocked = pictures.path().join("pictures/train/rays/0005.png/run");
    let error = train(&good, &blocked).unwrap_err();
    assert!(
        matches!(&error, Error::Input(text) if text.contains("--out")),
        "{error}"
    );
    assert_eq!(listing(pictures.path()), before_texts);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint() {
    let pictures = pictures();
    let out = pictures.path().join("run");
    // The first steps are small, the second epoch's are not.
    let config = config(
        pictures.path(),
        &[
            "optimizer.lr=1e30",
            "lr_config.policy=fixed",
            "lr_config.warmup_iters=7",
            "lr_config.warmup_ratio=1e-33",
            "model.neck.norm=false",
        ],
    );
    let error = train(&config, &out).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 1, "{text}");
    for word in [
        "epoch ",
        "step ",
        "learning rate",
        "optimizer.lr",
        "last good checkpoint",
    ] {
        assert!(text.contains(word), "{text}");
    }
    let path = text.rsplit(' ').next().unwrap();
    let good = npid_learn::checkpoint::Checkpoint::open(path.as_ref()).unwrap();
    let stop = AtomicBool::new(false);
    assert!(!stop.into_inner());
    let mut engine = engine_for(&config);
    good.load_into(engine.as_mut(), true).unwrap();
    for entry in engine.state().iter().filter(|entry| entry.saved()) {
        let values = engine.read(&entry.name).unwrap();
        assert!(
            values.iter().all(|value| value.is_finite()),
            "{}",
            entry.name
        );
    }
}

fn engine_for(config: &npid_learn::Config) -> Box<dyn npid_engine::Engine> {
    let description = npid_learn::method::describe(config, 42).unwrap();
    let sizes = npid_engine::Sizes {
        batch: config.data.batch_size,
        height: config.data.size,
        width: config.data.size,
    };
    reference(&description, sizes, None).unwrap()
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    let pictures = pictures();
    let stop = AtomicBool::new(false);
    let runs = [(1, 1), (3, 2)].map(|(workers, threads)| {
        let config = config(pictures.path(), &["model.memory_bank.init=random"]);
        let options = trainer::Options {
            workers: Some(workers),
            threads,
            ..options(&stop)
        };
        let out = pictures.path().join(format!("run-{workers}"));
        trainer::train(&config, &out, &options, reference, &mut ()).unwrap();
        (checkpoints(&out), metrics(&out))
    });
    assert!(runs[0] == runs[1]);
}

#[test]
fn a_run_without_labels_has_no_figure_and_says_so_once() {
    let pictures = pictures();
    let flat = pictures.path().join("flat");
    fs::create_dir(&flat).unwrap();
    for class in ["dots", "rays"] {
        for entry in fs::read_dir(pictures.path().join("pictures/train").join(class)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, flat.join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut config = config(pictures.path(), &["data.batch_size=4"]);
    config.data.path = Some(flat.into());
    config.data.val = None;
    let stop = AtomicBool::new(false);
    let mut listener = Listener::default();
    let out = pictures.path().join("run");
    let summary = trainer::train(&config, &out, &options(&stop), reference, &mut listener).unwrap();
    assert_eq!(summary.knn_top1, None);
    assert_eq!(summary.knn_top1_pixels, None);
    assert_eq!(listener.notes.len(), 1);
    assert!(
        listener.notes[0].contains("no labels"),
        "{:?}",
        listener.notes
    );
    assert!(
        metrics(&out)
            .iter()
            .all(|line| line.get("knn_top1").is_none())
    );
}

/// A folder of `readable` pictures and others that can't be read.
fn mostly_unreadable(
    pictures: &std::path::Path,
    readable: usize,
    all: usize,
) -> std::path::PathBuf {
    let folder = pictures.join(format!("{readable}-of-{all}"));
    fs::create_dir(&folder).unwrap();
    let from = pictures.join("pictures/val/rays");
    let mut good: Vec<_> = fs::read_dir(from)
        .unwrap()
        .chain(fs::read_dir(pictures.join("pictures/val/dots")).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    good.sort();
    for number in 0..all {
        // The good ones come last.
        match number + readable >= all {
            true => fs::copy(
                &good[all - 1 - number],
                folder.join(format!("{number:02}.png")),
            )
            .map(|_| ()),
            false => fs::write(folder.join(format!("{number:02}.jpg")), "text"),
        }
        .unwrap();
    }
    folder
}

#[test]
fn fewer_readable_pictures_than_a_batch_are_no_collection() {
    let pictures = pictures();
    let out = pictures.path().join("run");
    for (readable, all, batch) in [(1, 18, 4), (3, 33, 16), (1, 5, 1), (0, 3, 16)] {
        let folder = mostly_unreadable(pictures.path(), readable, all);
        for start in ["features", "random"] {
            let mut config = config(
                pictures.path(),
                &[
                    &format!("model.memory_bank.init={start}"),
                    &format!("data.batch_size={batch}"),
                    "model.neck.norm=false",
                ],
            );
            config.data.path = Some(folder.clone().into());
            config.data.val = None;
            let error = train(&config, &out).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(!text.contains('\n'), "{text}");
            match readable {
                0 => assert!(text.contains("none of the 3 pictures"), "{text}"),
                n => assert!(
                    text.contains(&format!("only {n} of {all}")) && text.contains("00.jpg"),
                    "{text}"
                ),
            }
            assert_eq!(text.contains("data.batch_size 3 at most"), readable == 3);
            assert!(!out.exists());
        }
    }
    // Just enough.
    let mut config = config(
        pictures.path(),
        &["data.batch_size=3", "runner.max_epochs=2"],
    );
    config.data.path = Some(pictures.path().join("3-of-33").into());
    config.data.val = None;
    let summary = train(&config, &out).unwrap();
    assert_eq!((summary.steps, summary.skipped), (2, 30));
}

#[test]
fn the_chance_level_counts_readable_pictures() {
    let pictures = pictures();
    let stop = AtomicBool::new(false);
    for start in ["features", "random"] {
        let config = config(
            pictures.path(),
            &[
                "model.head.type=SoftmaxHead",
                "runner.max_epochs=1",
                &format!("model.memory_bank.init={start}"),
            ],
        );
        let out = pictures.path().join(format!("run-{start}"));
        let mut listener = Listener::default();
        let summary =
            trainer::train(&config, &out, &options(&stop), reference, &mut listener).unwrap();
        assert_eq!(summary.chance_loss, 40f64.ln());
        assert_eq!(listener.chances[0], 42f64.ln());
        assert_eq!(listener.chances.last(), Some(&40f64.ln()));
        let mut again = Listener::default();
        assert_eq!(resume(&out, &mut again).unwrap().chance_loss, 40f64.ln());
        assert_eq!(again.chances, [40f64.ln()]);
    }
}
