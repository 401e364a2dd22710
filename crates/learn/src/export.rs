//! A run's network for other programs: weights as PyTorch's or safetensors files, or the whole
//! network as an ONNX model. `docs/weights.md` shows how each is loaded.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use npid_network::graph::{Network, NodeId, Op};
use npid_weights::{Tensor, Tensors, onnx, pth, safetensors};
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Choice, survive_file_size_limit, sync_folder, temporary_of};
use crate::config::load;
use crate::error::Error;
use crate::method;
use crate::progress::Progress;
use crate::run::{RunFolder, cure};

/// What the names of a backbone's weights start with in a run.
const BACKBONE: &str = "backbone.";

/// The most bytes of weights in a `.pth` file: 4 GiB, less room for names and statistics.
const MAX_PTH: u64 = (1 << 32) - (1 << 26);

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Weights, as `torch.save` writes them.
    Pth,
    /// Weights, as Hugging Face's library writes them.
    Safetensors,
    /// The network itself.
    Onnx,
}

impl Format {
    /// The kind of file that a name's ending asks for.
    fn of(out: &Path) -> Result<Self, Error> {
        let ending = out.extension().map(|e| e.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("pth") => Ok(Format::Pth),
            Some("safetensors") => Ok(Format::Safetensors),
            Some("onnx") => Ok(Format::Onnx),
            _ => Err(Error::input(format!(
                "--out {}: name a file that ends in .safetensors, .pth or .onnx",
                out.display()
            ))),
        }
    }
}

/// How much of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The backbone; as a model, with the mean over all positions of its last map.
    Backbone,
    /// Backbone and neck; as a model, with the L2 norm: what `npid embed` writes.
    Embedding,
    /// The backbone's last map, as a model.
    Map,
}

/// Whose names weights have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    /// torchvision's and timm's: `conv1.weight`; a neck's start with `neck.`.
    #[default]
    Torchvision,
    /// MMSelfSup's: `backbone.conv1.weight`, `neck.fc.weight`; in a `.pth` file under the key
    /// `state_dict`.
    Mmselfsup,
}

/// What is asked of [`export`].
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Which checkpoint.
    pub checkpoint: Choice,
    /// How much; `None` is the backbone of weights, the embedding of a model.
    pub what: Option<What>,
    /// Whose names; `None` is torchvision's. A model has the run's own.
    pub names: Option<Names>,
    /// Set (by Ctrl-C) to stop.
    pub stop: &'a AtomicBool,
}

/// What [`export`] wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExportReport {
    /// The file.
    pub file: PathBuf,
    /// Its kind.
    pub format: Format,
    /// How much of the network is in it.
    pub what: What,
    /// Whose names the weights have; `None` in a model.
    pub names: Option<Names>,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Epochs that it has finished.
    pub epoch: u32,
    /// Optimiser steps that it has taken.
    pub step: u64,
    /// Number of the run's tensors in it; in files of weights, with `num_batches_tracked`.
    pub tensors: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Height and width of the run's pictures.
    pub size: usize,
    /// What is subtracted from RGB in 0..1, channel by channel. A model does it itself.
    pub mean: Vec<f32>,
    /// What it is divided by then.
    pub std: Vec<f32>,
    /// Numbers of a picture's output: D, C, or C, H and W of the map.
    pub output: Vec<usize>,
    /// In what the backbone differs from torchvision's of its depth, in a few words each.
    pub differs: Vec<String>,
}

