//! A run that was stopped goes on as if it hadn't been.

mod common;

use std::fs;

use common::*;
use npid_learn::checkpoint::Checkpoint;
use npid_learn::trainer::{self, Changes};

#[test]
fn stopped_after_any_step_a_run_ends_in_the_same_bits() {
    let pictures = pictures();
    // A random start reads nothing, so that the unreadable pictures are found in mid-epoch.
    for start in ["features", "random"] {
        let config = config(
            pictures.path(),
            &[&format!("model.memory_bank.init={start}")],
        );
        let whole = pictures.path().join(format!("whole-{start}"));
        let expected = train(&config, &whole).unwrap();
        // The first step, the middle of an epoch, between log lines, an epoch's last step (before
        // its evaluation), the last step of all.
        for at in [1, 4, 7, 11, expected.steps] {
            let run = pictures.path().join(format!("run-{start}-{at}"));
            train_until(&config, &run, at);
            let mut listener = Listener::default();
            let summary = resume(&run, &mut listener).unwrap();
            assert_eq!(listener.started[0].step, at);
            if let Some(&(first, _)) = listener.losses.first() {
                assert_eq!(first, at + 1);
            }
            assert_eq!(summary.steps, expected.steps);
            assert_eq!(summary.loss, expected.loss);
            assert_eq!(summary.knn_top1, expected.knn_top1);
            assert_eq!(summary.knn_top1_pixels, expected.knn_top1_pixels);
            assert_eq!(
                metrics(&run),
                metrics(&whole),
                "{start}, stopped after {at}"
            );
            let last = newest(&whole);
            let name = last.file_name().unwrap();
            assert_eq!(newest(&run).file_name().unwrap(), name);
            assert!(
                fs::read(newest(&run)).unwrap() == fs::read(&last).unwrap(),
                "{start}, stopped after {at}: other bits"
            );
            assert_eq!(
                fs::read(run.join("images.parquet")).unwrap(),
                fs::read(whole.join("images.parquet")).unwrap()
            );
        }
    }
}

#[test]
fn stopped_again_and_again_it_still_ends_in_the_same_bits() {
    let pictures = pictures();
    let config = config(pictures.path(), &["model.memory_bank.init=uniform"]);
    let whole = pictures.path().join("whole");
    train(&config, &whole).unwrap();
    let run = pictures.path().join("run");
    train_until(&config, &run, 1);
    for at in (3..21).step_by(2) {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut listener = Listener {
            stop_after: Some((at, &stop)),
            ..Listener::default()
        };
        let error = trainer::resume(
            &run,
            &Changes::default(),
            &options(&stop),
            reference,
            &mut listener,
        );
        assert_eq!(error.unwrap_err().exit_code(), 130);
    }
    resume(&run, &mut Listener::default()).unwrap();
    assert_eq!(metrics(&run), metrics(&whole));
    assert!(fs::read(newest(&run)).unwrap() == fs::read(newest(&whole)).unwrap());
}

#[test]
fn what_a_kill_leaves_behind_does_not_matter() {
    let pictures = pictures();
    let config = config(pictures.path(), &[]);
    let whole = pictures.path().join("whole");
    train(&config, &whole).unwrap();

    // Killed before the first checkpoint: only the configuration is there.
    let run = pictures.path().join("early");
    train_until(&config, &run, 1);
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    fs::remove_file(run.join("images.parquet")).unwrap();
    let mut listener = Listener::default();
    resume(&run, &mut listener).unwrap();
    assert!(
        listener
            .notes
            .iter()
            .any(|note| note.contains("first checkpoint"))
    );
    assert_eq!(checkpoints(&run), checkpoints(&whole));
    assert_eq!(metrics(&run), metrics(&whole));

    // Killed while a checkpoint was being written, after lines that it would have covered, the
    // last of them half written.
    let run = pictures.path().join("late");
    train_until(&config, &run, 9);
    let mut lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    lines += "{\"kind\":\"step\",\"epoch\":2,\"step\":10,\"loss\":1.5,\"lr\":0.1}\n";
    lines += "{\"kind\":\"epoch\",\"epoch\":2,\"st";
    fs::write(run.join("metrics.jsonl"), lines).unwrap();
    let half = run.join("checkpoints/.step-00000014.safetensors.tmp");
    fs::write(&half, "half").unwrap();
    resume(&run, &mut Listener::default()).unwrap();
    assert!(!half.exists());
    assert_eq!(checkpoints(&run), checkpoints(&whole));
    assert_eq!(metrics(&run), metrics(&whole));

    // A finished run has nothing left to do, but to remove what a kill kept it from removing.
    let before = (checkpoints(&run), metrics(&run));
    fs::copy(
        newest(&run),
        run.join("checkpoints/step-00000001.safetensors"),
    )
    .unwrap();
    let summary = resume(&run, &mut Listener::default()).unwrap();
    assert_eq!((summary.steps, summary.epochs), (21, 3));
    assert_eq!((checkpoints(&run), metrics(&run)), before);
}

