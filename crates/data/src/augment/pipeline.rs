//! A checked list of transforms, and its application.

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

use super::{
    CropBox, Drawn, Interpolation, Normalize, Transform, View, Workspace, blur, flip, grayscale,
    jitter, lighting, rotate, solarize,
};
use crate::source::Picture;

/// A checked list of [`Transform`]s that turns any picture into one of a fixed size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Transform>", into = "Vec<Transform>")]
pub struct Pipeline {
    steps: Vec<Transform>,
    height: usize,
    width: usize,
    normalize: Normalize,
}

/// What is wrong with a list of transforms: one line that names the step and the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PipelineError(pub String);

impl TryFrom<Vec<Transform>> for Pipeline {
    type Error = PipelineError;

    fn try_from(steps: Vec<Transform>) -> Result<Self, PipelineError> {
        Pipeline::new(steps)
    }
}

impl From<Pipeline> for Vec<Transform> {
    fn from(pipeline: Pipeline) -> Self {
        pipeline.steps
    }
}

impl Pipeline {
    /// Checks the steps' settings and their order.
    ///
    /// # Errors
    /// If a setting is out of range; if no step fixes the size of the result; if something other
    /// than a flip follows `Normalize`, which the engine applies after everything else.
    pub fn new(steps: Vec<Transform>) -> Result<Self, PipelineError> {
        let mut size = None;
        let mut normalize = None;
        for step in &steps {
            step.validate().map_err(PipelineError)?;
            if normalize.is_some() && !step.moves_pixels_only() {
                return Err(PipelineError(match step {
                    Transform::Normalize(_) => "Normalize occurs twice; keep one".into(),
                    _ => format!(
                        "{} follows Normalize; put it before, only flips may follow",
                        step.name()
                    ),
                }));
            }
            size = match size {
                Some((h, w)) => Some(step.output_size(h, w)),
                // The shorter side alone leaves the other one open.
                None if step.fixes_size() => Some(step.output_size(1, 1)),
                None => None,
            };
            if let Transform::Normalize(step) = step {
                normalize = Some(step.clone());
            }
        }
        let Some((height, width)) = size else {
            return Err(PipelineError(
                "no step fixes the size of the pictures; add RandomResizedCrop, RandomCrop, \
                 CenterCrop or Resize with size = [height, width]"
                    .into(),
            ));
        };
        Ok(Pipeline {
            steps,
            height,
            width,
            normalize: normalize.unwrap_or(Normalize::NONE),
        })
    }

    /// The steps.
    pub fn steps(&self) -> &[Transform] {
        &self.steps
    }

    /// (height, width) of every result, in pixels.
    pub fn output_size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Bytes of one result: height * width * 3.
    pub fn output_bytes(&self) -> usize {
        self.height * self.width * 3
    }

    /// What the engine applies to the result: (v / 255 - mean) / std in each channel. Without a
    /// `Normalize` in the list: v / 255.
    pub fn normalize(&self) -> &Normalize {
        &self.normalize
    }

    /// Draws what will be done to a picture of `width` x `height` pixels, a [`Drawn`] a step, into
    /// `drawn`.
    pub fn draw(&self, stream: &mut Stream, width: usize, height: usize, drawn: &mut Vec<Drawn>) {
        drawn.clear();
        let (mut height, mut width) = (height, width);
        for step in &self.steps {
            drawn.push(step.draw(stream, width, height));
            (height, width) = step.output_size(height, width);
        }
    }

    /// Does to `picture` what was drawn for its size, into `out` (H x W x 3,
    /// [`Pipeline::output_bytes`] long).
    ///
    /// # Panics
    /// If `drawn` isn't of this pipeline and a picture of this size, or `out` has another length.
    pub fn apply(
        &self,
        picture: &Picture,
        drawn: &[Drawn],
        workspace: &mut Workspace,
        out: &mut [u8],
    ) {
        assert_eq!(drawn.len(), self.steps.len(), "one drawing a step");
        // Until a step has written something, the picture itself is read: most pipelines begin
        // with a crop, and then nothing outside it is touched.
        let mut untouched = true;
        for (step, drawn) in self.steps.iter().zip(drawn) {
            workspace.step(step, drawn, picture, &mut untouched);
        }
        out.copy_from_slice(if untouched {
            &picture.rgb
        } else {
            &workspace.rgb
        });
    }

    /// Draws from `stream` and applies: what the loader does to each picture.
    ///
    /// # Panics
    /// If `out` isn't [`Pipeline::output_bytes`] long.
    pub fn augment(
        &self,
        picture: &Picture,
        stream: &mut Stream,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) {
        let mut drawn = std::mem::take(&mut workspace.drawn);
        self.draw(stream, picture.width, picture.height, &mut drawn);
        self.apply(picture, &drawn, workspace, out);
        workspace.drawn = drawn;
    }
}

