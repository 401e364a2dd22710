//! A turn of the hue as torchvision's `adjust_hue` makes it on PIL pictures: to 8-bit HSV, a shift
//! of H modulo 256, and back, each with PIL's arithmetic (`Convert.c`).
//!
//! PIL divides thrice a pixel on the way to HSV. But one of the three quotients is 0 and one 1, so
//! that hue and saturation are functions of two bytes and the sector. They are computed once, by
//! PIL's own formulas, and then looked up.

use std::sync::OnceLock;

struct Tables {
    /// H by sector (0..6), chroma (max - min) and the middle channel's distance from the maximum.
    hue: Vec<u8>,
    /// S by chroma and maximum.
    saturation: Vec<u8>,
}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut hue = vec![0; 6 << 16];
        let mut saturation = vec![0; 1 << 16];
        for chroma in 1..256usize {
            let quotient = |distance: usize| distance as f32 / chroma as f32;
            for distance in 0..=chroma {
                let middle = quotient(distance);
                for sector in 0..6 {
                    // f64 where C's promotion makes it so, f32 where PIL stores it.
                    let turn = f64::from(match sector {
                        0 => 1.0 - middle,
                        1 => middle - 1.0,
                        2 => (2.0 + 1.0 - f64::from(middle)) as f32,
                        3 => (2.0 + f64::from(middle) - 1.0) as f32,
                        4 => (4.0 + 1.0 - f64::from(middle)) as f32,
                        _ => (4.0 + f64::from(middle) - 1.0) as f32,
                    });
                    let turn = ((turn / 6.0 + 1.0) % 1.0) as f32;
                    hue[sector << 16 | chroma << 8 | distance] = (f64::from(turn) * 255.0) as u8;
                }
            }
            for max in chroma..256 {
                let share = chroma as f32 / max as f32;
                saturation[chroma << 8 | max] = (f64::from(share) * 255.0) as u8;
            }
        }
        Tables { hue, saturation }
    })
}

/// (H, S, V) as `convert("HSV")` gives them.
#[inline]
fn to_hsv(tables: &Tables, [r, g, b]: [u8; 3]) -> [u8; 3] {
    let max = r.max(g).max(b);
    let min = r.min(g).min(b);
    if max == min {
        return [0, 0, max];
    }
    // Where two channels are equal to the maximum PIL's order decides. The sector says which
    // channel is largest and which of the other two is smallest: that one's quotient is 1.
    let (sector, middle) = if r == max {
        if b == min { (0, g) } else { (1, b) }
    } else if g == max {
        if r == min { (2, b) } else { (3, r) }
    } else if g == min {
        (4, r)
    } else {
        (5, g)
    };
    let chroma = usize::from(max - min);
    let hue = tables.hue[sector << 16 | chroma << 8 | usize::from(max - middle)];
    [hue, tables.saturation[chroma << 8 | usize::from(max)], max]
}

/// Which sixth of the circle a hue is in, and how far.
fn sixth(hue: u8) -> (u8, f32) {
    let turn = f64::from(hue) * 6.0 / 255.0;
    let sixth = turn.floor();
    ((sixth as u8) % 6, (turn - sixth) as f32)
}

/// (R, G, B) as `convert("RGB")` gives them for a hue of this [`sixth`].
#[inline]
fn to_rgb((sixth, within): (u8, f32), saturation: u8, value: u8) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let share = (f64::from(saturation) / 255.0) as f32;
    // Non-negative and with far fewer than 52 bits, so adding a half rounds exactly as C's round.
    let scaled = |remaining: f64| (f64::from(value) * remaining + 0.5) as u8;
    let p = scaled(1.0 - f64::from(share));
    let moving = if sixth % 2 == 1 {
        scaled(1.0 - f64::from(share * within))
    } else {
        scaled(1.0 - f64::from(share) * (1.0 - f64::from(within)))
    };
    match sixth {
        0 => [value, moving, p],
        1 => [moving, value, p],
        2 => [p, value, moving],
        3 => [p, moving, value],
        4 => [moving, p, value],
        _ => [value, p, moving],
    }
}

/// Turns every pixel's hue by `shift` of the circle, -0.5 to 0.5.
pub(super) fn shift(rgb: &mut [u8], shift: f64) {
    let tables = tables();
    // Truncated towards zero, then modulo 256, as torchvision's cast.
    let shift = (shift * 255.0) as i32 as u8;
    let turned: [(u8, f32); 256] =
        std::array::from_fn(|hue| sixth((hue as u8).wrapping_add(shift)));
    for pixel in rgb.chunks_exact_mut(3) {
        let [hue, saturation, value] = to_hsv(tables, [pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&to_rgb(turned[usize::from(hue)], saturation, value));
    }
}
