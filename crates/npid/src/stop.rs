//! Ctrl-C: the first asks the work to stop where it can be continued, the second ends the process.
//! SIGTERM, by which schedulers and service managers end a process, is heard alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The exit code of a process that was asked to stop.
const INTERRUPTED: i32 = 130;

/// What becomes true when the user asks to stop. Takes over Ctrl-C (and, on Unix, SIGTERM) from
/// the first call on. SIGHUP is left as it is, so that `nohup` works.
pub fn flag() -> &'static AtomicBool {
    // A handler that can't be installed leaves the default: the signal ends the process, and the
    // last checkpoint is there to resume from.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        complain!("stopping after this step; press Ctrl-C again to stop at once");
    });
    #[cfg(unix)]
    {
        use signal_hook::consts::SIGTERM;
        // In this order: the first SIGTERM finds the flag unset, the second one set.
        let _ = signal_hook::flag::register_conditional_shutdown(
            SIGTERM,
            INTERRUPTED,
            Arc::clone(&STOP),
        );
        let _ = signal_hook::flag::register(SIGTERM, Arc::clone(&STOP));
    }
    &STOP
}
