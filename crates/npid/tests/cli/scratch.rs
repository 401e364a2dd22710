//! The real binary in a folder of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A temporary folder that holds `pictures`, three of them in two classes.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch { folder };
        for (i, class) in ["cats", "cats", "dogs"].iter().enumerate() {
            let class = scratch.path("pictures").join(class);
            fs::create_dir_all(&class).unwrap();
            fs::write(class.join(format!("{i}.png")), png(24, 20, i as u32)).unwrap();
        }
        scratch
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `npid` with these arguments (separated by spaces), to be run in the folder.
    pub fn npid(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npid"));
        command.args(arguments.split_whitespace());
        command.current_dir(self.folder.path());
        command.env_remove("NPID_CPU");
        command
    }

    /// Everything in the folder.
    pub fn content(&self) -> BTreeSet<PathBuf> {
        let mut all = BTreeSet::new();
        list(self.folder.path(), &mut all);
        all
    }

    /// Runs `npid`, which must refuse: exit code 2, one line on standard error with all `parts`,
    /// and no change in the folder.
    #[track_caller]
    pub fn refuses(&self, arguments: &str, parts: &[&str]) {
        let before = self.content();
        let output = self.npid(arguments).output().unwrap();
        self.check_refused(output, arguments, parts);
        assert_eq!(
            before,
            self.content(),
            "`{arguments}` left something behind"
        );
    }

    /// See [`Scratch::refuses`].
    #[track_caller]
    pub fn check_refused(&self, output: Output, what: &str, parts: &[&str]) {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "`{what}`: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "`{what}`: {stderr}");
        assert!(stderr.starts_with("error: "), "`{what}`: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "`{what}`: no `{part}` in: {stderr}");
        }
    }
}

fn list(folder: &Path, all: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, all);
        }
        all.insert(path);
    }
}

/// A PNG of a pattern that depends on `seed`.
pub fn png(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = (0..width * height * 3)
        .map(|i| ((i * (seed * 14 + 3)) % 251) as u8)
        .collect();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    file
}
