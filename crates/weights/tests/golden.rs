//! Files that PyTorch wrote (`golden/weights/make.py`) hold the numbers that it says they hold.

use std::path::{Path, PathBuf};

use npid_network::resnet::Stem;
use npid_weights::resnet::{self, Architecture};
use npid_weights::{Checkpoint, Format, read};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    files: std::collections::BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    tensors: std::collections::BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    shape: Vec<u64>,
    /// All of them, or the first two.
    values: Vec<f64>,
    sum: f64,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/weights")
}

fn cases() -> Cases {
    let text = std::fs::read(folder().join("cases.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn open(name: &str) -> Checkpoint {
    read(&folder().join(name)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_tensor_of_every_file_is_what_pytorch_says() {
    let cases = cases();
    assert_eq!(cases.files.len(), 8);
    for (name, case) in &cases.files {
        let file = open(name);
        for (tensor, expected) in &case.tensors {
            assert_eq!(
                file.shape(tensor),
                Some(&expected.shape[..]),
                "{name}: {tensor}"
            );
            let found = file.load(tensor).unwrap();
            assert_eq!(found.len() as u64, expected.shape.iter().product::<u64>());
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * (1.0 + b.abs());
            for (i, (&a, &b)) in found.data.iter().zip(&expected.values).enumerate() {
                assert!(close(a.into(), b), "{name}: {tensor}[{i}] is {a}, not {b}");
            }
            let sum: f64 = found.data.iter().map(|&x| f64::from(x)).sum();
            assert!(
                close(sum, expected.sum),
                "{name}: {tensor}: {sum}, {}",
                expected.sum
            );
        }
        // And nothing else, except what an optimizer's lists and other objects hold.
        for (tensor, _) in file.tensors() {
            let known = case.tensors.contains_key(tensor);
            assert!(known, "{name}: {tensor} isn't in the file");
        }
    }
}

#[test]
fn the_format_is_found_whatever_the_name() {
    let formats = [
        ("plain-zip.pth", Format::Pth),
        ("plain-legacy.pth", Format::LegacyPth),
        ("lemniscate.pth.tar", Format::LegacyPth),
    ];
    for (name, format) in formats {
        assert_eq!(open(name).format(), format);
    }
}

#[test]
fn settings_are_data_too() {
    for name in ["plain-zip.pth", "plain-legacy.pth"] {
        let file = open(name);
        let root = file.root();
        assert_eq!(root.get("text").unwrap().text(), Some("a text"));
        assert_eq!(root.get("number").unwrap().number(), Some(2.5), "{name}");
        assert_eq!(root.get("device").unwrap().text(), Some("cpu"));
        let size = root.get("size").unwrap().list().unwrap();
        assert_eq!(
            size.iter().filter_map(|v| v.integer()).collect::<Vec<_>>(),
            [2, 3]
        );
        let list = root.get("list").unwrap().list().unwrap();
        assert_eq!(list[0].tensor().unwrap().shape, [2]);
        assert_eq!(root.get("large").unwrap().integer(), None);
    }
}

/// lemniscate saves its memory as a module of a class that isn't there when it is read.
#[test]
fn a_pickled_module_is_read_as_data() {
    let file = open("lemniscate.pth.tar");
    let memory = file.root().get("lemniscate").unwrap();
    assert_eq!(memory.class(), Some("lib.NCEAverage.NCEAverage"));
    assert!(memory.is_module());
    assert_eq!(memory.attribute("K").unwrap().integer(), Some(8));
    assert_eq!(file.shape("lemniscate.memory"), Some(&[12, 4][..]));
    assert_eq!(
        file.load("lemniscate.params").unwrap().data,
        [8.0, 0.07, 123.5, 0.9]
    );
}

fn wanted() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("backbone.conv1.weight", vec![2, 3, 7, 7]),
        ("backbone.bn1.running_mean", vec![2]),
        ("backbone.layer2.0.downsample.0.weight", vec![4, 2, 1, 1]),
        ("backbone.layer9.0.conv1.weight", vec![1]),
        ("neck.fc.weight", vec![4, 16]),
    ]
}

fn matched(file: &Checkpoint, before: &str) -> Result<resnet::Matched, npid_weights::Error> {
    let wanted = wanted();
    let wanted = wanted.iter().map(|(name, shape)| (*name, &shape[..]));
    resnet::matched(file, before, wanted, &|_| None)
}

#[test]
fn the_network_is_found_behind_any_prefix() {
    for (name, given, found, stem) in [
        ("resnet.pth", None, "", Stem::ImageNet),
        (
            "moco.pth",
            None,
            "state_dict.module.encoder_q.",
            Stem::ImageNet,
        ),
        (
            "moco.pth",
            Some("encoder_k"),
            "state_dict.module.encoder_k.",
            Stem::ImageNet,
        ),
        (
            "mmselfsup.pth",
            None,
            "state_dict.backbone.",
            Stem::ImageNet,
        ),
        (
            "mmselfsup.pth",
            Some("backbone."),
            "state_dict.backbone.",
            Stem::ImageNet,
        ),
        (
            "lemniscate.pth.tar",
            None,
            "state_dict.module.",
            Stem::ImageNet,
        ),
        ("lemniscate-cifar.t7", None, "net.", Stem::Cifar),
    ] {
        let file = open(name);
        assert_eq!(resnet::prefix(&file, given).unwrap(), found);
        let architecture = resnet::architecture(&file, found).unwrap();
        let expected = Architecture {
            depth: 18,
            stem,
            stem_channels: 2,
            base_channels: 2,
        };
        assert_eq!(architecture, expected);
    }
    let error = resnet::prefix(&open("moco.pth"), Some("backbone")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("encoder_q") && text.contains("backbone"),
        "{text}"
    );
    let error = resnet::prefix(&open("plain-zip.pth"), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no ResNet in it") && error.contains("f32"),
        "{error}"
    );
}

#[test]
fn names_are_matched_and_the_rest_is_listed() {
    let file = open("resnet.pth");
    let matched_names = matched(&file, "").unwrap();
    assert_eq!(matched_names.loaded.len(), 3);
    assert_eq!(matched_names.loaded[0].1, "conv1.weight");
    assert_eq!(
        matched_names.missing,
        ["backbone.layer9.0.conv1.weight", "neck.fc.weight"]
    );
    let unused = &matched_names.unused;
    assert!(unused.contains(&"fc.weight".to_string()), "{unused:?}");
    assert!(
        !unused
            .iter()
            .any(|name| name.contains("num_batches_tracked"))
    );
    let summary = matched_names.summary();
    assert!(
        summary.starts_with("3 weights loaded, 2 missing"),
        "{summary}"
    );

    // lemniscate's CIFAR network has another stem and calls its downsampling otherwise.
    let file = open("lemniscate-cifar.t7");
    let error = matched(&file, "net.").unwrap_err().to_string();
    for part in [
        "net.conv1.weight",
        "[2, 3, 3, 3]",
        "[2, 3, 7, 7]",
        "ResNet-18 with a 3x3 stem",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let wanted = [("backbone.layer2.0.downsample.0.weight", &[4, 2, 1, 1][..])];
    let found = resnet::matched(&file, "net.", wanted, &|_| None).unwrap();
    assert_eq!(found.loaded[0].1, "net.layer2.0.shortcut.0.weight");

    let wanted = [("neck.fc.weight", &[4, 16][..])];
    let error = resnet::matched(&file, "net.", wanted, &|_| None).unwrap_err();
    assert!(error.to_string().contains("none of its weights"), "{error}");
}
