//! L2 normalisation, as `torch.nn.functional.normalize`: y = x / max(‖x‖, 1e-12).

use super::float::{Float, dot};

/// The floor of the norm.
pub const FLOOR: f64 = 1e-12;

/// y, of `x`, B x D. The backward pass needs `x`.
pub fn forward<T: Float>(x: &[T], dim: usize) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(dim) {
        let norm = dot(row, row).sqrt().max(FLOOR);
        y.extend(row.iter().map(|v| T::of(v.f64() / norm)));
    }
    y
}

/// dx = (dy - y·(y·dy)) / ‖x‖, overwriting: the gradient's part along x is lost. Below the floor
/// the map is linear and dx = dy / 1e-12.
pub fn backward<T: Float>(x: &[T], dy: &[T], dim: usize) -> Vec<T> {
    let mut dx = Vec::with_capacity(x.len());
    for (row, g) in x.chunks_exact(dim).zip(dy.chunks_exact(dim)) {
        let norm = dot(row, row).sqrt();
        let along = if norm > FLOOR {
            dot(row, g) / (norm * norm)
        } else {
            0.0
        };
        let norm = norm.max(FLOOR);
        let both = row.iter().zip(g);
        dx.extend(both.map(|(v, g)| T::of((g.f64() - v.f64() * along) / norm)));
    }
    dx
}
