//! Antialiased bilinear resizing, bit for bit as Pillow's `Image.resize` (`Resample.c`): two passes
//! with 8-bit samples between them and coefficients of 22 bits.

use super::{CropBox, View};

/// Fraction bits of a coefficient: 8 bits of sample and 2 of headroom remain of 32.
const PRECISION: u32 = 32 - 8 - 2;

/// Coefficients and the picture between the passes, kept from one picture to the next.
#[derive(Default)]
pub(super) struct Resampler {
    horizontal: Taps,
    vertical: Taps,
    between: Vec<u8>,
    row: Vec<i32>,
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
    /// Pillow's `precompute_coeffs` with the triangle filter, then `normalize_coeffs_8bpc`.
    fn prepare(&mut self, input: usize, output: usize) {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter_scale;
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
            self.float.extend((0..count).map(|tap| {
                let distance = ((tap + first) as f64 - center + 0.5) * inverse;
                (1.0 - distance.abs()).max(0.0)
            }));
            let sum: f64 = self.float.iter().sum();
            for (weight, &value) in weights.iter_mut().zip(&self.float) {
                let value = if sum == 0.0 { value } else { value / sum };
                *weight = (0.5 + value * f64::from(1u32 << PRECISION)) as i32;
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
    /// Cuts `part` out of `picture` and resizes it to `width` x `height`, into `out`. As in
    /// torchvision the cut comes first: nothing outside it has an influence.
    pub(super) fn crop_resize(
        &mut self,
        picture: View<'_>,
        part: CropBox,
        width: usize,
        height: usize,
        out: &mut Vec<u8>,
    ) {
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
        self.horizontal.prepare(input, width);
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
        self.vertical.prepare(input, height);
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
