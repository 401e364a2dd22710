//! A turn of the hue as torchvision's `adjust_hue` makes it on PIL pictures: to 8-bit HSV, a shift
//! of H modulo 256, and back, each with PIL's arithmetic (`Convert.c`).
//!
//! PIL divides thrice a pixel on the way to HSV. But one of the three quotients is 0 and one 1, so
//! that hue and saturation are functions of two bytes and the sector. They are computed once, by
//! PIL's own formulas, and then looked up. Pixels take no branch: which way one goes is hardly ever
//! foreseen in a photograph.

use std::sync::OnceLock;

struct Tables {
    /// H by sector (0..6), chroma (max - min) and the middle channel's distance from the maximum.
    hue: Vec<u8>,
    /// S by chroma and maximum.
    saturation: Vec<u8>,
    /// S / 255.
    share: [f32; 256],
    /// By which channels are largest and smallest ([`extremes`]).
    sectors: [Sector; 32],
    /// What each hue becomes.
    turns: [Turn; 256],
}

/// Which channel is largest, and which of the other two is smallest.
#[derive(Clone, Copy)]
struct Sector {
    /// Where its hues begin.
    hue: usize,
    /// Where the remaining channel lies in R | G << 8 | B << 16.
    middle: u32,
}

impl Sector {
    /// Where two channels are equal to the maximum PIL's order decides.
    fn of(extremes: usize) -> Self {
        let [r_max, g_max, r_min, g_min, b_min] = [0, 1, 2, 3, 4].map(|i| extremes >> i & 1 == 1);
        let (sector, middle) = if r_max {
            if b_min { (0, 8) } else { (1, 16) }
        } else if g_max {
            if r_min { (2, 16) } else { (3, 0) }
        } else if g_min {
            (4, 0)
        } else {
            (5, 8)
        };
        Sector {
            hue: sector << 16,
            middle,
        }
    }
}

/// Bits that say: R is the maximum, G is, R is the minimum, G is, B is.
#[inline]
fn extremes([r, g, b]: [u8; 3], max: u8, min: u8) -> usize {
    usize::from(r == max)
        | usize::from(g == max) << 1
        | usize::from(r == min) << 2
        | usize::from(g == min) << 3
        | usize::from(b == min) << 4
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
        Tables {
            hue,
            saturation,
            share: std::array::from_fn(|s| (s as f64 / 255.0) as f32),
            sectors: std::array::from_fn(Sector::of),
            turns: std::array::from_fn(|hue| Turn::to(hue as u8)),
        }
    })
}

/// What a hue becomes: in terms of value, of what moves between the two and of p, PIL's names for
/// the largest, the middle and the smallest channel.
#[derive(Clone, Copy)]
struct Turn {
    /// What the moving channel is behind, in shares of the saturation: in f32 where it falls, and in
    /// f64 where it rises. One of them is 0.
    falling: f32,
    rising: f64,
    /// Where R, G and B lie in value | moving << 8 | p << 16.
    places: [u32; 3],
}

impl Turn {
    fn to(hue: u8) -> Self {
        let turn = f64::from(hue) * 6.0 / 255.0;
        let within = (turn - turn.floor()) as f32;
        let sixth = turn.floor() as usize % 6;
        const PLACES: [[u32; 3]; 6] = [
            [0, 8, 16],
            [8, 0, 16],
            [16, 0, 8],
            [16, 8, 0],
            [8, 16, 0],
            [0, 16, 8],
        ];
        let falls = sixth % 2 == 1;
        Turn {
            falling: if falls { within } else { 0.0 },
            rising: if falls { 0.0 } else { 1.0 - f64::from(within) },
            places: PLACES[sixth],
        }
    }
}

