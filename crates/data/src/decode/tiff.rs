//! TIFF, by the tiff crate: the first picture, of 1 to 16 bits a sample.

use std::io::Cursor;

use tiff::decoder::{BufferLayoutPreference, Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::{MAX_BYTES, admit, exif, ink_to_rgb, orient};
use crate::source::{Picture, PictureError};

/// The most channels that any kind of picture that is read has.
const MAX_CHANNELS: usize = 5;

/// The value of `PhotometricInterpretation` for palettes, and for grey.
const PALETTE: u16 = 3;
const GREY: u16 = 1;

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    // The crate reads no palettes. With the word that says so changed to grey it reads the indices.
    let interpretation = exif::find_short(bytes, Tag::PhotometricInterpretation.to_u16());
    match interpretation {
        Some((at, PALETTE)) => {
            let mut grey = bytes.to_vec();
            let little = bytes.starts_with(b"II");
            let value = if little {
                GREY.to_le_bytes()
            } else {
                GREY.to_be_bytes()
            };
            grey[at..at + 2].copy_from_slice(&value);
            read(&grey, true)
        }
        _ => read(bytes, false),
    }
}

/// From the channels of a pixel, in 8 bits each.
type ToRgb<'a> = dyn Fn(&[u8]) -> [u8; 3] + 'a;

/// Decodes a TIFF; with `palette`, its grey values are indices.
fn read(bytes: &[u8], palette: bool) -> Result<Picture, PictureError> {
    let reason = |error: TiffError| match &error {
        TiffError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::new("the TIFF is cut short")
        }
        TiffError::UnsupportedError(what) => {
            PictureError::new(format!("a TIFF of a kind that npid does not read: {what}"))
        }
        _ => PictureError::new(format!("corrupt TIFF: {error}")),
    };
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_BYTES;
    limits.intermediate_buffer_size = MAX_BYTES;
    limits.ifd_value_size = 1 << 22;
    let mut decoder = Decoder::new(Cursor::new(bytes))
        .map_err(reason)?
        .with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(reason)?;
    let _admitted = admit(width.into(), height.into())?;
    let (width, height) = (width as usize, height as usize);
    let colours = decoder.colortype().map_err(reason)?;
    let map = match palette {
        true => Some(decoder.get_tag_u16_vec(Tag::ColorMap).map_err(reason)?),
        false => None,
    };
    let orientation = decoder
        .find_tag_unsigned::<u8>(Tag::Orientation)
        .ok()
        .flatten();
    let extra: Vec<u16> = decoder
        .find_tag_unsigned_vec(Tag::ExtraSamples)
        .ok()
        .flatten()
        .unwrap_or_default();
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(reason)?;
    let samples = Samples::of(samples, &layout, colours, (width, height), palette)?;
    let max = u32::from(u8::MAX);
    let pixel: Box<ToRgb<'_>> = match (colours, &map) {
        (ColorType::Gray(_), Some(map)) => {
            // All of red, then green, then blue.
            let entries = map.len() / 3;
            Box::new(move |p| {
                let channel = |c: usize| map.get(c * entries + usize::from(p[0]));
                [0, 1, 2].map(|c| channel(c).map_or(0, |v| (v >> 8) as u8))
            })
        }
        (ColorType::Gray(_) | ColorType::Multiband { num_samples: 2, .. }, None) => {
            Box::new(|p| [p[0]; 3])
        }
        // Associated alpha has been multiplied into the colours.
        (ColorType::RGBA(_), None) if extra.first() == Some(&1) => Box::new(move |p| {
            let alpha = u32::from(p[3]);
            [0, 1, 2].map(|c| match alpha {
                0 => 0,
                alpha => (max * u32::from(p[c]) / alpha).min(max) as u8,
            })
        }),
        (ColorType::RGB(_) | ColorType::RGBA(_), None) => Box::new(|p| [p[0], p[1], p[2]]),
        (ColorType::CMYK(_) | ColorType::CMYKA(_), None) => {
            Box::new(|p| ink_to_rgb([p[0], p[1], p[2], p[3]]))
        }
        (ColorType::YCbCr(_), None) => Box::new(|p| ycbcr_to_rgb([p[0], p[1], p[2]])),
        _ => {
            return Err(PictureError::new(format!(
                "a TIFF of a kind that npid does not read: {colours:?}"
            )));
        }
    };
    let mut rgb = Vec::with_capacity(width * height * 3);
    samples.each_pixel(|p| rgb.extend(pixel(p)));
    let picture = Picture { width, height, rgb };
    Ok(orient(picture, orientation.unwrap_or(1)))
}

