//! What a finished run is asked.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::*;
use npid_learn::checkpoint::Choice;
use npid_learn::eval::{self, Options};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

/// Path, label, split and row of each line of an embedding's table.
fn table(path: &Path) -> Vec<(String, i64, String, i64)> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| {
        let row = row.unwrap();
        (
            row.get_string(0).unwrap().clone(),
            row.get_long(1).unwrap(),
            row.get_string(2).unwrap().clone(),
            row.get_long(3).unwrap(),
        )
    })
    .collect()
}

/// The numbers of an array, after its header.
fn array(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let numbers = bytes[128..].chunks_exact(4);
    numbers
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Top-1 of the weighted vote, as plainly as it can be written.
fn plain_knn(features: &[f32], table: &[(String, i64, String, i64)], k: usize, tau: f64) -> f64 {
    let dim = features.len() / table.len();
    let row = |i: usize| &features[i * dim..(i + 1) * dim];
    let of = |split: &str| {
        (0..table.len())
            .filter(|&i| table[i].2 == split)
            .collect::<Vec<_>>()
    };
    let (train, val) = (of("train"), of("val"));
    let right = val.iter().filter(|&&query| {
        let mut near: Vec<(f64, i64)> = (train.iter())
            .map(|&i| {
                let dot: f32 = row(query).iter().zip(row(i)).map(|(a, b)| a * b).sum();
                (f64::from(dot), table[i].1)
            })
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = [0f64; 10];
        near.iter()
            .take(k)
            .for_each(|(s, c)| votes[*c as usize] += (s / tau).exp());
        let best = (0..10)
            .rev()
            .max_by(|&a, &b| votes[a].total_cmp(&votes[b]))
            .unwrap();
        best as i64 == table[query].1
    });
    100.0 * right.count() as f64 / val.len() as f64
}

#[test]
fn the_figure_the_evaluation_and_the_embedding_agree() {
    let pictures = pictures();
    let run = pictures.path().join("run");
    let config = config(pictures.path(), &["optimizer.lr=0.02"]);
    let summary = train(&config, &run).unwrap();
    let before = (checkpoints(&run), metrics(&run));
    let stop = AtomicBool::new(false);
    let options = Options {
        checkpoint: Choice::Last,
        threads: 1,
        workers: None,
        stop: &stop,
    };
    let report = eval::evaluate_knn(&run, &[], None, None, &options, reference, &mut ()).unwrap();
    assert_eq!(Some(report.knn_top1), summary.knn_top1);
    assert_eq!(Some(report.knn_top5), summary.knn_top5);
    assert_eq!((report.k, report.tau), (5, 0.1));
    assert_eq!((report.queries, report.rows), (20, 40));

    let out = pictures.path().join("features.npy");
    let mut listener = Listener::default();
    let embedded = eval::embed(&run, &[], &out, &options, reference, &mut listener).unwrap();
    assert_eq!((embedded.rows, embedded.dim), (60, 4));
    let names: Vec<&str> = embedded
        .skipped
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["dots/notes.jpg", "rays/short.png"]);
    let (features, lines) = (array(&out), table(&embedded.table));
    assert_eq!((features.len(), lines.len()), (240, 60));
    for row in features.chunks_exact(4) {
        let norm: f32 = row.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
    assert_eq!(plain_knn(&features, &lines, 5, 0.1), report.knn_top1);
    let other =
        eval::evaluate_knn(&run, &[], Some(9), Some(0.5), &options, reference, &mut ()).unwrap();
    assert_eq!(plain_knn(&features, &lines, 9, 0.5), other.knn_top1);
    assert_eq!(other.k, 9);

    // A row of the table is the picture of its name: the same features come from a folder that
    // holds it alone.
    let at = lines
        .iter()
        .position(|line| line.0.starts_with("rays/") && line.2 == "train");
    let at = at.unwrap();
    let alone = pictures.path().join("alone/rays");
    fs::create_dir_all(&alone).unwrap();
    let from = pictures.path().join("pictures/train").join(&lines[at].0);
    fs::copy(from, alone.join("x.png")).unwrap();
    let one = pictures.path().join("one.npy");
    let data = pictures.path().join("alone");
    let single = eval::embed(
        &run,
        std::slice::from_ref(&data),
        &one,
        &options,
        reference,
        &mut (),
    )
    .unwrap();
    assert_eq!(array(&one), features[at * 4..at * 4 + 4]);
    assert_eq!(table(&single.table)[0].2, "data");

    // Asking changes nothing, and what is there isn't overwritten.
    assert_eq!((checkpoints(&run), metrics(&run)), before);
    let again = eval::embed(&run, &[], &out, &options, reference, &mut ()).unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
    assert_eq!(again.exit_code(), 2);
}

#[test]
fn held_out_pictures_are_the_embedding_s_val() {
    let pictures = pictures();
    let run = pictures.path().join("run");
    let mut config = config(pictures.path(), &["runner.max_epochs=1"]);
    config.data.val = None;
    let summary = train(&config, &run).unwrap();
    let stop = AtomicBool::new(false);
    let options = Options {
        checkpoint: Choice::Last,
        threads: 1,
        workers: Some(2),
        stop: &stop,
    };
    let out = pictures.path().join("features.npy");
    let embedded = eval::embed(&run, &[], &out, &options, reference, &mut ()).unwrap();
    let lines = table(&embedded.table);
    assert_eq!(lines.iter().filter(|line| line.2 == "val").count(), 2);
    let figure = plain_knn(&array(&out), &lines, 5, 0.1);
    assert_eq!(Some(figure), summary.knn_top1);

    // Pictures without labels can't be asked.
    let flat = pictures.path().join("flat");
    fs::create_dir(&flat).unwrap();
    let from = pictures.path().join("pictures/val").join("rays/0005.png");
    fs::copy(from, flat.join("a.png")).unwrap();
    let ask = eval::evaluate_knn(
        &run,
        std::slice::from_ref(&flat),
        None,
        None,
        &options,
        reference,
        &mut (),
    );
    let error = ask.unwrap_err();
    assert!(
        error.exit_code() == 2 && error.to_string().contains("no labels"),
        "{error}"
    );
}
