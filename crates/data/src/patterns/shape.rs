//! The ten patterns: each says of a point whether it lies in the figure or in the ground.

use npid_network::philox::Stream;
use std::f64::consts::TAU;

/// The share of a pattern that is figure is drawn from this range for the classes that allow it.
const SHARE: (f64, f64) = (0.35, 0.65);

/// Plane waves that blobs are the sum of.
const WAVES: usize = 8;

/// A pattern with its scale, position and proportions; lengths in pixels of a 32x32 picture.
///
/// The pattern's own axes are u and v; the caller has rotated them.
pub(super) struct Shape {
    kind: Kind,
    /// The length after which a periodic pattern repeats.
    period: f64,
    /// The pattern's origin.
    origin: (f64, f64),
    /// A proportion in 0..1 of the pattern, figure to period.
    share: f64,
}

enum Kind {
    Stripes,
    Checks,
    Dots,
    Rings,
    Grid,
    /// The depth of the teeth, in periods of the stripes.
    Zigzag,
    /// The number of rays.
    Rays(f64),
    /// (u frequency, v frequency, phase) of each wave.
    Blobs([(f64, f64, f64); WAVES]),
    Crosses,
    Triangles,
}

impl Shape {
    /// Draws a pattern of class `label` (a position in [`super::CLASSES`]).
    pub(super) fn draw(label: usize, s: &mut Stream) -> Self {
        let scale = s.unit();
        let share = s.uniform(SHARE.0, SHARE.1);
        let origin = (s.uniform(-8.0, 8.0), s.uniform(-8.0, 8.0));
        let between = |low: f64, high: f64| low * libm::pow(high / low, scale);
        let (kind, period) = match label {
            0 => {
                let period = between(8.0, 15.0);
                let waves = std::array::from_fn(|_| {
                    let angle = s.uniform(0.0, TAU);
                    let frequency = TAU / (period * s.uniform(0.8, 1.3));
                    (
                        frequency * libm::cos(angle),
                        frequency * libm::sin(angle),
                        s.uniform(0.0, TAU),
                    )
                });
                (Kind::Blobs(waves), period)
            }
            1 => (Kind::Checks, between(7.0, 14.0)),
            2 => (Kind::Crosses, between(7.0, 13.0)),
            3 => (Kind::Dots, between(6.0, 12.0)),
            4 => (Kind::Grid, between(6.0, 12.0)),
            5 => (Kind::Rays(between(5.0, 13.0).floor()), 1.0),
            6 => (Kind::Rings, between(5.0, 11.0)),
            7 => (Kind::Stripes, between(5.0, 11.0)),
            8 => (Kind::Triangles, between(7.0, 14.0)),
            _ => (Kind::Zigzag, between(5.5, 11.0)),
        };
        Shape {
            kind,
            period,
            origin,
            share,
        }
    }

    /// Whether the point (u, v) lies in the figure.
    pub(super) fn contains(&self, u: f64, v: f64) -> bool {
        let (u, v) = (u - self.origin.0, v - self.origin.1);
        let (a, b) = (u / self.period, v / self.period);
        // A point of the square lattice's cell, -0.5..0.5.
        let (x, y) = (fraction(a) - 0.5, fraction(b) - 0.5);
        let share = self.share;
        match &self.kind {
            Kind::Stripes => fraction(a) < share,
            Kind::Checks => (fraction(a) < 0.5) != (fraction(b) < 0.5),
            Kind::Dots => {
                let radius = 0.22 + 0.3 * (share - SHARE.0);
                x * x + y * y < radius * radius
            }
            Kind::Rings => fraction((a * a + b * b).sqrt()) < share,
            Kind::Grid => {
                let line = 0.5 * share;
                fraction(a) < line || fraction(b) < line
            }
            Kind::Zigzag => fraction(a + 0.9 * tooth(0.5 * b)) < share,
            Kind::Rays(rays) => fraction(libm::atan2(v, u) * rays / TAU) < share,
            Kind::Blobs(waves) => {
                let sum: f64 = waves
                    .iter()
                    .map(|(fu, fv, phase)| libm::cos(fu * u + fv * v + phase))
                    .sum();
                sum > 4.0 * (0.5 - share)
            }
            Kind::Crosses => {
                let (x, y) = (x.abs(), y.abs());
                let arm = 0.28 * share;
                x.max(y) < 0.4 && x.min(y) < arm
            }
            Kind::Triangles => {
                let height = 0.7 + 0.4 * (share - SHARE.0);
                // Point up: as wide as the cell's share at its foot, nothing at its tip.
                let up = (y + 0.5 * height) / height;
                (0.0..1.0).contains(&up) && x.abs() < 0.45 * (1.0 - up)
            }
        }
    }
}

/// The part of `x` above the next lower integer, 0..1.
fn fraction(x: f64) -> f64 {
    x - x.floor()
}

/// A triangle wave of period 1 between 0 and 1.
fn tooth(x: f64) -> f64 {
    (2.0 * fraction(x) - 1.0).abs()
}
