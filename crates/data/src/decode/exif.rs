//! The one EXIF field that matters to the pixels: the orientation.

/// The orientation (tag 0x0112 of the first directory), 1 to 8, of a TIFF structure as EXIF holds
/// it, without the `Exif\0\0` in front. 1 (as stored) where there is none or the structure is
/// broken: damaged metadata is no reason to refuse a picture.
pub(super) fn orientation(tiff: &[u8]) -> u8 {
    find(tiff).filter(|o| (1..=8).contains(o)).unwrap_or(1)
}

fn find(tiff: &[u8]) -> Option<u8> {
    let (_, value) = find_short(tiff, 0x0112)?;
    u8::try_from(value).ok()
}

/// Where the first value of a tag of 16-bit numbers stands in the first directory of a TIFF
/// structure, and the value.
pub(super) fn find_short(tiff: &[u8], tag: u16) -> Option<(usize, u16)> {
    let little = match tiff.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let b: [u8; 2] = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little {
            u16::from_le_bytes(b)
        } else {
            u16::from_be_bytes(b)
        })
    };
    let b: [u8; 4] = tiff.get(4..8)?.try_into().ok()?;
    let directory = if little {
        u32::from_le_bytes(b)
    } else {
        u32::from_be_bytes(b)
    } as usize;
    let entries = usize::from(u16_at(directory)?);
    for entry in 0..entries {
        // 12 bytes each: tag, type, count (4), value (4; a short one lies in its first two).
        let at = directory.checked_add(2 + 12 * entry)?;
        if u16_at(at)? == tag && u16_at(at + 2)? == 3 {
            return Some((at + 8, u16_at(at + 8)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiff(little: bool, value: u16) -> Vec<u8> {
        let short = |v: u16| {
            if little {
                v.to_le_bytes()
            } else {
                v.to_be_bytes()
            }
        };
        let long = |v: u32| {
            if little {
                v.to_le_bytes()
            } else {
                v.to_be_bytes()
            }
        };
        let mut t = if little {
            b"II".to_vec()
        } else {
            b"MM".to_vec()
        };
        t.extend(short(42));
        t.extend(long(8));
        t.extend(short(2));
        // Another field first: the width.
        t.extend(short(0x0100));
        t.extend(short(3));
        t.extend(long(1));
        t.extend(short(640));
        t.extend([0, 0]);
        t.extend(short(0x0112));
        t.extend(short(3));
        t.extend(long(1));
        t.extend(short(value));
        t.extend([0, 0]);
        t
    }

    #[test]
    fn both_byte_orders_are_read_and_damage_means_as_stored() {
        for little in [true, false] {
            assert_eq!(orientation(&tiff(little, 6)), 6);
            assert_eq!(orientation(&tiff(little, 9)), 1);
            let whole = tiff(little, 6);
            for cut in 0..whole.len() - 2 {
                assert_eq!(orientation(&whole[..cut]), 1, "cut to {cut}");
            }
        }
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), 1);
    }
}
