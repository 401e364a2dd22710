//! Nearest neighbours in the memory bank: exact top-k search and the weighted kNN vote.
//!
//! Symbols: Q queries, N rows, D dimensions (row-major `f32`, all rows one after the other), k
//! neighbours. A *similarity* is an inner product: larger is nearer, and for unit vectors it is
//! the cosine, in -1..1.
//!
//! - [`TopK::search`]: the k nearest rows of each query.
//! - [`knn_accuracy`]: how often the neighbours' vote names a query's class, the measure by which
//!   features learned without labels are judged.
//!
//! Nothing here holds a Q x N matrix, and no result depends on the number of threads.

mod knn;
mod topk;

pub use knn::{KnnReport, knn_accuracy, vote};
pub use topk::{Options, TopK};

/// Why a search or a vote can't be done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// k is 0 or the dimension is 0.
    #[error("{what} is 0; give at least 1")]
    Zero {
        /// Which number.
        what: &'static str,
    },
    /// An array's length doesn't fit the others.
    #[error("{what} has {found} values where {expected} are needed")]
    Length {
        /// Which array.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What its length must be (or a multiple of it).
        expected: usize,
    },
    /// More rows than a 32-bit row number can tell apart.
    #[error(
        "{rows} rows are too many for an exact search; at most {} are possible",
        u32::MAX
    )]
    TooManyRows {
        /// Number of rows given.
        rows: usize,
    },
    /// The temperature of the vote isn't a positive number.
    #[error("the vote's temperature is {tau}; give a number above 0")]
    Temperature {
        /// As given.
        tau: f32,
    },
    /// A label is beyond the number of classes.
    #[error("label {label} of {what} {index} is beyond the {classes} classes")]
    Label {
        /// "query" or "row".
        what: &'static str,
        /// Which one.
        index: usize,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// There is nothing labelled to ask with or to vote.
    #[error("no labelled {what}; kNN accuracy needs labels on both sides")]
    NothingLabelled {
        /// "queries" or "rows".
        what: &'static str,
    },
    /// The operating system refused the threads.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many were wanted.
        threads: usize,
        /// Why not.
        reason: String,
    },
}
