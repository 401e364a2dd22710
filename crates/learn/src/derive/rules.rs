//! The rules. Constants that are neither the paper's nor MMSelfSup's are judgement; where one was
//! tried, a comment says on what.

use npid_data::augment::{
    ColorJitter, Extent, Interpolation, JitterRange, Normalize, RandomGrayscale,
    RandomHorizontalFlip, RandomResizedCrop, Transform,
};
use npid_network::graph::Network;
use npid_network::neck::{self, Layers, Neck};
use npid_network::resnet::{ResNet, Stem};
use toml::Value;

use super::choice::Chooser;
use super::{Choice, Facts};
use crate::config::Config;
use crate::config::load::load;
use crate::error::Error;
use crate::recipes::Recipe;

/// A configuration and where its values come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// The configuration; `data.path` is left open.
    pub config: Config,
    /// Its settings, in the order in which a person would ask for them.
    pub choices: Vec<Choice>,
}

/// D, the dimension of the features.
const FEAT_DIM: usize = 128;

/// Floating-point operations a second that a core is taken for when sizes are weighed; what it
/// really does is measured afterwards.
const CORE_FLOPS: f64 = 50e9;

/// At most this many pictures are compared with all others; beyond, that would cost as much as the
/// network.
const EXACT: usize = 200_000;

/// K where negatives are sampled: rows gathered from all over the memory, so fewer than
/// MMSelfSup's 65,536, which are made for GPUs.
const NEGATIVES: usize = 16_384;

/// Channels of the first stage in weights that others publish.
const PUBLISHED: usize = 64;

/// The longest side of a picture that gets the CIFAR stem.
const SMALL: usize = 48;

/// A network and the size of its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rung {
    stem: Stem,
    depth: usize,
    width: usize,
    size: usize,
}

impl Rung {
    /// Floating-point operations of a training step for one picture: three times the forward ones.
    ///
    /// # Errors
    /// For a depth, width or size that makes no network.
    fn cost(self) -> Result<f64, npid_network::Error> {
        let mut network = Network::new();
        let x = network.input(&[0.5; 3], &[0.25; 3])?;
        let resnet = ResNet::new(self.depth, self.stem, self.width);
        let map = resnet.build(&mut network, x, "backbone.")?;
        let linear = Neck {
            layers: Layers::Linear,
            out_channels: FEAT_DIM,
            with_avg_pool: true,
            norm: true,
        };
        neck::embed(&mut network, map, Some(&linear))?;
        Ok(6.0 * network.multiplications(self.size, self.size)? as f64)
    }
}

/// Seconds of computing that a collection of `images` is worth: seven minutes for 200 pictures,
/// an hour for 8,000, a day for a million and a half.
fn budget(images: usize) -> f64 {
    (420.0 * (images as f64 / 200.0).powf(0.6)).clamp(120.0, 100_000.0)
}

/// Epochs that a collection of `images` needs at least: small ones are seen more often. 200 for
/// 200 pictures, 60 for 10,000, 14 for a million.
fn wanted_epochs(images: usize) -> f64 {
    (200.0 * (images as f64 / 200.0).powf(-0.3)).clamp(10.0, 400.0)
}

/// B. Steps are what small collections are short of.
fn batch_size(images: usize) -> usize {
    let rule = match images {
        0..1_000 => 16,
        1_000..5_000 => 32,
        5_000..20_000 => 64,
        20_000..200_000 => 128,
        _ => 256,
    };
    // A batch norm needs others to compare with, and the last batch shouldn't be a rest.
    rule.min((images / 2).max(2)).min(images.max(1))
}

