//! Weights in files: PyTorch's `.pth` and safetensors, read and written, and the names in them;
//! whole networks as ONNX models, written.
//!
//! Nothing in a file is ever executed: a `.pth` file is a pickle, and the reader here builds data
//! from it and nothing else. What a file holds is found by its first bytes, not by its ending.

pub mod onnx;
pub mod pth;
pub mod safetensors;
mod tensor;

pub use tensor::{Tensor, Tensors};
