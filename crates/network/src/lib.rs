//! Networks and methods as plain data, and the random numbers that everything shares.
//!
//! A [`graph::Network`] is a list of operations that name their inputs; [`resnet`] and [`neck`]
//! append to it. [`method`] holds NPID's head, memory bank, negatives and optimiser as data.
//! Engines compile programs from a [`method::Description`]; nothing here computes a feature.

pub mod alias;
mod check;
mod cost;
pub mod graph;
pub mod init;
pub mod method;
pub mod neck;
pub mod philox;
pub mod resnet;

/// What can be wrong with a description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A network that can't be built, or not for this image size.
    #[error("network: {0}")]
    Network(String),
    /// A method whose settings can't be used.
    #[error("{0}")]
    Method(String),
}
