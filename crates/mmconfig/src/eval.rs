//! Statements to values.
//!
//! Lists and dicts are shared as in Python: what two names stand for changes for both. So values
//! live in cells that refer to each other by number, and become a tree at the end.

mod call;
mod tree;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::ast::{Entry, Expr, Item, Node, Operator, Statement};
use crate::error::Fault;
use crate::limits;
use crate::operate::{self, Number};
use crate::value::{Dict, Place, Value};

/// The number of a cell.
type Id = usize;

#[derive(Clone, Debug)]
enum Slot {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(String, Id)>),
}

struct Cell {
    slot: Slot,
    place: Place,
}

/// The state of a file that is being read.
pub(crate) struct Evaluator {
    file: Arc<Path>,
    cells: Vec<Cell>,
    names: Vec<(String, Id)>,
    read: BTreeSet<String>,
    base: Option<Dict>,
    /// Elements of lists and dicts made so far.
    elements: usize,
    /// Bytes of strings made so far.
    text: usize,
    /// Values of trees made so far.
    grown: usize,
}

/// What became of a file.
pub(crate) struct Outcome {
    /// Its names.
    pub(crate) names: Dict,
    /// Those that it read itself, so that they may be there for nothing else.
    pub(crate) read: BTreeSet<String>,
    /// The merged bases.
    pub(crate) base: Dict,
}

impl Evaluator {
    /// Nothing is assigned yet.
    pub(crate) fn new(file: Arc<Path>) -> Self {
        Evaluator {
            file,
            cells: Vec::new(),
            names: Vec::new(),
            read: BTreeSet::new(),
            base: None,
            elements: 0,
            text: 0,
            grown: 0,
        }
    }

    /// Says what `_base_` stands for.
    pub(crate) fn set_base(&mut self, base: Dict) {
        self.base = Some(base);
    }

    /// Whether a `_base_` has been given.
    pub(crate) fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The value of an expression as a tree.
    pub(crate) fn value(&mut self, expr: &Expr) -> Result<Value, Fault> {
        let id = self.eval(expr)?;
        self.tree(id, expr.line, 0)
    }

    /// What was assigned, all in all.
    pub(crate) fn finish(mut self) -> Result<Outcome, Fault> {
        let mut names = Dict::default();
        self.grown = 0;
        for (name, id) in std::mem::take(&mut self.names) {
            // As mmcv does.
            if !name.starts_with("__") {
                let line = self.cells[id].place.line;
                names.entries.push((name, self.tree(id, line, 0)?));
            }
        }
        Ok(Outcome {
            names,
            read: self.read,
            base: self.base.unwrap_or_default(),
        })
    }

    /// Runs a statement.
    pub(crate) fn run(&mut self, statement: &Statement) -> Result<(), Fault> {
        match statement {
            Statement::Assign(targets, value) => {
                let id = self.eval(value)?;
                for target in targets {
                    self.assign(target, id)?;
                }
            }
            Statement::Change(target, operator, value) => {
                let old = self.eval(target)?;
                let more = self.eval(value)?;
                // `list += list` changes the list itself.
                if let (Operator::Add, Slot::List(_)) = (operator, &self.cells[old].slot) {
                    let items = self.items(more, value.line)?;
                    return self.extend(old, &items, value.line);
                }
                let id = self.binary(*operator, old, more, target.line)?;
                self.assign(target, id)?;
            }
            Statement::Call(call) => {
                self.eval(call)?;
            }
            Statement::If(branches, otherwise) => {
                for (condition, block) in branches {
                    let id = self.eval(condition)?;
                    if self.truth(id) {
                        return block.iter().try_for_each(|s| self.run(s));
                    }
                }
                return otherwise.iter().try_for_each(|s| self.run(s));
            }
        }
        Ok(())
    }

    fn cell(&mut self, slot: Slot, line: usize) -> Result<Id, Fault> {
        let place = Place {
            file: self.file.clone(),
            line,
        };
        self.placed(slot, place, line)
    }

    fn placed(&mut self, slot: Slot, place: Place, line: usize) -> Result<Id, Fault> {
        match &slot {
            Slot::List(items) | Slot::Tuple(items) => self.elements += items.len(),
            Slot::Dict(entries) => self.elements += entries.len(),
            Slot::Str(text) => self.text += text.len(),
            _ => {}
        }
        if self.cells.len() >= limits::VALUES
            || self.elements > limits::VALUES
            || self.text > limits::TEXT_BYTES
        {
            return Err(too_large(line));
        }
        self.cells.push(Cell { slot, place });
        Ok(self.cells.len() - 1)
    }

