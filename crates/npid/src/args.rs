//! The command line: what can be typed, and nothing else.

mod tools;

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use npid_learn::checkpoint::Choice;
use npid_network::method::RowType;

pub use tools::{Completions, DataSet, Doctor, Fetch, Man};

/// The most threads that can be asked for.
const MAX_THREADS: usize = npid_learn::config::MAX_WORKERS;

/// Learns image features without labels (non-parametric instance discrimination), measures them
/// and writes them out.
#[derive(Debug, Parser)]
#[command(name = "npid", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on your pictures; on built-in ones with nothing given.
    Train(Train),
    /// Measure the features of a run.
    #[command(subcommand)]
    Eval(Eval),
    /// Write the feature of every picture of a collection.
    Embed(Embed),
    /// Write a run's network for other programs: PyTorch, safetensors or ONNX.
    Export(Export),
    /// Make a run of somebody else's weights: lemniscate's, MMSelfSup's, torchvision's, MoCo's.
    Import(Import),
    /// Look at collections of pictures.
    #[command(subcommand)]
    Data(Data),
    /// Time the engines.
    #[command(subcommand)]
    Bench(Bench),
    /// Look at this machine: what it has, whether the engines work on it, and how fast.
    Doctor(Doctor),
    /// Print a shell's completions of npid's commands and flags.
    Completions(Completions),
    /// Print npid's manual page, or write one for every command.
    Man(Man),
}

/// Flags of `npid train`.
#[derive(Debug, Args)]
pub struct Train {
    /// Name of a recipe, a TOML file, or MMSelfSup's Python configuration [default: settings
    /// derived from --data, else `patterns`]
    pub recipe: Option<String>,
    /// Pictures to train on: a folder (sub-folders are classes, or none), a list file, a parquet
    /// file or a folder of them, tar shards, CIFAR, STL-10 or IDX files; may be repeated
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Labelled pictures that ask in the kNN figure [default: what --data holds for it, such as
    /// val/ beside train/, else some of the training pictures]; may be repeated
    #[arg(long, value_name = "PATH")]
    pub val: Vec<PathBuf>,
    /// The run's folder; a taken name gets a number [default: runs/RECIPE, or runs/ and the name of
    /// --data]
    #[arg(long, alias = "work-dir", value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this folder, by the configuration saved there; --data and --val say
    /// where its pictures are now, or which it has from now on
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recipe", "out", "set"])]
    pub resume: Option<PathBuf>,
    /// With --resume: train to N epochs in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: Option<u32>,
    /// Set a key of the recipe, such as optimizer.lr=0.1 or seed=1; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Say what would be done and how long it would take; write nothing
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    /// Stop at the first picture that can't be read, instead of skipping and listing it
    #[arg(long)]
    pub strict: bool,
    /// Threads that load pictures, ahead of the step [default: npid chooses]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub workers: Option<usize>,
    /// List the embedded recipes and exit
    #[arg(long)]
    pub list_recipes: bool,
    /// Print the configuration with every key, as TOML, and exit
    #[arg(long, conflicts_with = "resume")]
    pub print_config: bool,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub activations: Activations,
    #[command(flatten)]
    pub output: Output,
}

/// What computes.
#[derive(Debug, Args)]
pub struct Machine {
    /// What computes; auto takes the cpu engine
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads that compute; never changes a result [default: all cores]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<usize>,
}

/// What the network computes in.
#[derive(Debug, Args)]
pub struct Activations {
    /// Type of the activations: auto takes what the recipe or run says, else bf16 where the CPU has
    /// instructions for it, else f32
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
}

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best that works here.
    Auto,
    /// The cpu engine.
    Cpu,
    /// The reference engine: slow, plain loops on one thread.
    Reference,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// What suits the device best.
    Auto,
    /// 32-bit floating point.
    F32,
    /// Its upper 16 bits, in half the memory; sums and weights stay f32.
    Bf16,
}

