//! How large a configuration may be. The largest published one is a hundredth of this.

/// Bytes of one file.
pub const FILE_BYTES: usize = 256 << 10;

/// Files that one configuration reads, its bases' bases included.
pub const FILES: usize = 64;

/// Levels of brackets, operators and blocks in each other, and of values in each other.
pub const DEPTH: usize = 64;

/// Values of one file, and of a whole configuration.
pub const VALUES: usize = 100_000;

/// Entries of one dict, and names of one file.
pub const ENTRIES: usize = 4096;

/// Bytes of all strings that one file makes.
pub const TEXT_BYTES: usize = 1 << 20;
