//! RandomResizedCrop: torchvision's `transforms.RandomResizedCrop`.

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

use super::{Extent, Interpolation};

/// Cuts out a random part and resizes it, antialiased. The part has `scale` times the
/// picture's area and a ratio of width to height drawn evenly in its logarithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Size of the result.
    pub size: Extent,
    /// Bounds of the part's share of the area, in (0, 1].
    #[serde(default = "default_scale")]
    pub scale: [f64; 2],
    /// Bounds of width / height, above 0.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
    /// How it is resized.
    #[serde(default, skip_serializing_if = "Interpolation::is_default")]
    pub interpolation: Interpolation,
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

/// A part of a picture, in pixels, never empty and never beyond its edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// Rows above it.
    pub top: usize,
    /// Columns left of it.
    pub left: usize,
    /// Its rows.
    pub height: usize,
    /// Its columns.
    pub width: usize,
}

impl RandomResizedCrop {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.size.validate()?;
        let [low, high] = self.scale;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return Err(format!(
                "`scale` is [{low}, {high}]; give two shares of the area, ascending, above 0 and \
                 at most 1, such as [0.2, 1.0]"
            ));
        }
        let [low, high] = self.ratio;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(format!(
                "`ratio` is [{low}, {high}]; give two ratios of width to height, ascending, above \
                 0, such as [0.75, 1.3333]"
            ));
        }
        Ok(())
    }

    /// torchvision's `get_params`: ten tries, then the largest part in the middle whose ratio is
    /// within the bounds.
    pub(super) fn draw(&self, stream: &mut Stream, width: usize, height: usize) -> CropBox {
        let area = (width * height) as f64;
        let log_ratio = self.ratio.map(f64::ln);
        for _ in 0..10 {
            let target = area * stream.uniform(self.scale[0], self.scale[1]);
            let ratio = stream.uniform(log_ratio[0], log_ratio[1]).exp();
            // Python rounds halves to even.
            let w = (target * ratio).sqrt().round_ties_even() as usize;
            let h = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                return CropBox {
                    top: stream.below((height - h + 1) as u64) as usize,
                    left: stream.below((width - w + 1) as u64) as usize,
                    height: h,
                    width: w,
                };
            }
        }
        self.fallback(width, height)
    }

    /// What is cut out where ten draws didn't fit.
    fn fallback(&self, width: usize, height: usize) -> CropBox {
        let [low, high] = self.ratio;
        let ratio = width as f64 / height as f64;
        let (w, h) = if ratio < low {
            (width, (width as f64 / low).round_ties_even() as usize)
        } else if ratio > high {
            ((height as f64 * high).round_ties_even() as usize, height)
        } else {
            (width, height)
        };
        // A picture a pixel wide can round to nothing.
        let (w, h) = (w.clamp(1, width), h.clamp(1, height));
        CropBox {
            top: (height - h) / 2,
            left: (width - w) / 2,
            height: h,
            width: w,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::Purpose;

    fn crop(scale: [f64; 2], ratio: [f64; 2]) -> RandomResizedCrop {
        RandomResizedCrop {
            size: Extent::Square(32),
            scale,
            ratio,
            interpolation: Interpolation::default(),
        }
    }

    #[test]
    fn parts_are_within_the_picture_and_the_bounds() {
        let step = crop([0.2, 1.0], default_ratio());
        let mut shares = 0.0;
        for item in 0..2000 {
            let mut stream = Stream::new(0, Purpose::Augment, 0, item, 0);
            let part = step.draw(&mut stream, 200, 300);
            assert!(part.top + part.height <= 300 && part.left + part.width <= 200);
            let share = (part.width * part.height) as f64 / 60000.0;
            let ratio = part.width as f64 / part.height as f64;
            assert!((0.19..=1.0).contains(&share), "{part:?}");
            assert!((0.73..=1.36).contains(&ratio), "{part:?}");
            shares += share / 2000.0;
        }
        // Uniform in [0.2, 1] has mean 0.6; shapes that don't fit are drawn again, which prefers
        // small ones. torchvision 0.29.2 (seed 0): mean 0.4534 over 20,000 draws, standard
        // deviation of one 0.159, so 0.0036 for the mean of 2,000.
        assert!((shares - 0.4534).abs() < 0.015, "{shares}");
    }

    #[test]
    fn a_part_that_never_fits_is_the_middle() {
        // torchvision 0.29.2: get_params of a 100 x 10 and of a 10 x 100 picture with these bounds.
        let step = crop([1.0, 1.0], default_ratio());
        let mut stream = Stream::new(0, Purpose::Augment, 0, 0, 0);
        let wide = step.draw(&mut stream, 100, 10);
        let tall = step.draw(&mut stream, 10, 100);
        let expect = |top, left, height, width| CropBox {
            top,
            left,
            height,
            width,
        };
        assert_eq!(wide, expect(0, 43, 10, 13));
        assert_eq!(tall, expect(43, 0, 13, 10));
        assert_eq!(step.draw(&mut stream, 1, 1), expect(0, 0, 1, 1));
    }
}
