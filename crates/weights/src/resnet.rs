//! A ResNet in a file: where its names begin, what it is, and which of them belong to which of
//! npid's.
//!
//! Every project that trains ResNets keeps torchvision's names and puts something before them:
//! `module.` (`DataParallel`), `state_dict.`, `backbone.` (MMSelfSup, npid), `module.encoder_q.`
//! (MoCo), `trunk._feature_blocks.` (VISSL). So what stands before is not looked up in a list, but
//! found: a ResNet is wherever a `conv1.weight` has a `layer1.0.conv1.weight` beside it.

use npid_network::resnet::Stem;

use crate::Tensor;
use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// The weight that every ResNet begins with.
const FIRST: &str = "conv1.weight";

/// Parts of a name that say that a network is a second one beside the one that is trained.
const SECOND: [&str; 11] = [
    "optimizer",
    "encoder_k",
    "momentum_encoder",
    "key_encoder",
    "teacher",
    "ema",
    "ema_model",
    "ema_state_dict",
    "target_net",
    "target_encoder",
    "target_network",
];

/// What a ResNet in a file is, as its names and shapes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// 18, 34, 50, 101 or 152.
    pub depth: usize,
    /// By the size of its first kernel.
    pub stem: Stem,
    /// Channels of the stem.
    pub stem_channels: usize,
    /// Channels of the first stage.
    pub base_channels: usize,
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stem = match self.stem {
            Stem::Cifar => "3x3",
            Stem::ImageNet => "7x7",
        };
        write!(
            f,
            "ResNet-{} with a {stem} stem and base_channels {}",
            self.depth, self.base_channels
        )?;
        if self.stem_channels != self.base_channels {
            write!(f, ", stem_channels {}", self.stem_channels)?;
        }
        Ok(())
    }
}

/// Which of a file's weights are which of the network's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// The network's name and the file's, in the network's order.
    pub loaded: Vec<(String, String)>,
    /// Names of the network that the file has nothing for.
    pub missing: Vec<String>,
    /// Names of the file that the network has no use for (batch norm's `num_batches_tracked`,
    /// which only counts, left out).
    pub unused: Vec<String>,
}

/// Where in the file the names of a ResNet begin: all that comes before `conv1.weight`.
///
/// `prefix`, if given, is the end of it, such as `backbone.` or `encoder_k.`. Without it the
/// network that was trained is taken: not MoCo's `encoder_k`, a teacher, or an optimiser's state.
///
/// # Errors
/// If there is no ResNet (in that place), or several and nothing says which.
pub fn prefix(file: &Checkpoint, prefix: Option<&str>) -> Result<String, Error> {
    let second = |name: &str| name.split('.').any(|part| SECOND.contains(&part));
    let found: Vec<&str> = (file.tensors())
        .filter_map(|(name, _)| name.strip_suffix(FIRST))
        .filter(|before| before.is_empty() || before.ends_with('.'))
        .filter(|before| file.shape(&format!("{before}layer1.0.{FIRST}")).is_some())
        .collect();
    if found.is_empty() {
        return Err(file.mismatch(nothing(file)));
    }
    let list = |all: &[&str]| {
        let shown: Vec<String> = all.iter().take(4).map(|p| format!("{p:?}")).collect();
        shown.join(", ")
    };
    let wanted: Vec<&str> = match prefix {
        None => found.clone(),
        Some(end) => {
            let end = match end {
                "" => String::new(),
                end => format!("{}.", end.trim_end_matches('.')),
            };
            let fits =
                |p: &&&str| **p == end || (p.ends_with(&format!(".{end}")) && !end.is_empty());
            found.iter().filter(fits).copied().collect()
        }
    };
    if wanted.is_empty() {
        return Err(file.mismatch(format!(
            "no ResNet under the prefix {:?}; there is one under {}",
            prefix.unwrap_or_default(),
            list(&found)
        )));
    }
    let first: Vec<&str> = wanted.iter().filter(|p| !second(p)).copied().collect();
    match (&first[..], &wanted[..]) {
        ([one], _) | ([], [one]) => Ok((*one).to_string()),
        (several, all) => {
            let all = if several.is_empty() { all } else { several };
            Err(file.mismatch(format!(
                "{} ResNets, under {}; say which with prefix",
                all.len(),
                list(all)
            )))
        }
    }
}

/// Why nothing can be loaded from a file without a ResNet.
fn nothing(file: &Checkpoint) -> String {
    let names: Vec<&str> = file.tensors().map(|(name, _)| name).take(3).collect();
    match (file.opaque(""), &names[..]) {
        (Some(class), []) => format!(
            "its object is a {class}, which isn't built here; save its state_dict in Python"
        ),
        (_, []) => "it holds no tensors".to_string(),
        (_, names) => format!(
            "no ResNet in it (nothing is called layer1.0.conv1.weight); its names are such as {}",
            names.join(", ")
        ),
    }
}

/// The file's name for a weight of a ResNet that begins with `prefix`: torchvision's, or one of
/// lemniscate's CIFAR network, which calls the downsampling of a block its `shortcut`.
fn name_in(file: &Checkpoint, prefix: &str, name: &str) -> Option<String> {
    let known = |name: &String| file.shape(name).is_some() || file.opaque(name).is_some();
    let as_it_is = Some(format!("{prefix}{name}"));
    let shortcut = format!("{prefix}{}", name.replace(".downsample.", ".shortcut."));
    as_it_is.filter(known).or(Some(shortcut).filter(known))
}

