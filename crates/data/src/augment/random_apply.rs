//! RandomApply: torchvision's `transforms.RandomApply`, MMSelfSup's `RandomAppliedTrans`.

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

use super::{Drawn, Transform};

/// Does all of some transforms, or none, with probability `p` for all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomApply {
    /// The transforms, in order; at least one, and none that may change the picture's size.
    pub transforms: Vec<Transform>,
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

fn default_p() -> f64 {
    0.5
}

impl RandomApply {
    pub(super) fn validate(&self) -> Result<(), String> {
        super::check_probability(self.p)?;
        if self.transforms.is_empty() {
            return Err("`transforms` is empty; put at least one transform in it".into());
        }
        for step in &self.transforms {
            step.validate()?;
            if step.fixes_size() || matches!(step, Transform::Resize(_)) {
                return Err(format!(
                    "{} would leave the size of the picture to chance; put it outside",
                    step.name()
                ));
            }
            if matches!(step, Transform::Normalize(_)) {
                return Err("Normalize is the same for every picture; put it last, outside".into());
            }
        }
        Ok(())
    }

    /// What each of the transforms does; `None` where none is done. One that isn't done takes no
    /// numbers.
    pub(super) fn draw(
        &self,
        stream: &mut Stream,
        width: usize,
        height: usize,
    ) -> Option<Vec<Drawn>> {
        if stream.unit() >= self.p {
            return None;
        }
        let draw = |step: &Transform| step.draw(stream, width, height);
        Some(self.transforms.iter().map(draw).collect())
    }
}
