//! The built-in data set: ten classes of procedurally rendered pictures that differ by pattern.
//!
//! It lets `npid train` show, without a download, that a network learns features without labels.
//! A picture's class is its pattern alone ([`CLASSES`]); colours, polarity, scale, orientation,
//! position, proportions, lighting and noise are drawn from the same distributions for every
//! class, so that neither raw pixels nor the features of an untrained network tell the classes
//! apart.
//!
//! Picture `i` of a split is a pure function of (seed, split, `i`, size): it doesn't depend on how
//! many pictures there are. The arithmetic is IEEE 754 basic operations and the `libm` crate's
//! portable functions, so every machine renders the same bytes.

mod files;
mod shape;

use crate::source::{ContentHash, Description, Picture, PictureError, Source};
use npid_network::philox::{Purpose, Stream};
use shape::Shape;

pub use files::{WriteError, write};

/// The names of the classes; a label is a position in this list. They are in alphabetical order,
/// so that a folder written by [`write()`] gives the same labels.
pub const CLASSES: [&str; 10] = [
    "blobs",
    "checks",
    "crosses",
    "dots",
    "grid",
    "rays",
    "rings",
    "stripes",
    "triangles",
    "zigzag",
];

/// The two disjoint halves of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Pictures to train on.
    Train,
    /// Pictures that only ask (kNN queries).
    Val,
}

impl Split {
    /// `train` or `val`: the folder that [`write()`] puts the split into.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}

/// Samples along each side of a pixel; their mean is the pixel (antialiasing).
const SAMPLES: usize = 2;

/// One split of the data set, rendered on demand.
#[derive(Clone, Debug)]
pub struct Patterns {
    split: Split,
    count: usize,
    size: usize,
    seed: u64,
    classes: Vec<String>,
}

impl Patterns {
    /// `count` pictures of `size` x `size` pixels.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(split: Split, count: usize, size: usize, seed: u64) -> Self {
        assert!(size > 0, "pictures of no pixels");
        Patterns {
            split,
            count,
            size,
            seed,
            classes: CLASSES.map(String::from).to_vec(),
        }
    }

    /// Height and width in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Picture `index` as RGB bytes: `size` rows of `size` pixels of 3 bytes.
    pub fn render(&self, index: usize) -> Vec<u8> {
        let mut stream = Stream::new(
            self.seed,
            Purpose::Patterns,
            self.split as u32,
            index as u64,
            0,
        );
        let look = Look::draw(&mut stream);
        let shape = Shape::draw(class_of(index), &mut stream);
        look.paint(&shape, self.size, &mut stream)
    }
}

/// The class of picture `index`: they take turns.
fn class_of(index: usize) -> usize {
    index % CLASSES.len()
}

impl Source for Patterns {
    fn len(&self) -> usize {
        self.count
    }

    /// The path relative to the split's folder that [`write()`] gives the picture.
    fn name(&self, row: usize) -> String {
        format!("{}/{row:04}.png", CLASSES[class_of(row)])
    }

    fn label(&self, row: usize) -> Option<u32> {
        Some(class_of(row) as u32)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        Ok(Picture {
            width: self.size,
            height: self.size,
            rgb: self.render(row),
        })
    }

    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        Ok(ContentHash::of(&self.render(row)))
    }

    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        let picture = self.picture(row)?;
        let hash = ContentHash::of(&picture.rgb);
        Ok((picture, hash))
    }

    fn describe(&self) -> Description {
        Description {
            kind: "patterns".to_string(),
            images: self.count,
            classes: CLASSES.len(),
            labelled: self.count,
            formats: Vec::new(),
            bytes: None,
            notes: vec![format!(
                "built in: the {} split, rendered at {size}x{size} from seed {}",
                self.split.name(),
                self.seed,
                size = self.size
            )],
        }
    }
}

/// All that a picture shows beside its pattern. Lengths are in pixels of a 32x32 picture,
/// colours in 0..1.
struct Look {
    /// Cosine and sine of the pattern's orientation.
    rotation: (f64, f64),
    /// -1 for a mirrored pattern, else 1.
    mirror: f64,
    /// Colours of the pattern's ground and figure.
    colours: [[f64; 3]; 2],
    /// Brightness across the picture changes by this vector times the position in -0.5..0.5.
    light: (f64, f64),
    /// Half the width of the uniform noise on every value.
    noise: f64,
}

impl Look {
    fn draw(s: &mut Stream) -> Self {
        let turn = |s: &mut Stream| {
            let angle = s.uniform(0.0, std::f64::consts::TAU);
            (libm::cos(angle), libm::sin(angle))
        };
        let rotation = turn(s);
        let mirror = if s.below(2) == 0 { -1.0 } else { 1.0 };
        let slope = s.uniform(0.0, 0.3);
        let (cos, sin) = turn(s);
        Look {
            rotation,
            mirror,
            colours: colours(s),
            light: (slope * cos, slope * sin),
            noise: s.uniform(0.0, 0.03),
        }
    }

    /// Renders `shape` in these colours and this light.
    fn paint(&self, shape: &Shape, size: usize, s: &mut Stream) -> Vec<u8> {
        let mut picture = Vec::with_capacity(size * size * 3);
        let (cos, sin) = self.rotation;
        let step = 1.0 / (size * SAMPLES) as f64;
        for row in 0..size {
            for column in 0..size {
                let mut inside = 0;
                for sample in 0..SAMPLES * SAMPLES {
                    let fine_x = column * SAMPLES + sample % SAMPLES;
                    let fine_y = row * SAMPLES + sample / SAMPLES;
                    let x = 32.0 * ((fine_x as f64 + 0.5) * step - 0.5);
                    let y = 32.0 * ((fine_y as f64 + 0.5) * step - 0.5);
                    let u = self.mirror * (cos * x + sin * y);
                    let v = cos * y - sin * x;
                    inside += usize::from(shape.contains(u, v));
                }
                let figure = inside as f64 / (SAMPLES * SAMPLES) as f64;
                let x = (column as f64 + 0.5) / size as f64 - 0.5;
                let y = (row as f64 + 0.5) / size as f64 - 0.5;
                let light = 1.0 + self.light.0 * x + self.light.1 * y;
                for channel in 0..3 {
                    let [ground, top] = [self.colours[0][channel], self.colours[1][channel]];
                    let value = (ground + (top - ground) * figure) * light
                        + s.uniform(-self.noise, self.noise);
                    picture.push((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
                }
            }
        }
        picture
    }
}

/// Two colours, uniform among those pairs whose brightness differs visibly.
fn colours(s: &mut Stream) -> [[f64; 3]; 2] {
    let brightness = |c: &[f64; 3]| 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2];
    loop {
        let pair: [[f64; 3]; 2] =
            std::array::from_fn(|_| std::array::from_fn(|_| s.uniform(0.05, 0.95)));
        if (brightness(&pair[0]) - brightness(&pair[1])).abs() >= 0.4 {
            return pair;
        }
    }
}

#[cfg(test)]
mod tests;
