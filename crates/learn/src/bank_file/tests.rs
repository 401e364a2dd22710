//! A run's checkpoints, simulated: rows change, the process is killed after each file operation in
//! turn, and every time what is found afterwards is some checkpoint, whole, and goes on to the same
//! end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::{Description, Dtype, Sizes};
use npid_network::graph::Network;
use npid_network::method::{Head, MemoryBank, Npid, RowStorage, Sgd};
use npid_network::neck::{Neck, embed};
use npid_network::philox::{Purpose, Stream};

use super::*;
use crate::checkpoint::{self, Cursor, Figures, LossSum};

const N: usize = 40;
const DIM: usize = 8;
const KEEP: usize = 2;

fn shape(dtype: RowType) -> Shape {
    Shape {
        rows: N,
        dim: DIM,
        dtype,
    }
}

/// An engine with a bank in a file.
fn engine(dtype: RowType) -> Cpu {
    let mut network = Network::new();
    let x = network.input(&[0.5; 3], &[0.25; 3]).unwrap();
    embed(&mut network, x, Some(&Neck::linear(DIM, false))).unwrap();
    let description = Description {
        network,
        method: Some(Npid {
            head: Head::Softmax { temperature: 0.2 },
            memory_bank: MemoryBank {
                length: N,
                feat_dim: DIM,
                momentum: 0.5,
                dtype,
                storage: RowStorage::File,
            },
            neg_num: 1,
            ensure_neg: false,
        }),
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            lars: None,
        },
        seed: 1,
    };
    let sizes = Sizes {
        batch: 2,
        height: 1,
        width: 1,
    };
    let options = Options {
        threads: 1,
        isa: Isa::detect().unwrap(),
        dtype: Dtype::F32,
    };
    Cpu::compile(&description, sizes, options).unwrap()
}

fn meta(step: u64, rows: String) -> Meta {
    Meta {
        version: checkpoint::VERSION,
        cursor: Cursor {
            epoch: 0,
            step_in_epoch: step,
            step,
        },
        seed: 1,
        skipped: Default::default(),
        epoch_skipped: Default::default(),
        config: String::new(),
        neg_weights: None,
        collection: None,
        rows: Some(rows),
        log: LossSum::default(),
        epoch: LossSum::default(),
        figures: Figures::default(),
        health: Default::default(),
    }
}

