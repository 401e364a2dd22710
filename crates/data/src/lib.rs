//! Pictures from files to batches: sources, decoding, augmentation and the loader.

pub mod patterns;
pub mod decode;
pub mod source;
