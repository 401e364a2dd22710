//! A run whose memory bank is in a file: what it can do, and what it refuses.

use std::fs;

use serde_json::Value;

use crate::scratch::{Scratch, png};

const SMALL: &str = "train folder --data many --threads 1 --workers 1 \
    --set model.backbone.type=ResNet_CIFAR --set model.backbone.base_channels=2 \
    --set model.neck.out_channels=8 --set data.size=12 --set data.batch_size=4 \
    --set runner.max_epochs=2 --set evaluation.k=3";

const IN_FILE: &str = "--set model.memory_bank.storage=file";

/// A folder `many` of 20 pictures in two classes.
fn many() -> Scratch {
    let s = Scratch::new();
    for i in 0..20u32 {
        let class = s.path("many").join(["cats", "dogs"][i as usize % 2]);
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(format!("{i:02}.png")), png(16, 14, i)).unwrap();
    }
    s
}

#[track_caller]
fn succeeds(s: &Scratch, arguments: &str) -> String {
    let output = s.npid(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "`{arguments}`: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_does_what_any_run_does() {
    let s = many();
    succeeds(&s, &format!("{SMALL} --out run {IN_FILE}"));
    succeeds(&s, &format!("{SMALL} --out memory"));
    for command in [
        "eval knn --json --run",
        "embed --out {}.npy --run",
        "export --out {}.pth --run",
    ] {
        let of = |run: &str| succeeds(&s, &format!("{} {run}", command.replace("{}", run)));
        let (file, memory) = (of("run"), of("memory"));
        if command.starts_with("eval") {
            assert_eq!(file.replace("run", ""), memory.replace("memory", ""));
        }
    }
    let same = |a: &str, b: &str| fs::read(s.path(a)).unwrap() == fs::read(s.path(b)).unwrap();
    assert!(same("run.npy", "memory.npy"));
    assert!(same("run.pth", "memory.pth"));
    // Twenty rows of eight 32-bit numbers.
    assert_eq!(fs::read(s.path("run/bank/rows.f32")).unwrap().len(), 640);
    succeeds(&s, "train --resume run --epochs 3 --threads 1");

    let plan = |set: &str| -> Value {
        let text = succeeds(&s, &format!("{SMALL} --out plan --dry-run --json {set}"));
        serde_json::from_str(&text).unwrap()
    };
    let (file, memory) = (plan(IN_FILE), plan(""));
    assert!(!s.path("plan").exists());
    assert_eq!(file["disk"]["bank"], 640);
    assert_eq!(memory["disk"]["bank"], 0);
    let disk = |plan: &Value| plan["disk"]["checkpoint"].as_u64().unwrap();
    assert_eq!(
        disk(&file),
        disk(&memory) + 20 * 8,
        "all rows change, and have numbers"
    );
    let narrow = plan(&format!(
        "{IN_FILE} --set model.memory_bank.max_dirty_bytes=100"
    ));
    assert_eq!(narrow["memory"]["bank"], 100);
}

#[test]
fn what_it_can_not_do_is_refused_in_a_line() {
    let s = many();
    let new = |more: &str| format!("{SMALL} --out other {more}");
    s.refuses(
        &new(&format!("{IN_FILE} --device reference")),
        &["memory_bank.storage", "\"memory\""],
    );
    s.refuses(
        &new("--set model.memory_bank.storage=disk"),
        &["memory_bank.storage"],
    );
    s.refuses(
        &new("--set model.memory_bank.max_dirty_bytes=5"),
        &["model.memory_bank.max_dirty_bytes", "storage"],
    );
    s.refuses(
        &new(&format!(
            "{IN_FILE} --set model.memory_bank.max_dirty_bytes=0"
        )),
        &["model.memory_bank.max_dirty_bytes", "at least 1"],
    );
    succeeds(&s, &format!("{SMALL} --out run {IN_FILE}"));
    let resume = "train --resume run --epochs 4 --threads 1";
    let rows = s.path("run/bank/rows.f32");
    let bytes = fs::read(&rows).unwrap();
    fs::write(&rows, &bytes[1..]).unwrap();
    s.refuses(resume, &["rows.f32", "639 bytes", "20 rows of 8"]);
    fs::remove_file(&rows).unwrap();
    s.refuses(resume, &["rows.f32", "missing"]);
    fs::write(&rows, &bytes).unwrap();

    let config = s.path("run/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("storage = \"file\"", "")).unwrap();
    s.refuses(resume, &["model.memory_bank.storage", "config.toml"]);
    fs::write(
        &config,
        text.replace("storage = \"file\"", "storage = \"file\"\ndtype = \"bf16\""),
    )
    .unwrap();
    s.refuses(resume, &["20 rows of 8 f32", "20 rows of 8 bf16"]);
    fs::write(&config, &text).unwrap();

    let picture = s.path("many/cats/00.png");
    let whole = fs::read(&picture).unwrap();
    fs::write(&picture, png(16, 14, 99)).unwrap();
    s.refuses(resume, &["--resume run", "storage = \"file\"", "restore"]);
    fs::write(&picture, whole).unwrap();
    succeeds(&s, resume);

    // Weights of another program have a bank of their own.
    succeeds(&s, "export --run run --out w.pth");
    let import = format!("import w.pth --data many --out imported {IN_FILE}");
    s.refuses(&import, &["storage"]);
}
