//! Settings one by one: what was chosen, and why; or that it was given.

use serde::Serialize;
use toml::{Table, Value};

use crate::config::load::{insert, parse_set};
use crate::error::Error;

/// One setting of a derived configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The dotted key.
    pub key: String,
    /// The value, as TOML.
    pub value: String,
    /// Why, in a few words, as a person would say it.
    pub reason: String,
    /// Whether it was given by `--set`.
    pub given: bool,
}

/// Collects choices into a configuration; what was given comes before what would be chosen.
pub(super) struct Chooser {
    given: Vec<(String, Value)>,
    table: Table,
    choices: Vec<Choice>,
}

impl Chooser {
    /// With the `--set` flags, of which the last that sets a key counts.
    ///
    /// # Errors
    /// For a flag that is no `key=value`.
    pub(super) fn new(sets: &[String]) -> Result<Self, Error> {
        let given = sets.iter().map(|set| parse_set(set));
        Ok(Chooser {
            given: given.collect::<Result<_, _>>()?,
            table: Table::new(),
            choices: Vec::new(),
        })
    }

    /// What was given for `key`.
    pub(super) fn given(&self, key: &str) -> Option<&Value> {
        let given = self.given.iter().rev().find(|(name, _)| name == key);
        given.map(|(_, value)| value)
    }

    /// Sets `key` to `value` for `reason`, unless it was given. Returns what it is.
    pub(super) fn set(
        &mut self,
        key: &str,
        value: impl Into<Value>,
        reason: impl Into<String>,
    ) -> Value {
        let (value, reason, given) = match self.given(key) {
            Some(given) => (given.clone(), "given".to_string(), true),
            None => (value.into(), reason.into(), false),
        };
        self.choices.push(Choice {
            key: key.to_string(),
            value: shown(&value),
            reason,
            given,
        });
        self.quietly(key, value.clone());
        value
    }

    /// As [`Chooser::set`], for whole numbers. What was given but is none is refused when the
    /// configuration is read; what is chosen is used until then.
    pub(super) fn number(&mut self, key: &str, value: usize, reason: impl Into<String>) -> usize {
        let set = self.set(key, value as i64, reason);
        let number = set.as_integer().and_then(|n| usize::try_from(n).ok());
        number.filter(|&n| n > 0).unwrap_or(value)
    }

    /// Says something about a part of `key`, which is set elsewhere.
    pub(super) fn note(&mut self, key: &str, value: String, reason: &str) {
        self.choices.push(Choice {
            key: key.to_string(),
            value,
            reason: reason.to_string(),
            given: false,
        });
    }

    /// Sets a key that is not worth a word.
    pub(super) fn quietly(&mut self, key: &str, value: impl Into<Value>) {
        // Only a key below a value could fail, and the keys are ours.
        let _ = insert(&mut self.table, key, value.into());
    }

    /// The configuration as TOML, and the choices, with whatever else was given at the end.
    pub(super) fn finish(mut self) -> (String, Vec<Choice>) {
        for (key, value) in &self.given {
            if !self.choices.iter().any(|choice| choice.key == *key) {
                self.choices.push(Choice {
                    key: key.clone(),
                    value: shown(value),
                    reason: "given".to_string(),
                    given: true,
                });
            }
        }
        (self.table.to_string(), self.choices)
    }
}

/// A value as it would stand in a recipe.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