/// Turns every pixel's hue by `shift` of the circle, -0.5 to 0.5.
pub(super) fn shift(rgb: &mut [u8], shift: f64) {
    let tables = tables();
    // Truncated towards zero, then modulo 256, as torchvision's cast.
    let shift = (shift * 255.0) as i32 as u8;
    for pixel in rgb.chunks_exact_mut(3) {
        // To (H, S, V) as `convert("HSV")` does. Where all are equal, H and S are 0.
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]];
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let sector = tables.sectors[extremes([r, g, b], max, min)];
        let middle = (u32::from_le_bytes([r, g, b, 0]) >> sector.middle) as u8;
        let chroma = usize::from(max - min) << 8;
        let hue = tables.hue[sector.hue | chroma | usize::from(max.wrapping_sub(middle))];
        let saturation = tables.saturation[chroma | usize::from(max)];
        // And back, as `convert("RGB")` does.
        let turn = &tables.turns[usize::from(hue.wrapping_add(shift))];
        let share = tables.share[usize::from(saturation)];
        // Non-negative and with far fewer than 52 bits, so adding a half rounds exactly as C's
        // round.
        let scaled = |remaining: f64| u32::from((f64::from(max) * remaining + 0.5) as u8);
        let share64 = f64::from(share);
        let moving = scaled(1.0 - (f64::from(share * turn.falling) + share64 * turn.rising));
        let all = u32::from(max) | moving << 8 | scaled(1.0 - share64) << 16;
        for (value, place) in pixel.iter_mut().zip(turn.places) {
            *value = (all >> place) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    /// PIL's `rgb2hsv_row` and `hsv2rgb` (`Convert.c`), step by step.
    fn plain([r, g, b]: [u8; 3], shift: f64) -> [u8; 3] {
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let (mut hue, mut saturation) = (0, 0);
        if max != min {
            let chroma = f32::from(max - min);
            let [rc, gc, bc] = [r, g, b].map(|v| f32::from(max - v) / chroma);
            let turn = if r == max {
                bc - gc
            } else if g == max {
                (2.0 + f64::from(rc) - f64::from(bc)) as f32
            } else {
                (4.0 + f64::from(gc) - f64::from(rc)) as f32
            };
            let turn = ((f64::from(turn) / 6.0 + 1.0) % 1.0) as f32;
            hue = (f64::from(turn) * 255.0) as u8;
            saturation = (f64::from(chroma / f32::from(max)) * 255.0) as u8;
        }
        let hue = hue.wrapping_add((shift * 255.0) as i32 as u8);
        if saturation == 0 {
            return [max; 3];
        }
        let turn = f64::from(hue) * 6.0 / 255.0;
        let within = (turn - turn.floor()) as f32;
        let share = (f64::from(saturation) / 255.0) as f32;
        let round = |x: f64| x.round() as u8;
        let value = f64::from(max);
        let p = round(value * (1.0 - f64::from(share)));
        let q = round(value * (1.0 - f64::from(share * within)));
        let t = round(value * (1.0 - f64::from(share) * (1.0 - f64::from(within))));
        match turn.floor() as u8 % 6 {
            0 => [max, t, p],
            1 => [q, max, p],
            2 => [p, max, t],
            3 => [p, q, max],
            4 => [t, p, max],
            _ => [max, p, q],
        }
    }

    #[test]
    fn what_is_looked_up_is_what_pil_computes() {
        let levels = (0..64u32)
            .map(|i| (i * 7 % 256) as u8)
            .chain([0, 1, 128, 254, 255]);
        let levels: Vec<u8> = levels.collect();
        let mut colours = Vec::new();
        for &r in &levels {
            for &g in &levels {
                colours.extend(levels.iter().map(|&b| [r, g, b]));
            }
        }
        for shift in [-0.5, -0.2, 0.0, 0.1, 0.333, 0.5] {
            let mut turned = colours.as_flattened().to_vec();
            super::shift(&mut turned, shift);
            for (colour, turned) in colours.iter().zip(turned.chunks_exact(3)) {
                assert_eq!(turned, plain(*colour, shift), "{colour:?} by {shift}");
            }
        }
    }
}
