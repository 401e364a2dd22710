//! From encoded bytes to RGB: what a picture is, is told by its first bytes, never by its name.
//!
//! Pictures become RGB as PIL's `convert("RGB")` does: grey is repeated, a palette is looked up,
//! alpha is dropped without blending, CMYK becomes RGB by its formula; of an animation the first frame
//! is taken. Two deviations, both on purpose: 16-bit samples are scaled (`v >> 8`) where PIL clips
//! grey ones at 255, and the EXIF orientation is applied.
//!
//! What is stored without loss is PIL's to the bit. JPEGs are within 2 of 255 of libjpeg-turbo's,
//! except where colours are stored at half the resolution both ways (4:2:0): there zune-jpeg rounds
//! between the two passes of its interpolation and doesn't stop it at the picture's edge. Over 200
//! photographs 0.008 % of the samples differ by more than 2, and the largest difference is 7.

mod bmp;
mod exif;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod webp;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::source::{Picture, PictureError};

/// The largest picture that is decoded, in pixels (as much as 13,377 x 13,377): where PIL refuses one
/// as a "decompression bomb". A few hundred bytes can claim to be larger than any memory, and such a
/// claim is refused by what the header says, before anything is allocated.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Pictures above this many pixels are decoded one at a time, so that threads don't take a gigabyte
/// each at once.
const LARGE: u64 = 1 << 25;

/// Bytes that a decoder may take beside its result, at most: eight for each pixel of the largest.
const MAX_BYTES: usize = 8 * MAX_PIXELS as usize;

/// Decodes a JPEG, PNG, WebP, BMP, TIFF or GIF to RGB.
///
/// # Errors
/// The reason, in a few words: no picture (and what it looks like), cut short, corrupt, of an
/// unsupported kind, or larger than [`MAX_PIXELS`]. A picture that is cut short is an error, as it is
/// for PIL, and never a half-grey picture.
pub fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let decoder: fn(&[u8]) -> Result<Picture, PictureError> = match Format::of(bytes) {
        Format::Jpeg => jpeg::decode,
        Format::Png => png::decode,
        Format::WebP => webp::decode,
        Format::Bmp => bmp::decode,
        Format::Tiff => tiff::decode,
        Format::Gif => gif::decode,
        Format::Other(what) => return Err(PictureError::new(what)),
    };
    // A decoder's own mistake on a damaged file is that file's problem, not the run's.
    let picture = catch(|| decoder(bytes)).unwrap_or_else(|| {
        Err(PictureError::new(
            "corrupt: the decoder gave up on it with a panic",
        ))
    });
    // Some decoders explain themselves in several lines.
    picture.map_err(|error| {
        let words: Vec<&str> = error.reason.split_whitespace().collect();
        PictureError::new(words.join(" "))
    })
}

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread now would be caught and become an error. A program's panic hook
/// asks this, so as not to print what is no failure of its own.
pub fn is_panic_caught() -> bool {
    IS_CAUGHT.get()
}

/// Calls a decoder of somebody else's bytes; `None` where it panics.
pub(crate) fn catch<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = IS_CAUGHT.replace(true);
    // What the call holds is dropped with it, or, where it is shared, only read.
    let result = catch_unwind(AssertUnwindSafe(call));
    IS_CAUGHT.set(before);
    result.ok()
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Tiff,
    Gif,
    /// None of them; the reason names what it looks like instead.
    Other(&'static str),
}

impl Format {
    /// Some 20 bytes are enough.
    pub(crate) fn of(bytes: &[u8]) -> Format {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
            [] => Format::Other("the file is empty"),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
            _ if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Format::WebP,
            _ if bmp::begins(bytes) => Format::Bmp,
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Format::Tiff,
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
                Format::Other("a HEIC, AVIF or video file, which npid does not read")
            }
            [b'<', ..] => Format::Other("markup (HTML, SVG or XML), not a picture"),
            _ => Format::Other("not a JPEG, PNG, WebP, BMP, TIFF or GIF"),
        }
    }

    /// Its name; `None` for what is no picture.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Format::Jpeg => Some("JPEG"),
            Format::Png => Some("PNG"),
            Format::WebP => Some("WebP"),
            Format::Bmp => Some("BMP"),
            Format::Tiff => Some("TIFF"),
            Format::Gif => Some("GIF"),
            Format::Other(_) => None,
        }
    }

    /// The name of the format that files with this ending have.
    pub(crate) fn name_of_ending(ending: &str) -> &'static str {
        match ending.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" => "JPEG",
            "png" => "PNG",
            "webp" => "WebP",
            "bmp" => "BMP",
            "tif" | "tiff" => "TIFF",
            "gif" => "GIF",
            _ => "other",
        }
    }
}

/// Held while a picture is decoded.
struct Admitted {
    _alone: Option<MutexGuard<'static, ()>>,
}

/// Refuses pictures without pixels or with too many, and lets large ones in one at a time.
fn admit(width: u64, height: u64) -> Result<Admitted, PictureError> {
    static ALONE: Mutex<()> = Mutex::new(());
    if width == 0 || height == 0 {
        return Err(PictureError::new(format!(
            "it is {width} x {height} pixels"
        )));
    }
    let pixels = width.saturating_mul(height);
    if pixels > MAX_PIXELS {
        return Err(PictureError::new(format!(
            "{width} x {height} pixels are more than the {MAX_PIXELS} that npid decodes"
        )));
    }
    // A decoder that panicked left nothing behind the lock that could be wrong.
    let alone = || ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Admitted {
        _alone: (pixels > LARGE).then(alone),
    })
}

/// PIL's conversion of CMYK, where each value is the amount of ink.
fn ink_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let paper = 255 - i32::from(k);
    [c, m, y].map(|ink| {
        let product = i32::from(ink) * paper + 128;
        (paper - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8
    })
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
            (b"\0\0\0\x20ftypheic", "HEIC"),
            (b"<!DOCTYPE html>", "HTML"),
            (b"hello there", "not a JPEG"),
            (b"BMW/1.jpg 3\nBMW/2.jpg 3\n", "not a JPEG"),
        ] {
            let reason = decode(bytes).unwrap_err().reason;
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn panics_become_errors_and_are_marked() {
        assert!(!is_panic_caught());
        assert_eq!(catch(is_panic_caught), Some(true));
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(catch(|| -> u8 { panic!("on purpose") }), None);
        let _ = std::panic::take_hook();
        assert!(!is_panic_caught());
    }
}
