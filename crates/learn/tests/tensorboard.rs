//! Event files as their format describes them, read back without the code that writes them, and
//! what a reader makes of several of them.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use npid_learn::tensorboard::proto::{Event, Kind, SessionStatus, What};
use prost::Message;

/// CRC32C bit by bit: the reflected polynomial 0x82f63b78.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg())
        })
    })
}

fn masked(bytes: &[u8]) -> u32 {
    let crc = crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The whole records of a file, and how many bytes of an incomplete one follow.
fn events(path: &Path) -> (Vec<Event>, usize) {
    let bytes = fs::read(path).unwrap();
    let mut left = &bytes[..];
    let mut events = Vec::new();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    while left.len() >= 12 {
        let length = u64::from_le_bytes(left[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&left[8..12]), masked(&left[..8]), "a length's CRC");
        let Some(data) = left.get(12..12 + length) else {
            break;
        };
        let Some(crc) = left.get(12 + length..16 + length) else {
            break;
        };
        assert_eq!(number(crc), masked(data), "a record's CRC");
        events.push(Event::decode(data).unwrap());
        left = &left[16 + length..];
    }
    (events, left.len())
}

/// A run's event files in the order in which TensorBoard reads them.
fn files(run: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("tfevents"))
        .collect();
    all.sort();
    all
}

type Series = BTreeMap<String, Vec<(i64, Kind)>>;

/// What TensorBoard shows: all values by tag. The first start of a session is its beginning; a
/// further one drops the values of its step and of later ones.
fn shown(run: &Path) -> Series {
    let mut series = Series::new();
    let mut begun = false;
    for path in files(run) {
        for event in events(&path).0 {
            match event.what.unwrap() {
                What::FileVersion(version) => assert_eq!(version, "brain.Event:2"),
                What::SessionLog(log) => {
                    assert_eq!(log.status, SessionStatus::Start as i32);
                    for values in series.values_mut().filter(|_| begun) {
                        values.retain(|&(step, _)| step < event.step);
                    }
                    begun = true;
                }
                What::Summary(summary) => {
                    for value in summary.value {
                        let values = series.entry(value.tag).or_default();
                        values.push((event.step, value.kind.unwrap()));
                    }
                }
            }
        }
    }
    series
}

/// The same without what clocks said.
fn shown_without_clocks(run: &Path) -> Series {
    let mut series = shown(run);
    series.retain(|tag, _| !tag.ends_with("_s"));
    series
}

fn numbers(series: &Series, tag: &str) -> Vec<(i64, f32)> {
    let number = |(step, kind): &(i64, Kind)| match kind {
        Kind::SimpleValue(value) => (*step, *value),
        _ => panic!("{tag} is no number"),
    };
    series[tag].iter().map(number).collect()
}

#[test]
fn the_check_sum_is_the_one_that_the_format_names() {
    // RFC 3720, B.4: 32 bytes of zeros, of ones, and rising.
    let rising: Vec<u8> = (0..32).collect();
    let of = [crc32c(&[0; 32]), crc32c(&[0xff; 32]), crc32c(&rising)];
    assert_eq!(of, [0x8a91_36aa, 0x62a8_ab43, 0x46dd_794e]);
}

#[test]
fn everything_in_the_metrics_is_in_the_event_file() {
    let pictures = pictures();
    let config = config(pictures.path(), &[]);
    let run = pictures.path().join("run");
    train(&config, &run).unwrap();
    assert_eq!(files(&run).len(), 1);
    let series = shown(&run);
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expect = |tag: &str, kind: &str, field: &str, subject: Option<&str>| {
        let of = lines.iter().filter(|line| {
            line["kind"] == kind && line.get(field).is_some() && line["subject"].as_str() == subject
        });
        let values: Vec<(i64, f32)> = of
            .map(|line| {
                let value = line[field].as_f64().unwrap();
                (line["step"].as_i64().unwrap(), value as f32)
            })
            .collect();
        assert!(!values.is_empty(), "{tag}");
        (tag.to_string(), values)
    };
    let mut expected = vec![
        expect("eval/knn_top1_pixels", "knn", "knn_top1", Some("pixels")),
        expect("eval/knn_top5_pixels", "knn", "knn_top5", Some("pixels")),
    ];
    for field in ["loss", "lr", "images_per_s", "wait_s", "step_s"] {
        expected.push(expect(&format!("train/{field}"), "step", field, None));
    }
    let of_epochs = [
        "loss",
        "lr",
        "images_per_s",
        "spread",
        "bank_staleness",
        "bank_alignment",
        "bank_uniformity",
        "bank_effective_negatives",
        "bank_norm_drift",
        "skipped",
        "wait_s",
        "step_s",
        "forward_s",
        "backward_s",
        "bank_s",
        "optimizer_s",
        "eval_s",
    ];
    for field in of_epochs {
        expected.push(expect(&format!("epoch/{field}"), "epoch", field, None));
    }
    for field in ["knn_top1", "knn_top5"] {
        // The untrained network's figure is where the curve begins.
        let (tag, mut values) = expect(&format!("eval/{field}"), "knn", field, Some("untrained"));
        values.extend(expect(&tag, "epoch", field, None).1);
        expected.push((tag, values));
    }
    let mut tags: Vec<&str> = expected.iter().map(|(tag, _)| tag.as_str()).collect();
    for (tag, values) in &expected {
        assert_eq!(&numbers(&series, tag), values, "{tag}");
    }
    let others = ["similarity/other_rows", "similarity/own_row", "train/views"];
    tags.extend(others);
    tags.sort();
    assert_eq!(series.keys().collect::<Vec<_>>(), tags);

    // 40 pictures can be read: each has its own row, and 39 others.
    for (tag, count) in [(others[0], 40.0 * 39.0), (others[1], 40.0)] {
        let steps: Vec<i64> = series[tag].iter().map(|&(step, _)| step).collect();
        assert_eq!(steps, [7, 14, 21]);
        for (_, kind) in &series[tag] {
            let Kind::Histo(histogram) = kind else {
                panic!("{tag} is no histogram");
            };
            assert_eq!(histogram.num, count);
            assert_eq!(histogram.bucket.iter().sum::<f64>(), count);
        }
    }

    let [(0, Kind::Image(image))] = &series[others[2]][..] else {
        panic!("one picture at the start");
    };
    let png = png::Decoder::new(std::io::Cursor::new(&image.encoded_image_string));
    let info = png.read_info().unwrap().info().size();
    // Six pictures of 8 x 8, each with five views, and gaps of two pixels.
    assert_eq!(info, (6 * 10 + 2, 6 * 10 + 2));
    assert_eq!((image.width, image.height), (62, 62));
}