#[test]
fn a_checkpoint_that_is_cut_short_is_named() {
    let pictures = pictures();
    let config = config(pictures.path(), &[]);
    let whole = pictures.path().join("whole");
    train(&config, &whole).unwrap();
    let run = pictures.path().join("run");
    train_until(&config, &run, 16);
    let newest = newest(&run);
    assert!(newest.ends_with("checkpoints/step-00000016.safetensors"));
    let bytes = fs::read(&newest).unwrap();

    for length in [0, 5, 300, bytes.len() - 1] {
        fs::write(&newest, &bytes[..length]).unwrap();
        let text = Checkpoint::open(&newest).unwrap_err().to_string();
        assert!(
            text.contains("cut short") && text.contains("step-00000016"),
            "{text}"
        );
    }
    // With an earlier one, the run goes on from there and says so.
    let mut listener = Listener::default();
    resume(&run, &mut listener).unwrap();
    assert_eq!(listener.started[0].step, 14);
    assert!(
        listener
            .warnings
            .iter()
            .any(|text| text.contains("step-00000016"))
    );
    assert_eq!(metrics(&run), metrics(&whole));
    let last = "step-00000021.safetensors";
    assert!(checkpoints(&run)[last] == checkpoints(&whole)[last]);

    // Without one it can't.
    for name in checkpoints(&run).keys() {
        let path = run.join("checkpoints").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let error = resume(&run, &mut Listener::default()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let pictures = pictures();
    let config = config(pictures.path(), &["runner.max_epochs=1"]);
    let run = pictures.path().join("run");
    train(&config, &run).unwrap();
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    let try_with = |changes: &[(&str, &str)]| {
        let mut other = settings.clone();
        for (from, to) in changes {
            assert!(other.contains(from), "{from}");
            other = other.replace(from, to);
        }
        fs::write(run.join("config.toml"), other).unwrap();
        let error = resume(&run, &mut Listener::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    // A wider network, one with more layers, one without the neck's norm.
    let text = try_with(&[
        ("base_channels = 2", "base_channels = 3"),
        ("in_channels = 16", "in_channels = 24"),
    ]);
    assert!(
        text.contains("another shape: backbone.conv1.weight is [2, 3, 3, 3]"),
        "{text}"
    );
    assert!(text.contains("more"), "{text}");
    let text = try_with(&[("depth = 18", "depth = 34")]);
    assert!(
        text.contains("missing: ") && !text.contains("unused"),
        "{text}"
    );
    let text = try_with(&[("norm = true", "norm = false")]);
    assert!(text.contains("unused: neck.norm.running_"), "{text}");
    fs::write(run.join("config.toml"), &settings).unwrap();

    let path = newest(&run);
    let bytes = fs::read(&path).unwrap();
    let replace = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        let mut other = bytes.clone();
        other[at..at + from.len()].copy_from_slice(to);
        fs::write(&path, other).unwrap();
        Checkpoint::open(&path).unwrap_err().to_string()
    };
    let text = replace(b"\\\"version\\\":1", b"\\\"version\\\":7");
    assert!(
        text.contains("version 7") && text.contains("version 1"),
        "{text}"
    );
    let text = replace(b"\"npid\"", b"\"nqid\"");
    assert!(text.contains("not a checkpoint of npid"), "{text}");
    fs::write(&path, &bytes[1..]).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap_err().exit_code(), 2);

    fs::write(&path, &bytes).unwrap();
    let error = resume(&pictures.path().join("pictures"), &mut Listener::default()).unwrap_err();
    assert!(error.to_string().contains("--resume"), "{error}");
}
