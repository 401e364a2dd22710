//! A run whose collection changed goes on: pictures that stayed keep their rows of the memory bank.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::*;
use npid_data::patterns;
use npid_data::source::{self, ContentHash};
use npid_engine::state::BANK;
use npid_learn::Error;
use npid_learn::checkpoint::{Checkpoint, Choice};
use npid_learn::config::Paths;
use npid_learn::eval;
use npid_learn::export::{self, What};
use npid_learn::trainer::{self, Change, Changes, Summary};
use npid_network::init::random_row;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

/// Everything in a folder, copied.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn go_on(run: &Path, changes: &Changes, listener: &mut Listener<'_>) -> Result<Summary, Error> {
    let stop = AtomicBool::new(false);
    trainer::resume(run, changes, &options(&stop), reference, listener)
}

fn epochs(n: u32) -> Changes {
    Changes {
        epochs: Some(n),
        ..Changes::default()
    }
}

fn data(path: &Path) -> Changes {
    Changes {
        data: Some(Paths::from(path)),
        ..Changes::default()
    }
}

/// Names, contents and whether they can be read, of a collection's pictures in order.
fn pictures_at(path: &Path) -> Vec<(String, ContentHash, bool)> {
    let source = source::open(path).unwrap();
    let rows = 0..source.len();
    rows.map(|row| {
        let hash = source.content_hash(row).unwrap();
        (source.name(row), hash, source.picture(row).is_ok())
    })
    .collect()
}

/// The rows of a run's newest checkpoint, as bits.
fn rows(run: &Path) -> Vec<Vec<u32>> {
    let bank = Checkpoint::open(&newest(run)).unwrap().read(BANK).unwrap();
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect();
    bank.chunks_exact(4).map(bits).collect() // the recipe's features have 4 numbers
}

/// A run's embedding of its own training pictures: names and rows, as bits.
fn embedding(run: &Path) -> HashMap<String, Vec<u32>> {
    let stop = AtomicBool::new(false);
    let options = eval::Options {
        checkpoint: Choice::Last,
        threads: 1,
        workers: Some(1),
        stop: &stop,
    };
    let out = run.with_file_name("features.npy");
    let report = eval::embed(run, &[], &out, &options, reference, &mut ()).unwrap();
    let array = fs::read(&out).unwrap();
    let numbers = &array[array.len() - report.rows * report.dim * 4..];
    let numbers: Vec<u32> = (numbers.chunks_exact(4))
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let file = fs::File::open(&report.table).unwrap();
    let table = SerializedFileReader::new(file).unwrap();
    let lines = table.get_row_iter(None).unwrap().map(Result::unwrap);
    let found = (lines.zip(numbers.chunks_exact(report.dim)))
        .filter(|(line, _)| line.get_string(2).unwrap() == "train")
        .map(|(line, row)| (line.get_string(0).unwrap().clone(), row.to_vec()))
        .collect();
    fs::remove_file(&out).unwrap();
    fs::remove_file(&report.table).unwrap();
    found
}

/// Names and contents in a run's table.
fn table(run: &Path) -> Vec<(String, Option<String>)> {
    let file = fs::File::open(run.join("images.parquet")).unwrap();
    let table = SerializedFileReader::new(file).unwrap();
    let lines = table.get_row_iter(None).unwrap().map(Result::unwrap);
    lines
        .map(|line| {
            let name = line.get_string(1).unwrap().clone();
            (name, line.get_string(3).ok().cloned())
        })
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let names = listing(folder);
    let files = names.iter().map(|name| folder.join(name));
    files.filter(|path| path.is_file()).collect()
}

