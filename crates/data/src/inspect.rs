//! What a collection holds, for a person to read before training on it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::loader::Skipped;
use crate::source::{Description, Source};

/// Pictures that are decoded unless told otherwise, spread evenly over the collection.
pub const SAMPLE: usize = 200;

/// Unreadable pictures of the sample that are named.
const NAMED: usize = 10;

/// Classes that the text shows; the JSON form holds all.
const SHOWN_CLASSES: usize = 20;

/// What [`inspect`] found. Serialises to the object that `--json` prints; its `Display` is the
/// text for a terminal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What the source says about itself.
    #[serde(flatten)]
    pub description: Description,
    /// Pictures of each class, by label.
    pub per_class: Vec<ClassCount>,
    /// What decoding a sample showed.
    pub sample: Sample,
}

/// A class and its pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class's name, or its number where it has none.
    pub class: String,
    /// Its pictures, unreadable ones included.
    pub images: usize,
}

/// What a sample of the pictures is like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Pictures tried.
    pub images: usize,
    /// Of those, how many can't be read.
    pub unreadable: usize,
    /// The first few that can't be.
    pub examples: Vec<Skipped>,
    /// Widths in pixels; `None` if nothing was readable.
    pub width: Option<Spread>,
    /// Heights in pixels.
    pub height: Option<Spread>,
    /// The most frequent sizes, (width, height, pictures), most frequent first.
    pub sizes: Vec<(usize, usize, usize)>,
}

/// Smallest, middle and largest of some values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: usize,
    /// The median; of an even number of values the lower of the two in the middle.
    pub median: usize,
    /// The largest.
    pub max: usize,
}

impl Spread {
    fn of(mut values: Vec<usize>) -> Option<Self> {
        values.sort_unstable();
        Some(Spread {
            min: *values.first()?,
            median: values[(values.len() - 1) / 2],
            max: *values.last()?,
        })
    }
}

/// Describes a collection, counts its classes, and decodes up to `sample` pictures, spread evenly
/// over it.
pub fn inspect(source: &dyn Source, sample: usize) -> Summary {
    let description = source.describe();
    let mut counts = vec![0; description.classes];
    for label in (0..source.len()).filter_map(|row| source.label(row)) {
        let label = label as usize;
        if counts.len() <= label {
            counts.resize(label + 1, 0);
        }
        counts[label] += 1;
    }
    let name = |label: usize| {
        let named = source.classes().get(label);
        named.cloned().unwrap_or_else(|| label.to_string())
    };
    let per_class = counts
        .into_iter()
        .enumerate()
        .map(|(label, images)| ClassCount {
            class: name(label),
            images,
        })
        .collect();
    Summary {
        description,
        per_class,
        sample: look_at(source, sample.min(source.len())),
    }
}

fn look_at(source: &dyn Source, images: usize) -> Sample {
    let mut sizes = BTreeMap::new();
    let (mut widths, mut heights) = (Vec::new(), Vec::new());
    let mut examples = Vec::new();
    let mut unreadable = 0;
    for index in 0..images {
        // In 128 bits, since the product of two numbers of pictures needs not fit in 64.
        let row = (index as u128 * source.len() as u128 / images as u128) as usize;
        match source.picture(row) {
            Ok(picture) => {
                widths.push(picture.width);
                heights.push(picture.height);
                *sizes.entry((picture.width, picture.height)).or_insert(0) += 1;
            }
            Err(error) => {
                unreadable += 1;
                if examples.len() < NAMED {
                    examples.push(Skipped {
                        row: row as u64,
                        name: source.name(row),
                        reason: error.reason,
                    });
                }
            }
        }
    }
    let mut sizes: Vec<_> = sizes.into_iter().map(|((w, h), n)| (w, h, n)).collect();
    sizes.sort_by_key(|&(_, _, pictures)| std::cmp::Reverse(pictures));
    sizes.truncate(5);
    Sample {
        images,
        unreadable,
        examples,
        width: Spread::of(widths),
        height: Spread::of(heights),
        sizes,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.description;
        let plural = if d.images == 1 { "" } else { "s" };
        write!(f, "{} of {} picture{plural}", d.kind, d.images)?;
        if let Some(bytes) = d.bytes {
            write!(f, ", {}", human_bytes(bytes))?;
        }
        writeln!(f)?;
        for (format, images) in &d.formats {
            writeln!(f, "  {format}: {images}")?;
        }
        if d.labelled == 0 {
            writeln!(f, "classes: none (labels are not needed to train)")?;
        } else {
            writeln!(f, "classes: {}, {} labelled", d.classes, d.labelled)?;
            for count in self.per_class.iter().take(SHOWN_CLASSES) {
                writeln!(f, "  {}: {}", count.class, count.images)?;
            }
            if self.per_class.len() > SHOWN_CLASSES {
                writeln!(f, "  and {} more", self.per_class.len() - SHOWN_CLASSES)?;
            }
        }
        let s = &self.sample;
        writeln!(f, "sample of {}: {} unreadable", s.images, s.unreadable)?;
        for example in &s.examples {
            writeln!(f, "  {}: {}", example.name, example.reason)?;
        }
        if let (Some(w), Some(h)) = (s.width, s.height) {
            writeln!(f, "  width {} to {}, median {}", w.min, w.max, w.median)?;
            writeln!(f, "  height {} to {}, median {}", h.min, h.max, h.median)?;
            let sizes: Vec<String> = s
                .sizes
                .iter()
                .map(|(width, height, images)| format!("{width} x {height} ({images})"))
                .collect();
            writeln!(f, "  most frequent: {}", sizes.join(", "))?;
        }
        for note in &d.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "bytes" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
