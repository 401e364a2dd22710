//! Augmentation with torchvision's semantics, on 8-bit RGB: what its transforms do to PIL pictures.
//!
//! A [`Pipeline`] is a list of [`Transform`]s in any order, plain data that a recipe spells with
//! torchvision's names and keys. The random part is apart from the rest: [`Pipeline::draw`] takes
//! numbers from a stream and says what will be done ([`Drawn`]), [`Pipeline::apply`] does it.
//!
//! The result is 8-bit, so [`Normalize`] isn't applied here: its means and standard deviations are
//! handed on to the engine, which applies them where it reads the batch ([`Pipeline::normalize`]).
//!
//! One file holds one operation.

mod blur;
mod crop;
mod flip;
mod grayscale;
mod hue;
mod jitter;
mod lighting;
mod normalize;
mod pipeline;
mod preset;
mod random_apply;
mod random_crop;
mod resample;
mod resize;
mod rotate;
mod solarize;
mod view;

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

pub use blur::GaussianBlur;
pub use crop::{CropBox, RandomResizedCrop};
pub use flip::{RandomHorizontalFlip, RandomVerticalFlip};
pub use grayscale::RandomGrayscale;
pub use jitter::{ColorJitter, Factors, JitterRange, JitterStep};
pub use lighting::Lighting;
pub use normalize::Normalize;
pub use pipeline::{Pipeline, PipelineError};
pub use preset::{PRESETS, preset};
pub use random_apply::RandomApply;
pub use random_crop::{Fill, Padding, PaddingMode, RandomCrop};
pub use resample::Interpolation;
pub use resize::{CenterCrop, Extent, Resize};
pub use rotate::{Degrees, RandomRotation};
pub use solarize::Solarization;
pub use view::EvalView;

/// One step of a pipeline. In a recipe: a table whose `type` is the step's name, with
/// torchvision's keys, as in `{ type = "RandomResizedCrop", size = 32, scale = [0.2, 1.0] }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Transform {
    /// A random part of the picture, resized.
    RandomResizedCrop(RandomResizedCrop),
    /// A random part of fixed size, of the picture with pixels added around it.
    RandomCrop(RandomCrop),
    /// The whole picture, resized.
    Resize(Resize),
    /// The middle of the picture.
    CenterCrop(CenterCrop),
    /// Grey, at times.
    RandomGrayscale(RandomGrayscale),
    /// Other brightness, contrast, saturation and hue.
    ColorJitter(ColorJitter),
    /// A colour added to all pixels.
    Lighting(Lighting),
    /// Blurred, at times.
    GaussianBlur(GaussianBlur),
    /// Bright samples inverted, at times; torchvision's `RandomSolarize`.
    #[serde(alias = "RandomSolarize")]
    Solarization(Solarization),
    /// Mirrored, at times.
    RandomHorizontalFlip(RandomHorizontalFlip),
    /// Upside down, at times.
    RandomVerticalFlip(RandomVerticalFlip),
    /// Turned around its middle.
    RandomRotation(RandomRotation),
    /// Several of these, at times; MMSelfSup's `RandomAppliedTrans`.
    #[serde(alias = "RandomAppliedTrans")]
    RandomApply(RandomApply),
    /// Does nothing: torchvision's lists need it before `Normalize`, so it is accepted.
    ToTensor(ToTensor),
    /// Zero mean and unit variance, by the engine.
    Normalize(Normalize),
}

/// torchvision's conversion to floating point; the engine does it, so there is nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToTensor {}

/// What one step of a pipeline does to one picture, all chance removed.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawn {
    /// Cut this out of the picture and resize it.
    Crop(CropBox),
    /// Cut out what begins at this row and column of the picture with pixels added.
    Place(usize, usize),
    /// Make it grey, or leave it.
    Grayscale(bool),
    /// Change its colours so.
    Jitter(Factors),
    /// Add the principal components of the colours with these factors.
    Lighting([f64; 3]),
    /// Blur it by this standard deviation in pixels, or leave it.
    Blur(Option<f64>),
    /// Invert bright samples, or leave them.
    Solarize(bool),
    /// Mirror it, or leave it.
    Flip(bool),
    /// Turn it by these degrees, counter-clockwise.
    Rotate(f64),
    /// What each of several steps does, or leave it.
    Apply(Option<Vec<Drawn>>),
    /// The step has no chance in it.
    Fixed,
}

