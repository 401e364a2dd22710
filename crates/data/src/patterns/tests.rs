use super::*;
use std::collections::{HashMap, HashSet};

fn split(split: Split) -> Patterns {
    Patterns::new(split, 1000, 32, 0)
}

/// The data set must never change unnoticed: the figures published for it would no longer hold.
#[test]
fn pictures_are_pinned() {
    let hash = |split, seed, size, rows: std::ops::Range<usize>| {
        let patterns = Patterns::new(split, 20, size, seed);
        let bytes: Vec<u8> = rows.flat_map(|row| patterns.render(row)).collect();
        ContentHash::of(&bytes).to_string()
    };
    assert_eq!(
        hash(Split::Train, 0, 32, 0..20),
        "68dc00e7b4261dd6091ec8a95b0ac7fc177bac2e09f1bbfbd6d1548d4c42ae6d"
    );
    assert_eq!(
        hash(Split::Val, 0, 32, 0..20),
        "1d17d4ca0f4513eb2927d2e61d0de12b349c768bb4b001407a8ee83ccb628288"
    );
    assert_eq!(
        hash(Split::Train, 1 << 40 | 3, 45, 10..20),
        "a1ed68adc94eac593a01f547d119ecbd6de7235ed337ac8f647d98ebe77affbd"
    );
}

#[test]
fn a_picture_does_not_depend_on_the_number_of_pictures() {
    let few = Patterns::new(Split::Val, 8, 32, 5);
    let many = Patterns::new(Split::Val, 100, 32, 5);
    assert_eq!(few.picture(7).unwrap(), many.picture(7).unwrap());
    let (picture, hash) = many.picture_and_hash(7).unwrap();
    assert_eq!(picture.rgb.len(), 32 * 32 * 3);
    assert_eq!(hash, few.content_hash(7).unwrap());
}

#[test]
fn labels_are_balanced_and_named() {
    let patterns = split(Split::Train);
    let mut counts = [0; 10];
    for row in 0..patterns.len() {
        let label = patterns.label(row).unwrap() as usize;
        assert!(
            patterns
                .name(row)
                .starts_with(&format!("{}/", patterns.classes()[label]))
        );
        counts[label] += 1;
    }
    assert_eq!(counts, [100; 10]);
    assert!(CLASSES.is_sorted(), "a folder's classes are sorted");
}

#[test]
fn no_picture_occurs_twice_in_both_splits() {
    let mut seen = HashSet::new();
    for patterns in [
        split(Split::Train),
        split(Split::Val),
        Patterns::new(Split::Train, 1000, 32, 1),
    ] {
        for row in 0..patterns.len() {
            assert!(
                seen.insert(patterns.render(row)),
                "{} of {patterns:?}",
                patterns.name(row)
            );
        }
    }
}

/// The nearest training picture by squared distance of pixels names the class hardly better than
/// chance (10 %): what the network gains over this figure it has learned.
#[test]
fn raw_pixels_do_not_tell_the_classes_apart() {
    for seed in 0..3 {
        let train = Patterns::new(Split::Train, 1000, 32, seed);
        let val = Patterns::new(Split::Val, 500, 32, seed);
        let rows: Vec<Vec<u8>> = (0..train.len()).map(|row| train.render(row)).collect();
        let right = (0..val.len())
            .filter(|&query| {
                let pixels = val.render(query);
                let distance = |row: &Vec<u8>| -> i32 {
                    let differences = row.iter().zip(&pixels);
                    differences
                        .map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2))
                        .sum()
                };
                let nearest = (0..rows.len()).min_by_key(|&row| distance(&rows[row]));
                nearest.and_then(|row| train.label(row)) == val.label(query)
            })
            .count();
        let top1 = 100.0 * right as f64 / val.len() as f64;
        assert!(top1 < 25.0, "seed {seed}: {top1} %");
    }
}

/// Each class is a pattern of both colours, not one that fills or empties the picture, at every
/// scale that is drawn.
#[test]
fn figure_and_ground_are_both_seen() {
    for (label, class) in CLASSES.into_iter().enumerate() {
        for item in 0..200 {
            let mut stream = Stream::new(0, Purpose::Bench, label as u32, item, 0);
            let shape = Shape::draw(label, &mut stream);
            let points = (0..64 * 64).map(|i| {
                (
                    f64::from(i % 64) / 2.0 - 16.0,
                    f64::from(i / 64) / 2.0 - 16.0,
                )
            });
            let figure = points.filter(|&(u, v)| shape.contains(u, v)).count();
            let share = figure as f64 / (64.0 * 64.0);
            assert!((0.08..0.85).contains(&share), "{class} {item}: {share}");
        }
    }
}

/// The size is the resolution alone: 96x96 averaged to 32x32 is the 32x32 picture, but for the
/// noise (at most 3 % of the range) and the antialiasing of edges.
#[test]
fn a_larger_picture_shows_the_same() {
    let (small, large) = (
        Patterns::new(Split::Train, 40, 32, 2),
        Patterns::new(Split::Train, 40, 96, 2),
    );
    for row in 0..40 {
        let (a, b) = (small.render(row), large.render(row));
        let mut total = 0.0;
        for (i, &value) in a.iter().enumerate() {
            let (pixel, channel) = (i / 3, i % 3);
            let (x, y) = (pixel % 32 * 3 + 1, pixel / 32 * 3 + 1);
            let mut mean = 0.0;
            for near in 0..9 {
                let (x, y) = (x + near % 3 - 1, y + near / 3 - 1);
                mean += f64::from(b[(y * 96 + x) * 3 + channel]) / 9.0;
            }
            total += (mean - f64::from(value)).abs();
        }
        let mean = total / a.len() as f64;
        assert!(mean < 10.0, "{}: {mean}", small.name(row));
    }
}

/// What is written and opened as a folder has the built-in rows' names, labels and pictures.
#[test]
fn written_files_hold_the_same_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new").join("patterns");
    write(&dir, 30, 20, 32, 4).unwrap();
    for (split, count) in [(Split::Train, 30), (Split::Val, 20)] {
        let patterns = Patterns::new(split, count, 32, 4);
        let opened = crate::source::open(&dir.join(split.name())).unwrap();
        assert_eq!(opened.classes(), patterns.classes());
        assert_eq!(opened.len(), count);
        let rows: HashMap<String, usize> = (0..count).map(|row| (opened.name(row), row)).collect();
        for row in 0..count {
            let file = rows[&patterns.name(row)];
            assert_eq!(opened.label(file), patterns.label(row));
            assert_eq!(opened.picture(file), patterns.picture(row));
        }
    }
}

#[test]
fn a_folder_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let error = write(folder.path(), 10, 10, 32, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: the folder isn't empty; name a new one",
            folder.path().display()
        )
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let file = folder.path().join("notes.txt");
    let error = write(&file, 10, 10, 32, 0).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{}: cannot be written (", file.display())),
        "{error}"
    );
}
