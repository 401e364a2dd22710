//! RandomHorizontalFlip and RandomVerticalFlip: torchvision's transforms of these names.

use serde::{Deserialize, Serialize};

/// Mirrors left and right with probability `p`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomHorizontalFlip {
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

/// Mirrors top and bottom with probability `p`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomVerticalFlip {
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

fn default_p() -> f64 {
    0.5
}

pub(super) fn horizontal(rgb: &mut [u8], width: usize) {
    for row in rgb.chunks_exact_mut(width * 3) {
        let (mut left, mut right) = (0, width - 1);
        while left < right {
            for channel in 0..3 {
                row.swap(left * 3 + channel, right * 3 + channel);
            }
            left += 1;
            right -= 1;
        }
    }
}

pub(super) fn vertical(rgb: &mut [u8], width: usize) {
    let height = rgb.len() / 3 / width;
    let (upper, lower) = rgb.split_at_mut(height / 2 * width * 3);
    let rows = upper.chunks_exact_mut(width * 3);
    for (above, below) in rows.zip(lower.chunks_exact_mut(width * 3).rev()) {
        above.swap_with_slice(below);
    }
}
