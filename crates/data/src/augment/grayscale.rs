//! RandomGrayscale: torchvision's `transforms.RandomGrayscale`.

use serde::{Deserialize, Serialize};

/// Makes the picture grey (three equal channels) with probability `p`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomGrayscale {
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

fn default_p() -> f64 {
    0.1
}

/// PIL's `convert("L")`: ITU-R 601-2 luma in 16 fraction bits, rounded.
#[inline]
pub(super) fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

pub(super) fn apply(rgb: &mut [u8]) {
    for pixel in rgb.chunks_exact_mut(3) {
        pixel.fill(luma(pixel[0], pixel[1], pixel[2]));
    }
}
