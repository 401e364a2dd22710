//! Resize and CenterCrop: torchvision's `transforms.Resize` and `transforms.CenterCrop`.

use serde::{Deserialize, Serialize};

use super::Interpolation;

/// A size in pixels: `224`, or `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`size` must be a number of pixels, such as 224, or [height, width]"
)]
pub enum Extent {
    /// Both sides; for [`Resize`] the shorter one.
    Square(usize),
    /// Height, then width.
    HeightWidth([usize; 2]),
}

impl Extent {
    /// (height, width).
    pub fn height_width(self) -> (usize, usize) {
        match self {
            Extent::Square(side) => (side, side),
            Extent::HeightWidth([height, width]) => (height, width),
        }
    }

    pub(super) fn validate(self) -> Result<(), String> {
        let (height, width) = self.height_width();
        if (1..=8192).contains(&height) && (1..=8192).contains(&width) {
            return Ok(());
        }
        Err(format!(
            "`size` is {height} x {width}; each side must be 1 to 8192 pixels"
        ))
    }
}

/// Resizes the whole picture, antialiased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Size of the shorter side, the other following in proportion (up to 64 times as long); or
    /// both sides.
    pub size: Extent,
    /// How.
    #[serde(default, skip_serializing_if = "Interpolation::is_default")]
    pub interpolation: Interpolation,
}

/// The longer side of a result is at most this many times the shorter one: a picture of 60,000 x 1
/// pixels is a small file, but in proportion at 256 pixels it would take gigabytes.
const MAX_RATIO: usize = 64;

impl Resize {
    pub(super) fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let size = match self.size {
            Extent::HeightWidth([height, width]) => return (height, width),
            Extent::Square(size) => size,
        };
        // Truncated, as torchvision's; in integers, so it is exact.
        let longer = |long: usize, short: usize| (size * long / short).min(size * MAX_RATIO);
        if width <= height {
            (longer(height, width), size)
        } else {
            (size, longer(width, height))
        }
    }
}

/// The middle of the picture; where it is smaller, black is added around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CenterCrop {
    /// Size of the result.
    pub size: Extent,
}

impl CenterCrop {
    /// Cuts the middle of a picture of `width` x `height` pixels out, into `out`.
    pub(super) fn apply(&self, rgb: &[u8], width: usize, height: usize, out: &mut Vec<u8>) {
        let (out_height, out_width) = self.size.height_width();
        out.clear();
        out.resize(out_height * out_width * 3, 0);
        let (from_x, to_x, columns) = overlap(width, out_width);
        let (from_y, to_y, rows) = overlap(height, out_height);
        for row in 0..rows {
            let from = ((from_y + row) * width + from_x) * 3;
            let to = ((to_y + row) * out_width + to_x) * 3;
            out[to..to + columns * 3].copy_from_slice(&rgb[from..from + columns * 3]);
        }
    }
}

/// Along one side: where reading starts, where writing starts, and how many pixels are copied.
fn overlap(input: usize, output: usize) -> (usize, usize, usize) {
    if output > input {
        // The smaller half of the added black comes first.
        (0, (output - input) / 2, input)
    } else {
        // Python's round: halves to even.
        let start = ((input - output) as f64 / 2.0).round_ties_even();
        (start as usize, 0, output)
    }
}
