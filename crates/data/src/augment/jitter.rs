//! ColorJitter: torchvision's `transforms.ColorJitter` on PIL pictures, whose arithmetic is that
//! of PIL's `ImageEnhance` (a blend with a degenerate picture, in f32, truncated to 8 bits).

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

use super::{grayscale::luma, hue};

/// Changes brightness, contrast, saturation and hue by random factors, in random order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// Brightness: `v` means a factor in [max(0, 1 - v), 1 + v].
    #[serde(default)]
    pub brightness: JitterRange,
    /// Contrast, as brightness.
    #[serde(default)]
    pub contrast: JitterRange,
    /// Saturation, as brightness.
    #[serde(default)]
    pub saturation: JitterRange,
    /// Hue: `v` in 0 to 0.5 means a shift in [-v, v] of the colour circle.
    #[serde(default)]
    pub hue: JitterRange,
}

/// How far a factor may go: one number, or its bounds `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "each of `brightness`, `contrast`, `saturation` and `hue` must be a number, such as 0.4, or [low, high]"
)]
pub enum JitterRange {
    /// Around what changes nothing.
    Around(f64),
    /// The bounds themselves.
    Bounds([f64; 2]),
}

impl Default for JitterRange {
    fn default() -> Self {
        JitterRange::Around(0.0)
    }
}

impl JitterRange {
    /// The bounds, or `None` where they mean no change (and torchvision then does nothing).
    fn bounds(self, neutral: f64) -> Option<[f64; 2]> {
        let [low, high] = match self {
            JitterRange::Bounds(bounds) => bounds,
            // A factor has no meaning below 0; a hue's shift, around 0, has.
            JitterRange::Around(v) if neutral == 1.0 => [(1.0 - v).max(0.0), 1.0 + v],
            JitterRange::Around(v) => [-v, v],
        };
        (low != neutral || high != neutral).then_some([low, high])
    }
}

/// One of the four changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JitterStep {
    /// A blend with black.
    Brightness,
    /// A blend with the mean grey.
    Contrast,
    /// A blend with the grey picture.
    Saturation,
    /// A turn of the colour circle.
    Hue,
}

/// What a [`ColorJitter`] does to one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// The changes, in this order.
    pub order: [JitterStep; 4],
    /// Factor of the brightness, at least 0; `None` leaves it.
    pub brightness: Option<f64>,
    /// Factor of the contrast.
    pub contrast: Option<f64>,
    /// Factor of the saturation.
    pub saturation: Option<f64>,
    /// Shift of the hue, -0.5 to 0.5 of the circle.
    pub hue: Option<f64>,
}

impl ColorJitter {
    pub(super) fn validate(&self) -> Result<(), String> {
        let factors = [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ];
        for (key, range) in factors {
            let fine = match range {
                JitterRange::Around(v) => v >= 0.0 && v.is_finite(),
                JitterRange::Bounds([low, high]) => low >= 0.0 && low <= high && high.is_finite(),
            };
            if !fine {
                return Err(format!(
                    "`{key}` is {}; give a number of at least 0, or [low, high] factors",
                    show(range)
                ));
            }
        }
        let fine = match self.hue {
            JitterRange::Around(v) => (0.0..=0.5).contains(&v),
            JitterRange::Bounds([low, high]) => -0.5 <= low && low <= high && high <= 0.5,
        };
        if fine {
            return Ok(());
        }
        Err(format!(
            "`hue` is {}; give a number from 0 to 0.5, or [low, high] shifts within -0.5 to 0.5",
            show(self.hue)
        ))
    }

    /// Draws the order, then the four factors; a factor that isn't used takes no number.
    pub(super) fn draw(&self, stream: &mut Stream) -> Factors {
        let mut order = [
            JitterStep::Brightness,
            JitterStep::Contrast,
            JitterStep::Saturation,
            JitterStep::Hue,
        ];
        stream.shuffle(&mut order);
        let mut draw = |range: JitterRange, neutral| {
            let [low, high] = range.bounds(neutral)?;
            Some(stream.uniform(low, high))
        };
        Factors {
            order,
            brightness: draw(self.brightness, 1.0),
            contrast: draw(self.contrast, 1.0),
            saturation: draw(self.saturation, 1.0),
            hue: draw(self.hue, 0.0),
        }
    }
}