fn all_rows(engine: &dyn Engine) -> Vec<u32> {
    let rows: Vec<u64> = (0..N as u64).collect();
    let values = engine.read_rows(&rows).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Rows that step `step` changes, and what they become; none in the third and the fourth.
fn work(step: u64) -> (Vec<u64>, Vec<f32>) {
    let mut random = Stream::new(7, Purpose::Bench, 0, step, 0);
    let count = if step == 3 || step == 4 { 0 } else { 9 };
    let rows: Vec<u64> = (0..count)
        .map(|_| (random.next_u32() as usize % N) as u64)
        .collect();
    let values = (0..count * DIM)
        .map(|_| random.uniform(-1.0, 1.0) as f32)
        .collect();
    (rows, values)
}

/// What the bank is after so many steps, by an engine that has no file.
fn expected(dtype: RowType, steps: u64) -> BTreeMap<u64, Vec<u32>> {
    let mut engine = engine(dtype);
    let rows: Vec<u64> = (0..N as u64).collect();
    engine.write_rows(&rows, &start()).unwrap();
    let mut after = BTreeMap::from([(0, all_rows(&engine))]);
    for step in 1..=steps {
        let (rows, values) = work(step);
        engine.write_rows(&rows, &values).unwrap();
        after.insert(step, all_rows(&engine));
    }
    after
}

fn start() -> Vec<f32> {
    let mut random = Stream::new(8, Purpose::Bench, 0, 0, 0);
    (0..N * DIM)
        .map(|_| random.uniform(-1.0, 1.0) as f32)
        .collect()
}

/// Takes the run in `run` to step `end`, from wherever it stands, with a checkpoint every second
/// step: as the trainer does. Every state it meets is held against `expected`.
fn go_on(
    run: &RunFolder,
    dtype: RowType,
    end: u64,
    expected: &BTreeMap<u64, Vec<u32>>,
) -> Result<(), Error> {
    let mut engine = engine(dtype);
    let (mut bank, mut step) = match newest(run)? {
        Some((checkpoint, _)) => {
            let mut bank = BankFile::open(run, &checkpoint, shape(dtype))?;
            bank.restore(&mut engine)?;
            let step = checkpoint.meta().cursor.step;
            assert_eq!(all_rows(&engine), expected[&step], "restored at {step}");
            run.tidy()?;
            bank.tidy()?;
            (bank, step)
        }
        None => {
            run.tidy()?;
            let mut begun = Begun::create(run, shape(dtype), 1)?;
            let rows: Vec<u64> = (0..N as u64).collect();
            begun.write_rows(&rows, &start())?;
            let mut bank = BankFile::begin(run, begun, &mut engine)?;
            save(run, &mut bank, &mut engine, 0)?;
            (bank, 0)
        }
    };
    prune(run, &mut bank, &mut engine, step)?;
    while step < end {
        step += 1;
        let (rows, values) = work(step);
        engine.write_rows(&rows, &values).unwrap();
        bank.changed(&rows);
        assert_eq!(all_rows(&engine), expected[&step], "at {step}");
        if step.is_multiple_of(2) {
            save(run, &mut bank, &mut engine, step)?;
            prune(run, &mut bank, &mut engine, step)?;
            assert_eq!(all_rows(&engine), expected[&step], "saved at {step}");
        }
    }
    Ok(())
}

fn save(run: &RunFolder, bank: &mut BankFile, engine: &mut Cpu, step: u64) -> Result<(), Error> {
    bank.save(step, engine)?;
    // A kill leaves the checkpoint's own file whole or not there at all.
    disk::alive().map_err(|error| Error::run(error.to_string()))?;
    checkpoint::save(&run.checkpoints(), engine, &meta(step, bank.id()))?;
    disk::alive().map_err(|error| Error::run(error.to_string()))
}

fn prune(run: &RunFolder, bank: &mut BankFile, engine: &mut Cpu, step: u64) -> Result<(), Error> {
    run.prune(step, KEEP, None)?;
    disk::alive().map_err(|error| Error::run(error.to_string()))?;
    match run.oldest_kept(step, KEEP)? {
        Some(oldest) => bank.fold(oldest, engine),
        None => Ok(()),
    }
}

/// A run's folder that is empty but for its configuration.
fn folder(at: &Path, name: &str) -> RunFolder {
    RunFolder::create(&at.join(name), "").unwrap()
}

/// All files of a run, by name.
fn files(run: &RunFolder) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for folder in [run.checkpoints(), base::folder(run)] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            all.insert(name, fs::read(&path).unwrap());
        }
    }
    all
}

/// The rows by the files alone, as a tool would read them: the base, then the changes.
fn on_disk(run: &RunFolder, dtype: RowType) -> Vec<u32> {
    let files = files(run);
    let mut rows = files[&format!("rows.{}", dtype.name())].clone();
    let stride = DIM * dtype.bytes();
    for (name, bytes) in &files {
        if name.ends_with(".rows") {
            let count = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
            for i in 0..count {
                let row = &bytes[80 + 8 * i..][..8];
                let row = u64::from_le_bytes(row.try_into().unwrap()) as usize;
                let new = &bytes[80 + 8 * count + i * stride..][..stride];
                rows[row * stride..][..stride].copy_from_slice(new);
            }
        }
    }
    let numbers = npid_engine::mapped::decode(dtype, &rows);
    numbers.into_iter().map(f32::to_bits).collect()
}

