//! The rows of the memory bank: what their numbers are, and the memory that they lie in.

use half::{bf16, f16};
use memmap2::MmapMut;
use npid_network::method::RowType;

use rayon::prelude::*;

use super::bank;
use super::element::Element;
use crate::Error;
use crate::mapped::{self, MappedRows};

/// Rows that a thread fills at once.
const FILL_ROWS: usize = 1024;

/// N x D numbers of one of three types.
pub struct Rows {
    memory: MmapMut,
    dtype: RowType,
    len: usize,
    /// Whether they are in memory alone, all of them.
    resident: bool,
}

/// All numbers of [`Rows`], with their type.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// The upper 16 bits of them.
    Bf16(&'a [bf16]),
    /// 16 bits of IEEE 754.
    F16(&'a [f16]),
}

/// The same, to be written.
pub enum ViewMut<'a> {
    /// See [`View`].
    F32(&'a mut [f32]),
    /// See [`View`].
    Bf16(&'a mut [bf16]),
    /// See [`View`].
    F16(&'a mut [f16]),
}

impl Rows {
    /// `len` zeros.
    ///
    /// # Errors
    /// If the system doesn't give the memory.
    pub fn new(dtype: RowType, len: usize) -> Result<Self, Error> {
        let bytes = len * dtype.bytes();
        let memory = MmapMut::map_anon(bytes).map_err(|error| {
            Error::Argument(format!(
                "a memory bank of {:.1} GB of memory, which the system doesn't give ({error})",
                bytes as f64 * 1e-9
            ))
        })?;
        // Rows are read anywhere, so with pages of 4 KB most reads would miss the table of pages.
        // A system that has no larger ones, or doesn't want to give them, is only slower.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Rows {
            memory,
            dtype,
            len,
            resident: true,
        })
    }

    /// `len` zeros that take memory only where they are written to: what stands in for a file that
    /// is still to come.
    ///
    /// # Errors
    /// If the system doesn't give the addresses.
    pub fn unfilled(dtype: RowType, len: usize) -> Result<Self, Error> {
        let mapped = MappedRows::zeros(dtype, len).map_err(|error| {
            Error::Argument(format!(
                "a memory bank of {len} numbers, which the system doesn't map ({error})"
            ))
        })?;
        Ok(Rows::mapped(mapped))
    }

    /// Those of a mapped file.
    pub fn mapped(mapped: MappedRows) -> Self {
        let (memory, dtype, len) = mapped.into_parts();
        Rows {
            memory,
            dtype,
            len,
            resident: false,
        }
    }

    /// Bytes of memory that they take for good.
    pub fn bytes(&self) -> usize {
        if self.resident {
            self.len * self.dtype.bytes()
        } else {
            0
        }
    }

    /// See [`crate::Engine::release_rows`].
    pub fn release(&mut self, dim: usize, in_file: &[u64], newer: &[u64]) {
        if !self.resident {
            mapped::release(&mut self.memory, dim * self.dtype.bytes(), in_file, newer);
        }
    }

    /// Number of numbers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them.
    pub fn view(&self) -> View<'_> {
        let p = self.memory.as_ptr();
        // SAFETY: the mapping holds `len` numbers of this type from its start, which is that of a
        // page; any bits are numbers.
        unsafe {
            match self.dtype {
                RowType::F32 => View::F32(std::slice::from_raw_parts(p.cast(), self.len)),
                RowType::Bf16 => View::Bf16(std::slice::from_raw_parts(p.cast(), self.len)),
                RowType::F16 => View::F16(std::slice::from_raw_parts(p.cast(), self.len)),
            }
        }
    }

    /// All of them.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let (p, len) = (self.memory.as_mut_ptr(), self.len);
        // SAFETY: as in `view`, and &mut self is exclusive.
        unsafe {
            match self.dtype {
                RowType::F32 => ViewMut::F32(std::slice::from_raw_parts_mut(p.cast(), len)),
                RowType::Bf16 => ViewMut::Bf16(std::slice::from_raw_parts_mut(p.cast(), len)),
                RowType::F16 => ViewMut::F16(std::slice::from_raw_parts_mut(p.cast(), len)),
            }
        }
    }

    /// Numbers `range`, widened.
    pub fn read(&self, range: std::ops::Range<usize>) -> Vec<f32> {
        fn wide<E: Element>(numbers: &[E]) -> Vec<f32> {
            numbers.iter().map(|x| x.widen()).collect()
        }
        match self.view() {
            View::F32(all) => all[range].to_vec(),
            View::Bf16(all) => wide(&all[range]),
            View::F16(all) => wide(&all[range]),
        }
    }

    /// Rows of `dim` numbers, widened, one after the other.
    pub fn gather(&self, dim: usize, rows: &[u64]) -> Vec<f32> {
        let mut all = vec![0.0; rows.len() * dim];
        match self.view() {
            View::F32(bank) => bank::gather(bank, dim, rows, &mut all),
            View::Bf16(bank) => bank::gather(bank, dim, rows, &mut all),
            View::F16(bank) => bank::gather(bank, dim, rows, &mut all),
        }
        all
    }

    /// Rounds numbers to rows of `dim`.
    pub fn scatter(&mut self, dim: usize, rows: &[u64], numbers: &[f32]) {
        for (&row, numbers) in rows.iter().zip(numbers.chunks_exact(dim)) {
            self.write(row as usize * dim, numbers);
        }
    }

    /// Sets every row of `dim` numbers to what `row` gives for it, on the threads of the current
    /// pool.
    pub fn fill(&mut self, dim: usize, row: impl Fn(u64) -> Vec<f32> + Sync) {
        fn each<E: Element>(all: &mut [E], dim: usize, row: impl Fn(u64) -> Vec<f32> + Sync) {
            let parts = all.par_chunks_mut(dim * FILL_ROWS).enumerate();
            parts.for_each(|(part, to)| {
                for (i, to) in to.chunks_exact_mut(dim).enumerate() {
                    let numbers = row((part * FILL_ROWS + i) as u64);
                    (to.iter_mut().zip(numbers)).for_each(|(to, x)| *to = E::narrow(x));
                }
            });
        }
        match self.view_mut() {
            ViewMut::F32(all) => each(all, dim, row),
            ViewMut::Bf16(all) => each(all, dim, row),
            ViewMut::F16(all) => each(all, dim, row),
        }
    }

    /// Rounds numbers to the place that begins at number `at`.
    pub fn write(&mut self, at: usize, numbers: &[f32]) {
        fn put<E: Element>(to: &mut [E], numbers: &[f32]) {
            (to.iter_mut().zip(numbers)).for_each(|(to, x)| *to = E::narrow(*x));
        }
        let range = at..at + numbers.len();
        match self.view_mut() {
            ViewMut::F32(all) => all[range].copy_from_slice(numbers),
            ViewMut::Bf16(all) => put(&mut all[range], numbers),
            ViewMut::F16(all) => put(&mut all[range], numbers),
        }
    }
}