/// Derives the settings for a collection on a machine of `cores` cores. `sets` are the `--set`
/// flags, which come first.
///
/// # Errors
/// One line that names the `--set` that can't be used.
pub fn derive(facts: &Facts, cores: usize, sets: &[String]) -> Result<Derived, Error> {
    let mut chooser = Chooser::new(sets)?;
    let n = facts.images;

    let (rung, cost) = network(facts, cores, &mut chooser);
    let batch = batch_size(n);
    let reason = match (n, batch) {
        (_, 256) => "MMSelfSup's batch for ImageNet".to_string(),
        _ => {
            let steps = n.div_ceil(batch.max(1));
            format!("small, for enough steps: {steps} an epoch")
        }
    };
    let batch = chooser.number("data.batch_size", batch, reason);
    epochs(facts, cores, cost, &mut chooser);
    learning_rate(n, batch, &mut chooser);
    head(n, &mut chooser);
    pipeline(facts, rung.size, &mut chooser)?;
    evaluation(facts, &mut chooser);

    for (key, value) in [
        ("model.type", "NPID"),
        ("model.neck.type", "LinearNeck"),
        ("model.memory_bank.type", "SimpleMemory"),
        ("optimizer.type", "SGD"),
        ("lr_config.policy", "CosineAnnealing"),
        ("model.backbone.init_cfg", "PyTorch"),
    ] {
        chooser.quietly(key, value);
    }
    chooser.quietly("model.neck.out_channels", FEAT_DIM as i64);
    chooser.quietly("model.memory_bank.momentum", 0.5);
    chooser.quietly("optimizer.momentum", 0.9);
    chooser.quietly("lr_config.by_epoch", false);

    let (text, choices) = chooser.finish();
    let recipe = Recipe {
        name: "derived from the pictures".to_string(),
        path: None,
        text,
        ..Recipe::default()
    };
    // The flags again: load names the one that is wrong.
    let config = load(&recipe, sets)?;
    Ok(Derived { config, choices })
}

/// The networks to choose from, the cheapest first.
fn rungs(facts: &Facts, stem: Stem) -> Vec<Rung> {
    let rung = |depth, width, size| Rung {
        stem,
        depth,
        width,
        size,
    };
    match stem {
        Stem::Cifar => {
            let size = facts.shorter.clamp(16, SMALL).next_multiple_of(4);
            [8, 16, 24, 32, 48, 64].map(|w| rung(18, w, size)).into()
        }
        Stem::ImageNet => {
            let all = [
                rung(18, 16, 64),
                rung(18, 32, 64),
                rung(18, 32, 96),
                rung(18, 32, 128),
                rung(18, 48, 128),
                rung(18, 64, 128),
                rung(18, 64, 160),
                rung(18, 64, 224),
                rung(50, 64, 224),
            ];
            // Larger networks want more pictures, and nothing is gained by enlarging these.
            let most = match facts.images {
                0..2_000 => 6,
                2_000..20_000 => 7,
                20_000..200_000 => 8,
                _ => 9,
            };
            let fits = |rung: &&Rung| rung.size <= 64 || rung.size * 7 <= facts.shorter * 8;
            all[..most].iter().filter(fits).copied().collect()
        }
    }
}

/// Chooses the network and the size of its images: the largest that sees every picture as often as
/// it should within the budget. Returns it with its cost.
fn network(facts: &Facts, cores: usize, chooser: &mut Chooser) -> (Rung, f64) {
    let whole = |value: Option<&Value>| {
        let number = value.and_then(Value::as_integer);
        number
            .and_then(|n| usize::try_from(n).ok())
            .filter(|&n| n > 0)
    };
    let given_size = whole(chooser.given("data.size"));
    let stem = match chooser.given("model.backbone.type").and_then(Value::as_str) {
        Some("ResNet") => Stem::ImageNet,
        Some("ResNet_CIFAR") => Stem::Cifar,
        _ if pretrained(chooser) => Stem::ImageNet,
        _ if given_size.unwrap_or(facts.shorter) <= SMALL => Stem::Cifar,
        _ => Stem::ImageNet,
    };
    let depth = whole(chooser.given("model.backbone.depth"));
    let pretrained = pretrained(chooser);
    let width = whole(chooser.given("model.backbone.base_channels"));
    let width = width.or(pretrained.then_some(PUBLISHED));
    let wanted = whole(chooser.given("runner.max_epochs"));
    let wanted = wanted.map_or(wanted_epochs(facts.images), |epochs| epochs as f64);
    let mut best = None;
    for mut rung in rungs(facts, stem) {
        rung.size = given_size.unwrap_or(rung.size);
        rung.depth = depth.unwrap_or(rung.depth);
        rung.width = width.unwrap_or(rung.width);
        // What makes no network is refused when the configuration is read.
        let cost = rung.cost().unwrap_or(1.0);
        if best.is_none() || possible_epochs(facts.images, cores, cost) >= wanted {
            best = Some((rung, cost));
        }
    }
    let first = Rung {
        stem,
        depth: 18,
        width: 16,
        size: 64,
    };
    let (rung, cost) = best.unwrap_or((first, 1.0));

    reasons(facts, cores, rung, cost, chooser);
    (rung, cost)
}

/// Whether `--set` names a file of weights for the backbone.
fn pretrained(chooser: &Chooser) -> bool {
    let kind = chooser.given("model.backbone.init_cfg");
    let kind = kind.and_then(|init| init.get("type").or(Some(init)));
    kind.and_then(Value::as_str) == Some("Pretrained")
}

