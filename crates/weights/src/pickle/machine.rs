//! The stack machine.

use std::collections::HashMap;

use super::calls::{self, Refusal};
use super::value::{Graph, Id, Node, Object};

/// How large a pickle may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Values it may hold.
    pub values: usize,
    /// Bytes that all its texts, lists and the stack may take. (Every value costs a byte of the
    /// pickle, but a short pickle can copy a long list many times.)
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            values: 4_000_000,
            bytes: 256 << 20,
        }
    }
}

/// Why a pickle can't be read.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It goes on after the bytes there are.
    Short,
    /// It is no pickle, or one that can't be used: what is wrong.
    Bad(String),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Ended::Bad(refusal)
    }
}

/// Reads the pickle at the start of `bytes`; also returns its length.
pub(crate) fn parse(bytes: &[u8], limits: Limits) -> Result<(Graph, usize), Ended> {
    let mut machine = Machine {
        bytes,
        at: 0,
        graph: Graph::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        spent: 0,
        limits,
    };
    while !machine.step()? {}
    let root = machine.pop()?;
    machine.graph.root = root;
    Ok((machine.graph, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    graph: Graph,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Bytes of texts and lists so far.
    spent: usize,
    limits: Limits,
}

fn bad<T>(what: impl Into<String>) -> Result<T, Ended> {
    Err(Ended::Bad(what.into()))
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Ended> {
        let end = self
            .at
            .checked_add(count)
            .filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(Ended::Short)?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Ended> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| Ended::Short)
    }

    fn byte(&mut self) -> Result<u8, Ended> {
        Ok(self.array::<1>()?[0])
    }

    fn word(&mut self) -> Result<u32, Ended> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn long_word(&mut self) -> Result<usize, Ended> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| Ended::Short)
    }

    /// Up to the end of the line, without it.
    fn line(&mut self) -> Result<&'a str, Ended> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or(Ended::Short)?;
        self.at += length + 1;
        let line = std::str::from_utf8(&rest[..length]);
        line.map_err(|_| Ended::Bad("a line that is no text".into()))
    }

    fn number<T: std::str::FromStr>(line: &str) -> Result<T, Ended> {
        let number = line.trim().parse();
        number.map_err(|_| Ended::Bad("a number that isn't one".into()))
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Ended> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.limits.bytes {
            return bad(format!(
                "texts and lists of more than {} MiB; weights need a small part of that",
                self.limits.bytes >> 20
            ));
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<Id, Ended> {
        if self.graph.nodes.len() >= self.limits.values {
            return bad(format!("more than {} values", self.limits.values));
        }
        self.spend(match &node {
            Node::Text(text) => text.len(),
            Node::Global(name) => name.len(),
            Node::Bytes(bytes) | Node::Big(bytes) => bytes.len(),
            Node::Tuple(items) | Node::List(items) => 4 * items.len(),
            Node::Dict(items) => 8 * items.len(),
            Node::Storage(storage) => 64 + storage.key.len(),
            Node::Tensor(tensor) => 128 + 16 * tensor.shape.len() + tensor.storage.key.len(),
            Node::Object(object) => 48 + object.class.len() + 4 * object.args.len(),
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) => 0,
        })?;
        self.graph.nodes.push(node);
        Ok(self.graph.nodes.len() as Id - 1)
    }

    fn push(&mut self, node: Node) -> Result<(), Ended> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// Takes the top of the stack, which no mark may lie on.
    fn pop(&mut self) -> Result<Id, Ended> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(id) if self.stack.len() >= floor => Ok(id),
            _ => bad("it takes from an empty stack"),
        }
    }

    fn top(&self) -> Result<Id, Ended> {
        match self.stack.last() {
            Some(&id) => Ok(id),
            None => bad("it looks at an empty stack"),
        }
    }

    /// Takes all above the last mark, and the mark.
    fn since_mark(&mut self) -> Result<Vec<Id>, Ended> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => bad("it goes back to a mark that isn't there"),
        }
    }

    fn node(&mut self, id: Id) -> &mut Node {
        &mut self.graph.nodes[id as usize]
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        // Python may write lone surrogates, which matter to nothing here.
        self.push(Node::Text(String::from_utf8_lossy(bytes).into()))
    }

    fn tuple(&mut self, count: usize) -> Result<(), Ended> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn recall(&mut self, key: u32) -> Result<(), Ended> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.spend(4)?;
                self.stack.push(id);
                Ok(())
            }
            None => bad("it recalls what it hasn't kept"),
        }
    }

    fn keep(&mut self, key: u32) -> Result<(), Ended> {
        let id = self.top()?;
        self.spend(16)?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn long(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        if bytes.len() > 8 {
            return self.push(Node::Big(bytes.into()));
        }
        let negative = bytes.last().is_some_and(|&b| b >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn extend(&mut self, id: Id, more: &[Id]) -> Result<(), Ended> {
        self.spend(4 * more.len())?;
        match self.node(id) {
            Node::List(items) => items.extend(more),
            // What an unknown container holds is left out: nothing asks for it.
            Node::Object(_) => {}
            _ => return bad("it appends to something that isn't a list"),
        }
        Ok(())
    }

    fn set(&mut self, id: Id, items: &[Id]) -> Result<(), Ended> {
        if !items.len().is_multiple_of(2) {
            return bad("a key of a dict without a value");
        }
        self.spend(4 * items.len())?;
        match self.node(id) {
            Node::Dict(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Node::Object(_) => {}
            _ => return bad("it sets an item of something that isn't a dict"),
        }
        Ok(())
    }

    /// The name that would be called.
    fn callable(&self, id: Id) -> Result<&str, Ended> {
        let name = match &self.graph.nodes[id as usize] {
            Node::Global(name) => name,
            // The result of a call, called: as good as the first.
            Node::Object(object) => &object.class,
            _ => return bad("it calls something that has no name"),
        };
        if calls::runs_code(name) {
            return bad(format!(
                "calls {name}; weights have no use for that, so the file is refused (nothing in \
                 it was executed)"
            ));
        }
        Ok(name)
    }

    fn call(&mut self, callable: Id, args: Id) -> Result<(), Ended> {
        let Node::Tuple(args) = &self.graph.nodes[args as usize] else {
            return bad("a call without a tuple of arguments");
        };
        let name = self.callable(callable)?;
        let node = match name {
            // `_reconstructor(class, base, state)`, `__newobj__(class, ...)`: an empty object.
            "copyreg._reconstructor"
            | "copy_reg._reconstructor"
            | "copyreg.__newobj__"
            | "copy_reg.__newobj__" => match args.split_first() {
                Some((&class, rest)) => return self.make(class, rest.to_vec()),
                None => return bad("an object without a class"),
            },
            _ => calls::reduce(&self.graph, name, args)?,
        };
        self.push(node)
    }

    /// An object of a class, before its state is set.
    fn make(&mut self, class: Id, args: Vec<Id>) -> Result<(), Ended> {
        let class = self.callable(class)?;
        let node = match class {
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" => {
                Node::Dict(Vec::new())
            }
            _ => Node::Object(Box::new(Object {
                class: class.into(),
                args,
                state: None,
            })),
        };
        self.push(node)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Ended> {
        self.push(Node::Global(format!("{module}.{name}").into()))
    }

    /// Carries out one instruction; true at the last.
    fn step(&mut self) -> Result<bool, Ended> {
        match self.byte()? {
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // POP takes a mark where one lies on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.since_mark()?),
            b'2' => {
                let id = self.top()?;
                self.spend(4)?;
                self.stack.push(id);
            }
            0x80 => {
                let version = self.byte()?;
                if version > 5 {
                    return bad(format!(
                        "a pickle of protocol {version}; 5 is the last known"
                    ));
                }
            }
            0x95 => drop(self.take(8)?),

            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => match self.line()? {
                "00" => self.push(Node::Bool(false))?,
                "01" => self.push(Node::Bool(true))?,
                line => self.push(Node::Int(Self::number(line)?))?,
            },
            b'L' => {
                let line = self.line()?;
                let line = line.strip_suffix('L').unwrap_or(line);
                match line.parse() {
                    Ok(value) => self.push(Node::Int(value))?,
                    Err(_) => self.push(Node::Big(line.as_bytes().into()))?,
                }
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            0x8a => {
                let count = self.byte()?.into();
                let bytes = self.take(count)?;
                self.long(bytes)?;
            }
            0x8b => {
                let count = self.word()? as usize;
                let bytes = self.take(count)?;
                self.long(bytes)?;
            }
            b'F' => {
                let value = Self::number(self.line()?)?;
                self.push(Node::Float(value))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value))?;
            }

            b'S' => {
                let line = self.line()?.trim();
                let quoted = ['\'', '"'].iter().find_map(|&quote| {
                    line.strip_prefix(quote)
                        .and_then(|rest| rest.strip_suffix(quote))
                });
                match quoted {
                    Some(text) => self.text(text.as_bytes())?,
                    None => return bad("a text without its quotes"),
                }
            }
            b'V' => {
                let line = self.line()?;
                self.text(line.as_bytes())?;
            }
            b'T' | b'X' => {
                let count = self.word()? as usize;
                let bytes = self.take(count)?;
                self.text(bytes)?;
            }
            b'U' | 0x8c => {
                let count = self.byte()?.into();
                let bytes = self.take(count)?;
                self.text(bytes)?;
            }
            0x8d => {
                let count = self.long_word()?;
                let bytes = self.take(count)?;
                self.text(bytes)?;
            }
            b'B' => {
                let count = self.word()? as usize;
                let bytes = self.take(count)?;
                self.push(Node::Bytes(bytes.into()))?;
            }
            b'C' => {
                let count = self.byte()?.into();
                let bytes = self.take(count)?;
                self.push(Node::Bytes(bytes.into()))?;
            }
            0x8e | 0x96 => {
                let count = self.long_word()?;
                let bytes = self.take(count)?;
                self.push(Node::Bytes(bytes.into()))?;
            }

            b')' => self.push(Node::Tuple(Vec::new()))?,
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items))?;
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b']' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'l' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                let list = self.top()?;
                self.extend(list, &[item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                let list = self.top()?;
                self.extend(list, &items)?;
            }
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'd' => {
                let items = self.since_mark()?;
                self.push(Node::Dict(Vec::new()))?;
                let dict = self.top()?;
                self.set(dict, &items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                let dict = self.top()?;
                self.set(dict, &[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                let dict = self.top()?;
                self.set(dict, &items)?;
            }

            b'p' => {
                let key = Self::number(self.line()?)?;
                self.keep(key)?;
            }
            b'q' => {
                let key = self.byte()?.into();
                self.keep(key)?;
            }
            b'r' => {
                let key = self.word()?;
                self.keep(key)?;
            }
            0x94 => {
                let key = self.memo.len() as u32;
                self.keep(key)?;
            }
            b'g' => {
                let key = Self::number(self.line()?)?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = self.word()?;
                self.recall(key)?;
            }

            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let nodes = &self.graph.nodes;
                let (Node::Text(module), Node::Text(name)) =
                    (&nodes[module as usize], &nodes[name as usize])
                else {
                    return bad("a name that is no text");
                };
                let (module, name) = (module.to_string(), name.to_string());
                self.global(&module, &name)?;
            }
            b'R' => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                let args = match self.node(args) {
                    Node::Tuple(args) => args.clone(),
                    _ => return bad("an object without a tuple of arguments"),
                };
                self.make(class, args)?;
            }
            0x92 => {
                let (named, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.make(class, vec![args, named])?;
            }
            b'i' => {
                let module = self.line()?;
                let name = self.line()?;
                let args = self.since_mark()?;
                self.global(module, name)?;
                let class = self.pop()?;
                self.make(class, args)?;
            }
            b'o' => {
                let mut args = self.since_mark()?;
                if args.is_empty() {
                    return bad("an object without a class");
                }
                let class = args.remove(0);
                self.make(class, args)?;
            }
            b'b' => {
                let state = self.pop()?;
                let id = self.top()?;
                // A state's attributes are data, whatever they would be set on: an ordered dict's
                // `_metadata`, for example, which nothing asks for.
                if let Node::Object(object) = self.node(id) {
                    object.state = Some(state);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let node = calls::persistent(&self.graph, id)?;
                self.push(node)?;
            }
            b'P' => return bad("a persistent id in text, which PyTorch doesn't write"),
            0x82..=0x84 => return bad("an extension code, which has no meaning in a file"),
            0x97 | 0x98 => return bad("a buffer outside the file"),
            other => return bad(format!("the byte {other:#04x}, which is no instruction")),
        }
        Ok(false)
    }
}
