//! Pictures from files to batches: sources, decoding, augmentation and the loader.

pub mod augment;
pub mod decode;
pub mod inspect;
pub mod loader;
pub mod patterns;
pub mod source;