/// Says why the network is as it is, and sets it.
fn reasons(facts: &Facts, cores: usize, rung: Rung, cost: f64, chooser: &mut Chooser) {
    let cores = match cores {
        1 => "1 core".to_string(),
        n => format!("{n} cores"),
    };
    let pictures = match (facts.width, facts.height) {
        (w, h) if w == h => format!("pictures are {w}x{h}"),
        (w, h) => format!("pictures are {w}x{h} in the median"),
    };
    let last = rungs(facts, rung.stem).last().copied();
    let size = match rung.stem {
        Stem::Cifar => pictures,
        Stem::ImageNet if last.is_some_and(|last| last.size == rung.size) => {
            format!("{pictures}; more gains little at {}", facts.images)
        }
        Stem::ImageNet => format!("{pictures}; more takes {cores} too long"),
    };
    chooser.set("data.size", rung.size as i64, size);
    let (name, reason) = match rung.stem {
        Stem::Cifar => (
            "ResNet_CIFAR",
            "a stem that keeps the size of small pictures",
        ),
        Stem::ImageNet if pretrained(chooser) => ("ResNet", "the stem of published weights"),
        Stem::ImageNet => ("ResNet", "the usual stem, which quarters the sides"),
    };
    chooser.set("model.backbone.type", name, reason);
    let reason = match rung.depth {
        18 => "deeper networks take longer until they learn anything",
        _ => "pictures and cores are enough for a deep one",
    };
    chooser.set("model.backbone.depth", rung.depth as i64, reason);
    let operations = operations(cost);
    let width = match last {
        _ if pretrained(chooser) => "the width of published weights".to_string(),
        Some(last) if last == rung => {
            format!("wider gains little; {operations} a picture and step")
        }
        _ => format!("what {cores} can do in time: {operations} a picture and step"),
    };
    chooser.set("model.backbone.base_channels", rung.width as i64, width);
}

/// How often every picture can be seen within the budget.
fn possible_epochs(images: usize, cores: usize, cost: f64) -> f64 {
    let exact = 4.0 * images.min(EXACT) as f64 * FEAT_DIM as f64;
    budget(images) * cores as f64 * CORE_FLOPS / (images.max(1) as f64 * (cost + exact))
}

/// `1.2 GFLOP`, `80 MFLOP`.
fn operations(flops: f64) -> String {
    match flops {
        f if f >= 9.95e9 => format!("{:.0} GFLOP", f / 1e9),
        f if f >= 0.1e9 => format!("{:.1} GFLOP", f / 1e9),
        f => format!("{:.0} MFLOP", f / 1e6),
    }
}

fn epochs(facts: &Facts, cores: usize, cost: f64, chooser: &mut Chooser) {
    let n = facts.images;
    let wanted = wanted_epochs(n);
    let possible = possible_epochs(n, cores, cost);
    let epochs = two_digits(possible.clamp(wanted / 2.0, wanted * 1.5));
    let reason = if possible < wanted {
        format!("as few as {n} pictures should have; more takes long")
    } else {
        format!("{n} pictures: the fewer, the more often each is seen")
    };
    let epochs = chooser.number("runner.max_epochs", epochs, reason);
    // A figure costs about as much as an epoch of small pictures.
    chooser.quietly("evaluation.interval", (epochs / 10).max(1) as i64);
    chooser.quietly("checkpoint.interval", (epochs / 20).max(1) as i64);
}

/// Two significant digits.
fn two_digits(value: f64) -> usize {
    let scale = 10f64.powf(value.max(1.0).log10().floor() - 1.0).max(1.0);
    ((value / scale).round() * scale).max(1.0) as usize
}

fn learning_rate(n: usize, batch: usize, chooser: &mut Chooser) {
    let (rate, at, whose) = match n {
        0..5_000 => (0.1, 32.0, "as for the patterns"),
        5_000..200_000 => (0.03, 128.0, "the paper's for CIFAR-10"),
        _ => (0.03, 256.0, "the paper's for ImageNet"),
    };
    let lr = rate * batch as f64 / at;
    let reason = if batch as f64 == at {
        format!("{rate} for batches of {at}, {whose}")
    } else {
        format!("{rate} for batches of {at} ({whose}), in proportion")
    };
    chooser.set("optimizer.lr", rounded(lr), reason);
    let decay = if n < EXACT { 5e-4 } else { 1e-4 };
    chooser.quietly("optimizer.weight_decay", decay);
}

