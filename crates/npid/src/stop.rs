//! Ctrl-C: the first asks the work to stop where it can be continued, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// What becomes true when the user asks to stop. Takes over Ctrl-C (and, on Unix, SIGTERM and
/// SIGHUP) from the first call on.
pub fn flag() -> &'static AtomicBool {
    // A handler that can't be installed leaves the default: Ctrl-C ends the process, and the last
    // checkpoint is there to resume from.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; press Ctrl-C again to stop at once");
    });
    &STOP
}
