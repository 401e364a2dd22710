//! Tokens to statements: the part of Python's grammar
//! (<https://docs.python.org/3/reference/grammar.html>) that configuration files use. The rest is
//! recognised as far as needed to say what it is.

use crate::ast::{Argument, Comparison, Entry, Expr, Item, Node, Operator, Statement};
use crate::error::Fault;
use crate::lex::{Token, TokenKind, shown};
use crate::limits;

/// Statements that do something, by their first word.
const ACTIONS: [&str; 23] = [
    "import", "from", "for", "while", "def", "class", "try", "with", "assert", "del", "return",
    "raise", "global", "nonlocal", "async", "await", "yield", "break", "continue", "except",
    "finally", "lambda", "exec",
];

/// Words that can't be names.
const KEYWORDS: [&str; 11] = [
    "and", "or", "not", "in", "is", "if", "elif", "else", "pass", "as", "lambda",
];

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    source: Vec<&'a str>,
}

/// The statements of a file, from its tokens and its text.
pub(crate) fn parse(tokens: &[Token], text: &str) -> Result<Vec<Statement>, Fault> {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        source: text.split('\n').collect(),
    };
    parser.block(&TokenKind::End)
}

impl Parser<'_> {
    fn kind(&self) -> &TokenKind {
        self.tokens
            .get(self.at)
            .map_or(&TokenKind::End, |t| &t.kind)
    }

    fn line(&self) -> usize {
        // The last token is `End`, which is never passed.
        self.tokens.get(self.at).map_or(1, |t| t.line)
    }

    fn next(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.kind(), TokenKind::Symbol(s) if *s == symbol)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.kind(), TokenKind::Name(name) if name == word)
    }

    /// Passes the symbol if it is there.
    fn accept(&mut self, symbol: &str) -> bool {
        let there = self.is(symbol);
        if there {
            self.next();
        }
        there
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        if there {
            self.next();
        }
        there
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Fault> {
        if self.accept(symbol) {
            return Ok(());
        }
        Err(self.unexpected(&format!("; `{symbol}` was expected")))
    }

    /// The present token can't stand here.
    fn unexpected(&self, more: &str) -> Fault {
        let what = match self.kind() {
            TokenKind::Name(name) => format!("`{}` has no meaning here", shown(name)),
            TokenKind::Int(n) => format!("the number {n} has no meaning here"),
            TokenKind::Float(x) => format!("the number {x} has no meaning here"),
            TokenKind::Str(_) => "a string has no meaning here".to_string(),
            TokenKind::Base(_) => "`{{_base_...}}` has no meaning here".to_string(),
            TokenKind::Symbol(s) => format!("`{s}` has no meaning here"),
            TokenKind::Newline => "the line ends too early".to_string(),
            TokenKind::Indent => "the line is indented without a reason".to_string(),
            TokenKind::Dedent => "the block ends too early".to_string(),
            TokenKind::End => "the file ends too early".to_string(),
        };
        Fault::new(self.line(), format!("{what}{more}"))
    }

    fn not_understood(&self, line: usize) -> Fault {
        let source = self.source.get(line.saturating_sub(1)).unwrap_or(&"");
        Fault::not_understood(line, format_args!("`{}`", shown(source)))
    }

    /// One level further in.
    fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > 2 * limits::DEPTH {
            return Err(too_deep(self.line()));
        }
        Ok(())
    }

    fn build(&self, line: usize, node: Node) -> Result<Expr, Fault> {
        let expr = Expr::new(line, node);
        if expr.height > limits::DEPTH {
            return Err(too_deep(line));
        }
        Ok(expr)
    }

    /// Statements up to `end`, which is passed.
    fn block(&mut self, end: &TokenKind) -> Result<Vec<Statement>, Fault> {
        let mut statements = Vec::new();
        while self.kind() != end {
            self.statement(&mut statements)?;
        }
        self.next();
        Ok(statements)
    }

    fn statement(&mut self, out: &mut Vec<Statement>) -> Result<(), Fault> {
        if self.accept_word("if") {
            out.push(self.condition()?);
            return Ok(());
        }
        loop {
            self.simple(out)?;
            if !self.accept(";") || *self.kind() == TokenKind::Newline {
                break;
            }
        }
        if *self.kind() != TokenKind::Newline {
            return Err(self.unexpected("; a statement ends with its line"));
        }
        self.next();
        Ok(())
    }

    /// What follows `if`.
    fn condition(&mut self) -> Result<Statement, Fault> {
        let mut branches = vec![(self.expression()?, self.suite()?)];
        while self.accept_word("elif") {
            branches.push((self.expression()?, self.suite()?));
        }
        let otherwise = match self.accept_word("else") {
            true => self.suite()?,
            false => Vec::new(),
        };
        Ok(Statement::If(branches, otherwise))
    }

    /// A colon, and statements on the same line or in an indented block.
    fn suite(&mut self) -> Result<Vec<Statement>, Fault> {
        self.expect(":")?;
        if *self.kind() != TokenKind::Newline {
            let mut statements = Vec::new();
            if self.is_word("if") {
                return Err(self.unexpected(""));
            }
            self.statement(&mut statements)?;
            return Ok(statements);
        }
        self.next();
        if *self.kind() != TokenKind::Indent {
            return Err(self.unexpected("; an indented block was expected"));
        }
        self.next();
        self.block(&TokenKind::Dedent)
    }

    fn simple(&mut self, out: &mut Vec<Statement>) -> Result<(), Fault> {
        let line = self.line();
        if let TokenKind::Name(word) = self.kind()
            && ACTIONS.contains(&word.as_str())
        {
            return Err(self.not_understood(line));
        }
        if self.is("@") {
            return Err(self.not_understood(line));
        }
        if self.accept_word("pass") {
            return Ok(());
        }
        let first = self.expressions()?;
        if self.is("=") {
            let mut targets = Vec::new();
            let mut value = first;
            while self.accept("=") {
                targets.push(value);
                value = self.expressions()?;
            }
            out.push(Statement::Assign(targets, value));
            return Ok(());
        }
        let operator = match self.kind() {
            TokenKind::Symbol("+=") => Operator::Add,
            TokenKind::Symbol("-=") => Operator::Subtract,
            TokenKind::Symbol("*=") => Operator::Multiply,
            TokenKind::Symbol("/=") => Operator::Divide,
            TokenKind::Symbol("//=") => Operator::FloorDivide,
            TokenKind::Symbol("%=") => Operator::Modulo,
            TokenKind::Symbol("**=") => Operator::Power,
            TokenKind::Symbol(":" | "@=" | "&=" | "|=" | "^=" | "<<=" | ">>=" | ":=") => {
                return Err(self.not_understood(line));
            }
            _ => {
                match first.node {
                    // A text that stands by itself is a comment.
                    Node::Str(_) => {}
                    Node::Call(..) => out.push(Statement::Call(first)),
                    _ if *self.kind() == TokenKind::Newline => {
                        return Err(Fault::new(
                            line,
                            "the line assigns nothing; write name = value",
                        ));
                    }
                    _ => return Err(self.unexpected("")),
                }
                return Ok(());
            }
        };
        self.next();
        let value = self.expressions()?;
        out.push(Statement::Change(first, operator, value));
        Ok(())
    }

    /// One expression, or a tuple without parentheses.
    fn expressions(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if self.is("*") {
            return Err(self.not_understood(line));
        }
        let first = self.expression()?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut items = vec![Item::One(first)];
        while self.accept(",") {
            if matches!(
                self.kind(),
                TokenKind::Newline | TokenKind::Symbol("=" | ";")
            ) {
                break;
            }
            items.push(Item::One(self.expression()?));
        }
        self.build(line, Node::Tuple(items))
    }

    fn expression(&mut self) -> Result<Expr, Fault> {
        self.enter()?;
        let line = self.line();
        let mut expr = self.or()?;
        if self.accept_word("if") {
            let condition = self.or()?;
            if !self.accept_word("else") {
                return Err(self.unexpected("; `else` was expected"));
            }
            let other = self.expression()?;
            let node = Node::Choose(Box::new(expr), Box::new(condition), Box::new(other));
            expr = self.build(line, node)?;
        }
        self.depth -= 1;
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let mut parts = vec![self.and()?];
        while self.accept_word("or") {
            parts.push(self.and()?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => self.build(line, Node::Or(parts)),
        }
    }

    fn and(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let mut parts = vec![self.not()?];
        while self.accept_word("and") {
            parts.push(self.not()?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => self.build(line, Node::And(parts)),
        }
    }

    fn not(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if !self.accept_word("not") {
            return self.comparison();
        }
        self.enter()?;
        let part = self.not()?;
        self.depth -= 1;
        self.build(line, Node::Not(Box::new(part)))
    }

    fn comparison(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let first = self.binary(1)?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.kind() {
                TokenKind::Symbol("==") => Comparison::Equal,
                TokenKind::Symbol("!=") => Comparison::NotEqual,
                TokenKind::Symbol("<") => Comparison::Less,
                TokenKind::Symbol("<=") => Comparison::LessEqual,
                TokenKind::Symbol(">") => Comparison::Greater,
                TokenKind::Symbol(">=") => Comparison::GreaterEqual,
                TokenKind::Name(word) if word == "in" => Comparison::In,
                TokenKind::Name(word) if word == "is" => Comparison::Is,
                TokenKind::Name(word) if word == "not" => Comparison::NotIn,
                _ => break,
            };
            self.next();
            let operator = match operator {
                Comparison::NotIn if !self.accept_word("in") => {
                    return Err(self.unexpected("; `in` was expected"));
                }
                Comparison::Is if self.accept_word("not") => Comparison::IsNot,
                operator => operator,
            };
            rest.push((operator, self.binary(1)?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => self.build(line, Node::Compare(Box::new(first), rest)),
        }
    }

    /// Sums (level 1) and products (level 2), from the left.
    fn binary(&mut self, level: usize) -> Result<Expr, Fault> {
        if level > 2 {
            return self.sign();
        }
        let line = self.line();
        let mut left = self.binary(level + 1)?;
        loop {
            let operator = match self.kind() {
                TokenKind::Symbol("+") if level == 1 => Operator::Add,
                TokenKind::Symbol("-") if level == 1 => Operator::Subtract,
                TokenKind::Symbol("*") if level == 2 => Operator::Multiply,
                TokenKind::Symbol("/") if level == 2 => Operator::Divide,
                TokenKind::Symbol("//") if level == 2 => Operator::FloorDivide,
                TokenKind::Symbol("%") if level == 2 => Operator::Modulo,
                TokenKind::Symbol(s @ ("<<" | ">>" | "&" | "|" | "^" | "@")) => {
                    let what = format_args!("the operator `{s}`");
                    return Err(Fault::not_understood(self.line(), what));
                }
                _ => return Ok(left),
            };
            self.next();
            let right = self.binary(level + 1)?;
            let node = Node::Binary(operator, Box::new(left), Box::new(right));
            left = self.build(line, node)?;
        }
    }

    fn sign(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if self.is("~") {
            return Err(Fault::not_understood(line, "the operator `~`"));
        }
        if !self.is("-") && !self.is("+") {
            return self.power();
        }
        let negate = self.is("-");
        self.next();
        self.enter()?;
        let part = self.sign()?;
        self.depth -= 1;
        match negate {
            true => self.build(line, Node::Negate(Box::new(part))),
            false => Ok(part),
        }
    }

    /// `a ** b`, which binds closer than a sign on its left, and less than one on its right.
    fn power(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let base = self.postfix()?;
        if !self.accept("**") {
            return Ok(base);
        }
        self.enter()?;
        let exponent = self.sign()?;
        self.depth -= 1;
        let node = Node::Binary(Operator::Power, Box::new(base), Box::new(exponent));
        self.build(line, node)
    }

    fn postfix(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let mut expr = self.atom()?;
        loop {
            let node = if self.accept("(") {
                Node::Call(Box::new(expr), self.arguments()?)
            } else if self.accept("[") {
                if self.is(":") {
                    return Err(Fault::not_understood(self.line(), "a slice `[:]`"));
                }
                let index = self.expressions()?;
                if self.is(":") {
                    return Err(Fault::not_understood(self.line(), "a slice `[:]`"));
                }
                self.expect("]")?;
                Node::Subscript(Box::new(expr), Box::new(index))
            } else if self.accept(".") {
                let TokenKind::Name(name) = self.kind() else {
                    return Err(self.unexpected("; a name was expected"));
                };
                let name = name.clone();
                self.next();
                Node::Attribute(Box::new(expr), name)
            } else {
                return Ok(expr);
            };
            expr = self.build(line, node)?;
        }
    }

    /// What follows the `(` of a call, its `)` included.
    fn arguments(&mut self) -> Result<Vec<Argument>, Fault> {
        let mut arguments = Vec::new();
        while !self.accept(")") {
            let argument = if self.accept("**") {
                Argument::Entries(self.expression()?)
            } else if self.accept("*") {
                Argument::Items(self.expression()?)
            } else {
                let named = match (self.kind(), self.tokens.get(self.at + 1)) {
                    (TokenKind::Name(name), Some(next)) if next.kind == TokenKind::Symbol("=") => {
                        Some(name.clone())
                    }
                    _ => None,
                };
                match named {
                    Some(name) if KEYWORDS.contains(&name.as_str()) => {
                        return Err(self.unexpected(""));
                    }
                    Some(name) => {
                        self.next();
                        self.next();
                        Argument::Named(name, self.expression()?)
                    }
                    None => Argument::Positional(self.expression()?),
                }
            };
            arguments.push(argument);
            self.separator(")")?;
        }
        Ok(arguments)
    }

    /// A comma, or `close`, which isn't passed.
    fn separator(&mut self, close: &str) -> Result<(), Fault> {
        if self.accept(",") || self.is(close) {
            return Ok(());
        }
        if self.is_word("for") || self.is_word("async") {
            return Err(Fault::not_understood(
                self.line(),
                "a comprehension (`... for ...`)",
            ));
        }
        Err(self.unexpected(&format!("; `,` or `{close}` was expected")))
    }

    fn atom(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let node = match self.kind().clone() {
            TokenKind::Int(n) => Node::Int(n),
            TokenKind::Float(x) => Node::Float(x),
            TokenKind::Base(parts) => Node::Base(parts),
            TokenKind::Str(mut text) => {
                self.next();
                // Neighbouring strings are one.
                while let TokenKind::Str(more) = self.kind() {
                    text.push_str(more);
                    self.next();
                }
                return self.build(line, Node::Str(text));
            }
            TokenKind::Name(name) => match name.as_str() {
                "None" => Node::None,
                "True" => Node::Bool(true),
                "False" => Node::Bool(false),
                "lambda" | "await" | "yield" => return Err(self.not_understood(line)),
                word if KEYWORDS.contains(&word) || ACTIONS.contains(&word) => {
                    return Err(self.unexpected(""));
                }
                _ => Node::Name(name),
            },
            TokenKind::Symbol("...") => return Err(Fault::not_understood(line, "`...`")),
            TokenKind::Symbol(open @ ("(" | "[")) => {
                self.next();
                return self.sequence(line, open);
            }
            TokenKind::Symbol("{") => {
                self.next();
                return self.dict(line);
            }
            _ => return Err(self.unexpected("")),
        };
        self.next();
        self.build(line, node)
    }

    /// What follows `(` or `[`.
    fn sequence(&mut self, line: usize, open: &str) -> Result<Expr, Fault> {
        let close = if open == "(" { ")" } else { "]" };
        let mut items = Vec::new();
        let mut commas = 0;
        while !self.accept(close) {
            items.push(match self.accept("*") {
                true => Item::Spread(self.expression()?),
                false => Item::One(self.expression()?),
            });
            commas += usize::from(self.is(","));
            self.separator(close)?;
        }
        let node = match (close, commas, items.pop()) {
            // Parentheses around one expression are only that.
            (")", 0, Some(Item::One(expr))) => return Ok(expr),
            (_, _, last) => {
                items.extend(last);
                match close {
                    ")" => Node::Tuple(items),
                    _ => Node::List(items),
                }
            }
        };
        self.build(line, node)
    }

    /// What follows `{`.
    fn dict(&mut self, line: usize) -> Result<Expr, Fault> {
        let mut entries = Vec::new();
        while !self.accept("}") {
            if self.accept("**") {
                entries.push(Entry::Spread(self.expression()?));
            } else {
                let key = self.expression()?;
                if self.is(",") || self.is("}") {
                    return Err(Fault::not_understood(line, "a set `{...}`"));
                }
                self.expect(":")?;
                entries.push(Entry::Pair(key, self.expression()?));
            }
            self.separator("}")?;
        }
        self.build(line, Node::Dict(entries))
    }
}

fn too_deep(line: usize) -> Fault {
    Fault::new(line, "brackets or operators are nested too deeply")
}