/// Writes the network of a run, as the ending of `out` says: `.safetensors`, `.pth` or `.onnx`.
///
/// # Errors
/// [`Error::Input`] for a folder that is no run, a checkpoint that isn't there or damaged, an
/// ending that isn't known, a file that exists, what doesn't fit together, a model above 2 GB or a
/// `.pth` file above 4 GiB; [`Error::Run`] for a disk that is full; [`Error::Interrupted`] when
/// asked to stop. Nothing is left behind then.
pub fn export(
    folder: &Path,
    out: &Path,
    options: Options<'_>,
    progress: &mut dyn Progress,
) -> Result<ExportReport, Error> {
    survive_file_size_limit();
    let format = Format::of(out)?;
    let model = format == Format::Onnx;
    let what = match (options.what, model) {
        (None, false) => What::Backbone,
        (None, true) => What::Embedding,
        (Some(What::Map), false) => {
            return Err(Error::input(format!(
                "--what map: only a model has outputs, and {} would be weights; take backbone",
                out.display()
            )));
        }
        (Some(what), _) => what,
    };
    if model && options.names.is_some() {
        return Err(Error::input(format!(
            "--names: {} would be a model, which needs no one's names; leave it out",
            out.display()
        )));
    }
    if fs::symlink_metadata(out).is_ok() {
        return Err(Error::input(format!(
            "--out {}: it exists already; name another file",
            out.display()
        )));
    }
    let run = RunFolder::open(folder, "--run")?;
    let config = load::of_run(&run)?;
    // Any length that a configuration may have will do: the bank stays where it is.
    let length = (config.model.memory_bank.length).unwrap_or(config.data.batch_size.max(2));
    let description = method::describe(&config, length)?;
    let network = &description.network;
    let (checkpoint, warnings) = options.checkpoint.open(&run)?;
    warnings.iter().for_each(|text| progress.warning(text));
    checkpoint.check_network(&description)?;

    let map = last_map(network)?;
    let size = config.data.size;
    let shape = network.shapes(size, size)?[map.0];
    let output = match what {
        What::Backbone => vec![shape.c],
        What::Embedding => vec![network.feat_dim()],
        What::Map => vec![shape.c, shape.h, shape.w],
    };
    let (mean, std) = normalisation(network);
    let cursor = checkpoint.meta().cursor;
    let about = About {
        npid: env!("CARGO_PKG_VERSION"),
        what,
        size,
        mean: &mean,
        std: &std,
        epoch: cursor.epoch,
        step: cursor.step,
    };
    let names = (!model).then(|| options.names.unwrap_or_default());
    if format == Format::Pth {
        let bytes = 4 * network.parameter_count() as u64;
        if bytes > MAX_PTH {
            return Err(Error::input(format!(
                "--out {}: {bytes} bytes of weights don't fit a .pth file, which ends at 4 GiB; \
                 take .safetensors",
                out.display()
            )));
        }
    }
    let file = Out::create(out, options.stop)?;
    let (tensors, bytes) = match format {
        Format::Onnx => {
            let (bytes, count) = encode(network, map, &about, &checkpoint)?;
            (count, file.write(|file| file.write_all(&bytes))?)
        }
        Format::Pth | Format::Safetensors => {
            let names = names.unwrap_or_default();
            let tensors = weights(network, what, names, &checkpoint)?;
            let count = tensors.len() + tensors.counters().len();
            let texts = [("format", "pt".to_string()), ("npid", about.json()?)];
            let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
            let under = (names == Names::Mmselfsup).then_some("state_dict");
            let bytes = file.write(|file| match format {
                Format::Pth => pth::write(file, &tensors, under).map(drop),
                _ => safetensors::write(file, &tensors, &texts).map(drop),
            })?;
            (count, bytes)
        }
    };
    Ok(ExportReport {
        file: out.to_path_buf(),
        format,
        what,
        names,
        checkpoint: checkpoint.path().to_path_buf(),
        epoch: cursor.epoch,
        step: cursor.step,
        tensors,
        bytes,
        size,
        output,
        differs: differences(network),
        mean,
        std,
    })
}

/// What a file says of itself.
#[derive(Serialize)]
struct About<'a> {
    npid: &'static str,
    what: What,
    size: usize,
    mean: &'a [f32],
    std: &'a [f32],
    epoch: u32,
    step: u64,
}

