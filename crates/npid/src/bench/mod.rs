//! `npid bench`: timings with the keys of the scripts that time PyTorch on the same work.

mod bank;
mod ops;
mod step;

pub use bank::bank;
pub use ops::ops;
pub use step::step;

/// The middle of `times`, which are sorted.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    match times.len() % 2 {
        0 => (times[middle - 1] + times[middle]) / 2.0,
        _ => times[middle],
    }
}

/// The largest resident size of this process so far, in millions of bytes, where the operating
/// system says it in a file.
fn peak_mb() -> Option<f64> {
    status_mb("VmHWM:")
}

/// The resident size of this process now, likewise.
fn resident_mb() -> Option<f64> {
    status_mb("VmRSS:")
}

/// Forgets the largest resident size, so that [`peak_mb`] is that from now on; where that can't be
/// done it stays what it was.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn status_mb(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // The scripts it is held against divide by 1000 as well.
    Some(kib / 1e3)
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
