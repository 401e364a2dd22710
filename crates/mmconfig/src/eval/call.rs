//! The calls that are understood: `dict`, `list`, `tuple`, `range`, and methods of lists and dicts.

use std::collections::BTreeSet;

use super::{Evaluator, Id, Slot, position, put};
use crate::ast::{Argument, Expr, Node};
use crate::error::Fault;
use crate::operate;

impl Evaluator {
    pub(super) fn call(
        &mut self,
        callee: &Expr,
        arguments: &[Argument],
        line: usize,
    ) -> Result<Id, Fault> {
        let slot = match &callee.node {
            Node::Name(name) if self.lookup(name).is_none() => match name.as_str() {
                "dict" => self.dict_call(arguments, line)?,
                "list" | "tuple" => {
                    let items = match arguments {
                        [] => Vec::new(),
                        [Argument::Positional(expr)] => {
                            let id = self.eval(expr)?;
                            self.items(id, expr.line)?
                        }
                        _ => return Err(Fault::new(line, format!("{name}() takes one list"))),
                    };
                    match name.as_str() {
                        "list" => Slot::List(items),
                        _ => Slot::Tuple(items),
                    }
                }
                "range" => {
                    let mut numbers = Vec::new();
                    for id in self.positional(arguments, line)? {
                        match self.cells[id].slot {
                            Slot::Int(n) => numbers.push(n),
                            _ => return Err(Fault::new(line, "range() takes whole numbers")),
                        }
                    }
                    let mut ids = Vec::new();
                    for n in operate::range(&numbers, line)? {
                        ids.push(self.cell(Slot::Int(n), line)?);
                    }
                    Slot::List(ids)
                }
                _ => {
                    return Err(Fault::not_understood(
                        line,
                        format_args!("the call `{name}(...)`"),
                    ));
                }
            },
            Node::Attribute(object, method) => return self.method(object, method, arguments, line),
            _ => return Err(Fault::not_understood(line, "this call")),
        };
        self.cell(slot, line)
    }

    fn dict_call(&mut self, arguments: &[Argument], line: usize) -> Result<Slot, Fault> {
        let mut entries = Vec::new();
        let mut named = BTreeSet::new();
        for (i, argument) in arguments.iter().enumerate() {
            let more = match argument {
                Argument::Positional(expr) if i == 0 => {
                    let id = self.eval(expr)?;
                    entries = self.entries(id, expr.line)?;
                    continue;
                }
                Argument::Named(name, expr) => vec![(name.clone(), self.eval(expr)?)],
                Argument::Entries(expr) => {
                    let id = self.eval(expr)?;
                    self.entries(id, expr.line)?
                }
                Argument::Positional(_) | Argument::Items(_) => {
                    return Err(Fault::new(line, "dict() takes one dict, then name=value"));
                }
            };
            for (name, id) in more {
                if !named.insert(name.clone()) {
                    return Err(Fault::new(
                        self.cells[id].place.line,
                        format!("dict() is given `{name}` twice; leave one out"),
                    ));
                }
                put(&mut entries, name, id, line)?;
            }
        }
        Ok(Slot::Dict(entries))
    }

    fn positional(&mut self, arguments: &[Argument], line: usize) -> Result<Vec<Id>, Fault> {
        let mut ids = Vec::new();
        for argument in arguments {
            match argument {
                Argument::Positional(expr) => ids.push(self.eval(expr)?),
                _ => return Err(Fault::not_understood(line, "such an argument")),
            }
        }
        Ok(ids)
    }

    /// A list's or dict's method.
    fn method(
        &mut self,
        object: &Expr,
        method: &str,
        arguments: &[Argument],
        line: usize,
    ) -> Result<Id, Fault> {
        if !["append", "extend", "insert", "copy", "update", "pop"].contains(&method) {
            let what = match &object.node {
                Node::Name(name) => format!("the call `{name}.{method}(...)`"),
                _ => format!("the call of `.{method}(...)`"),
            };
            return Err(Fault::not_understood(line, what));
        }
        let id = self.eval(object)?;
        let is_list = match &self.cells[id].slot {
            Slot::List(_) => true,
            Slot::Dict(_) => false,
            _ => {
                return Err(Fault::new(
                    line,
                    format!("`.{method}()` needs a list or dict"),
                ));
            }
        };
        if !is_list && method == "update" {
            let Slot::Dict(more) = self.dict_call(arguments, line)? else {
                return self.cell(Slot::None, line);
            };
            for (name, value) in more {
                self.set(id, name, value, line)?;
            }
            return self.cell(Slot::None, line);
        }
        let given = self.positional(arguments, line)?;
        let usage = |usage: &str| {
            Err(Fault::new(
                line,
                format!("`.{method}()` is used as {usage}"),
            ))
        };
        match (is_list, method, given.as_slice()) {
            (true, "append", &[item]) => self.extend(id, &[item], line)?,
            (true, "extend", &[more]) => {
                let items = self.items(more, line)?;
                self.extend(id, &items, line)?;
            }
            (true, "insert", &[at, item]) => {
                let Slot::Int(at) = self.cells[at].slot else {
                    return usage("insert(number, value)");
                };
                self.extend(id, &[item], line)?;
                if let Slot::List(items) = &mut self.cells[id].slot {
                    // Python cuts a position off at the ends.
                    let length = items.len() - 1;
                    let from = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
                    let at = match at < 0 {
                        true => length.saturating_sub(from),
                        false => from.min(length),
                    };
                    items[at..].rotate_right(1);
                }
            }
            (_, "copy", &[]) => {
                let slot = self.cells[id].slot.clone();
                return self.cell(slot, line);
            }
            (true, "pop", &[] | &[_]) => {
                let at = match given.first().map(|&at| &self.cells[at].slot) {
                    None => -1,
                    Some(&Slot::Int(at)) => at,
                    Some(_) => return usage("pop(number)"),
                };
                if let Slot::List(items) = &mut self.cells[id].slot {
                    let Some(at) = position(at, items.len()) else {
                        return Err(Fault::new(line, format!("the list has no item {at}")));
                    };
                    return Ok(items.remove(at));
                }
            }
            (false, "pop", &[key] | &[key, _]) => {
                let Slot::Str(key) = self.cells[key].slot.clone() else {
                    return usage("pop('key')");
                };
                if let Slot::Dict(entries) = &mut self.cells[id].slot {
                    let at = entries.iter().position(|(name, _)| *name == key);
                    return match (at, given.get(1)) {
                        (Some(at), _) => Ok(entries.remove(at).1),
                        (None, Some(&default)) => Ok(default),
                        (None, None) => Err(Fault::new(line, format!("the dict has no `{key}`"))),
                    };
                }
            }
            _ => {
                return Err(Fault::new(
                    line,
                    format!("`.{method}()` can't be used so here"),
                ));
            }
        }
        self.cell(Slot::None, line)
    }
}
