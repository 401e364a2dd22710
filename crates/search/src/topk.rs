//! Exact top-k by inner product, streamed: a block of queries meets one block of rows after the
//! other, and each query keeps no more than a few k candidates.

use crate::Error;
use ndarray::ArrayView2;
use ndarray::linalg::general_mat_mul;
use rayon::prelude::*;

/// Queries in a block, at most: enough that packing the rows costs little.
const QUERY_BLOCK: usize = 128;

/// Rows in a block: with [`QUERY_BLOCK`] queries its similarities take half a MiB, so that they
/// are still in a core's cache when they are looked through.
const ROW_BLOCK: usize = 1024;

/// What a search leaves out, and how many threads it may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// N flags; a row whose flag is set is never found.
    pub excluded: Option<&'a [bool]>,
    /// Q entries: a row that this one query must not find (itself, for leave-one-out).
    pub own_rows: Option<&'a [Option<u32>]>,
    /// Number of threads; 0 is one for each core.
    pub threads: usize,
}

/// The nearest rows of each of Q queries.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// Neighbours of each query: as asked for, or the number of rows that every query may find
    /// where that is smaller.
    pub k: usize,
    /// Q x k row numbers, nearest first; equally near rows in increasing order.
    pub rows: Vec<u32>,
    /// Q x k similarities, in the order of `rows`.
    pub similarities: Vec<f32>,
}

/// Sizes of a search that have been checked against its arrays.
struct Sizes {
    queries: usize,
    rows: usize,
    dim: usize,
    k: usize,
}

impl TopK {
    /// Finds the `k` rows with the largest inner product with each query.
    ///
    /// `queries` is Q x `dim`, `rows` N x `dim`, both row-major. Equal similarities are ordered by
    /// row, the lower first. A similarity that is NaN counts as minus infinity. Memory beside the
    /// result is O(threads); the result is the same for every number of threads.
    ///
    /// # Errors
    /// If `dim` or `k` is 0, an array's length doesn't fit, there are more than `u32::MAX` rows,
    /// or threads can't be started.
    pub fn search(
        queries: &[f32],
        rows: &[f32],
        dim: usize,
        k: usize,
        options: &Options<'_>,
    ) -> Result<TopK, Error> {
        let sizes = Sizes::check(queries, rows, dim, k, options)?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| Error::Threads {
                threads,
                reason: error.to_string(),
            })?;
        let block = sizes.queries.div_ceil(threads).clamp(1, QUERY_BLOCK);
        Ok(pool.install(|| stream(queries, rows, &sizes, options, block, ROW_BLOCK)))
    }

    /// Number of queries; 0 where there was nothing to find (k = 0).
    pub fn queries(&self) -> usize {
        self.rows.len().checked_div(self.k).unwrap_or(0)
    }

    /// Row numbers and similarities of one query's neighbours, nearest first.
    ///
    /// # Panics
    /// If there is no such query.
    pub fn of(&self, query: usize) -> (&[u32], &[f32]) {
        let range = query * self.k..(query + 1) * self.k;
        (&self.rows[range.clone()], &self.similarities[range])
    }
}

impl Sizes {
    fn check(
        queries: &[f32],
        rows: &[f32],
        dim: usize,
        k: usize,
        options: &Options<'_>,
    ) -> Result<Self, Error> {
        if dim == 0 {
            return Err(Error::Zero {
                what: "the dimension",
            });
        }
        if k == 0 {
            return Err(Error::Zero { what: "k" });
        }
        for (what, found) in [("queries", queries.len()), ("rows", rows.len())] {
            if found % dim != 0 {
                return Err(Error::Length {
                    what,
                    found,
                    expected: found.next_multiple_of(dim),
                });
            }
        }
        let (queries, rows) = (queries.len() / dim, rows.len() / dim);
        if u32::try_from(rows).is_err() {
            return Err(Error::TooManyRows { rows });
        }
        for (what, found, expected) in [
            ("excluded", options.excluded.map(<[bool]>::len), rows),
            ("own_rows", options.own_rows.map(<[_]>::len), queries),
        ] {
            if let Some(found) = found.filter(|&found| found != expected) {
                return Err(Error::Length {
                    what,
                    found,
                    expected,
                });
            }
        }
        // Every query gets the same number of neighbours: as many as the poorest one can have.
        let excluded = |row: usize| options.excluded.is_some_and(|flags| flags[row]);
        let mut available = (0..rows).filter(|&row| !excluded(row)).count();
        let loses_its_own = |own: &Option<u32>| {
            own.is_some_and(|row| (row as usize) < rows && !excluded(row as usize))
        };
        if options
            .own_rows
            .is_some_and(|own| own.iter().any(loses_its_own))
        {
            available -= 1;
        }
        Ok(Sizes {
            queries,
            rows,
            dim,
            k: k.min(available),
        })
    }
}

