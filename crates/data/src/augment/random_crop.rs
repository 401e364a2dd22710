//! RandomCrop: torchvision's `transforms.RandomCrop`, with padding as CIFAR's pictures get it.

use npid_network::philox::Stream;
use serde::{Deserialize, Serialize};

use super::Extent;

/// Cuts out a part of fixed size at a random place, after pixels were added around the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomCrop {
    /// Size of the part.
    pub size: Extent,
    /// Pixels added at each side: one number, `[left and right, top and bottom]` or
    /// `[left, top, right, bottom]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
    /// Whether more are added where the part is still larger than the picture: what is missing of
    /// its width at the left and at the right, and of its height above and below. Where it isn't
    /// set torchvision fails on such a picture; here it is done all the same.
    #[serde(default)]
    pub pad_if_needed: bool,
    /// The colour of added pixels with `padding_mode = "constant"`: a grey, or `[r, g, b]`.
    #[serde(default)]
    pub fill: Fill,
    /// What added pixels are.
    #[serde(default)]
    pub padding_mode: PaddingMode,
}

/// How many pixels are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`padding` must be a number of pixels, such as 4, or two or four of them"
)]
pub enum Padding {
    /// At every side.
    All(usize),
    /// Left and right, then top and bottom.
    Pairs([usize; 2]),
    /// Left, top, right, bottom.
    Sides([usize; 4]),
}

/// A colour, 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`fill` must be a grey from 0 to 255, or [r, g, b]"
)]
pub enum Fill {
    /// Three equal channels.
    Grey(u8),
    /// R, G, B.
    Rgb([u8; 3]),
}

impl Fill {
    /// R, G, B.
    pub(super) fn rgb(self) -> [u8; 3] {
        match self {
            Fill::Grey(v) => [v; 3],
            Fill::Rgb(rgb) => rgb,
        }
    }
}

impl Default for Fill {
    fn default() -> Self {
        Fill::Grey(0)
    }
}

/// What is added around a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaddingMode {
    /// One colour.
    #[default]
    Constant,
    /// The outermost pixels again.
    Edge,
    /// The picture mirrored at its outermost pixels, which aren't repeated.
    Reflect,
    /// The picture mirrored at its edges.
    Symmetric,
}

/// The most pixels that may be added at a side.
const MAX_PADDING: usize = 8192;

/// Pixels added along one axis: before and after, first by `padding`, then because it was needed.
#[derive(Clone, Copy)]
struct Added {
    size: usize,
    before: usize,
    after: usize,
    needed: usize,
}

impl Added {
    /// The length with everything added.
    fn total(self) -> usize {
        self.padded() + 2 * self.needed
    }

    /// With what `padding` adds.
    fn padded(self) -> usize {
        self.size + self.before + self.after
    }

    /// Which of the picture's positions is seen at `at`; `None` for the colour.
    fn position(self, at: usize, mode: PaddingMode) -> Option<usize> {
        let at = mode.position(at as isize - self.needed as isize, self.padded())?;
        mode.position(at as isize - self.before as isize, self.size)
    }
}

impl PaddingMode {
    /// The position in 0..size that is seen at `at`.
    fn position(self, at: isize, size: usize) -> Option<usize> {
        let n = size as isize;
        if (0..n).contains(&at) {
            return Some(at as usize);
        }
        let mirrored = |period: isize, back: isize| {
            let at = at.rem_euclid(period);
            if at < n { at } else { back - at }
        };
        let at = match self {
            PaddingMode::Constant => return None,
            PaddingMode::Edge => at.clamp(0, n - 1),
            PaddingMode::Reflect if n == 1 => 0,
            PaddingMode::Reflect => mirrored(2 * n - 2, 2 * n - 2),
            PaddingMode::Symmetric => mirrored(2 * n, 2 * n - 1),
        };
        Some(at as usize)
    }
}

