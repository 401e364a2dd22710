//! What the documents point at exists: their links, the files they name and the flags they use.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of the repository; a name in code font that starts with one is a path.
const FOLDERS: [&str; 5] = ["crates/", "docs/", "recipes/", "golden/", "benches/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The documents that are checked, by their paths in the repository.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md"].map(PathBuf::from).into();
    found.extend(["benches/README.md", "golden/README.md"].map(PathBuf::from));
    for entry in root().join("docs").read_dir().unwrap() {
        let name = entry.unwrap().file_name();
        if Path::new(&name).extension().is_some_and(|e| e == "md") {
            found.push(Path::new("docs").join(name));
        }
    }
    found
}

/// A document's text without its fenced blocks and, apart, the lines of those marked `sh`.
fn split(document: &str) -> (String, Vec<String>) {
    let (mut text, mut code) = (String::new(), Vec::new());
    let mut fence = None;
    for line in document.lines() {
        match (fence, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (Some("sh"), None) => code.push(line.to_string()),
            (Some(_), None) => {}
            (None, None) => text.extend([line, "\n"]),
        }
    }
    (text, code)
}

/// What stands between each pair of backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Targets of `[...](target)`, but not of what looks like one in code font.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split('`').step_by(2).collect();
    let prose = prose.join("code");
    (prose.match_indices("]("))
        .filter_map(|(at, _)| prose[at + 2..].split_once(')'))
        .map(|(target, _)| target.to_string())
        .collect()
}

/// GitHub's anchor of a heading: lower case, spaces as hyphens, most punctuation left out.
fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    heading.trim().chars().filter_map(kept).collect()
}

/// What is wrong with a link of `document`, if anything.
fn broken(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, section) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => root().join(document),
        file => root().join(document).parent().unwrap().join(file),
    };
    if !path.exists() {
        return Some(format!("{}: no file for {target}", document.display()));
    }
    if section.is_empty() {
        return None;
    }
    let (text, _) = split(&std::fs::read_to_string(path).unwrap());
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let known = headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .any(|known| known == section);
    (!known).then(|| format!("{}: no heading for {target}", document.display()))
}

/// The path that a name in code font is, where it is one. `...` and placeholders are none.
fn named_path(span: &str) -> Option<&str> {
    let path = FOLDERS.iter().any(|folder| span.starts_with(folder));
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    (path && span.chars().all(plain) && !span.contains("...")).then_some(span)
}

#[test]
fn every_link_and_every_named_file_exists() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for document in documents() {
        let (text, _) = split(&std::fs::read_to_string(root().join(&document)).unwrap());
        let targets = links(&text);
        let paths: Vec<&str> = code_spans(&text).filter_map(named_path).collect();
        seen += targets.len() + paths.len();
        wrong.extend(targets.iter().filter_map(|t| broken(&document, t)));
        let missing = paths.iter().filter(|path| !root().join(path).exists());
        wrong.extend(missing.map(|path| format!("{}: no file {path}", document.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 50, "only {seen} links and names were found");
}

#[test]
fn a_broken_link_is_noticed() {
    let readme = Path::new("README.md");
    let (text, code) =
        split("[a](b.md) `[b](c)`\n```sh\n[d](e)\n```\n```text\n[g](h)\n```\n[f](#i)");
    assert_eq!(links(&text), ["b.md", "#i"]);
    assert_eq!(code, ["[d](e)"]);
    assert_eq!(broken(readme, "docs/method.md"), None);
    assert_eq!(broken(Path::new("docs/formats.md"), "method.md"), None);
    assert_eq!(broken(readme, "#licence"), None);
    assert_eq!(broken(readme, "https://example.org/none"), None);
    assert!(broken(readme, "docs/nowhere.md").is_some());
    assert!(broken(readme, "docs/method.md#nowhere").is_some());
    assert_eq!(named_path("crates/none.rs"), Some("crates/none.rs"));
    assert_eq!(named_path("checkpoints/step-*.safetensors"), None);
    assert_eq!(named_path("docs/a b"), None);
}

/// Every command of the documents' fenced blocks is one that `npid` knows, flags included.
#[test]
fn commands_use_flags_that_exist() {
    let mut commands = 0;
    for document in documents() {
        let (_, code) = split(&std::fs::read_to_string(root().join(&document)).unwrap());
        for line in &code {
            let line = line.split(" #").next().unwrap().trim();
            let Some(arguments) = (line.strip_prefix("npid "))
                .or_else(|| line.strip_prefix("cargo run --release -- "))
            else {
                continue;
            };
            let words: Vec<&str> = arguments.split_whitespace().collect();
            let depth = match words[0] {
                "eval" | "data" | "bench" => 2,
                _ => 1,
            };
            let help = Command::new(env!("CARGO_BIN_EXE_npid"))
                .args(&words[..depth])
                .arg("--help")
                .output()
                .unwrap();
            let at = document.display();
            assert!(help.status.success(), "{at}: no command for `{line}`");
            let help = String::from_utf8(help.stdout).unwrap();
            let known: Vec<&str> = help
                .split(|c: char| c.is_whitespace() || c == ',')
                .collect();
            for flag in words.iter().filter(|word| word.starts_with('-')) {
                assert!(known.contains(flag), "{at}: no {flag} in `{line}`");
            }
            commands += 1;
        }
    }
    assert!(commands > 10, "only {commands} commands were found");
}

/// Recipes named in the README's commands and table are those that are embedded, all of them.
#[test]
fn the_readme_names_every_recipe() {
    let list = Command::new(env!("CARGO_BIN_EXE_npid"))
        .args(["train", "--list-recipes", "--json"])
        .output()
        .unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let recipes = list["recipes"].as_array().unwrap();
    assert!(!recipes.is_empty());
    for recipe in recipes {
        let file = format!("(recipes/{}.toml)", recipe["name"].as_str().unwrap());
        assert!(readme.contains(&file), "README.md doesn't name {file}");
    }
}
