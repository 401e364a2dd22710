//! RandomHorizontalFlip: torchvision's `transforms.RandomHorizontalFlip`.

use serde::{Deserialize, Serialize};

/// Mirrors left and right with probability `p`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomHorizontalFlip {
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

fn default_p() -> f64 {
    0.5
}

pub(super) fn apply(rgb: &mut [u8], width: usize) {
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