impl RandomCrop {
    pub(super) fn validate(&self) -> Result<(), String> {
        self.size.validate()?;
        let [left, top, right, bottom] = self.sides();
        match [left, top, right, bottom].into_iter().max() {
            Some(most) if most > MAX_PADDING => Err(format!(
                "`padding` is {most}; it must be at most {MAX_PADDING} pixels a side"
            )),
            _ => Ok(()),
        }
    }

    /// Left, top, right, bottom.
    fn sides(&self) -> [usize; 4] {
        match self.padding {
            None => [0; 4],
            Some(Padding::All(n)) => [n; 4],
            Some(Padding::Pairs([x, y])) => [x, y, x, y],
            Some(Padding::Sides(sides)) => sides,
        }
    }

    /// What is added to `width` and to `height`.
    fn added(&self, width: usize, height: usize) -> (Added, Added) {
        let [left, top, right, bottom] = self.sides();
        let (h, w) = self.size.height_width();
        let axis = |size: usize, before, after, wanted: usize| Added {
            size,
            before,
            after,
            needed: wanted.saturating_sub(size + before + after),
        };
        (axis(width, left, right, w), axis(height, top, bottom, h))
    }

    /// (top, left) of the part in the picture with everything added.
    pub(super) fn draw(&self, stream: &mut Stream, width: usize, height: usize) -> (usize, usize) {
        let (x, y) = self.added(width, height);
        let (h, w) = self.size.height_width();
        (
            stream.below((y.total() - h + 1) as u64) as usize,
            stream.below((x.total() - w + 1) as u64) as usize,
        )
    }

    /// Cuts the part at `(top, left)` out of a picture of `width` x `height` pixels, into `out`.
    pub(super) fn apply(
        &self,
        (top, left): (usize, usize),
        rgb: &[u8],
        width: usize,
        height: usize,
        out: &mut Vec<u8>,
    ) {
        let (x, y) = self.added(width, height);
        let (h, w) = self.size.height_width();
        let fill = self.fill.rgb();
        out.clear();
        out.reserve(h * w * 3);
        for row in 0..h {
            let row = y.position(top + row, self.padding_mode);
            for column in 0..w {
                let column = x.position(left + column, self.padding_mode);
                out.extend_from_slice(match (row, column) {
                    (Some(row), Some(column)) => &rgb[(row * width + column) * 3..][..3],
                    _ => &fill,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::Purpose;

    /// Every place of a 32x32 part in a padded 32x32 picture comes equally often.
    #[test]
    fn places_are_even() {
        let crop = RandomCrop {
            size: Extent::Square(32),
            padding: Some(Padding::All(1)),
            pad_if_needed: false,
            fill: Fill::default(),
            padding_mode: PaddingMode::default(),
        };
        let mut counts = [[0f64; 3]; 3];
        let draws = 9000;
        for item in 0..draws {
            let mut stream = Stream::new(2, Purpose::Augment, 0, item, 0);
            let (top, left) = crop.draw(&mut stream, 32, 32);
            counts[top][left] += 1.0;
        }
        let even = draws as f64 / 9.0;
        let cells = counts.iter().flatten();
        let fit: f64 = cells.map(|n| (n - even).powi(2) / even).sum();
        // The 0.9999 quantile of chi-square with 8 degrees of freedom.
        assert!(fit < 31.9, "{fit}: {counts:?}");
    }

    #[test]
    fn mirrors_go_on_for_ever() {
        let seen = |mode: PaddingMode, n| -> Vec<_> {
            (-7..8).map(|at| mode.position(at, n).unwrap()).collect()
        };
        assert_eq!(
            seen(PaddingMode::Reflect, 3),
            [1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
        );
        assert_eq!(
            seen(PaddingMode::Symmetric, 3),
            [0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]
        );
        assert_eq!(seen(PaddingMode::Reflect, 1), [0; 15]);
        assert_eq!(PaddingMode::Constant.position(-1, 3), None);
    }
}
