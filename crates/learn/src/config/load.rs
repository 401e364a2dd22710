//! From a recipe's text and the `--set` flags to a [`Config`], with errors a person can act on.

use npid_engine::Dtype;
use toml::{Table, Value};

use super::{Config, Invalid};
use crate::Error;
use crate::recipes::{self, Recipe};
use crate::run::RunFolder;

/// The configuration of a run that exists. Versions that computed in nothing but f32 didn't say so.
///
/// # Errors
/// As [`load`]'s, and if there is no `config.toml`.
pub fn of_run(folder: &RunFolder) -> Result<Config, Error> {
    let mut config = load(&recipes::read(&folder.config())?, &[])?;
    config.dtype = config.dtype.or(Some(Dtype::F32));
    Ok(config)
}

/// Reads a recipe, applies each of `sets` (`dotted.key=value`, in order) and checks every value
/// that can be checked without the data.
///
/// A value of `sets` is TOML; what isn't, and doesn't look as if it were meant to be, is a string.
///
/// # Errors
/// One line that names the recipe, file or `--set`, the key, what is wrong and what is possible.
pub fn load(recipe: &Recipe, sets: &[String]) -> Result<Config, Error> {
    let base: Table =
        (recipe.text.parse()).map_err(|error| Error::input(syntax_error(recipe, &error)))?;
    let mut table = base.clone();
    let mut keys = Vec::new();
    for set in sets {
        let (key, value) = parse_set(set)?;
        insert(&mut table, &key, value)
            .map_err(|why| Error::input(format!("--set {set}: {why}")))?;
        keys.push((key, set.as_str()));
    }
    let config = structure(table).and_then(|config| {
        config.check()?;
        Ok(config)
    });
    config.map_err(|invalid| {
        // The last flag that touched the key is to blame, else the recipe.
        let flag = keys
            .iter()
            .rev()
            .find(|(key, _)| touches(key, &invalid.key));
        match flag {
            Some((key, set)) => Error::input(format!(
                "--set {set}: {}{}",
                invalid.message(),
                elsewhere(key, &base)
            )),
            None => Error::input(format!(
                "{}: {}",
                recipe.blame(&invalid.key),
                invalid.message()
            )),
        }
    })
}

/// Gives `data.size` to the crops of `data.pipeline` that name no size.
fn fill_in_sizes(table: &mut Table) {
    let Some(Value::Table(data)) = table.get_mut("data") else {
        return;
    };
    let Some(size) = data.get("size").cloned() else {
        return;
    };
    let Some(Value::Array(steps)) = data.get_mut("pipeline") else {
        return;
    };
    for step in steps.iter_mut().filter_map(Value::as_table_mut) {
        let kind = step.get("type").and_then(Value::as_str);
        if matches!(
            kind,
            Some("RandomResizedCrop" | "RandomCrop" | "CenterCrop")
        ) {
            step.entry("size").or_insert_with(|| size.clone());
        }
    }
}

/// Whether a flag for `key` may have caused what is wrong with `wrong`.
fn touches(key: &str, wrong: &str) -> bool {
    let below = |long: &str, short: &str| {
        long.strip_prefix(short)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    below(wrong, key) || below(key, wrong)
}

/// Reads a table as a configuration.
fn structure(mut table: Table) -> Result<Config, Invalid> {
    // Before the crops take it, and are blamed for it.
    let size = table.get("data").and_then(|data| data.get("size"));
    if let Some(size) = size
        && size.as_integer().is_none_or(|size| size < 1)
    {
        return Err(Invalid::new(
            "data.size",
            format!("is {size}; it must be a whole number, at least 1"),
        ));
    }
    fill_in_sizes(&mut table);
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        explain(&path, error.inner().message())
    })
}

/// Rewrites serde's message for people.
fn explain(path: &str, message: &str) -> Invalid {
    let names = quoted(message);
    let list = |names: &[&str]| names.join(", ");
    let (kind, known) = (names.first().copied(), names.get(1..).unwrap_or_default());
    match kind {
        Some(name) if message.starts_with("unknown field") => {
            let key = ending_with(path, name);
            let section = key.rsplit_once('.').map_or("", |(section, _)| section);
            let place = match section {
                "" => "the top level".to_string(),
                step if step.ends_with(']') => step.to_string(),
                section => format!("[{section}]"),
            };
            Invalid::new(
                key,
                format!(
                    "is no key{} {place} has {}",
                    end(did_you_mean(name, known.iter().copied())),
                    list(known)
                ),
            )
        }
        Some(name) if message.starts_with("unknown variant") => Invalid::new(
            path,
            format!(
                "can't be `{name}`{} choose from {}",
                end(did_you_mean(name, known.iter().copied())),
                list(known)
            ),
        ),
        Some(name) if message.starts_with("missing field") => {
            let key = ending_with(path, name);
            let hint = match key.as_str() {
                "model" => "; add [model] with type = \"NPID\"",
                "model.backbone" => "; add it with type ResNet or ResNet_CIFAR",
                "model.head" => "; add it with type ContrastiveHead, NCEHead or SoftmaxHead",
                "model.memory_bank" => "; add it with type SimpleMemory",
                "model.type" => "; it can be NPID",
                "model.backbone.type" => "; it can be ResNet or ResNet_CIFAR",
                "model.neck.type" => "; it can be LinearNeck, NonLinearNeck or MoCoV2Neck",
                "model.head.type" => "; it can be ContrastiveHead, NCEHead or SoftmaxHead",
                "model.memory_bank.type" => "; it can be SimpleMemory",
                "optimizer.type" => "; it can be SGD or LARS",
                _ => "; it has no default",
            };
            Invalid::new(key, format!("is missing{hint}"))
        }
        _ => {
            let message = message.trim().replace('\n', " ");
            let what = mismatch(&message, path);
            Invalid::new(
                path,
                what.unwrap_or_else(|| format!("can't be used: {message}")),
            )
        }
    }
}

