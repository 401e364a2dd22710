//! Text to tokens, by Python's rules for lines, indentation, numbers and strings
//! (<https://docs.python.org/3/reference/lexical_analysis.html>).

use std::path::Path;

use crate::error::Fault;
use crate::limits;

/// A token and the line it begins on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    Name(String),
    Int(i64),
    Float(f64),
    Str(String),
    /// `{{_base_.a.b}}`: the parts after `_base_`.
    Base(Vec<String>),
    /// An operator or bracket.
    Symbol(&'static str),
    Newline,
    Indent,
    Dedent,
    End,
}

/// Longer ones first, so that the first that fits is the right one.
const SYMBOLS: [&str; 48] = [
    "**=", "//=", ">>=", "<<=", "...", "**", "//", "==", "!=", "<=", ">=", "->", ":=", "+=", "-=",
    "*=", "/=", "%=", "@=", "&=", "|=", "^=", "<<", ">>", "(", ")", "[", "]", "{", "}", ",", ":",
    ".", ";", "=", "+", "-", "*", "/", "%", "<", ">", "@", "&", "|", "^", "~", "!",
];

struct Lexer<'a> {
    text: &'a str,
    file: &'a Path,
    at: usize,
    line: usize,
    /// Open brackets and their lines.
    open: Vec<(char, usize)>,
    tokens: Vec<Token>,
    text_bytes: usize,
}