impl Transform {
    /// The step's name in a recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Transform::RandomResizedCrop(_) => "RandomResizedCrop",
            Transform::RandomCrop(_) => "RandomCrop",
            Transform::Resize(_) => "Resize",
            Transform::CenterCrop(_) => "CenterCrop",
            Transform::RandomGrayscale(_) => "RandomGrayscale",
            Transform::ColorJitter(_) => "ColorJitter",
            Transform::Lighting(_) => "Lighting",
            Transform::GaussianBlur(_) => "GaussianBlur",
            Transform::Solarization(_) => "Solarization",
            Transform::RandomHorizontalFlip(_) => "RandomHorizontalFlip",
            Transform::RandomVerticalFlip(_) => "RandomVerticalFlip",
            Transform::RandomRotation(_) => "RandomRotation",
            Transform::RandomApply(_) => "RandomApply",
            Transform::ToTensor(_) => "ToTensor",
            Transform::Normalize(_) => "Normalize",
        }
    }

    /// Checks the step's settings.
    ///
    /// # Errors
    /// One line that names the step and the key, and says what it may be.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Transform::RandomResizedCrop(step) => step.validate(),
            Transform::RandomCrop(step) => step.validate(),
            Transform::Resize(step) => step.size.validate(),
            Transform::CenterCrop(step) => step.size.validate(),
            Transform::RandomGrayscale(step) => check_probability(step.p),
            Transform::ColorJitter(step) => step.validate(),
            Transform::Lighting(step) => step.validate(),
            Transform::GaussianBlur(step) => step.validate(),
            Transform::Solarization(step) => step.validate(),
            Transform::RandomHorizontalFlip(step) => check_probability(step.p),
            Transform::RandomVerticalFlip(step) => check_probability(step.p),
            Transform::RandomRotation(step) => step.validate(),
            Transform::RandomApply(step) => step.validate(),
            Transform::ToTensor(_) => Ok(()),
            Transform::Normalize(step) => step.validate(),
        }
        .map_err(|problem| format!("{}: {problem}", self.name()))
    }

    /// Draws what the step does to a picture of `width` x `height` pixels.
    pub fn draw(&self, stream: &mut Stream, width: usize, height: usize) -> Drawn {
        match self {
            Transform::RandomResizedCrop(step) => Drawn::Crop(step.draw(stream, width, height)),
            Transform::RandomCrop(step) => {
                let (top, left) = step.draw(stream, width, height);
                Drawn::Place(top, left)
            }
            Transform::RandomGrayscale(step) => Drawn::Grayscale(stream.unit() < step.p),
            Transform::ColorJitter(step) => Drawn::Jitter(step.draw(stream)),
            Transform::Lighting(step) => Drawn::Lighting(step.draw(stream)),
            Transform::GaussianBlur(step) => Drawn::Blur(step.draw(stream)),
            Transform::Solarization(step) => Drawn::Solarize(stream.unit() < step.p),
            Transform::RandomHorizontalFlip(step) => Drawn::Flip(stream.unit() < step.p),
            Transform::RandomVerticalFlip(step) => Drawn::Flip(stream.unit() < step.p),
            Transform::RandomRotation(step) => Drawn::Rotate(step.draw(stream)),
            Transform::RandomApply(step) => Drawn::Apply(step.draw(stream, width, height)),
            Transform::Resize(_)
            | Transform::CenterCrop(_)
            | Transform::ToTensor(_)
            | Transform::Normalize(_) => Drawn::Fixed,
        }
    }

    /// (height, width) of the result for a picture of `height` x `width` pixels.
    pub fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        match self {
            Transform::RandomResizedCrop(step) => step.size.height_width(),
            Transform::RandomCrop(step) => step.size.height_width(),
            Transform::Resize(step) => step.output_size(height, width),
            Transform::CenterCrop(step) => step.size.height_width(),
            _ => (height, width),
        }
    }

    /// Whether its result has the same size for every picture.
    fn fixes_size(&self) -> bool {
        match self {
            Transform::RandomResizedCrop(_)
            | Transform::RandomCrop(_)
            | Transform::CenterCrop(_) => true,
            Transform::Resize(step) => matches!(step.size, Extent::HeightWidth(_)),
            _ => false,
        }
    }

    /// Whether it may follow `Normalize`, which is done after everything: what it does to pixels
    /// doesn't depend on their values.
    fn moves_pixels_only(&self) -> bool {
        match self {
            Transform::RandomHorizontalFlip(_)
            | Transform::RandomVerticalFlip(_)
            | Transform::ToTensor(_) => true,
            Transform::RandomApply(step) => {
                step.transforms.iter().all(Transform::moves_pixels_only)
            }
            _ => false,
        }
    }
}

fn check_probability(p: f64) -> Result<(), String> {
    if (0.0..=1.0).contains(&p) {
        Ok(())
    } else {
        Err(format!("`p` is {p}; a probability lies in 0 to 1"))
    }
}

/// A picture that is being worked on, and the memory for it. One a thread; after the first few
/// pictures nothing large allocates.
#[derive(Default)]
pub struct Workspace {
    width: usize,
    height: usize,
    /// H x W x 3.
    rgb: Vec<u8>,
    spare: Vec<u8>,
    /// A line of pixels with what lies beyond its ends.
    line: Vec<u8>,
    resampler: resample::Resampler,
    drawn: Vec<Drawn>,
}

/// Pixels to read from: a picture, or what became of it.
#[derive(Clone, Copy)]
struct View<'a> {
    width: usize,
    /// H x W x 3.
    rgb: &'a [u8],
}
