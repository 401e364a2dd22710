//! PyTorch's `.pth` files.

mod read;
mod write;
mod zip;

pub(crate) use read::{Place, archive, legacy};
pub use write::write;
