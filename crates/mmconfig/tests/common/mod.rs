//! Files to read, written here in the shape of MMSelfSup's.

#![allow(dead_code)]

use std::path::{Path, PathBuf};

use npid_mmconfig::{Config, Error, read};
use tempfile::TempDir;

/// A folder that holds these files.
pub fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        put(folder.path(), name, text);
    }
    folder
}

/// Writes a file, with the folders above it.
pub fn put(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// Reads one file by itself.
pub fn one(text: &str) -> Result<Config, Error> {
    let folder = folder(&[("a.py", text)]);
    read(&folder.path().join("a.py"))
}

/// The line and message that a file by itself ends in.
#[track_caller]
pub fn fault(text: &str) -> (Option<usize>, String) {
    let error = one(text).expect_err(text);
    assert!(!error.to_string().contains('\n'), "{error}");
    (error.line, error.what)
}

/// A value as Python would write it.
#[track_caller]
pub fn written(text: &str, name: &str) -> String {
    let config = one(text).unwrap_or_else(|error| panic!("{error}"));
    config.root.get(name).unwrap().to_string()
}
