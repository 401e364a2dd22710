//! From encoded bytes to RGB: what a picture is, is told by its first bytes, never by its name.
//!
//! Pictures become RGB as PIL's `convert("RGB")` does: grey is repeated, a palette is looked up,
//! alpha is dropped without blending. Two deviations, both on purpose: 16-bit samples are scaled
//! (`v >> 8`) where PIL clips grey ones at 255, and the EXIF orientation is applied.
//!
//! PNGs are PIL's to the bit. JPEGs are within 2 of 255 of libjpeg-turbo's, except where colours are
//! stored at half the resolution both ways (4:2:0): there zune-jpeg rounds between the two passes of
//! its interpolation and doesn't stop it at the picture's edge. Over 200 photographs 0.008 % of the
//! samples differ by more than 2, and the largest difference is 7.

mod exif;
mod jpeg;
mod png;

use std::panic::catch_unwind;

use crate::source::{Picture, PictureError};

/// The largest picture that is decoded, in pixels: 16,384 x 16,384. A few hundred bytes can claim
/// to be larger than any memory, and such a claim is refused before anything is allocated.
pub const MAX_PIXELS: u64 = 1 << 28;

/// Decodes a JPEG or PNG to RGB.
///
/// # Errors
/// The reason, in a few words: not a JPEG or PNG (and what it looks like), cut short, corrupt, of
/// an unsupported kind, or larger than [`MAX_PIXELS`]. A picture that is cut short is an error, as
/// it is for PIL, and never a half-grey picture.
pub fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let decoder: fn(&[u8]) -> Result<Picture, PictureError> = match Format::of(bytes) {
        Format::Jpeg => jpeg::decode,
        Format::Png => png::decode,
        Format::Other(what) => return Err(PictureError::new(what)),
    };
    // A decoder's own mistake on a damaged file is that file's problem, not the run's.
    catch_unwind(|| decoder(bytes)).unwrap_or_else(|_| {
        Err(PictureError::new(
            "corrupt: the decoder gave up on it with a panic",
        ))
    })
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    /// Neither; the reason names what it looks like instead.
    Other(&'static str),
}

impl Format {
    pub(crate) fn of(bytes: &[u8]) -> Format {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
            [] => Format::Other("the file is empty"),
            [b'G', b'I', b'F', b'8', ..] => Format::Other("a GIF, not a JPEG or PNG"),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Format::Other("a WebP, not a JPEG or PNG"),
            [b'B', b'M', ..] => Format::Other("a BMP, not a JPEG or PNG"),
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => {
                Format::Other("a TIFF, not a JPEG or PNG")
            }
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
                Format::Other("a HEIC, AVIF or video file, not a JPEG or PNG")
            }
            [b'<', ..] => Format::Other("markup (HTML, SVG or XML), not a JPEG or PNG"),
            _ => Format::Other("not a JPEG or PNG"),
        }
    }
}

/// Refuses pictures without pixels or with too many.
fn check_size(width: u64, height: u64) -> Result<(), PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::new(format!(
            "it is {width} x {height} pixels"
        )));
    }
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(PictureError::new(format!(
            "{width} x {height} pixels are more than the {MAX_PIXELS} that npid decodes"
        )));
    }
    Ok(())
}

/// Turns and mirrors a picture as EXIF's orientation (1 to 8) asks; what `ImageOps.exif_transpose`
/// of PIL does.
fn orient(picture: Picture, orientation: u8) -> Picture {
    let (w, h) = (picture.width, picture.height);
    let (width, height) = if orientation >= 5 { (h, w) } else { (w, h) };
    if !(2..=8).contains(&orientation) {
        return picture;
    }
    let mut rgb = Vec::with_capacity(picture.rgb.len());
    for y in 0..height {
        for x in 0..width {
            // Where the pixel that belongs at (x, y) lies in the stored picture.
            let (sx, sy) = match orientation {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                _ => (w - 1 - y, x),
            };
            let at = (sy * w + sx) * 3;
            rgb.extend_from_slice(&picture.rgb[at..at + 3]);
        }
    }
    Picture { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientations_are_exif_transposes() {
        // Numbers from PIL 13.0.0: exif_transpose of [[0, 1, 2], [3, 4, 5]] with each orientation.
        let stored = Picture {
            width: 3,
            height: 2,
            rgb: (0..6).flat_map(|v| [v; 3]).collect(),
        };
        let expected: [(u8, usize, [u8; 6]); 8] = [
            (1, 3, [0, 1, 2, 3, 4, 5]),
            (2, 3, [2, 1, 0, 5, 4, 3]),
            (3, 3, [5, 4, 3, 2, 1, 0]),
            (4, 3, [3, 4, 5, 0, 1, 2]),
            (5, 2, [0, 3, 1, 4, 2, 5]),
            (6, 2, [3, 0, 4, 1, 5, 2]),
            (7, 2, [5, 2, 4, 1, 3, 0]),
            (8, 2, [2, 5, 1, 4, 0, 3]),
        ];
        for (orientation, width, values) in expected {
            let turned = orient(stored.clone(), orientation);
            assert_eq!((turned.width, turned.height), (width, 6 / width));
            let got: Vec<u8> = turned.rgb.iter().step_by(3).copied().collect();
            assert_eq!(got, values, "orientation {orientation}");
        }
    }

    #[test]
    fn what_is_not_a_picture_is_named() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"GIF89a", "GIF"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
            (b"<!DOCTYPE html>", "HTML"),
            (b"hello there", "not a JPEG or PNG"),
        ] {
            let reason = decode(bytes).unwrap_err().reason;
            assert!(reason.contains(word), "{reason}");
        }
    }
}
