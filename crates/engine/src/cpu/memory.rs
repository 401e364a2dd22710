//! Buffers: one arena whose layout is planned before the first step, and pointers into it that
//! tasks on several threads may share.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use half::bf16;

use super::element::{Element, MapElement};
use crate::Dtype;

/// A cache line, and the widest vector: where buffers begin.
const ALIGN: usize = 64;

/// A zeroed, 64-byte aligned buffer of f32.
pub struct Buffer {
    /// What was allocated, at least [`ALIGN`] bytes longer.
    all: *mut u8,
    start: *mut f32,
    len: usize,
}

// SAFETY: a Buffer owns its memory like a Vec<f32>.
unsafe impl Send for Buffer {}
// SAFETY: shared access through &Buffer only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros, which take memory only once they are touched.
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Buffer {
                all: std::ptr::dangling_mut(),
                start: std::ptr::dangling_mut(),
                len,
            };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout isn't empty.
        let all = unsafe { alloc_zeroed(layout) };
        if all.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: there are ALIGN bytes more than the numbers take.
        let start = unsafe { all.add(all.align_offset(ALIGN)) }.cast::<f32>();
        Buffer { all, start, len }
    }

    /// Whether the system would give `numbers` numbers just now: an address range is asked for and
    /// given back untouched, so what is absurd or beyond a limit can be refused with a message
    /// rather than abort half-way.
    pub fn possible(numbers: u128) -> bool {
        let Some(bytes) = numbers.checked_mul(4).and_then(|b| isize::try_from(b).ok()) else {
            return false;
        };
        Vec::<u8>::new().try_reserve_exact(bytes as usize).is_ok()
    }

    /// Aligned as any allocation is, and longer instead: asked for more than that, the standard
    /// library would write the zeros, and touch all of it.
    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len)
            .and_then(|l| Layout::from_size_align(l.size() + ALIGN, align_of::<f32>()))
            .unwrap_or_else(|_| panic!("a buffer of {len} numbers exceeds the address space"))
    }

    /// Its numbers.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `start` is valid for `len` initialised numbers.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Its numbers.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and &mut self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Appends the `len` numbers of a map that begins at byte `at`, a multiple of 4.
    pub fn read_map(&self, dtype: Dtype, at: usize, len: usize, into: &mut Vec<f32>) {
        match dtype {
            Dtype::F32 => into.extend_from_slice(self.map(at, len)),
            Dtype::Bf16 => into.extend(self.map::<bf16>(at, len).iter().map(|x| x.widen())),
        }
    }

    /// Writes a map that begins at byte `at`, a multiple of 4.
    pub fn write_map(&mut self, dtype: Dtype, at: usize, numbers: &[f32]) {
        match dtype {
            Dtype::F32 => self.map_mut(at, numbers.len()).copy_from_slice(numbers),
            Dtype::Bf16 => {
                let map = self.map_mut::<bf16>(at, numbers.len());
                (map.iter_mut().zip(numbers)).for_each(|(to, x)| *to = bf16::narrow(*x));
            }
        }
    }

    fn map<E: MapElement>(&self, at: usize, len: usize) -> &[E] {
        self.check::<E>(at, len);
        // SAFETY: inside the buffer and aligned as it is; any bits are numbers.
        unsafe { std::slice::from_raw_parts(self.start.cast::<E>().byte_add(at), len) }
    }

    fn map_mut<E: MapElement>(&mut self, at: usize, len: usize) -> &mut [E] {
        self.check::<E>(at, len);
        // SAFETY: as above, and &mut self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<E>().byte_add(at), len) }
    }

    fn check<E>(&self, at: usize, len: usize) {
        let inside = at + len * size_of::<E>() <= self.len * size_of::<f32>();
        assert!(inside && at.is_multiple_of(4), "no map lies there");
    }

    /// A pointer that tasks may share.
    pub fn ptr(&mut self) -> Ptr {
        Ptr(self.start)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.all, Self::layout(self.len)) }
        }
    }
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Buffer> = std::cell::RefCell::new(Buffer::new(0));
}

/// `len` numbers of this thread's own, whatever they are; they are kept from task to task. Valid
/// until the thread asks again, so a task asks once.
pub fn scratch(len: usize) -> Ptr {
    SCRATCH.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            *buffer = Buffer::new(len);
        }
        buffer.ptr()
    })
}

/// A pointer that may cross threads. Whoever dereferences it says why no one else writes there.
#[derive(Debug)]
pub struct Ptr<E = f32>(*mut E);

