//! PNG, by the png crate: every colour type and depth to 8-bit RGB.

use std::io::Cursor;

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use super::{MAX_BYTES, admit, exif, orient};
use crate::source::{Picture, PictureError};

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let reason = |error: DecodingError| match &error {
        DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::new("the PNG is cut short")
        }
        _ => PictureError::new(format!("corrupt PNG: {error}")),
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_BYTES });
    // Palettes are looked up, 1, 2 and 4 bits widened, and of 16 bits the high byte is kept.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(reason)?;
    let info = reader.info();
    let _admitted = admit(info.width.into(), info.height.into())?;
    let (width, height) = (info.width as usize, info.height as usize);
    let orientation = info.exif_metadata.as_deref().map_or(1, exif::orientation);
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| PictureError::new("the PNG is too large for this machine"))?;
    let mut samples = vec![0; size];
    let frame = reader.next_frame(&mut samples).map_err(reason)?;
    samples.truncate(frame.buffer_size());
    let rgb: Vec<u8> = match frame.color_type {
        ColorType::Rgb => samples,
        ColorType::Rgba => samples
            .chunks_exact(4)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect(),
        ColorType::Grayscale => samples.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::GrayscaleAlpha => samples.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        ColorType::Indexed => {
            return Err(PictureError::new("corrupt PNG: its palette is missing"));
        }
    };
    if rgb.len() != width * height * 3 {
        return Err(PictureError::new("corrupt PNG: its size is inconsistent"));
    }
    Ok(orient(Picture { width, height, rgb }, orientation))
}
