//! WebP, by the image-webp crate: lossy, lossless, and the first frame of an animation.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::{MAX_BYTES, admit, exif, orient};
use crate::source::{Picture, PictureError};

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let reason = |error: DecodingError| match &error {
        DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::new("the WebP is cut short")
        }
        _ => PictureError::new(format!("corrupt WebP: {error}")),
    };
    check_length(bytes)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(reason)?;
    let (width, height) = decoder.dimensions();
    let _admitted = admit(width.into(), height.into())?;
    decoder.set_memory_limit(MAX_BYTES);
    let metadata = decoder.exif_metadata().ok().flatten().unwrap_or_default();
    let metadata = metadata.strip_prefix(b"Exif\0\0").unwrap_or(&metadata);
    let orientation = exif::orientation(metadata);
    let size = decoder.output_buffer_size();
    let size = size.ok_or_else(|| PictureError::new("the WebP is too large for this machine"))?;
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(reason)?;
    let (width, height) = (width as usize, height as usize);
    let rgb: Vec<u8> = if decoder.has_alpha() {
        let pixels = samples.chunks_exact(4);
        pixels.flat_map(|p| [p[0], p[1], p[2]]).collect()
    } else {
        samples
    };
    Ok(orient(Picture { width, height, rgb }, orientation))
}

/// The RIFF header says how many bytes follow it; a decoder fills in what is missing behind the last
/// whole macroblock.
fn check_length(bytes: &[u8]) -> Result<(), PictureError> {
    let size = bytes.get(4..8).and_then(|size| size.try_into().ok());
    let size = size.map_or(u64::MAX, |size| u64::from(u32::from_le_bytes(size)));
    if (bytes.len() as u64) < size.saturating_add(8) {
        return Err(PictureError::new("the WebP is cut short"));
    }
    Ok(())
}
