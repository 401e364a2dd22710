//! The pictures of a run, and which of them vote and ask in its kNN figure.

use std::sync::Arc;

use npid_data::patterns::{Patterns, Split};
use npid_data::source::{self, Opened, Options, Source, Wanted};
use npid_network::philox::{Purpose, Stream};

use crate::config::{Config, Data, Paths};
use crate::error::Error;

/// Pictures of each split of the built-in patterns.
pub const PATTERNS: usize = 1000;
/// Their height and width.
pub const PATTERNS_SIZE: usize = 32;
/// Their seed: the data set is the same for every seed of a run.
pub const PATTERNS_SEED: u64 = 0;

/// The most training pictures that are held out as queries where there are no others.
const MAX_HELD_OUT: usize = 2000;

/// The sources a configuration names.
#[derive(Clone)]
pub struct Collections {
    /// What is trained on.
    pub train: Arc<dyn Source>,
    /// What asks in the kNN figure; `None` where training pictures must.
    pub val: Option<Arc<dyn Source>>,
    /// A sentence for each path that holds a part for training and one for queries.
    pub found: Vec<String>,
}

impl Collections {
    /// Opens `data.path` and `data.val`; without a path, the built-in patterns. Without a `val`, what
    /// `data.path` holds for queries (`val/` beside `train/`, CIFAR's test batch, and so on) asks.
    ///
    /// # Errors
    /// [`Error::Input`] naming the path that can't be used.
    pub fn open(data: &Data) -> Result<Self, Error> {
        Self::open_by_key(data).map_err(|(_, error)| error)
    }

    /// As [`Collections::open`]; an error comes with the key whose path it is about.
    pub(crate) fn open_by_key(data: &Data) -> Result<Self, (&'static str, Error)> {
        let patterns = |split| -> Arc<dyn Source> {
            Arc::new(Patterns::new(split, PATTERNS, PATTERNS_SIZE, PATTERNS_SEED))
        };
        let options = Options {
            data_prefix: data.data_prefix.clone(),
        };
        let open = |paths: &Paths, wanted, options: &Options, key| {
            let opened = source::find(paths.as_slice(), wanted, options);
            opened.map_err(|error| (key, error.into()))
        };
        let mut opened = match &data.path {
            Some(paths) => {
                let wanted = match data.val {
                    Some(_) => Wanted::Train,
                    None => Wanted::Both,
                };
                open(paths, wanted, &options, "data.path")?
            }
            None => Opened {
                pictures: patterns(Split::Train),
                val: Some(patterns(Split::Val)),
                found: Vec::new(),
            },
        };
        if let Some(paths) = &data.val {
            let val = open(paths, Wanted::Queries, &Options::default(), "data.val")?;
            opened.val = Some(val.pictures);
            opened.found.extend(val.found);
        }
        Ok(Collections {
            train: opened.pictures,
            val: opened.val,
            found: opened.found,
        })
    }

    /// What a person should know about how the collections were understood, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.found.clone();
        notes.extend(self.train.notes());
        for note in self.val.iter().flat_map(|val| val.notes()) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        notes
    }

    /// Which pictures vote and which ask, at most `max_rows` voting, and a sentence about it where
    /// a person should know; `None` where there are no labels to measure with.
    pub fn knn_split(&self, config: &Config, max_rows: usize) -> (Option<KnnSplit>, Vec<String>) {
        KnnSplit::choose(
            self.train.as_ref(),
            self.val.as_deref(),
            config.seed,
            max_rows,
        )
    }
}

/// The two sides of a kNN figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnnSplit {
    /// Rows of the training source that vote, ascending.
    pub voters: Vec<u64>,
    /// Their labels.
    pub voter_labels: Vec<u32>,
    /// Rows that ask, ascending: of the other source if there is one, else of the training source.
    pub queries: Vec<u64>,
    /// Their labels, by the numbers of the training source.
    pub query_labels: Vec<u32>,
    /// Number of classes; labels are below.
    pub classes: usize,
    /// Whether the queries are training pictures.
    pub held_out: bool,
}

