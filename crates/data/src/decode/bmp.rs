//! BMP as Windows and OS/2 programs write it: 1, 4, 8, 16, 24 and 32 bits a pixel, RLE4 and RLE8.
//!
//! Source: Microsoft's documentation of `BITMAPFILEHEADER`, `BITMAPCOREHEADER`, `BITMAPINFOHEADER`,
//! `BITMAPV5HEADER` and "Bitmap Compression". It is written here because the crate that would do it,
//! zune-bmp 0.5, paints what is missing of a file that is cut short, and rows of 1, 4 and 16 bits
//! without their padding.

use super::admit;
use crate::source::{Picture, PictureError};

/// The file's header before the one that says how the pixels are stored.
const FILE_HEADER: usize = 14;

/// Sizes of the second header in its several versions.
const HEADERS: [u32; 7] = [12, 40, 52, 56, 64, 108, 124];

/// Whether bytes begin like a BMP. `BM` alone many texts do.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let size = u32_at(bytes, FILE_HEADER).ok();
    bytes.starts_with(b"BM") && size.is_some_and(|size| HEADERS.contains(&size))
}

struct Header {
    width: usize,
    height: usize,
    /// Whether the first row stored is the top one, which it usually isn't.
    top_down: bool,
    bits: u16,
    compression: u32,
    /// Where the pixels begin.
    pixels: usize,
    /// Red, green and blue, for 16 and 32 bits.
    masks: [u32; 3],
    palette: Vec<[u8; 3]>,
}

const RGB: u32 = 0;
const RLE8: u32 = 1;
const RLE4: u32 = 2;
const BITFIELDS: u32 = 3;

pub(super) fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    let (width, height, top_down) = size(bytes)?;
    let _admitted = admit(width as u64, height as u64)?;
    let header = header(bytes, width, height, top_down)?;
    let stored = bytes.get(header.pixels..).ok_or_else(cut_short)?;
    let mut rgb = vec![0; width * height * 3];
    if let RLE8 | RLE4 = header.compression {
        let indices = unpack_runs(stored, &header)?;
        for (pixel, &index) in rgb.chunks_exact_mut(3).zip(&indices) {
            pixel.copy_from_slice(&header.palette[usize::from(index)]);
        }
    } else {
        let bits = usize::from(header.bits);
        let used = (width * bits).div_ceil(8);
        // Rows are padded to four bytes; that of the last may be missing.
        let stride = used.next_multiple_of(4);
        if stored.len() < stride * (height - 1) + used {
            return Err(cut_short());
        }
        let to = rgb.chunks_exact_mut(width * 3);
        for (row, to) in stored.chunks(stride).zip(to) {
            for (x, pixel) in to.chunks_exact_mut(3).enumerate() {
                pixel.copy_from_slice(&header.colour(row, x));
            }
        }
    }
    if !header.top_down {
        let row = width * 3;
        for y in 0..height / 2 {
            let (top, bottom) = rgb.split_at_mut((height - 1 - y) * row);
            top[y * row..][..row].swap_with_slice(&mut bottom[..row]);
        }
    }
    Ok(Picture { width, height, rgb })
}

