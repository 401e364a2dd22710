//! Bad input on the real binary: exit code 2, exactly one line on standard error that names what
//! is wrong, and nothing left behind.

use crate::scratch::{Scratch, png};
use std::fs;

#[test]
fn paths_that_hold_no_pictures() {
    let s = Scratch::new();
    s.refuses("train --data nowhere", &["nowhere", "no such"]);
    s.refuses("train --data pictures --val nowhere", &["nowhere"]);
    fs::create_dir(s.path("empty")).unwrap();
    s.refuses("train --data empty", &["empty", "no picture found"]);
    fs::create_dir(s.path("broken")).unwrap();
    for i in 0..20 {
        let name = format!("{i:02}.{}", ["jpg", "png"][i % 2]);
        fs::write(s.path("broken").join(name), "just text").unwrap();
    }
    s.refuses(
        "train --data broken",
        &["none of the 20 pictures can be read", "00.jpg"],
    );
    fs::create_dir(s.path("one")).unwrap();
    fs::write(s.path("one/a.png"), "just text").unwrap();
    s.refuses("data inspect one", &["the only picture", "a.png"]);
    fs::write(s.path("notes.txt"), "just text").unwrap();
    s.refuses(
        "train --data notes.txt",
        &["notes.txt, line 1", "just: no such file"],
    );
    fs::write(s.path("cut.parquet"), "PAR1 and then nothing").unwrap();
    s.refuses("train --data cut.parquet", &["cut.parquet", "parquet"]);
    s.refuses("data inspect nowhere", &["nowhere"]);
    s.refuses("data inspect empty", &["empty"]);
    s.refuses("data inspect broken", &["none of the 20"]);
}

#[test]
fn recipes_that_do_not_exist_or_are_no_recipes() {
    let s = Scratch::new();
    s.refuses("train pattern", &["pattern", "did you mean patterns"]);
    s.refuses("train none.toml", &["none.toml", "cannot be read"]);
    fs::write(s.path("bad.toml"), "seed = 1\n[model\n").unwrap();
    s.refuses("train bad.toml", &["bad.toml, line 2"]);
    fs::write(s.path("bare.toml"), "seed = 1\n").unwrap();
    s.refuses("train bare.toml", &["bare.toml", "model"]);
    for recipe in ["folder", "npid_resnet50_8xb32-steplr-200e_in1k"] {
        s.refuses(&format!("train {recipe}"), &["--data", recipe]);
    }
}

#[test]
fn keys_and_types_in_a_recipe() {
    let s = Scratch::new();
    let recipe = include_str!("../../../../recipes/patterns.toml");
    for (from, to, parts) in [
        (
            "weight_decay",
            "weightdecay",
            &["my.toml", "optimizer.weightdecay", "weight_decay"][..],
        ),
        (
            "\"SoftmaxHead\"",
            "\"NoHead\"",
            &["my.toml", "model.head.type", "ContrastiveHead"],
        ),
        (
            "\"SimpleMemory\"",
            "\"Queue\"",
            &["my.toml", "model.memory_bank.type", "SimpleMemory"],
        ),
        (
            "max_epochs = ",
            "max_epochs = 0.",
            &["my.toml", "runner.max_epochs", "a whole number"],
        ),
        (
            "[model.head]",
            "[model.hat]",
            &["my.toml", "model.hat", "head"],
        ),
    ] {
        assert!(recipe.contains(from));
        fs::write(s.path("my.toml"), recipe.replacen(from, to, 1)).unwrap();
        s.refuses("train my.toml", parts);
    }
}

#[test]
fn values_that_can_not_be_used() {
    let s = Scratch::new();
    for (set, part) in [
        ("model.neg_num=0", "neg_num"),
        ("model.head.temperature=0", "temperature"),
        ("model.head.temperature=-0.5", "temperature"),
        ("optimizer.lr=quick", "optimizer.lr"),
        ("optimizer.rate=1", "optimizer.rate"),
        ("data.batch_size=1001", "data.batch_size"),
        ("model.memory_bank.length=7", "memory_bank.length"),
        (
            "data.size=-1",
            "--set data.size=-1: data.size is -1; it must be a whole number, at least 1",
        ),
        (
            "data.batch_size=-1",
            "data.batch_size is -1; it must be a whole number, 0 or more",
        ),
        ("seed=abc", "seed is \"abc\"; it must be a whole number"),
        (
            "model=NPID",
            "model is \"NPID\"; it is a section: give its keys, as model.KEY",
        ),
        ("data.drop_last=1", "it must be true or false"),
        (
            "runner.max_epochs=99999999999",
            "it must be a whole number, 0 to 4294967295",
        ),
        (
            "model.head.type=3",
            "model.head.type must be a name in quotes",
        ),
        (
            "optimizer.lr=[1]",
            "optimizer.lr is a list; it must be a number",
        ),
        (
            "data.workers=4000",
            "data.workers is 4000; it must be 1024 at most",
        ),
    ] {
        s.refuses(&format!("train --set {set}"), &[part]);
    }
    s.refuses("train --set seed", &["--set seed", "key=value"]);
}

