//! What a path holds: which kind of collection, and whether it has a part for training and one for
//! queries.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::cifar::Cifar;
use super::file::printable;
use super::search::Search;
use super::split::{Groups, Split, say};
use super::{Error, brace, idx, stl10, tar};
use crate::decode::Format;

/// What a collection is made of. Paths of files are relative to `root`.
#[derive(Debug)]
pub(super) enum Kind {
    /// A folder of pictures.
    Pictures { root: PathBuf, files: Vec<PathBuf> },
    /// A list file.
    List(PathBuf),
    /// Parquet files.
    Parquet { root: PathBuf, files: Vec<PathBuf> },
    /// Tar shards.
    Shards { root: PathBuf, files: Vec<PathBuf> },
    /// CIFAR's binary files.
    Cifar {
        root: PathBuf,
        files: Vec<PathBuf>,
        cifar: Cifar,
    },
    /// CIFAR's archive of binary files: its test part or the rest.
    CifarArchive {
        path: PathBuf,
        cifar: Cifar,
        test: bool,
    },
    /// STL-10's binary files.
    Stl10 { root: PathBuf, files: Vec<PathBuf> },
    /// An IDX file of pictures.
    Idx(PathBuf),
}

/// A part of what a path holds.
#[derive(Debug)]
pub(super) struct Part {
    pub kind: Kind,
    /// Its name for people, such as `train/`.
    pub said: String,
}

/// What a path holds.
#[derive(Debug)]
pub(super) struct Layout {
    /// What is trained on; everything where there are no parts.
    pub train: Part,
    /// What asks.
    pub val: Option<Part>,
    /// Names of further parts, which are not used.
    pub left_out: Option<String>,
    /// Whether the pictures' names begin with the path's own last part.
    pub names_itself: bool,
}

impl Layout {
    /// One collection without parts.
    fn whole(kind: Kind, names_itself: bool) -> Self {
        let said = String::new();
        Layout {
            train: Part { kind, said },
            val: None,
            left_out: None,
            names_itself,
        }
    }

    /// Files of one kind, with their parts kept apart.
    fn of_groups(groups: Groups, kind: impl Fn(Vec<PathBuf>) -> Kind) -> Self {
        let part = |files: Vec<PathBuf>| Part {
            said: say(&files),
            kind: kind(files),
        };
        Layout {
            val: (!groups.val.is_empty()).then(|| part(groups.val)),
            left_out: (!groups.left_out.is_empty()).then(|| say(&groups.left_out)),
            train: part(groups.train),
            names_itself: false,
        }
    }

    /// Finds out what is at `path`, which may be a brace pattern of tars.
    ///
    /// # Errors
    /// If nothing is there, or nothing that npid knows.
    pub(super) fn of(path: &Path) -> Result<Layout, Error> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => of_folder(path, true),
            Ok(_) => of_file(path),
            Err(error) => match brace::expand(path) {
                Some(Ok(files)) => of_pattern(files),
                Some(Err(what)) => Err(Error::unusable(
                    path,
                    what,
                    "narrow it, or give a folder of tars",
                )),
                None => Err(Error::io(path, error)),
            },
        }
    }
}

fn of_pattern(files: Vec<PathBuf>) -> Result<Layout, Error> {
    for file in &files {
        super::file::regular(file).map_err(|e| Error::io(file, e))?;
        let mut start = Vec::new();
        let open = File::open(file).and_then(|f| f.take(512).read_to_end(&mut start));
        open.map_err(|e| Error::io(file, e))?;
        if !tar::begins(&start) {
            return Err(Error::Unknown {
                path: file.clone(),
                what: "a brace pattern stands for tars, and it is none".into(),
            });
        }
    }
    // Names of the shards alone, unless they are in different folders.
    let folder = files.first().and_then(|file| file.parent());
    let root = folder.map_or_else(PathBuf::new, Path::to_path_buf);
    let same = files.iter().all(|file| file.parent() == Some(&root));
    let relative = |file: PathBuf| match file.file_name() {
        Some(name) if same => PathBuf::from(name),
        _ => file,
    };
    let root = if same { root } else { PathBuf::new() };
    let files = files.into_iter().map(relative).collect();
    Ok(Layout::whole(Kind::Shards { root, files }, true))
}

