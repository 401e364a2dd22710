//! GaussianBlur: MMSelfSup's transform of this name, which is PIL's `ImageFilter.GaussianBlur`.
//!
//! PIL has no Gaussian: three box blurs along each side come close to one (Gwosdek, Grewenig, Bruhn
//! and Weickert, "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM
//! 2011). A box may end between pixels: its two outermost ones count by a fraction. Results are
//! bit for bit those of Pillow's `BoxBlur.c`: 8-bit samples between the passes, weights of 24 bits.
//! (torchvision's own `GaussianBlur`, with `kernel_size` and `sigma`, is another operation.)

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

/// Blurs with probability `p`, by a standard deviation drawn evenly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// The smallest standard deviation in pixels, at least 0.
    pub sigma_min: f64,
    /// The largest, at most 1000.
    pub sigma_max: f64,
    /// The probability, 0 to 1; `prob` is accepted too.
    #[serde(default = "default_p", alias = "prob")]
    pub p: f64,
}

fn default_p() -> f64 {
    0.5
}

/// Boxes along a side of the picture.
const PASSES: usize = 3;

/// Fraction bits of a weight.
const PRECISION: u32 = 24;

impl GaussianBlur {
    pub(super) fn validate(&self) -> Result<(), String> {
        super::check_probability(self.p)?;
        let (low, high) = (self.sigma_min, self.sigma_max);
        if 0.0 <= low && low <= high && high <= 1000.0 {
            return Ok(());
        }
        Err(format!(
            "`sigma_min` is {low} and `sigma_max` {high}; give two standard deviations in pixels, \
             ascending, from 0 to 1000, such as 0.1 and 2.0"
        ))
    }

    /// The standard deviation; `None` leaves the picture.
    pub(super) fn draw(&self, stream: &mut Stream) -> Option<f64> {
        (stream.unit() < self.p).then(|| stream.uniform(self.sigma_min, self.sigma_max))
    }
}

/// A box of 2 · radius + 1 whole pixels and a fraction of one at each end.
#[derive(Clone, Copy)]
struct Kernel {
    radius: usize,
    /// Weight of a whole pixel.
    whole: u32,
    /// Weight of each of the two outermost.
    outer: u32,
}

impl Kernel {
    /// Pillow's `_gaussian_blur_radius` and the weights made of it, in its mixture of f32 and f64.
    fn new(sigma: f64) -> Self {
        let sigma = sigma as f32;
        let sigma2 = sigma * sigma / PASSES as f32;
        let length = (12.0 * f64::from(sigma2) + 1.0).sqrt() as f32;
        let l = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let fraction = (2.0 * l + 1.0) * (l * (l + 1.0) - 3.0 * sigma2)
            / (6.0 * (sigma2 - (l + 1.0) * (l + 1.0)));
        let radius = l + fraction;
        let one = 1u32 << PRECISION;
        let whole = (one as f32 / (radius * 2.0 + 1.0)) as u32;
        let radius = radius as usize;
        Kernel {
            radius,
            whole,
            outer: (one - (radius as u32 * 2 + 1) * whole) / 2,
        }
    }

    /// Blurs a line of pixels in place; beyond its ends it goes on as it ends. `extended` is
    /// memory to work in.
    fn line(self, line: &mut [u8], extended: &mut Vec<u8>) {
        let beyond = self.radius + 1;
        let end = line.len() - 3;
        let (first, last) = (
            [line[0], line[1], line[2]],
            [line[end], line[end + 1], line[end + 2]],
        );
        extended.clear();
        (0..beyond).for_each(|_| extended.extend_from_slice(&first));
        extended.extend_from_slice(line);
        (0..beyond).for_each(|_| extended.extend_from_slice(&last));
        let mut sums = [0u32; 3];
        for pixel in extended[..(2 * self.radius + 1) * 3].chunks_exact(3) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += u32::from(value);
            }
        }
        let span = (2 * self.radius + 1) * 3;
        for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
            let before = &extended[x * 3..];
            for channel in 0..3 {
                // The box moves by a pixel: one comes in, one goes and is now the outermost left.
                let out = u32::from(before[channel]);
                sums[channel] += u32::from(before[span + channel]);
                sums[channel] -= out;
                let right = u32::from(before[span + 3 + channel]);
                let sum = sums[channel] * self.whole + (out + right) * self.outer;
                pixel[channel] = ((sum + (1 << (PRECISION - 1))) >> PRECISION) as u8;
            }
        }
    }
}

