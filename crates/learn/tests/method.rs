//! What the parts of the method are in training: NCE, weighted negatives, necks, LARS,
//! accumulated gradients, what is frozen.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use common::*;
use npid_data::loader::{Epoch, LoadOptions, Loader};
use npid_engine::state::{BANK, LOG_Z, MOMENTUM};
use npid_engine::{Draws, Engine, Images, Objective, Sizes};
use npid_learn::checkpoint::Choice;
use npid_learn::config::{NegWeights, Start};
use npid_learn::schedule::{Schedule, Time};
use npid_learn::{Config, method, trainer};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use parquet::file::writer::SerializedFileWriter;
use safetensors::SafeTensors;

/// The tensors of a checkpoint, as bits.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bits = |data: &[u8]| {
        let numbers = data.chunks_exact(4);
        numbers
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    (file.tensors().into_iter())
        .map(|(name, tensor)| (name, bits(tensor.data())))
        .collect()
}

fn checkpoint(run: &Path, step: u64) -> BTreeMap<String, Vec<u32>> {
    tensors(&run.join(format!("checkpoints/step-{step:08}.safetensors")))
}

/// A fresh engine of this configuration for `images` pictures.
fn engine(config: &Config, images: usize) -> Box<dyn Engine> {
    let sizes = Sizes {
        batch: config.data.batch_size,
        height: config.data.size,
        width: config.data.size,
    };
    reference(&method::describe(config, images).unwrap(), sizes, None).unwrap()
}

/// `pictures()` without the two that can't be read: 40.
fn good_pictures() -> tempfile::TempDir {
    let folder = pictures();
    for bad in ["dots/notes.jpg", "rays/short.png"] {
        fs::remove_file(folder.path().join("pictures/train").join(bad)).unwrap();
    }
    folder
}

const NCE: [&str; 3] = [
    "model.head.type=NCEHead",
    "model.neg_num=8",
    "checkpoint.keep=9",
];

#[test]
fn nce_keeps_its_z_or_moves_it() {
    let pictures = pictures();
    let log_z = |run: &Path| -> Vec<f64> {
        let lines = metrics(run);
        let epochs = lines.iter().filter(|line| line["kind"] == "epoch");
        epochs.map(|line| line["log_z"].as_f64().unwrap()).collect()
    };
    for (name, more) in [
        ("kept", &["model.head.proximal=0.5"][..]),
        ("running", &["model.head.z_momentum=0.25"]),
        ("cold", &["model.head.temperature=0.01"]),
    ] {
        let config = config(pictures.path(), &[&NCE[..], more].concat());
        let out = pictures.path().join(name);
        let summary = train(&config, &out).unwrap();
        assert!(summary.loss.is_finite());
        // ln 9 + 8 ln(9/8) + 2λ.
        let lambda = config.model.head.proximal.unwrap_or(0.0);
        let chance = 9f64.ln() + 8.0 * (9.0f64 / 8.0).ln() + 2.0 * lambda;
        assert!((summary.chance_loss - chance).abs() < 1e-9, "{name}");
        // Untrained features are near it, but where a few rows make all of Z.
        let first = metrics(&out)
            .into_iter()
            .find(|line| line["kind"] == "step")
            .unwrap();
        let first = first["loss"].as_f64().unwrap();
        assert!(first.is_finite(), "{name}");
        assert!(
            name == "cold" || first < 2.0 * chance,
            "{name}: {first} is far from {chance}"
        );

        let z = log_z(&out);
        assert_eq!(z.len(), 3);
        assert!(z.iter().all(|z| z.is_finite()));
        assert_eq!(z[0] == z[2], name != "running", "{name}: {z:?}");
        // Before the first batch there is no estimate; a checkpoint holds that as well.
        let before = checkpoint(&out, 0);
        assert_eq!(before[LOG_Z], [f32::NEG_INFINITY.to_bits()]);
        let after = checkpoint(&out, summary.steps);
        assert_eq!(f64::from(f32::from_bits(after[LOG_Z][0])), z[2]);

        // A question of features needs no Z.
        let stop = AtomicBool::new(false);
        let options = npid_learn::eval::Options {
            threads: 1,
            workers: None,
            checkpoint: Choice::Last,
            stop: &stop,
        };
        let knn =
            npid_learn::eval::evaluate_knn(&out, &[], None, None, &options, reference, &mut ());
        assert_eq!(Some(knn.unwrap().knn_top1), summary.knn_top1);
    }
    // Other heads have none.
    let out = pictures.path().join("other");
    train(&config(pictures.path(), &["runner.max_epochs=1"]), &out).unwrap();
    assert!(metrics(&out).iter().all(|line| line.get("log_z").is_none()));
    assert!(!tensors(&newest(&out)).contains_key(LOG_Z));
}

