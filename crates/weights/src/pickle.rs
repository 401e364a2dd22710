//! Reads pickles as data. Nothing is imported, called or executed.
//!
//! A pickle is a program for a small stack machine; Python's `pickle.load` runs it, and may be made
//! to call anything. This machine ([`machine`]) knows what a handful of harmless calls mean
//! ([`calls`]: ordered dicts, tensors, numpy's numbers) and builds their results itself. Any other
//! object or call is kept as a [`Node::Object`]: the name of what would have been called, its
//! arguments and its state, all as data. A call of something that runs programs or code
//! ([`calls::runs_code`]) makes the whole pickle an error, wherever it stands: no file of weights
//! has a use for one.
//!
//! Source: the opcodes of `Lib/pickletools.py`, protocols 0 to 5; `torch._utils` and
//! `torch.serialization` for what PyTorch's calls mean.

mod calls;
mod machine;
mod value;

pub(crate) use machine::{Ended, Limits, parse};
pub use value::{Dtype, StorageRef, TensorRef, Value};
pub(crate) use value::{Graph, Id, Node};