#[test]
fn settings_that_do_not_fit_the_pictures() {
    let s = Scratch::new();
    let contrastive = "--set model.head.type=ContrastiveHead --set model.ensure_neg=true";
    let small = "--set data.batch_size=1 --set model.neck.norm=false";
    fs::create_dir(s.path("one")).unwrap();
    fs::write(s.path("one/a.png"), png(8, 8, 0)).unwrap();
    s.refuses(
        &format!("train --data one {contrastive} {small}"),
        &["model.ensure_neg"],
    );
    // Three pictures, batches of 16.
    s.refuses("train folder --data pictures", &["data.batch_size", "3"]);
}

#[test]
fn flags() {
    let s = Scratch::new();
    s.refuses("", &["npid <COMMAND>", "train, eval, embed"]);
    s.refuses("data", &["npid data <COMMAND>", "inspect, patterns"]);
    s.refuses("trian", &["trian", "train"]);
    s.refuses("train --steps 3", &["--steps"]);
    s.refuses(
        "train --device gpu",
        &["--device", "gpu", "cpu", "reference"],
    );
    s.refuses("train --dtype f64", &["--dtype", "f32"]);
    s.refuses("train --threads 0", &["--threads", "at least 1"]);
    s.refuses("train --workers many", &["--workers"]);
    for command in [
        "train --threads 4000",
        "train --workers 4000",
        "eval knn --run x --threads 4000",
        "embed --run x --out x.npy --workers 4000",
        "bench step --threads 4000",
    ] {
        let flag = if command.contains("--threads") {
            "--threads"
        } else {
            "--workers"
        };
        s.refuses(command, &[flag, "at most 1024"]);
    }
    s.refuses(
        "train --data pictures --set data.path=other",
        &["--set data.path=other", "--data pictures"],
    );
    s.refuses(
        "train --data pictures --val pictures --set data.val=other",
        &["--set data.val=other", "--val pictures"],
    );
    // The queries that --set names are not those of the recipe, which --data replaces.
    s.refuses(
        "train --data pictures --set data.val=other",
        &["other", "no such"],
    );
    s.refuses("train --resume runs/x --out runs/y", &["--resume", "--out"]);
    s.refuses(
        "train --data pictures --epochs 3",
        &["--epochs 3", "--resume", "--set runner.max_epochs=3"],
    );
    s.refuses("train --resume runs/x --epochs 0", &["--epochs", "0"]);
    s.refuses(
        "train --resume runs/x --dry-run",
        &["--resume", "--dry-run"],
    );
    s.refuses("eval knn", &["--run"]);
    s.refuses("embed --run runs/x", &["--out"]);
    s.refuses("eval knn --run runs/x -k 0", &["-k", "at least 1"]);
    s.refuses(
        "eval knn --run runs/x --temperature 0",
        &["--temperature", "above 0"],
    );
    s.refuses(
        "bench step --depth 19 --device reference",
        &["--depth", "19"],
    );
    // A variable that is set to nothing counts as not set.
    let command = "bench step --width 2 --batch 2 --size 8 --bank 9 --dim 4 --steps 1 --threads 1";
    let output = s.npid(command).env("NPID_CPU", "").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let output = s.npid("train").env("NPID_CPU", "mmx").output().unwrap();
    s.check_refused(output, "NPID_CPU=mmx", &["NPID_CPU", "mmx", "portable"]);
}

#[test]
fn run_folders_that_are_none() {
    let s = Scratch::new();
    for command in [
        "train --resume gone",
        "eval knn --run gone",
        "embed --run gone --out e.npy",
    ] {
        s.refuses(command, &["gone"]);
    }
    for command in [
        "train --resume pictures",
        "eval knn --run pictures",
        "embed --run pictures --out e.npy",
    ] {
        s.refuses(command, &["pictures", "config.toml"]);
    }
}

#[test]
fn folders_that_can_not_be_written() {
    let s = Scratch::new();
    fs::write(s.path("file"), "in the way").unwrap();
    // Holds for root too, unlike a folder without write permission.
    s.refuses(
        "train --device reference --out file/run",
        &["--out", "file"],
    );
    s.refuses("data patterns --out file/run", &["--out", "file"]);
    s.refuses(
        "data patterns --out pictures",
        &["--out", "pictures", "empty"],
    );
}

#[test]
fn help_and_lists_are_no_errors() {
    let s = Scratch::new();
    for (command, part) in [
        ("--help", "Usage"),
        ("--version", env!("CARGO_PKG_VERSION")),
        ("train --help", "--list-recipes"),
        (
            "train --list-recipes",
            "npid_resnet50_8xb32-steplr-200e_in1k",
        ),
        ("bench step --help", "--width"),
    ] {
        let output = s.npid(command).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(text.contains(part), "{command}: {text}");
        assert!(output.stderr.is_empty(), "{command}");
    }
}