#[test]
fn a_thousand_pictures_lose_a_hundred_and_gain_two_hundred() {
    let root = tempfile::tempdir().unwrap();
    let train = root.path().join("pictures/train");
    patterns::write(&root.path().join("pictures"), 1195, 20, 16, 0).unwrap();
    // 197 of them come later; with a copy and one that can't be read there are 1,000.
    let later = root.path().join("later");
    fs::create_dir(&later).unwrap();
    let all = files(&train);
    for (i, path) in all.iter().step_by(6).take(197).enumerate() {
        fs::rename(path, later.join(format!("{i}.png"))).unwrap();
    }
    let here = files(&train);
    fs::copy(&here[500], train.join("dots/copy.png")).unwrap();
    fs::write(train.join("rays/broken.png"), "not a picture").unwrap();
    let before = pictures_at(&train);
    assert_eq!(before.len(), 1000);
    let run = root.path().join("run");
    let sets = [
        "runner.max_epochs=1",
        "data.batch_size=50",
        "evaluation.interval=0",
    ];
    common::train(&config(root.path(), &sets), &run).unwrap();
    let old = rows(&run);
    let old_checkpoint = newest(&run);
    let old_network = export_network(&run);

    // A hundred go (every eighth of those that aren't copied), fifty are called otherwise, fifty
    // lie in another class, and what comes is sorted in between: new ones, a further copy of the
    // copied picture, a copy of one that is there, and one that can't be read.
    let (mut gone, mut renamed) = (0, 0);
    for (i, path) in here.iter().enumerate().filter(|(i, _)| *i != 500) {
        if i % 8 == 3 && gone < 100 {
            gone += 1;
            fs::remove_file(path).unwrap();
        } else if i % 8 == 5 && renamed < 100 {
            renamed += 1;
            let class = if renamed % 2 == 0 {
                path.parent().unwrap()
            } else {
                &train.join("blobs")
            };
            fs::rename(path, class.join(format!("{}-renamed.png", 999 - i))).unwrap();
        }
    }
    assert_eq!((gone, renamed), (100, 100));
    for (i, path) in files(&later).iter().enumerate() {
        let class = ["checks", "dots", "zigzag", "new-class"][i % 4];
        fs::create_dir_all(train.join(class)).unwrap();
        fs::copy(path, train.join(class).join(format!("a{i}.png"))).unwrap();
    }
    fs::copy(&here[500], train.join("checks/copy.png")).unwrap();
    fs::copy(&here[502], train.join("stripes/0-copy.png")).unwrap();
    fs::write(train.join("blobs/broken.jpg"), "neither").unwrap();
    let after = pictures_at(&train);
    assert_eq!(after.len(), 1100);

    let mut listener = Listener::default();
    let summary = resume(&run, &mut listener).unwrap();
    let (kept, new) = (900, 200);
    assert_eq!(
        summary.change,
        Some(Change {
            kept,
            new,
            gone: 100
        })
    );
    assert_eq!((summary.steps, summary.skipped), (20, 2));
    let said = |text: &str| listener.notes.iter().any(|note| note.contains(text));
    assert!(
        said("1100 pictures: 900 kept their rows, 200 are new, 100 are gone"),
        "{:?}",
        listener.notes
    );
    assert!(said("--epochs"), "{:?}", listener.notes);
    assert!(
        !listener
            .warnings
            .iter()
            .any(|text| text.contains("changed"))
    );
    assert_eq!(newest(&run), old_checkpoint, "no step was taken");

    // Row by row: of a content that was there, in any order; else what the network says, or, of a
    // picture that can't be read, a random row.
    let mut left: HashMap<ContentHash, Vec<&Vec<u32>>> = HashMap::new();
    for ((_, content, _), row) in before.iter().zip(&old) {
        left.entry(*content).or_default().push(row);
    }
    let now = rows(&run);
    let features = embedding(&run);
    let (mut kept, mut fresh) = (0, 0);
    for (i, ((name, content, readable), row)) in after.iter().zip(&now).enumerate() {
        let olds = left.entry(*content).or_default();
        if let Some(at) = olds.iter().position(|old| *old == row) {
            olds.remove(at);
            kept += 1;
        } else if *readable {
            assert_eq!(Some(row), features.get(name), "{name}");
            fresh += 1;
        } else {
            let random: Vec<u32> = random_row(i as u64, 4, 5)
                .iter()
                .map(|x| x.to_bits())
                .collect();
            assert_eq!(*row, random, "{name}");
            fresh += 1;
        }
    }
    assert_eq!((kept, fresh), (900, 200));
    // Of three equal pictures those that kept their names kept their rows.
    let at = |all: &[(String, ContentHash, bool)], name: &str| {
        all.iter().position(|picture| picture.0 == name).unwrap()
    };
    for name in ["dots/copy.png", "rays/broken.png"] {
        assert_eq!(now[at(&after, name)], old[at(&before, name)], "{name}");
    }
    let meta = Checkpoint::open(&newest(&run)).unwrap().meta().clone();
    let broken = ["blobs/broken.jpg", "rays/broken.png"].map(|name| at(&after, name) as u64);
    assert_eq!(meta.skipped, broken.into());
    let expected: Vec<_> = (after.iter())
        .map(|(name, content, readable)| (name.clone(), readable.then(|| content.to_string())))
        .collect();
    assert_eq!(table(&run), expected);
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(settings.contains("length = 1100"), "{settings}");

    // The network is what it was, and the run is asked and exported as any other.
    assert_eq!(export_network(&run), old_network);
    let stop = AtomicBool::new(false);
    for checkpoint in [Choice::Last, Choice::Best, Choice::Step(0)] {
        let options = eval::Options {
            checkpoint,
            threads: 1,
            workers: Some(1),
            stop: &stop,
        };
        eval::evaluate_knn(&run, &[], None, None, &options, reference, &mut ()).unwrap();
    }

    // It goes on, in one or two processes to the same bits.
    let other = root.path().join("other");
    copy(&run, &other);
    let summary = go_on(&run, &epochs(3), &mut Listener::default()).unwrap();
    assert_eq!(
        (summary.epochs, summary.steps, summary.change),
        (3, 20 + 22 + 22, None)
    );
    go_on(&other, &epochs(3), &mut Listener::default()).unwrap();
    assert!(checkpoints(&run) == checkpoints(&other));
    assert_eq!(metrics(&run), metrics(&other));
}

