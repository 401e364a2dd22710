//! Several collections as one, their rows in the order given.

use std::collections::HashMap;
use std::sync::Arc;

use super::{ContentHash, Description, Error, Picture, PictureError, Source};

/// Collections one after the other.
///
/// Labels are merged by the classes' names: a class that two collections have is one class. Those of
/// a collection whose classes have no names are named by their numbers, if another's have names; if
/// none have, numbers are taken as they are. Numbers are given in the order of the collections, so
/// that the first one's stay.
pub struct Joined {
    parts: Vec<Part>,
    /// First row of each part, and the number of rows at the end.
    starts: Vec<usize>,
    classes: Vec<String>,
    /// In place of the parts' own.
    kind: Option<String>,
}

struct Part {
    source: Arc<dyn Source>,
    /// Stands before the names of its pictures.
    prefix: String,
    /// What its labels become, by label; `None` where they stay.
    labels: Option<HashMap<u32, u32>>,
}

impl Joined {
    /// Joins sources; each comes with what is put before its pictures' names, as `a/`. `kind` says
    /// what they are together; without it their own kinds are named.
    pub fn new(sources: Vec<(String, Arc<dyn Source>)>, kind: Option<String>) -> Self {
        let mut starts = vec![0];
        for (_, source) in &sources {
            starts.push(starts[starts.len() - 1] + source.len());
        }
        let labels_of = |source: &dyn Source| {
            let mut labels: Vec<u32> = (0..source.len()).filter_map(|r| source.label(r)).collect();
            labels.sort_unstable();
            labels.dedup();
            labels
        };
        let named = sources.iter().any(|(_, s)| !s.classes().is_empty());
        let alike = sources
            .windows(2)
            .all(|pair| pair[0].1.classes() == pair[1].1.classes());
        let mut classes: Vec<String> = Vec::new();
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let parts = sources.into_iter().map(|(prefix, source)| {
            let labels = (named && !alike).then(|| {
                let own = source.classes();
                // Every named class, whether or not it has pictures, and every number in use.
                let mut used = labels_of(source.as_ref());
                used.extend(0..own.len() as u32);
                used.sort_unstable();
                used.dedup();
                let number = |label: u32| {
                    let name = own.get(label as usize).cloned();
                    let name = name.unwrap_or_else(|| label.to_string());
                    *numbers.entry(name).or_insert_with_key(|name| {
                        classes.push(name.clone());
                        classes.len() as u32 - 1
                    })
                };
                let mut number = number;
                used.into_iter().map(|l| (l, number(l))).collect()
            });
            Part {
                source,
                prefix,
                labels,
            }
        });
        let parts: Vec<Part> = parts.collect();
        if named && alike {
            classes = parts[0].source.classes().to_vec();
        }
        Joined {
            parts,
            starts,
            classes,
            kind,
        }
    }

    /// The part that a row is of, and its row there.
    fn part(&self, row: usize) -> (&Part, usize) {
        let part = self.starts.partition_point(|&start| start <= row) - 1;
        (&self.parts[part], row - self.starts[part])
    }
}

impl Source for Joined {
    fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn name(&self, row: usize) -> String {
        let (part, row) = self.part(row);
        format!("{}{}", part.prefix, part.source.name(row))
    }

    fn label(&self, row: usize) -> Option<u32> {
        let (part, row) = self.part(row);
        let label = part.source.label(row)?;
        match &part.labels {
            None => Some(label),
            Some(labels) => labels.get(&label).copied(),
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        let (part, row) = self.part(row);
        part.source.picture(row)
    }

    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        let (part, row) = self.part(row);
        part.source.content_hash(row)
    }

    fn picture_and_hash(&self, row: usize) -> Result<(Picture, ContentHash), PictureError> {
        let (part, row) = self.part(row);
        part.source.picture_and_hash(row)
    }

    fn column(&self, name: &str) -> Result<Vec<f64>, Error> {
        let mut all = Vec::with_capacity(self.len());
        for part in &self.parts {
            all.extend(part.source.column(name)?);
        }
        Ok(all)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for part in &self.parts {
            for note in part.source.notes() {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        notes
    }

    fn describe(&self) -> Description {
        let parts: Vec<Description> = self.parts.iter().map(|p| p.source.describe()).collect();
        let mut kinds: Vec<&str> = Vec::new();
        let mut formats: Vec<(String, usize)> = Vec::new();
        for part in &parts {
            if !kinds.contains(&part.kind.as_str()) {
                kinds.push(&part.kind);
            }
            for (format, images) in &part.formats {
                match formats.iter_mut().find(|(known, _)| known == format) {
                    Some((_, sum)) => *sum += images,
                    None => formats.push((format.clone(), *images)),
                }
            }
        }
        formats.sort_by_key(|(_, images)| std::cmp::Reverse(*images));
        let mut classes = self.classes.len();
        if self.classes.is_empty() {
            classes = parts.iter().map(|part| part.classes).max().unwrap_or(0);
        }
        Description {
            kind: self.kind.clone().unwrap_or_else(|| kinds.join(" + ")),
            images: self.len(),
            classes,
            labelled: parts.iter().map(|part| part.labelled).sum(),
            formats,
            bytes: parts.iter().map(|part| part.bytes).sum(),
            notes: self.notes(),
        }
    }
}
