//! How often each row is drawn as a negative: `model.neg_weights`, read and checked.
//!
//! Numbers come from a text file, NumPy's `.npy` (its `lib/format.py`; versions 1 to 3) or a
//! column of the collection. At most N of them are held, whatever a file claims to have.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use npid_data::source::{ContentHash, Source};
use npid_network::alias::AliasTable;

use crate::config::{Config, NegWeights};
use crate::error::Error;

/// The key, which every message begins with.
const KEY: &str = "model.neg_weights";

/// The longest line of a text file, in bytes; a number needs some twenty.
const MAX_LINE: u64 = 4096;

/// The longest header of an array file, in bytes; NumPy writes 118.
const MAX_HEADER: usize = 1 << 16;

/// The N numbers that `model.neg_weights` names, one for each row of `source`; `None` where all rows
/// are alike.
///
/// # Errors
/// [`Error::Input`] naming key and file: it can't be read or is no list of numbers, there are more
/// or fewer than N, one is negative or not finite, all are 0; with `ensure_neg`, if nearly all
/// weight lies on one row, beside which nothing could be drawn.
pub fn of(config: &Config, source: &dyn Source) -> Result<Option<Arc<[f64]>>, Error> {
    let Some(weights) = &config.model.neg_weights else {
        return Ok(None);
    };
    let images = source.len();
    let (origin, numbers) = match weights {
        NegWeights::File(path) => {
            let origin = path.display().to_string();
            let numbers = file(path, images)
                .map_err(|what| Error::input(format!("{KEY}: {origin}: {what}")))?;
            (origin, numbers)
        }
        NegWeights::Column { column } => {
            let numbers = source.column(column);
            let numbers = numbers.map_err(|error| Error::input(format!("{KEY}: {error}")))?;
            (format!("column {column}"), numbers)
        }
    };
    check(&numbers, images, config.model.ensure_neg, &|row| {
        source.name(row)
    })
    .map_err(|what| Error::input(format!("{KEY}: {origin}: {what}")))?;
    Ok(Some(numbers.into()))
}

/// What tells two lists of weights apart: SHA-256 of their numbers as 64-bit floats, little-endian.
pub fn hash(weights: &[f64]) -> String {
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    ContentHash::of(&bytes).to_string()
}

/// Whether these can be drawn by; what is wrong continues after the name of where they come from.
fn check(
    numbers: &[f64],
    images: usize,
    ensure_neg: bool,
    name: &dyn Fn(usize) -> String,
) -> Result<(), String> {
    if numbers.len() != images {
        return Err(format!(
            "holds {} numbers for {images} pictures; give one for each, in the order of the rows",
            numbers.len()
        ));
    }
    if let Some(row) = numbers.iter().position(|w| !w.is_finite() || *w < 0.0) {
        return Err(format!(
            "gives {} to row {row} ({}); weights must be finite and at least 0",
            numbers[row],
            name(row)
        ));
    }
    let total: f64 = numbers.iter().sum();
    if total == 0.0 {
        return Err("gives 0 to every row, so none could be drawn; give some a weight".into());
    }
    if !total.is_finite() {
        return Err("its numbers are too large to be added; divide all by the largest".into());
    }
    let table = AliasTable::from_weights(numbers).map_err(|error| error.to_string())?;
    if ensure_neg && !table.has_choice() {
        return Err(
            "nearly all weight lies on one row, beside which model.ensure_neg could draw none; \
             spread it, or set model.ensure_neg to false"
                .into(),
        );
    }
    Ok(())
}

/// A file's numbers, at most one more than `images`.
fn file(path: &Path, images: usize) -> Result<Vec<f64>, String> {
    let unreadable = |error: std::io::Error| {
        format!("cannot be read ({error}); name a text or .npy file with a number for each picture")
    };
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let array = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("npy"));
    match array {
        true => npy(&mut reader, images),
        false => text(&mut reader, images),
    }
}

/// A number a line. Blank lines and what follows a `#` don't count.
fn text(reader: &mut impl BufRead, images: usize) -> Result<Vec<f64>, String> {
    let mut numbers = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(|error| format!("cannot be read ({error})"))? == 0 {
            break;
        }
        if line.len() as u64 == MAX_LINE {
            return Err(format!(
                "line {number} is too long for a number; give one a line"
            ));
        }
        let Ok(whole) = std::str::from_utf8(&line) else {
            return Err(format!(
                "line {number} is no text; give a number a line, or an array whose name ends in .npy"
            ));
        };
        let value = whole.split('#').next().unwrap_or_default().trim();
        if value.is_empty() {
            continue;
        }
        let shown: String = value.chars().take(40).collect();
        let Ok(value) = value.parse::<f64>() else {
            return Err(format!("line {number} is {shown:?}; it must be a number"));
        };
        if numbers.len() == images {
            return Err(format!(
                "holds more than {images} numbers, but there are {images} pictures; give one for \
                 each, in the order of the rows"
            ));
        }
        if !value.is_finite() || value < 0.0 {
            return Err(format!(
                "line {number} is {shown}; weights must be finite and at least 0"
            ));
        }
        numbers.push(value);
    }
    Ok(numbers)
}

