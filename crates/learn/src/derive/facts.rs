//! What a collection is like, as far as settings depend on it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use npid_data::source::{Picture, Source};
use serde::Serialize;

use crate::collections::KnnSplit;

/// Pictures that are decoded to find out, spread evenly over the collection.
pub const SAMPLE: usize = 64;

/// What is known of a collection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    /// N, pictures, unreadable ones included.
    pub images: usize,
    /// Pictures that were decoded to find out the rest.
    pub sampled: usize,
    /// The median width in pixels.
    pub width: usize,
    /// The median height in pixels.
    pub height: usize,
    /// The median of the shorter side in pixels.
    pub shorter: usize,
    /// Whether every picture of the sample is grey.
    pub grey: bool,
    /// Means of R, G and B in 0 to 1, each picture counting the same.
    pub mean: [f64; 3],
    /// Standard deviations of R, G and B in 0 to 1 around those means.
    pub std: [f64; 3],
    /// Number of pictures that vote in the kNN figure; 0 where there is none.
    pub voters: usize,
    /// Number of classes among them.
    pub classes: usize,
}

/// What one picture adds.
struct Look {
    width: usize,
    height: usize,
    grey: bool,
    /// Means of the channels and of their squares, in 0 to 1.
    mean: [f64; 3],
    square: [f64; 3],
}

impl Facts {
    /// Looks at a sample of the pictures of `source` on `threads` threads. `split` is the kNN
    /// figure's; `None` where there is none.
    ///
    /// `None` where no picture of the sample can be read.
    pub fn of(source: &dyn Source, split: Option<&KnnSplit>, threads: usize) -> Option<Self> {
        let images = source.len();
        let count = images.min(SAMPLE);
        // In 128 bits, since the product of two numbers of pictures needs not fit in 64.
        let row = |i: usize| (i as u128 * images as u128 / count as u128) as usize;
        let looks = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, 16) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return;
                        }
                        if let Ok(picture) = source.picture(row(index)) {
                            let look = Look::of(&picture);
                            let mut looks = looks.lock().unwrap_or_else(|e| e.into_inner());
                            looks.push((index, look));
                        }
                    }
                });
            }
        });
        let mut looks = looks.into_inner().unwrap_or_else(|e| e.into_inner());
        // Sums of floating-point numbers depend on their order; settings must not depend on
        // threads.
        looks.sort_by_key(|(index, _)| *index);
        let looks: Vec<Look> = looks.into_iter().map(|(_, look)| look).collect();
        let n = looks.len() as f64;
        let average = |of: fn(&Look) -> [f64; 3]| {
            std::array::from_fn(|c| looks.iter().map(|look| of(look)[c]).sum::<f64>() / n)
        };
        let mean: [f64; 3] = average(|look| look.mean);
        let square: [f64; 3] = average(|look| look.square);
        Some(Facts {
            images,
            sampled: looks.len(),
            width: median(looks.iter().map(|look| look.width).collect())?,
            height: median(looks.iter().map(|look| look.height).collect())?,
            shorter: median(looks.iter().map(|l| l.width.min(l.height)).collect())?,
            grey: looks.iter().all(|look| look.grey),
            mean,
            std: std::array::from_fn(|c| (square[c] - mean[c] * mean[c]).max(0.0).sqrt()),
            voters: split.map_or(0, |split| split.voters.len()),
            classes: split.map_or(0, |split| split.classes),
        })
    }
}

impl Look {
    fn of(picture: &Picture) -> Self {
        // Integer sums: exact, and the same in any order.
        let (mut sum, mut squares, mut grey) = ([0u64; 3], [0u64; 3], true);
        for pixel in picture.rgb.chunks_exact(3) {
            for (channel, &value) in pixel.iter().enumerate() {
                sum[channel] += u64::from(value);
                squares[channel] += u64::from(value).pow(2);
            }
            grey &= pixel[0] == pixel[1] && pixel[1] == pixel[2];
        }
        let n = (picture.rgb.len() / 3) as f64;
        Look {
            width: picture.width,
            height: picture.height,
            grey,
            mean: sum.map(|s| s as f64 / n / 255.0),
            square: squares.map(|s| s as f64 / n / (255.0 * 255.0)),
        }
    }
}

/// The median; of an even number of values the lower of the two in the middle.
fn median(mut values: Vec<usize>) -> Option<usize> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_data::patterns::{Patterns, Split};

    #[test]
    fn the_sample_says_what_the_pictures_are_like() {
        let source = Patterns::new(Split::Train, 300, 24, 0);
        let facts = Facts::of(&source, None, 1).unwrap();
        assert_eq!((facts.images, facts.sampled), (300, SAMPLE));
        assert_eq!((facts.width, facts.height, facts.shorter), (24, 24, 24));
        assert!(!facts.grey);
        // Straight from the pixels of the same pictures.
        let rows = (0..SAMPLE).map(|i| i * 300 / SAMPLE);
        let red: Vec<f64> = rows
            .flat_map(|row| source.picture(row).unwrap().rgb)
            .step_by(3)
            .map(|v| f64::from(v) / 255.0)
            .collect();
        let n = red.len() as f64;
        let mean = red.iter().sum::<f64>() / n;
        let variance = red.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        assert!((facts.mean[0] - mean).abs() < 1e-9);
        assert!((facts.std[0] - variance.sqrt()).abs() < 1e-9);
        assert_eq!(Facts::of(&source, None, 4).unwrap(), facts);
    }
}
