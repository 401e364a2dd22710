//! The data sets that are known, by their publishers' pages.
//!
//! | data set | page | sums |
//! |---|---|---|
//! | CIFAR-10, CIFAR-100 | <https://www.cs.toronto.edu/~kriz/cifar.html> | on the page |
//! | MNIST | <http://yann.lecun.com/exdb/mnist/> | torchvision's `datasets/mnist.py` |
//! | STL-10 | <https://cs.stanford.edu/~acoates/stl10/> | torchvision's `datasets/stl10.py` |
//!
//! Sizes of unpacked files follow from their formats: records of 3,073 (CIFAR-10) and 3,074 bytes
//! (CIFAR-100), 96 x 96 x 3 bytes a picture and one a label (STL-10).

/// A data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSet {
    /// As it is typed.
    pub name: String,
    /// What it is, in a few words.
    pub about: String,
    /// URLs of folders that hold the files, ending in `/`, to be tried in order.
    pub homes: Vec<String>,
    /// What is downloaded.
    pub files: Vec<RemoteFile>,
}

/// A published file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name, in the URL and on disk.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its MD5 sum, in hexadecimal.
    pub md5: String,
    /// What is taken out of it, where it is a `.tar.gz`; else it is kept as it is.
    pub archive: Option<Archive>,
}

/// What is taken out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The folder in it, and on disk.
    pub folder: String,
    /// The files in that folder.
    pub members: Vec<Member>,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in the folder.
    pub name: String,
    /// Its size; of a text that may be missing, the largest that is taken.
    pub bytes: u64,
    /// Whether it must be there, with exactly that size.
    pub required: bool,
}

/// Names of the known data sets.
pub const NAMES: [&str; 4] = ["cifar10", "cifar100", "mnist", "stl10"];

/// The data set of a name in [`NAMES`].
pub fn known(name: &str) -> Option<DataSet> {
    let cifar = "https://www.cs.toronto.edu/~kriz/";
    Some(match name {
        "cifar10" => {
            let mut members: Vec<Member> = (1..=5)
                .map(|i| required(&format!("data_batch_{i}.bin"), 10_000 * 3073))
                .collect();
            members.push(required("test_batch.bin", 10_000 * 3073));
            members.push(text("batches.meta.txt"));
            archive(
                name,
                "CIFAR-10: 50,000 pictures of 32x32 in 10 classes, and 10,000 to ask with",
                cifar,
                file(
                    "cifar-10-binary.tar.gz",
                    170_052_171,
                    "c32a1d4ab5d03f1284b67883e8d87530",
                ),
                "cifar-10-batches-bin",
                members,
            )
        }
        "cifar100" => archive(
            name,
            "CIFAR-100: 50,000 pictures of 32x32 in 100 classes, and 10,000 to ask with",
            cifar,
            file(
                "cifar-100-binary.tar.gz",
                168_513_733,
                "03b5dce01913d631647c71ecec9e9cb8",
            ),
            "cifar-100-binary",
            vec![
                required("train.bin", 50_000 * 3074),
                required("test.bin", 10_000 * 3074),
                text("fine_label_names.txt"),
                text("coarse_label_names.txt"),
            ],
        ),
        "stl10" => archive(
            name,
            "STL-10: 5,000 labelled pictures of 96x96 in 10 classes, 8,000 to ask with, and \
             100,000 without labels",
            "http://ai.stanford.edu/~acoates/stl10/",
            file(
                "stl10_binary.tar.gz",
                2_640_397_119,
                "91f7769df0f17e558f3565bffb0c7dfb",
            ),
            "stl10_binary",
            vec![
                required("train_X.bin", 5_000 * 27_648),
                required("train_y.bin", 5_000),
                required("test_X.bin", 8_000 * 27_648),
                required("test_y.bin", 8_000),
                required("unlabeled_X.bin", 100_000 * 27_648),
                text("class_names.txt"),
                text("fold_indices.txt"),
            ],
        ),
        "mnist" => DataSet {
            name: name.into(),
            about: "MNIST: 60,000 digits of 28x28, and 10,000 to ask with".into(),
            // The home page is often closed.
            homes: vec![
                "https://ossci-datasets.s3.amazonaws.com/mnist/".into(),
                "http://yann.lecun.com/exdb/mnist/".into(),
            ],
            files: vec![
                file(
                    "train-images-idx3-ubyte.gz",
                    9_912_422,
                    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                ),
                file(
                    "train-labels-idx1-ubyte.gz",
                    28_881,
                    "d53e105ee54ea40749a09fcbcd1e9432",
                ),
                file(
                    "t10k-images-idx3-ubyte.gz",
                    1_648_877,
                    "9fb629c4189551a2d022fa330f9573f3",
                ),
                file(
                    "t10k-labels-idx1-ubyte.gz",
                    4_542,
                    "ec29112dd5afa0611ce80d1b7f02629c",
                ),
            ],
        },
        _ => return None,
    })
}

fn archive(
    name: &str,
    about: &str,
    home: &str,
    file: RemoteFile,
    folder: &str,
    members: Vec<Member>,
) -> DataSet {
    let archive = Archive {
        folder: folder.into(),
        members,
    };
    DataSet {
        name: name.into(),
        about: about.into(),
        homes: vec![home.into()],
        files: vec![RemoteFile {
            archive: Some(archive),
            ..file
        }],
    }
}

fn file(name: &str, bytes: u64, md5: &str) -> RemoteFile {
    RemoteFile {
        name: name.into(),
        bytes,
        md5: md5.into(),
        archive: None,
    }
}

fn required(name: &str, bytes: u64) -> Member {
    Member {
        name: name.into(),
        bytes,
        required: true,
    }
}

/// A text of names or numbers; none is longer than 100 KB.
fn text(name: &str) -> Member {
    Member {
        name: name.into(),
        bytes: 1 << 20,
        required: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_data_set_is_well_formed() {
        for name in NAMES {
            let set = known(name).unwrap();
            assert_eq!(set.name, name);
            assert!(!set.files.is_empty() && !set.homes.is_empty());
            for home in &set.homes {
                assert!(home.starts_with("http") && home.ends_with('/'), "{home}");
            }
            for file in &set.files {
                assert!(file.bytes > 0);
                assert_eq!(file.md5.len(), 32);
                assert!(
                    file.md5
                        .chars()
                        .all(|c| c.is_ascii_hexdigit() && !c.is_uppercase())
                );
                assert_eq!(file.archive.is_some(), file.name.ends_with(".tar.gz"));
            }
        }
        assert_eq!(known("imagenet"), None);
    }
}
