//! GIF, by the gif crate: the first frame, on its canvas.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::{MAX_PIXELS, admit};
use crate::source::{Picture, PictureError};

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let reason = |error: DecodingError| match &error {
        DecodingError::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::new("the GIF is cut short")
        }
        _ => PictureError::new(format!("corrupt GIF: {error}")),
    };
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    if let Some(limit) = NonZeroU64::new(MAX_PIXELS) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(reason)?;
    let (mut width, mut height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(reason)?;
    let frame = frame.ok_or_else(|| PictureError::new("the GIF holds no picture"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (across, down) = (usize::from(frame.width), usize::from(frame.height));
    // As PIL: a frame that goes beyond the canvas makes it larger, and what it doesn't cover is of
    // the transparent colour, or the first.
    (width, height) = (width.max(left + across), height.max(top + down));
    let background = frame.transparent.unwrap_or(0);
    let local = frame.palette.clone();
    let _admitted = admit(width as u64, height as u64)?;
    let palette = local.or_else(|| decoder.global_palette().map(<[u8]>::to_vec));
    let mut indices = vec![0; across * down];
    decoder.read_into_buffer(&mut indices).map_err(reason)?;
    // Beyond the palette PIL's colours are grey.
    let mut colours: Vec<[u8; 3]> = (0..=255).map(|grey| [grey; 3]).collect();
    for (colour, given) in colours
        .iter_mut()
        .zip(palette.iter().flat_map(|p| p.chunks_exact(3)))
    {
        colour.copy_from_slice(given);
    }
    let mut rgb = colours[usize::from(background)].repeat(width * height);
    for (y, row) in indices.chunks_exact(across.max(1)).enumerate() {
        let at = ((top + y) * width + left) * 3;
        let pixels = rgb[at..at + across * 3].chunks_exact_mut(3);
        for (pixel, &index) in pixels.zip(row) {
            pixel.copy_from_slice(&colours[usize::from(index)]);
        }
    }
    Ok(Picture { width, height, rgb })
}