impl KnnSplit {
    /// Queries are `val`'s labelled pictures. Without a `val` they are a twentieth of the labelled
    /// training pictures, at most 2,000, drawn by `seed`, which then don't vote. Where more than
    /// `max_rows` could vote, `seed` draws those that do.
    pub fn choose(
        train: &dyn Source,
        val: Option<&dyn Source>,
        seed: u64,
        max_rows: usize,
    ) -> (Option<Self>, Vec<String>) {
        let mut notes = Vec::new();
        let none = |why: &str| {
            let note = format!("no kNN figure: {why}");
            (None, vec![note])
        };
        let label = |row: &u64| train.label(*row as usize);
        let labelled: Vec<u64> = (0..train.len() as u64)
            .filter(|row| label(row).is_some())
            .collect();
        let mut seen: Vec<u32> = labelled.iter().filter_map(label).collect();
        seen.sort_unstable();
        seen.dedup();
        match seen.len() {
            0 => {
                return none(
                    "the training pictures have no labels (sub-folders are classes; so is what a \
                     list file, a tar's .cls or a parquet file's column `label` says)",
                );
            }
            1 => return none("all labelled training pictures are of one class"),
            _ => {}
        }
        let mut classes = 1 + seen[seen.len() - 1] as usize;

        let mut voters = labelled;
        let (queries, query_labels) = match val {
            Some(val) => {
                let translate = Translation::between(val.classes(), train.classes());
                let mut unknown = 0;
                let (rows, labels): (Vec<u64>, Vec<u32>) = (0..val.len() as u64)
                    .filter_map(|row| Some((row, translate.label(val.label(row as usize)?))))
                    .map(|(row, label)| {
                        let known = label.filter(|label| seen.binary_search(label).is_ok());
                        unknown += usize::from(known.is_none());
                        // A class of its own beyond all others, which no voter has.
                        (row, known.unwrap_or(classes as u32))
                    })
                    .unzip();
                if rows.is_empty() {
                    return none(
                        "the query pictures have no labels (sub-folders are classes; so is what a \
                         list file, a tar's .cls or a parquet file's column `label` says)",
                    );
                }
                if unknown > 0 {
                    classes += 1;
                    notes.push(format!(
                        "{unknown} of {} queries are of classes that no training picture has; \
                         they count as wrong",
                        rows.len()
                    ));
                }
                (rows, labels)
            }
            None => {
                let count = (voters.len() / 20).clamp(1, MAX_HELD_OUT);
                let queries = take(&mut voters, count, seed, 0);
                let labels = queries.iter().filter_map(label).collect();
                notes.push(format!(
                    "kNN: {count} of the labelled training pictures ask and don't vote; give \
                     others with --val"
                ));
                (queries, labels)
            }
        };
        if voters.len() > max_rows {
            voters = take(&mut voters, max_rows, seed, 1);
        }
        let voter_labels = voters.iter().filter_map(label).collect();
        let split = KnnSplit {
            voters,
            voter_labels,
            queries,
            query_labels,
            classes,
            held_out: val.is_none(),
        };
        (Some(split), notes)
    }

    /// The source whose rows ask.
    pub fn query_source<'a>(&self, collections: &'a Collections) -> &'a Arc<dyn Source> {
        match &collections.val {
            Some(val) if !self.held_out => val,
            _ => &collections.train,
        }
    }
}

/// Takes `count` of `rows` out, drawn by the seed; both stay in ascending order.
fn take(rows: &mut Vec<u64>, count: usize, seed: u64, item: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    Stream::new(seed, Purpose::Split, 0, item, 0).shuffle(&mut order);
    let mut drawn = vec![false; rows.len()];
    order[..count].iter().for_each(|&i| drawn[i] = true);
    let (mut taken, mut left) = (Vec::with_capacity(count), Vec::new());
    for (&row, drawn) in rows.iter().zip(drawn) {
        if drawn { &mut taken } else { &mut left }.push(row);
    }
    *rows = left;
    taken
}

