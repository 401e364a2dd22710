//! From paths to sources.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{KEEP_BYTES, printable};
use super::folder::FolderSource;
use super::layout::{Kind, Layout, Part};
use super::search::name_of;
use super::{Error, Joined, ListSource, ParquetSource, ShardSource, Source, cifar, idx, stl10};

/// Which part of a data set is wanted, where a path holds a part for training and one for queries
/// (`train/` and `val/`, CIFAR's batches, and so on). What isn't wanted isn't opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The two, apart.
    Both,
    /// The one for training.
    Train,
    /// The one for queries; what there is where nothing is marked as such.
    Queries,
    /// The two as one collection, training first.
    All,
}

/// How paths are understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where relative paths in a list file start; the list's own rule without it.
    pub data_prefix: Option<PathBuf>,
}

/// What was found.
pub struct Opened {
    /// The pictures that were wanted.
    pub pictures: Arc<dyn Source>,
    /// Those for queries, with [`Wanted::Both`], where there are some.
    pub val: Option<Arc<dyn Source>>,
    /// A sentence for each path that holds two parts.
    pub found: Vec<String>,
}

/// Everything at `path` as one collection: [`find`] with [`Wanted::All`].
///
/// # Errors
/// As [`find`].
pub fn open(path: &Path) -> Result<Arc<dyn Source>, Error> {
    let opened = find(&[path.to_path_buf()], Wanted::All, &Options::default())?;
    Ok(opened.pictures)
}

/// Opens the collections at these paths; what each is, is recognised from the path alone. Several
/// are one collection, their rows in the order given, their labels merged by the classes' names.
///
/// Known are folders of pictures, list files, parquet files in the layout of Hugging Face's data sets
/// and folders of them, WebDataset's tars, folders of them and brace patterns, the binary versions of
/// CIFAR-10 and CIFAR-100 (files, folder or the archive as downloaded) and of STL-10, and IDX files.
///
/// # Errors
/// If nothing is there, or it holds no pictures, or is damaged; see [`Error`].
pub fn find(paths: &[PathBuf], wanted: Wanted, options: &Options) -> Result<Opened, Error> {
    let mut opener = Opener {
        options,
        keep: KEEP_BYTES,
    };
    check_distinct(paths)?;
    let (mut pictures, mut val, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let before = prefixes(paths);
    for (path, (whole, above)) in paths.iter().zip(before) {
        let layout = Layout::of(path)?;
        if let Some(sentence) = sentence(path, &layout, wanted) {
            found.push(sentence);
        }
        let prefix = if layout.names_itself { above } else { whole };
        let train = |opener: &mut Opener| opener.open(&layout.train);
        match (&layout.val, wanted) {
            (None, _) | (Some(_), Wanted::Train) => pictures.push((prefix, train(&mut opener)?)),
            (Some(part), Wanted::Both) => {
                pictures.push((prefix.clone(), train(&mut opener)?));
                val.push((prefix, opener.open(part)?));
            }
            (Some(part), Wanted::Queries) => pictures.push((prefix, opener.open(part)?)),
            (Some(part), Wanted::All) => {
                for part in [&layout.train, part] {
                    // The names of files tell the parts apart already; those below folders don't.
                    let folder = part.said.ends_with('/');
                    let inner = if folder { part.said.as_str() } else { "" };
                    pictures.push((format!("{prefix}{inner}"), opener.open(part)?));
                }
            }
        }
    }
    Ok(Opened {
        pictures: joined(pictures, None),
        val: (!val.is_empty()).then(|| joined(val, None)),
        found,
    })
}

/// One source as it is, several as one.
fn joined(mut sources: Vec<(String, Arc<dyn Source>)>, kind: Option<&str>) -> Arc<dyn Source> {
    match sources.as_slice() {
        [(prefix, _)] if prefix.is_empty() => sources.remove(0).1,
        _ => Arc::new(Joined::new(sources, kind.map(str::to_owned))),
    }
}

/// The same path twice would give every picture two rows.
fn check_distinct(paths: &[PathBuf]) -> Result<(), Error> {
    let mut seen = Vec::new();
    for path in paths {
        let same = path.canonicalize().unwrap_or_else(|_| path.clone());
        if seen.contains(&same) {
            return Err(Error::Twice { path: path.clone() });
        }
        seen.push(same);
    }
    Ok(())
}

/// What stands before the pictures' names of each path: as many of its last parts as tell the paths
/// apart, and the same without the very last; both empty for a single path. Where they lie isn't
/// part of it, so that they can be moved as a whole.
fn prefixes(paths: &[PathBuf]) -> Vec<(String, String)> {
    let parts: Vec<Vec<String>> = (paths.iter())
        .map(|path| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let normal = |part| match part {
                std::path::Component::Normal(name) => Some(printable(name.as_encoded_bytes())),
                _ => None,
            };
            absolute.components().filter_map(normal).collect()
        })
        .collect();
    if paths.len() < 2 {
        return vec![Default::default(); paths.len()];
    }
    let most = parts.iter().map(Vec::len).max().unwrap_or(1);
    let last = |n: usize| -> Vec<&[String]> {
        parts
            .iter()
            .map(|p| &p[p.len().saturating_sub(n)..])
            .collect()
    };
    let distinct = |n: &usize| {
        let mut all = last(*n);
        all.sort();
        all.windows(2).all(|pair| pair[0] != pair[1])
    };
    let needed = (1..=most).find(distinct).unwrap_or(most);
    let say = |parts: &[String]| {
        parts
            .iter()
            .map(|part| format!("{part}/"))
            .collect::<String>()
    };
    last(needed)
        .into_iter()
        .map(|parts| (say(parts), say(&parts[..parts.len().saturating_sub(1)])))
        .collect()
}

