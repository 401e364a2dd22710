//! Weights from elsewhere: `npid import`, and training that starts from them.

use std::fs;
use std::path::{Path, PathBuf};

use npid_weights::read;
use serde_json::Value;

use crate::scratch::Scratch;

const ROWS: usize = 12;

/// Settings that let imported networks see small pictures.
const SMALL: &str = "--threads 1 --workers 1 --set data.size=32";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../golden/weights")
        .join(name)
}

/// The pictures that `golden/weights/make.py` computed features of.
fn pictures(s: &Scratch, count: usize) {
    const SIZE: usize = 32;
    fs::create_dir_all(s.path("twelve")).unwrap();
    for i in 0..count {
        let value = |y: usize, x: usize, c: usize| {
            (x * (5 + i) + y * (11 + 3 * i) + c * 60 + x * y * (i + 1)) % 256
        };
        let pixels: Vec<u8> = (0..SIZE * SIZE * 3)
            .map(|at| value(at / 3 / SIZE, at / 3 % SIZE, at % 3) as u8)
            .collect();
        let file = fs::File::create(s.path("twelve").join(format!("{i:02}.png"))).unwrap();
        let mut encoder = png::Encoder::new(file, SIZE as u32, SIZE as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&pixels).unwrap();
        writer.finish().unwrap();
    }
}