/// Trains and returns what the engine was told of the weights.
fn told(config: &Config, out: &Path) -> Option<Arc<[f64]>> {
    let told = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let make = |description: &npid_engine::Description, sizes: Sizes, dtype| {
        *told.lock().unwrap() = description.neg_weights.clone();
        reference(description, sizes, dtype)
    };
    trainer::train(config, out, &options(&stop), make, &mut ()).unwrap();
    told.into_inner().unwrap()
}

#[test]
fn negatives_are_drawn_by_the_weights_of_a_file() {
    let pictures = pictures();
    let file = pictures.path().join("weights.txt");
    let numbers: Vec<f64> = (0..42).map(|i| f64::from(i % 5)).collect();
    let text: Vec<String> = numbers.iter().map(|w| format!("{w}\n")).collect();
    fs::write(&file, text.concat()).unwrap();
    let set = format!("model.neg_weights={}", file.display());
    let config = config(pictures.path(), &[&set, "runner.max_epochs=1"]);
    let out = pictures.path().join("run");
    assert_eq!(told(&config, &out).as_deref(), Some(&numbers[..]));
    let mut plain = config.clone();
    plain.model.neg_weights = None;
    let uniform = pictures.path().join("uniform");
    assert_eq!(told(&plain, &uniform), None);
    assert_ne!(metrics(&out), metrics(&uniform));

    // As an array they are the same weights, and the same run.
    let array = pictures.path().join("weights.npy");
    let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (42,), }\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(numbers.iter().flat_map(|w| w.to_le_bytes()));
    fs::write(&array, bytes).unwrap();
    let mut config = config;
    config.model.neg_weights = Some(NegWeights::File(array.clone()));
    let again = pictures.path().join("again");
    assert_eq!(told(&config, &again).as_deref(), Some(&numbers[..]));
    assert_eq!(metrics(&again), metrics(&out));
    assert!(fs::read(newest(&again)).unwrap() == fs::read(newest(&out)).unwrap());
}

