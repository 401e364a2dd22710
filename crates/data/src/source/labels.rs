//! Labels as a file has them, whole numbers or words, and the classes they name.

use std::collections::HashMap;

/// Numbers up to this one are the labels themselves. Tables are made with a place for each class,
/// so larger numbers (they are somebody's identifiers) become classes named after them.
const MAX_NUMBER: i64 = 1 << 20;

/// The label of each row, and the classes' names, which are empty where labels are plain numbers.
pub(super) type Labelled = (Vec<Option<u32>>, Vec<String>);

/// Labels written as text, row by row.
#[derive(Default)]
pub(super) struct Labels {
    /// Number of each distinct text, in the order of its first row.
    numbers: HashMap<String, u32>,
    rows: Vec<Option<u32>>,
}

impl Labels {
    /// The next row's label.
    pub(super) fn push(&mut self, text: Option<&str>) {
        let number = text.map(|text| match self.numbers.get(text) {
            Some(&number) => number,
            None => {
                let number = self.numbers.len() as u32;
                self.numbers.insert(text.to_owned(), number);
                number
            }
        });
        self.rows.push(number);
    }

    /// Where all are whole numbers they are the labels, negative ones being none; else the distinct
    /// texts in ascending order are the classes.
    pub(super) fn finish(self) -> Labelled {
        let mut texts = vec![""; self.numbers.len()];
        for (text, &number) in &self.numbers {
            texts[number as usize] = text;
        }
        let values: Option<Vec<i64>> = texts.iter().map(|text| text.parse().ok()).collect();
        let row = |number: &Option<u32>| number.map(|number| number as usize);
        if let Some(values) = values {
            return numbered(
                self.rows
                    .iter()
                    .map(|r| row(r).map(|i| values[i]))
                    .collect(),
            );
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| texts[i]);
        let mut rank = vec![0; texts.len()];
        for (label, &i) in order.iter().enumerate() {
            rank[i] = label as u32;
        }
        (
            self.rows.iter().map(|r| row(r).map(|i| rank[i])).collect(),
            order.iter().map(|&i| texts[i].to_owned()).collect(),
        )
    }
}

/// Labels that are whole numbers; negative ones (a hidden label in Hugging Face's sets) are none.
pub(super) fn numbered(values: Vec<Option<i64>>) -> Labelled {
    let known = |value: &Option<i64>| value.filter(|value| *value >= 0);
    if values
        .iter()
        .filter_map(known)
        .all(|value| value <= MAX_NUMBER)
    {
        let rows = values.iter().map(|v| known(v).map(|v| v as u32));
        return (rows.collect(), Vec::new());
    }
    let mut distinct: Vec<i64> = values.iter().filter_map(known).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let rank = |value| distinct.binary_search(&value).ok().map(|rank| rank as u32);
    (
        values.iter().map(|v| known(v).and_then(rank)).collect(),
        distinct.iter().map(i64::to_string).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(texts: &[Option<&str>]) -> Labelled {
        let mut labels = Labels::default();
        texts.iter().for_each(|text| labels.push(*text));
        labels.finish()
    }

    #[test]
    fn numbers_stay_and_words_are_sorted() {
        let (rows, classes) = labelled(&[Some("7"), None, Some("0"), Some("-1"), Some("7")]);
        assert_eq!(rows, [Some(7), None, Some(0), None, Some(7)]);
        assert!(classes.is_empty());
        let (rows, classes) = labelled(&[Some("dog"), Some("7"), None, Some("cat"), Some("dog")]);
        assert_eq!(rows, [Some(2), Some(0), None, Some(1), Some(2)]);
        assert_eq!(classes, ["7", "cat", "dog"]);
        assert_eq!(labelled(&[None, None]), (vec![None; 2], vec![]));
    }

    #[test]
    fn huge_numbers_are_names() {
        let (rows, classes) = labelled(&[Some("9000000000"), Some("3"), Some("-5")]);
        assert_eq!(rows, [Some(1), Some(0), None]);
        assert_eq!(classes, ["3", "9000000000"]);
    }
}