/// Runs `npid ... --json`, which must succeed; the object on its last line.
#[track_caller]
fn answers(s: &Scratch, arguments: &str) -> Value {
    let output = s.npid(&format!("{arguments} --json")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "`{arguments}`: {stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

fn import(s: &Scratch, file: &str, out: &str) -> Value {
    let file = golden(file);
    answers(
        s,
        &format!(
            "import {} --data twelve --out {out} {SMALL}",
            file.display()
        ),
    )
}

/// The only checkpoint of a run.
fn checkpoint(s: &Scratch, run: &str) -> PathBuf {
    let folder = s.path(run).join("checkpoints");
    let all: Vec<_> = fs::read_dir(folder).unwrap().collect();
    assert_eq!(all.len(), 1);
    all.into_iter().next().unwrap().unwrap().path()
}

/// A tensor of a file.
fn tensor(file: &Path, name: &str) -> Vec<f32> {
    read(file).unwrap().load(name).unwrap().data
}

/// The numbers of a `.npy` file of f32.
fn npy(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (numbers, _) = bytes[start..].as_chunks::<4>();
    numbers.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// Every layout of names: the features that npid computes are those that PyTorch did.
#[test]
fn features_of_imported_networks_are_pytorchs() {
    let s = Scratch::new();
    pictures(&s, ROWS);
    let text = fs::read(golden("cases.json")).unwrap();
    let cases: Value = serde_json::from_slice(&text).unwrap();
    for (file, from, bank, epoch) in [
        ("resnet.pth", "network", "none", 0),
        ("moco.pth", "network", "none", 0),
        ("mmselfsup.pth", "MMSelfSup", "kept", 170),
        ("mmselfsup-0.pth", "MMSelfSup", "computed", 3),
        ("lemniscate.pth.tar", "lemniscate", "kept", 130),
        ("lemniscate-cifar.t7", "lemniscate", "kept", 10),
    ] {
        let report = import(&s, file, file);
        assert_eq!(report["from"], from, "{file}: {report}");
        assert_eq!(report["memory_bank"], bank, "{file}: {report}");
        assert_eq!(report["epoch"], epoch, "{file}: {report}");
        answers(
            &s,
            &format!("embed --run {file} --out {file}.npy --threads 1"),
        );
        let found = npy(&s.path(&format!("{file}.npy")));
        let rows = cases["files"][file]["features"].as_array().unwrap();
        let expected: Vec<f64> = (rows.iter())
            .flat_map(|row| row.as_array().unwrap())
            .map(|value| value.as_f64().unwrap())
            .collect();
        assert_eq!(found.len(), expected.len());
        let worst = (found.iter().zip(&expected))
            .map(|(&a, b)| (f64::from(a) - b).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-5, "{file}: {worst}");
        if bank == "computed" {
            let bank = tensor(&checkpoint(&s, file), "memory_bank.feature_bank");
            assert_eq!(bank, found);
        }
    }
}

/// lemniscate: its momentum weights the old feature, its memory is a pickled module, its epoch
/// says which learning rate is in force.
#[test]
fn a_lemniscate_run_goes_on() {
    let s = Scratch::new();
    pictures(&s, ROWS);
    let report = import(&s, "lemniscate.pth.tar", "run");
    assert_eq!(report["momentum"], true);
    let config = fs::read_to_string(s.path("run/config.toml")).unwrap();
    for line in [
        "type = \"NCEHead\"",
        "neg_num = 8",
        "temperature = 0.07",
        // 0.9 of the old one.
        "momentum = 0.1",
        // 0.003 in epoch 130, after the step at 120.
        "lr = 0.03",
        "weight_decay = 0.0001",
    ] {
        let found = config.lines().any(|own| own == line);
        assert!(found, "no `{line}` in {config}");
    }
    let (theirs, ours) = (golden("lemniscate.pth.tar"), checkpoint(&s, "run"));
    for (own, other) in [
        ("memory_bank.feature_bank", "lemniscate.memory"),
        ("neck.fc.bias", "state_dict.module.fc.bias"),
        (
            "optimizer.momentum.backbone.conv1.weight",
            "optimizer.state.0.momentum_buffer",
        ),
        (
            "optimizer.momentum.neck.fc.bias",
            "optimizer.state.61.momentum_buffer",
        ),
        (
            "backbone.layer4.1.bn2.running_var",
            "state_dict.module.layer4.1.bn2.running_var",
        ),
    ] {
        assert_eq!(tensor(&ours, own), tensor(&theirs, other), "{own}");
    }
    let log_z = tensor(&ours, "head.log_z");
    assert!((log_z[0] - 123.5_f32.ln()).abs() < 1e-6, "{log_z:?}");
    let weights: Value =
        serde_json::from_slice(&fs::read(s.path("run/weights.json")).unwrap()).unwrap();
    assert_eq!(weights["prefix"], "state_dict.module.");
    assert_eq!(weights["missing"].as_array().unwrap().len(), 0);

    // One more epoch than it has had.
    let longer = config.replace("max_epochs = 200", "max_epochs = 131");
    fs::write(s.path("run/config.toml"), longer).unwrap();
    let summary = answers(&s, "train --resume run --threads 1 --workers 1");
    assert_eq!(
        (&summary["epochs"], &summary["steps"]),
        (&131.into(), &131.into())
    );
}

/// MMSelfSup's rows belong to their pictures, and npid says that they do; other pictures don't.
#[test]
fn rows_are_compared_with_their_pictures() {
    let s = Scratch::new();
    pictures(&s, ROWS);
    let own = &import(&s, "mmselfsup.pth", "run")["own_rows"];
    assert_eq!((&own["asked"], &own["nearest"]), (&12.into(), &12.into()));
    // The same pictures in another order.
    fs::rename(s.path("twelve/00.png"), s.path("twelve/99.png")).unwrap();
    let own = &import(&s, "mmselfsup.pth", "other")["own_rows"];
    assert!(own["nearest"].as_u64().unwrap() < 4, "{own}");
}

#[test]
fn what_can_not_be_imported_is_refused() {
    let s = Scratch::new();
    pictures(&s, 5);
    let file = |name: &str| golden(name).display().to_string();
    let import = |file: &str| format!("import {file} --data twelve --out run {SMALL}");
    s.refuses(
        &import(&file("lemniscate.pth.tar")),
        &["--data twelve", "5 pictures", "12 rows", "same order"],
    );
    s.refuses(
        &import(&file("plain-zip.pth")),
        &["plain-zip.pth", "no ResNet"],
    );
    s.refuses(
        &import(&file("cases.json")),
        &["cases.json", "not a file of weights"],
    );
    s.refuses(&import("nothing.pth"), &["nothing.pth", "cannot be read"]);
    s.refuses(&import("twelve"), &["twelve", "cannot be read"]);
    s.refuses(
        &format!("{} --prefix teacher", import(&file("resnet.pth"))),
        &["teacher", "there is one under \"\""],
    );
    s.refuses(
        &format!("import {} --data nowhere", file("resnet.pth")),
        &["nowhere"],
    );
    s.refuses(
        &format!("{} --recipe nothing", import(&file("resnet.pth"))),
        &["nothing", "folder"],
    );
    // A pickle that would run a program.
    let marker = s.path("marker");
    let evil = format!(
        "\u{80}\u{2}cposix\nsystem\n(S'touch {}'\ntR.",
        marker.display()
    );
    let evil: Vec<u8> = evil.chars().map(|c| c as u8).collect();
    fs::write(s.path("evil.pth"), evil).unwrap();
    s.refuses(&import("evil.pth"), &["evil.pth", "calls posix.system"]);
    assert!(!marker.exists());
}

#[test]
fn a_backbone_alone_can_embed_but_not_be_gone_on_with() {
    let s = Scratch::new();
    pictures(&s, 5);
    import(&s, "resnet.pth", "run");
    // It leaves the lock behind, as every resume does that is refused.
    let output = s.npid("train --resume run").output().unwrap();
    s.check_refused(output, "--resume", &["without a memory bank", "Pretrained"]);
    let own = checkpoint(&s, "run");
    s.refuses(
        &format!("import {} --data twelve", own.display()),
        &["a checkpoint of npid itself"],
    );
}

/// `init_cfg = Pretrained`: with npid's own files too, from which only the backbone is taken.
#[test]
fn training_starts_from_weights() {
    let s = Scratch::new();
    pictures(&s, ROWS);
    fs::copy(golden("moco.pth"), s.path("moco.pth")).unwrap();
    let train = |init: &str, out: &str| {
        format!(
            "train --data twelve --out {out} {SMALL} --set data.batch_size=4 \
             --set model.backbone.base_channels=2 --set runner.max_epochs=1 \
             --set model.backbone.init_cfg={init}"
        )
    };
    // No spaces: the arguments are split at them.
    let init = "{type=\"Pretrained\",checkpoint=\"moco.pth\",prefix=\"encoder_k.\"}";
    answers(&s, &train(init, "run"));
    let first = s.path("run/checkpoints/step-00000000.safetensors");
    let theirs = s.path("moco.pth");
    for name in ["layer3.0.downsample.0.weight", "layer2.1.bn1.running_mean"] {
        // `init = "features"` moves the running statistics before the first step.
        let same = tensor(&first, &format!("backbone.{name}"))
            == tensor(&theirs, &format!("state_dict.module.encoder_k.{name}"));
        assert_eq!(same, !name.contains("running"), "{name}");
    }
    let weights: Value =
        serde_json::from_slice(&fs::read(s.path("run/weights.json")).unwrap()).unwrap();
    assert_eq!(weights["loaded"].as_array().unwrap().len(), 100);

    // A resume doesn't need the file.
    fs::remove_file(&theirs).unwrap();
    let config = fs::read_to_string(s.path("run/config.toml")).unwrap();
    assert!(config.contains(&theirs.display().to_string()), "{config}");
    let longer = config.replace("max_epochs = 1\n", "max_epochs = 2\n");
    fs::write(s.path("run/config.toml"), longer).unwrap();
    answers(&s, "train --resume run --threads 1 --workers 1");

    // npid's own checkpoint.
    let own = "{type=\"Pretrained\",checkpoint=\"run/checkpoints/step-00000006.safetensors\"}";
    answers(&s, &train(own, "again"));
    let before = tensor(
        &s.path("run/checkpoints/step-00000006.safetensors"),
        "backbone.conv1.weight",
    );
    let after = s.path("again/checkpoints/step-00000000.safetensors");
    assert_eq!(tensor(&after, "backbone.conv1.weight"), before);

    for (init, parts) in [
        (
            init,
            &["model.backbone.init_cfg", "moco.pth", "cannot be read"][..],
        ),
        ("Pretrained", &["model.backbone.init_cfg", "checkpoint"][..]),
    ] {
        s.refuses(&train(init, "bad"), parts);
    }
    let resnet = format!(
        "{{type=\"Pretrained\",checkpoint=\"{}\"}}",
        golden("lemniscate-cifar.t7").display()
    );
    s.refuses(
        &train(&resnet, "bad"),
        &["net.conv1.weight", "[2, 3, 3, 3]", "[2, 3, 7, 7]"],
    );
}