/// A single file. Files are told apart by their first bytes, which are always there; names lie or are
/// missing. Only CIFAR and STL-10, which begin with any byte, are known by their names.
fn of_file(path: &Path) -> Result<Layout, Error> {
    let io = |source| Error::io(path, source);
    let unknown = |what: &str| Error::Unknown {
        path: path.into(),
        what: what.into(),
    };
    super::file::regular(path).map_err(io)?;
    let mut start = Vec::new();
    (File::open(path)
        .map_err(io)?
        .take(4096)
        .read_to_end(&mut start))
    .map_err(io)?;
    let root = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let name = path.file_name().unwrap_or_default();
    let files = vec![PathBuf::from(name)];
    let text = name.to_str().unwrap_or_default();
    if start.starts_with(b"PAR1") {
        return Ok(Layout::whole(Kind::Parquet { root, files }, true));
    }
    if let Some((cifar, _)) = Cifar::of_file(text) {
        return Ok(Layout::whole(Kind::Cifar { root, files, cifar }, true));
    }
    if stl10::is_name(text) {
        return Ok(Layout::whole(Kind::Stl10 { root, files }, true));
    }
    if idx::begins(&start) {
        return Ok(Layout::whole(Kind::Idx(path.into()), true));
    }
    if start.starts_with(&[0x1f, 0x8b]) {
        return of_gzip(path);
    }
    if tar::begins(&start) {
        return Ok(Layout::whole(Kind::Shards { root, files }, true));
    }
    if start.is_empty() {
        return Err(unknown("the file is empty"));
    }
    if Format::of(&start).name().is_some() {
        return Err(unknown("it is a single picture"));
    }
    match Format::of(&start) {
        Format::Other(what) if what.starts_with("markup") => return Err(unknown(what)),
        _ => {}
    }
    if is_text(&start) {
        return Ok(Layout::whole(Kind::List(path.into()), false));
    }
    Err(unknown(
        "neither its name nor its first bytes are those of a collection",
    ))
}

/// Whether a file that begins like this is meant to be text: hardly any bytes that no text has. What is
/// wrong with it otherwise, a stray NUL or another encoding, is said with its line.
fn is_text(start: &[u8]) -> bool {
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return true; // UTF-16: a list that is read no further than to say so
    }
    let control = |b: &u8| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0c);
    start.iter().filter(|b| control(b)).count() <= 2 + start.len() / 50
}

fn of_gzip(path: &Path) -> Result<Layout, Error> {
    let unknown = |what: &str| Error::Unknown {
        path: path.into(),
        what: what.into(),
    };
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut start = Vec::new();
    if let Err(error) = GzDecoder::new(file).take(512).read_to_end(&mut start) {
        return Err(Error::unusable(
            path,
            format!("it can't be unpacked ({error})"),
            "download it again",
        ));
    }
    if idx::begins(&start) {
        return Ok(Layout::whole(Kind::Idx(path.into()), true));
    }
    if !tar::begins(&start) {
        return Err(unknown("a gzip file of something else"));
    }
    let cifar = match start.get(..19).unwrap_or_default() {
        name if name.starts_with(b"cifar-10-batches-bi") => Cifar::Ten,
        name if name.starts_with(b"cifar-100-binary") => Cifar::Hundred,
        name if name.starts_with(b"cifar-10-batches-py")
            || name.starts_with(b"cifar-100-python") =>
        {
            return Err(unknown(
                "CIFAR's Python version, which only Python can read; download the binary version",
            ));
        }
        _ => {
            return Err(unknown(
                "a compressed tar, whose members can't be read at their places; unpack it, or \
                 only uncompress it with gunzip",
            ));
        }
    };
    let part = |test: bool, said: &str| Part {
        kind: Kind::CifarArchive {
            path: path.into(),
            cifar,
            test,
        },
        said: said.into(),
    };
    let (train, val) = match cifar {
        Cifar::Ten => ("data_batch_1.bin to data_batch_5.bin", "test_batch.bin"),
        Cifar::Hundred => ("train.bin", "test.bin"),
    };
    Ok(Layout {
        train: part(false, train),
        val: Some(part(true, val)),
        left_out: None,
        names_itself: false,
    })
}

/// A folder; `divide` says whether sub-folders may be its parts.
fn of_folder(root: &Path, divide: bool) -> Result<Layout, Error> {
    let (files, folders) = list(root)?;
    if let Some(layout) = of_binary_files(root, &files)? {
        return Ok(layout);
    }
    if divide && let Some(layout) = of_split_folders(root, &folders)? {
        return Ok(layout);
    }
    let search = Search::of(root)?;
    let root_of = || root.to_path_buf();
    if !search.pictures.is_empty() {
        return Ok(Layout::whole(
            Kind::Pictures {
                root: root_of(),
                files: search.pictures,
            },
            false,
        ));
    }
    let group = |files: Vec<PathBuf>| {
        if divide {
            Groups::of(files)
        } else {
            Groups {
                train: files,
                val: Vec::new(),
                left_out: Vec::new(),
            }
        }
    };
    if !search.tars.is_empty() {
        let kind = |files| Kind::Shards {
            root: root_of(),
            files,
        };
        return Ok(Layout::of_groups(group(search.tars), kind));
    }
    if !search.parquets.is_empty() {
        let kind = |files| Kind::Parquet {
            root: root_of(),
            files,
        };
        return Ok(Layout::of_groups(group(search.parquets), kind));
    }
    // A data set that was unpacked, or downloaded by torchvision, lies in a folder of its own.
    if let ([], [only]) = (files.as_slice(), folders.as_slice()) {
        return of_folder(&root.join(only), divide);
    }
    Err(Error::Empty {
        path: root.into(),
        hint: match search.others {
            0 => "; it is empty: give the folder that holds the pictures".into(),
            others => format!(
                ", but {others} other files: give the folder that holds the pictures, or convert \
                 them to JPEG or PNG"
            ),
        },
    })
}