/// The tensors that `npid export` writes of a run's newest checkpoint.
fn export_network(run: &Path) -> Vec<u8> {
    let out = run.with_file_name("network.safetensors");
    let stop = AtomicBool::new(false);
    let options = export::Options {
        checkpoint: Choice::Last,
        what: Some(What::Embedding),
        names: None,
        stop: &stop,
    };
    export::export(run, &out, options, &mut ()).unwrap();
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    bytes
}

/// A run over 42 pictures that was stopped in its second epoch, after step 9.
fn stopped_run(sets: &[&str], at: u64) -> (tempfile::TempDir, PathBuf) {
    let pictures = pictures();
    let run = pictures.path().join("run");
    train_until(&config(pictures.path(), sets), &run, at);
    (pictures, run)
}

/// Five of the 42 go, three come.
fn change(root: &Path) {
    let train = root.join("pictures/train");
    let here = files(&train.join("checks"));
    let more = root.join("more");
    patterns::write(&more, 40, 1, 16, 7).unwrap();
    for (i, path) in files(&more.join("train")).iter().take(3).enumerate() {
        fs::copy(path, train.join(format!("dots/a{i}.png"))).unwrap();
    }
    here.iter()
        .take(3)
        .for_each(|path| fs::remove_file(path).unwrap());
    let rays = files(&train.join("rays"));
    rays.iter()
        .take(2)
        .for_each(|path| fs::remove_file(path).unwrap());
}

const CHANGED: Change = Change {
    kept: 37,
    new: 3,
    gone: 5,
};

