//! TensorBoard's event files: `events.out.tfevents.*` in a run's folder.
//!
//! A file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h), each holding a
//! protobuf message ([`proto::Event`]):
//!
//! ```text
//! u64 length | u32 masked CRC32C of the length | length bytes | u32 masked CRC32C of the bytes
//! ```
//!
//! all little-endian, masked(c) = ((c >> 15) | (c << 17)) + 0xa282ead8. Each record is handed to
//! the operating system whole, so that of a run that is killed at most the last one is incomplete,
//! which readers pass over.
//!
//! A resumed run begins a new file, whose name sorts after the others'. Its first record after the
//! version tells readers to drop what files before it hold of the steps that are taken again.

mod histogram;
pub mod proto;
mod views;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use npid_data::augment::Pipeline;
use npid_data::source::Source;
use prost::Message;

use crate::checkpoint::Cursor;
use crate::error::Error;
use crate::run::{Line, cure};
use proto::{Event, Image, Kind, SessionLog, SessionStatus, Summary, Value, What};

/// What the names of event files begin with; TensorBoard looks for `tfevents`.
const PREFIX: &str = "events.out.tfevents.";

/// CRC32C, as TFRecords have it.
const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// An event file, to be added to.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// Begins a file in a run's folder. `cursor` is where a resumed run goes on, with `metrics` its
    /// `metrics.jsonl`, already cut back; `None` is its beginning. What event files hold of later
    /// steps counts no more.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn begin(folder: &Path, metrics: &Path, cursor: Option<Cursor>) -> Result<Self, Error> {
        let (path, file) = create(folder).map_err(|error| fail(folder, &error))?;
        let mut log = EventLog { path, file };
        log.write(0, What::FileVersion("brain.Event:2".into()))?;
        // In mid-epoch, evaluation may have written of the checkpoint's own step what the metrics
        // have lost with the epoch's line: all of that step goes, and what stayed comes again.
        let again = cursor.filter(|cursor| cursor.step_in_epoch > 0);
        let first = match (again, cursor) {
            (Some(cursor), _) => cursor.step,
            (None, Some(cursor)) => cursor.step + 1,
            (None, None) => 0,
        };
        let start = SessionLog {
            status: SessionStatus::Start.into(),
        };
        log.write(first, What::SessionLog(start))?;
        if let Some(cursor) = again {
            log.repeat(metrics, cursor.step)?;
        }
        Ok(log)
    }

    /// Adds the lines of a metrics file that are of a step.
    fn repeat(&mut self, metrics: &Path, step: u64) -> Result<(), Error> {
        let file = File::open(metrics).map_err(|error| fail(metrics, &error))?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|error| fail(metrics, &error))?;
            // A line that isn't whole has been cut away.
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if value["step"] == step {
                self.scalars(&value)?;
            }
        }
        Ok(())
    }

    /// Adds the numbers of a line of `metrics.jsonl`: `train/` those of log steps, `epoch/` those of
    /// epochs, `eval/` the kNN figures.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn line(&mut self, line: &Line<'_>) -> Result<(), Error> {
        let value = serde_json::to_value(line).map_err(|error| fail(&self.path, &error))?;
        self.scalars(&value)
    }

    fn scalars(&mut self, line: &serde_json::Value) -> Result<(), Error> {
        let step = line["step"].as_u64().unwrap_or_default();
        let values: Vec<Value> = scalars(line)
            .map(|(tag, value)| Value {
                tag,
                kind: Some(Kind::SimpleValue(value as f32)),
            })
            .collect();
        self.values(step, values)
    }

    /// Adds the distribution of similarities, each in -1 to 1; nothing without any.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn similarities(&mut self, tag: &str, step: u64, values: &[f32]) -> Result<(), Error> {
        let Some(histogram) = histogram::of_similarities(values) else {
            return Ok(());
        };
        let value = Value {
            tag: tag.into(),
            kind: Some(Kind::Histo(histogram)),
        };
        self.values(step, vec![value])
    }

    /// Adds the picture `train/views`: the first of the pictures of `rows` that can be read, each
    /// beside its views of the first epochs.
    ///
    /// # Errors
    /// [`Error::Run`] if it can't be written.
    pub fn views(
        &mut self,
        source: &dyn Source,
        rows: &[u64],
        pipeline: &Pipeline,
        seed: u64,
    ) -> Result<(), Error> {
        let rows = &rows[..rows.len().min(views::PICTURES)];
        let Some(grid) = views::grid(source, rows, pipeline, seed) else {
            return Ok(());
        };
        let encoded_image_string = png(&grid).map_err(|error| fail(&self.path, &error))?;
        let image = Image {
            height: grid.height as i32,
            width: grid.width as i32,
            colorspace: 3,
            encoded_image_string,
        };
        let value = Value {
            tag: "train/views".into(),
            kind: Some(Kind::Image(image)),
        };
        self.values(0, vec![value])
    }

    /// Makes the records so far durable.
    ///
    /// # Errors
    /// [`Error::Run`] if that fails.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file
            .sync_all()
            .map_err(|error| fail(&self.path, &error))
    }

    fn values(&mut self, step: u64, value: Vec<Value>) -> Result<(), Error> {
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: u64, what: What) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let event = Event {
            wall_time: now.map_or(0.0, |now| now.as_secs_f64()),
            step: step as i64,
            what: Some(what),
        };
        self.file
            .write_all(&record(&event.encode_to_vec()))
            .map_err(|error| fail(&self.path, &error))
    }
}

fn fail(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::run(format!(
        "{}: can't be written ({error}); {}, then continue with --resume",
        path.display(),
        cure(path)
    ))
}

/// A new file in `folder`, named by the time, and later than those that are there.
fn create(folder: &Path) -> std::io::Result<(PathBuf, File)> {
    let mut seconds = (SystemTime::now().duration_since(UNIX_EPOCH)).map_or(0, |now| now.as_secs());
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let taken = (name.to_str())
            .and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        seconds = seconds.max(taken.map_or(0, |taken: u64| taken.saturating_add(1)));
    }
    let path = folder.join(format!("{PREFIX}{seconds:010}.npid"));
    let file = File::create_new(&path)?;
    Ok((path, file))
}

/// The tags and values of a line of `metrics.jsonl`.
fn scalars(line: &serde_json::Value) -> impl Iterator<Item = (String, f64)> {
    // The x axis is the step, and of a kNN figure the other numbers are settings.
    const NO_SERIES: [&str; 6] = ["epoch", "step", "k", "tau", "queries", "rows"];
    let kind = line["kind"].as_str().unwrap_or_default().to_string();
    let pixels = line["subject"] == "pixels";
    let fields = line.as_object().into_iter().flatten();
    fields.filter_map(move |(field, value)| {
        let value = value.as_f64()?;
        if NO_SERIES.contains(&field.as_str()) {
            return None;
        }
        let tag = match kind.as_str() {
            "step" => format!("train/{field}"),
            "knn" if pixels => format!("eval/{field}_pixels"),
            "epoch" if !field.starts_with("knn_") => format!("epoch/{field}"),
            _ => format!("eval/{field}"),
        };
        Some((tag, value))
    })
}

/// A TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| {
        let crc = CRC32C.checksum(bytes);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// A grid as a PNG file.
fn png(grid: &views::Grid) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, grid.width as u32, grid.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&grid.rgb)?;
    writer.finish()?;
    Ok(file)
}
