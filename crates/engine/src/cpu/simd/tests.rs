use super::*;

struct Ln1p<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Ln1p<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.0.len() {
            let n = S::LANES.min(self.0.len() - i);
            // SAFETY: n numbers are left in both.
            unsafe {
                let y = S::ln_1p(S::load_first(self.0.as_ptr().add(i), n));
                S::store_first(self.1.as_mut_ptr().add(i), y, n);
            }
            i += n;
        }
    }
}

#[test]
fn ln_1p_is_accurate_also_where_it_is_tiny() {
    let mut x: Vec<f32> = (0..=20_000).map(|i| i as f32 / 20_000.0).collect();
    x.extend((0..400).map(|i| (-0.2 * i as f32).exp()));
    for isa in Isa::available() {
        let mut y = vec![0.0; x.len()];
        // SAFETY: an available instruction set, slices of equal length.
        unsafe { isa.run(Ln1p(&x, &mut y)) };
        for (x, y) in x.iter().zip(&y) {
            let want = f64::from(*x).ln_1p();
            assert!(
                (f64::from(*y) - want).abs() <= want * 3e-7,
                "{isa:?}: ln_1p({x}) = {y}, {want}"
            );
        }
    }
}

struct Exp<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Exp<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.0.len() {
            let n = S::LANES.min(self.0.len() - i);
            // SAFETY: n numbers are left in both.
            unsafe {
                let y = S::exp(S::load_first(self.0.as_ptr().add(i), n));
                S::store_first(self.1.as_mut_ptr().add(i), y, n);
            }
            i += n;
        }
    }
}

#[test]
fn exp_is_accurate_on_every_instruction_set() {
    let x: Vec<f32> = (0..35001).map(|i| -87.0 + i as f32 * 0.005).collect();
    for isa in Isa::available() {
        let mut y = vec![0.0; x.len()];
        // SAFETY: an available instruction set, slices of equal length.
        unsafe { isa.run(Exp(&x, &mut y)) };
        for (x, y) in x.iter().zip(&y) {
            let want = f64::from(*x).exp();
            assert!(
                (f64::from(*y) - want).abs() <= want * 4e-7,
                "{isa:?}: exp({x}) = {y}, {want}"
            );
        }
    }
}

struct Exp2<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Exp2<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.0.len() {
            let n = S::LANES.min(self.0.len() - i);
            // SAFETY: n numbers are left in both.
            unsafe {
                let y = S::exp2(S::load_first(self.0.as_ptr().add(i), n));
                S::store_first(self.1.as_mut_ptr().add(i), y, n);
            }
            i += n;
        }
    }
}

#[test]
fn exp2_is_as_accurate_as_it_says() {
    let mut x: Vec<f32> = (0..50_601).map(|i| -126.0 + i as f32 * 0.005).collect();
    x.extend([0.0, -0.0]);
    for isa in Isa::available() {
        let run = |x: &[f32]| {
            let mut y = vec![0.0; x.len()];
            // SAFETY: an available instruction set, slices of equal length.
            unsafe { isa.run(Exp2(x, &mut y)) };
            y
        };
        for (x, y) in x.iter().zip(run(&x)) {
            let want = f64::from(*x).exp2();
            assert!(
                (f64::from(y) - want).abs() <= want * 4e-6,
                "{isa:?}: exp2({x}) = {y}, {want}"
            );
        }
        let least = f32::MIN_POSITIVE;
        assert_eq!(
            run(&[0.0, -1.0, -1e30, f32::NEG_INFINITY]),
            [1.0, 0.5, least, least]
        );
        assert!(run(&[f32::NAN])[0].is_nan());
    }
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Out = (f32, f32);
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (f32, f32) {
        // SAFETY: the test passes 16 numbers.
        unsafe {
            (
                S::sum(S::load(self.0.as_ptr())),
                S::largest(S::load(self.0.as_ptr())),
            )
        }
    }
}

#[test]
fn lanes_are_reduced() {
    let x: Vec<f32> = (1..=16).map(|i| i as f32).collect();
    for isa in Isa::available() {
        let lanes = isa.lanes();
        // SAFETY: an available instruction set, 16 numbers.
        let (sum, largest) = unsafe { isa.run(Sum(&x)) };
        assert_eq!(
            (sum, largest),
            ((lanes * (lanes + 1) / 2) as f32, lanes as f32)
        );
    }
}
