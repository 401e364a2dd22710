//! Antialiased resizing, bit for bit as Pillow's `Image.resize` (`Resample.c`): two passes with
//! 8-bit samples between them and coefficients of 22 bits.

use serde::{Deserialize, Serialize};

use super::{CropBox, View};

/// How a new sample is made of old ones: PIL's filters, widened by the scale where a picture
/// shrinks.
///
/// In a recipe a name, or torchvision's number for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "NameOrNumber")]
pub enum Interpolation {
    /// The mean of what lies below (4).
    Box,
    /// A triangle (2).
    #[default]
    Bilinear,
    /// As sharp as bicubic and as narrow as bilinear (5).
    Hamming,
    /// Keys' cubic with a = -0.5 (3).
    Bicubic,
    /// A sinc over three lobes (1).
    Lanczos,
}

/// As a recipe may spell it.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "`interpolation` must be \"bilinear\", \"bicubic\", \"lanczos\", \"box\" or \"hamming\""
)]
enum NameOrNumber {
    Number(u32),
    Name(String),
}

impl TryFrom<NameOrNumber> for Interpolation {
    type Error = String;

    fn try_from(given: NameOrNumber) -> Result<Self, String> {
        use Interpolation::{Bicubic, Bilinear, Box, Hamming, Lanczos};
        // The numbers are PIL's.
        let known = [
            ("lanczos", 1, Lanczos),
            ("bilinear", 2, Bilinear),
            ("bicubic", 3, Bicubic),
            ("box", 4, Box),
            ("hamming", 5, Hamming),
        ];
        let (found, shown) = match &given {
            NameOrNumber::Number(n) => (known.iter().find(|k| k.1 == *n), n.to_string()),
            NameOrNumber::Name(name) => (known.iter().find(|k| k.0 == name), name.clone()),
        };
        found.map(|k| k.2).ok_or_else(|| {
            format!(
                "`interpolation` is {shown}; it can be bilinear, bicubic, lanczos, box or hamming"
            )
        })
    }
}

impl Interpolation {
    /// Whether it is what is meant where nothing is said.
    pub(super) fn is_default(&self) -> bool {
        *self == Interpolation::default()
    }

    /// How far the filter reaches, in samples.
    fn support(self) -> f64 {
        match self {
            Interpolation::Box => 0.5,
            Interpolation::Bilinear | Interpolation::Hamming => 1.0,
            Interpolation::Bicubic => 2.0,
            Interpolation::Lanczos => 3.0,
        }
    }

    /// The filter at a distance.
    fn weight(self, distance: f64) -> f64 {
        let sinc = |x: f64| match x {
            0.0 => 1.0,
            x => (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI),
        };
        let x = distance.abs();
        match self {
            // Half open, so that no sample counts twice.
            Interpolation::Box => f64::from(-0.5 < distance && distance <= 0.5),
            Interpolation::Bilinear => (1.0 - x).max(0.0),
            Interpolation::Hamming if x >= 1.0 => 0.0,
            Interpolation::Hamming => sinc(x) * (0.54 + 0.46 * (x * std::f64::consts::PI).cos()),
            Interpolation::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Interpolation::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Interpolation::Bicubic => 0.0,
            Interpolation::Lanczos if (-3.0..3.0).contains(&distance) => sinc(x) * sinc(x / 3.0),
            Interpolation::Lanczos => 0.0,
        }
    }
}

/// Fraction bits of a coefficient: 8 bits of sample and 2 of headroom remain of 32.
const PRECISION: u32 = 32 - 8 - 2;

/// Coefficients and the picture between the passes, kept from one picture to the next.
#[derive(Default)]
pub(super) struct Resampler {
    horizontal: Taps,
    vertical: Taps,
    between: Vec<u8>,
    row: Vec<i32>,
    filter: Interpolation,
}

/// For each output position the inputs that it is made of, with their weights.
#[derive(Default)]
struct Taps {
    /// First input, number of inputs.
    ranges: Vec<(usize, usize)>,
    /// `stride` weights for each output, of which the first are used.
    weights: Vec<i32>,
    stride: usize,
    float: Vec<f64>,
}

impl Taps {
    /// Pillow's `precompute_coeffs`, then `normalize_coeffs_8bpc`.
    fn prepare(&mut self, input: usize, output: usize, filter: Interpolation) {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let inverse = 1.0 / filter_scale;
        self.stride = support.ceil() as usize * 2 + 1;
        self.ranges.clear();
        self.weights.clear();
        self.weights.resize(output * self.stride, 0);
        for (position, weights) in self.weights.chunks_exact_mut(self.stride).enumerate() {
            let center = (position as f64 + 0.5) * scale;
            // Truncated towards zero, as C does; a negative one is 0 as usize.
            let first = (center - support + 0.5) as usize;
            let count = ((center + support + 0.5) as usize).min(input) - first;
            self.float.clear();
            self.float.extend(
                (0..count)
                    .map(|tap| filter.weight(((tap + first) as f64 - center + 0.5) * inverse)),
            );
            let sum: f64 = self.float.iter().sum();
            for (weight, &value) in weights.iter_mut().zip(&self.float) {
                let value = if sum == 0.0 { value } else { value / sum };
                let fixed = value * f64::from(1u32 << PRECISION);
                // Rounded away from zero at halves: `as` truncates.
                *weight = (fixed + 0.5f64.copysign(fixed)) as i32;
            }
            self.ranges.push((first, count));
        }
    }

