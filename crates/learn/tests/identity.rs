//! What reads a run's pictures must find its own; its folder and checkpoints are its own. (What a
//! resume does with others is in `change.rs`.)

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::*;
use npid_data::source::{self, ContentHash};
use npid_learn::Error;
use npid_learn::checkpoint::{Checkpoint, Choice};
use npid_learn::eval;
use npid_learn::progress::Progress;
use npid_learn::run::RunFolder;
use npid_learn::table::{self, Column};

/// A run that was stopped in its second epoch, and the pictures beside it.
fn stopped_run() -> (tempfile::TempDir, PathBuf) {
    let pictures = pictures();
    let run = pictures.path().join("run");
    train_until(&config(pictures.path(), &[]), &run, 9);
    (pictures, run)
}

/// `eval knn` and `embed` without `--data`.
fn ask(run: &Path, progress: &mut dyn Progress) -> [Result<(), Error>; 2] {
    let stop = AtomicBool::new(false);
    let options = eval::Options {
        checkpoint: Choice::Last,
        threads: 1,
        workers: Some(1),
        stop: &stop,
    };
    let knn = eval::evaluate_knn(run, &[], None, None, &options, reference, progress);
    let out = run.with_file_name("features.npy");
    let embedded = eval::embed(run, &[], &out, &options, reference, progress);
    if embedded.is_ok() {
        fs::remove_file(&out).unwrap();
        fs::remove_file(out.with_extension("parquet")).unwrap();
    }
    [knn.map(|_| ()), embedded.map(|_| ())]
}

/// What asks about the run's pictures refuses, in one line with these words, and changes nothing.
#[track_caller]
fn refused(run: &Path, words: &[&str]) {
    let before = (checkpoints(run), metrics(run));
    for result in ask(run, &mut ()) {
        let error = result.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{text}");
        assert!(!text.contains('\n') && text.contains("--run"), "{text}");
        assert!(text.contains("npid train --resume"), "{text}");
        for word in words {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
    }
    assert_eq!((checkpoints(run), metrics(run)), before);
}

#[test]
fn a_collection_that_changed_is_refused_and_the_first_difference_named() {
    let (pictures, run) = stopped_run();
    let train = pictures.path().join("pictures/train");
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();

    // A file of another name in the same row.
    let (old, new) = (train.join("rays/0005.png"), train.join("rays/0005b.png"));
    fs::rename(&old, &new).unwrap();
    refused(&run, &["now rays/0005b.png", "it was rays/0005.png"]);
    fs::rename(&new, &old).unwrap();

    // Another picture in the same file.
    let bytes = fs::read(&old).unwrap();
    let dots = fs::read_dir(train.join("dots")).unwrap();
    let mut dots = dots.map(|entry| entry.unwrap().path());
    let dot = dots.find(|path| path.extension().unwrap() == "png");
    fs::copy(dot.unwrap(), &old).unwrap();
    refused(&run, &["rays/0005.png", "another picture"]);
    fs::write(&old, &bytes).unwrap();

    // Another number of them; another place; none at all.
    fs::write(train.join("rays/more.png"), &bytes).unwrap();
    refused(&run, &["42 pictures", "43"]);
    fs::remove_file(train.join("rays/more.png")).unwrap();
    let path = format!("path = {:?}", train.to_str().unwrap());
    assert!(settings.contains(&path), "{settings}");
    fs::write(run.join("config.toml"), settings.replace(&path, "")).unwrap();
    refused(&run, &["42 pictures", "the built-in collection", "1000"]);
    let without = settings.replace("length = 42", "");
    assert_ne!(without, settings);
    fs::write(run.join("config.toml"), without.replace(&path, "")).unwrap();
    refused(&run, &["42 pictures", "1000"]);
    fs::write(run.join("config.toml"), &settings).unwrap();

    // Another label of the same file.
    let source = source::open(&train).unwrap();
    let kept = fs::read(run.join("images.parquet")).unwrap();
    let label = |row: usize| {
        let label = source.label(row).map(i64::from);
        if row == 7 {
            label.map(|l| l + 1)
        } else {
            label
        }
    };
    let columns = [
        ("row", Column::Numbers(&|row| Some(row as i64))),
        ("path", Column::Text(&|row| Some(source.name(row)))),
        ("label", Column::Numbers(&label)),
        ("content_hash", Column::Text(&|_| None)),
    ];
    table::write(&run.join("images.parquet"), 42, &columns).unwrap();
    refused(&run, &[&format!("label of {}", source.name(7))]);

    // Something else in place of the table: said of that file, which isn't the collection's fault.
    for garbage in [&b"garbage"[..], &kept[..kept.len() / 2]] {
        fs::write(run.join("images.parquet"), garbage).unwrap();
        let error = resume(&run, &mut Listener::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("images.parquet"), "{error}");
        let [knn, embedded] = ask(&run, &mut ());
        assert!(knn.is_err() && embedded.is_err());
    }

    // With everything as it was, the run goes on.
    fs::write(run.join("images.parquet"), kept).unwrap();
    resume(&run, &mut Listener::default()).unwrap();
    assert!(ask(&run, &mut ()).iter().all(Result::is_ok));
}

#[test]
fn pictures_that_were_moved_are_looked_for_where_the_configuration_says() {
    let (pictures, run) = stopped_run();
    let whole = pictures.path().join("whole");
    train(&config(pictures.path(), &[]), &whole).unwrap();
    let moved = pictures.path().join("moved");
    let from = pictures.path().join("pictures/train");
    fs::rename(&from, &moved).unwrap();
    let resumed = resume(&run, &mut Listener::default()).map(|_| ());
    for result in ask(&run, &mut ()).into_iter().chain([resumed]) {
        let error = result.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(
            text.contains("data.path in ") && text.contains("config.toml"),
            "{text}"
        );
    }
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    let settings = settings.replace(from.to_str().unwrap(), moved.to_str().unwrap());
    fs::write(run.join("config.toml"), settings).unwrap();
    let mut listener = Listener::default();
    resume(&run, &mut listener).unwrap();
    assert!(
        !listener
            .warnings
            .iter()
            .any(|text| text.contains("changed")),
        "{:?}",
        listener.warnings
    );
    assert!(checkpoints(&run) == checkpoints(&whole));
    assert_eq!(metrics(&run), metrics(&whole));
}

#[test]
fn a_table_that_is_missing_is_made_again_with_a_warning() {
    let (pictures, run) = stopped_run();
    let whole = pictures.path().join("whole");
    train(&config(pictures.path(), &[]), &whole).unwrap();
    let table = |run: &Path| fs::read(run.join("images.parquet")).unwrap();
    // In the middle of a run, and after its end.
    for _ in 0..2 {
        fs::remove_file(run.join("images.parquet")).unwrap();
        let mut asked = Listener::default();
        assert!(ask(&run, &mut asked).iter().all(Result::is_ok));
        assert!(asked.warnings[0].contains("images.parquet"));
        assert!(!run.join("images.parquet").exists());
        let mut listener = Listener::default();
        resume(&run, &mut listener).unwrap();
        let warned = listener.warnings.iter();
        let warned: Vec<_> = warned.filter(|w| w.contains("images.parquet")).collect();
        assert_eq!(warned.len(), 1, "{:?}", listener.warnings);
        assert!(table(&run) == table(&whole));
        assert!(checkpoints(&run) == checkpoints(&whole));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_damage() {
    let (pictures, run) = stopped_run();
    let whole = pictures.path().join("whole");
    train(&config(pictures.path(), &[]), &whole).unwrap();
    let path = newest(&run);
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let digits = ContentHash([0; 32]).to_string().len();
    let find = |text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes());
    let seal = find("sha256").unwrap() + "sha256\\\":\\\"".len();
    // A weight, the last byte, the step in the cursor, the hash itself.
    let step = find("\\\"step\\\":9").unwrap() + "\\\"step\\\":".len();
    for at in [header + 13, bytes.len() - 1, step, seal, seal + digits - 1] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        fs::write(&path, &other).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("SHA-256"), "byte {at}: {error}");
    }
    // The run goes on from the one before it.
    let mut listener = Listener::default();
    resume(&run, &mut listener).unwrap();
    assert_eq!(listener.started[0].step, 7);
    let named = |w: &String| w.contains("step-00000009") && w.contains("damaged");
    assert!(
        listener.warnings.iter().any(named),
        "{:?}",
        listener.warnings
    );
    assert_eq!(metrics(&run), metrics(&whole));
}

