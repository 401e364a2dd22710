//! The weight gradient of a convolution: the walk of `conv2d` the other way round.
//!
//! dw[position][in][out] = Σ over pixels of x[pixel at position][in] · dy[pixel][out]. The inner
//! tile is `S::ROWS` input channels x two vectors of output channels, summed over a block of pixels
//! from whose list those in the padding are left out. The block's dy are packed once for all
//! kernel positions. Segments of the batch are summed apart, as many as their memory allows, and
//! merged in order; deep layers have few segments and share out channels and positions instead.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::affine::load;
use super::conv2d::ConvPlan;
use super::element::MapElement;
use super::memory::Ptr;
use super::simd::{Isa, Kernel, Simd};
use super::source::Source;
use super::threads::{Parts, parallel};
use super::tile::{by_rows, panel, panels, put, split_rows, zeros};
use super::widen::widened;

/// Pixels whose gradients are packed together.
const GRADIENT_PIXELS: usize = 240;
/// Numbers of weight gradients that segments may keep before they are merged.
const SEGMENT_NUMBERS: usize = 2 * 1024 * 1024;

impl ConvPlan {
    /// Segments of the batch whose weight gradients are summed apart and then merged in order.
    fn segments(&self, count: usize) -> Parts {
        let len = self.weights_len();
        let most = (SEGMENT_NUMBERS / len).clamp(1, 16);
        if most < 2 {
            Parts::exactly(count, 1)
        } else {
            Parts::exactly(count, most)
        }
    }

    fn weights_len(&self) -> usize {
        self.conv.kernel * self.conv.kernel * self.conv.in_channels * self.conv.out_channels
    }

    /// Numbers that [`ConvPlan::weight_gradient`] needs beside its arguments.
    pub(super) fn gradient_workspace(&self, count: usize) -> usize {
        match &self.winograd {
            Some(winograd) => winograd.gradient_workspace(count),
            None => self.segments(count).count() * self.weights_len(),
        }
    }

    /// dw += Σ over the batch of x and dy, dw as the weights.
    ///
    /// # Safety
    /// The pointers must be valid for `count` images and `workspace` for
    /// [`ConvPlan::gradient_workspace`] numbers, exclusively.
    pub unsafe fn weight_gradient<E: MapElement>(
        &self,
        isa: Isa,
        count: usize,
        x: Source<'_, E>,
        dy: Ptr<E>,
        workspace: Ptr,
        dw: &mut [f32],
    ) {
        if let Some(winograd) = &self.winograd {
            // SAFETY: passed on.
            return unsafe { winograd.weight_gradient(isa, count, x, dy, workspace, dw) };
        }
        assert!(x.norm.is_none(), "walks read maps as they lie");
        let segments = self.segments(count);
        let len = self.weights_len();
        let groups = panels(self.conv.out_channels, self.lanes);
        // Few tasks: share the kernel positions out too.
        let taps = self.conv.kernel * self.conv.kernel;
        let tap_groups = if segments.count() * groups < 32 {
            Parts::exactly(taps, 3)
        } else {
            Parts::exactly(taps, 1)
        };
        let tasks = segments.count() * groups * tap_groups.count();
        parallel(tasks, |i| {
            let segment = i / (groups * tap_groups.count());
            let rest = i % (groups * tap_groups.count());
            let pixels = self.output.pixels();
            let images = segments.range(segment);
            let (mut at, end) = (images.start * pixels, images.end * pixels);
            let mut accumulate = false;
            while at < end {
                let block = at..end.min(at + GRADIENT_PIXELS);
                at = block.end;
                // SAFETY: tasks write different segments, channels or kernel positions.
                unsafe {
                    isa.run(GradientBlock {
                        plan: self,
                        x: widened(isa, x.map, || self.reads(block.clone())),
                        pixels: block,
                        panel: rest / tap_groups.count(),
                        taps: tap_groups.range(rest % tap_groups.count()),
                        dy,
                        dw: workspace.add(segment * len),
                        accumulate,
                    })
                }
                accumulate = true;
            }
        });
        let parts = Parts::at_most(len, 16 * 1024);
        let to = Ptr::of(dw);
        parallel(parts.count(), |i| {
            let range = parts.range(i);
            // SAFETY: the ranges are disjoint.
            let sum = unsafe { to.add(range.start).slice_mut(range.len()) };
            for s in 0..segments.count() {
                // SAFETY: all segments are written by now.
                let part = unsafe { workspace.add(s * len + range.start).slice(range.len()) };
                for (a, b) in sum.iter_mut().zip(part) {
                    *a += b;
                }
            }
        });
    }
}

