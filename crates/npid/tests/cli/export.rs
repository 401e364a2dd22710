//! `npid export`: what is in its files, and what it refuses.

#[path = "../../../weights/tests/onnx/eval.rs"]
mod eval;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use npid_weights::onnx::proto::ModelProto;
use prost::Message;
use serde_json::Value;

use crate::scratch::{Scratch, png};

/// Side of the pictures, so that the network sees them as they are.
const SIDE: u32 = 11;

/// A run `run` on a folder `many` of 20 pictures, its network as `network` says.
fn trained(network: &str) -> Scratch {
    let s = Scratch::new();
    fs::create_dir(s.path("many")).unwrap();
    for i in 0..20 {
        let file = s.path("many").join(format!("{i:02}.png"));
        fs::write(file, png(SIDE, SIDE, i)).unwrap();
    }
    let arguments = format!(
        "train folder --data many --out run --threads 1 --workers 1 --set data.size={SIDE} \
         --set data.batch_size=4 --set runner.max_epochs=2 --set model.neck.out_channels=8 {network}"
    );
    let output = s.npid(&arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    s
}

const NARROW: &str = "--set model.backbone.type=ResNet_CIFAR --set model.backbone.base_channels=2";

#[track_caller]
fn export(s: &Scratch, arguments: &str) -> Value {
    let output = s
        .npid(&format!("export --run run --json {arguments}"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names, shapes and elements of a file of weights.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let file = npid_weights::read(path).unwrap();
    let all = file.tensors().map(|(name, shape)| {
        let data = file.load(name).unwrap().data;
        (name.to_string(), (shape.to_vec(), data))
    });
    all.collect()
}

#[test]
fn weights_are_the_checkpoints_with_torchvisions_names() {
    let s = trained(NARROW);
    let last = s.path("run/checkpoints/step-00000010.safetensors");
    let saved = tensors(&last);

    let report = export(&s, "--out b.safetensors");
    assert_eq!(report["what"], "backbone");
    assert_eq!((&report["step"], &report["epoch"]), (&10.into(), &2.into()));
    assert_eq!(report["output"], serde_json::json!([16]));
    let backbone = tensors(&s.path("b.safetensors"));
    // torchvision's resnet18 has 122 entries; less fc.weight and fc.bias.
    assert_eq!(backbone.len(), 120);
    assert_eq!(report["tensors"], 120);
    assert_eq!(backbone["bn1.num_batches_tracked"], (vec![], vec![10.0]));
    let mut compared = 0;
    for (name, tensor) in &backbone {
        if !name.ends_with("num_batches_tracked") {
            assert_eq!(tensor, &saved[&format!("backbone.{name}")], "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 100);
    let about = npid_weights::read(&s.path("b.safetensors")).unwrap();
    assert_eq!(about.text("format"), Some("pt"));
    let about: Value = serde_json::from_str(about.text("npid").unwrap()).unwrap();
    assert_eq!(about["size"], SIDE);
    assert_eq!(about["mean"], report["mean"]);

    export(&s, "--out b.pth");
    assert_eq!(tensors(&s.path("b.pth")), backbone);

    let report = export(&s, "--out e.pth --what embedding");
    let whole = tensors(&s.path("e.pth"));
    assert_eq!(report["output"], serde_json::json!([8]));
    assert_eq!(whole["neck.fc.weight"], saved["neck.fc.weight"]);
    assert_eq!(whole["neck.norm.running_var"].0, [8]);
    assert_eq!(whole.len(), 120 + 5);
    export(&s, "--out m.pth --what embedding --names mmselfsup");
    let nested: BTreeMap<_, _> = (whole.iter())
        .map(|(name, tensor)| match name.starts_with("neck.") {
            true => (format!("state_dict.{name}"), tensor.clone()),
            false => (format!("state_dict.backbone.{name}"), tensor.clone()),
        })
        .collect();
    assert_eq!(tensors(&s.path("m.pth")), nested);
    export(&s, "--out m.safetensors --names mmselfsup");
    let prefixed = tensors(&s.path("m.safetensors"));
    assert!(prefixed.keys().all(|name| name.starts_with("backbone.")));
    assert_eq!(prefixed.len(), 120);

    // Another checkpoint, in every way to name it.
    for name in ["step-00000005", "step-00000005.safetensors", "5"] {
        let out = format!("{name}.pth");
        let report = export(&s, &format!("--out {out} --checkpoint {name}"));
        assert_eq!(report["step"], 5);
        let first = tensors(&s.path(&out));
        assert_eq!(first["bn1.num_batches_tracked"].1, [5.0]);
        assert_ne!(first["conv1.weight"], backbone["conv1.weight"]);
    }
    // Equal files every time.
    export(&s, "--out again.safetensors");
    let again = fs::read(s.path("again.safetensors")).unwrap();
    assert!(again == fs::read(s.path("b.safetensors")).unwrap());
}

#[test]
fn the_best_checkpoint_is_the_one_with_the_best_figure() {
    let s = Scratch::new();
    for i in 0..24 {
        let class = s.path("many").join(["cats", "dogs"][i as usize % 2]);
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(format!("{i:02}.png")), png(SIDE, SIDE, i)).unwrap();
    }
    let arguments = format!(
        "train folder --data many --val many --out run --threads 1 --workers 1 --set data.size={SIDE} \
         --set data.batch_size=4 --set runner.max_epochs=6 --set evaluation.interval=1 \
         --set evaluation.k=3 --set checkpoint.keep=1 --set optimizer.lr=0.3 {NARROW}"
    );
    assert_eq!(s.npid(&arguments).output().unwrap().status.code(), Some(0));
    let last = export(&s, "--out last.safetensors");
    assert_eq!(last["step"], 36);
    let checkpoint = s.path(last["checkpoint"].as_str().unwrap());
    let meta = npid_weights::read(&checkpoint).unwrap();
    let meta: Value = serde_json::from_str(meta.text("npid").unwrap()).unwrap();
    let best = &meta["figures"]["best"];
    let report = export(&s, "--out best.safetensors --checkpoint best");
    assert_eq!(report["step"], best["step"]);
    let output = (s.npid("eval knn --run run --checkpoint best --threads 1 --json"))
        .output()
        .unwrap();
    let figure: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figure["knn_top1"], best["knn_top1"]);
    assert_eq!(figure["step"], best["step"]);
}

/// The features of PNG files, by `npid embed` and by a model run on the same pixels.
fn models_give_the_embedding(network: &str, map: [usize; 3]) {
    let s = trained(network);
    let output = (s.npid("embed --run run --data many --out e.npy --threads 1"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let array = fs::read(s.path("e.npy")).unwrap();
    let want: Vec<f64> = (array[128..].chunks_exact(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
        .collect();
    let dim = want.len() / 20;

    let side = SIDE as usize;
    let mut data = Vec::new();
    for i in 0..20 {
        let file = fs::File::open(s.path("many").join(format!("{i:02}.png"))).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        for c in 0..3 {
            let plane = (0..side * side).map(|p| f64::from(pixels[p * 3 + c]) / 255.0);
            data.extend(plane);
        }
    }
    let image = eval::Value {
        dims: vec![20, 3, side, side],
        data,
    };
    let run = |out: &str| {
        let model = ModelProto::decode(&fs::read(s.path(out)).unwrap()[..]).unwrap();
        let outputs = eval::run(&model, image.clone());
        assert_eq!(outputs.len(), 1);
        (model, outputs.into_iter().next().unwrap())
    };
    let report = export(&s, "--out e.onnx");
    assert_eq!(report["what"], "embedding");
    let (model, (name, feature)) = run("e.onnx");
    assert_eq!((name.as_str(), &feature.dims), ("feature", &vec![20, dim]));
    for (i, (got, want)) in feature.data.iter().zip(&want).enumerate() {
        assert!((got - want).abs() < 2e-5, "{i}: {got} for {want}");
    }
    let said: BTreeMap<_, _> = (model.metadata_props.iter())
        .map(|line| (line.key.as_str(), line.value.as_str()))
        .collect();
    assert_eq!((said["npid.size"], said["npid.step"]), ("11", "10"));
    assert_eq!(said["Image.NominalPixelRange"], "Normalized_0_1");

    export(&s, "--out p.onnx --what backbone");
    let (_, (name, pooled)) = run("p.onnx");
    assert_eq!((name.as_str(), &pooled.dims), ("pooled", &vec![20, map[0]]));
    let report = export(&s, "--out m.onnx --what map");
    assert_eq!(report["output"], serde_json::json!(map));
    let (_, (name, maps)) = run("m.onnx");
    let dims = vec![20, map[0], map[1], map[2]];
    assert_eq!((name.as_str(), &maps.dims), ("map", &dims));
    let means = (maps.data.chunks(map[1] * map[2])).map(|m| m.iter().sum::<f64>() / m.len() as f64);
    assert!(means.zip(&pooled.data).all(|(a, b)| (a - b).abs() < 1e-9));
}

#[test]
fn a_model_with_a_neck_gives_the_embedding() {
    models_give_the_embedding(NARROW, [16, 2, 2]);
}

#[test]
fn a_model_of_bottlenecks_gives_the_embedding() {
    let network = "--set model.backbone.base_channels=2 --set model.backbone.depth=50 \
                   --set model.backbone.style=caffe --set model.neck.norm=false \
                   --set model.head.type=NCEHead --set model.neg_num=4";
    models_give_the_embedding(network, [64, 1, 1]);
}

#[test]
fn a_model_with_a_neck_of_two_layers_gives_the_embedding() {
    let network =
        format!("{NARROW} --set model.neck.type=NonLinearNeck --set model.neck.hid_channels=6");
    models_give_the_embedding(&network, [16, 2, 2]);
}

#[test]
fn what_can_not_be_exported_is_refused() {
    let s = trained(NARROW);
    for out in ["a.pt", "a", "a.onnx.gz", ".pth"] {
        let command = format!("export --run run --out {out}");
        s.refuses(&command, &["--out", ".safetensors, .pth or .onnx"]);
    }
    fs::write(s.path("there.onnx"), "mine").unwrap();
    fs::create_dir(s.path("folder.pth")).unwrap();
    for (arguments, parts) in [
        ("--run run --out there.onnx", &["--out", "exists"][..]),
        ("--run run --out folder.pth", &["--out", "exists"]),
        ("--run run --out no/a.pth", &["--out no/a.pth", "folder"]),
        ("--run nothing --out a.pth", &["--run nothing", "no such"]),
        ("--run pictures --out a.pth", &["--run", "config.toml"]),
        ("--run run", &["--out"]),
        (
            "--run run --out a.pth --what map",
            &["--what map", "backbone"],
        ),
        (
            "--run run --out a.pth --what head",
            &["--what", "embedding"],
        ),
        ("--run run --out a.onnx --names mmselfsup", &["--names"]),
        (
            "--run run --out a.pth --names vissl",
            &["--names", "mmselfsup"],
        ),
        (
            "--run run --out a.pth --checkpoint newest",
            &["--checkpoint", "last", "best"],
        ),
        (
            "--run run --out a.pth --checkpoint 7",
            &["step-00000007", "there are step-00000005, step-00000010"],
        ),
        // Pictures without classes have no kNN figure.
        ("--run run --out a.pth --checkpoint best", &["best", "last"]),
    ] {
        s.refuses(&format!("export {arguments}"), parts);
    }
    assert_eq!(fs::read(s.path("there.onnx")).unwrap(), b"mine");

    let last = s.path("run/checkpoints/step-00000010.safetensors");
    let mut bytes = fs::read(&last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&last, &bytes).unwrap();
    s.refuses(
        "export --run run --out a.pth --checkpoint 10",
        &["step-00000010", "damaged"],
    );
    let output = s.npid("export --run run --out a.pth").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("damaged"), "{stderr}");

    let config = fs::read_to_string(s.path("run/config.toml")).unwrap();
    let deeper = config.replace("depth = 18", "depth = 34");
    fs::write(s.path("run/config.toml"), deeper).unwrap();
    for out in ["b.pth", "b.onnx"] {
        let command = format!("export --run run --out {out} --checkpoint 5");
        s.refuses(&command, &["missing", "backbone.layer1.2"]);
    }
}

/// A file that can't be written whole leaves nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing() {
    let s = trained(NARROW);
    for out in ["a.pth", "a.safetensors", "a.onnx"] {
        let npid = env!("CARGO_BIN_EXE_npid");
        // In blocks of 1,024 bytes: less than any of them.
        let script = format!("ulimit -f 40; exec {npid} export --run run --out {out}");
        let output = (std::process::Command::new("bash"))
            .args(["-c", &script])
            .current_dir(s.path("."))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains(out) && stderr.lines().count() == 1,
            "{stderr}"
        );
        let left = fs::read_dir(s.path(".")).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(out)
        });
        assert_eq!(left.count(), 0, "{out}");
    }
}