/// The search itself, on the current thread pool, with given block sizes.
fn stream(
    queries: &[f32],
    rows: &[f32],
    sizes: &Sizes,
    options: &Options<'_>,
    query_block: usize,
    row_block: usize,
) -> TopK {
    let &Sizes { dim, k, .. } = sizes;
    let mut found = TopK {
        k,
        rows: vec![0; sizes.queries * k],
        similarities: vec![0.0; sizes.queries * k],
    };
    if k == 0 {
        return found;
    }
    let row_block = row_block.min(sizes.rows);
    queries
        .par_chunks(query_block * dim)
        .zip(found.rows.par_chunks_mut(query_block * k))
        .zip(found.similarities.par_chunks_mut(query_block * k))
        .enumerate()
        .for_each_init(
            || vec![0.0; query_block * row_block],
            |scores, (block, ((queries, found_rows), found_similarities))| {
                let count = queries.len() / dim;
                let mut nearest: Vec<Nearest> = (0..count)
                    .map(|query| {
                        let own = options
                            .own_rows
                            .and_then(|own| own[block * query_block + query]);
                        Nearest::new(k, own)
                    })
                    .collect();
                for (index, rows) in rows.chunks(row_block * dim).enumerate() {
                    let width = rows.len() / dim;
                    let scores = &mut scores[..count * width];
                    products(queries, rows, dim, scores);
                    let first = index * row_block;
                    let excluded = options.excluded.map(|flags| &flags[first..first + width]);
                    for (nearest, scores) in nearest.iter_mut().zip(scores.chunks_exact(width)) {
                        nearest.meet(scores, first, excluded);
                    }
                }
                let found = found_rows
                    .chunks_exact_mut(k)
                    .zip(found_similarities.chunks_exact_mut(k));
                for (nearest, (rows, similarities)) in nearest.into_iter().zip(found) {
                    for (place, candidate) in nearest.finish().into_iter().enumerate() {
                        rows[place] = candidate.row;
                        similarities[place] = candidate.similarity;
                    }
                }
            },
        );
    found
}

/// `scores` (queries x rows) = `queries` times `rows` transposed.
fn products(queries: &[f32], rows: &[f32], dim: usize, scores: &mut [f32]) {
    let (q, n) = (queries.len() / dim, rows.len() / dim);
    let matrix = |values, height| {
        ArrayView2::from_shape((height, dim), values).expect("blocks are whole rows")
    };
    let mut scores = ndarray::ArrayViewMut2::from_shape((q, n), scores)
        .expect("one score for each pair of a block");
    general_mat_mul(
        1.0,
        &matrix(queries, q),
        &matrix(rows, n).t(),
        0.0,
        &mut scores,
    );
}

#[derive(Clone, Copy)]
struct Candidate {
    similarity: f32,
    row: u32,
}

/// Nearer first; equally near, the lower row first. Similarities are never NaN here.
fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let nearer = b.similarity.partial_cmp(&a.similarity);
    nearer
        .unwrap_or(std::cmp::Ordering::Equal)
        .then(a.row.cmp(&b.row))
}

/// The candidates of one query, which meets the rows in increasing order.
struct Nearest {
    k: usize,
    own: Option<u32>,
    /// Never more than twice k; all of the k nearest so far are among them.
    candidates: Vec<Candidate>,
    /// Once k candidates are kept, a row must be nearer than this. The rows come in increasing
    /// order, so one that is just as near loses the tie.
    threshold: Option<f32>,
}

impl Nearest {
    fn new(k: usize, own: Option<u32>) -> Self {
        Nearest {
            k,
            own,
            candidates: Vec::new(),
            threshold: None,
        }
    }

