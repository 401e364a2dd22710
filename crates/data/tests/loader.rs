//! The loader: order, replacement of what can't be read, and independence of threads.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{jpeg, picture, png, write};
use npid_data::augment::{EvalView, Extent, Pipeline, RandomResizedCrop, Transform, Workspace};
use npid_data::loader::{
    Batch, Epoch, LoadError, LoadOptions, Loader, Reader, epoch_order, steps_per_epoch,
};
use npid_data::source::{ContentHash, Description, Picture, PictureError, Source, open};
use npid_network::philox::{Purpose, Stream};

/// Pictures made on the spot, some of which can't be read; counts how often each was tried.
struct Made {
    bad: BTreeSet<usize>,
    tried: Vec<AtomicUsize>,
}

impl Made {
    fn new(images: usize, bad: &[usize]) -> Arc<Self> {
        Arc::new(Made {
            bad: bad.iter().copied().collect(),
            tried: (0..images).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    fn tries(&self, row: usize) -> usize {
        self.tried[row].load(Ordering::Relaxed)
    }
}

impl Source for Made {
    fn len(&self) -> usize {
        self.tried.len()
    }
    fn name(&self, row: usize) -> String {
        format!("made/{row}")
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn picture(&self, row: usize) -> Result<Picture, PictureError> {
        self.tried[row].fetch_add(1, Ordering::Relaxed);
        if self.bad.contains(&row) {
            return Err(PictureError::new(format!("bad {row}")));
        }
        Ok(picture(20 + row % 7, 17 + row % 5, row as u8))
    }
    fn content_hash(&self, row: usize) -> Result<ContentHash, PictureError> {
        Ok(ContentHash::of(&row.to_le_bytes()))
    }
    fn describe(&self) -> Description {
        unreachable!("loading needs no description")
    }
}

fn pipeline() -> Arc<Pipeline> {
    let mut steps = npid_data::augment::preset("cifar-npid-flip").unwrap();
    steps[0] = Transform::RandomResizedCrop(RandomResizedCrop {
        size: Extent::Square(8),
        scale: [0.2, 1.0],
        ratio: [0.75, 1.333],
        interpolation: Default::default(),
    });
    Arc::new(Pipeline::new(steps).unwrap())
}

fn options(batch_size: usize, threads: usize) -> LoadOptions {
    LoadOptions {
        batch_size,
        threads,
        ahead: 2,
        hashes: true,
    }
}

fn epoch(first_step: usize) -> Epoch {
    Epoch {
        seed: 5,
        epoch: 3,
        first_step,
        drop_last: false,
    }
}

fn load(source: &Arc<Made>, threads: usize, first_step: usize, excluded: &[u64]) -> Vec<Batch> {
    let excluded = excluded.iter().copied().collect();
    Loader::new(
        source.clone(),
        pipeline(),
        options(21, threads),
        epoch(first_step),
        &excluded,
    )
    .collect::<Result<_, _>>()
    .unwrap()
}

const BAD: [usize; 8] = [0, 3, 4, 5, 50, 77, 98, 99];

#[test]
fn threads_change_nothing() {
    let source = Made::new(100, &BAD);
    let one = load(&source, 1, 0, &[]);
    assert_eq!(
        one.iter().map(Batch::len).collect::<Vec<_>>(),
        [21, 21, 21, 21, 16]
    );
    for threads in [2, 5] {
        assert!(load(&source, threads, 0, &[]) == one, "{threads} threads");
    }
    // Each unreadable row once, by the first batch that met it.
    let skipped: Vec<u64> = one
        .iter()
        .flat_map(|b| b.skipped.iter().map(|s| s.row))
        .collect();
    let mut sorted = skipped.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, BAD.map(|row| row as u64));
    let order = epoch_order(100, &BTreeSet::new(), 5, 3);
    for (step, batch) in one.iter().enumerate() {
        for skip in &batch.skipped {
            let position = order.iter().position(|&row| row == skip.row).unwrap();
            // Its own batch, or an earlier one that ran into it looking for a replacement.
            assert!(
                position / 21 >= step,
                "{skip:?} at {position} in batch {step}"
            );
            assert_eq!(skip.name, format!("made/{}", skip.row));
            assert_eq!(skip.reason, format!("bad {}", skip.row));
        }
    }
}

#[test]
fn the_next_in_order_takes_the_place_of_what_cannot_be_read() {
    let source = Made::new(100, &BAD);
    let order = epoch_order(100, &BTreeSet::new(), 5, 3);
    let is_bad = |position: usize| BAD.contains(&(order[position % 100] as usize));
    let mut replaced = 0;
    let (mut position, mut workspace) = (0, Workspace::default());
    for batch in load(&source, 3, 0, &[]) {
        let bytes = batch.pixels.chunks_exact(8 * 8 * 3);
        assert_eq!(bytes.len(), batch.len());
        for (index, pixels) in bytes.enumerate() {
            let distance = (0..100).find(|&d| !is_bad(position + d)).unwrap();
            let row = order[(position + distance) % 100];
            assert_eq!(batch.rows[index], row);
            assert_eq!(batch.occurrences[index], distance as u32);
            assert_eq!(
                batch.hashes[index],
                ContentHash::of(&(row as usize).to_le_bytes())
            );
            // Drawn from (seed, epoch, row, occurrence) and nothing else.
            let mut stream = Stream::new(5, Purpose::Augment, 3, row, distance as u32);
            let shown = source.picture(row as usize).unwrap();
            let mut expected = vec![0; 8 * 8 * 3];
            pipeline().augment(&shown, &mut stream, &mut workspace, &mut expected);
            assert!(pixels == expected, "position {position}");
            replaced += usize::from(distance > 0);
            position += 1;
        }
    }
    assert_eq!((position, replaced), (100, BAD.len()));
}

#[test]
fn an_epoch_can_be_entered_at_any_step() {
    let source = Made::new(100, &BAD);
    let whole = load(&source, 2, 0, &[]);
    for first in 0..=5 {
        let tail = load(&source, 2, first, &[]);
        assert_eq!(tail.len(), 5 - first);
        for (late, early) in tail.iter().zip(&whole[first..]) {
            assert!(late.pixels == early.pixels, "from {first}");
            assert_eq!(late.rows, early.rows);
            assert_eq!(late.occurrences, early.occurrences);
        }
    }
    assert!(load(&source, 2, 9, &[]).is_empty());
}

#[test]
fn excluded_rows_are_not_even_tried() {
    let source = Made::new(100, &BAD);
    let excluded = [0, 3, 4, 5, 50, 77, 98];
    let batches = load(&source, 2, 0, &excluded);
    let shown: usize = batches.iter().map(Batch::len).sum();
    assert_eq!(shown, 93);
    assert!(excluded.iter().all(|&row| source.tries(row as usize) == 0));
    let skipped: Vec<u64> = batches
        .iter()
        .flat_map(|b| b.skipped.iter().map(|s| s.row))
        .collect();
    assert_eq!(skipped, [99]);
}

#[test]
fn epochs_and_seeds_differ_and_every_row_comes_once() {
    let none = BTreeSet::new();
    let order = epoch_order(1000, &none, 0, 0);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<u64>>());
    assert_ne!(order, sorted);
    assert_ne!(order, epoch_order(1000, &none, 0, 1));
    assert_ne!(order, epoch_order(1000, &none, 1, 0));
    assert_eq!(order, epoch_order(1000, &none, 0, 0));
    assert_eq!(steps_per_epoch(100, 21, false), 5);
    assert_eq!(steps_per_epoch(100, 21, true), 4);
}

#[test]
fn the_last_batch_can_be_dropped() {
    let source = Made::new(50, &[]);
    let epoch = Epoch {
        drop_last: true,
        ..epoch(0)
    };
    let mut loader = Loader::new(source, pipeline(), options(40, 2), epoch, &BTreeSet::new());
    assert_eq!((loader.steps(), loader.images()), (1, 50));
    let batch = loader.next().unwrap().unwrap();
    assert_eq!(batch.len(), 40);
    loader.recycle(batch);
    assert!(loader.next().is_none());
}

#[test]
fn a_recycled_batch_leaves_nothing_behind() {
    let source = Made::new(100, &BAD);
    let fresh = load(&source, 2, 0, &[]);
    let mut loader = Loader::new(
        source,
        pipeline(),
        options(21, 2),
        epoch(0),
        &BTreeSet::new(),
    );
    for expected in fresh {
        let batch = loader.next().unwrap().unwrap();
        assert!(batch == expected);
        loader.recycle(batch);
    }
}

#[test]
fn nothing_readable_is_an_error_and_not_a_search_for_ever() {
    let source = Made::new(30, &(0..30).collect::<Vec<_>>());
    let mut loader = Loader::new(
        source.clone(),
        pipeline(),
        options(10, 2),
        epoch(0),
        &BTreeSet::new(),
    );
    let error = loader.next().unwrap().unwrap_err();
    assert!(
        matches!(error, LoadError::NothingReadable { images: 30, .. }),
        "{error}"
    );
    assert!(loader.next().is_none());
    drop(loader);
    // Two threads may both try a row before either knows; more tries would be a search anew.
    assert!((0..30).all(|row| source.tries(row) <= 2));
}

#[test]
fn dropping_a_loader_releases_its_source() {
    let source = Made::new(1000, &[]);
    let mut loader = Loader::new(
        source.clone(),
        pipeline(),
        options(16, 3),
        epoch(0),
        &BTreeSet::new(),
    );
    loader.next().unwrap().unwrap();
    drop(loader);
    assert_eq!(Arc::strong_count(&source), 1);
}

#[test]
fn views_are_read_in_order_and_what_cannot_be_read_is_left_out() {
    let source = Made::new(100, &BAD);
    // Ends with unreadable rows, after the last batch is full.
    let rows: Vec<u64> = (0..100).rev().chain([7, 7, 0, 3]).collect();
    let expected: Vec<u64> = rows
        .iter()
        .copied()
        .filter(|row| !BAD.contains(&(*row as usize)))
        .collect();
    assert_eq!(expected.len(), 94);
    for threads in [1, 2, 5] {
        let view = EvalView { size: 12 };
        let mut reader = Reader::new(source.clone(), view, rows.clone(), options(47, threads));
        let batches: Vec<Batch> = reader.by_ref().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [47, 47]);
        let got: Vec<u64> = batches.iter().flat_map(|b| b.rows.clone()).collect();
        assert_eq!(got, expected);
        let mut pixels = vec![0; 12 * 12 * 3];
        for batch in &batches {
            for (row, view_pixels) in batch.rows.iter().zip(batch.pixels.chunks_exact(432)) {
                let shown = source.picture(*row as usize).unwrap();
                view.apply(&shown, &mut Workspace::default(), &mut pixels);
                assert!(view_pixels == pixels, "row {row}");
            }
        }
        let skipped: Vec<u64> = reader.skipped().iter().map(|s| s.row).collect();
        assert_eq!(skipped, [99, 98, 77, 50, 5, 4, 3, 0]);
    }
}

/// Real files: a JPEG cut short and a text that is named like one.
#[test]
fn damaged_files_are_skipped_and_named() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..10u8 {
        let name = format!("{}/{index}.jpg", ["a", "b"][usize::from(index % 2)]);
        write(dir.path(), &name, &jpeg(&picture(30, 20, index)));
    }
    let whole = jpeg(&picture(64, 64, 1));
    write(dir.path(), "a/cut.jpg", &whole[..whole.len() * 2 / 3]);
    write(dir.path(), "b/text.jpg", b"This is not a picture at all.");
    write(dir.path(), "b/really-png.jpg", &png(&picture(9, 9, 4)));
    let source = open(dir.path()).unwrap();
    let mut loader = Loader::new(
        source.clone(),
        pipeline(),
        options(4, 2),
        epoch(0),
        &BTreeSet::new(),
    );
    let mut shown = BTreeMap::new();
    let mut skipped = BTreeMap::new();
    for batch in loader.by_ref().map(Result::unwrap) {
        for row in batch.rows {
            *shown.entry(source.name(row as usize)).or_insert(0) += 1;
        }
        skipped.extend(batch.skipped.into_iter().map(|s| (s.name, s.reason)));
    }
    assert_eq!(shown.values().sum::<i32>(), 13);
    assert_eq!(shown.len(), 11);
    assert!(shown.contains_key("b/really-png.jpg"));
    let skipped: Vec<_> = skipped
        .iter()
        .map(|(n, r)| (n.as_str(), r.as_str()))
        .collect();
    assert_eq!(
        skipped,
        [
            ("a/cut.jpg", "the JPEG is cut short"),
            ("b/text.jpg", "not a JPEG, PNG, WebP, BMP, TIFF or GIF"),
        ]
    );
}
