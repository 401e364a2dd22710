//! Weights in files: PyTorch's `.pth` and safetensors, read and written, and the names in them;
//! whole networks as ONNX models, written.
//!
//! Nothing in a file is ever executed: a `.pth` file is a pickle, and the reader here builds data
//! from it and nothing else. What a file holds is found by its first bytes, not by its ending.
//!
//! ```no_run
//! # fn main() -> Result<(), npid_weights::Error> {
//! let checkpoint = npid_weights::read("resnet50.pth".as_ref())?;
//! for (name, shape) in checkpoint.tensors() {
//!     println!("{name} {shape:?}");
//! }
//! let conv1 = checkpoint.load("conv1.weight")?;
//! # Ok(())
//! # }
//! ```

mod checkpoint;
mod error;
pub mod onnx;
mod pickle;
pub mod pth;
pub mod resnet;
pub mod safetensors;
mod tensor;

pub use checkpoint::{Checkpoint, Format, read};
pub use error::Error;
pub use pickle::{Dtype, StorageRef, TensorRef, Value};
pub use tensor::{Tensor, Tensors};