/// Four significant digits, without the noise of binary fractions.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn head(n: usize, chooser: &mut Chooser) {
    if n <= EXACT {
        chooser.set(
            "model.head.type",
            "SoftmaxHead",
            format!("exact softmax: comparing with all {n} costs little"),
        );
    } else {
        chooser.set(
            "model.head.type",
            "ContrastiveHead",
            format!("sampled negatives: comparing with all {n} costs much"),
        );
        chooser.set(
            "model.neg_num",
            NEGATIVES as i64,
            "negatives for each picture, drawn in every step",
        );
    }
    // Tried on 500 pictures of CIFAR-10 (width 8, 100 epochs of batches of 32, lr 0.1, one seed): kNN
    // top-1 32.4 % at 0.1 and 29.8 % at 0.5, where pixels have 35.2 % and the untrained network 17.1 %.
    // (The built-in patterns want 0.5 instead; photographs are nearer to CIFAR's.)
    let (tau, reason) = match n {
        0..5_000 => (0.2, "softer than the paper's, which is for more pictures"),
        _ if n <= EXACT => (0.1, "the paper's for CIFAR-10"),
        _ => (0.07, "the paper's for ImageNet"),
    };
    chooser.set("model.head.temperature", tau, reason);
    chooser.set(
        "model.memory_bank.init",
        "features",
        "the untrained network's features: saves the first epochs",
    );
    chooser.set(
        "model.neck.norm",
        true,
        "a batch norm before the L2 norm: the same",
    );
}

fn pipeline(facts: &Facts, size: usize, chooser: &mut Chooser) -> Result<(), Error> {
    const KEY: &str = "data.pipeline";
    if let Some(given) = chooser.given(KEY).cloned() {
        chooser.set(KEY, given, "");
        return Ok(());
    }
    let crop = Transform::RandomResizedCrop(RandomResizedCrop {
        size: Extent::Square(size),
        scale: [0.2, 1.0],
        ratio: [3.0 / 4.0, 4.0 / 3.0],
        interpolation: Interpolation::Bilinear,
    });
    let around = JitterRange::Around;
    let colours = |v, hue| {
        Transform::ColorJitter(ColorJitter {
            brightness: around(0.4),
            contrast: around(0.4),
            saturation: around(v),
            hue: around(hue),
        })
    };
    let mut steps = vec![(crop, "a part of the picture is still that picture")];
    if facts.grey {
        steps.push((colours(0.0, 0.0), "so is one in other light"));
    } else {
        steps.push((colours(0.4, 0.1), "so is one in other light"));
        steps.push((
            Transform::RandomGrayscale(RandomGrayscale { p: 0.2 }),
            "or without its colours",
        ));
    }
    let writing = facts.grey && facts.shorter <= SMALL;
    if !writing {
        steps.push((
            Transform::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 }),
            "or mirrored; leave it out where sides matter, as in writing",
        ));
    }
    let three = |v: f64| ((v * 1000.0).round() / 1000.0) as f32;
    steps.push((
        Transform::Normalize(Normalize {
            mean: facts.mean.map(three),
            // A collection of a single colour would be divided by nothing.
            std: facts.std.map(|v| three(v.max(0.02))),
        }),
        "",
    ));
    let measured = format!("mean and deviation of {} pictures", facts.sampled);
    let mut list = Vec::new();
    for (step, reason) in &steps {
        let value = Value::try_from(step).map_err(|error| Error::run(format!("{KEY}: {error}")))?;
        let reason = match *reason {
            "" => measured.as_str(),
            reason => reason,
        };
        chooser.note(KEY, summary(step), reason);
        list.push(value);
    }
    if writing {
        chooser.note(
            KEY,
            "no flip".into(),
            "small grey pictures are often writing",
        );
    }
    chooser.quietly(KEY, Value::Array(list));
    Ok(())
}

/// A transform in a few words.
fn summary(step: &Transform) -> String {
    let name = step.name();
    match step {
        Transform::RandomResizedCrop(crop) => {
            format!("{name} {} to {}", crop.scale[0], crop.scale[1])
        }
        Transform::RandomGrayscale(grey) => format!("{name} {}", grey.p),
        _ => name.to_string(),
    }
}

fn evaluation(facts: &Facts, chooser: &mut Chooser) {
    if facts.classes < 2 || facts.voters == 0 {
        return;
    }
    let each = facts.voters / facts.classes;
    let k = (each / 2).clamp(1, 200);
    let reason = match k {
        200 => "neighbours that vote in the kNN figure, as in the paper".to_string(),
        _ => format!("neighbours that vote: half of a class, which has {each}"),
    };
    chooser.set("evaluation.k", k as i64, reason);
}