impl Workspace {
    fn step(&mut self, step: &Transform, drawn: &Drawn, picture: &Picture, untouched: &mut bool) {
        let size = if *untouched {
            (picture.height, picture.width)
        } else {
            (self.height, self.width)
        };
        match (step, drawn) {
            (Transform::RandomResizedCrop(crop), &Drawn::Crop(part)) => {
                let to = crop.size.height_width();
                self.resize(picture, untouched, part, to, crop.interpolation);
            }
            (Transform::Resize(resize), _) => {
                let whole = CropBox {
                    top: 0,
                    left: 0,
                    height: size.0,
                    width: size.1,
                };
                let to = resize.output_size(size.0, size.1);
                self.resize(picture, untouched, whole, to, resize.interpolation);
            }
            (Transform::CenterCrop(crop), _) => {
                let mut result = std::mem::take(&mut self.spare);
                let rgb = if *untouched { &picture.rgb } else { &self.rgb };
                crop.apply(rgb, size.1, size.0, &mut result);
                self.replace(result, crop.size.height_width(), untouched);
            }
            (Transform::RandomCrop(crop), &Drawn::Place(top, left)) => {
                let mut result = std::mem::take(&mut self.spare);
                let rgb = if *untouched { &picture.rgb } else { &self.rgb };
                crop.apply((top, left), rgb, size.1, size.0, &mut result);
                self.replace(result, crop.size.height_width(), untouched);
            }
            (Transform::RandomRotation(rotation), &Drawn::Rotate(degrees)) => {
                let mut result = std::mem::take(&mut self.spare);
                let rgb = if *untouched { &picture.rgb } else { &self.rgb };
                rotate::apply(degrees, rotation.fill, rgb, size.1, &mut result);
                self.replace(result, size, untouched);
            }
            (Transform::GaussianBlur(_), &Drawn::Blur(Some(sigma))) => {
                self.own(picture, untouched);
                blur::apply(
                    sigma,
                    &mut self.rgb,
                    size.1,
                    &mut self.spare,
                    &mut self.line,
                );
            }
            (Transform::Lighting(_), &Drawn::Lighting(alpha)) => {
                lighting::apply(alpha, self.own(picture, untouched));
            }
            (Transform::Solarization(step), Drawn::Solarize(true)) => {
                solarize::apply(step.threshold, self.own(picture, untouched));
            }
            (Transform::RandomApply(step), Drawn::Apply(Some(drawn))) => {
                for (step, drawn) in step.transforms.iter().zip(drawn) {
                    self.step(step, drawn, picture, untouched);
                }
            }
            (Transform::RandomGrayscale(_), Drawn::Grayscale(true)) => {
                grayscale::apply(self.own(picture, untouched));
            }
            (Transform::ColorJitter(_), Drawn::Jitter(factors)) => {
                jitter::apply(factors, self.own(picture, untouched));
            }
            (Transform::RandomHorizontalFlip(_), Drawn::Flip(true)) => {
                flip::horizontal(self.own(picture, untouched), size.1);
            }
            (Transform::RandomVerticalFlip(_), Drawn::Flip(true)) => {
                flip::vertical(self.own(picture, untouched), size.1);
            }
            (Transform::RandomGrayscale(_), Drawn::Grayscale(false))
            | (
                Transform::RandomHorizontalFlip(_) | Transform::RandomVerticalFlip(_),
                Drawn::Flip(false),
            )
            | (Transform::GaussianBlur(_), Drawn::Blur(None))
            | (Transform::Solarization(_), Drawn::Solarize(false))
            | (Transform::RandomApply(_), Drawn::Apply(None))
            | (Transform::ToTensor(_) | Transform::Normalize(_), Drawn::Fixed) => {}
            (step, drawn) => panic!("{drawn:?} was not drawn for {}", step.name()),
        }
    }

    fn resize(
        &mut self,
        picture: &Picture,
        untouched: &mut bool,
        part: CropBox,
        (height, width): (usize, usize),
        filter: Interpolation,
    ) {
        let from = if *untouched {
            View {
                width: picture.width,
                rgb: &picture.rgb,
            }
        } else {
            View {
                width: self.width,
                rgb: &self.rgb,
            }
        };
        let mut result = std::mem::take(&mut self.spare);
        self.resampler
            .crop_resize(from, part, (height, width), filter, &mut result);
        self.replace(result, (height, width), untouched);
    }

    /// Takes `result` for the picture; the old one's memory becomes the spare.
    fn replace(&mut self, result: Vec<u8>, (height, width): (usize, usize), untouched: &mut bool) {
        self.spare = std::mem::replace(&mut self.rgb, result);
        (self.height, self.width) = (height, width);
        *untouched = false;
    }

    /// The picture as memory of our own, copied the first time.
    fn own(&mut self, picture: &Picture, untouched: &mut bool) -> &mut [u8] {
        if *untouched {
            self.rgb.clear();
            self.rgb.extend_from_slice(&picture.rgb);
            (self.height, self.width) = (picture.height, picture.width);
            *untouched = false;
        }
        &mut self.rgb
    }
}
