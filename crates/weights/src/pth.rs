//! PyTorch's `.pth` files.

mod write;
mod zip;

pub use write::write;
