//! The two number types of the reference engine.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// f32 or f64.
///
/// Activations, parameters and gradients are stored as `Self`; sums that decide a statistic, a
/// norm or a loss are always taken in f64, so that the f32 engine errs by its storage alone.
pub trait Float:
    Copy
    + PartialOrd
    + Debug
    + Send
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// 0.
    const ZERO: Self;
    /// `f32` or `f64`.
    const NAME: &'static str;
    /// The nearest value of this type.
    fn of(value: f64) -> Self;
    /// The value, exactly.
    fn f64(self) -> f64;
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const NAME: &'static str = "f32";
    fn of(value: f64) -> Self {
        value as f32
    }
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const NAME: &'static str = "f64";
    fn of(value: f64) -> Self {
        value
    }
    fn f64(self) -> f64 {
        self
    }
}

/// y ← y + a·x, the inner loop of everything linear.
#[inline]
pub(super) fn axpy<T: Float>(y: &mut [T], a: T, x: &[T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// x · y in f64.
#[inline]
pub(super) fn dot<T: Float>(x: &[T], y: &[T]) -> f64 {
    x.iter().zip(y).map(|(a, b)| a.f64() * b.f64()).sum()
}