fn show(range: JitterRange) -> String {
    match range {
        JitterRange::Around(v) => v.to_string(),
        JitterRange::Bounds(bounds) => format!("{bounds:?}"),
    }
}

pub(super) fn apply(factors: &Factors, rgb: &mut [u8]) {
    for step in factors.order {
        match step {
            JitterStep::Brightness => {
                if let Some(factor) = factors.brightness {
                    look_up(rgb, |v| blend(0, v, factor as f32));
                }
            }
            JitterStep::Contrast => {
                if let Some(factor) = factors.contrast {
                    let mean = mean_luma(rgb);
                    look_up(rgb, |v| blend(mean, v, factor as f32));
                }
            }
            JitterStep::Saturation => {
                if let Some(factor) = factors.saturation {
                    saturate(rgb, factor as f32);
                }
            }
            JitterStep::Hue => {
                if let Some(shift) = factors.hue {
                    hue::shift(rgb, shift);
                }
            }
        }
    }
}

/// PIL's `Image.blend` of one sample: in f32, clipped (which only extrapolation needs), truncated.
#[inline]
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    // A float turned into u8 is truncated and clamped to 0..=255.
    (f32::from(degenerate) + factor * (i32::from(value) - i32::from(degenerate)) as f32) as u8
}

/// PIL's degenerate picture for the contrast: the mean of the grey picture, rounded.
fn mean_luma(rgb: &[u8]) -> u8 {
    let sum: u64 = rgb
        .chunks_exact(3)
        .map(|p| u64::from(luma(p[0], p[1], p[2])))
        .sum();
    (sum as f64 / (rgb.len() / 3) as f64 + 0.5) as u8
}

/// Replaces every sample by a function of it alone.
fn look_up(rgb: &mut [u8], of: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| of(v as u8));
    for value in rgb {
        *value = table[usize::from(*value)];
    }
}

fn saturate(rgb: &mut [u8], factor: f32) {
    for pixel in rgb.chunks_exact_mut(3) {
        let grey = luma(pixel[0], pixel[1], pixel[2]);
        for value in pixel {
            *value = blend(grey, *value, factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::Purpose;

    #[test]
    fn factors_are_uniform_and_orders_even() {
        let jitter = ColorJitter {
            brightness: JitterRange::Around(0.4),
            contrast: JitterRange::Around(2.0),
            saturation: JitterRange::Bounds([0.5, 0.75]),
            hue: JitterRange::Around(0.1),
        };
        let mut first = [0; 4];
        let mut low = [f64::MAX; 4];
        let mut high = [f64::MIN; 4];
        for item in 0..4000 {
            let mut stream = Stream::new(3, Purpose::Augment, 1, item, 0);
            let f = jitter.draw(&mut stream);
            first[f.order[0] as usize] += 1;
            let drawn = [f.brightness, f.contrast, f.saturation, f.hue];
            for (i, value) in drawn.into_iter().enumerate() {
                let value = value.unwrap();
                low[i] = low[i].min(value);
                high[i] = high[i].max(value);
            }
        }
        let bounds = [(0.6, 1.4), (0.0, 3.0), (0.5, 0.75), (-0.1, 0.1)];
        for (i, (l, h)) in bounds.into_iter().enumerate() {
            assert!(low[i] >= l && low[i] < l + 0.01 * (h - l), "{i} {low:?}");
            assert!(high[i] <= h && high[i] > h - 0.01 * (h - l), "{i} {high:?}");
        }
        assert!(first.iter().all(|n| (900..1100).contains(n)), "{first:?}");
    }

    #[test]
    fn what_changes_nothing_is_left_out() {
        let mut stream = Stream::new(0, Purpose::Augment, 0, 0, 0);
        let f = ColorJitter::default().draw(&mut stream);
        let drawn = [f.brightness, f.contrast, f.saturation, f.hue];
        assert_eq!(drawn, [None; 4]);
    }
}
