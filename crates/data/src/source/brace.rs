//! Brace patterns such as `shard-{000000..000146}.tar`, as WebDataset's users write them.

use std::path::{Path, PathBuf};

/// The most names that a pattern may stand for.
const MAX: usize = 100_000;

/// The paths that a pattern stands for, in its order: `{A..B}` counts from A to B, with as many
/// digits as A, and `{a,b}` lists. `None` where there is no such brace; an error where there are
/// more than 100,000.
pub(super) fn expand(pattern: &Path) -> Option<Result<Vec<PathBuf>, String>> {
    let text = pattern.to_str()?;
    let (open, close, _) = first_brace(text)?;
    debug_assert!(open < close);
    let mut done = Vec::new();
    let mut left = vec![text.to_owned()];
    while let Some(text) = left.pop() {
        match first_brace(&text) {
            None => done.push(PathBuf::from(text)),
            Some((open, close, values)) => {
                if done.len() + left.len() + values.len() > MAX {
                    return Some(Err(format!("the pattern stands for more than {MAX} names")));
                }
                let (before, after) = (&text[..open], &text[close + 1..]);
                let texts = values.into_iter().rev();
                left.extend(texts.map(|value| format!("{before}{value}{after}")));
            }
        }
    }
    Some(Ok(done))
}

/// Where the first brace opens and closes, and what it stands for.
fn first_brace(text: &str) -> Option<(usize, usize, Vec<String>)> {
    let mut from = 0;
    loop {
        let open = from + text[from..].find('{')?;
        let close = open + text[open..].find('}')?;
        if let Some(values) = values(&text[open + 1..close]) {
            return Some((open, close, values));
        }
        from = open + 1;
    }
}

fn values(inside: &str) -> Option<Vec<String>> {
    if let Some((first, last)) = inside.split_once("..") {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(first) || !digits(last) {
            return None;
        }
        let (a, b): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let width = first.len();
        let number = |n: u64| format!("{n:0width$}");
        // One more than is allowed, so that too many are noticed and no more made.
        let take = MAX + 1;
        return Some(if a <= b {
            (a..=b).take(take).map(number).collect()
        } else {
            (b..=a).rev().take(take).map(number).collect()
        });
    }
    inside
        .contains(',')
        .then(|| inside.split(',').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str) -> Vec<String> {
        let paths = expand(Path::new(pattern)).unwrap().unwrap();
        let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
        paths.into_iter().map(text).collect()
    }

    #[test]
    fn ranges_and_lists() {
        assert_eq!(
            all("s-{008..011}.tar"),
            ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
        );
        assert_eq!(all("{a,b}-{1..0}"), ["a-1", "a-0", "b-1", "b-0"]);
        assert_eq!(all("{x}{0..1}"), ["{x}0", "{x}1"]);
        assert!(expand(Path::new("no {braces} here.tar")).is_none());
        assert!(expand(Path::new("{..}")).is_none());
    }

    #[test]
    fn too_many_are_refused_before_they_are_made() {
        for pattern in [
            "{0..99999999999}.tar",
            "{0..999}{0..999}{0..999}",
            "{0..100000}",
        ] {
            assert!(expand(Path::new(pattern)).unwrap().is_err(), "{pattern}");
        }
        assert!(expand(Path::new("{0..99999999999999999999999999}.tar")).is_none());
    }
}
