//! Files: reading them, and their bases before them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::ast::{Node, Statement};
use crate::error::{Error, Fault};
use crate::eval::{Evaluator, Outcome};
use crate::merge::merge;
use crate::value::{Dict, Kind, Value};
use crate::{lex, limits, parse};

/// A configuration: a file, merged with its bases.
#[derive(Clone, Debug)]
pub struct Config {
    /// The top-level names.
    pub root: Dict,
    /// Names that a file used to write other values, such as `train_pipeline`.
    pub read: BTreeSet<String>,
    /// All files it was read from, each after its bases.
    pub files: Vec<PathBuf>,
}

/// Reads a file and its bases, as mmcv's `Config.fromfile`.
///
/// # Errors
/// One line, with file and line: for what can't be read or isn't understood; bases that are
/// missing, go round in a circle or share a name; a dict merged with something else; and more than
/// [`limits`] allow.
pub fn read(path: &Path) -> Result<Config, Error> {
    start(|reader| reader.file(path))
}

/// Reads a file whose content is given.
#[cfg(test)]
pub(crate) fn read_bytes(path: &Path, bytes: Vec<u8>) -> Result<Config, Error> {
    start(|reader| reader.content(path, &decode(path, bytes)?))
}

fn start(run: impl FnOnce(&mut Reader) -> Result<Dict, Error>) -> Result<Config, Error> {
    let mut reader = Reader {
        read: BTreeSet::new(),
        files: Vec::new(),
        open: Vec::new(),
    };
    let root = run(&mut reader)?;
    Ok(Config {
        root,
        read: reader.read,
        files: reader.files,
    })
}

struct Reader {
    read: BTreeSet<String>,
    files: Vec<PathBuf>,
    /// The file that is being read, and those that it is a base of, outermost first.
    open: Vec<PathBuf>,
}

impl Reader {
    fn file(&mut self, path: &Path) -> Result<Dict, Error> {
        if self.files.len() + self.open.len() >= limits::FILES {
            let what = format!(
                "more than {} files belong to the configuration",
                limits::FILES
            );
            return Err(Error::file(path, what));
        }
        let text = text(path)?;
        self.content(path, &text)
    }

    fn content(&mut self, path: &Path, text: &str) -> Result<Dict, Error> {
        self.open.push(path.to_path_buf());
        let outcome = self.run(path, text)?;
        self.open.pop();
        self.files.push(path.to_path_buf());
        self.read.extend(outcome.read);
        merge(outcome.names, outcome.base)
    }

    fn run(&mut self, path: &Path, text: &str) -> Result<Outcome, Error> {
        let fault = |fault: Fault| fault.at(path);
        let tokens = lex::tokens(text, path).map_err(fault)?;
        let statements = parse::parse(&tokens, text).map_err(fault)?;
        let mut evaluator = Evaluator::new(Arc::from(path));
        for statement in &statements {
            let base = match statement {
                Statement::Assign(targets, value) => match targets.as_slice() {
                    [target] if matches!(&target.node, Node::Name(n) if n == "_base_") => {
                        Some(value)
                    }
                    _ => None,
                },
                _ => None,
            };
            let Some(base) = base else {
                evaluator.run(statement).map_err(fault)?;
                continue;
            };
            if evaluator.has_base() {
                return Err(fault(Fault::new(
                    base.line,
                    "`_base_` is assigned a second time",
                )));
            }
            let value = evaluator.value(base).map_err(fault)?;
            evaluator.set_base(self.bases(path, &value)?);
        }
        evaluator.finish().map_err(fault)
    }

    /// The bases that `_base_` names, put together.
    fn bases(&mut self, path: &Path, value: &Value) -> Result<Dict, Error> {
        let single = std::slice::from_ref(value);
        let list = match value.kind {
            Kind::Str(_) => single,
            _ => value.as_items().unwrap_or(single),
        };
        let mut all = Dict::default();
        for item in list {
            let at = |what: String| Fault::new(item.place.line, what).at(path);
            let Some(name) = item.as_str() else {
                return Err(at(format!(
                    "`_base_` is {item}; it takes a path or a list of paths"
                )));
            };
            if name.contains("::") {
                return Err(Fault::not_understood(
                    item.place.line,
                    format_args!("a base of another library, `{}`,", lex::shown(name)),
                )
                .at(path));
            }
            let file = normal(&path.parent().unwrap_or(Path::new("")).join(name));
            if self.open.iter().any(|open| same(open, &file)) {
                let names: Vec<_> = self.open.iter().map(|f| f.display().to_string()).collect();
                return Err(at(format!(
                    "`_base_` goes round in a circle: {} -> {}",
                    names.join(" -> "),
                    file.display()
                )));
            }
            if !file.is_file() {
                return Err(at(format!(
                    "`_base_` names {}, and there is no file {}; bases are found relative to the \
                     file that names them, so keep the folders together",
                    lex::shown(name),
                    file.display()
                )));
            }
            for (key, value) in self.file(&file)?.entries {
                if let Some(first) = all.get(&key) {
                    return Err(at(format!(
                        "two bases assign `{key}`, in {} and {}; mmcv allows one",
                        first.place, value.place
                    )));
                }
                all.entries.push((key, value));
            }
        }
        Ok(all)
    }
}

/// The text of a file, its lines ending in `\n`.
fn text(path: &Path) -> Result<String, Error> {
    let fail = |error: std::io::Error| Error::file(path, format!("can't be read ({error})"));
    // A pipe or device could go on for ever.
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::file(path, "is no file"));
    }
    let mut bytes = Vec::new();
    let most = limits::FILE_BYTES as u64 + 1;
    let file = File::open(path).map_err(fail)?;
    file.take(most).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > limits::FILE_BYTES {
        let what = format!(
            "is longer than {} KiB, so it is no configuration",
            limits::FILE_BYTES >> 10
        );
        return Err(Error::file(path, what));
    }
    decode(path, bytes)
}

fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, Error> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        Fault::new(line, "not UTF-8 text, so no Python file").at(path)
    })?;
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Without `.` and `x/..`; as mmcv, by the words alone.
fn normal(path: &Path) -> PathBuf {
    let mut parts: Vec<Component> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                parts.pop();
            }
            (Component::ParentDir, Some(Component::RootDir)) => {}
            _ => parts.push(part),
        }
    }
    parts.iter().collect()
}

/// Whether two paths are one file.
fn same(a: &Path, b: &Path) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
