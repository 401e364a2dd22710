//! Solarization: MMSelfSup's transform of this name and torchvision's `transforms.RandomSolarize`,
//! which are PIL's `ImageOps.solarize`.

use serde::{Deserialize, Serialize};

/// Inverts every sample that is not below a threshold, with probability `p`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarization {
    /// The smallest sample that is inverted, 0 to 256; 256 inverts none.
    #[serde(default = "default_threshold")]
    pub threshold: f64,
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

fn default_threshold() -> f64 {
    128.0
}

fn default_p() -> f64 {
    0.5
}

impl Solarization {
    pub(super) fn validate(&self) -> Result<(), String> {
        super::check_probability(self.p)?;
        if (0.0..=256.0).contains(&self.threshold) {
            return Ok(());
        }
        Err(format!(
            "`threshold` is {}; samples are 0 to 255, so give a number from 0 to 256",
            self.threshold
        ))
    }
}

pub(super) fn apply(threshold: f64, rgb: &mut [u8]) {
    for value in rgb {
        if f64::from(*value) >= threshold {
            *value = 255 - *value;
        }
    }
}
