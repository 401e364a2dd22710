//! What `npid train` is about to do, for people.

use npid_learn::derive::Choice;
use npid_learn::plan::Plan;

use crate::out::count;

/// Settings whose values are longer than this don't push the reasons aside.
const VALUE_WIDTH: usize = 26;

/// The plan, line by line. `derived` says that nobody chose the settings, so that each is shown
/// with its reason.
pub fn lines(plan: &Plan, derived: bool) -> Vec<String> {
    let mut lines = vec![collection(plan)];
    if derived {
        lines.push(
            "Settings derived from the pictures; --set KEY=VALUE changes one, and the others follow:"
                .to_string(),
        );
        lines.extend(settings(&plan.settings));
    }
    lines.push("What it takes:".to_string());
    let (total, parts) = time(plan);
    let rows = [
        ("network", network(plan)),
        (
            "engine",
            format!("{}, {}", plan.engine.device, plan.engine.dtype),
        ),
        ("memory", memory(plan)),
        ("disk", disk(plan)),
        ("time", total),
        ("", parts),
    ];
    lines.extend(rows.iter().map(|(name, text)| format!("  {name:9}{text}")));
    lines
}

fn collection(plan: &Plan) -> String {
    let collection = &plan.collection;
    let path = plan.config.data.path.as_ref();
    let name = path.map_or("built-in pictures".to_string(), |path| path.to_string());
    let size = collection.facts.as_ref().map_or(String::new(), |facts| {
        let grey = if facts.grey { ", grey" } else { "" };
        let all = facts.sampled == collection.images;
        let of = if all {
            String::new()
        } else {
            format!(" of {} looked at", facts.sampled)
        };
        format!(", {}x{} in the median{of}{grey}", facts.width, facts.height)
    });
    let classes = match collection.classes {
        0 => "no labels".to_string(),
        1 => "1 class".to_string(),
        n => format!("{n} classes"),
    };
    let asking = match collection.queries {
        0 => String::new(),
        n => format!("; {} in the kNN figure", asks(n)),
    };
    format!(
        "{name}: {}, {}{size}; {classes}{asking}",
        collection.kind,
        count(collection.images, "picture")
    )
}

fn asks(queries: usize) -> String {
    match queries {
        1 => "1 picture asks".to_string(),
        n => format!("{n} pictures ask"),
    }
}

/// Keys, values and reasons in columns. A key that goes on isn't repeated.
fn settings(choices: &[Choice]) -> Vec<String> {
    let key = choices
        .iter()
        .map(|c| c.key.chars().count())
        .max()
        .unwrap_or(0);
    let value = choices.iter().map(|c| c.value.chars().count());
    let value = value
        .filter(|&width| width <= VALUE_WIDTH)
        .max()
        .unwrap_or(0);
    let mut last = "";
    let mut lines = Vec::new();
    for choice in choices {
        let shown = if choice.key == last { "" } else { &choice.key };
        last = &choice.key;
        let line = format!("  {shown:key$}  {:value$}  {}", choice.value, choice.reason);
        lines.push(line.trim_end().to_string());
    }
    lines
}

fn network(plan: &Plan) -> String {
    let network = &plan.network;
    format!(
        "{}, {size}x{size} images: {} weights; {} an image, {} with its gradient",
        network.name,
        short(network.parameters as f64),
        operations(network.forward_flops),
        operations(network.step_flops),
        size = network.size,
    )
}

fn memory(plan: &Plan) -> String {
    let memory = &plan.memory;
    let rest = memory.total.saturating_sub(memory.engine);
    format!(
        "{}: activations {}, weights and gradients {}, optimiser {}, bank {}; pictures and copies {}",
        bytes(memory.total),
        bytes(memory.activations),
        bytes(memory.weights),
        bytes(memory.optimizer),
        bytes(memory.bank),
        bytes(rest),
    )
}