#[test]
fn killed_after_any_file_operation_it_goes_on_to_the_same_files() {
    let place = tempfile::tempdir().unwrap();
    let (dtype, end) = (RowType::Bf16, 8);
    let expected = expected(dtype, end);
    let whole = folder(place.path(), "whole");
    go_on(&whole, dtype, end, &expected).unwrap();
    let wanted = files(&whole);
    assert_eq!(on_disk(&whole, dtype), expected[&end]);
    // Two checkpoints, the changes between them, and the rows of the older one.
    let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "rows.bf16",
            "rows.json",
            "step-00000006.safetensors",
            "step-00000008.rows",
            "step-00000008.safetensors"
        ]
    );
    for operations in 0.. {
        let run = folder(place.path(), &format!("killed-{operations}"));
        disk::kill_after(Some(operations));
        let killed = go_on(&run, dtype, end, &expected);
        disk::kill_after(None);
        if killed.is_ok() {
            assert!(operations > 40, "{operations} operations");
            break;
        }
        // Killed a second time soon after it goes on, so that a kill meets repairs too.
        disk::kill_after(Some(operations % 5));
        let _ = go_on(&run, dtype, end, &expected);
        disk::kill_after(None);
        go_on(&run, dtype, end, &expected).unwrap();
        assert!(
            files(&run) == wanted,
            "killed after {operations} operations"
        );
        fs::remove_dir_all(run.path()).unwrap();
    }
}

#[test]
fn damage_is_found_and_an_earlier_checkpoint_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let dtype = RowType::F16;
    let expected = expected(dtype, 14);
    let run = folder(place.path(), "run");
    go_on(&run, dtype, 8, &expected).unwrap();
    let path = run.checkpoints().join("step-00000008.rows");
    let good = fs::read(&path).unwrap();
    let mut random = Stream::new(9, Purpose::Bench, 0, 0, 0);
    for case in 0..60 {
        let mut bytes = good.clone();
        let at = random.next_u32() as usize % bytes.len();
        match case % 3 {
            0 => bytes[at] ^= 1 << (random.next_u32() % 8),
            1 => bytes.truncate(at),
            _ => bytes.extend_from_slice(&good[..at.max(1)]),
        }
        fs::write(&path, &bytes).unwrap();
        match newest(&run) {
            Ok(Some((checkpoint, warnings))) => {
                assert_eq!(checkpoint.meta().cursor.step, 6, "case {case}");
                assert_eq!(warnings.len(), 1);
                assert!(warnings[0].contains("step-00000008.rows"), "{warnings:?}");
            }
            // A version that isn't known is not passed over.
            Err(error) => assert!(error.to_string().contains("version"), "{error}"),
            Ok(None) => panic!("case {case}: no checkpoint"),
        }
    }
    // Lost altogether, or another run's.
    fs::remove_file(&path).unwrap();
    let (checkpoint, warnings) = newest(&run).unwrap().unwrap();
    assert_eq!(checkpoint.meta().cursor.step, 6);
    assert!(
        warnings[0].contains("are missing or others"),
        "{warnings:?}"
    );
    go_on(&run, dtype, 14, &expected).unwrap();
    let whole = folder(place.path(), "whole");
    go_on(&whole, dtype, 14, &expected).unwrap();
    assert!(files(&run) == files(&whole));
}