/// Blurs a picture of `width` pixels a row by `sigma`; `turned` and `line` are memory to work in.
pub(super) fn apply(
    sigma: f64,
    rgb: &mut [u8],
    width: usize,
    turned: &mut Vec<u8>,
    line: &mut Vec<u8>,
) {
    if sigma == 0.0 {
        return;
    }
    let kernel = Kernel::new(sigma);
    let height = rgb.len() / 3 / width;
    let along = |rgb: &mut [u8], length: usize, extended: &mut Vec<u8>| {
        for row in rgb.chunks_exact_mut(length * 3) {
            (0..PASSES).for_each(|_| kernel.line(row, extended));
        }
    };
    along(rgb, width, line);
    // Columns are walked as rows of the turned picture.
    turned.resize(rgb.len(), 0);
    transpose(rgb, width, turned);
    along(turned, height, line);
    transpose(turned, height, rgb);
}

/// Columns become rows.
fn transpose(from: &[u8], width: usize, to: &mut [u8]) {
    let height = from.len() / 3 / width;
    for (y, row) in from.chunks_exact(width * 3).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            to[(x * height + y) * 3..][..3].copy_from_slice(pixel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::Purpose;

    /// The variance of what one white column becomes is what was asked for, by the box's ends
    /// between pixels.
    #[test]
    fn the_spread_is_the_standard_deviation() {
        for sigma in [0.6, 1.0, 1.7, 3.2] {
            let width = 61;
            let mut rgb = vec![0; width * 3];
            rgb[30 * 3..][..3].fill(255);
            // A line a pixel high: across it nothing changes.
            apply(sigma, &mut rgb, width, &mut Vec::new(), &mut Vec::new());
            let at = |x: usize| f64::from(rgb[x * 3]);
            let sum: f64 = (0..width).map(at).sum();
            let variance = (0..width)
                .map(|x| at(x) * (x as f64 - 30.0).powi(2))
                .sum::<f64>()
                / sum;
            let off = variance.sqrt() / sigma - 1.0;
            assert!(off.abs() < 0.06, "{sigma}: {}", variance.sqrt());
            assert!((sum - 255.0).abs() < 12.0, "{sigma}: {sum}");
        }
    }

    #[test]
    fn chance_and_standard_deviation_are_as_given() {
        let blur = GaussianBlur {
            sigma_min: 0.1,
            sigma_max: 2.0,
            p: 0.3,
        };
        let draws = 20_000;
        let mut bins = [0f64; 10];
        for item in 0..draws {
            let mut stream = Stream::new(5, Purpose::Augment, 2, item, 0);
            if let Some(sigma) = blur.draw(&mut stream) {
                bins[((sigma - 0.1) / 1.9 * 10.0) as usize] += 1.0;
            }
        }
        let blurred: f64 = bins.iter().sum();
        let expected = 0.3 * draws as f64;
        // Four standard deviations of the binomial.
        assert!(
            (blurred - expected).abs() < 4.0 * (expected * 0.7).sqrt(),
            "{blurred}"
        );
        let even = blurred / 10.0;
        let fit: f64 = bins.iter().map(|n| (n - even).powi(2) / even).sum();
        // The 0.9999 quantile of chi-square with 9 degrees of freedom.
        assert!(fit < 33.7, "{fit}: {bins:?}");
    }
}
