//! Normalize: torchvision's `transforms.Normalize`, after `ToTensor`.

use serde::{Deserialize, Serialize};

/// (v / 255 - mean) / std in each channel, applied by the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Means of R, G and B, for values in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviations of R, G and B, for values in 0 to 1, above 0.
    pub std: [f32; 3],
}

impl Normalize {
    /// v / 255 and nothing else: what a pipeline without a `Normalize` means.
    pub const NONE: Normalize = Normalize {
        mean: [0.0; 3],
        std: [1.0; 3],
    };

    pub(super) fn validate(&self) -> Result<(), String> {
        for (key, values) in [("mean", self.mean), ("std", self.std)] {
            if values.iter().any(|v| !(0.0..=1.0).contains(v)) {
                return Err(format!(
                    "`{key}` is {values:?}; values are 0 to 1 here: divide by 255"
                ));
            }
        }
        if self.std.contains(&0.0) {
            return Err("`std` holds a 0; each must be above 0".into());
        }
        Ok(())
    }
}