    fn of(&self, position: usize) -> (usize, &[i32]) {
        let (first, count) = self.ranges[position];
        (first, &self.weights[position * self.stride..][..count])
    }
}

/// A sum of weighted samples, rounded: the half that rounds it was added at the start.
#[inline]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

impl Resampler {
    /// Cuts `part` out of `picture` and resizes it to `height` x `width`, into `out`. As in
    /// torchvision the cut comes first: nothing outside it has an influence.
    pub(super) fn crop_resize(
        &mut self,
        picture: View<'_>,
        part: CropBox,
        (height, width): (usize, usize),
        filter: Interpolation,
        out: &mut Vec<u8>,
    ) {
        self.filter = filter;
        let row_of = |y: usize| {
            let start = ((part.top + y) * picture.width + part.left) * 3;
            &picture.rgb[start..start + part.width * 3]
        };
        out.clear();
        out.resize(width * height * 3, 0);
        if part.height == height {
            self.horizontal_pass(part.width, width, row_of, out);
            return;
        }
        if part.width == width {
            self.vertical_pass(part.height, width, height, row_of, out);
            return;
        }
        // The samples between the passes are rounded to 8 bits, so the order is seen in the result.
        let mut between = std::mem::take(&mut self.between);
        between.clear();
        if vertical_first(part.width, part.height, width, height) {
            between.resize(part.width * height * 3, 0);
            self.vertical_pass(part.height, part.width, height, row_of, &mut between);
            let row_of = |y: usize| &between[y * part.width * 3..][..part.width * 3];
            self.horizontal_pass(part.width, width, row_of, out);
        } else {
            between.resize(width * part.height * 3, 0);
            self.horizontal_pass(part.width, width, row_of, &mut between);
            let row_of = |y: usize| &between[y * width * 3..][..width * 3];
            self.vertical_pass(part.height, width, height, row_of, out);
        }
        self.between = between;
    }

    /// Makes every row of `out` from the row of the same number.
    fn horizontal_pass<'a>(
        &mut self,
        input: usize,
        width: usize,
        row_of: impl Fn(usize) -> &'a [u8],
        out: &mut [u8],
    ) {
        if input == width {
            for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
                out.copy_from_slice(row_of(y));
            }
            return;
        }
        self.horizontal.prepare(input, width, self.filter);
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
            let row = row_of(y);
            for (x, out) in out.chunks_exact_mut(3).enumerate() {
                let (first, weights) = self.horizontal.of(x);
                let pixels = &row[first * 3..(first + weights.len()) * 3];
                let mut sums = [1i32 << (PRECISION - 1); 3];
                for (pixel, &weight) in pixels.chunks_exact(3).zip(weights) {
                    sums[0] += i32::from(pixel[0]) * weight;
                    sums[1] += i32::from(pixel[1]) * weight;
                    sums[2] += i32::from(pixel[2]) * weight;
                }
                out[0] = clip(sums[0]);
                out[1] = clip(sums[1]);
                out[2] = clip(sums[2]);
            }
        }
    }

    /// Makes `height` rows of `width` pixels from `input` ones.
    fn vertical_pass<'a>(
        &mut self,
        input: usize,
        width: usize,
        height: usize,
        row_of: impl Fn(usize) -> &'a [u8],
        out: &mut [u8],
    ) {
        self.vertical.prepare(input, height, self.filter);
        self.row.resize(width * 3, 0);
        for (y, out) in out.chunks_exact_mut(width * 3).enumerate() {
            let (first, weights) = self.vertical.of(y);
            self.row.fill(1 << (PRECISION - 1));
            for (tap, &weight) in weights.iter().enumerate() {
                for (sum, &sample) in self.row.iter_mut().zip(row_of(first + tap)) {
                    *sum += i32::from(sample) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&self.row) {
                *out = clip(sum);
            }
        }
    }
}

/// Whether the vertical pass comes first: in Pillow 13 where the height shrinks by more than twice
/// what the width does (python-pillow/Pillow#9549). Before, it never did; the results then differ
/// by at most 1.
fn vertical_first(from_width: usize, from_height: usize, width: usize, height: usize) -> bool {
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let rows = shrinks(from_height, height);
    rows > 0 && 2 * shrinks(from_width, width) < rows
}
