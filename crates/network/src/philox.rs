//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011).
//!
//! Every draw of a run is a pure function of (seed, purpose, epoch, item, occurrence) and a
//! position, so neither the number of threads, nor the engine, nor a resume in mid-epoch changes
//! one. Only integer operations are involved up to [`Stream::next_u64`].

/// What a stream of random numbers is for; streams of different purposes never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// The order in which an epoch visits the images (item 0).
    Order = 1,
    /// Crop, colour and flip parameters of one image in one epoch.
    Augment = 2,
    /// The negatives of one image in one epoch.
    Negatives = 3,
    /// Initial weights; the item is the parameter's position in the network.
    Weights = 4,
    /// Initial rows of the memory bank; the item is the row.
    Bank = 5,
    /// The built-in data set; the item is the picture.
    Patterns = 6,
    /// Which images are held out as kNN queries.
    Split = 7,
    /// Inputs of benchmarks and tests.
    Bench = 8,
}

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// The Philox4x32-10 bijection: ten rounds on a 128-bit `counter` with a 64-bit `key`.
#[inline]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for round in 0..10 {
        if round > 0 {
            k0 = k0.wrapping_add(W0);
            k1 = k1.wrapping_add(W1);
        }
        let p0 = u64::from(M0) * u64::from(c0);
        let p1 = u64::from(M1) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (p1 >> 32) as u32 ^ c1 ^ k0,
            p1 as u32,
            (p0 >> 32) as u32 ^ c3 ^ k1,
            p0 as u32,
        );
    }
    [c0, c1, c2, c3]
}

/// [`philox4x32_10`] of N counters that differ in their first word, `first` and those after it:
/// word w of counter i is `[w][i]`. Inlined, so that a caller compiled for vectors works on all at
/// once.
#[inline(always)]
fn philox_many<const N: usize>(first: u32, rest: [u32; 3], key: [u32; 2]) -> [[u32; N]; 4] {
    let mut c = [[0; N], [rest[0]; N], [rest[1]; N], [rest[2]; N]];
    for (i, c0) in c[0].iter_mut().enumerate() {
        *c0 = first.wrapping_add(i as u32);
    }
    let [mut k0, mut k1] = key;
    for round in 0..10 {
        if round > 0 {
            k0 = k0.wrapping_add(W0);
            k1 = k1.wrapping_add(W1);
        }
        let mut next = [[0; N]; 4];
        for i in 0..N {
            let p0 = u64::from(M0) * u64::from(c[0][i]);
            let p1 = u64::from(M1) * u64::from(c[2][i]);
            next[0][i] = (p1 >> 32) as u32 ^ c[1][i] ^ k0;
            next[1][i] = p1 as u32;
            next[2][i] = (p0 >> 32) as u32 ^ c[3][i] ^ k1;
            next[3][i] = p0 as u32;
        }
        c = next;
    }
    c
}

/// One stream of random numbers, addressed by what it is for.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    item: [u32; 2],
    next: u32,
    buffer: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of `item` (an image, a parameter, ...) in `epoch`.
    ///
    /// `occurrence` tells apart several uses of one item in one epoch; it is 0 for the first.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, item: u64, occurrence: u32) -> Self {
        let sub = philox4x32_10(
            [purpose as u32, epoch, occurrence, 0],
            [seed as u32, (seed >> 32) as u32],
        );
        Stream {
            key: [sub[0], sub[1]],
            item: [item as u32, (item >> 32) as u32],
            next: 0,
            buffer: [0; 4],
            used: 4,
        }
    }

    /// Four words at a position of the stream, independent of what was drawn before.
    ///
    /// Lane 0 is what the sequential methods read; other lanes never overlap with it.
    #[inline]
    pub fn block(&self, index: u32, lane: u32) -> [u32; 4] {
        philox4x32_10([index, lane, self.item[0], self.item[1]], self.key)
    }

    /// Blocks `first` to `first` + N - 1 of a lane: word w of block i is `[w][i]`.
    #[inline(always)]
    pub fn blocks<const N: usize>(&self, first: u32, lane: u32) -> [[u32; N]; 4] {
        philox_many(first, [lane, self.item[0], self.item[1]], self.key)
    }

    /// The next 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer = self.block(self.next, 0);
            self.next = self.next.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// The next 64 random bits, the low word first.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), with 53 random bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    #[inline]
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n, unbiased (Lemire, "Fast random integer generation in an interval", 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// Standard normal (Box and Muller; one of the pair is used).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' library (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_differ_in_every_part_of_their_address() {
        let first = |s, p, e, i, o| Stream::new(s, p, e, i, o).next_u64();
        let base = first(1, Purpose::Augment, 2, 3, 4);
        assert_eq!(base, first(1, Purpose::Augment, 2, 3, 4));
        assert_ne!(base, first(2, Purpose::Augment, 2, 3, 4));
        assert_ne!(base, first(1 << 40 | 1, Purpose::Augment, 2, 3, 4));
        assert_ne!(base, first(1, Purpose::Order, 2, 3, 4));
        assert_ne!(base, first(1, Purpose::Augment, 3, 3, 4));
        assert_ne!(base, first(1, Purpose::Augment, 2, 4, 4));
        assert_ne!(base, first(1, Purpose::Augment, 2, 1 << 33 | 3, 4));
        assert_ne!(base, first(1, Purpose::Augment, 2, 3, 5));
    }

    #[test]
    fn many_blocks_are_the_blocks() {
        let stream = Stream::new(3, Purpose::Negatives, 1, 1 << 40, 2);
        let first = u32::MAX - 3;
        let many = stream.blocks::<8>(first, 5);
        for i in 0..8 {
            let one = stream.block(first.wrapping_add(i), 5);
            assert_eq!([0, 1, 2, 3].map(|w| many[w][i as usize]), one);
        }
    }

    #[test]
    fn normal_has_unit_variance_and_below_covers_its_range() {
        let mut s = Stream::new(7, Purpose::Bench, 0, 0, 0);
        let x: Vec<f64> = (0..20000).map(|_| s.normal()).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(
            mean.abs() < 0.03 && (var - 1.0).abs() < 0.05,
            "{mean} {var}"
        );
        let mut counts = [0u32; 7];
        (0..70000).for_each(|_| counts[s.below(7) as usize] += 1);
        assert!(
            counts.iter().all(|&c| (9600..10400).contains(&c)),
            "{counts:?}"
        );
    }
}
