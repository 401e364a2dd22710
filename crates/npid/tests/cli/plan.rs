//! Settings derived from the pictures, and `--dry-run`, which says what would be done.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;

use crate::scratch::{Scratch, png};

/// Thirty pictures of 40x30 in two classes, in a folder `zoo`.
fn zoo() -> Scratch {
    let s = Scratch::new();
    for i in 0..30u32 {
        let class = s.path("zoo").join(["cats", "dogs"][i as usize % 2]);
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(format!("{i:02}.png")), png(40, 30, i)).unwrap();
    }
    s
}

/// Everything in the folder with its length and the time it was last written.
fn state(s: &Scratch) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let entry = |path: PathBuf| {
        let meta = fs::metadata(&path).unwrap();
        (path, (meta.len(), meta.modified().unwrap()))
    };
    s.content().into_iter().map(entry).collect()
}

/// Runs `npid` with arguments that must write nothing; its standard output.
#[track_caller]
fn untouched(s: &Scratch, arguments: &str) -> String {
    let before = state(s);
    let output = s.npid(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "`{arguments}`: {stderr}");
    assert_eq!(stderr, "", "`{arguments}`");
    assert!(state(s) == before, "`{arguments}` changed the folder");
    String::from_utf8(output.stdout).unwrap()
}

fn setting<'a>(plan: &'a Value, key: &str) -> &'a Value {
    let settings = plan["settings"].as_array().unwrap();
    let found = settings.iter().find(|setting| setting["key"] == key);
    found.unwrap_or_else(|| panic!("no {key} in {plan}"))
}

#[test]
fn a_dry_run_says_everything_and_writes_nothing() {
    let s = zoo();
    let quick = "--threads 1 --workers 1 --set model.backbone.base_channels=4";
    let text = untouched(
        &s,
        &format!("train --data zoo --out there --dry-run {quick}"),
    );
    for part in [
        "zoo: folder, 30 pictures, 40x30 in the median; 2 classes; 1 picture asks",
        "data.size",
        "pictures are 40x30 in the median",
        "optimizer.lr",
        "given",
        "network",
        "1 thread",
        "activations",
        "epochs of",
        "images/s",
        "checkpoints of",
        "Nothing was written",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let reasons = text.lines().filter(|line| line.starts_with("  model."));
    assert!(reasons.count() >= 6, "{text}");

    let json = untouched(
        &s,
        &format!("train --data zoo --out there --dry-run --json {quick}"),
    );
    assert_eq!(json.lines().count(), 1, "{json}");
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["collection"]["images"], 30);
    assert_eq!(
        setting(&plan, "model.backbone.base_channels")["given"],
        true
    );
    assert_eq!(setting(&plan, "data.size")["given"], false);
    assert_eq!(plan["config"]["model"]["backbone"]["base_channels"], 4);
    let memory = &plan["memory"];
    let parts = ["activations", "weights", "optimizer", "bank"];
    let sum: u64 = parts
        .iter()
        .map(|part| memory[part].as_u64().unwrap())
        .sum();
    assert_eq!(memory["engine"], sum);
    for key in [
        "step_s",
        "picture_s",
        "epoch_s",
        "before_s",
        "total_s",
        "images_per_s",
    ] {
        assert!(plan["time"][key].as_f64().unwrap() > 0.0, "{key}: {plan}");
    }
    let steps = plan["time"]["steps_per_epoch"].as_u64().unwrap();
    let batch = plan["config"]["data"]["batch_size"].as_u64().unwrap();
    assert_eq!(steps, 30u64.div_ceil(batch));

    // With a recipe nothing was derived, so there is nothing to give reasons for.
    let json = untouched(
        &s,
        "train patterns --dry-run --json --threads 1 --workers 1",
    );
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["settings"], Value::Array(vec![]));
    assert_eq!(plan["time"]["steps_per_epoch"], 32);
    // The recipe's network: see its weights in README.md.
    assert_eq!(plan["network"]["parameters"], 184_072);
}

#[test]
fn a_dry_run_refuses_what_a_run_refuses() {
    let s = zoo();
    s.refuses("train --data nowhere --dry-run", &["nowhere", "no such"]);
    s.refuses(
        "train --data zoo --dry-run --set data.batch_size=31",
        &["data.batch_size is 31", "30"],
    );
    s.refuses("train zoo --dry-run", &["zoo"]);
    // What doesn't fit into the memory fails, as the run would.
    let before = state(&s);
    let large = "train --data zoo --dry-run --set data.size=1024 --set data.batch_size=30 \
                 --set model.backbone.type=ResNet_CIFAR --set model.backbone.base_channels=1024";
    let output = s.npid(large).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("GB of memory"), "{stderr}");
    assert!(state(&s) == before);
}

/// The run is what the plan said, and its configuration is an ordinary one.
#[test]
fn a_run_without_a_recipe_is_the_planned_one() {
    let s = zoo();
    let sets = "--set runner.max_epochs=2 --set model.backbone.base_channels=2 \
                --threads 1 --workers 1";
    let json = untouched(&s, &format!("train --data zoo --dry-run --json {sets}"));
    let plan: Value = serde_json::from_str(&json).unwrap();
    let output = s
        .npid(&format!("train --data zoo {sets}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in ["Settings derived", "What it takes", "runs/zoo: 30 pictures"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let written = fs::read_to_string(s.path("runs/zoo/config.toml")).unwrap();
    let steps = plan["time"]["steps_per_epoch"].as_u64().unwrap() * 2;
    assert!(text.contains(&format!("2 epochs, {steps} steps")), "{text}");
    // The same configuration again, without a word about where it came from.
    let json = untouched(
        &s,
        "train runs/zoo/config.toml --dry-run --json --threads 1",
    );
    let again: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(again["config"], plan["config"]);
    assert!(written.contains("batch_size"), "{written}");
    // What the checkpoint takes is known before, but for its header.
    let last = fs::read_dir(s.path("runs/zoo/checkpoints")).unwrap().last();
    let size = fs::metadata(last.unwrap().unwrap().path()).unwrap().len();
    let planned = plan["disk"]["checkpoint"].as_u64().unwrap();
    assert!(
        (planned..planned + 60_000).contains(&size),
        "{size} for {planned}"
    );
}