#[test]
fn a_checkpoint_of_another_version_is_not_passed_over() {
    let (_pictures, run) = stopped_run();
    let path = newest(&run);
    let bytes = fs::read(&path).unwrap();
    let from = b"\\\"version\\\":1";
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut other = bytes.clone();
    other[at + from.len() - 1] = b'2';
    fs::write(&path, &other).unwrap();
    let before = checkpoints(&run);
    assert!(before.len() > 1, "there is one to fall back to");
    let [knn, embedded] = ask(&run, &mut ());
    let resumed = resume(&run, &mut Listener::default()).map(|_| ());
    for result in [knn, embedded, resumed] {
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("version 2"), "{error}");
    }
    assert!(checkpoints(&run) == before);
}

#[test]
fn one_process_trains_in_a_folder() {
    let (_pictures, run) = stopped_run();
    let folder = RunFolder::open(&run, "--resume").unwrap();
    let held = folder.lock("--resume", &mut ()).unwrap();
    assert!(held.is_some());
    let before = (checkpoints(&run), metrics(&run));
    let error = resume(&run, &mut Listener::default()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(
        text.contains("--resume") && text.contains("another npid") && !text.contains('\n'),
        "{text}"
    );
    assert_eq!((checkpoints(&run), metrics(&run)), before);
    // It may be asked meanwhile.
    assert!(ask(&run, &mut ()).iter().all(Result::is_ok));
    drop(held);
    resume(&run, &mut Listener::default()).unwrap();
}

/// A listener that takes the run's folder away after a step.
struct Thief(PathBuf);

impl Progress for Thief {
    fn tick(&mut self, _epoch: u32, step: u64, _loss: f64) {
        if step == 9 {
            fs::rename(&self.0, self.0.with_file_name("stolen")).unwrap();
        }
    }
}

#[test]
fn a_run_whose_folder_goes_away_says_so() {
    let pictures = pictures();
    let run = pictures.path().join("run");
    let stop = AtomicBool::new(false);
    let config = config(pictures.path(), &[]);
    let mut thief = Thief(run.clone());
    let ended = npid_learn::trainer::train(&config, &run, &options(&stop), reference, &mut thief);
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(
        text.contains("its folder is gone") && !text.contains("make room"),
        "{text}"
    );
}
