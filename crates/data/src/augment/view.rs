//! The view of a picture that evaluation takes: no chance in it.

use super::{CenterCrop, CropBox, Extent, Interpolation, Resize, View, Workspace};
use crate::source::Picture;

/// A `size` x `size` view of a picture.
///
/// - A picture of that size is taken as it is.
/// - Above 64 pixels: the shorter side is resized to round(size * 256 / 224) and the middle cut
///   out, as everyone evaluates ImageNet (224 of 256).
/// - At 64 pixels and below: the shorter side is resized to `size` and the middle cut out. Pictures
///   of that size (CIFAR, Tiny ImageNet) are evaluated whole, so nothing more is cut away, and
///   proportions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalView {
    /// Side of the view in pixels, at least 1.
    pub size: usize,
}

impl EvalView {
    /// Writes the view of `picture` into `out`, `size * size * 3` bytes (H x W x 3).
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn apply(&self, picture: &Picture, workspace: &mut Workspace, out: &mut [u8]) {
        let size = self.size;
        let (width, height) = (picture.width, picture.height);
        if (width, height) == (size, size) {
            out.copy_from_slice(&picture.rgb);
            return;
        }
        let shorter = if size > 64 {
            (size as f64 * 256.0 / 224.0).round() as usize
        } else {
            size
        };
        let resize = Resize {
            size: Extent::Square(shorter),
            interpolation: Interpolation::Bilinear,
        };
        let (h, w) = resize.output_size(height, width);
        let whole = CropBox {
            top: 0,
            left: 0,
            height,
            width,
        };
        let from = View {
            width,
            rgb: &picture.rgb,
        };
        let (to, filter) = ((h, w), resize.interpolation);
        (workspace.resampler).crop_resize(from, whole, to, filter, &mut workspace.rgb);
        let middle = CenterCrop {
            size: Extent::Square(size),
        };
        middle.apply(&workspace.rgb, w, h, &mut workspace.spare);
        out.copy_from_slice(&workspace.spare);
    }
}
