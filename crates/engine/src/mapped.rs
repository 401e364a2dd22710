//! Rows of the memory bank in a mapped file: a private mapping, whose writes stay in memory until
//! somebody writes them to the file and says so ([`crate::Engine::release_rows`]).
//!
//! The file holds the numbers of the rows, little-endian, and nothing else.

use std::fs::File;
use std::io;
use std::ops::Range;

use half::{bf16, f16};
use memmap2::{MmapMut, MmapOptions};
use npid_network::method::RowType;

/// N x D numbers of a mapped file. What is written to them reaches no file.
pub struct MappedRows {
    memory: MmapMut,
    dtype: RowType,
    len: usize,
}

impl MappedRows {
    /// Maps a file of `len` numbers.
    ///
    /// The file must stay as long as it is for as long as the mapping lives, and nobody but this
    /// process may write to it: what another process wrote would appear among the rows, and where
    /// it cut the file short the next look at a missing row would end this process. (A run's folder
    /// is locked against a second process.)
    ///
    /// # Errors
    /// If the file has another size, or the system doesn't map it.
    pub fn open(file: &File, dtype: RowType, len: usize) -> io::Result<Self> {
        let bytes = bytes(dtype, len)?;
        let found = file.metadata()?.len();
        if found != bytes as u64 {
            return Err(io::Error::other(format!(
                "{found} bytes in place of {bytes}"
            )));
        }
        // No memory is set aside for the day on which all rows have changed: a bank may be larger
        // than memory, and what has changed is written to the file and released in time.
        let mut options = MmapOptions::new();
        options.len(bytes).no_reserve_swap();
        // SAFETY: the file's size was checked, and any bits are numbers. That no other process
        // changes it while it is mapped is what the documentation above asks for; this process
        // writes to it only between calls of the engine, when nobody borrows the mapping.
        let memory = unsafe { options.map_copy(file) }?;
        Ok(MappedRows { memory, dtype, len })
    }

    /// `len` zeros of no file, which take memory only where they are written to.
    ///
    /// # Errors
    /// If the system doesn't give the addresses.
    pub fn zeros(dtype: RowType, len: usize) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(bytes(dtype, len)?).no_reserve_swap();
        let memory = options.map_anon()?;
        Ok(MappedRows { memory, dtype, len })
    }

    /// Type of the numbers.
    pub fn dtype(&self) -> RowType {
        self.dtype
    }

    /// Number of numbers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says that rows are read in no order, so that reading ahead is of no use.
    pub(crate) fn read_anywhere(&self) {
        // A system that takes no advice is only slower.
        #[cfg(unix)]
        let _ = self.memory.advise(memmap2::Advice::Random);
    }

    pub(crate) fn into_parts(self) -> (MmapMut, RowType, usize) {
        (self.memory, self.dtype, self.len)
    }
}

fn bytes(dtype: RowType, len: usize) -> io::Result<usize> {
    let bytes = len.checked_mul(dtype.bytes());
    (bytes.filter(|&bytes| isize::try_from(bytes).is_ok()))
        .ok_or_else(|| io::Error::other("more than there are addresses"))
}

/// Numbers as bytes of a file, rounded once and added to `into`.
pub fn encode(dtype: RowType, numbers: &[f32], into: &mut Vec<u8>) {
    match dtype {
        RowType::F32 => into.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
        RowType::Bf16 => {
            into.extend((numbers.iter()).flat_map(|&x| bf16::from_f32(x).to_le_bytes()))
        }
        RowType::F16 => into.extend((numbers.iter()).flat_map(|&x| f16::from_f32(x).to_le_bytes())),
    }
}

/// The numbers of bytes of a file, widened. Bytes that make no whole number are left out.
pub fn decode(dtype: RowType, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        RowType::F32 => (bytes.chunks_exact(4))
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        RowType::Bf16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        RowType::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
    }
}