/// A parquet file of the pictures below `folder`, with a number for each.
fn write_parquet(path: &Path, folder: &Path, numbers: &[f64]) {
    let schema = "message pictures { required binary image; required double rarity; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let pictures = listing(folder)
        .into_iter()
        .filter(|name| name.ends_with(".png"));
    let pictures: Vec<ByteArray> = pictures
        .map(|name| fs::read(folder.join(name)).unwrap().into())
        .collect();
    let mut column = group.next_column().unwrap().unwrap();
    let written = column
        .typed::<ByteArrayType>()
        .write_batch(&pictures, None, None);
    assert_eq!(written.unwrap(), numbers.len());
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    (column
        .typed::<DoubleType>()
        .write_batch(numbers, None, None))
    .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn negatives_are_drawn_by_a_column() {
    let pictures = good_pictures();
    let numbers: Vec<f64> = (0..40).map(|i| f64::from(i) / 7.0).collect();
    let file = pictures.path().join("pictures.parquet");
    write_parquet(&file, &pictures.path().join("pictures/train"), &numbers);
    let sets = ["model.neg_weights.column=rarity", "runner.max_epochs=2"];
    let mut config = config(pictures.path(), &sets);
    config.data.path = Some(file.clone().into());
    config.data.val = None;
    let out = pictures.path().join("run");
    assert_eq!(told(&config, &out).as_deref(), Some(&numbers[..]));

    // Other numbers in the same column are other weights.
    let run = pictures.path().join("stopped");
    train_until(&config, &run, 3);
    let others: Vec<f64> = numbers.iter().map(|w| w + 1.0).collect();
    write_parquet(&file, &pictures.path().join("pictures/train"), &others);
    let error = resume(&run, &mut Listener::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("column rarity holds other numbers"), "{text}");
    write_parquet(&file, &pictures.path().join("pictures/train"), &numbers);
    resume(&run, &mut Listener::default()).unwrap();
    assert!(fs::read(newest(&run)).unwrap() == fs::read(newest(&out)).unwrap());

    let bad = pictures.path().join("bad");
    for (column, parts) in [
        ("rare", &["rare", "rarity"][..]),
        ("image", &["image", "numbers"]),
    ] {
        config.model.neg_weights = Some(NegWeights::Column {
            column: column.into(),
        });
        let text = train(&config, &bad).unwrap_err().to_string();
        assert!(text.starts_with("model.neg_weights: "), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    // A folder has no columns.
    config.data.path = Some(pictures.path().join("pictures/train").into());
    let text = train(&config, &bad).unwrap_err().to_string();
    assert!(text.contains("no columns"), "{text}");
    assert!(!bad.exists());
}

#[test]
fn weights_that_do_not_fit_leave_nothing() {
    let pictures = pictures();
    let file = pictures.path().join("weights.txt");
    let out = pictures.path().join("run");
    let set = format!("model.neg_weights={}", file.display());
    let config = config(pictures.path(), &[&set]);
    let refused = || {
        let error = train(&config, &out).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(!out.exists());
        let text = error.to_string();
        assert!(
            text.starts_with("model.neg_weights: ") && text.contains("weights.txt"),
            "{text}"
        );
        assert!(!text.contains('\n'));
        text
    };
    assert!(refused().contains("cannot be read"));
    for (text, part) in [
        ("1\n".repeat(41), "41 numbers for 42 pictures"),
        ("1\n".repeat(43), "more than 42 numbers"),
        ("0\n".repeat(42), "0 to every row"),
        ("1\n".repeat(41) + "-1\n", "line 42 is -1"),
        ("0\n".repeat(41) + "1\n", "model.ensure_neg"),
        (format!("{}x\n", "1\n".repeat(41)), "line 42 is \"x\""),
    ] {
        fs::write(&file, &text).unwrap();
        let said = refused();
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(refused().contains("cannot be read"));
}

#[test]
fn a_resume_must_find_the_same_weights() {
    let pictures = pictures();
    let file = pictures.path().join("weights.txt");
    fs::write(&file, "1\n".repeat(42)).unwrap();
    let set = format!("model.neg_weights={}", file.display());
    let config = config(pictures.path(), &[&set]);
    let whole = pictures.path().join("whole");
    train(&config, &whole).unwrap();
    let run = pictures.path().join("run");
    train_until(&config, &run, 4);
    let refused = || {
        let error = resume(&run, &mut Listener::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    fs::write(&file, "1\n".repeat(41) + "2\n").unwrap();
    let text = refused();
    assert!(text.contains("other numbers"), "{text}");
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    let line = format!("neg_weights = {:?}\n", file.display().to_string());
    assert!(settings.contains(&line), "{settings}");
    fs::write(run.join("config.toml"), settings.replace(&line, "")).unwrap();
    let text = refused();
    assert!(text.contains("put it back"), "{text}");

    // The same numbers may stand elsewhere, and be written otherwise.
    let moved = pictures.path().join("moved.txt");
    fs::write(&moved, "1.0 # all alike\n".repeat(42)).unwrap();
    let elsewhere = format!("neg_weights = {:?}\n", moved.display().to_string());
    fs::write(run.join("config.toml"), settings.replace(&line, &elsewhere)).unwrap();
    let mut listener = Listener::default();
    resume(&run, &mut listener).unwrap();
    let changed = |text: &&String| text.contains("changed");
    assert_eq!(listener.warnings.iter().find(changed), None);
    assert_eq!(metrics(&run), metrics(&whole));
    assert!(fs::read(newest(&run)).unwrap() == fs::read(newest(&whole)).unwrap());
}

/// Six pictures at a time, three times: 40 pictures are steps of 18, 18 and 4.
const ACCUMULATED: [&str; 2] = [
    "optimizer_config.update_interval=3",
    "model.memory_bank.init=random",
];

#[test]
fn an_accumulated_step_is_what_its_calls_make() {
    let pictures = good_pictures();
    let sets = [&NCE[..], &ACCUMULATED, &["model.head.z_momentum=0.5"]].concat();
    let config = config(pictures.path(), &sets);
    let out = pictures.path().join("run");
    let stop = AtomicBool::new(false);
    let mut listener = Listener::default();
    let summary = trainer::train(&config, &out, &options(&stop), reference, &mut listener).unwrap();
    assert_eq!((summary.steps, listener.started[0].steps), (9, 9));
    assert_eq!(listener.started[0].update_interval, 3);

    // The same by hand.
    let source = npid_data::source::open(&pictures.path().join("pictures/train")).unwrap();
    let mut engine = engine(&config, 40);
    let bank = method::initial_bank(Start::Random, 40, 4, config.seed).unwrap();
    engine.write(BANK, &bank).unwrap();
    let schedule = Schedule::new(&config.lr_config, config.optimizer.lr, 3, 3);
    let mut losses = Vec::new();
    for epoch in 0..3 {
        let load = LoadOptions {
            batch_size: 6,
            threads: 1,
            ahead: 1,
            hashes: false,
        };
        let order = Epoch {
            seed: config.seed,
            epoch,
            first_step: 0,
            drop_last: false,
        };
        let pipeline = Arc::new(config.pipeline().unwrap());
        let loader = Loader::new(source.clone(), pipeline, load, order, &Default::default());
        let batches: Vec<_> = loader.map(Result::unwrap).collect();
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.len()).collect();
        assert_eq!(sizes, [6, 6, 6, 6, 6, 6, 4]);
        for (step_in_epoch, micro) in batches.chunks(3).enumerate() {
            let mut sum = 0.0;
            for batch in micro {
                let images = Images {
                    pixels: &batch.pixels,
                    count: batch.len(),
                };
                let objective = Objective::Npid {
                    rows: &batch.rows,
                    draws: Draws::Sampled {
                        epoch,
                        occurrences: &batch.occurrences,
                    },
                };
                sum += f64::from(engine.gradient(images, objective).unwrap()[0].value);
                engine.update_bank().unwrap();
            }
            let time = Time {
                epoch,
                step_in_epoch: step_in_epoch as u64,
            };
            engine.apply(schedule.lr(time) as f32, 1.0 / micro.len() as f32);
            losses.push((losses.len() as u64 + 1, sum / micro.len() as f64));
        }
    }
    assert_eq!(listener.losses, losses);
    let trained = checkpoint(&out, 9);
    for entry in engine.state().iter().filter(|entry| entry.saved()) {
        let bits: Vec<u32> = (engine.read(&entry.name).unwrap().iter())
            .map(|value| value.to_bits())
            .collect();
        assert_eq!(trained[&entry.name], bits, "{}", entry.name);
    }
    // Log lines count optimiser steps.
    let lines = metrics(&out);
    let steps = lines.iter().filter(|line| line["kind"] == "step");
    let steps: Vec<u64> = steps.map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 4, 6, 8]);
}

#[test]
fn an_interval_longer_than_the_epoch_is_one_step() {
    let pictures = good_pictures();
    let sets = ["optimizer_config.update_interval=1000"];
    let config = config(pictures.path(), &sets);
    let summary = train(&config, &pictures.path().join("run")).unwrap();
    assert_eq!((summary.epochs, summary.steps), (3, 3));
}

/// Everything at once.
const ALL: [&str; 12] = [
    "optimizer_config.update_interval=3",
    "model.head.type=NCEHead",
    "model.head.z_momentum=0.25",
    "model.head.proximal=0.1",
    "model.neck.type=NonLinearNeck",
    "model.neck.hid_channels=5",
    "optimizer.type=LARS",
    "optimizer.eta=0.02",
    "optimizer.nesterov=true",
    "optimizer.paramwise_cfg.norm_decay_mult=0",
    "optimizer.paramwise_cfg.norm_lars_exclude=true",
    "optimizer.paramwise_cfg.bias_lars_exclude=true",
];

#[test]
fn all_of_it_resumes_in_the_same_bits() {
    let pictures = pictures();
    let file = pictures.path().join("weights.txt");
    fs::write(&file, "3\n0\n".repeat(21)).unwrap();
    let set = format!("model.neg_weights={}", file.display());
    // A random start reads nothing, so that the unreadable pictures are found between batches.
    for start in ["features", "random"] {
        let init = format!("model.memory_bank.init={start}");
        let sets = [&ALL[..], &[&*set, &*init, "model.ensure_neg=true"]].concat();
        let config = config(pictures.path(), &sets);
        let whole = pictures.path().join(format!("whole-{start}"));
        let summary = train(&config, &whole).unwrap();
        assert_eq!(summary.steps, 9);
        // A step, an epoch's last full one, its shorter last one, steps of the next two.
        for at in [1, 2, 3, 4, 6, 8] {
            let run = pictures.path().join(format!("run-{start}-{at}"));
            train_until(&config, &run, at);
            let mut listener = Listener::default();
            resume(&run, &mut listener).unwrap();
            assert_eq!(listener.started[0].step, at);
            assert_eq!(metrics(&run), metrics(&whole), "{start}, {at}");
            assert!(
                fs::read(newest(&run)).unwrap() == fs::read(newest(&whole)).unwrap(),
                "{start}, stopped after {at}: other bits"
            );
        }
    }
}

/// Names whose bits are not the same in both.
fn changed(a: &BTreeMap<String, Vec<u32>>, b: &BTreeMap<String, Vec<u32>>) -> Vec<String> {
    assert!(a.keys().eq(b.keys()));
    let other = |name: &&String| a[*name] != b[*name];
    a.keys().filter(other).cloned().collect()
}

#[test]
fn what_is_frozen_keeps_every_bit() {
    let pictures = good_pictures();
    let keep = "checkpoint.keep=9";
    let frozen = |name: &str| {
        let name = name.strip_prefix("backbone.").unwrap_or_default();
        let parts = ["conv1.", "bn1.", "layer1.", "layer2."];
        parts.iter().any(|part| name.starts_with(part))
    };
    // The pass of `features` moves running statistics, but not these.
    let sets = [keep, "model.backbone.frozen_stages=2"];
    let config = config(pictures.path(), &sets);
    let out = pictures.path().join("stages");
    let summary = train(&config, &out).unwrap();
    let fresh = engine(&config, 40);
    let start = checkpoint(&out, 0);
    let end = checkpoint(&out, summary.steps);
    let (mut still, mut moved) = (0, 0);
    for entry in fresh.state().iter().filter(|entry| entry.saved()) {
        let name = &entry.name;
        let bits: Vec<u32> = fresh
            .read(name)
            .unwrap()
            .iter()
            .map(|v| v.to_bits())
            .collect();
        if frozen(name) {
            still += 1;
            assert_eq!(bits, start[name], "{name} before the first step");
            assert_eq!(bits, end[name], "{name} after the last");
        } else {
            moved += 1;
            assert_ne!(start[name], end[name], "{name} should learn");
        }
    }
    // Stem and two stages: 10 convolutions, 10 batch norms of four; one of each has a shortcut.
    assert_eq!(still, 10 + 10 * 4);
    assert!(moved > 50);
    assert!(
        !end.keys()
            .any(|name| name.starts_with(MOMENTUM) && frozen(&name[MOMENTUM.len()..]))
    );
}

#[test]
fn norms_in_evaluation_keep_their_statistics_and_learn() {
    let pictures = good_pictures();
    let sets = ["checkpoint.keep=9", "model.backbone.norm_eval=true"];
    let config = config(pictures.path(), &sets);
    let out = pictures.path().join("run");
    let summary = train(&config, &out).unwrap();
    let changed = changed(&checkpoint(&out, 0), &checkpoint(&out, summary.steps));
    let statistics = |name: &&String| name.contains("running_") && name.starts_with("backbone.");
    assert_eq!(changed.iter().find(statistics), None);
    assert!(changed.contains(&"neck.norm.running_mean".to_string()));
    for name in [
        "backbone.bn1.weight",
        "backbone.layer4.1.bn2.bias",
        "backbone.conv1.weight",
    ] {
        assert!(changed.contains(&name.to_string()), "{name} should learn");
    }
}