/// How one source's labels are said in another's: by the classes' names where both have names.
enum Translation {
    Same,
    ByName(Vec<Option<u32>>),
}

impl Translation {
    fn between(from: &[String], to: &[String]) -> Self {
        if from.is_empty() || to.is_empty() {
            return Translation::Same;
        }
        let position = |name: &String| to.iter().position(|t| t == name).map(|i| i as u32);
        Translation::ByName(from.iter().map(position).collect())
    }

    fn label(&self, label: u32) -> Option<u32> {
        match self {
            Translation::Same => Some(label),
            Translation::ByName(map) => map.get(label as usize).copied().flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use npid_data::source::{ContentHash, Description, Picture, PictureError};

    /// Labels and class names, no pictures.
    struct Labels(Vec<Option<u32>>, Vec<String>);

    impl Source for Labels {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn name(&self, row: usize) -> String {
            row.to_string()
        }
        fn label(&self, row: usize) -> Option<u32> {
            self.0[row]
        }
        fn classes(&self) -> &[String] {
            &self.1
        }
        fn picture(&self, _: usize) -> Result<Picture, PictureError> {
            Err(PictureError::new("no picture"))
        }
        fn content_hash(&self, _: usize) -> Result<ContentHash, PictureError> {
            Err(PictureError::new("no picture"))
        }
        fn describe(&self) -> Description {
            unimplemented!("not asked for")
        }
    }

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_seeded_twentieth_asks_and_does_not_vote() {
        let labels = (0..400).map(|i| (i % 10 != 9).then_some(i % 10)).collect();
        let source = Labels(labels, vec![]);
        let (split, notes) = KnnSplit::choose(&source, None, 3, 1000);
        let split = split.unwrap();
        assert_eq!((split.queries.len(), split.voters.len()), (18, 342));
        assert!(notes[0].contains("18"), "{notes:?}");
        assert!(split.voters.iter().all(|v| !split.queries.contains(v)));
        for (&row, &label) in split.queries.iter().zip(&split.query_labels) {
            assert_eq!(source.0[row as usize], Some(label));
        }
        let again = KnnSplit::choose(&source, None, 3, 1000).0.unwrap();
        assert_eq!(split, again);
        let other = KnnSplit::choose(&source, None, 4, 1000).0.unwrap();
        assert_ne!(split.queries, other.queries);
        let few = KnnSplit::choose(&source, None, 3, 100).0.unwrap();
        assert_eq!(few.queries, split.queries);
        assert_eq!(few.voters.len(), 100);
        assert!(few.voters.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn classes_are_matched_by_name() {
        let train = Labels(
            vec![Some(0), Some(1), Some(2)],
            names(&["ant", "bee", "cat"]),
        );
        let val = Labels(
            vec![Some(0), Some(1), None, Some(2)],
            names(&["bee", "cat", "dog"]),
        );
        let (split, notes) = KnnSplit::choose(&train, Some(&val), 0, 10);
        let split = split.unwrap();
        assert_eq!(split.queries, [0, 1, 3]);
        assert_eq!(split.query_labels, [1, 2, 3]);
        assert_eq!(split.classes, 4);
        assert!(notes[0].starts_with("1 of 3 queries"), "{notes:?}");
    }

    #[test]
    fn without_labels_there_is_no_figure() {
        let none = Labels(vec![None; 5], vec![]);
        let one = Labels(vec![Some(2); 5], vec![]);
        let two = Labels(vec![Some(0), Some(1)], vec![]);
        for (train, val, why) in [
            (&none, None, "no labels"),
            (&one, None, "one class"),
            (&two, Some(&none as &dyn Source), "query pictures"),
        ] {
            let (split, notes) = KnnSplit::choose(train, val, 0, 10);
            assert_eq!(split, None);
            assert!(notes[0].contains(why), "{notes:?}");
        }
    }
}
