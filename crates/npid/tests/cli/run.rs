//! A run from the command line: trained, measured, embedded, interrupted, resumed, and what its
//! folder refuses.

use crate::scratch::{Scratch, png};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// Settings under which a run takes a moment.
const SMALL: &str = "--threads 1 --workers 1 --set model.backbone.type=ResNet_CIFAR \
    --set model.backbone.base_channels=2 --set model.neck.out_channels=8 --set data.size=12 \
    --set data.batch_size=4 --set runner.max_epochs=2 --set evaluation.k=3";

/// A folder `many` of 20 pictures in two classes, with whatever `extra` adds.
fn many(s: &Scratch, extra: &[(&str, &[u8])]) {
    for i in 0..20u32 {
        let class = s.path("many").join(["cats", "dogs"][i as usize % 2]);
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(format!("{i:02}.png")), png(16, 14, i)).unwrap();
    }
    for (name, bytes) in extra {
        fs::write(s.path("many").join(name), bytes).unwrap();
    }
}

/// Runs `npid`, which must succeed; its standard output.
#[track_caller]
fn succeeds(s: &Scratch, arguments: &str) -> String {
    let output = s.npid(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "`{arguments}`: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// As [`succeeds`]; standard output is one JSON object and nothing else.
#[track_caller]
fn answers(s: &Scratch, arguments: &str) -> Value {
    let stdout = succeeds(s, arguments);
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    serde_json::from_str(&stdout).unwrap()
}

fn checkpoints(s: &Scratch, run: &str) -> Vec<PathBuf> {
    let folder = s.path(run).join("checkpoints");
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    all.sort();
    all
}

#[test]
fn a_run_is_trained_measured_and_embedded() {
    let s = Scratch::new();
    many(&s, &[]);
    let summary = answers(&s, &format!("train --data many --val many --json {SMALL}"));
    assert_eq!(summary["run"], "runs/many");
    assert_eq!(
        (&summary["epochs"], &summary["steps"]),
        (&2.into(), &10.into())
    );
    for key in [
        "loss",
        "knn_top1",
        "knn_top1_untrained",
        "knn_top1_pixels",
        "images_per_s",
        "seconds",
    ] {
        assert!(summary[key].is_f64(), "{key}: {summary}");
    }
    let chance = summary["chance_loss"].as_f64().unwrap();
    assert!((chance - 20f64.ln()).abs() < 1e-9, "{chance}");
    // Every picture is its own nearest neighbour, the best of three votes or tied at worst.
    assert!(summary["knn_top1_pixels"].as_f64().unwrap() > 40.0);

    let figure = answers(&s, "eval knn --run runs/many --json");
    assert_eq!(figure["knn_top1"], summary["knn_top1"]);
    assert_eq!((&figure["k"], &figure["queries"]), (&3.into(), &20.into()));
    let nearest = answers(&s, "eval knn --run runs/many -k 1 --data many --json");
    assert_eq!(nearest["knn_top1"], 100.0, "queries are among the voters");

    let embedded = answers(&s, "embed --run runs/many --data many --out e.npy --json");
    assert_eq!(
        (&embedded["rows"], &embedded["dim"]),
        (&20.into(), &8.into())
    );
    let array = fs::read(s.path("e.npy")).unwrap();
    assert!(array.starts_with(b"\x93NUMPY"));
    assert!(s.path("e.parquet").is_file());
    s.refuses(
        "embed --run runs/many --data many --out e.npy",
        &["e.npy", "exists"],
    );
    s.refuses(
        "embed --run runs/many --data many --out e.txt",
        &["--out", ".npy"],
    );
    // The table of a run is a parquet file without pictures.
    s.refuses(
        "train --data runs/many/images.parquet",
        &["images.parquet", "no image column"],
    );

    // The configuration that the run wrote repeats it, in a folder with a number.
    let again = answers(
        &s,
        "train runs/many/config.toml --out runs/many --threads 1 --json",
    );
    assert_eq!(again["run"], "runs/many-2");
    assert_eq!(again["loss"], summary["loss"]);
    let last = |run| fs::read(checkpoints(&s, run).pop().unwrap()).unwrap();
    assert!(
        last("runs/many") == last("runs/many-2"),
        "not the same bits"
    );
}

#[test]
fn people_are_told_what_it_means_and_what_is_next() {
    let s = Scratch::new();
    many(&s, &[]);
    let text = succeeds(
        &s,
        &format!("train --data many {SMALL} --set log.interval=2"),
    );
    for part in [
        "chance 2.996",
        "epoch 2/2 done",
        " ms a step: waiting for data ",
        " %, bank ",
        "kNN top-1:",
        "untrained network",
        "raw pixels",
        "npid eval knn --run runs/many",
        "1 query is too few to tell",
        "(1 query, 19 pictures vote, k 3)",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let remarks: Vec<_> = (text.lines())
        .filter(|line| line.starts_with("  npid "))
        .map(|line| line.find('#'))
        .collect();
    assert!(
        remarks.len() == 3 && remarks.iter().all(|at| *at == remarks[0]),
        "{text}"
    );
    let text = succeeds(&s, "embed --run runs/many --out own.npy");
    assert!(
        text.contains("20 features (19 train + 1 val) of 8 numbers"),
        "{text}"
    );
    assert!(!text.contains('\r') && !text.contains('\x1b'), "{text}");
}

#[test]
fn pictures_without_classes_are_enough() {
    let s = Scratch::new();
    fs::create_dir(s.path("flat")).unwrap();
    for i in 0..9 {
        fs::write(s.path("flat").join(format!("{i}.png")), png(9, 9, i)).unwrap();
    }
    let summary = answers(&s, &format!("train --data flat --json {SMALL}"));
    assert_eq!(summary["knn_top1"], Value::Null);
    s.refuses("eval knn --run runs/flat", &["labels"]);
}

#[test]
fn unreadable_pictures_are_skipped_and_listed_or_fatal() {
    let s = Scratch::new();
    let whole = png(16, 16, 3);
    many(
        &s,
        &[
            ("cats/cut.png", &whole[..whole.len() / 2]),
            ("dogs/text.jpg", b"text"),
        ],
    );
    s.refuses(
        &format!("train --data many --strict {SMALL}"),
        &["cut.png", "--strict"],
    );
    let arguments = format!("train --data many --json {SMALL}");
    let output = s.npid(&arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for name in ["cut.png", "text.jpg"] {
        assert!(stderr.contains(name), "{name}: {stderr}");
    }
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["skipped"], 2);
}

#[test]
fn checkpoints_that_are_cut_short_or_of_another_network_are_refused() {
    let s = Scratch::new();
    many(&s, &[]);
    succeeds(&s, &format!("train --data many {SMALL} --out run"));
    let config = fs::read_to_string(s.path("run/config.toml")).unwrap();
    let wider = config.replace("base_channels = 2", "base_channels = 3");
    let wider = wider.replace("in_channels = 16", "in_channels = 24");
    fs::write(s.path("run/config.toml"), wider).unwrap();
    for command in [
        "train --resume run --threads 1",
        "eval knn --run run",
        "embed --run run --out e.npy",
    ] {
        s.refuses(command, &["backbone.conv1.weight"]);
    }
    fs::write(s.path("run/config.toml"), config).unwrap();
    for path in checkpoints(&s, "run") {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    for command in ["train --resume run --threads 1", "eval knn --run run"] {
        s.refuses(command, &["step-", "cut short"]);
    }
}

#[test]
fn a_collection_that_changed_keeps_the_rows_of_what_stayed() {
    let s = Scratch::new();
    many(&s, &[]);
    succeeds(&s, &format!("train --data many {SMALL} --out run"));
    let go_on = "train --resume run --threads 1 --workers 1";

    // Three of twenty go, two come, one is called otherwise.
    for i in [4, 9, 14] {
        fs::remove_file(
            s.path("many")
                .join(["cats", "dogs"][i % 2])
                .join(format!("{i:02}.png")),
        )
        .unwrap();
    }
    for i in [30, 31] {
        fs::write(s.path(&format!("many/cats/{i}.png")), png(16, 14, i)).unwrap();
    }
    fs::rename(s.path("many/cats/00.png"), s.path("many/dogs/zero.png")).unwrap();
    for command in ["eval knn --run run", "embed --run run --out e.npy"] {
        s.refuses(command, &["20 pictures", "19", "npid train --resume"]);
    }
    let text = succeeds(&s, go_on);
    for line in [
        "19 pictures: 17 kept their rows, 2 are new, 3 are gone",
        "runner.max_epochs is 2, and as many epochs are done: nothing is trained; --epochs N",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // It is asked as any other, and goes on.
    succeeds(&s, "eval knn --run run");
    succeeds(&s, "embed --run run --out e.npy");
    succeeds(&s, "export --run run --out network.safetensors");
    s.refuses(
        "train --resume run --epochs 1",
        &["--epochs 1", "2 are done"],
    );
    let summary = answers(&s, &format!("{go_on} --epochs 3 --json"));
    assert_eq!(
        (&summary["epochs"], &summary["steps"]),
        (&3.into(), &15.into())
    );
    assert!(summary.get("change").is_none(), "{summary}");
    let config = fs::read_to_string(s.path("run/config.toml")).unwrap();
    assert!(
        config.contains("max_epochs = 3") && config.contains("length = 19"),
        "{config}"
    );

    // A disk that isn't mounted, and one that is mounted elsewhere.
    fs::rename(s.path("many"), s.path("elsewhere")).unwrap();
    s.refuses(
        go_on,
        &["data.path in run/config.toml", "no such", "--data"],
    );
    fs::create_dir(s.path("many")).unwrap();
    s.refuses(go_on, &["data.path", "many", "--data"]);
    fs::create_dir(s.path("many/cats")).unwrap();
    for i in 40..48 {
        fs::write(s.path(&format!("many/cats/{i}.png")), png(16, 14, i)).unwrap();
    }
    s.refuses(
        go_on,
        &["--resume run", "at most 8 of its 19 pictures", "--data"],
    );
    s.refuses(
        &format!("{go_on} --data many"),
        &["none of its 19 pictures", "start a new run"],
    );
    s.refuses(&format!("{go_on} --data gone"), &["gone", "no such"]);
    s.refuses(
        &format!("{go_on} --data elsewhere --val gone"),
        &["gone", "no such"],
    );
    let summary = answers(&s, &format!("{go_on} --data elsewhere --json"));
    assert!(summary.get("change").is_none(), "{summary}");
    // Both: all that is there, and more.
    let both = format!("{go_on} --data elsewhere --data many --epochs 4 --json");
    let summary = answers(&s, &both);
    assert_eq!(
        summary["change"],
        serde_json::json!({"kept": 19, "new": 8, "gone": 0})
    );
    // Few are left, and that is meant.
    let few = format!("{go_on} --data many --json");
    let summary = answers(&s, &few);
    assert_eq!(
        summary["change"],
        serde_json::json!({"kept": 8, "new": 0, "gone": 19})
    );
    assert_eq!(summary["epochs"], 4);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_the_run_goes_on() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let s = Scratch::new();
    many(&s, &[]);
    let long = SMALL.replace("max_epochs=2", "max_epochs=100000");
    let arguments = format!("train --data many --out run {long} --set log.interval=1");
    let mut child = (s
        .npid(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped()))
    .spawn()
    .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    // Past the first epoch, so that a step of this process is what is saved.
    let mut lines = stdout.lines();
    assert!(lines.any(|line| line.unwrap().contains("epoch 2/")));
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("npid train --resume run"), "{stderr}");

    let newest = checkpoints(&s, "run").pop().unwrap();
    let name = newest.file_stem().unwrap().to_str().unwrap().to_string();
    let step: u64 = name.trim_start_matches("step-").parse().unwrap();
    assert!(step > 5, "{step}");
    let config = s.path("run/config.toml");
    let epochs = step / 5 + 1;
    let shorter = fs::read_to_string(&config)
        .unwrap()
        .replace("max_epochs = 100000", &format!("max_epochs = {epochs}"));
    fs::write(&config, shorter).unwrap();
    let text = succeeds(&s, "train --resume run --threads 1");
    assert!(
        text.contains(&format!("Going on after step {step}.")),
        "{text}"
    );
    let metrics = fs::read_to_string(s.path("run/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "step")
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(
        steps,
        (1..=epochs * 5).collect::<Vec<_>>(),
        "each step once"
    );
}

/// `kill -TERM`, as schedulers send it, ends a run like Ctrl-C.
#[cfg(unix)]
#[test]
fn sigterm_saves() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let s = Scratch::new();
    many(&s, &[]);
    let long = SMALL.replace("max_epochs=2", "max_epochs=100000");
    let arguments = format!("train --data many --out run {long} --set log.interval=1");
    let mut child = (s.npid(&arguments))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("epoch 2/")));
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("npid train --resume run"), "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_can_not_be_printed_is_a_failure_but_for_a_closed_pipe() {
    use std::fs::File;

    let s = Scratch::new();
    many(&s, &[]);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    // Messages that nobody can read stop nothing: neither a run nor the exit code of an error.
    let mut train = s.npid(&format!("train --data many --out run --json {SMALL}"));
    fs::write(s.path("many/dogs/text.jpg"), "text").unwrap();
    let output = train.stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let output = s.npid("train nothing").stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    for command in [
        "eval knn --run run --json",
        "eval knn --run run",
        "data inspect many",
        "train --list-recipes",
        "--help",
    ] {
        let output = s.npid(command).stdout(full()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "`{command}`: {stderr}");
        assert!(stderr.contains("standard output"), "`{command}`: {stderr}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = s.npid(command).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "`{command}` | head -0");
    }
}

#[test]
fn parts_for_training_and_for_queries_are_kept_apart() {
    let s = Scratch::new();
    many(&s, &[]);
    fs::create_dir(s.path("splits")).unwrap();
    fs::rename(s.path("many"), s.path("splits/train")).unwrap();
    fs::rename(s.path("pictures"), s.path("splits/val")).unwrap();
    let text = succeeds(&s, "data inspect splits");
    assert!(
        text.trim_end().ends_with("npid train --data splits"),
        "{text}"
    );
    assert!(
        text.contains("splits, queries: folder of 3 pictures"),
        "{text}"
    );
    let text = succeeds(&s, &format!("train --data splits {SMALL}"));
    let apart = "splits: train/ to train on, val/ as the queries of the kNN figure";
    assert!(text.contains(apart) && text.contains("3 queries"), "{text}");
    let found = answers(&s, "data inspect splits --json");
    let both = (&found["kind"], &found["val"]["images"]);
    assert_eq!(both, (&"folder".into(), &3.into()));
    // Several paths, in their order, each with what it holds for training.
    let train = format!("train --data splits/val --data splits/train --out both --json {SMALL}");
    answers(&s, &train);
    let config = fs::read_to_string(s.path("both/config.toml")).unwrap();
    assert!(
        config.contains("splits/val\",") && config.contains("splits/train\""),
        "{config}"
    );
}

#[test]
fn every_kind_of_collection_is_recognised() {
    let s = Scratch::new();
    let picture = |seed| png(6, 5, seed);
    fs::write(
        s.path("list.txt"),
        "pictures/cats/0.png 1\npictures/dogs/2.png 0\n",
    )
    .unwrap();
    let tar = |members: &[(&str, &[u8])]| {
        let mut bytes = Vec::new();
        for (name, content) in members {
            let mut header = [0; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            header[148..156].fill(b' ');
            let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes.extend(header);
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes
    };
    let members: [(&str, &[u8]); 4] = [
        ("0.png", &picture(1)),
        ("0.cls", b"4"),
        ("1.png", &picture(2)),
        ("1.cls", b"2"),
    ];
    fs::write(s.path("s-00.tar"), tar(&members)).unwrap();
    fs::write(
        s.path("data_batch_1.bin"),
        [&[7u8; 3073][..], &[3; 3073]].concat(),
    )
    .unwrap();
    fs::create_dir(s.path("stl")).unwrap();
    fs::write(s.path("stl/train_X.bin"), [1; 2 * 27648]).unwrap();
    fs::write(s.path("stl/train_y.bin"), [1, 10]).unwrap();
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
    idx.extend([9; 24]);
    fs::write(s.path("x-images-idx3-ubyte"), &idx).unwrap();
    for (path, kind, classes, size) in [
        ("pictures", "folder", 2, (24, 20)),
        ("list.txt", "list file", 2, (24, 20)),
        ("s-00.tar", "tar shards", 5, (6, 5)),
        ("s-{00..00}.tar", "tar shards", 5, (6, 5)),
        ("data_batch_1.bin", "CIFAR-10 binary", 8, (32, 32)),
        ("stl", "STL-10 binary", 10, (96, 96)),
        ("x-images-idx3-ubyte", "IDX", 0, (4, 3)),
    ] {
        let found = answers(&s, &format!("data inspect {path} --json"));
        assert_eq!(found["kind"], kind, "{path}");
        assert_eq!(found["classes"], classes, "{path}");
        assert_eq!(found["sample"]["unreadable"], 0, "{path}");
        let sizes = (
            &found["sample"]["width"]["max"],
            &found["sample"]["height"]["max"],
        );
        assert_eq!(sizes, (&size.0.into(), &size.1.into()), "{path}");
        let text = succeeds(&s, &format!("data inspect {path}"));
        assert!(text.contains(&format!("{path}: {kind} of ")), "{text}");
    }
    // What each of them answers when it is damaged; nothing is written.
    fs::write(
        s.path("list.txt"),
        "pictures/cats/0.png 1\npictures/no.png 0\n",
    )
    .unwrap();
    fs::write(s.path("s-00.tar"), &tar(&members)[..600]).unwrap();
    fs::write(s.path("data_batch_1.bin"), [7; 3072]).unwrap();
    fs::write(s.path("stl/train_X.bin"), [1; 27647]).unwrap();
    idx[4..16].fill(0xff);
    fs::write(s.path("x-images-idx3-ubyte"), &idx).unwrap();
    for (path, says) in [
        (
            "list.txt",
            "list.txt, line 2: pictures/no.png: no such file",
        ),
        ("s-00.tar", "s-00.tar: not a whole tar"),
        ("data_batch_1.bin", "no whole number of CIFAR-10"),
        ("stl", "no whole number of STL-10"),
        ("x-images-idx3-ubyte", "its header says 4294967295"),
    ] {
        s.refuses(&format!("train --data {path}"), &[says]);
        s.refuses(&format!("data inspect {path}"), &[says]);
    }
    s.refuses("train --data pictures --data ./pictures", &["given twice"]);
}

#[cfg(unix)]
#[test]
fn without_room_nothing_is_left() {
    use std::process::Command;

    let s = Scratch::new();
    many(&s, &[]);
    succeeds(&s, &format!("train --data many --out run {SMALL}"));
    for (limit, command, left) in [
        (1, "data patterns --out new/patterns", "new"),
        (0, "embed --run run --out e.npy", "e.npy"),
    ] {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -f {limit}; exec \"$0\" {command}"))
            .arg(env!("CARGO_BIN_EXE_npid"))
            .current_dir(s.path(""))
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.lines().count(), 1, "`{command}`: {stderr}");
        assert!(stderr.starts_with("error: "), "`{command}`: {stderr}");
        assert_eq!(output.status.code(), Some(1), "`{command}`: {stderr}");
        assert!(stderr.contains("make room"), "`{command}`: {stderr}");
        assert!(!s.path(left).exists(), "`{command}` left {left}");
        let hidden = fs::read_dir(s.path("")).unwrap();
        let hidden: Vec<_> = hidden
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().starts_with('.'))
            .collect();
        assert!(hidden.is_empty(), "`{command}` left {hidden:?}");
    }
}

#[test]
fn the_built_in_pictures_can_be_written_and_looked_at() {
    let s = Scratch::new();
    let written = answers(&s, "data patterns --out p --json");
    assert_eq!(written["train"], "p/train");
    let found = answers(&s, "data inspect p/train --json");
    assert_eq!(
        (&found["images"], &found["classes"]),
        (&1000.into(), &10.into())
    );
    let text = succeeds(&s, "data inspect p/val");
    assert!(text.contains("zigzag: 100"), "{text}");
    assert!(text.contains("npid train --data p/val"), "{text}");
    s.refuses("data patterns --out p", &["p", "empty"]);
}
