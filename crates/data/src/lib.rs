//! Pictures from files to batches: sources, decoding, augmentation and the loader.

pub mod augment;
pub mod decode;
pub mod patterns;
pub mod source;