impl Dtype {
    /// The type, if one was chosen.
    pub fn chosen(self) -> Option<npid_engine::Dtype> {
        match self {
            Dtype::Auto => None,
            Dtype::F32 => Some(npid_engine::Dtype::F32),
            Dtype::Bf16 => Some(npid_engine::Dtype::Bf16),
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Print the result as one JSON object, on the last line of standard output
    #[arg(long)]
    pub json: bool,
}

/// `npid eval`.
#[derive(Debug, Subcommand)]
pub enum Eval {
    /// Let the nearest training pictures vote for each query's class.
    Knn(Knn),
}

/// Flags of `npid eval knn`.
#[derive(Debug, Args)]
pub struct Knn {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Which checkpoint: last, best (by its kNN figure), or a name such as step-00000120
    #[arg(long, value_name = "NAME", default_value = "last")]
    pub checkpoint: Choice,
    /// Labelled pictures that ask, as --data of train [default: the run's own]
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Neighbours that vote [default: the run's evaluation.k]
    #[arg(short, long, value_name = "K", value_parser = at_least_one)]
    pub k: Option<usize>,
    /// Temperature of the votes exp(similarity / T) [default: the run's evaluation.temperature]
    #[arg(long, value_name = "T", value_parser = above_zero)]
    pub temperature: Option<f64>,
    /// Threads that load pictures [default: npid chooses]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub workers: Option<usize>,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub activations: Activations,
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `npid embed`.
#[derive(Debug, Args)]
pub struct Embed {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Which checkpoint: last, best (by its kNN figure), or a name such as step-00000120
    #[arg(long, value_name = "NAME", default_value = "last")]
    pub checkpoint: Choice,
    /// Pictures to embed, as --data of train [default: the run's own, those that it trained on and
    /// those that ask in its kNN figure]
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Where to write the features, N x D; FILE.parquet beside it says which row is which picture
    #[arg(long, value_name = "FILE.npy")]
    pub out: PathBuf,
    /// Threads that load pictures [default: npid chooses]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub workers: Option<usize>,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub activations: Activations,
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `npid export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// The file to write: weights as .safetensors or .pth (PyTorch), or a model as .onnx
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Which checkpoint: last, best (by its kNN figure), or a name such as step-00000120
    #[arg(long, value_name = "NAME", default_value = "last")]
    pub checkpoint: Choice,
    /// How much of the network [default: backbone of weights, embedding of a model]
    #[arg(long, value_enum)]
    pub what: Option<WhatArg>,
    /// Whose names the weights have [default: torchvision]
    #[arg(long, value_enum)]
    pub names: Option<NamesArg>,
    #[command(flatten)]
    pub output: Output,
}

/// Flags of `npid import`.
#[derive(Debug, Args)]
pub struct Import {
    /// A .pth or safetensors file
    pub file: PathBuf,
    /// The pictures it was trained on, in the same order, as --data of train; of a network without
    /// a memory bank, any
    #[arg(long, value_name = "PATH", required = true)]
    pub data: Vec<PathBuf>,
    /// Labelled pictures that ask in the kNN figure, as --val of train
    #[arg(long, value_name = "PATH")]
    pub val: Vec<PathBuf>,
    /// The run's folder; a taken name gets a number [default: runs/FILE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Recipe, or TOML file, of the settings that the file doesn't hold [default: the nearest]
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// What stands before the network's names in the file, such as encoder_k. [default: found]
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Set a key of the recipe, such as data.size=96; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Threads that load pictures [default: npid chooses]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub workers: Option<usize>,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub activations: Activations,
    #[command(flatten)]
    pub output: Output,
}

/// `--what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhatArg {
    /// The backbone; a model's output is the mean over its last map (`pooled`, N x C).
    Backbone,
    /// Backbone and neck; a model's output is what npid embed writes (`feature`, N x D, length 1).
    Embedding,
    /// Of a model: the backbone's last map (`map`, N x C x H x W).
    Map,
}

/// `--names`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamesArg {
    /// conv1.weight; a neck's are neck.fc.weight and so on. timm's are the same.
    Torchvision,
    /// backbone.conv1.weight, neck.fc.weight; in a .pth file under the key state_dict.
    Mmselfsup,
}

/// `npid data`.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Show what npid finds at a path.
    Inspect {
        /// What could be given with --data; several are one collection
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Write the built-in pictures as PNG files, DIR/train and DIR/val.
    Patterns {
        /// A new or empty folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Download a data set from its home page, check it and unpack it.
    Fetch(Fetch),
}

/// `npid bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A training step: ResNet, linear layer, exact softmax over the bank, SGD, bank update.
    Step(Step),
    /// The memory bank's part of a step alone: loss, feature gradient, update.
    Bank(BankArgs),
    /// A training step operation by operation, beside what the machine can do at most.
    Ops(Ops),
}

/// Flags of `npid bench ops`.
#[derive(Debug, Args)]
pub struct Ops {
    /// Only operations with this in their name, their layers' names or their shape, such as
    /// gradient, layer2.0, or 3x3/2
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub step: Step,
}

/// Flags of `npid bench bank`.
#[derive(Debug, Args)]
pub struct BankArgs {
    /// Rows of the memory bank
    #[arg(long, default_value_t = 1_281_167, value_parser = at_least_one)]
    pub rows: usize,
    /// Dimension of the features
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub dim: usize,
    /// Images of a step
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    pub batch: usize,
    /// Negatives of an image; exact softmax has none
    #[arg(long, default_value_t = 65_536, value_parser = at_least_one)]
    pub neg_num: usize,
    /// What compares features with rows
    #[arg(long, value_enum, default_value_t = HeadArg::Contrastive)]
    pub head: HeadArg,
    /// How rows are stored
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = row_type())]
    pub dtype: RowType,
    /// Steps that are timed
    #[arg(long, default_value_t = 7, value_parser = at_least_one)]
    pub steps: usize,
    /// Steps before those
    #[arg(long, default_value_t = 2)]
    pub warmup: usize,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub output: Output,
}

/// `f32`, `bf16` or `f16`.
fn row_type() -> impl TypedValueParser<Value = RowType> {
    let values = RowType::NAMED.map(|(name, dtype)| {
        PossibleValue::new(name).help(match dtype {
            RowType::F32 => "32 bits",
            RowType::Bf16 => "16 bits, 8 of them significant",
            RowType::F16 => "16 bits, 11 of them significant",
        })
    });
    // Anything else doesn't get past the possible values.
    PossibleValuesParser::new(values).map(|name| RowType::named(&name).unwrap_or_default())
}

/// `--head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadArg {
    /// Cross entropy of the own row against sampled ones.
    Contrastive,
    /// Noise-contrastive estimation against sampled ones.
    Nce,
    /// Exact softmax over all rows.
    Softmax,
}

impl HeadArg {
    /// As it is given.
    pub fn name(self) -> &'static str {
        match self {
            HeadArg::Contrastive => "contrastive",
            HeadArg::Nce => "nce",
            HeadArg::Softmax => "softmax",
        }
    }
}

