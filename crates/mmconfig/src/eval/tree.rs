//! From cells to trees and back.

use super::{Evaluator, Id, Slot, too_large};
use crate::error::Fault;
use crate::limits;
use crate::value::{Dict, Kind, Value};

impl Evaluator {
    /// The value that `_base_.a.b` stands for, in cells of its own.
    pub(super) fn of_base(&mut self, parts: &[String], line: usize) -> Result<Id, Fault> {
        let missing = |part: &str| Fault::new(line, format!("`_base_` has no `{part}`"));
        let Some(base) = &self.base else {
            return Err(Fault::new(
                line,
                "`_base_` is used before a line assigns it",
            ));
        };
        let (first, rest) = parts.split_first().ok_or_else(|| missing(""))?;
        let mut value = base.get(first).ok_or_else(|| missing(first))?;
        for part in rest {
            let inner = match &value.kind {
                Kind::List(items) | Kind::Tuple(items) => {
                    part.parse().ok().and_then(|i: usize| items.get(i))
                }
                _ => value.get(part),
            };
            value = inner.ok_or_else(|| missing(part))?;
        }
        let value = value.clone();
        self.plant(&value, line)
    }

    /// Cells for a tree.
    fn plant(&mut self, value: &Value, line: usize) -> Result<Id, Fault> {
        let slot = match &value.kind {
            Kind::None => Slot::None,
            Kind::Bool(value) => Slot::Bool(*value),
            Kind::Int(n) => Slot::Int(*n),
            Kind::Float(x) => Slot::Float(*x),
            Kind::Str(text) => Slot::Str(text.clone()),
            Kind::List(items) | Kind::Tuple(items) => {
                let ids = items.iter().map(|item| self.plant(item, line));
                let ids = ids.collect::<Result<Vec<_>, _>>()?;
                match value.kind {
                    Kind::List(_) => Slot::List(ids),
                    _ => Slot::Tuple(ids),
                }
            }
            Kind::Dict(dict) => {
                let mut entries = Vec::new();
                for (key, value) in dict.iter() {
                    entries.push((key.to_string(), self.plant(value, line)?));
                }
                Slot::Dict(entries)
            }
        };
        self.placed(slot, value.place.clone(), line)
    }

    /// The tree of a cell.
    pub(super) fn tree(&mut self, id: Id, line: usize, depth: usize) -> Result<Value, Fault> {
        self.grown += 1;
        if self.grown > 4 * limits::VALUES {
            return Err(too_large(line));
        }
        if depth > limits::DEPTH {
            return Err(Fault::new(
                line,
                "values are nested too deeply; one may contain itself",
            ));
        }
        let cell = &self.cells[id];
        let place = cell.place.clone();
        let kind = match cell.slot.clone() {
            Slot::None => Kind::None,
            Slot::Bool(value) => Kind::Bool(value),
            Slot::Int(n) => Kind::Int(n),
            Slot::Float(x) => Kind::Float(x),
            Slot::Str(text) => Kind::Str(text),
            Slot::List(ids) => Kind::List(self.trees(&ids, line, depth)?),
            Slot::Tuple(ids) => Kind::Tuple(self.trees(&ids, line, depth)?),
            Slot::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, id) in entries {
                    dict.entries.push((key, self.tree(id, line, depth + 1)?));
                }
                Kind::Dict(dict)
            }
        };
        Ok(Value { kind, place })
    }

    fn trees(&mut self, ids: &[Id], line: usize, depth: usize) -> Result<Vec<Value>, Fault> {
        ids.iter()
            .map(|&id| self.tree(id, line, depth + 1))
            .collect()
    }
}