/// The tokens of `text`, whose lines end in `\n`; the last is [`TokenKind::End`]. `file` is what `{{ fileDirname }}`
/// and its like stand for.
pub(crate) fn tokens(text: &str, file: &Path) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer {
        text: text.strip_prefix('\u{feff}').unwrap_or(text),
        file,
        at: 0,
        line: 1,
        open: Vec::new(),
        tokens: Vec::new(),
        text_bytes: 0,
    };
    lexer.run()?;
    Ok(lexer.tokens)
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::new(self.line, what)
    }

    /// Takes one character, counting lines.
    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn push(&mut self, line: usize, kind: TokenKind) {
        self.tokens.push(Token { line, kind });
    }

    fn run(&mut self) -> Result<(), Fault> {
        let mut indents = vec![0];
        loop {
            // At the start of a logical line.
            let column = self.indentation();
            match self.peek() {
                None => break,
                Some('#' | '\n') => {
                    self.comment();
                    self.take();
                    continue;
                }
                Some(_) => {}
            }
            let depth = indents[indents.len() - 1];
            if column > depth {
                if indents.len() > limits::DEPTH {
                    return Err(self.fault("the blocks are nested too deeply"));
                }
                indents.push(column);
                self.push(self.line, TokenKind::Indent);
            }
            while column < indents[indents.len() - 1] {
                indents.pop();
                self.push(self.line, TokenKind::Dedent);
            }
            if column != indents[indents.len() - 1] {
                return Err(self.fault(
                    "the line is indented less than its block, but not as far \
                                       as any other; line it up",
                ));
            }
            self.logical_line()?;
        }
        for _ in 1..indents.len() {
            self.push(self.line, TokenKind::Dedent);
        }
        self.push(self.line, TokenKind::End);
        Ok(())
    }

    /// Columns of white space; a tab goes to the next multiple of eight.
    fn indentation(&mut self) -> usize {
        let mut column = 0;
        for c in self
            .take_while(|c| matches!(c, ' ' | '\t' | '\x0c'))
            .chars()
        {
            column = match c {
                '\t' => (column / 8 + 1) * 8,
                '\x0c' => 0,
                _ => column + 1,
            };
        }
        column
    }

    fn comment(&mut self) {
        if self.peek() == Some('#') {
            self.take_while(|c| c != '\n');
        }
    }

    /// Tokens up to a line's end outside of brackets.
    fn logical_line(&mut self) -> Result<(), Fault> {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\x0c'));
            self.comment();
            let line = self.line;
            let Some(c) = self.peek() else {
                if let Some((bracket, line)) = self.open.last() {
                    return Err(Fault::new(
                        *line,
                        format!("`{bracket}` is never closed; the file may have been cut off"),
                    ));
                }
                self.push(line, TokenKind::Newline);
                return Ok(());
            };
            match c {
                '\n' => {
                    self.take();
                    if self.open.is_empty() {
                        self.push(line, TokenKind::Newline);
                        return Ok(());
                    }
                }
                '\\' => {
                    self.take();
                    if self.take() != Some('\n') {
                        return Err(Fault::new(
                            line,
                            "a `\\` outside of a string stands at a line's end only",
                        ));
                    }
                }
                '"' | '\'' => self.string("")?,
                c if c.is_ascii_digit() => self.number()?,
                '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    self.number()?;
                }
                c if c == '_' || c.is_alphabetic() => {
                    let name = self.take_while(|c| c == '_' || c.is_alphanumeric());
                    if self.rest().starts_with(['"', '\'']) && is_prefix(name) {
                        self.string(name)?;
                    } else {
                        self.push(line, TokenKind::Name(name.to_string()));
                    }
                }
                '{' if self.rest().starts_with("{{") && self.substitution()? => {}
                _ => self.symbol()?,
            }
        }
    }

    fn symbol(&mut self) -> Result<(), Fault> {
        let line = self.line;
        let rest = self.rest();
        let Some(symbol) = SYMBOLS.into_iter().find(|s| rest.starts_with(s)) else {
            let c = rest.chars().next().unwrap_or_default();
            return Err(self.fault(format!("`{}` has no meaning here", c.escape_debug())));
        };
        match symbol {
            "(" | "[" | "{" => {
                if self.open.len() >= limits::DEPTH {
                    return Err(self.fault("the brackets are nested too deeply"));
                }
                self.open
                    .push((symbol.chars().next().unwrap_or_default(), line));
            }
            ")" | "]" | "}" => {
                let wanted = match symbol {
                    ")" => '(',
                    "]" => '[',
                    _ => '{',
                };
                match self.open.pop() {
                    Some((bracket, _)) if bracket == wanted => {}
                    Some((bracket, opened)) => {
                        return Err(self.fault(format!(
                            "`{symbol}` closes the `{bracket}` of line {opened}; they don't match"
                        )));
                    }
                    None => return Err(self.fault(format!("`{symbol}` closes nothing"))),
                }
            }
            _ => {}
        }
        self.at += symbol.len();
        self.push(line, TokenKind::Symbol(symbol));
        Ok(())
    }

    /// `{{_base_.a.b}}`, which mmcv replaces before Python sees it. Whether it was one.
    fn substitution(&mut self) -> Result<bool, Fault> {
        let inner = self.rest()[2..].trim_start_matches([' ', '\t']);
        let what = inner.split(['}', '\n']).next().unwrap_or_default().trim();
        if let Some(path) = what.strip_prefix("_base_.") {
            let parts: Vec<String> = path.split('.').map(String::from).collect();
            let end = self.rest().find("}}");
            let word = |part: &String| {
                !part.is_empty() && part.chars().all(|c| c == '_' || c.is_alphanumeric())
            };
            if let Some(end) = end
                && !self.rest()[..end].contains('\n')
                && parts.iter().all(word)
            {
                self.push(self.line, TokenKind::Base(parts));
                self.at += end + 2;
                return Ok(true);
            }
        }
        if what.starts_with(['_', '$']) || what.starts_with("file") {
            return Err(Fault::not_understood(
                self.line,
                format_args!("`{{{{{}}}}}`", shown(what)),
            ));
        }
        Ok(false)
    }

    fn number(&mut self) -> Result<(), Fault> {
        let line = self.line;
        let rest = self.rest();
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        let mut text = if radix == 10 {
            let mut end = 0;
            let mut bytes = rest.bytes().peekable();
            while let Some(b) = bytes.next() {
                let sign = matches!(b, b'e' | b'E') && matches!(bytes.peek(), Some(b'+' | b'-'));
                if !(b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
                    break;
                }
                end += 1;
                if sign {
                    bytes.next();
                    end += 1;
                }
            }
            self.at += end;
            &rest[..end]
        } else {
            self.at += 2;
            self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let written = text;
        let fail = |why: &str| {
            Err(Fault::new(
                line,
                format!("the number {}: {why}", shown(written)),
            ))
        };
        if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
            return fail("an underscore stands between two digits");
        }
        let plain: String = text.chars().filter(|&c| c != '_').collect();
        text = &plain;
        if text.ends_with(['j', 'J']) && radix == 10 {
            return fail("complex numbers aren't understood");
        }
        let whole = text.bytes().all(|b| (b as char).is_digit(radix)) && !text.is_empty();
        let kind = if whole {
            if radix == 10 && text.len() > 1 && text.starts_with('0') && text.contains(|c| c != '0')
            {
                return fail("a whole number doesn't begin with 0");
            }
            match i64::from_str_radix(text, radix) {
                Ok(n) => TokenKind::Int(n),
                Err(_) => return fail("it doesn't fit in 64 bits"),
            }
        } else {
            // Rust's `inf`, `nan` and signs can't get here: a number begins with a digit or a dot.
            match text.parse::<f64>() {
                Ok(x) if radix == 10 && x.is_finite() => TokenKind::Float(x),
                Ok(_) if radix == 10 => return fail("it is too large"),
                _ => return fail("it can't be read as one"),
            }
        };
        self.push(line, kind);
        Ok(())
    }

    /// A string whose prefix has been taken.
    fn string(&mut self, prefix: &str) -> Result<(), Fault> {
        let line = self.line;
        let raw = match prefix.to_ascii_lowercase().as_str() {
            "" | "u" => false,
            "r" => true,
            _ => {
                return Err(Fault::not_understood(
                    line,
                    format_args!("a string with the prefix `{prefix}`"),
                ));
            }
        };
        let quote = self.take().unwrap_or_default();
        let triple = self
            .rest()
            .starts_with(if quote == '"' { "\"\"" } else { "''" });
        if triple {
            self.at += 2;
        }
        let mut value = String::new();
        loop {
            let Some(c) = self.take() else {
                return Err(Fault::new(line, "the string is never closed"));
            };
            match c {
                _ if c == quote && !triple => break,
                _ if c == quote
                    && self
                        .rest()
                        .starts_with(if quote == '"' { "\"\"" } else { "''" }) =>
                {
                    self.at += 2;
                    break;
                }
                '\n' if !triple => {
                    return Err(Fault::new(line, "the string isn't closed on its line"));
                }
                '\\' if raw => {
                    value.push('\\');
                    // A quote after a backslash ends no raw string, and both stay in it.
                    if self.peek() == Some(quote) || self.peek() == Some('\\') {
                        value.extend(self.take());
                    }
                }
                '\\' => self.escape(&mut value)?,
                c => value.push(c),
            }
        }
        let value = self.predefined(value, line)?;
        self.text_bytes += value.len();
        if self.text_bytes > limits::TEXT_BYTES {
            return Err(Fault::new(line, "the strings are too long"));
        }
        self.push(line, TokenKind::Str(value));
        Ok(())
    }

    /// What follows a backslash.
    fn escape(&mut self, value: &mut String) -> Result<(), Fault> {
        let line = self.line;
        let Some(c) = self.take() else {
            return Err(Fault::new(line, "the string is never closed"));
        };
        let digits = match c {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => {
                value.push(c);
                return Ok(());
            }
            'n' => {
                value.push('\n');
                return Ok(());
            }
            't' => {
                value.push('\t');
                return Ok(());
            }
            'r' => {
                value.push('\r');
                return Ok(());
            }
            'a' | 'b' | 'f' | 'v' => {
                value.push(match c {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    _ => '\x0b',
                });
                return Ok(());
            }
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    code = code * 8 + digit;
                    self.take();
                }
                value.extend(char::from_u32(code));
                return Ok(());
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'N' => return Err(Fault::not_understood(line, "`\\N{...}` in a string")),
            // Python keeps the backslash of an escape that it doesn't know: '\d'.
            other => {
                value.push('\\');
                value.push(other);
                return Ok(());
            }
        };
        let code = self
            .rest()
            .get(..digits)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let c = code.and_then(|hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
        let Some(decoded) = c else {
            return Err(Fault::new(
                line,
                format!(
                    "`\\{c}` in a string takes {digits} hexadecimal digits of a character",
                    c = c_name(digits)
                ),
            ));
        };
        self.at += digits;
        value.push(decoded);
        Ok(())
    }

    /// Puts in what mmcv's `{{ fileDirname }}` and its like stand for.
    fn predefined(&self, value: String, line: usize) -> Result<String, Fault> {
        if !value.contains("{{") {
            return Ok(value);
        }
        let absolute = std::path::absolute(self.file).unwrap_or_else(|_| self.file.to_path_buf());
        let part = |part: Option<&std::ffi::OsStr>| {
            part.map(|p| p.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let mut filled = String::new();
        let mut rest = value.as_str();
        while let Some(start) = rest.find("{{") {
            let Some(length) = rest[start..].find("}}") else {
                break;
            };
            let name = rest[start + 2..start + length].trim();
            let known = match name {
                "fileDirname" => part(absolute.parent().map(Path::as_os_str)),
                "fileBasename" => part(absolute.file_name()),
                "fileBasenameNoExtension" => part(absolute.file_stem()),
                "fileExtname" => absolute
                    .extension()
                    .map_or_else(String::new, |e| format!(".{}", e.to_string_lossy())),
                _ if name.starts_with("_base_.") || name.starts_with('$') => {
                    return Err(Fault::not_understood(
                        line,
                        format_args!("`{{{{{}}}}}` inside of a string", shown(name)),
                    ));
                }
                _ => rest[start..start + length + 2].to_string(),
            };
            filled.push_str(&rest[..start]);
            filled.push_str(&known);
            if filled.len() > limits::TEXT_BYTES {
                return Err(Fault::new(line, "the strings are too long"));
            }
            rest = &rest[start + length + 2..];
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// The letter of the escape that takes so many digits.
fn c_name(digits: usize) -> char {
    match digits {
        2 => 'x',
        4 => 'u',
        _ => 'U',
    }
}

/// Whether a name before a quote belongs to the string.
fn is_prefix(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["r", "u", "b", "f", "br", "rb", "fr", "rf"].contains(&lower.as_str())
}

/// A piece of the file for a message: short, and on one line.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.trim().chars().take(60).collect();
    if short.len() < text.trim().len() {
        short.push_str("...");
    }
    short
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
