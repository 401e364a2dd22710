//! Which pictures of a collection are those of an earlier one.
//!
//! A picture is known by its content: files may be renamed, moved between folders and listed in
//! another order. Where a content occurs several times the same name goes first, and then the order
//! of the rows. No earlier row is used twice. A picture whose content was never read is known by
//! its name alone.

use std::collections::{HashMap, VecDeque};

use npid_data::source::ContentHash;

/// What is known of an earlier picture.
#[derive(Clone, Debug)]
pub(crate) struct Then {
    /// Its name.
    pub(crate) name: String,
    /// Its content, if it was ever read.
    pub(crate) content: Option<ContentHash>,
}

/// Where the rows of a collection come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// For each row now, the row it was.
    pub(crate) origins: Vec<Option<usize>>,
    /// Rows that were, of pictures known by their names alone.
    pub(crate) by_name: Vec<usize>,
}

/// Finds the earlier pictures `then` among those with these names and contents (`None` where the
/// bytes can't be read: such a picture is nobody's).
pub(crate) fn matched(
    then: &[Then],
    names: &[String],
    contents: &[Option<ContentHash>],
) -> Matched {
    let mut origins = vec![None; contents.len()];
    let mut used = vec![false; then.len()];
    let mut named: HashMap<(&str, Option<ContentHash>), VecDeque<usize>> = HashMap::new();
    for (row, picture) in then.iter().enumerate() {
        let key = (picture.name.as_str(), picture.content);
        named.entry(key).or_default().push_back(row);
    }
    // The same name and content.
    for (row, content) in contents.iter().enumerate() {
        let Some(content) = content else { continue };
        if let Some(rows) = named.get_mut(&(names[row].as_str(), Some(*content))) {
            origins[row] = rows.pop_front();
        }
    }
    origins.iter().flatten().for_each(|&old| used[old] = true);
    // The same content, in the order of the rows.
    let mut left: HashMap<ContentHash, VecDeque<usize>> = HashMap::new();
    for (row, picture) in then.iter().enumerate() {
        if let (Some(content), false) = (picture.content, used[row]) {
            left.entry(content).or_default().push_back(row);
        }
    }
    let open = |origins: &[Option<usize>]| -> Vec<(usize, ContentHash)> {
        let rows = origins.iter().zip(contents).enumerate();
        rows.filter_map(|(row, (origin, content))| match (origin, content) {
            (None, Some(content)) => Some((row, *content)),
            _ => None,
        })
        .collect()
    };
    for (row, content) in open(&origins) {
        origins[row] = left.get_mut(&content).and_then(VecDeque::pop_front);
    }
    // The same name, where the content wasn't read then.
    let mut by_name = Vec::new();
    for (row, _) in open(&origins) {
        if let Some(rows) = named.get_mut(&(names[row].as_str(), None)) {
            origins[row] = rows.pop_front();
            by_name.extend(origins[row]);
        }
    }
    Matched { origins, by_name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures written as `name=content`; a content of `?` was never read.
    fn parse(text: &str) -> (Vec<String>, Vec<Option<ContentHash>>) {
        let pictures = text.split_whitespace().map(|picture| {
            let (name, content) = picture.split_once('=').unwrap();
            let hash = (content != "?").then(|| ContentHash::of(content.as_bytes()));
            (name.to_string(), hash)
        });
        pictures.unzip()
    }

    fn origins(then: &str, now: &str) -> (Vec<Option<usize>>, Vec<usize>) {
        let (names, contents) = parse(then);
        let then: Vec<Then> = (names.into_iter().zip(contents))
            .map(|(name, content)| Then { name, content })
            .collect();
        let (names, contents) = parse(now);
        let found = matched(&then, &names, &contents);
        (found.origins, found.by_name)
    }

    #[test]
    fn a_content_is_found_under_any_name() {
        let then = "a=1 b=2 c=3";
        assert_eq!(
            origins(then, "x=3 a=1 new=9 b=2"),
            (vec![Some(2), Some(0), None, Some(1)], vec![])
        );
        // Another picture under a known name is another picture.
        assert_eq!(origins(then, "a=2 b=4"), (vec![Some(1), None], vec![]));
        assert_eq!(origins(then, ""), (vec![], vec![]));
    }

    #[test]
    fn of_equal_contents_the_same_name_goes_first_and_no_row_twice() {
        let then = "a=1 b=1 c=1";
        assert_eq!(
            origins(then, "x=1 c=1 a=1 y=1"),
            (vec![Some(1), Some(2), Some(0), None], vec![])
        );
        // A line of a list that stands there twice is two rows.
        assert_eq!(
            origins("a=1 a=1", "a=1 a=1 a=1"),
            (vec![Some(0), Some(1), None], vec![])
        );
    }

    #[test]
    fn a_content_that_was_never_read_is_known_by_its_name() {
        assert_eq!(
            origins("a=? b=2 c=?", "b=5 c=3 d=2 a=1"),
            (vec![None, Some(2), Some(1), Some(0)], vec![2, 0])
        );
        // A picture that can't be read now is nobody's, whatever its name.
        assert_eq!(
            origins("a=? b=2", "a=? b=? c=2"),
            (vec![None, None, Some(1)], vec![])
        );
    }
}