/// What PIL's tables for JPEG's colours come to.
fn ycbcr_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    // A float turned into u8 is clamped to 0..=255.
    [
        (y + 1.402 * cr).round() as u8,
        (y - 0.344_136 * cb - 0.714_136 * cr).round() as u8,
        (y + 1.772 * cb).round() as u8,
    ]
}

/// Samples of 1, 2, 4, 8 or 16 bits, in the layout that the crate has them in.
struct Samples {
    values: Values,
    bits: u8,
    channels: usize,
    width: usize,
    height: usize,
    /// Values from one channel to the next, where each has a plane of its own.
    plane: Option<usize>,
    /// Whether small values are indices, which aren't widened.
    indices: bool,
}

enum Values {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

impl Samples {
    fn of(
        values: DecodingResult,
        layout: &BufferLayoutPreference,
        colours: ColorType,
        (width, height): (usize, usize),
        indices: bool,
    ) -> Result<Self, PictureError> {
        let bits = colours.bit_depth();
        let channels = usize::from(colours.num_samples());
        let values = match values {
            DecodingResult::U8(values) if matches!(bits, 1 | 2 | 4 | 8) => Values::Bytes(values),
            DecodingResult::U16(values) if bits == 16 => Values::Words(values),
            _ => {
                return Err(PictureError::new(format!(
                    "a TIFF of {bits}-bit samples or of other than whole numbers, which npid does \
                     not read"
                )));
            }
        };
        let (length, size) = match &values {
            Values::Bytes(values) => (values.len(), 1),
            Values::Words(values) => (values.len(), 2),
        };
        let plane = (layout.planes > 1).then(|| layout.plane_stride.map_or(0, |s| s.get() / size));
        let samples = Samples {
            values,
            bits,
            channels,
            width,
            height,
            plane,
            indices,
        };
        let needed = match plane {
            Some(plane) => plane * (channels - 1) + samples.stride() * height,
            None => samples.stride() * height,
        };
        if channels > MAX_CHANNELS || length < needed || plane.is_some() && bits < 8 {
            return Err(PictureError::new("corrupt TIFF: its size is inconsistent"));
        }
        Ok(samples)
    }

    /// Values from a row to the next; small ones are packed in bytes.
    fn stride(&self) -> usize {
        let channels = if self.plane.is_some() {
            1
        } else {
            self.channels
        };
        match self.bits {
            8.. => self.width * channels,
            bits => (self.width * channels * usize::from(bits)).div_ceil(8),
        }
    }

    /// Calls `use_pixel` with the channels of each pixel, row by row, as 8 bits.
    fn each_pixel(&self, mut use_pixel: impl FnMut(&[u8])) {
        let mut pixel = [0; MAX_CHANNELS];
        let stride = self.stride();
        for y in 0..self.height {
            for x in 0..self.width {
                for (c, channel) in pixel[..self.channels].iter_mut().enumerate() {
                    let in_row = match self.plane {
                        Some(plane) => plane * c + x,
                        None => x * self.channels + c,
                    };
                    *channel = match &self.values {
                        Values::Words(words) => (words[y * stride + in_row] >> 8) as u8,
                        Values::Bytes(bytes) if self.bits == 8 => bytes[y * stride + in_row],
                        Values::Bytes(bytes) => {
                            let bits = usize::from(self.bits);
                            let byte = bytes[y * stride + in_row * bits / 8];
                            let shift = 8 - bits - in_row * bits % 8;
                            let max = (1 << bits) - 1;
                            let value = byte >> shift & max;
                            if self.indices {
                                value
                            } else {
                                value * (255 / max)
                            }
                        }
                    };
                }
                use_pixel(&pixel[..self.channels]);
            }
        }
    }
}
