//! JPEG. The decoding itself is zune-jpeg's; around it lies what PIL also does: nothing cut short
//! passes, CMYK becomes RGB by PIL's formula, and the picture's size is known before it is decoded.

use std::io::Cursor;

use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{admit, exif, ink_to_rgb, orient};
use crate::source::{Picture, PictureError};

/// What a walk over the file's segments finds.
struct Outline {
    width: usize,
    height: usize,
    components: u8,
    orientation: u8,
    /// The colour transform that an Adobe segment names.
    adobe_transform: Option<u8>,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let outline = outline(bytes)?;
    let _admitted = admit(outline.width as u64, outline.height as u64)?;
    // Four components come as stored, for PIL's own formula; three or one become RGB directly.
    let space = match (outline.components, outline.adobe_transform) {
        (4, Some(2)) => ColorSpace::YCCK,
        (4, _) => ColorSpace::CMYK,
        _ => ColorSpace::RGB,
    };
    // Not strict, the decoder paints what it can't read grey. Strict, it also refuses padding
    // between segments, which libjpeg skips: that alone is forgiven.
    let samples = match attempt(bytes, space, true) {
        Err(reason) if reason.contains("Extra bytes between headers") => {
            attempt(bytes, space, false)
        }
        result => result,
    }
    .map_err(|reason| PictureError::new(format!("corrupt JPEG: {reason}")))?;
    let (width, height) = (outline.width, outline.height);
    let rgb = match space {
        ColorSpace::CMYK => samples.chunks_exact(4).flat_map(cmyk_to_rgb).collect(),
        ColorSpace::YCCK => samples
            .chunks_exact(4)
            .flat_map(|p| cmyk_to_rgb(&ycck_to_cmyk(p)))
            .collect(),
        _ => samples,
    };
    if rgb.len() != width * height * 3 {
        return Err(PictureError::new(
            "corrupt JPEG: its headers contradict each other",
        ));
    }
    let picture = Picture { width, height, rgb };
    Ok(orient(picture, outline.orientation))
}

fn attempt(bytes: &[u8], space: ColorSpace, strict: bool) -> Result<Vec<u8>, String> {
    let options = DecoderOptions::default()
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into())
        .set_strict_mode(strict)
        .jpeg_set_out_colorspace(space);
    JpegDecoder::new_with_options(Cursor::new(bytes), options)
        .decode()
        .map_err(|error| error.to_string().trim_matches('"').to_owned())
}

/// The samples come inverted, as Adobe's programs write them and as PIL assumes: what is stored is
/// 255 minus the ink.
fn cmyk_to_rgb(stored: &[u8]) -> [u8; 3] {
    ink_to_rgb([0, 1, 2, 3].map(|channel| 255 - stored[channel]))
}

/// libjpeg's conversion: the inverse of YCbCr on the complements, with black passed through.
fn ycck_to_cmyk(p: &[u8]) -> [u8; 4] {
    let (y, cb, cr) = (
        f32::from(p[0]),
        f32::from(p[1]) - 128.0,
        f32::from(p[2]) - 128.0,
    );
    // A float turned into u8 is clamped to 0..=255.
    let complement = |v: f32| 255 - v.round() as u8;
    [
        complement(y + 1.402 * cr),
        complement(y - 0.344_136 * cb - 0.714_136 * cr),
        complement(y + 1.772 * cb),
        p[3],
    ]
}

/// Walks over the segments from the start to the end marker.
fn outline(bytes: &[u8]) -> Result<Outline, PictureError> {
    let cut_short = || PictureError::new("the JPEG is cut short");
    let mut frame = None;
    let mut orientation = 1;
    let mut adobe_transform = None;
    let mut scanned = false;
    let mut at = 2;
    loop {
        // Up to the next marker: 0xff and neither a stuffed zero nor a restart. Within a scan this
        // passes over the entropy-coded data, elsewhere over padding.
        let marker = loop {
            let next = bytes[at..].iter().position(|&b| b == 0xff);
            at += next.ok_or_else(cut_short)?;
            match *bytes.get(at + 1).ok_or_else(cut_short)? {
                0x00 | 0x01 | 0xd0..=0xd7 => at += 2,
                0xff => at += 1,
                marker => break marker,
            }
        };
        at += 2;
        if marker == 0xd9 {
            break;
        }
        let length = bytes.get(at..at + 2).ok_or_else(cut_short)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let segment = bytes.get(at..at + length.max(2)).ok_or_else(cut_short)?;
        let content = &segment[2..];
        match marker {
            // Start of frame, of every kind; what the decoder can't do, it says.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf if frame.is_none() => {
                if let [_, h1, h0, w1, w0, components, ..] = *content {
                    let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
                    frame = Some((side(w1, w0), side(h1, h0), components));
                }
            }
            0xda => scanned = true,
            0xe1 if !scanned => {
                if let Some(tiff) = content.strip_prefix(b"Exif\0\0") {
                    orientation = exif::orientation(tiff);
                }
            }
            0xee if content.starts_with(b"Adobe") => adobe_transform = content.get(11).copied(),
            _ => {}
        }
        at += segment.len();
    }
    match frame {
        Some((width, height, components)) if scanned => Ok(Outline {
            width,
            height,
            components,
            orientation,
            adobe_transform,
        }),
        _ => Err(PictureError::new("the JPEG holds no picture")),
    }
}