    fn eval(&mut self, expr: &Expr) -> Result<Id, Fault> {
        let line = expr.line;
        let slot = match &expr.node {
            Node::None => Slot::None,
            Node::Bool(value) => Slot::Bool(*value),
            Node::Int(n) => Slot::Int(*n),
            Node::Float(x) => Slot::Float(*x),
            Node::Str(text) => Slot::Str(text.clone()),
            Node::Name(name) => return self.name(name, line),
            Node::Base(parts) => return self.of_base(parts, line),
            Node::List(items) => Slot::List(self.spread(items)?),
            Node::Tuple(items) => Slot::Tuple(self.spread(items)?),
            Node::Dict(entries) => self.dict_display(entries)?,
            Node::Call(callee, arguments) => return self.call(callee, arguments, line),
            Node::Attribute(object, name) => return self.attribute(object, name, line),
            Node::Subscript(object, index) => {
                let object = self.eval(object)?;
                let index = self.eval(index)?;
                return self.subscript(object, index, line);
            }
            Node::Negate(part) => {
                let id = self.eval(part)?;
                match self.cells[id].slot {
                    Slot::Int(n) => match n.checked_neg() {
                        Some(n) => Slot::Int(n),
                        None => return Err(Fault::new(line, "the result doesn't fit in 64 bits")),
                    },
                    Slot::Float(x) => Slot::Float(-x),
                    _ => return Err(Fault::new(line, "`-` needs a number")),
                }
            }
            Node::Not(part) => {
                let id = self.eval(part)?;
                Slot::Bool(!self.truth(id))
            }
            Node::Binary(operator, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                return self.binary(*operator, a, b, line);
            }
            Node::Compare(first, rest) => {
                let mut left = self.value(first)?;
                let mut holds = true;
                for (comparison, right) in rest {
                    let right = self.value(right)?;
                    holds = operate::compare(*comparison, &left, &right, line)?;
                    if !holds {
                        break;
                    }
                    left = right;
                }
                Slot::Bool(holds)
            }
            Node::And(parts) | Node::Or(parts) => {
                let all = matches!(expr.node, Node::And(_));
                let mut last = None;
                for part in parts {
                    let id = self.eval(part)?;
                    last = Some(id);
                    if self.truth(id) != all {
                        break;
                    }
                }
                match last {
                    Some(id) => return Ok(id),
                    None => Slot::None,
                }
            }
            Node::Choose(value, condition, other) => {
                let condition = self.eval(condition)?;
                return match self.truth(condition) {
                    true => self.eval(value),
                    false => self.eval(other),
                };
            }
        };
        self.cell(slot, line)
    }

    fn lookup(&self, name: &str) -> Option<Id> {
        let (_, id) = self.names.iter().find(|(known, _)| known == name)?;
        Some(*id)
    }

    fn name(&mut self, name: &str, line: usize) -> Result<Id, Fault> {
        if let Some(id) = self.lookup(name) {
            self.read.insert(name.to_string());
            return Ok(id);
        }
        let in_base = (self.base.as_ref()).is_some_and(|base| base.get(name).is_some());
        let more = match in_base {
            true => format!("; a base's name is written {{{{_base_.{name}}}}}"),
            false => String::new(),
        };
        Err(Fault::new(
            line,
            format!("`{name}` has no value: no line above assigns it{more}"),
        ))
    }

    fn truth(&self, id: Id) -> bool {
        match &self.cells[id].slot {
            Slot::None => false,
            Slot::Bool(value) => *value,
            Slot::Int(n) => *n != 0,
            Slot::Float(x) => *x != 0.0,
            Slot::Str(text) => !text.is_empty(),
            Slot::List(items) | Slot::Tuple(items) => !items.is_empty(),
            Slot::Dict(entries) => !entries.is_empty(),
        }
    }

