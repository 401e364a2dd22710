//! A file as it is written, before names mean anything.

/// An expression, and the line it begins on.
#[derive(Debug)]
pub(crate) struct Expr {
    pub(crate) line: usize,
    pub(crate) node: Node,
    /// Levels of expressions in it, this one included.
    pub(crate) height: usize,
}

impl Expr {
    pub(crate) fn new(line: usize, node: Node) -> Self {
        let height = 1 + node.height();
        Expr { line, node, height }
    }
}

impl Node {
    /// The greatest height of its parts; 0 if there are none.
    fn height(&self) -> usize {
        let highest = |parts: &mut dyn Iterator<Item = &Expr>| parts.map(|p| p.height).max();
        let parts = match self {
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) => None,
            Node::Str(_) | Node::Name(_) | Node::Base(_) => None,
            Node::List(items) | Node::Tuple(items) => highest(&mut items.iter().map(Item::expr)),
            Node::Dict(entries) => highest(&mut entries.iter().flat_map(|entry| match entry {
                Entry::Pair(key, value) => [Some(key), Some(value)].into_iter().flatten(),
                Entry::Spread(dict) => [Some(dict), None].into_iter().flatten(),
            })),
            Node::Call(callee, arguments) => {
                let arguments = arguments.iter().map(Argument::expr);
                highest(&mut arguments.chain([callee.as_ref()]))
            }
            Node::Attribute(part, _) | Node::Negate(part) | Node::Not(part) => Some(part.height),
            Node::Subscript(a, b) | Node::Binary(_, a, b) => Some(a.height.max(b.height)),
            Node::Compare(first, rest) => {
                highest(&mut rest.iter().map(|(_, e)| e).chain([first.as_ref()]))
            }
            Node::And(parts) | Node::Or(parts) => highest(&mut parts.iter()),
            Node::Choose(a, b, c) => Some(a.height.max(b.height).max(c.height)),
        };
        parts.unwrap_or(0)
    }
}

#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Name(String),
    /// `{{_base_.a.b}}`: the parts after `_base_`.
    Base(Vec<String>),
    List(Vec<Item>),
    Tuple(Vec<Item>),
    Dict(Vec<Entry>),
    Call(Box<Expr>, Vec<Argument>),
    Attribute(Box<Expr>, String),
    Subscript(Box<Expr>, Box<Expr>),
    Negate(Box<Expr>),
    Not(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// The first that is false, else the last.
    And(Vec<Expr>),
    /// The first that is true, else the last.
    Or(Vec<Expr>),
    /// `value if condition else other`, in that order.
    Choose(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// A part of a list or tuple.
#[derive(Debug)]
pub(crate) enum Item {
    One(Expr),
    /// `*list`.
    Spread(Expr),
}

impl Item {
    fn expr(&self) -> &Expr {
        match self {
            Item::One(expr) | Item::Spread(expr) => expr,
        }
    }
}

/// A part of `{...}`.
#[derive(Debug)]
pub(crate) enum Entry {
    Pair(Expr, Expr),
    /// `**dict`.
    Spread(Expr),
}

/// A part of a call.
#[derive(Debug)]
pub(crate) enum Argument {
    Positional(Expr),
    Named(String, Expr),
    /// `*list`.
    Items(Expr),
    /// `**dict`.
    Entries(Expr),
}

impl Argument {
    fn expr(&self) -> &Expr {
        match self {
            Argument::Positional(expr)
            | Argument::Named(_, expr)
            | Argument::Items(expr)
            | Argument::Entries(expr) => expr,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
    Is,
    IsNot,
}

/// A statement.
#[derive(Debug)]
pub(crate) enum Statement {
    /// `a = b = value`: the targets, then the value.
    Assign(Vec<Expr>, Expr),
    /// `target += value`.
    Change(Expr, Operator, Expr),
    /// An expression for its effect: a call of a list's or dict's method.
    Call(Expr),
    /// Condition and block of `if` and of each `elif`; then that of `else`.
    If(Vec<(Expr, Vec<Statement>)>, Vec<Statement>),
}