#[test]
fn an_image_s_own_row_is_told_from_the_others() {
    // A network that stands still and rows that are the last view's feature: an image is nearer to
    // its own row than to others.
    let sets = [
        "optimizer.lr=1e-9",
        "model.memory_bank.momentum=1.0",
        "runner.max_epochs=30",
    ];
    let pictures = pictures();
    let run = pictures.path().join("run");
    train(&config(pictures.path(), &sets), &run).unwrap();
    let series = shown(&run);
    let mean = |tag: &str| match series[tag].last() {
        Some((_, Kind::Histo(histogram))) => histogram.sum / histogram.num,
        _ => panic!("{tag} is no histogram"),
    };
    let (own, others) = (mean("similarity/own_row"), mean("similarity/other_rows"));
    assert!(own > others + 0.05, "{own}, {others}");
}

#[test]
fn a_resumed_run_shows_every_step_once() {
    let pictures = pictures();
    let config = config(pictures.path(), &[]);
    let whole = pictures.path().join("whole");
    train(&config, &whole).unwrap();
    let expected = shown_without_clocks(&whole);

    // In mid-epoch; after an epoch's last step, before its evaluation; at the very end.
    for at in [4, 7, 16, 21] {
        let run = pictures.path().join(format!("run-{at}"));
        train_until(&config, &run, at);
        resume(&run, &mut Listener::default()).unwrap();
        assert_eq!(files(&run).len(), 2);
        assert_eq!(shown_without_clocks(&run), expected, "stopped after {at}");
    }

    // Killed after records that no checkpoint covers, the last of them half written: what a later
    // stop wrote stands in for them.
    for (checkpoint, killed) in [(4, 6), (7, 9), (7, 14)] {
        let run = pictures
            .path()
            .join(format!("killed-{checkpoint}-{killed}"));
        train_until(&config, &run, checkpoint);
        let later = pictures.path().join(format!("later-{checkpoint}-{killed}"));
        train_until(&config, &later, killed);
        let mut bytes = fs::read(&files(&later)[0]).unwrap();
        bytes.truncate(bytes.len() - 5);
        fs::write(&files(&run)[0], bytes).unwrap();
        let (whole_ones, rest) = events(&files(&run)[0]);
        assert!(whole_ones.len() > 5 && rest > 0);
        resume(&run, &mut Listener::default()).unwrap();
        assert_eq!(
            shown_without_clocks(&run),
            expected,
            "{checkpoint}, {killed}"
        );
    }

    // Killed between an epoch's line and its checkpoint, by one of its last step.
    let run = pictures.path().join("line");
    train_until(&config, &run, 7);
    let whole_file = fs::read(&files(&whole)[0]).unwrap();
    fs::write(&files(&run)[0], whole_file).unwrap();
    resume(&run, &mut Listener::default()).unwrap();
    assert_eq!(shown_without_clocks(&run), expected);

    // Killed before the first checkpoint, after the first figures.
    let run = pictures.path().join("early");
    train_until(&config, &run, 1);
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    resume(&run, &mut Listener::default()).unwrap();
    assert_eq!(shown_without_clocks(&run), expected);

    // A finished run has nothing to add.
    resume(&run, &mut Listener::default()).unwrap();
    assert_eq!(files(&run).len(), 2);
}

#[test]
fn event_files_can_be_switched_off_and_change_no_result() {
    let pictures = pictures();
    let with = pictures.path().join("with");
    train(&config(pictures.path(), &[]), &with).unwrap();
    let without = pictures.path().join("without");
    train(
        &config(pictures.path(), &["log.tensorboard=false"]),
        &without,
    )
    .unwrap();
    assert!(files(&without).is_empty());
    assert_eq!(metrics(&with), metrics(&without));
    assert_eq!(checkpoints(&with), checkpoints(&without));
}