/// Gives back the memory of pages that hold none of the rows `newer`, of those that hold rows
/// `in_file`: the next look at them reads the file. Rows have `stride` bytes.
///
/// Only Linux reads a private mapping's page from the file again; elsewhere nothing is given back.
pub(crate) fn release(memory: &mut MmapMut, stride: usize, in_file: &[u64], newer: &[u64]) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page @ 1..) = usize::try_from(page) else {
            return;
        };
        for run in released(page, stride, in_file, newer) {
            let (start, end) = (run.start * page, (run.end * page).min(memory.len()));
            // SAFETY: nobody borrows the mapping (it is borrowed here, exclusively), the range lies
            // in it, and whatever its pages hold next are numbers.
            let advised = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                memory.unchecked_advise_range(advice, start, end - start)
            };
            if advised.is_err() {
                return; // memory that isn't given back is only memory
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (memory, stride, in_file, newer);
}

/// Runs of pages of `page` bytes that hold a row of `in_file` and none of `newer`; both ascend.
#[cfg_attr(not(target_os = "linux"), expect(dead_code))]
fn released(page: usize, stride: usize, in_file: &[u64], newer: &[u64]) -> Vec<Range<usize>> {
    let pages = |&row: &u64| {
        let start = row as usize * stride;
        (start / page, (start + stride - 1) / page)
    };
    let mut kept = newer.iter().map(pages).peekable();
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut next = 0;
    for (first, last) in in_file.iter().map(pages) {
        for at in first.max(next)..=last {
            while kept.next_if(|&(_, last)| last < at).is_some() {}
            if kept.peek().is_some_and(|&(first, _)| first <= at) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += 1,
                _ => runs.push(at..at + 1),
            }
        }
        next = next.max(last + 1);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::{Purpose, Stream};

    #[test]
    fn pages_of_newer_rows_stay() {
        // Eight rows a page; then rows of one and a half pages; then a row of three pages.
        let pages = |stride, in_file: &[u64], newer: &[u64]| -> Vec<usize> {
            let runs = released(64, stride, in_file, newer);
            runs.into_iter().flatten().collect()
        };
        assert_eq!(released(64, 8, &[0, 7, 8, 30], &[]), [0..2, 3..4]);
        assert_eq!(pages(8, &[0, 7, 8, 30], &[15]), [0, 3]);
        assert_eq!(pages(8, &[0, 7, 8, 30], &[1, 2, 26, 80]), [1]);
        assert_eq!(pages(96, &[0, 3], &[1]), [0, 4, 5]);
        assert_eq!(pages(192, &[1], &[0, 2]), [3, 4, 5]);
        assert!(pages(8, &[], &[1]).is_empty());
    }

    #[test]
    fn any_rows_keep_exactly_the_pages_of_newer_ones() {
        let mut random = Stream::new(0, Purpose::Bench, 0, 0, 0);
        for (page, stride) in [(64, 8), (64, 24), (64, 100), (64, 64), (16, 96)] {
            for _ in 0..50 {
                let mut set = |share: f64| -> Vec<u64> {
                    (0..60)
                        .filter(|_| random.uniform(0.0, 1.0) < share)
                        .collect()
                };
                let (in_file, newer) = (set(0.3), set(0.1));
                let of = |rows: &[u64]| -> std::collections::BTreeSet<usize> {
                    let spans = rows.iter().map(|&row| row as usize * stride);
                    spans
                        .flat_map(|at| at / page..=(at + stride - 1) / page)
                        .collect()
                };
                let wanted: Vec<usize> = of(&in_file).difference(&of(&newer)).copied().collect();
                let runs = released(page, stride, &in_file, &newer);
                let found: Vec<usize> = runs.into_iter().flatten().collect();
                assert_eq!(found, wanted, "{page} {stride} {in_file:?} {newer:?}");
            }
        }
    }

    #[test]
    fn bytes_of_a_file_are_numbers_again() {
        let numbers = [0.1f32, -1.0, 3.5e-5, 0.0, -0.0];
        for (_, dtype) in RowType::NAMED {
            let mut bytes = Vec::new();
            encode(dtype, &numbers, &mut bytes);
            assert_eq!(bytes.len(), numbers.len() * dtype.bytes());
            let rounded = decode(dtype, &bytes);
            let mut again = Vec::new();
            encode(dtype, &rounded, &mut again);
            assert_eq!(bytes, again, "a rounded number is rounded no further");
            for (x, y) in numbers.iter().zip(&rounded) {
                assert!((x - y).abs() <= x.abs() * 0.005, "{x} {y}");
            }
        }
    }
}
