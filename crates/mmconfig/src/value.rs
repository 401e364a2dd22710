//! What a file says: a tree of values that know where they were written.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named: relative where the first one was.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file.display(), self.line)
    }
}

/// A value, and where it was written. Two are equal if they would be in Python; their places don't
/// matter.
#[derive(Clone, Debug)]
pub struct Value {
    /// What it is.
    pub kind: Kind,
    /// Where its text begins. That of `x` in `dict(a=x)` is where `x` was assigned.
    pub place: Place,
}

/// The kinds of values.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// `[...]`.
    List(Vec<Value>),
    /// `(...)`.
    Tuple(Vec<Value>),
    /// `{...}` or `dict(...)`.
    Dict(Dict),
}

/// Values by name, in the order they were written; names are unique.
#[derive(Clone, Debug, Default)]
pub struct Dict {
    pub(crate) entries: Vec<(String, Value)>,
}

impl Dict {
    /// The value of this name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Takes out the value of this name.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.remove(at).1)
    }

    /// Gives the name this value, in its old place if it had one.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Value {
    /// The value of this name, if this is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_dict()?.get(key)
    }

    /// The dict, if it is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        match &self.kind {
            Kind::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// The items, if it is a list or tuple.
    pub fn as_items(&self) -> Option<&[Value]> {
        match &self.kind {
            Kind::List(items) | Kind::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if it is some.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if it is `True` or `False`.
    pub fn as_bool(&self) -> Option<bool> {
        match self.kind {
            Kind::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self.kind {
            Kind::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self.kind {
            Kind::Int(value) => Some(value as f64),
            Kind::Float(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self.kind, Kind::None)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.as_number(), other.as_number()) {
            return a == b;
        }
        match (&self.kind, &other.kind) {
            (Kind::None, Kind::None) => true,
            (Kind::Bool(a), Kind::Bool(b)) => a == b,
            (Kind::Str(a), Kind::Str(b)) => a == b,
            (Kind::List(a), Kind::List(b)) | (Kind::Tuple(a), Kind::Tuple(b)) => a == b,
            (Kind::Dict(a), Kind::Dict(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| b.get(key) == Some(value))
            }
            _ => false,
        }
    }
}

/// As Python writes it; what is long is cut off with `...`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        write_value(self, &mut text);
        match text.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => write!(f, "{}...", &text[..end]),
            None => f.write_str(&text),
        }
    }
}

/// Characters of a value in a message.
const MAX_SHOWN: usize = 60;

fn write_value(value: &Value, text: &mut String) {
    if text.len() > 4 * MAX_SHOWN {
        return;
    }
    let list = |items: &[Value], text: &mut String| {
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                text.push_str(", ");
            }
            write_value(item, text);
        }
    };
    match &value.kind {
        Kind::None => text.push_str("None"),
        Kind::Bool(true) => text.push_str("True"),
        Kind::Bool(false) => text.push_str("False"),
        Kind::Int(n) => text.push_str(&n.to_string()),
        Kind::Float(x) => text.push_str(&format!("{x:?}")),
        Kind::Str(s) => {
            let shown: String = s.chars().take(MAX_SHOWN).collect();
            text.push_str(&format!("'{}'", shown.escape_debug()));
        }
        Kind::List(items) => {
            text.push('[');
            list(items, text);
            text.push(']');
        }
        Kind::Tuple(items) => {
            text.push('(');
            list(items, text);
            text.push_str(if items.len() == 1 { ",)" } else { ")" });
        }
        Kind::Dict(dict) => {
            text.push_str("dict(");
            for (i, (key, value)) in dict.iter().enumerate() {
                if i > 0 {
                    text.push_str(", ");
                }
                text.push_str(key);
                text.push('=');
                write_value(value, text);
            }
            text.push(')');
        }
    }
}
