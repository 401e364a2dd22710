//! A tiny run on the reference engine, and ways to look at what it left.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use npid_engine::reference::Reference;
use npid_engine::{Description, Dtype, Engine, Sizes};
use npid_learn::config::load::load;
use npid_learn::progress::{Progress, Started};
use npid_learn::recipes::Recipe;
use npid_learn::trainer::{self, Options, Summary};
use npid_learn::{Config, Error};

/// A run of three epochs of seven steps: ResNet-18 of width 2 on 8 x 8 pixels.
pub const RECIPE: &str = r#"
seed = 5
[model]
type = "NPID"
neg_num = 6
ensure_neg = true
backbone = { type = "ResNet_CIFAR", depth = 18, base_channels = 2 }
neck = { type = "LinearNeck", out_channels = 4, norm = true }
head = { type = "ContrastiveHead", temperature = 0.3 }
memory_bank = { type = "SimpleMemory", momentum = 0.5, init = "features" }
[data]
size = 8
batch_size = 6
workers = 1
pipeline = [
    { type = "RandomResizedCrop", size = 8, scale = [0.5, 1.0] },
    { type = "RandomHorizontalFlip" },
    { type = "Normalize", mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] },
]
[optimizer]
type = "SGD"
lr = 0.05
momentum = 0.9
weight_decay = 5e-4
[lr_config]
policy = "CosineAnnealing"
by_epoch = false
[runner]
max_epochs = 3
[evaluation]
interval = 1
k = 5
[log]
interval = 2
"#;

/// A folder with `train` (40 pictures of ten classes, and two that can't be read) and `val` (20).
pub fn pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pictures");
    npid_data::patterns::write(&root, 40, 20, 16, 0).unwrap();
    fs::write(root.join("train/dots/notes.jpg"), "not a picture").unwrap();
    let whole = fs::read(root.join("train/rays/0005.png")).unwrap();
    fs::write(root.join("train/rays/short.png"), &whole[..whole.len() / 2]).unwrap();
    folder
}

/// The run's configuration for `pictures()`, with changes.
pub fn config(pictures: &Path, sets: &[&str]) -> Config {
    let recipe = Recipe {
        name: "tiny".into(),
        path: None,
        text: RECIPE.into(),
        ..Recipe::default()
    };
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let mut config = load(&recipe, &sets).unwrap();
    config.data.path = Some(pictures.join("pictures/train").into());
    config.data.val = Some(pictures.join("pictures/val").into());
    config
}

/// The reference engine.
pub fn reference(
    description: &Description,
    sizes: Sizes,
    _: Option<Dtype>,
) -> Result<Box<dyn Engine>, Error> {
    Ok(Box::new(Reference::<f32>::compile(description, sizes)?))
}

/// A listener that remembers, and asks the run to stop after a step.
#[derive(Default)]
pub struct Listener<'a> {
    pub stop_after: Option<(u64, &'a AtomicBool)>,
    pub warnings: Vec<String>,
    pub notes: Vec<String>,
    pub started: Vec<Started>,
    pub losses: Vec<(u64, f64)>,
    pub chances: Vec<f64>,
}

impl Progress for Listener<'_> {
    fn started(&mut self, started: &Started) {
        self.started.push(started.clone());
        self.chances.push(started.chance_loss);
    }
    fn chance_loss(&mut self, chance_loss: f64) {
        self.chances.push(chance_loss);
    }
    fn tick(&mut self, _epoch: u32, step: u64, loss: f64) {
        self.losses.push((step, loss));
        if let Some((at, stop)) = self.stop_after
            && step == at
        {
            stop.store(true, Ordering::Relaxed);
        }
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }
    fn warning(&mut self, text: &str) {
        self.warnings.push(text.into());
    }
}

/// Options of a run that may be stopped by `stop`.
pub fn options(stop: &AtomicBool) -> Options<'_> {
    Options {
        threads: 1,
        workers: None,
        strict: false,
        stop,
    }
}

/// Trains without a stop.
pub fn train(config: &Config, out: &Path) -> Result<Summary, Error> {
    let stop = AtomicBool::new(false);
    trainer::train(config, out, &options(&stop), reference, &mut ())
}

/// Trains until after step `at`, where it must be interrupted.
pub fn train_until(config: &Config, out: &Path, at: u64) {
    let stop = AtomicBool::new(false);
    let mut listener = Listener {
        stop_after: Some((at, &stop)),
        ..Listener::default()
    };
    let stopped = trainer::train(config, out, &options(&stop), reference, &mut listener);
    assert_eq!(stopped.unwrap_err().exit_code(), 130);
}

/// Resumes without a stop.
pub fn resume(folder: &Path, listener: &mut Listener<'_>) -> Result<Summary, Error> {
    let stop = AtomicBool::new(false);
    trainer::resume(
        folder,
        &trainer::Changes::default(),
        &options(&stop),
        reference,
        listener,
    )
}

/// Names and bytes of a run's checkpoints.
pub fn checkpoints(run: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect()
}

/// The newest checkpoint's path.
pub fn newest(run: &Path) -> PathBuf {
    let name = checkpoints(run).into_keys().next_back().unwrap();
    run.join("checkpoints").join(name)
}

/// Fields of metrics that clocks fill.
const CLOCKS: [&str; 8] = [
    "images_per_s",
    "wait_s",
    "step_s",
    "eval_s",
    "forward_s",
    "backward_s",
    "bank_s",
    "optimizer_s",
];

/// A run's metrics, without what clocks said.
pub fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields = line.as_object_mut().unwrap();
            for clock in CLOCKS {
                fields.remove(clock);
            }
            line
        })
        .collect()
}

/// Everything below a folder, by relative path.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap();
            all.push(name.to_string_lossy().into_owned());
            if path.is_dir() {
                left.push(path);
            }
        }
    }
    all.sort();
    all
}