#[test]
fn a_base_with_some_later_rows_is_none_of_an_earlier_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let dtype = RowType::F32;
    let expected = expected(dtype, 8);
    let mut torn = 0;
    for operations in 0.. {
        let run = folder(place.path(), &format!("run-{operations}"));
        go_on(&run, dtype, 2, &expected).unwrap();
        let early = run.checkpoints().join(checkpoint::file_name(0));
        let bytes = fs::read(&early).unwrap();
        disk::kill_after(Some(operations));
        let killed = go_on(&run, dtype, 6, &expected);
        disk::kill_after(None);
        if killed.is_ok() {
            break;
        }
        // Every checkpoint but the first is lost: it is found with its rows, or not at all.
        for (step, path) in checkpoint::list(&run.checkpoints()).unwrap() {
            if step > 0 {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(&early, &bytes).unwrap();
        match newest(&run) {
            Err(error) => {
                assert!(
                    error.to_string().contains("aren't there any more"),
                    "{error}"
                );
                torn += usize::from(error.to_string().contains("some of a later step"));
            }
            Ok(_) => go_on(&run, dtype, 0, &expected).unwrap(), // which looks at them
        }
    }
    assert!(torn > 1, "{torn}");
}

#[test]
fn a_base_that_is_not_there_or_another_is_named() {
    let place = tempfile::tempdir().unwrap();
    let dtype = RowType::F32;
    let expected = expected(dtype, 8);
    let run = folder(place.path(), "run");
    go_on(&run, dtype, 2, &expected).unwrap();
    let early = run.checkpoints().join(checkpoint::file_name(2));
    let early_bytes = fs::read(&early).unwrap();
    go_on(&run, dtype, 8, &expected).unwrap();
    let rows = run.path().join("bank/rows.f32");
    let json = run.path().join("bank/rows.json");
    let (bytes, text) = (fs::read(&rows).unwrap(), fs::read_to_string(&json).unwrap());
    let refused = |what: &[&str]| {
        let error = match newest(&run) {
            Ok(_) => panic!("{what:?} is not seen"),
            Err(error) => error,
        };
        assert_eq!(error.exit_code(), 2, "{error}");
        for what in what {
            assert!(error.to_string().contains(what), "{error}");
        }
    };
    for length in [0, 1, bytes.len() - 1] {
        fs::write(&rows, &bytes[..length]).unwrap();
        refused(&["rows.f32", &format!("{length} bytes")]);
    }
    fs::remove_file(&rows).unwrap();
    refused(&["rows.f32", "missing"]);
    fs::write(&rows, &bytes).unwrap();
    fs::write(&json, &text[..text.len() / 2]).unwrap();
    refused(&["rows.json", "damaged"]);
    fs::write(&json, text.replace("\"version\":1", "\"version\":9")).unwrap();
    refused(&["rows.json", "version 9"]);
    fs::remove_file(&json).unwrap();
    refused(&["rows.json", "missing"]);
    fs::write(&json, &text).unwrap();
    // Rows that have moved on past all checkpoints that are left.
    let other = Shape {
        dim: DIM + 1,
        ..shape(dtype)
    };
    let (checkpoint, _) = newest(&run).unwrap().unwrap();
    let error = BankFile::open(&run, &checkpoint, other)
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("40 rows of 9 f32"), "{error}");
    for step in [6, 8] {
        fs::remove_file(run.checkpoints().join(checkpoint::file_name(step))).unwrap();
    }
    fs::write(&early, early_bytes).unwrap();
    refused(&["step-00000002", "aren't there any more", "step 6"]);
}

#[test]
fn intervals_follow_from_the_configuration_alone() {
    let mut config = crate::config::load::load(
        &crate::recipes::find("cifar10-resnet18-w16-10e").unwrap(),
        &["model.memory_bank.dtype=bf16".into()],
    )
    .unwrap();
    config.data.batch_size = 128;
    let mut each = |storage, most, rows| {
        config.model.memory_bank.storage = storage;
        config.model.memory_bank.max_dirty_bytes = most;
        config.model.memory_bank.length = Some(rows);
        interval(&config)
    };
    assert_eq!(each(Storage::Memory, None, 100_000_000), None);
    // 256 bytes a row: a page holds whole rows, so a step of 128 makes 128 pages; two checkpoints
    // are kept. All 50,000 rows take 12.8 MB.
    assert_eq!(each(Storage::File, None, 50_000), None);
    assert_eq!(each(Storage::File, None, 100_000_000), Some(1024));
    assert_eq!(each(Storage::File, Some(12_800_000), 50_000), None);
    assert_eq!(each(Storage::File, Some(12_799_999), 50_000), Some(12));
    assert_eq!(each(Storage::File, Some(1), 50_000), Some(1));
    assert_eq!(pages(4096), 1);
    assert_eq!(pages(8192), 2);
    assert_eq!(pages(512), 1);
    assert_eq!(pages(100), 2);
    assert_eq!(pages(4098), 3);
}