/// What the ResNet that begins with `prefix` is.
///
/// # Errors
/// If it is none of the five depths, or has another stem.
pub fn architecture(file: &Checkpoint, prefix: &str) -> Result<Architecture, Error> {
    let has = |name: &str| file.shape(&format!("{prefix}{name}")).is_some();
    let blocks = [1, 2, 3, 4].map(|stage| {
        (0..)
            .take_while(|block| has(&format!("layer{stage}.{block}.conv1.weight")))
            .count()
    });
    let depth = match (has("layer1.0.conv3.weight"), blocks) {
        (false, [2, 2, 2, 2]) => 18,
        (false, [3, 4, 6, 3]) => 34,
        (true, [3, 4, 6, 3]) => 50,
        (true, [3, 4, 23, 3]) => 101,
        (true, [3, 8, 36, 3]) => 152,
        (bottleneck, blocks) => {
            return Err(file.mismatch(format!(
                "a ResNet of {blocks:?} {} blocks; npid has ResNet-18, 34, 50, 101 and 152",
                if bottleneck { "bottleneck" } else { "basic" }
            )));
        }
    };
    let first = file.shape(&format!("{prefix}{FIRST}")).unwrap_or_default();
    let (stem, channels) = match first {
        [channels, 3, 3, 3] => (Stem::Cifar, *channels),
        [channels, 3, 7, 7] => (Stem::ImageNet, *channels),
        other => {
            return Err(file.mismatch(format!(
                "{prefix}{FIRST} is {other:?}; npid's stems are [C, 3, 7, 7] and [C, 3, 3, 3]"
            )));
        }
    };
    let stage = file.shape(&format!("{prefix}layer1.0.{FIRST}"));
    let base = stage.and_then(|shape| shape.first().copied());
    Ok(Architecture {
        depth,
        stem,
        stem_channels: channels as usize,
        base_channels: base.unwrap_or(channels) as usize,
    })
}

/// Finds the file's weight for each of `wanted`, names and shapes of a network whose backbone's
/// names begin with `backbone.`; `others` says which weights of the file, by their whole names,
/// stand for names that are not the backbone's.
///
/// # Errors
/// If a weight has another shape (naming both), if something that isn't a tensor stands in its
/// place, or if nothing is left to load.
pub fn matched<'a>(
    file: &Checkpoint,
    prefix: &str,
    wanted: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    others: &dyn Fn(&str) -> Option<String>,
) -> Result<Matched, Error> {
    let mut matched = Matched::default();
    for (name, shape) in wanted {
        let theirs = match name.strip_prefix("backbone.") {
            Some(rest) => name_in(file, prefix, rest),
            None => others(name).filter(|theirs| file.shape(theirs).is_some()),
        };
        let Some(theirs) = theirs else {
            matched.missing.push(name.to_string());
            continue;
        };
        if let Some(class) = file.opaque(&theirs) {
            return Err(file.mismatch(format!(
                "{theirs}: calls {class} where a tensor must stand; refused"
            )));
        }
        let found = file.shape(&theirs).unwrap_or_default();
        let same = found.len() == shape.len()
            && found
                .iter()
                .zip(shape)
                .all(|(&found, &own)| found == own as u64);
        if !same {
            let what = match architecture(file, prefix) {
                Ok(architecture) => format!("; the file holds a {architecture}"),
                Err(_) => String::new(),
            };
            return Err(file.mismatch(format!(
                "{theirs} is {found:?}, but the network's {name} is {shape:?}{what}"
            )));
        }
        matched.loaded.push((name.to_string(), theirs));
    }
    if matched.loaded.is_empty() {
        return Err(file.mismatch("none of its weights are the network's"));
    }
    let used: std::collections::HashSet<&str> = matched
        .loaded
        .iter()
        .map(|(_, theirs)| theirs.as_str())
        .collect();
    matched.unused = (file.tensors())
        .map(|(name, _)| name)
        .filter(|name| !used.contains(name) && !name.ends_with(".num_batches_tracked"))
        .map(String::from)
        .collect();
    Ok(matched)
}

impl Matched {
    /// Reads each weight in turn and hands it to `give` with the network's name.
    ///
    /// # Errors
    /// If one can't be read, or isn't finite; what `give` returns.
    pub fn load<E: From<Error>>(
        &self,
        file: &Checkpoint,
        give: &mut dyn FnMut(&str, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        for (name, theirs) in &self.loaded {
            let tensor = file.load(theirs)?;
            if let Some(bad) = tensor.data.iter().find(|value| !value.is_finite()) {
                let what = format!("{theirs} holds {bad}: the training that wrote it had failed");
                return Err(file.mismatch(what).into());
            }
            give(name, tensor)?;
        }
        Ok(())
    }

    /// One line: how many are loaded, missing and unused, with the first few names.
    pub fn summary(&self) -> String {
        let mut text = format!("{} weights loaded", self.loaded.len());
        for (what, names) in [("missing", &self.missing), ("unused", &self.unused)] {
            text += &format!(", {} {what}", names.len());
            if !names.is_empty() {
                let shown: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
                let more = match names.len().saturating_sub(3) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                text += &format!(" ({}{more})", shown.join(", "));
            }
        }
        text
    }
}