fn cut_short() -> PictureError {
    PictureError::new("the BMP is cut short")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, PictureError> {
    let value = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    value.map(u16::from_le_bytes).ok_or_else(cut_short)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, PictureError> {
    let value = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    value.map(u32::from_le_bytes).ok_or_else(cut_short)
}

/// Width, height, and whether the rows are stored from the top.
fn size(bytes: &[u8]) -> Result<(usize, usize, bool), PictureError> {
    if u32_at(bytes, FILE_HEADER)? == 12 {
        let (width, height) = (u16_at(bytes, 18)?, u16_at(bytes, 20)?);
        return Ok((width.into(), height.into(), false));
    }
    let height = u32_at(bytes, 22)? as i32;
    let width = u32_at(bytes, 18)? as usize;
    Ok((width, height.unsigned_abs() as usize, height < 0))
}

fn header(
    bytes: &[u8],
    width: usize,
    height: usize,
    top_down: bool,
) -> Result<Header, PictureError> {
    let size = u32_at(bytes, FILE_HEADER)? as usize;
    let after = FILE_HEADER + size;
    let is_core = size == 12;
    let bits = u16_at(bytes, if is_core { 24 } else { 28 })?;
    let compression = if is_core { RGB } else { u32_at(bytes, 30)? };
    let unsupported = || {
        PictureError::new(format!(
            "a BMP of {bits} bits in compression {compression}, which npid does not read"
        ))
    };
    let fits = match compression {
        RGB => [1, 4, 8, 16, 24, 32].contains(&bits),
        RLE8 => bits == 8,
        RLE4 => bits == 4,
        BITFIELDS => bits == 16 || bits == 32,
        _ => false,
    };
    if !fits {
        return Err(unsupported());
    }
    let mut masks = if bits == 16 {
        [0x7c00, 0x03e0, 0x001f]
    } else {
        [0x00ff_0000, 0x0000_ff00, 0x0000_00ff]
    };
    let mut palette_at = after;
    if compression == BITFIELDS {
        // In the header from version 2 on, behind it before.
        for (i, mask) in masks.iter_mut().enumerate() {
            *mask = u32_at(bytes, FILE_HEADER + 40 + 4 * i)?;
        }
        palette_at += if size == 40 { 12 } else { 0 };
    }
    let mut palette = Vec::new();
    let mut entries = 0;
    let entry = if is_core { 3 } else { 4 };
    if bits <= 8 {
        let all = 1usize << bits;
        let stated = if is_core {
            0
        } else {
            u32_at(bytes, 46)? as usize
        };
        entries = if stated == 0 { all } else { stated };
        // Beyond the palette colours are grey, as PIL has them.
        palette = (0..=255).map(|grey| [grey; 3]).collect();
        let stored = bytes.get(palette_at..).ok_or_else(cut_short)?;
        for (colour, bgr) in palette
            .iter_mut()
            .zip(stored.chunks_exact(entry))
            .take(entries)
        {
            *colour = [bgr[2], bgr[1], bgr[0]];
        }
    }
    let offset = u32_at(bytes, 10)? as usize;
    Ok(Header {
        width,
        height,
        top_down,
        bits,
        compression,
        pixels: match offset {
            0 => palette_at.saturating_add(entries.saturating_mul(entry)),
            offset => offset,
        },
        masks,
        palette,
    })
}

impl Header {
    /// The colour of the pixel at x of a stored row.
    fn colour(&self, row: &[u8], x: usize) -> [u8; 3] {
        match self.bits {
            24 => [row[3 * x + 2], row[3 * x + 1], row[3 * x]],
            16 => self.masked(u16::from_le_bytes([row[2 * x], row[2 * x + 1]]).into()),
            32 => {
                let at = 4 * x;
                self.masked(u32::from_le_bytes([
                    row[at],
                    row[at + 1],
                    row[at + 2],
                    row[at + 3],
                ]))
            }
            bits => {
                let bits = usize::from(bits);
                let shift = 8 - bits - x * bits % 8;
                let index = row[x * bits / 8] >> shift & (0xff >> (8 - bits)) as u8;
                self.palette[usize::from(index)]
            }
        }
    }

    /// Each channel's part of a pixel, scaled to 0 to 255.
    fn masked(&self, pixel: u32) -> [u8; 3] {
        self.masks.map(|mask| {
            let shift = mask.trailing_zeros();
            let max = u64::from(mask.checked_shr(shift).unwrap_or(0));
            let value = u64::from((pixel & mask).checked_shr(shift).unwrap_or(0));
            (value * 255).checked_div(max).unwrap_or(0).min(255) as u8
        })
    }
}

/// Run-length encoding: a count and a value (two for RLE4, in turn); or 0 and 0 for the end of the
/// row, 1 for the end of the picture, 2 and how far to go right and up, or the number of plain values
/// that follow, padded to two bytes. What is passed over is of the first colour.
fn unpack_runs(stored: &[u8], header: &Header) -> Result<Vec<u8>, PictureError> {
    let (width, height) = (header.width, header.height);
    let mut indices = vec![0; width * height];
    let (mut x, mut y) = (0, 0);
    let mut bytes = stored.iter().copied();
    let mut next = || bytes.next().ok_or_else(cut_short);
    let four = header.compression == RLE4;
    let nibbles = |byte: u8| [byte >> 4, byte & 15];
    while y < height {
        let (count, value) = (usize::from(next()?), next()?);
        let mut put = |index: u8| {
            // Beyond the end of the row is nowhere.
            if x < width && y < height {
                indices[y * width + x] = index;
            }
            x += 1;
        };
        match (count, value) {
            (0, 0) => (x, y) = (0, y + 1),
            (0, 1) => break,
            (0, 2) => {
                x += usize::from(next()?);
                y += usize::from(next()?);
            }
            (0, plain) => {
                let plain = usize::from(plain);
                let stored = if four { plain.div_ceil(2) } else { plain };
                for i in 0..stored {
                    let byte = next()?;
                    if four {
                        let left = (plain - 2 * i).min(2);
                        nibbles(byte)[..left].iter().for_each(|&index| put(index));
                    } else {
                        put(byte);
                    }
                }
                if stored % 2 == 1 {
                    next()?;
                }
            }
            (count, value) if four => (0..count).for_each(|i| put(nibbles(value)[i % 2])),
            (count, value) => (0..count).for_each(|_| put(value)),
        }
    }
    Ok(indices)
}