/// A one-dimensional array.
fn npy(reader: &mut impl Read, images: usize) -> Result<Vec<f64>, String> {
    let cut = |_| "is cut short or no .npy file; write it again with numpy.save".to_string();
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(cut)?;
    let [.., major, _minor] = start;
    if &start[..6] != b"\x93NUMPY" {
        return Err("is no .npy file, although its name says so; write it with numpy.save".into());
    }
    let length = if major == 1 {
        let mut bytes = [0; 2];
        reader.read_exact(&mut bytes).map_err(cut)?;
        usize::from(u16::from_le_bytes(bytes))
    } else {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map_err(cut)?;
        u32::from_le_bytes(bytes) as usize
    };
    if !(1..=3).contains(&major) || length > MAX_HEADER {
        return Err("has a header that no version of NumPy writes".into());
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header).map_err(cut)?;
    let header = String::from_utf8_lossy(&header);
    let after = |key: &str| {
        header
            .split_once(&format!("'{key}':"))
            .map(|(_, rest)| rest.trim())
    };
    let descr = after("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let (Some(descr), Some(shape)) = (descr, shape) else {
        return Err("has no header that can be read; save an array of plain numbers".into());
    };
    let dims: Option<Vec<u64>> = (shape.split(',').map(str::trim))
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().ok())
        .collect();
    match dims.as_deref() {
        Some([n]) if *n == images as u64 => {}
        Some([n]) => {
            return Err(format!(
                "holds {n} numbers for {images} pictures; give one for each, in the order of the rows"
            ));
        }
        _ => {
            return Err(format!(
                "has the shape ({shape}); it must have one dimension, ({images},)"
            ));
        }
    }
    let number: fn(&[u8]) -> Option<f64> = match descr {
        "<f8" => |b| Some(f64::from_le_bytes(b.try_into().ok()?)),
        "<f4" => |b| Some(f32::from_le_bytes(b.try_into().ok()?).into()),
        "<i8" => |b| Some(i64::from_le_bytes(b.try_into().ok()?) as f64),
        "<i4" => |b| Some(i32::from_le_bytes(b.try_into().ok()?).into()),
        "<i2" => |b| Some(i16::from_le_bytes(b.try_into().ok()?).into()),
        "|i1" => |b| Some(i8::from_le_bytes(b.try_into().ok()?).into()),
        "<u8" => |b| Some(u64::from_le_bytes(b.try_into().ok()?) as f64),
        "<u4" => |b| Some(u32::from_le_bytes(b.try_into().ok()?).into()),
        "<u2" => |b| Some(u16::from_le_bytes(b.try_into().ok()?).into()),
        "|u1" => |b| Some(u8::from_le_bytes(b.try_into().ok()?).into()),
        other => {
            return Err(format!(
                "holds {other}; save it as 'f8', 'f4' or whole numbers, little-endian"
            ));
        }
    };
    let size = usize::from(descr.as_bytes()[2] - b'0');
    let mut bytes = [0; 8];
    let mut numbers = Vec::with_capacity(images);
    for _ in 0..images {
        let bytes = &mut bytes[..size];
        reader.read_exact(bytes).map_err(cut)?;
        numbers.push(number(bytes).unwrap_or(f64::NAN)); // sizes fit, so it is a number
    }
    if reader.read(&mut bytes[..1]).map_err(cut)? != 0 {
        return Err("goes on after its numbers; write it again with numpy.save".into());
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str, images: usize) -> Result<Vec<f64>, String> {
        super::text(&mut text.as_bytes(), images)
    }

    #[track_caller]
    fn fails(result: Result<Vec<f64>, String>, parts: &[&str]) {
        let message = result.unwrap_err();
        for part in parts {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
    }

    #[test]
    fn text_is_a_number_a_line() {
        let list = "# weights\n1\n  2.5e-1 # rare\r\n\n0\n7";
        assert_eq!(of_text(list, 4).unwrap(), [1.0, 0.25, 0.0, 7.0]);
        // Too few are counted by the caller, who knows where they come from.
        assert_eq!(of_text("1\n2\n", 4).unwrap().len(), 2);
        fails(of_text("1\n2\n3", 2), &["more than 2 numbers"]);
        fails(of_text("1\ntwo\n", 2), &["line 2", "\"two\"", "a number"]);
        fails(of_text("1 2\n", 2), &["line 1", "\"1 2\""]);
        fails(of_text("1\n\n-2\n", 2), &["line 3 is -2", "at least 0"]);
        fails(of_text("inf\n", 1), &["line 1 is inf", "finite"]);
        fails(of_text("nan\n", 1), &["line 1 is nan", "finite"]);
        let endless = "1".repeat(1 << 20);
        fails(of_text(&endless, 1), &["line 1", "too long"]);
        fails(super::text(&mut &b"\xff\xfe\n"[..], 1), &["line 1", ".npy"]);
    }

    /// An array file as NumPy writes it.
    fn array(version: u8, descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY".to_vec();
        file.extend([version, 0]);
        match version {
            1 => file.extend((header.len() as u16).to_le_bytes()),
            _ => file.extend((header.len() as u32).to_le_bytes()),
        }
        file.extend(header.as_bytes());
        file.extend(data);
        file
    }

    #[test]
    fn arrays_of_any_plain_type_are_read() {
        let floats: Vec<u8> = [0.5f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let doubles: Vec<u8> = [0.5f64, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let longs: Vec<u8> = [3i64, -4].iter().flat_map(|x| x.to_le_bytes()).collect();
        for (version, descr, data, expected) in [
            (1, "<f4", &floats[..], [0.5, 2.0]),
            (2, "<f8", &doubles, [0.5, 2.0]),
            (3, "<i8", &longs, [3.0, -4.0]),
            (1, "|u1", &[7, 255], [7.0, 255.0]),
            (1, "<u2", &[1, 0, 0, 1], [1.0, 256.0]),
        ] {
            let file = array(version, descr, "(2,)", data);
            assert_eq!(npy(&mut &file[..], 2).unwrap(), expected, "{descr}");
        }
    }

    #[test]
    fn arrays_that_lie_are_refused() {
        let with = |descr: &str, shape: &str, data: &[u8], n: usize| {
            npy(&mut &array(1, descr, shape, data)[..], n)
        };
        fails(with("<f4", "(2,)", &[0; 7], 2), &["cut short"]);
        fails(with("<f4", "(2,)", &[0; 9], 2), &["goes on"]);
        fails(with("<f4", "(3,)", &[0; 12], 2), &["3 numbers for 2"]);
        fails(with("<f4", "(2, 1)", &[0; 8], 2), &["(2, 1)", "(2,)"]);
        fails(with("<f4", "()", &[0; 4], 1), &["one dimension"]);
        fails(with("<f4", "(99999999999999999999,)", &[], 2), &["shape"]);
        fails(with(">f4", "(2,)", &[0; 8], 2), &[">f4", "little-endian"]);
        fails(with("|O", "(2,)", &[0; 8], 2), &["|O"]);
        fails(npy(&mut &b"1\n2\n3\n4\n5\n"[..], 5), &["no .npy file"]);
        fails(
            npy(&mut &b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..], 5),
            &["header"],
        );
        fails(
            npy(&mut &b"\x93NUMPY\x01\x00\x03\x00{}\n"[..], 5),
            &["header"],
        );
        fails(npy(&mut &b"\x93NUM"[..], 5), &["cut short"]);
    }

    #[test]
    fn weights_that_can_not_be_drawn_by_are_refused() {
        let check = |weights: &[f64], n, ensure| {
            let checked = super::check(weights, n, ensure, &|row| format!("picture {row}"));
            checked.map(|()| Vec::new())
        };
        assert!(check(&[0.0, 1e-300, 5.0], 3, false).is_ok());
        assert!(check(&[0.0, 0.0, 5.0], 3, false).is_ok());
        fails(check(&[1.0; 3], 4, false), &["3 numbers for 4 pictures"]);
        fails(
            check(&[1.0, -0.5], 2, false),
            &["-0.5 to row 1 (picture 1)"],
        );
        fails(check(&[1.0, f64::NAN], 2, false), &["NaN to row 1"]);
        fails(check(&[0.0; 3], 3, false), &["0 to every row"]);
        fails(check(&[f64::MAX; 3], 3, false), &["too large"]);
        fails(check(&[0.0, 0.0, 5.0], 3, true), &["ensure_neg"]);
        assert!(check(&[0.0, 1.0, 5.0], 3, true).is_ok());
    }

    #[test]
    fn a_hash_tells_lists_apart() {
        assert_eq!(hash(&[1.0, 2.0]), hash(&[1.0, 2.0]));
        assert_ne!(hash(&[1.0, 2.0]), hash(&[2.0, 1.0]));
        assert_eq!(hash(&[]).len(), 64);
    }
}
