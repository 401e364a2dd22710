//! A dict of the configuration, taken apart key by key, so that none is overlooked.

use std::collections::BTreeMap;

use npid_mmconfig::{Dict, Kind, Place, Value};
use toml::Table;

use super::Pictures;
use crate::Error;

/// What has been made of the configuration so far.
#[derive(Default)]
pub(super) struct Out {
    pub(super) table: Table,
    /// Keys of `table`, and where their values were written.
    pub(super) places: Vec<(String, Place)>,
    /// Where the pictures are.
    pub(super) pictures: Vec<Pictures>,
    /// What to say, a line each.
    pub(super) notes: Vec<String>,
    /// Keys without effect, by reason.
    ignored: BTreeMap<&'static str, Vec<String>>,
}

impl Out {
    /// Sets a dotted key that `place` gave rise to.
    pub(super) fn set(&mut self, key: &str, value: impl Into<toml::Value>, place: &Place) {
        let mut table = &mut self.table;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_string(), value.into());
                break;
            }
            let inner = table
                .entry(part)
                .or_insert_with(|| toml::Value::Table(Table::new()));
            match inner {
                toml::Value::Table(inner) => table = inner,
                // Sections hold sections: no key of ours is a part of another.
                _ => return,
            }
        }
        self.places.push((key.to_string(), place.clone()));
    }

    /// Notes that a key has no effect, and why.
    pub(super) fn ignore(&mut self, key: impl Into<String>, why: &'static str) {
        self.ignored.entry(why).or_default().push(key.into());
    }

    /// The notes: what has been said, then the keys without effect.
    pub(super) fn into_notes(self) -> Vec<String> {
        let mut notes = self.notes;
        for (why, keys) in self.ignored {
            notes.push(format!("without effect: {} ({why})", keys.join(", ")));
        }
        notes
    }
}

/// A dict, and which of its keys have been looked at.
pub(super) struct Section<'a> {
    /// Its own name, such as `model.backbone`.
    name: String,
    pub(super) dict: &'a Dict,
    pub(super) place: Place,
    taken: Vec<&'a str>,
}

impl<'a> Section<'a> {
    /// # Errors
    /// If the value is no dict.
    pub(super) fn new(name: impl Into<String>, value: &'a Value) -> Result<Self, Error> {
        let name = name.into();
        match value.as_dict() {
            Some(dict) => Ok(Section::of(name, dict, value.place.clone())),
            None => Err(refuse(&name, value, "it must be a dict")),
        }
    }

    pub(super) fn of(name: impl Into<String>, dict: &'a Dict, place: Place) -> Self {
        Section {
            name: name.into(),
            dict,
            place,
            taken: Vec::new(),
        }
    }

    /// The whole name of a key.
    pub(super) fn path(&self, key: &str) -> String {
        match self.name.is_empty() {
            true => key.to_string(),
            false => format!("{}.{key}", self.name),
        }
    }

