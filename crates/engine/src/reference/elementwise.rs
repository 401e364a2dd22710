//! Operations element by element: the input's normalisation, ReLU, sum.

use super::float::Float;

/// Bytes to numbers: (x / 255 - mean) / std for each channel, as torchvision's `ToTensor` and
/// `Normalize`. `pixels` and the result are B x H x W x C.
///
/// A convolution pads this result with 0, that is with the mean colour, as PyTorch does.
pub fn normalise<T: Float>(pixels: &[u8], mean: &[f32], std: &[f32]) -> Vec<T> {
    let channels = mean.len();
    let one = |(j, &p): (usize, &u8)| {
        let c = j % channels;
        T::of((f64::from(p) / 255.0 - f64::from(mean[c])) / f64::from(std[c]))
    };
    pixels.iter().enumerate().map(one).collect()
}

/// y = max(x, 0), of any shape. The backward pass needs `x` alone. NaN stays NaN.
pub fn relu<T: Float>(x: &[T]) -> Vec<T> {
    x.iter()
        .map(|&v| if v <= T::ZERO { T::ZERO } else { v })
        .collect()
}

/// dx = dy where x > 0, else 0 (at 0 itself too, as PyTorch does); overwriting.
pub fn relu_backward<T: Float>(x: &[T], dy: &[T]) -> Vec<T> {
    x.iter()
        .zip(dy)
        .map(|(&v, &g)| if v <= T::ZERO { T::ZERO } else { g })
        .collect()
}

/// a + b, of equal shapes. Both gradients are dy itself.
pub fn add<T: Float>(a: &[T], b: &[T]) -> Vec<T> {
    a.iter().zip(b).map(|(&a, &b)| a + b).collect()
}
