//! One path or several, as `data.path` has them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// Paths of collections, at least one: in TOML a string or a list of strings. Several are one
/// collection, their rows in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

impl Paths {
    /// These paths; `None` if there are none.
    pub fn new(paths: Vec<PathBuf>) -> Option<Self> {
        (!paths.is_empty()).then_some(Paths(paths))
    }

    /// The paths.
    pub fn as_slice(&self) -> &[PathBuf] {
        &self.0
    }

    /// Each changed by `change`.
    ///
    /// # Errors
    /// The first of `change`.
    pub fn try_map<E>(&self, change: impl FnMut(&Path) -> Result<PathBuf, E>) -> Result<Self, E> {
        let mut change = change;
        let paths: Result<Vec<PathBuf>, E> = self.0.iter().map(|path| change(path)).collect();
        Ok(Paths(paths?))
    }
}

impl<P: Into<PathBuf>> From<P> for Paths {
    fn from(path: P) -> Self {
        Paths(vec![path.into()])
    }
}

impl fmt::Display for Paths {
    /// With commas between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, path) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}", path.display())?;
        }
        Ok(())
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path in quotes, or a list of at least one")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Paths, E> {
                Ok(Paths::from(path))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Paths, A::Error> {
                let mut paths: Vec<PathBuf> = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Paths::new(paths).ok_or_else(|| A::Error::invalid_value(Unexpected::Seq, &self))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}