impl About<'_> {
    fn json(&self) -> Result<String, Error> {
        let text = serde_json::to_string(self);
        text.map_err(|error| Error::run(format!("the file's metadata has no form: {error}")))
    }
}

/// The backbone's last node: its last map.
fn last_map(network: &Network) -> Result<NodeId, Error> {
    let last = (network.nodes.iter()).rposition(|node| node.name.starts_with(BACKBONE));
    last.map(NodeId)
        .ok_or_else(|| Error::input("the run's network has no backbone"))
}

fn normalisation(network: &Network) -> (Vec<f32>, Vec<f32>) {
    match network.nodes.first().map(|node| &node.op) {
        Some(Op::Input { mean, std }) => (mean.clone(), std.clone()),
        _ => (Vec::new(), Vec::new()),
    }
}

/// The tensors of a file of weights.
fn weights(
    network: &Network,
    what: What,
    names: Names,
    checkpoint: &Checkpoint,
) -> Result<Tensors, Error> {
    let wanted = |name: &str| what == What::Embedding || name.starts_with(BACKBONE);
    let written = |name: &str| match names {
        Names::Torchvision => name.strip_prefix(BACKBONE).unwrap_or(name).to_string(),
        Names::Mmselfsup => name.to_string(),
    };
    let params = (network.params.iter()).map(|p| (p.name.as_str(), p.shape.clone()));
    let statistics = (network.statistics.iter()).map(|s| (s.name.as_str(), vec![s.channels]));
    let mut tensors = Tensors::new();
    for (name, shape) in params.chain(statistics).filter(|(name, _)| wanted(name)) {
        let tensor = Tensor::new(&shape, checkpoint.read(name)?);
        tensors.insert(written(name), tensor);
    }
    // PyTorch counts the batches that moved a norm's statistics; with its usual momentum nothing
    // depends on it, but a strict load asks for it.
    let batches = i64::try_from(checkpoint.meta().cursor.step).unwrap_or(i64::MAX);
    for statistic in &network.statistics {
        if let Some(norm) = statistic.name.strip_suffix(".running_mean")
            && wanted(norm)
        {
            tensors.count(format!("{}.num_batches_tracked", written(norm)), batches);
        }
    }
    Ok(tensors)
}

/// An ONNX file's bytes, and how many tensors were read for it.
fn encode(
    network: &Network,
    map: NodeId,
    about: &About<'_>,
    checkpoint: &Checkpoint,
) -> Result<(Vec<u8>, usize), Error> {
    let (output, pooled, name) = match about.what {
        What::Embedding => (network.embedding.unwrap_or(map), false, "feature"),
        What::Backbone => (map, true, "pooled"),
        What::Map => (map, false, "map"),
    };
    // The first three are ONNX's own (its docs/MetadataProps.md).
    let numbers = |values: &[f32]| format!("{values:?}");
    let metadata = [
        ("Image.BitmapPixelFormat", "Rgb8".to_string()),
        ("Image.ColorSpaceGamma", "SRGB".to_string()),
        ("Image.NominalPixelRange", "Normalized_0_1".to_string()),
        ("npid.size", about.size.to_string()),
        ("npid.mean", numbers(about.mean)),
        ("npid.std", numbers(about.std)),
        ("npid.epoch", about.epoch.to_string()),
        ("npid.step", about.step.to_string()),
    ];
    let model = onnx::Model {
        network,
        output,
        pooled,
        name,
        height: about.size,
        width: about.size,
        metadata: (metadata.into_iter())
            .map(|(key, value)| (key.to_string(), value))
            .collect(),
    };
    let mut tensors = 0;
    let bytes = model.encode(|name| {
        tensors += 1;
        checkpoint.read(name)
    })?;
    Ok((bytes, tensors))
}