impl<E> Clone for Ptr<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Ptr<E> {}

impl<E> PartialEq for Ptr<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

// SAFETY: only an address; each dereference is an unsafe block with its own reason.
unsafe impl<E> Send for Ptr<E> {}
// SAFETY: as above.
unsafe impl<E> Sync for Ptr<E> {}

impl<E> Ptr<E> {
    /// The pointer of a slice that outlives its use.
    pub fn of(slice: &mut [E]) -> Self {
        Ptr(slice.as_mut_ptr())
    }

    /// As a raw pointer.
    pub fn raw(self) -> *mut E {
        self.0
    }

    /// `count` numbers further; may point anywhere until it is dereferenced.
    pub fn add(self, count: usize) -> Self {
        Ptr(self.0.wrapping_add(count))
    }

    /// Where the numbers would begin if these began at number `count`.
    pub fn before(self, count: usize) -> Self {
        Ptr(self.0.wrapping_sub(count))
    }

    /// `at` bytes further, as numbers of another type.
    pub fn map<T>(self, at: usize) -> Ptr<T> {
        Ptr(self.0.wrapping_byte_add(at).cast())
    }

    /// As a slice.
    ///
    /// # Safety
    /// `len` numbers must be valid there for 'a, and no one may write them meanwhile.
    pub unsafe fn slice<'a>(self, len: usize) -> &'a [E] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0, len) }
    }

    /// As an exclusive slice.
    ///
    /// # Safety
    /// `len` numbers must be valid there for 'a, and no one else may touch them meanwhile.
    pub unsafe fn slice_mut<'a>(self, len: usize) -> &'a mut [E] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0, len) }
    }
}

/// Lays buffers with lifetimes into one arena: first fit, in order of their beginning.
#[derive(Debug, Default)]
pub struct Planner {
    requests: Vec<Request>,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    len: usize,
    first: usize,
    last: usize,
}

impl Planner {
    /// Asks for `len` bytes from time `first` to time `last`, both included; returns the
    /// request's position in the answer of [`Planner::solve`].
    pub fn request(&mut self, len: usize, first: usize, last: usize) -> usize {
        // Whole cache lines, so that no two buffers share one.
        let len = len.next_multiple_of(64);
        self.requests.push(Request { len, first, last });
        self.requests.len() - 1
    }

    /// Extends a request to live until `last` at least.
    pub fn keep_until(&mut self, request: usize, last: usize) {
        let r = &mut self.requests[request];
        r.last = r.last.max(last);
    }

    /// Offsets of all requests, and the length of the arena, in bytes.
    pub fn solve(&self) -> (Vec<usize>, usize) {
        let mut order: Vec<usize> = (0..self.requests.len()).collect();
        order.sort_by_key(|&i| {
            (
                self.requests[i].first,
                std::cmp::Reverse(self.requests[i].len),
            )
        });
        let mut offsets = vec![0; self.requests.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut total = 0;
        for i in order {
            let r = self.requests[i];
            let mut busy: Vec<(usize, usize)> = placed
                .iter()
                .filter(|&&j| self.requests[j].first <= r.last && r.first <= self.requests[j].last)
                .map(|&j| (offsets[j], offsets[j] + self.requests[j].len))
                .collect();
            busy.sort_unstable();
            let mut at = 0;
            for (from, to) in busy {
                if at + r.len <= from {
                    break;
                }
                at = at.max(to);
            }
            offsets[i] = at;
            total = total.max(at + r.len);
            placed.push(i);
        }
        (offsets, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_live_together_never_overlap() {
        use npid_network::philox::{Purpose, Stream};
        let mut s = Stream::new(1, Purpose::Bench, 0, 0, 0);
        for _ in 0..50 {
            let mut planner = Planner::default();
            for _ in 0..40 {
                let first = s.below(30) as usize;
                planner.request(
                    1 + s.below(400) as usize,
                    first,
                    first + s.below(8) as usize,
                );
            }
            let (offsets, total) = planner.solve();
            let r = &planner.requests;
            for i in 0..r.len() {
                assert!(offsets[i] + r[i].len <= total);
                for j in 0..i {
                    let together = r[i].first <= r[j].last && r[j].first <= r[i].last;
                    let apart =
                        offsets[i] + r[i].len <= offsets[j] || offsets[j] + r[j].len <= offsets[i];
                    assert!(!together || apart, "{:?} {:?}", r[i], r[j]);
                }
            }
            assert!(total < r.iter().map(|r| r.len).sum());
        }
    }
}
