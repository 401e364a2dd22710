//! Maps of 16-bit numbers as f32, a block at a time, for products without an instruction for them.
//!
//! A block's input is widened once into memory of the thread that stays in its cache, and read from
//! there for every kernel position and panel of weights: what the products see are f32 numbers, so
//! their kernels are those of f32 maps, and memory still has half the traffic.

use std::ops::Range;

use super::element::MapElement;
use super::memory::{Ptr, scratch};
use super::simd::{Isa, Kernel, Simd};
use crate::Dtype;

/// A pointer that stands for `x` in numbers of f32, valid where `range` says (which isn't asked
/// where they are f32 already) until the thread's scratch is asked for again.
///
/// # Safety
/// `x` must hold the numbers of the range, and no one may write them meanwhile.
pub unsafe fn widened<E: MapElement>(
    isa: Isa,
    x: Ptr<E>,
    range: impl FnOnce() -> Range<usize>,
) -> Ptr {
    if E::DTYPE == Dtype::F32 {
        return x.map(0);
    }
    let range = range();
    let (from, len) = (x.add(range.start), range.len());
    let to = scratch(len);
    // SAFETY: the caller's promise; the scratch is this thread's alone.
    unsafe { isa.run(Widen { from, to, len }) };
    to.before(range.start)
}

struct Widen<E> {
    from: Ptr<E>,
    to: Ptr,
    len: usize,
}

impl<E: MapElement> Kernel for Widen<E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (from, to) = (self.from.raw().cast_const(), self.to.raw());
        let whole = self.len - self.len % S::LANES;
        // SAFETY: below `len` of both.
        unsafe {
            for at in (0..whole).step_by(S::LANES) {
                S::store(to.add(at), E::load::<S>(from.add(at)));
            }
            for at in whole..self.len {
                *to.add(at) = (*from.add(at)).widen();
            }
        }
    }
}