    /// Takes the similarities of the rows `first..`.
    fn meet(&mut self, scores: &[f32], first: usize, excluded: Option<&[bool]>) {
        // Most chunks hold nothing near enough, and a chunk is looked through as one vector.
        const CHUNK: usize = 32;
        for (index, chunk) in scores.chunks(CHUNK).enumerate() {
            if let Some(threshold) = self.threshold
                && !chunk.iter().fold(false, |any, &s| any | (s > threshold))
            {
                continue;
            }
            for (position, &similarity) in (index * CHUNK..).zip(chunk) {
                let row = (first + position) as u32;
                if excluded.is_some_and(|flags| flags[position]) || self.own == Some(row) {
                    continue;
                }
                let similarity = if similarity.is_nan() {
                    f32::NEG_INFINITY
                } else {
                    similarity
                };
                if self
                    .threshold
                    .is_none_or(|threshold| similarity > threshold)
                {
                    self.candidates.push(Candidate { similarity, row });
                    if self.candidates.len() >= 2 * self.k {
                        self.prune();
                    }
                }
            }
        }
    }

    /// Keeps the k nearest only, in no order.
    fn prune(&mut self) {
        let (_, last, _) = self.candidates.select_nth_unstable_by(self.k - 1, order);
        self.threshold = Some(last.similarity);
        self.candidates.truncate(self.k);
    }