/// What is said of a path with several parts.
fn sentence(path: &Path, layout: &Layout, wanted: Wanted) -> Option<String> {
    let train = &layout.train.said;
    let (train, val) = match &layout.val {
        Some(val) => (train, &val.said),
        // A lone folder `train` is worth a word, since its name was not given.
        None if train.ends_with('/') => return Some(format!("{}: {train}", path.display())),
        None => return None,
    };
    let mut unused: Vec<&str> = layout.left_out.as_deref().into_iter().collect();
    let used = match wanted {
        Wanted::Both => format!("{train} to train on, {val} as the queries of the kNN figure"),
        Wanted::Train => {
            unused.insert(0, val);
            format!("{train} to train on")
        }
        Wanted::Queries => {
            unused.insert(0, train);
            format!("{val} as the queries of the kNN figure")
        }
        Wanted::All => format!("{train} and {val}"),
    };
    let unused = match unused.as_slice() {
        [] => String::new(),
        unused => format!("; not used: {}", unused.join(", ")),
    };
    Some(format!("{}: {used}{unused}", path.display()))
}

struct Opener<'a> {
    options: &'a Options,
    /// Bytes that parquet files may still keep in memory, all together.
    keep: u64,
}

impl Opener<'_> {
    fn open(&mut self, part: &Part) -> Result<Arc<dyn Source>, Error> {
        Ok(match &part.kind {
            Kind::Pictures { root, files } => Arc::new(FolderSource::of(root, files.clone())),
            Kind::List(path) => {
                let prefix = self.options.data_prefix.as_deref();
                Arc::new(ListSource::open(path, prefix)?)
            }
            Kind::Parquet { root, files } => self.parquet(root, files)?,
            Kind::Shards { root, files } => Arc::new(ShardSource::open(root, files)?),
            Kind::Cifar { root, files, cifar } => Arc::new(cifar::open(root, files, *cifar)?),
            Kind::CifarArchive { path, cifar, test } => {
                Arc::new(cifar::open_archive(path, *cifar, *test)?)
            }
            Kind::Stl10 { root, files } => Arc::new(stl10::open(root, files)?),
            Kind::Idx(path) => Arc::new(idx::open(path)?),
        })
    }

    fn parquet(&mut self, root: &Path, files: &[PathBuf]) -> Result<Arc<dyn Source>, Error> {
        let mut sources: Vec<(String, Arc<dyn Source>)> = Vec::new();
        for file in files {
            let name = name_of(file);
            let source = ParquetSource::open_named(&root.join(file), name, self.keep)?;
            self.keep = self.keep.saturating_sub(source.kept_bytes());
            sources.push((String::new(), Arc::new(source)));
        }
        Ok(joined(sources, Some("parquet folder")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_parts_of_the_paths_as_tell_them_apart() {
        let all = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            prefixes(&paths)
        };
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(all(&["/x/a"]), [pair("", "")]);
        assert_eq!(all(&["/x/a", "/x/b/"]), [pair("a/", ""), pair("b/", "")]);
        assert_eq!(
            all(&["/x/train", "/y/train", "/z"]),
            [
                pair("x/train/", "x/"),
                pair("y/train/", "y/"),
                pair("z/", "")
            ]
        );
        assert_eq!(
            all(&["/train", "/y/train"]),
            [pair("train/", ""), pair("y/train/", "y/")]
        );
    }
}