    /// What a `*` or a method goes through.
    fn items(&mut self, id: Id, line: usize) -> Result<Vec<Id>, Fault> {
        match &self.cells[id].slot {
            Slot::List(items) | Slot::Tuple(items) => {
                // Counted here, before they are copied anywhere.
                self.elements += items.len();
                match self.elements > limits::VALUES {
                    true => Err(too_large(line)),
                    false => Ok(items.clone()),
                }
            }
            _ => Err(Fault::new(line, "a list is needed here")),
        }
    }

    fn entries(&mut self, id: Id, line: usize) -> Result<Vec<(String, Id)>, Fault> {
        match &self.cells[id].slot {
            Slot::Dict(entries) => {
                self.elements += entries.len();
                match self.elements > limits::VALUES {
                    true => Err(too_large(line)),
                    false => Ok(entries.clone()),
                }
            }
            _ => Err(Fault::new(line, "a dict is needed here")),
        }
    }

    fn spread(&mut self, items: &[Item]) -> Result<Vec<Id>, Fault> {
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::One(expr) => ids.push(self.eval(expr)?),
                Item::Spread(expr) => {
                    let id = self.eval(expr)?;
                    ids.extend(self.items(id, expr.line)?);
                }
            }
        }
        Ok(ids)
    }

    fn key(&mut self, expr: &Expr) -> Result<String, Fault> {
        let id = self.eval(expr)?;
        match &self.cells[id].slot {
            Slot::Str(text) => Ok(text.clone()),
            _ => Err(Fault::not_understood(
                expr.line,
                "a dict's key that is no string",
            )),
        }
    }

    fn dict_display(&mut self, parts: &[Entry]) -> Result<Slot, Fault> {
        let mut entries = Vec::new();
        for part in parts {
            match part {
                Entry::Pair(key, value) => {
                    let name = self.key(key)?;
                    let id = self.eval(value)?;
                    put(&mut entries, name, id, key.line)?;
                }
                Entry::Spread(expr) => {
                    let id = self.eval(expr)?;
                    for (name, id) in self.entries(id, expr.line)? {
                        put(&mut entries, name, id, expr.line)?;
                    }
                }
            }
        }
        Ok(Slot::Dict(entries))
    }

    fn extend(&mut self, list: Id, more: &[Id], line: usize) -> Result<(), Fault> {
        self.elements += more.len();
        if self.elements > limits::VALUES {
            return Err(too_large(line));
        }
        if let Slot::List(items) = &mut self.cells[list].slot {
            items.extend_from_slice(more);
        }
        Ok(())
    }

    fn set(&mut self, dict: Id, name: String, value: Id, line: usize) -> Result<(), Fault> {
        match &mut self.cells[dict].slot {
            Slot::Dict(entries) => put(entries, name, value, line),
            _ => Err(Fault::new(line, "a dict is needed here")),
        }
    }

    fn attribute(&mut self, object: &Expr, name: &str, line: usize) -> Result<Id, Fault> {
        // `_base_.a.b`, as mmengine reads it.
        let mut parts = vec![name.to_string()];
        let mut at = object;
        while let Node::Attribute(inner, part) = &at.node {
            parts.push(part.clone());
            at = inner;
        }
        if matches!(&at.node, Node::Name(root) if root == "_base_") {
            parts.reverse();
            return self.of_base(&parts, line);
        }
        Err(Fault::new(
            line,
            format!("`.{name}` isn't understood: a dict has keys here; write ['{name}']"),
        ))
    }

    fn subscript(&mut self, object: Id, index: Id, line: usize) -> Result<Id, Fault> {
        match (&self.cells[object].slot, &self.cells[index].slot) {
            (Slot::Dict(entries), Slot::Str(key)) => {
                let found = entries.iter().find(|(name, _)| name == key);
                let missing = || Fault::new(line, format!("the dict has no `{key}`"));
                Ok(found.ok_or_else(missing)?.1)
            }
            (Slot::List(items) | Slot::Tuple(items), &Slot::Int(at)) => {
                let missing = || Fault::new(line, format!("the list has no item {at}"));
                position(at, items.len())
                    .map(|at| items[at])
                    .ok_or_else(missing)
            }
            _ => Err(Fault::not_understood(line, "this use of `[...]`")),
        }
    }

    fn assign(&mut self, target: &Expr, id: Id) -> Result<(), Fault> {
        let line = target.line;
        match &target.node {
            Node::Name(name) if name == "_base_" => Err(Fault::new(
                line,
                "`_base_` is assigned once, by itself, outside of any `if`",
            )),
            Node::Name(name) => put(&mut self.names, name.clone(), id, line),
            Node::Subscript(object, index) => {
                let object = self.eval(object)?;
                let at = self.eval(index)?;
                let at = self.cells[at].slot.clone();
                match (&mut self.cells[object].slot, at) {
                    (Slot::Dict(entries), Slot::Str(key)) => put(entries, key, id, line),
                    (Slot::List(items), Slot::Int(at)) => {
                        let missing = || Fault::new(line, format!("the list has no item {at}"));
                        let at = position(at, items.len()).ok_or_else(missing)?;
                        items[at] = id;
                        Ok(())
                    }
                    _ => Err(Fault::not_understood(line, "this use of `[...]`")),
                }
            }
            Node::Tuple(targets) | Node::List(targets) => {
                let values = self.items(id, line)?;
                if values.len() != targets.len() {
                    return Err(Fault::new(
                        line,
                        format!("{} values for {} names", values.len(), targets.len()),
                    ));
                }
                for (target, value) in targets.iter().zip(values) {
                    let Item::One(target) = target else {
                        return Err(Fault::not_understood(line, "`*` on the left of `=`"));
                    };
                    self.assign(target, value)?;
                }
                Ok(())
            }
            Node::Attribute(_, name) => Err(Fault::new(
                line,
                format!("`.{name} = ...` isn't understood: a dict has keys here; write ['{name}']"),
            )),
            _ => Err(Fault::new(line, "this can't be assigned to")),
        }
    }

    fn binary(&mut self, operator: Operator, a: Id, b: Id, line: usize) -> Result<Id, Fault> {
        let number = |slot: &Slot| match slot {
            Slot::Int(n) => Some(Number::Int(*n)),
            Slot::Float(x) => Some(Number::Float(*x)),
            _ => None,
        };
        let (left, right) = (&self.cells[a].slot, &self.cells[b].slot);
        if let (Some(a), Some(b)) = (number(left), number(right)) {
            let slot = match operate::arithmetic(operator, a, b, line)? {
                Number::Int(n) => Slot::Int(n),
                Number::Float(x) => Slot::Float(x),
            };
            return self.cell(slot, line);
        }
        let slot = match (operator, left, right) {
            (Operator::Add, Slot::Str(a), Slot::Str(b)) => {
                if self.text + a.len() + b.len() > limits::TEXT_BYTES {
                    return Err(too_large(line));
                }
                Slot::Str(format!("{a}{b}"))
            }
            (Operator::Add, Slot::List(_), Slot::List(_))
            | (Operator::Add, Slot::Tuple(_), Slot::Tuple(_)) => {
                let is_list = matches!(left, Slot::List(_));
                let mut items = self.items(a, line)?;
                items.extend(self.items(b, line)?);
                match is_list {
                    true => Slot::List(items),
                    false => Slot::Tuple(items),
                }
            }
            (Operator::Multiply, Slot::List(_) | Slot::Tuple(_), &Slot::Int(times)) => {
                let is_list = matches!(left, Slot::List(_));
                let items = self.items(a, line)?;
                let times = usize::try_from(times).unwrap_or(0);
                if items.len().saturating_mul(times) > limits::VALUES {
                    return Err(too_large(line));
                }
                match is_list {
                    true => Slot::List(items.repeat(times)),
                    false => Slot::Tuple(items.repeat(times)),
                }
            }
            _ => return Err(Fault::not_understood(line, "this calculation")),
        };
        self.cell(slot, line)
    }
}

/// Gives `name` the value, in its old place if it had one.
fn put(entries: &mut Vec<(String, Id)>, name: String, value: Id, line: usize) -> Result<(), Fault> {
    if let Some((_, old)) = entries.iter_mut().find(|(known, _)| *known == name) {
        *old = value;
    } else if entries.len() < limits::ENTRIES {
        entries.push((name, value));
    } else {
        return Err(too_large(line));
    }
    Ok(())
}

/// The item that Python's index `at` means in a list of this length.
fn position(at: i64, length: usize) -> Option<usize> {
    let at = match at < 0 {
        true => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?)?,
        false => usize::try_from(at).ok()?,
    };
    (at < length).then_some(at)
}

fn too_large(line: usize) -> Fault {
    Fault::new(
        line,
        "the values are too many or too long to be a configuration",
    )
}