fn disk(plan: &Plan) -> String {
    let disk = &plan.disk;
    let bank = match disk.bank {
        0 => String::new(),
        bank => format!("; memory bank {}", bytes(bank)),
    };
    format!(
        "{}: {} of {}{bank}",
        bytes(disk.total),
        count(disk.kept, "checkpoint"),
        bytes(disk.checkpoint)
    )
}

/// The time in all, and what it is made of.
fn time(plan: &Plan) -> (String, String) {
    let time = &plan.time;
    let batch = plan.config.data.batch_size.min(plan.collection.images);
    let inferred = if time.timed_images < batch {
        format!(" (by a part of {})", count(time.timed_images, "image"))
    } else {
        String::new()
    };
    let loading = match time.loading.round() {
        0.0 => String::new(),
        percent => format!(", {percent:.0} % of the time to read pictures"),
    };
    let figures = match time.evaluations {
        0 => String::new(),
        n => format!(
            ", {} for {}",
            about(time.evaluation_s * f64::from(n)),
            count(n as usize, "kNN figure")
        ),
    };
    let total = format!(
        "about {}: {} of {}, {} before the first{figures}",
        about(time.total_s),
        count(time.epochs as usize, "epoch"),
        about(time.epoch_s),
        about(time.before_s),
    );
    let parts = format!(
        "{} an epoch, {} each{inferred}; {:.0} images/s{loading}",
        count(time.steps_per_epoch as usize, "step"),
        about(time.step_s),
        time.images_per_s,
    );
    (total, parts)
}

/// An estimate of a duration, in two digits or so: `31 ms`, `4.2 s`, `80 s`, `12 minutes`,
/// `3.4 hours`, `2.1 days`.
fn about(seconds: f64) -> String {
    match seconds {
        s if s < 0.0995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 99.5 * 60.0 => format!("{:.0} minutes", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} hours", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

/// `950`, `2.8 million`.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1} million", n / 1e6),
        n if n >= 1e3 => format!("{:.0} thousand", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// `0.56 GFLOP`, `12 MFLOP`.
fn operations(flops: f64) -> String {
    match flops {
        f if f >= 9.95e9 => format!("{:.0} GFLOP", f / 1e9),
        f if f >= 0.1e9 => format!("{:.1} GFLOP", f / 1e9),
        f => format!("{:.0} MFLOP", f / 1e6),
    }
}

/// `13 MB`, `1.2 GB`.
fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 9.5e6 => format!("{:.0} MB", b / 1e6),
        b if b >= 0.1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.0} kB", (b / 1e3).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_for_people() {
        let times = [0.0312, 4.21, 79.6, 727.0, 12_240.0, 181_440.0];
        assert_eq!(
            times.map(about),
            [
                "31 ms",
                "4.2 s",
                "80 s",
                "12 minutes",
                "3.4 hours",
                "2.1 days"
            ]
        );
        let sizes = [900, 1_234_567, 12_345_678, 1_234_567_890];
        assert_eq!(sizes.map(bytes), ["1 kB", "1.2 MB", "12 MB", "1.2 GB"]);
        assert_eq!(
            [950.0, 45_120.0, 2.8e6].map(short),
            ["950", "45 thousand", "2.8 million"]
        );
        assert_eq!(
            [12e6, 0.56e9, 24.6e9].map(operations),
            ["12 MFLOP", "0.6 GFLOP", "25 GFLOP"]
        );
    }

    #[test]
    fn a_key_that_goes_on_is_not_repeated() {
        let choice = |key: &str, value: &str| Choice {
            key: key.to_string(),
            value: value.to_string(),
            reason: "why".to_string(),
            given: false,
        };
        let long = "a value that is longer than the column for values is";
        let shown = settings(&[
            choice("a.b", "1"),
            choice("c", "22"),
            choice("c", "x"),
            choice("d", long),
        ]);
        let expected = [
            "  a.b  1   why".to_string(),
            "  c    22  why".to_string(),
            "       x   why".to_string(),
            format!("  d    {long}  why"),
        ];
        assert_eq!(shown, expected);
    }
}