#[test]
fn the_epoch_under_way_is_begun_again_and_every_stop_ends_in_the_same_bits() {
    let (root, run) = stopped_run(&[], 9);
    change(root.path());
    let again = root.path().join("again");
    copy(&run, &again);
    let mut listener = Listener::default();
    let summary = resume(&run, &mut listener).unwrap();
    assert_eq!(summary.change, Some(CHANGED));
    // 38 readable pictures make seven batches of six at most; the counter goes on.
    assert_eq!((summary.epochs, summary.steps), (3, 9 + 7 + 7));
    assert_eq!(
        (listener.started[0].step, listener.started[0].steps),
        (9, 9 + 7 + 7)
    );
    assert_eq!(listener.losses[0].0, 10);
    assert!(
        listener
            .notes
            .iter()
            .any(|note| note.contains("epoch 2 is begun again"))
    );
    let lines = metrics(&run);
    let steps: Vec<_> = lines.iter().filter(|line| line["kind"] == "step").collect();
    let numbers: Vec<u64> = steps
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=11).map(|i| 2 * i).collect::<Vec<_>>());

    for at in [10, 13, 16, 20] {
        let stop = AtomicBool::new(false);
        let mut listener = Listener {
            stop_after: Some((at, &stop)),
            ..Listener::default()
        };
        let none = Changes::default();
        let error = trainer::resume(&again, &none, &options(&stop), reference, &mut listener);
        assert_eq!(error.unwrap_err().exit_code(), 130);
    }
    let summary = resume(&again, &mut Listener::default()).unwrap();
    assert_eq!(summary.change, None);
    assert_eq!(metrics(&again), metrics(&run));
    assert!(fs::read(newest(&again)).unwrap() == fs::read(newest(&run)).unwrap());
    for file in ["images.parquet", "config.toml"] {
        let read = |run: &Path| fs::read(run.join(file)).unwrap();
        assert!(read(&again) == read(&run), "{file}");
    }
}

