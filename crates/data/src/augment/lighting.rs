//! Lighting: the colour noise of AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012, section
//! 4.1), with the principal components of ImageNet's colours that MMSelfSup's transform has.

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

/// Adds a colour to every pixel: principal components of ImageNet's colours, each times its
/// eigenvalue and a normal number.
///
/// MMSelfSup adds it to floating-point samples; here the sum is rounded to 8 bits and clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lighting {
    /// Standard deviation of the normal numbers, at least 0.
    #[serde(default = "default_alphastd")]
    pub alphastd: f64,
}

fn default_alphastd() -> f64 {
    0.1
}

const EIGENVALUES: [f64; 3] = [0.2175, 0.0188, 0.0045];

/// Rows are R, G, B; columns are components.
const EIGENVECTORS: [[f64; 3]; 3] = [
    [-0.5675, 0.7192, 0.4009],
    [-0.5808, -0.0045, -0.8140],
    [-0.5836, -0.6948, 0.4203],
];

impl Lighting {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.alphastd >= 0.0 && self.alphastd.is_finite() {
            return Ok(());
        }
        Err(format!(
            "`alphastd` is {}; give a standard deviation of at least 0, such as 0.1",
            self.alphastd
        ))
    }

    /// Factors of the three components.
    pub(super) fn draw(&self, stream: &mut Stream) -> [f64; 3] {
        std::array::from_fn(|_| self.alphastd * stream.normal())
    }
}

pub(super) fn apply(alpha: [f64; 3], rgb: &mut [u8]) {
    let added = EIGENVECTORS.map(|row| {
        let sum: f64 = (0..3).map(|c| row[c] * alpha[c] * EIGENVALUES[c]).sum();
        255.0 * sum
    });
    let tables = added.map(|added| {
        // A float turned into u8 is clamped to 0..=255.
        std::array::from_fn::<u8, 256, _>(|v| (v as f64 + added).round() as u8)
    });
    for pixel in rgb.chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::Purpose;

    #[test]
    fn factors_are_normal() {
        let lighting = Lighting { alphastd: 0.1 };
        let mut all = Vec::new();
        for item in 0..5000 {
            let mut stream = Stream::new(1, Purpose::Augment, 0, item, 0);
            all.extend(lighting.draw(&mut stream));
        }
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let deviation = (all.iter().map(|a| a * a).sum::<f64>() / all.len() as f64).sqrt();
        assert!(mean.abs() < 0.004, "{mean}");
        assert!((deviation - 0.1).abs() < 0.003, "{deviation}");
        let inside = all.iter().filter(|a| a.abs() < 0.1).count() as f64 / all.len() as f64;
        assert!((inside - 0.6827).abs() < 0.016, "{inside}");
    }
}