    /// The k nearest in order.
    fn finish(mut self) -> Vec<Candidate> {
        self.candidates.sort_unstable_by(order);
        self.candidates.truncate(self.k);
        self.candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_network::philox::{Purpose, Stream};

    /// Small whole numbers: their inner products are exact in any order, and ties are frequent.
    fn whole_numbers(s: &mut Stream, count: usize) -> Vec<f32> {
        (0..count).map(|_| s.below(5) as f32 - 2.0).collect()
    }

    /// The definition: every similarity, sorted.
    fn plain(
        queries: &[f32],
        rows: &[f32],
        dim: usize,
        k: usize,
        options: &Options,
    ) -> Vec<Vec<(u32, f32)>> {
        let one = |(q, query): (usize, &[f32])| {
            let mut all: Vec<(u32, f32)> = rows
                .chunks(dim)
                .enumerate()
                .filter(|&(row, _)| !options.excluded.is_some_and(|flags| flags[row]))
                .filter(|&(row, _)| {
                    options
                        .own_rows
                        .is_none_or(|own| own[q] != Some(row as u32))
                })
                .map(|(row, v)| {
                    let dot = query.iter().zip(v).fold(0.0, |sum, (a, b)| sum + a * b);
                    (row as u32, dot)
                })
                .collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(k);
            all
        };
        queries.chunks(dim).enumerate().map(one).collect()
    }

    fn pairs(found: &TopK, query: usize) -> Vec<(u32, f32)> {
        let (rows, similarities) = found.of(query);
        rows.iter()
            .copied()
            .zip(similarities.iter().copied())
            .collect()
    }

    /// 200 random cases, most with sizes that fill no block, with ties, exclusions and k > N.
    #[test]
    fn equals_the_plain_loop() {
        let mut s = Stream::new(1, Purpose::Bench, 0, 0, 0);
        for case in 0..200 {
            let dim = 1 + s.below(9) as usize;
            let count = 1 + s.below(40) as usize;
            let n = s.below(if case % 10 == 0 { 3000 } else { 90 }) as usize;
            let k = 1 + s.below(if case % 3 == 0 { 120 } else { 12 }) as usize;
            let queries = whole_numbers(&mut s, count * dim);
            let rows = whole_numbers(&mut s, n * dim);
            let excluded: Vec<bool> = (0..n).map(|_| s.below(4) == 0).collect();
            let own: Vec<Option<u32>> = (0..count)
                .map(|_| Some(s.below(n as u64 + 1) as u32).filter(|_| s.below(3) > 0))
                .collect();
            let options = Options {
                excluded: Some(&excluded[..]).filter(|_| case % 2 == 0),
                own_rows: Some(&own[..]).filter(|_| case % 5 < 2),
                threads: 1 + case % 3,
            };
            let found = TopK::search(&queries, &rows, dim, k, &options).unwrap();
            let expected = plain(&queries, &rows, dim, k, &options);
            let poorest = expected.iter().map(Vec::len).min().unwrap();
            assert_eq!(found.k, poorest, "case {case}");
            assert_eq!(found.rows.len(), count * poorest, "case {case}");
            for (query, expected) in expected.iter().enumerate() {
                assert_eq!(
                    pairs(&found, query),
                    expected[..poorest],
                    "case {case}, query {query}"
                );
            }
        }
    }

    /// Real-valued features: the same bits for every thread count and block size.
    #[test]
    fn threads_and_blocks_change_nothing() {
        let mut s = Stream::new(2, Purpose::Bench, 0, 0, 0);
        let (dim, n, count, k) = (131, 2500, 301, 37);
        let mut normals =
            |count: usize| -> Vec<f32> { (0..count).map(|_| s.normal() as f32).collect() };
        let (queries, rows) = (normals(count * dim), normals(n * dim));
        let base = Options {
            threads: 1,
            ..Options::default()
        };
        let one = TopK::search(&queries, &rows, dim, k, &base).unwrap();
        for threads in [2, 3] {
            let options = Options { threads, ..base };
            assert_eq!(
                one,
                TopK::search(&queries, &rows, dim, k, &options).unwrap()
            );
        }
        let sizes = Sizes::check(&queries, &rows, dim, k, &base).unwrap();
        for (query_block, row_block) in [(1, 1), (1, 4096), (7, 13), (64, 100), (301, 2500)] {
            let found = stream(&queries, &rows, &sizes, &base, query_block, row_block);
            assert_eq!(one, found, "blocks {query_block} x {row_block}");
        }
        // Against sums in f64: the similarities are inner products.
        for (query, q) in queries.chunks(dim).enumerate() {
            for (row, similarity) in pairs(&one, query) {
                let v = &rows[row as usize * dim..][..dim];
                let dot: f64 = q
                    .iter()
                    .zip(v)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum();
                assert!(
                    (dot - f64::from(similarity)).abs() < 1e-3,
                    "{dot} {similarity}"
                );
            }
        }
    }

    #[test]
    fn equal_rows_come_in_order_and_nan_comes_last() {
        let rows = [1.0, f32::NAN, 1.0, 2.0, 1.0];
        let found = TopK::search(&[1.0, -1.0], &rows, 1, 9, &Options::default()).unwrap();
        assert_eq!(found.k, 5);
        assert_eq!(found.of(0).0, [3, 0, 2, 4, 1]);
        assert_eq!(found.of(1).0, [0, 2, 4, 3, 1]);
        assert_eq!(found.of(1).1, [-1.0, -1.0, -1.0, -2.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn nothing_to_find() {
        let options = Options {
            excluded: Some(&[true, true]),
            ..Options::default()
        };
        let found = TopK::search(&[1.0], &[1.0, 2.0], 1, 3, &options).unwrap();
        assert_eq!((found.k, found.queries(), found.rows.len()), (0, 0, 0));
        let found = TopK::search(&[], &[1.0, 2.0], 1, 3, &Options::default()).unwrap();
        assert_eq!((found.k, found.queries()), (2, 0));
    }

    #[test]
    fn sizes_that_do_not_fit() {
        let fails = |queries: &[f32], rows: &[f32], dim, k, options: Options| {
            TopK::search(queries, rows, dim, k, &options)
                .unwrap_err()
                .to_string()
        };
        let none = Options::default();
        assert_eq!(fails(&[1.0], &[1.0], 1, 0, none), "k is 0; give at least 1");
        assert_eq!(
            fails(&[1.0], &[1.0], 0, 1, none),
            "the dimension is 0; give at least 1"
        );
        assert_eq!(
            fails(&[1.0; 3], &[1.0; 2], 2, 1, none),
            "queries has 3 values where 4 are needed"
        );
        let short = Options {
            excluded: Some(&[false]),
            ..none
        };
        assert_eq!(
            fails(&[1.0; 2], &[1.0; 4], 2, 1, short),
            "excluded has 1 values where 2 are needed"
        );
        let long = Options {
            own_rows: Some(&[None, None]),
            ..none
        };
        assert_eq!(
            fails(&[1.0; 2], &[1.0; 4], 2, 1, long),
            "own_rows has 2 values where 1 are needed"
        );
    }
}
