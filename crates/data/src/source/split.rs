//! Which part of a data set a file or folder is, as its name says.

use std::path::{Path, PathBuf};

/// A part of a data set. In ascending order those after `Train` are taken as queries first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Split {
    Train,
    Val,
    Test,
}

impl Split {
    /// What a folder of exactly this name holds.
    pub(super) fn of_folder(name: &str) -> Option<Split> {
        match name.to_ascii_lowercase().as_str() {
            "train" | "training" => Some(Split::Train),
            "val" | "valid" | "validation" => Some(Split::Val),
            "test" => Some(Split::Test),
            _ => None,
        }
    }

    /// What a file with this relative path holds: one of the words of its name, such as `train` in
    /// `train-00000-of-00002.parquet`, else of the folder it is in, and so on upwards. A name of
    /// several parts, such as `train-test.tar`, says nothing.
    pub(super) fn of_file(file: &Path) -> Option<Split> {
        let mut names: Vec<String> = file.iter().map(|p| p.to_string_lossy().into()).collect();
        names.reverse();
        names.iter().find_map(|name| {
            let words = name.split(|c: char| !c.is_ascii_alphabetic());
            let mut found: Vec<Split> = words.filter_map(Split::of_folder).collect();
            found.sort();
            found.dedup();
            (found.len() == 1).then(|| found[0])
        })
    }
}

/// Files of one kind, by what they are for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Groups {
    pub train: Vec<PathBuf>,
    /// Empty where the files aren't of several parts.
    pub val: Vec<PathBuf>,
    pub left_out: Vec<PathBuf>,
}

impl Groups {
    /// Where some of `files` are for training and others for validation or tests, those are kept
    /// apart, validation before test, and the rest left out. Otherwise all are of one collection.
    pub(super) fn of(files: Vec<PathBuf>) -> Groups {
        let splits: Vec<Option<Split>> = files.iter().map(|file| Split::of_file(file)).collect();
        let queries = splits.iter().flatten().filter(|s| **s > Split::Train).min();
        let mut groups = Groups {
            train: Vec::new(),
            val: Vec::new(),
            left_out: Vec::new(),
        };
        let Some(&queries) = queries.filter(|_| splits.contains(&Some(Split::Train))) else {
            groups.train = files;
            return groups;
        };
        for (file, split) in files.into_iter().zip(splits) {
            match split {
                Some(Split::Train) => groups.train.push(file),
                Some(split) if split == queries => groups.val.push(file),
                _ => groups.left_out.push(file),
            }
        }
        groups
    }
}

/// `a`, `a and b`, or `first to last (n files)`.
pub(super) fn say(files: &[PathBuf]) -> String {
    let name = |file: &Path| super::file::printable(file.as_os_str().as_encoded_bytes());
    match files {
        [] => "nothing".into(),
        [one] => name(one),
        [one, two] => format!("{} and {}", name(one), name(two)),
        [first, .., last] => format!("{} to {} ({} files)", name(first), name(last), files.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is_for() {
        for (name, split) in [
            ("train-00000-of-00002.parquet", Some(Split::Train)),
            (
                "data/validation-00000-of-00001-abc.parquet",
                Some(Split::Val),
            ),
            ("default/partial-train/0000.parquet", Some(Split::Train)),
            ("imagenet1k-train-0007.tar", Some(Split::Train)),
            ("test/0000.tar", Some(Split::Test)),
            ("trains.tar", None),
            ("train-test.tar", None),
            ("train/val-1.tar", Some(Split::Val)),
            ("0000.parquet", None),
        ] {
            assert_eq!(Split::of_file(Path::new(name)), split, "{name}");
        }
    }

    #[test]
    fn parts_are_kept_apart_only_where_there_are_several() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let groups = Groups::of(paths(&[
            "extra-0.tar",
            "test-0.tar",
            "train-0.tar",
            "val-0.tar",
        ]));
        assert_eq!(groups.train, paths(&["train-0.tar"]));
        assert_eq!(groups.val, paths(&["val-0.tar"]));
        assert_eq!(groups.left_out, paths(&["extra-0.tar", "test-0.tar"]));
        for all in [&["a.tar", "train-0.tar"][..], &["test-0.tar", "val.tar"]] {
            let groups = Groups::of(paths(all));
            assert_eq!(groups.train, paths(all));
            assert!(groups.val.is_empty() && groups.left_out.is_empty());
        }
    }
}