/// serde's "invalid type: string "abc", expected u64" in words that aren't a programmer's:
/// "is "abc"; it must be a whole number, 0 or more".
fn mismatch(message: &str, path: &str) -> Option<String> {
    let rest = (message.strip_prefix("invalid type: "))
        .or_else(|| message.strip_prefix("invalid value: "))?;
    let (given, expected) = rest.rsplit_once(", expected ")?;
    // "integer `-1`" and "string "abc"" end in the value; "map" and "sequence" have none.
    let given = match given {
        "map" => "a section",
        "sequence" => "a list",
        given => {
            let value = ["integer ", "string ", "floating point ", "boolean "];
            (value.iter().find_map(|kind| given.strip_prefix(kind))).unwrap_or(given)
        }
    };
    let given = given.trim_matches('`');
    let expected = expected.trim_end();
    if expected == "string only" {
        // A name of an enumeration; what was given instead serde doesn't say.
        return Some("must be a name in quotes".to_string());
    }
    let must = match expected {
        "u32" => format!("it must be a whole number, 0 to {}", u32::MAX),
        "u64" | "usize" => "it must be a whole number, 0 or more".to_string(),
        "i32" | "i64" => "it must be a whole number".to_string(),
        "f32" | "f64" => "it must be a number".to_string(),
        "a boolean" => "it must be true or false".to_string(),
        "a sequence" => "it must be a list, such as [1, 2]".to_string(),
        "a string" | "path string" => "it must be text".to_string(),
        _ if expected.starts_with("struct ") => {
            format!("it is a section: give its keys, as {path}.KEY or below [{path}]")
        }
        other => format!("it must be {other}"),
    };
    Some(format!("is {given}; {must}"))
}

/// `path` with `name` as its last part, whether or not it is already.
fn ending_with(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_string()
    } else if path == name || path.ends_with(&format!(".{name}")) {
        path.to_string()
    } else {
        format!("{path}.{name}")
    }
}

/// What stands between backquotes.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// "; did you mean X?" where one of `known` is close to `name`.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known
        .map(|k| (strsim::jaro_winkler(name, k), k))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, k)) if score > 0.8 => format!("; did you mean {k}?"),
        _ => String::new(),
    }
}

/// Ends a clause that may end in a question.
pub(crate) fn end(clause: String) -> String {
    if clause.ends_with('?') {
        clause
    } else {
        clause + ";"
    }
}

/// Where a key given without its sections can be found, in a recipe or among the defaults.
fn elsewhere(key: &str, table: &Table) -> String {
    if key.contains('.') || table.contains_key(key) {
        return String::new();
    }
    let whole = structure(table.clone()).ok();
    let whole = whole.and_then(|config| config.to_toml().ok()?.parse().ok());
    let mut found = Vec::new();
    collect(whole.as_ref().unwrap_or(table), "", key, &mut found);
    match found.is_empty() {
        true => String::new(),
        false => format!("; in full it is {}", found.join(" or ")),
    }
}

fn collect(table: &Table, prefix: &str, key: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        let path = format!("{prefix}{name}");
        if let Value::Table(inner) = value {
            collect(inner, &format!("{path}."), key, found);
        }
        if name == key {
            found.push(path);
        }
    }
}

/// Splits `key=value`.
pub(crate) fn parse_set(set: &str) -> Result<(String, Value), Error> {
    let fail = |why: &str| Error::input(format!("--set {set}: {why}; write --set key=value"));
    let (key, text) = (set.split_once('=')).ok_or_else(|| fail("there is no `=`"))?;
    let (key, text) = (key.trim(), text.trim());
    if key.is_empty() || key.split('.').any(|part| part.trim().is_empty()) {
        return Err(fail("a part of the key is empty"));
    }
    if text.is_empty() {
        return Err(fail("the value is empty"));
    }
    let parsed = format!("value = {text}").parse::<Table>();
    let value = match parsed {
        Ok(mut table) if table.len() == 1 => table.remove("value"),
        _ => None,
    };
    match value {
        Some(value) => Ok((key.to_string(), value)),
        None if text.starts_with(['[', '{', '"', '\'']) => Err(fail("the value is no TOML")),
        None => Ok((key.to_string(), Value::String(text.to_string()))),
    }
}

/// Puts `value` at a dotted key, making tables on the way.
pub(crate) fn insert(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_string(), value);
        return Ok(());
    };
    let entry = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    match entry {
        Value::Table(inner) => insert(inner, rest, value),
        _ => Err(format!("`{section}` is a value, not a section")),
    }
}

/// A TOML error with its line.
fn syntax_error(recipe: &Recipe, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| {
        let before = recipe.text.get(..span.start).unwrap_or_default();
        before.matches('\n').count() + 1
    });
    format!(
        "{}, line {line}: not TOML: {}",
        recipe.origin(),
        error.message().trim().replace('\n', " ")
    )
}

impl Recipe {
    /// What messages call it.
    pub fn origin(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("recipe {}", self.name),
        }
    }

    /// What messages about this key call it: with the line, if another format has been translated.
    fn blame(&self, key: &str) -> String {
        let translation = self.translation.as_ref();
        match translation.and_then(|translation| translation.place(key)) {
            Some(place) => place.to_string(),
            None => self.origin(),
        }
    }
}