/// In what a backbone differs from torchvision's ResNet of the same depth, in a few words each:
/// what has to be changed there before the weights fit.
fn differences(network: &Network) -> Vec<String> {
    let conv = |name: &str| {
        let found = (network.nodes.iter()).find(|node| node.name == format!("{BACKBONE}{name}"));
        match found.map(|node| &node.op) {
            Some(Op::Conv2d(conv)) => Some(*conv),
            _ => None,
        }
    };
    let mut differs = Vec::new();
    if let Some(stem) = conv("conv1") {
        if stem.kernel != 7 {
            differs.push(format!(
                "a {0}x{0} stem of stride {1} and no max pool",
                stem.kernel, stem.stride
            ));
        }
        if stem.out_channels != 64 {
            differs.push(format!("a stem of {} channels", stem.out_channels));
        }
    }
    if let Some(first) = conv("layer1.0.conv1")
        && first.out_channels != 64
    {
        differs.push(format!("stages of width {}", first.out_channels));
    }
    if conv("layer2.0.conv3").is_some() && conv("layer2.0.conv1").is_some_and(|c| c.stride == 2) {
        differs.push("strides in each block's first 1x1 convolution (style caffe)".into());
    }
    differs
}

/// A file in the making, under a temporary name beside its own. Without [`Out::write`], or if that
/// fails, nothing of it stays.
struct Out<'a> {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    stop: &'a AtomicBool,
}

impl<'a> Out<'a> {
    fn create(path: &Path, stop: &'a AtomicBool) -> Result<Self, Error> {
        let temporary = temporary_of(path);
        let file = File::create(&temporary).map_err(|error| {
            Error::input(format!(
                "--out {}: cannot be written ({error}); name a file in a folder that exists",
                path.display()
            ))
        })?;
        Ok(Out {
            path: path.to_path_buf(),
            temporary,
            file,
            stop,
        })
    }

    /// Writes the file, gives it its name and returns its number of bytes.
    fn write<F>(self, content: F) -> Result<u64, Error>
    where
        F: FnOnce(&mut BufWriter<&Self>) -> std::io::Result<()>,
    {
        let written = (|| {
            let mut buffered = BufWriter::with_capacity(1 << 18, &self);
            content(&mut buffered)?;
            buffered.flush()?;
            drop(buffered);
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.path)?;
            let folder = self.path.parent().filter(|p| *p != Path::new(""));
            sync_folder(folder.unwrap_or(Path::new(".")))?;
            Ok(self.file.metadata()?.len())
        })();
        written.map_err(|error: std::io::Error| {
            if self.stop.load(Ordering::Relaxed) {
                let file = self.path.display();
                return Error::Interrupted(format!("--out {file}: stopped; nothing was written"));
            }
            Error::run(format!(
                "{}: can't be written ({error}); {}",
                self.path.display(),
                cure(&self.path)
            ))
        })
    }
}

/// The file, until it should stop.
impl Write for &Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(std::io::Error::other("stopped")),
            false => (&self.file).write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        (&self.file).flush()
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        // After `write` there is no temporary any more, and an error here has nobody to hear it.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_stopped_or_abandoned_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pth");
        let stop = AtomicBool::new(false);
        let left = || fs::read_dir(folder.path()).unwrap().count();
        drop(Out::create(&path, &stop).unwrap());
        assert_eq!(left(), 0);
        let stopped = Out::create(&path, &stop).unwrap().write(|file| {
            file.write_all(&[1; 1 << 20])?;
            stop.store(true, Ordering::Relaxed);
            file.write_all(&[2; 1 << 20])
        });
        assert_eq!(stopped.unwrap_err().exit_code(), 130);
        assert_eq!(left(), 0);
        stop.store(false, Ordering::Relaxed);
        let written = Out::create(&path, &stop).unwrap();
        assert_eq!(written.write(|file| file.write_all(b"abc")), Ok(3));
        assert_eq!((left(), fs::read(&path).unwrap()), (1, b"abc".to_vec()));
    }
}
