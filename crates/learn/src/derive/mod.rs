//! Settings derived from one's own pictures: what `npid train --data PATH` takes where no recipe
//! is named.
//!
//! [`Facts::of`] looks at a sample of the collection, [`derive()`] turns that and the number of cores
//! into an ordinary configuration and says why each setting is what it is. Nothing is timed, so the
//! same pictures and cores always give the same settings; how long they take is for
//! [`crate::plan`] to measure. A setting that is given by `--set` is taken, and those that depend
//! on it follow.

mod choice;
mod facts;
mod rules;
#[cfg(test)]
mod tests;

pub use choice::Choice;
pub use facts::{Facts, SAMPLE};
pub use rules::{Derived, derive};