#[test]
fn a_kill_in_the_change_leaves_the_old_run_or_the_new_one() {
    let (root, run) = stopped_run(&["runner.max_epochs=2"], 9);
    resume(&run, &mut Listener::default()).unwrap();
    change(root.path());
    // The run is finished, so that a resume does nothing but change it.
    let new = root.path().join("new");
    copy(&run, &new);
    let summary = resume(&new, &mut Listener::default()).unwrap();
    assert_eq!(summary.change, Some(CHANGED));
    let step = newest(&run);
    let checkpoint = Path::new("checkpoints").join(step.file_name().unwrap());
    let (table, settings) = (Path::new("images.parquet"), Path::new("config.toml"));
    let next = |name: &Path| PathBuf::from(format!(".{}.next", name.display()));
    // How far it came: what of the new run lies there, and under which name.
    let states: [(&[(&Path, PathBuf)], bool); 5] = [
        (&[(table, next(table))], false),
        (&[(table, next(table)), (settings, next(settings))], false),
        (
            &[
                (table, next(table)),
                (settings, next(settings)),
                (&checkpoint, checkpoint.clone()),
            ],
            true,
        ),
        (
            &[
                (table, table.into()),
                (settings, next(settings)),
                (&checkpoint, checkpoint.clone()),
            ],
            true,
        ),
        // While the first file was written.
        (&[], false),
    ];
    for (number, (files, counts)) in states.iter().enumerate() {
        let killed = root.path().join(format!("killed-{number}"));
        copy(&run, &killed);
        for (from, to) in files.iter() {
            fs::copy(new.join(from), killed.join(to)).unwrap();
        }
        for half in [".config.toml.next.tmp", "..images.parquet.next.tmp"] {
            fs::write(killed.join(half), "half").unwrap();
        }
        let summary = resume(&killed, &mut Listener::default()).unwrap();
        assert_eq!(summary.change, (!counts).then_some(CHANGED), "{number}");
        assert_eq!(checkpoints(&killed), checkpoints(&new), "{number}");
        for file in [table, settings] {
            let read = |run: &Path| fs::read(run.join(file)).unwrap();
            assert!(read(&killed) == read(&new), "{number}: {}", file.display());
        }
        let hidden: Vec<String> = (listing(&killed).into_iter())
            .filter(|name| name.starts_with('.') && name != ".lock")
            .collect();
        assert!(hidden.is_empty(), "{number}: {hidden:?}");
    }

    // A newest checkpoint that is damaged afterwards: the one before it is of other pictures.
    let bytes = fs::read(newest(&new)).unwrap();
    fs::write(newest(&new), &bytes[..bytes.len() / 2]).unwrap();
    let before = checkpoints(&new);
    let error = resume(&new, &mut Listener::default()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(
        text.contains("another collection") && !text.contains('\n'),
        "{text}"
    );
    assert!(checkpoints(&new) == before);
}

#[test]
fn a_change_that_did_not_count_is_forgotten_with_the_old_pictures() {
    let (root, run) = stopped_run(&[], 9);
    let whole = root.path().join("whole");
    train(&config(root.path(), &[]), &whole).unwrap();
    let kept = root.path().join("kept");
    copy(&root.path().join("pictures/train"), &kept);
    change(root.path());
    let new = root.path().join("new");
    copy(&run, &new);
    resume(&new, &mut Listener::default()).unwrap();
    for name in ["images.parquet", "config.toml"] {
        fs::copy(new.join(name), run.join(format!(".{name}.next"))).unwrap();
    }
    fs::remove_dir_all(root.path().join("pictures/train")).unwrap();
    fs::rename(&kept, root.path().join("pictures/train")).unwrap();
    resume(&run, &mut Listener::default()).unwrap();
    assert!(checkpoints(&run) == checkpoints(&whole));
    assert_eq!(metrics(&run), metrics(&whole));
}

/// The resume is refused with these words, in one line, and the run is as it was.
#[track_caller]
fn refused(run: &Path, changes: &Changes, words: &[&str]) {
    let before = (checkpoints(run), metrics(run), listing(run));
    let error = go_on(run, changes, &mut Listener::default()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2, "{text}");
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    assert_eq!((checkpoints(run), metrics(run), listing(run)), before);
}

#[test]
fn most_pictures_must_be_found_again_unless_the_change_is_meant() {
    let (root, run) = stopped_run(&[], 9);
    let train = root.path().join("pictures/train");
    let kept = root.path().join("kept");
    copy(&train, &kept);
    let none = Changes::default();

    // A disk that isn't mounted: few pictures; or as many, but others.
    let all = files(&train);
    all.iter()
        .skip(20)
        .for_each(|path| fs::remove_file(path).unwrap());
    refused(&run, &none, &["--resume", "at most 20 of its 42", "--data"]);
    patterns::write(&root.path().join("more"), 40, 1, 16, 7).unwrap();
    copy(&root.path().join("more/train"), &train.join("more"));
    refused(&run, &none, &["only 20 of its 42", "--data"]);
    let other = root.path().join("other");
    copy(&run, &other);
    let summary = go_on(&other, &data(&train), &mut Listener::default()).unwrap();
    let (kept_rows, new, gone) = (20, 40, 22);
    let change = Change {
        kept: kept_rows,
        new,
        gone,
    };
    assert_eq!(summary.change, Some(change));

    // None at all, even where that is meant.
    let more = root.path().join("more/train");
    refused(&run, &data(&more), &["none of its 42", "start a new run"]);
    let nowhere = root.path().join("nowhere");
    refused(&run, &data(&nowhere), &["nowhere"]);

    // Moved pictures are the same ones.
    let whole = root.path().join("whole");
    fs::remove_dir_all(&train).unwrap();
    copy(&kept, &train);
    common::train(&config(root.path(), &[]), &whole).unwrap();
    fs::remove_dir_all(&train).unwrap();
    refused(&run, &none, &["data.path", "--data"]);
    let mut listener = Listener::default();
    let summary = go_on(&run, &data(&kept), &mut listener).unwrap();
    assert_eq!(summary.change, None);
    assert_eq!(
        listener
            .warnings
            .iter()
            .find(|text| text.contains("changed")),
        None
    );
    assert!(checkpoints(&run) == checkpoints(&whole));
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    let path = format!("path = {:?}", kept.to_str().unwrap());
    assert!(settings.contains(&path), "{settings}");
    // And it is remembered.
    resume(&run, &mut Listener::default()).unwrap();
}

#[test]
fn what_can_not_be_changed_over_is_refused() {
    let (root, run) = stopped_run(&[], 9);
    let train = root.path().join("pictures/train");
    let none = Changes::default();
    // Fewer epochs than are done; as many as are begun will do.
    refused(
        &run,
        &epochs(1),
        &["--epochs 1", "1 are done and one is begun", "at least 2"],
    );
    let short = root.path().join("short");
    copy(&run, &short);
    let mut listener = Listener::default();
    let summary = go_on(&short, &epochs(2), &mut listener).unwrap();
    assert_eq!((summary.epochs, summary.steps), (2, 14));
    assert!(
        !listener
            .warnings
            .iter()
            .any(|text| text.contains("changed"))
    );
    refused(
        &short,
        &epochs(1),
        &["--epochs 1", "2 are done;", "at least 2"],
    );
    let summary = go_on(&short, &epochs(4), &mut Listener::default()).unwrap();
    assert_eq!((summary.epochs, summary.steps), (4, 28));

    change(root.path());
    // A new picture that can't be read, where none may.
    fs::write(train.join("rays/a.png"), "no picture").unwrap();
    let stop = AtomicBool::new(false);
    let strict = trainer::Options {
        strict: true,
        ..options(&stop)
    };
    let before = (checkpoints(&run), listing(&run));
    let error = trainer::resume(&run, &none, &strict, reference, &mut ()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--strict"), "{error}");
    // Stopped before it is saved.
    let stop = AtomicBool::new(true);
    let error = trainer::resume(&run, &none, &options(&stop), reference, &mut ()).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert_eq!((checkpoints(&run), listing(&run)), before);
    // Nothing that says whose the rows are; no rows.
    let moved = root.path().join("images.parquet");
    fs::rename(run.join("images.parquet"), &moved).unwrap();
    refused(&run, &none, &["42 pictures", "images.parquet"]);
    fs::rename(&moved, run.join("images.parquet")).unwrap();
    let early = root.path().join("early");
    copy(&run, &early);
    fs::remove_dir_all(early.join("checkpoints")).unwrap();
    fs::create_dir(early.join("checkpoints")).unwrap();
    refused(&early, &none, &["42 pictures", "no checkpoint"]);
    // A batch that is larger than what is left.
    let all = files(&train);
    all.iter()
        .skip(4)
        .for_each(|path| fs::remove_file(path).unwrap());
    refused(&run, &data(&train), &["data.batch_size", "6", "4"]);
}

#[test]
fn a_picture_that_was_not_read_yet_is_known_by_its_name() {
    let (root, run) = stopped_run(&["model.memory_bank.init=random"], 3);
    let before = (rows(&run), pictures_at(&root.path().join("pictures/train")));
    let hashes = table(&run);
    assert!(hashes.iter().all(|(_, hash)| hash.is_none()), "{hashes:?}");
    change(root.path());
    let stop = AtomicBool::new(false);
    let mut listener = Listener {
        stop_after: Some((4, &stop)),
        ..Listener::default()
    };
    let none = Changes::default();
    let stopped = trainer::resume(&run, &none, &options(&stop), reference, &mut listener);
    assert_eq!(stopped.unwrap_err().exit_code(), 130);
    let said = listener
        .notes
        .iter()
        .find(|note| note.contains("kept"))
        .unwrap();
    // The thirty-seventh can't be read, so its name is all there is.
    assert!(said.contains("(36 known by name alone"), "{said}");
    assert!(
        said.starts_with("40 pictures: 37 kept their rows"),
        "{said}"
    );
    // One step of six pictures moved as many rows.
    let old: HashMap<_, _> = before
        .1
        .iter()
        .map(|picture| &picture.0)
        .zip(&before.0)
        .collect();
    let now = rows(&run);
    let names = table(&run);
    let same = names
        .iter()
        .zip(&now)
        .filter(|((name, _), row)| old.get(name) == Some(row));
    let same = same.count();
    assert!((31..37).contains(&same), "{same}");
}

#[test]
fn a_picture_that_was_repaired_is_new_and_one_that_broke_is_left_out() {
    let (root, run) = stopped_run(&[], 9);
    let train = root.path().join("pictures/train");
    let whole = fs::read(train.join("rays/0005.png")).unwrap();
    let other = files(&train.join("checks"));
    let bytes = fs::read(&other[0]).unwrap();
    patterns::write(&root.path().join("more"), 10, 1, 16, 9).unwrap();
    let repaired = files(&root.path().join("more/train"));
    fs::copy(&repaired[0], train.join("dots/notes.jpg")).unwrap();
    fs::write(train.join("rays/0005.png"), &whole[..whole.len() / 3]).unwrap();
    // A picture under the name of another, which is gone.
    fs::write(&other[1], &bytes).unwrap();
    let mut listener = Listener::default();
    let summary = resume(&run, &mut listener).unwrap();
    let (kept, new, gone) = (39, 3, 3);
    assert_eq!(summary.change, Some(Change { kept, new, gone }));
    assert_eq!(summary.skipped, 2);
    let hashes: HashMap<_, _> = table(&run).into_iter().collect();
    assert!(hashes["dots/notes.jpg"].is_some() && hashes["rays/0005.png"].is_none());
}

#[test]
fn weights_of_negatives_belong_to_the_pictures_there_are() {
    let pictures = pictures();
    let file = pictures.path().join("weights.txt");
    let count = |n: usize| fs::write(&file, "1\n2\n".repeat(n / 2)).unwrap();
    count(42);
    let set = format!("model.neg_weights={}", file.display());
    let run = pictures.path().join("run");
    train_until(&config(pictures.path(), &[&set]), &run, 9);
    change(pictures.path());
    let none = Changes::default();
    refused(
        &run,
        &none,
        &["model.neg_weights", "weights.txt", "40 pictures"],
    );
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    let line = format!("neg_weights = {:?}\n", file.display().to_string());
    fs::write(run.join("config.toml"), settings.replace(&line, "")).unwrap();
    refused(&run, &none, &["model.neg_weights", "put it back"]);
    fs::write(run.join("config.toml"), settings).unwrap();
    count(40);
    let mut listener = Listener::default();
    let summary = go_on(&run, &none, &mut listener).unwrap();
    assert_eq!(summary.change, Some(CHANGED));
    let moved = |text: &&String| text.contains("model.neg_weights");
    assert_eq!(listener.warnings.iter().find(moved), None);

    // As many pictures as numbers, but others in the rows: worth a word.
    let train = pictures.path().join("pictures/train");
    fs::rename(train.join("dots/a0.png"), train.join("zigzag/z.png")).unwrap();
    let mut listener = Listener::default();
    let summary = go_on(&run, &none, &mut listener).unwrap();
    let (kept, new, gone) = (40, 0, 0);
    assert_eq!(summary.change, Some(Change { kept, new, gone }));
    let warned = listener.warnings.iter().find(moved);
    assert!(
        warned.is_some_and(|text| text.contains("weights.txt")),
        "{:?}",
        listener.warnings
    );
}

#[test]
fn rows_of_16_bits_are_kept_as_they_are() {
    for dtype in ["bf16", "f16"] {
        let dtype_key = format!("model.memory_bank.dtype={dtype}");
        let sets = [dtype_key.as_str(), "runner.max_epochs=1"];
        let pictures = pictures();
        let run = pictures.path().join("run");
        train(&config(pictures.path(), &sets), &run).unwrap();
        let train = pictures.path().join("pictures/train");
        let before = (pictures_at(&train), rows(&run));
        let old: HashMap<_, _> = (before.0.into_iter().zip(before.1))
            .map(|((_, content, _), row)| (content, row))
            .collect();
        change(pictures.path());
        let summary = resume(&run, &mut Listener::default()).unwrap();
        assert_eq!(summary.change, Some(CHANGED));
        let now = pictures_at(&train).into_iter().zip(rows(&run));
        let kept = now.filter(|((_, content, _), row)| old.get(content) == Some(row));
        assert_eq!(kept.count(), CHANGED.kept, "{dtype}");
    }
}
