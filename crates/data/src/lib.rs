//! Pictures from files to batches: sources, decoding, augmentation and the loader.

pub mod source;