/// Names of the files and of the folders in a folder, those with a dot in front left out, ascending.
fn list(root: &Path) -> Result<(Vec<String>, Vec<String>), Error> {
    let io = |source| Error::io(root, source);
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue; // the names looked for are ASCII
        };
        if name.starts_with('.') {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(found) if found.is_dir() => folders.push(name),
            Ok(found) if found.is_file() => files.push(name),
            _ => {}
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

/// CIFAR's, STL-10's or IDX files lying in the folder itself.
fn of_binary_files(root: &Path, names: &[String]) -> Result<Option<Layout>, Error> {
    let root = root.to_path_buf();
    let layout = |train: Vec<PathBuf>, val: Vec<PathBuf>, kind: &dyn Fn(Vec<PathBuf>) -> Kind| {
        let (train, val) = match train.is_empty() {
            true => (val, Vec::new()),
            false => (train, val),
        };
        let groups = Groups {
            train,
            val,
            left_out: Vec::new(),
        };
        Ok(Some(Layout::of_groups(groups, kind)))
    };
    for cifar in [Cifar::Ten, Cifar::Hundred] {
        let part = |test| -> Vec<PathBuf> {
            let wanted = |name: &&String| Cifar::of_file(name) == Some((cifar, test));
            names.iter().filter(wanted).map(PathBuf::from).collect()
        };
        let (train, val) = (part(false), part(true));
        if !train.is_empty() || !val.is_empty() {
            return layout(train, val, &|files| Kind::Cifar {
                root: root.clone(),
                files,
                cifar,
            });
        }
    }
    let there = |name: &&str| names.iter().any(|n| n == name);
    let stl10 = |all: &[&str]| -> Vec<PathBuf> {
        all.iter()
            .copied()
            .filter(|n| there(n))
            .map(PathBuf::from)
            .collect()
    };
    let (train, val) = (
        stl10(&[stl10::TRAIN, stl10::UNLABELED]),
        stl10(&[stl10::TEST]),
    );
    if !train.is_empty() || !val.is_empty() {
        return layout(train, val, &|files| Kind::Stl10 {
            root: root.clone(),
            files,
        });
    }
    // Of a file that is there packed and unpacked, the latter is taken.
    let packed_twin = |name: &String| {
        name.strip_suffix(".gz")
            .is_some_and(|plain| names.iter().any(|n| n == plain))
    };
    let images: Vec<PathBuf> = (names.iter())
        .filter(|name| idx::is_images(name) && !packed_twin(name))
        .map(PathBuf::from)
        .collect();
    if images.is_empty() {
        return Ok(None);
    }
    let is_test = |file: &&PathBuf| {
        let name = file.to_string_lossy();
        name.contains("t10k") || Split::of_file(file) == Some(Split::Test)
    };
    let (val, train): (Vec<&PathBuf>, Vec<&PathBuf>) = images.iter().partition(is_test);
    for files in [&train, &val] {
        if let [first, second, ..] = files.as_slice() {
            return Err(Error::unusable(
                &root,
                format!(
                    "it holds several sets of IDX files ({}, {})",
                    first.display(),
                    second.display()
                ),
                "give one file of pictures with --data and one with --val",
            ));
        }
    }
    let owned = |files: Vec<&PathBuf>| files.into_iter().cloned().collect();
    layout(owned(train), owned(val), &|files: Vec<PathBuf>| {
        Kind::Idx(
            files
                .first()
                .map_or_else(|| root.clone(), |file| root.join(file)),
        )
    })
}

/// Sub-folders `train` and `val` (or `valid`, `validation`, `test`). A lone `train` is one part as
/// well: as the only class it would be of no use.
fn of_split_folders(root: &Path, folders: &[String]) -> Result<Option<Layout>, Error> {
    let of = |wanted| {
        folders
            .iter()
            .find(|name| Split::of_folder(name) == Some(wanted))
    };
    let Some(train) = of(Split::Train) else {
        return Ok(None);
    };
    let val = of(Split::Val).or(of(Split::Test));
    let others: Vec<PathBuf> = (folders.iter())
        .filter(|name| *name != train && Some(*name) != val)
        .map(|name| PathBuf::from(format!("{name}/")))
        .collect();
    if val.is_none() && !others.is_empty() {
        return Ok(None);
    }
    let part = |name: &String| {
        let layout = of_folder(&root.join(name), false)?;
        Ok(Part {
            kind: layout.train.kind,
            said: format!("{}/", printable(name.as_bytes())),
        })
    };
    Ok(Some(Layout {
        train: part(train)?,
        val: val.map(part).transpose()?,
        left_out: (!others.is_empty()).then(|| say(&others)),
        names_itself: false,
    }))
}