/// Flags of `npid bench step`.
#[derive(Debug, Args)]
pub struct Step {
    /// Depth of the ResNet: 18, 34, 50, 101 or 152
    #[arg(long, default_value_t = 18)]
    pub depth: usize,
    /// First layers of the ResNet
    #[arg(long, value_enum, default_value_t = StemArg::Cifar)]
    pub stem: StemArg,
    /// Channels of the first stage
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub width: usize,
    /// Images of a step
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub batch: usize,
    /// Height and width of the images
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    pub size: usize,
    /// Rows of the memory bank
    #[arg(long, default_value_t = 50_000, value_parser = at_least_one)]
    pub bank: usize,
    /// Dimension of the features
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub dim: usize,
    /// Steps that are timed
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pub steps: usize,
    /// Steps before those
    #[arg(long, default_value_t = 3)]
    pub warmup: usize,
    /// Forward pass only, in evaluation mode
    #[arg(long)]
    pub eval: bool,
    #[command(flatten)]
    pub machine: Machine,
    #[command(flatten)]
    pub activations: Activations,
    #[command(flatten)]
    pub output: Output,
}

/// `--stem`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StemArg {
    /// 3x3, stride 1.
    Cifar,
    /// 7x7, stride 2, then a max pool.
    Imagenet,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_string()),
        Ok(n) => Ok(n),
        Err(_) => Err("it must be a whole number, at least 1".to_string()),
    }
}

/// A number of threads. Far more than there are cores only wait for each other, and a mistyped
/// number would take minutes to start them.
fn thread_count(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        n if n > MAX_THREADS => Err(format!("it must be at most {MAX_THREADS}")),
        n => Ok(n),
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (x as f32) > 0.0 && (x as f32).is_finite() => Ok(x),
        _ => Err("it must be a finite number above 0".to_string()),
    }
}

/// Parses the command line; `None` where it asked for help or the version, which is printed.
///
/// # Errors
/// One line for a usage error.
pub fn parse() -> Result<Option<Command>, String> {
    match Cli::try_parse() {
        Ok(cli) => Ok(Some(cli.command)),
        Err(error) if error.use_stderr() => Err(one_line(&error.render().to_string())),
        Err(help) => {
            say!("{}", help.render().to_string().trim_end());
            Ok(None)
        }
    }
}

/// clap's message without its usage section, on one line.
fn one_line(rendered: &str) -> String {
    let paragraphs: Vec<String> = (rendered.split("\n\n"))
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|p| !p.is_empty() && !p.starts_with("Usage:") && !p.starts_with("For more"))
        .collect();
    let message = paragraphs.join("; ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    // Without a command clap answers with the whole help.
    if rendered.contains("\nCommands:") {
        let usage = rendered
            .lines()
            .find_map(|line| line.strip_prefix("Usage: "));
        let usage = usage.unwrap_or("npid <COMMAND>");
        let commands: Vec<&str> = (rendered.lines())
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .map_while(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .collect();
        return format!("no command; {usage} is one of {}", commands.join(", "));
    }
    format!("{message}; try --help")
}