    /// The value of a key. `None` is as good as none: so are MMSelfSup's defaults written.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.dict.iter().find(|(name, _)| *name == key)?;
        self.taken.push(key);
        Some(value).filter(|value| !value.is_none())
    }

    /// The dict of a key.
    pub(super) fn section(&mut self, key: &str) -> Result<Option<Section<'a>>, Error> {
        let value = self.take(key);
        value.map(|v| Section::new(self.path(key), v)).transpose()
    }

    fn typed<T>(
        &mut self,
        key: &str,
        read: impl Fn(&'a Value) -> Option<T>,
        must: &str,
    ) -> Result<Option<T>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(refuse(
                    &self.path(key),
                    value,
                    &format!("it must be {must}"),
                )),
            },
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, Value::as_bool, "True or False")
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, Value::as_str, "text")
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, Value::as_number, "a number")
    }

    pub(super) fn integer(&mut self, key: &str) -> Result<Option<i64>, Error> {
        self.typed(key, Value::as_int, "a whole number")
    }

    /// A whole number of at least 1.
    pub(super) fn count(&mut self, key: &str) -> Result<Option<u64>, Error> {
        let read = |value: &Value| u64::try_from(value.as_int()?).ok().filter(|&n| n > 0);
        self.typed(key, read, "a whole number, at least 1")
    }

    /// What `type` names, without the library it may come from (`mmcls.`), and that library.
    pub(super) fn kind(&mut self) -> Result<Option<(&'a str, Option<&'a str>)>, Error> {
        Ok(self.text("type")?.map(|kind| match kind.rsplit_once('.') {
            Some((library, kind)) => (kind, Some(library)),
            None => (kind, None),
        }))
    }

    /// Hands values over under the same or another name.
    pub(super) fn copy(&mut self, out: &mut Out, keys: &[(&str, &str)]) -> Result<(), Error> {
        for (from, to) in keys {
            if let Some(value) = self.take(from) {
                let converted = to_toml(&self.path(from), value)?;
                out.set(to, converted, &value.place);
            }
        }
        Ok(())
    }

    /// Passes keys whose value is the only one that npid has; others are refused.
    pub(super) fn only(&mut self, key: &str, values: &[Kind], why: &str) -> Result<(), Error> {
        let Some(value) = self.take(key) else {
            return Ok(());
        };
        let as_list = |value: &Value| match &value.kind {
            Kind::Tuple(items) => Kind::List(items.clone()),
            kind => kind.clone(),
        };
        let at = |kind: Kind| Value {
            kind,
            place: value.place.clone(),
        };
        let given = at(as_list(value));
        if values.iter().any(|kind| at(kind.clone()) == given) {
            return Ok(());
        }
        Err(refuse(&self.path(key), value, why))
    }

    /// Passes keys that change nothing here.
    pub(super) fn ignore(&mut self, out: &mut Out, keys: &[&str], why: &'static str) {
        for key in keys {
            if self.take(key).is_some() {
                out.ignore(self.path(key), why);
            }
        }
    }

    /// Keys that nobody has looked at.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let taken = self.taken.clone();
        let entries = self.dict.iter();
        entries.filter(move |(key, _)| !taken.contains(key))
    }

    /// Ends the section.
    ///
    /// # Errors
    /// If a key was overlooked: it may matter.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.rest().next() {
            None => Ok(()),
            Some((key, value)) => Err(refuse(
                &self.path(key),
                value,
                "npid has nothing like it; take it out if the run can do without",
            )),
        }
    }

    /// Says that a key must be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        Error::input(format!("{}: {} is missing", self.place, self.path(key)))
    }
}

/// Says where a value stands and why it can't be used.
pub(super) fn refuse(path: &str, value: &Value, why: &str) -> Error {
    Error::input(format!("{}: {path} is {value}; {why}", value.place))
}

/// Numbers as Python literals, for [`Section::only`].
pub(super) fn ints(values: &[i64], place: &Place) -> Kind {
    let item = |&n: &i64| Value {
        kind: Kind::Int(n),
        place: place.clone(),
    };
    Kind::List(values.iter().map(item).collect())
}

pub(super) fn to_toml(path: &str, value: &Value) -> Result<toml::Value, Error> {
    Ok(match &value.kind {
        Kind::None => return Err(refuse(path, value, "a value is needed here")),
        Kind::Bool(value) => toml::Value::Boolean(*value),
        Kind::Int(n) => toml::Value::Integer(*n),
        Kind::Float(x) => toml::Value::Float(*x),
        Kind::Str(text) => toml::Value::String(text.clone()),
        Kind::List(items) | Kind::Tuple(items) => {
            let items = items.iter().map(|item| to_toml(path, item));
            toml::Value::Array(items.collect::<Result<_, _>>()?)
        }
        Kind::Dict(dict) => {
            let mut table = Table::new();
            for (key, value) in dict.iter() {
                // What is None in Python is absent in TOML.
                if !value.is_none() {
                    table.insert(key.to_string(), to_toml(&format!("{path}.{key}"), value)?);
                }
            }
            toml::Value::Table(table)
        }
    })
}
