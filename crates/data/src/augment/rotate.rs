//! RandomRotation: torchvision's `transforms.RandomRotation` on PIL pictures, with its default
//! settings beside `degrees` and `fill` (nearest neighbour, around the middle, same size).

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

use super::Fill;

/// Turns the picture around its middle by an angle drawn evenly; its size stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomRotation {
    /// Degrees, counter-clockwise: `v` means [-v, v], or `[low, high]`.
    pub degrees: Degrees,
    /// The colour of the corners that come in: a grey, or `[r, g, b]`.
    #[serde(default)]
    pub fill: Fill,
}

/// Bounds of an angle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`degrees` must be a number, such as 10, or [low, high]"
)]
pub enum Degrees {
    /// As far to either side.
    Around(f64),
    /// From, to.
    Bounds([f64; 2]),
}

impl RandomRotation {
    fn bounds(&self) -> [f64; 2] {
        match self.degrees {
            Degrees::Around(v) => [-v, v],
            Degrees::Bounds(bounds) => bounds,
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let [low, high] = self.bounds();
        if low <= high && low.is_finite() && high.is_finite() {
            return Ok(());
        }
        Err(format!(
            "`degrees` gives angles from {low} to {high}; give a number of at least 0, or \
             [low, high]"
        ))
    }

    /// The angle in degrees.
    pub(super) fn draw(&self, stream: &mut Stream) -> f64 {
        let [low, high] = self.bounds();
        stream.uniform(low, high)
    }
}

/// PIL's `Image.rotate`: the place in the old picture of every pixel of the new one, in 16 fraction
/// bits.
pub(super) fn apply(degrees: f64, fill: Fill, rgb: &[u8], width: usize, out: &mut Vec<u8>) {
    let height = rgb.len() / 3 / width;
    let angle = degrees.rem_euclid(360.0);
    let fill = fill.rgb();
    out.clear();
    out.reserve(rgb.len());
    // PIL takes these apart, since nothing needs to be rounded there.
    if angle == 0.0 {
        return out.extend_from_slice(rgb);
    }
    if angle == 180.0 {
        return rgb.rchunks_exact(3).for_each(|p| out.extend_from_slice(p));
    }
    if width == height && (angle == 90.0 || angle == 270.0) {
        for y in 0..height {
            for x in 0..width {
                let (x, y) = match angle {
                    90.0 => (width - 1 - y, x),
                    _ => (y, height - 1 - x),
                };
                out.extend_from_slice(&rgb[(y * width + x) * 3..][..3]);
            }
        }
        return;
    }
    let radians = -angle.to_radians();
    // PIL rounds sine and cosine to 15 decimals.
    let rounded = |v: f64| (v * 1e15).round_ties_even() / 1e15;
    let (a, b) = (rounded(radians.cos()), rounded(radians.sin()));
    let (d, e) = (rounded(-radians.sin()), a);
    let (center_x, center_y) = (width as f64 / 2.0, height as f64 / 2.0);
    let c = a * -center_x + b * -center_y + center_x;
    let f = d * -center_x + e * -center_y + center_y;
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
    let (step_x, step_y) = (fixed(a), fixed(d));
    let mut row_x = fixed(c + a * 0.5 + b * 0.5);
    let mut row_y = fixed(f + d * 0.5 + e * 0.5);
    for _ in 0..height {
        let (mut at_x, mut at_y) = (row_x, row_y);
        for _ in 0..width {
            let (x, y) = (at_x >> 16, at_y >> 16);
            let inside = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
            out.extend_from_slice(match inside {
                true => &rgb[(y as usize * width + x as usize) * 3..][..3],
                false => &fill,
            });
            (at_x, at_y) = (at_x + step_x, at_y + step_y);
        }
        (row_x, row_y) = (row_x + fixed(b), row_y + fixed(e));
    }
}
