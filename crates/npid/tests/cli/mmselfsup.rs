//! Runs by MMSelfSup's own configurations.

use std::fs;

use crate::scratch::{Scratch, png};

/// A small network in MMSelfSup's words, in two files.
const MODEL: &str = "model = dict(
    type='NPID', neg_num=8,
    backbone=dict(
        type='ResNet', depth=18, base_channels=2, stem_channels=2, out_indices=[4],
        norm_cfg=dict(type='SyncBN')),
    neck=dict(type='LinearNeck', in_channels=16, out_channels=8, with_avg_pool=True),
    head=dict(type='ContrastiveHead', temperature=0.07),
    memory_bank=dict(type='SimpleMemory', length=1281167, feat_dim=8, momentum=0.5))
";
const TINY: &str = "_base_ = ['../_base_/model.py']
pipeline = [
    dict(type='RandomResizedCrop', size=32, scale=(0.2, 1.)),
    dict(type='ToTensor'),
    dict(type='Normalize', mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]),
]
data = dict(
    samples_per_gpu=3,
    train=dict(
        type='SingleViewDataset',
        data_source=dict(
            type='ImageNet', data_prefix='data/train', ann_file='data/meta/train.txt'),
        pipeline=pipeline))
optimizer = dict(type='SGD', lr=0.03, momentum=0.9)
lr_config = dict(policy='step', step=[1])
runner = dict(type='EpochBasedRunner', max_epochs=2)
dist_params = dict(backend='nccl')
";

fn checkout() -> Scratch {
    let s = Scratch::new();
    fs::create_dir_all(s.path("configs/npid")).unwrap();
    fs::create_dir_all(s.path("configs/_base_")).unwrap();
    fs::write(s.path("configs/_base_/model.py"), MODEL).unwrap();
    fs::write(s.path("configs/npid/tiny_2xb3.py"), TINY).unwrap();
    s
}

const RUN: &str = "train configs/npid/tiny_2xb3.py --threads 1 --workers 1";

#[test]
fn a_run_by_a_configuration_of_mmselfsup() {
    let s = checkout();
    // Not where the file says.
    s.refuses(
        RUN,
        &[
            "configs/npid/tiny_2xb3.py, line 12: data.train.data_source.ann_file is \
             data/meta/train.txt, which isn't there",
            "--data PATH",
        ],
    );
    // Elsewhere: the bank is as long as there are pictures there.
    let elsewhere = s.npid(&format!(
        "{RUN} --data pictures --set data.batch_size=3 --work-dir a"
    ));
    let output = { elsewhere }.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for part in [
        "batch of 6: 2 GPUs (2xb3 in the file's name) x 3 pictures (data.samples_per_gpu)",
        "without effect: dist_params",
        "model.memory_bank.length: the number of pictures, instead of 1281167",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    let config = fs::read_to_string(s.path("a/config.toml")).unwrap();
    assert!(config.contains("length = 3"), "{config}");

    // Where the file says.
    fs::create_dir_all(s.path("data/train/n01")).unwrap();
    fs::create_dir_all(s.path("data/meta")).unwrap();
    let mut list = String::new();
    for i in 0..8 {
        fs::write(s.path(&format!("data/train/n01/{i}.png")), png(40, 36, i)).unwrap();
        list += &format!("n01/{i}.png {}\n", i % 2);
    }
    fs::write(s.path("data/meta/train.txt"), list).unwrap();
    s.refuses(RUN, &["model.memory_bank.length is 1281167; it must be 8"]);
    let run = format!("{RUN} --set model.memory_bank.length=8 --json");
    let output = s.npid(&run).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["run"], "runs/tiny_2xb3");
    assert_eq!(
        (&summary["epochs"], &summary["steps"]),
        (&2.into(), &4.into())
    );
    assert!(stderr.contains("batch of 6"), "{stderr}");

    // The run no longer needs the Python file.
    fs::remove_dir_all(s.path("configs")).unwrap();
    let again = s.npid("train runs/tiny_2xb3/config.toml --threads 1 --workers 1 --json");
    let output = { again }.output().unwrap();
    let again: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again["loss"], summary["loss"]);
}

#[test]
fn a_configuration_is_printed() {
    let s = checkout();
    let print = |arguments: &str| {
        let output = s.npid(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        (String::from_utf8(output.stdout).unwrap(), stderr)
    };
    let (printed, notes) = print(&format!("{RUN} --print-config --set seed=3"));
    assert!(notes.contains("batch of 6"), "{notes}");
    // What is printed is a recipe, and says the same again.
    fs::write(s.path("printed.toml"), &printed).unwrap();
    let (again, notes) = print("train printed.toml --print-config");
    assert_eq!(again, printed);
    assert_eq!(notes, "");
    for line in [
        "seed = 3",
        "batch_size = 6",
        "data_prefix = \"data/train\"",
        "base_channels = 2",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line}: {printed}");
    }
    // An embedded recipe too, without pictures; a preset's transforms are written out.
    let (recipe, _) = print("train npid_resnet50_8xb32-steplr-200e_in1k --print-config");
    assert!(recipe.contains("type = \"RandomResizedCrop\""), "{recipe}");
    let (json, _) = print(&format!("{RUN} --print-config --json"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["data"]["batch_size"], 6);
    assert!(!s.path("runs").exists());
}

#[test]
fn what_is_not_understood_is_named() {
    let s = checkout();
    fs::write(
        s.path("configs/_base_/model.py"),
        format!("import os\n{MODEL}"),
    )
    .unwrap();
    s.refuses(
        RUN,
        &["configs/_base_/model.py, line 1: `import os` isn't understood; npid reads the literal"],
    );
    fs::remove_file(s.path("configs/_base_/model.py")).unwrap();
    s.refuses(
        RUN,
        &[
            "configs/npid/tiny_2xb3.py, line 1: `_base_` names ../_base_/model.py, and there is no \
           file configs/_base_/model.py",
        ],
    );
    fs::write(
        s.path("configs/_base_/model.py"),
        MODEL.replace("NPID", "MoCo"),
    )
    .unwrap();
    s.refuses(
        RUN,
        &["configs/_base_/model.py, line 1: model.type is MoCo"],
    );
    s.refuses(
        "train epoch_200.pth",
        &["is a file of weights, not a recipe"],
    );
    s.refuses(
        "train --print-config --resume runs/a",
        &["--print-config", "--resume"],
    );
}
