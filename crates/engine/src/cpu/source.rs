//! A map as a convolution reads it: as it lies, or normalised and cut off on the way, so that what
//! a batch norm and its ReLU make of a convolution's output is never written.

use super::batch_norm::Statistics;
use super::memory::Ptr;

/// B x H x W x C numbers to be read.
#[derive(Clone, Copy)]
pub struct Source<'a, E> {
    /// The map.
    pub map: Ptr<E>,
    /// The batch norm, followed by ReLU, that it is to be read through.
    pub norm: Option<&'a Statistics>,
}

impl<E> Source<'_, E> {
    /// As it lies.
    pub fn plain(map: Ptr<E>) -> Self {
        Source { map, norm: None }
    }
}