/// A part of a task of a weight gradient: at most [`GRADIENT_PIXELS`] pixels, one panel of output
/// channels, some kernel positions.
struct GradientBlock<'a, E> {
    plan: &'a ConvPlan,
    /// Of the batch's output.
    pixels: Range<usize>,
    panel: usize,
    taps: Range<usize>,
    x: Ptr,
    dy: Ptr<E>,
    dw: Ptr,
    /// Whether it is added to `dw`.
    accumulate: bool,
}

impl<E: MapElement> Kernel for GradientBlock<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let plan = self.plan;
        let (ci, co) = (plan.conv.in_channels, plan.conv.out_channels);
        let pixels = plan.output.pixels();
        let (column, width, vectors) = panel(co, S::LANES, self.panel);
        let step = vectors * S::LANES;
        // The panel's gradients of the pixels, contiguous: read once for each position.
        let mut packed = MaybeUninit::<[f32; GRADIENT_PIXELS * 32]>::uninit();
        let packed = packed.as_mut_ptr().cast::<f32>();
        let mut a = [std::ptr::null::<f32>(); GRADIENT_PIXELS];
        let mut b = [std::ptr::null::<f32>(); GRADIENT_PIXELS];
        let (at, n, accumulate) = (self.pixels.start, self.pixels.len(), self.accumulate);
        for j in 0..n {
            // SAFETY: pixel at + j and `width` channels of dy; the buffer holds 32 a pixel.
            unsafe {
                let from = self.dy.raw().cast_const().add((at + j) * co + column);
                let to = packed.add(j * step);
                for v in 0..vectors {
                    let lanes = (width - v * S::LANES).min(S::LANES);
                    let x = load::<S, E>(from.add(v * S::LANES), lanes);
                    S::store(to.add(v * S::LANES), x);
                }
            }
        }
        for tap in self.taps.clone() {
            // Pixels whose input at this position lies in the padding are left out.
            let offsets = &plan.by_tap[tap * pixels..][..pixels];
            let (mut image, mut pixel) = (at / pixels, at % pixels);
            let mut valid = 0;
            for j in 0..n {
                let offset = offsets[pixel];
                a[valid] = (self.x.raw().cast_const())
                    .wrapping_add(image * plan.input.len() + offset.max(0) as usize);
                b[valid] = packed.wrapping_add(j * step).cast_const();
                valid += usize::from(offset >= 0);
                pixel += 1;
                if pixel == pixels {
                    (image, pixel) = (image + 1, 0);
                }
            }
            for (c, rows) in split_rows(ci, S::ROWS) {
                let to = (self.dw.raw()).wrapping_add((tap * ci + c) * co + column);
                // SAFETY: `a` point at pixels of ci channels, c + rows <= ci; `to` is this
                // task's part.
                unsafe {
                    let (a, b) = (&a[..valid], &b[..valid]);
                    if vectors == 2 {
                        by_rows!(
                            S,
                            rows,
                            2,
                            gradient_tile(a, b, c, to, co, width, accumulate)
                        );
                    } else {
                        by_rows!(
                            S,
                            rows,
                            1,
                            gradient_tile(a, b, c, to, co, width, accumulate)
                        );
                    }
                }
            }
        }
    }
}

/// M input channels x NV vectors of output channels, summed over pixels.
#[inline(always)]
unsafe fn gradient_tile<S: Simd, const M: usize, const NV: usize>(
    a: &[*const f32],
    b: &[*const f32],
    c: usize,
    to: *mut f32,
    stride: usize,
    width: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = zeros::<S, M, NV>();
        for (&a, &b) in a.iter().zip(b) {
            let a = a.add(c);
            let mut row = [S::zero(); NV];
            for (v, r) in row.iter_mut().enumerate() {
                *r = S::load(b.add(v * S::LANES));
            }
            for i in 0..M {
                let x = S::splat(*a.add(i));
                for v in 0..NV {
                    acc[i][v] = S::fma(x, row[v], acc[i][v]);
                }
            }
        }
        for i in 0..M {
            put::<S, _, NV>(acc[i], to.wrapping_add(i * stride), width, accumulate);
        }
    }
}
