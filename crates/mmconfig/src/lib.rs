//! Reads mmcv's configuration files, which are Python, without running anything.
//!
//! Such a file assigns literals to names: numbers, strings, lists, dicts, `dict(...)`, and names
//! assigned before. [`read`] understands that part of the language, with the arithmetic, `if` and
//! list methods that published files use, and merges the files named by `_base_` as mmcv's
//! `Config` does. Every value keeps the file and line it was written in. What isn't understood is
//! an error that names its line: no value is ever guessed, and no import or call takes place.
//!
//! Sizes are bounded ([`limits`]), so a hostile file costs a moment and a few megabytes.
//!
//! # Example
//! ```
//! let folder = tempfile::tempdir().unwrap();
//! let file = folder.path().join("a.py");
//! std::fs::write(&file, "lr = 3e-2\noptimizer = dict(type='SGD', lr=lr * 2)\n").unwrap();
//! let config = npid_mmconfig::read(&file).unwrap();
//! let lr = config.root.get("optimizer").unwrap().get("lr").unwrap();
//! assert_eq!(lr.as_number(), Some(0.06));
//! assert_eq!(lr.place.line, 2);
//! ```

mod ast;
mod error;
mod eval;
mod file;
#[cfg(test)]
mod fuzz;
mod lex;
pub mod limits;
mod merge;
mod operate;
mod parse;
mod value;

pub use error::Error;
pub use file::{Config, read};
pub use value::{Dict, Kind, Place, Value};
