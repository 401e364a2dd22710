//! What a run looks like while it runs: a bar on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use npid_learn::progress::{EpochReport, KnnReport, KnnSubject, Progress, Started, StepReport};

use crate::out::count;

/// Weight of the newest step in the loss that the bar shows.
const SMOOTHING: f64 = 0.05;

/// Work that takes less is not announced with a line.
const SOON: Duration = Duration::from_secs(3);

/// A run that has been silent for this long says where it is.
const QUIET: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// Standard output is for people.
    Stdout,
    /// Standard output is for a machine's one line.
    Stderr,
}

/// Shows the progress of a command.
pub struct Display {
    lines: Lines,
    /// The bar, where standard error is a terminal.
    bar: Option<ProgressBar>,
    run: Option<Run>,
    /// When the run's last line was printed.
    spoke: Cell<Instant>,
    /// The work before or after training that is shown.
    working: Option<Work>,
}

/// Work before or after the steps.
struct Work {
    what: String,
    since: Instant,
    /// Whether a line has said so.
    announced: bool,
}

/// A run under way.
struct Run {
    started: Started,
    /// When the first step of this process was done, and which it was.
    first: Option<(Instant, u64)>,
    /// Smoothed loss.
    loss: Option<f64>,
    wait: Option<f64>,
}

impl Display {
    /// For a command that prints for people, or one JSON object.
    pub fn new(json: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
            bar.set_style(style("{wide_msg}"));
            bar
        });
        Display {
            lines: if json { Lines::Stderr } else { Lines::Stdout },
            bar,
            run: None,
            spoke: Cell::new(Instant::now()),
            working: None,
        }
    }

    /// Queries of the run's kNN figure, where it has one and has started.
    pub fn queries(&self) -> Option<usize> {
        Some(self.run.as_ref()?.started.knn_queries).filter(|&queries| queries > 0)
    }

    /// Removes the bar; what was printed stays.
    pub fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints a line beside the bar. A closed pipe doesn't end a run.
    pub fn line(&self, text: &str) {
        let lines = self.lines;
        self.spoke.set(Instant::now());
        let print = || match lines {
            Lines::Stdout => say!("{text}"),
            Lines::Stderr => complain!("{text}"),
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Run {
    /// Steps a second since the first of this process, and the time that is left by that.
    fn pace(&self, step: u64) -> Option<(f64, Duration)> {
        let (since, first) = self.first?;
        let done = step.saturating_sub(first);
        let elapsed = since.elapsed().as_secs_f64();
        if done == 0 || elapsed <= 0.0 {
            return None;
        }
        let rate = done as f64 / elapsed;
        let left = self.started.steps.saturating_sub(step) as f64 / rate;
        Some((rate, Duration::from_secs_f64(left)))
    }

    fn left(&self, step: u64) -> String {
        match self.pace(step) {
            Some((_, left)) => format!("{} left", duration(left)),
            None => String::new(),
        }
    }
}

impl Progress for Display {
    fn started(&mut self, started: &Started) {
        self.line(&format!(
            "{}: {}, {} of batches of {}{}, {} weights; on {}",
            started.run.display(),
            count(started.images, "picture"),
            count(started.epochs as usize, "epoch"),
            started.batch,
            match started.update_interval {
                1 => String::new(),
                n => format!(", {n} to a step"),
            },
            started.parameters,
            started.device,
        ));
        self.line(&format!(
            "The loss of features that know nothing is {:.3}: it starts near there (at times \
             above), and learning shows as a fall below it.",
            started.chance_loss
        ));
        if started.step > 0 {
            self.line(&format!("Going on after step {}.", started.step));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(started.steps);
            bar.set_position(started.step);
            bar.set_style(style("{bar:24} {pos}/{len} {wide_msg}"));
        }
        self.working = None;
        self.run = Some(Run {
            started: started.clone(),
            first: None,
            loss: None,
            wait: None,
        });
    }

    fn chance_loss(&mut self, chance_loss: f64) {
        if let Some(run) = &mut self.run {
            run.started.chance_loss = chance_loss;
        }
    }

    fn working(&mut self, what: &str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{what}: {done} of {total}"));
            bar.tick();
            return;
        }
        // Elsewhere what is quickly over isn't worth a line.
        match &mut self.working {
            Some(work) if work.what == what && done < total => {
                if !work.announced && work.since.elapsed() > SOON {
                    work.announced = true;
                    self.line(&format!("{what}: {done} of {total} ..."));
                }
            }
            _ if done < total => {
                self.working = Some(Work {
                    what: what.to_string(),
                    since: Instant::now(),
                    announced: false,
                });
            }
            _ => self.working = None,
        }
    }

    fn tick(&mut self, epoch: u32, step: u64, loss: f64) {
        let Some(run) = &mut self.run else { return };
        let smooth = run.loss.map_or(loss, |old| old + SMOOTHING * (loss - old));
        run.loss = Some(smooth);
        run.first.get_or_insert_with(|| (Instant::now(), step));
        let Some(bar) = &self.bar else {
            // Steps that take seconds would say nothing for minutes, until log.interval of them
            // are done.
            if self.spoke.get().elapsed() > QUIET {
                let text = format!(
                    "epoch {epoch}/{}  step {step}/{}  loss {smooth:.4} (chance {:.3})  {}",
                    run.started.epochs,
                    run.started.steps,
                    run.started.chance_loss,
                    run.left(step)
                );
                self.line(text.trim_end());
            }
            return;
        };
        let started = &run.started;
        let speed = run.pace(step).map_or(String::new(), |(rate, left)| {
            let images = rate * (started.batch * started.update_interval) as f64;
            format!(", {images:.0} images/s, {} left", duration(left))
        });
        let wait = (run.wait).map_or(String::new(), |w| format!(", {w:.0} % waiting for data"));
        bar.set_position(step);
        bar.set_message(format!(
            "epoch {epoch}/{}, loss {smooth:.3} (chance {:.3}){speed}{wait}",
            started.epochs, started.chance_loss
        ));
    }

    fn step(&mut self, report: &StepReport) {
        let waiting = percent(report.wait_s, report.wait_s + report.step_s);
        let Some(run) = &mut self.run else { return };
        run.wait = Some(waiting);
        if self.bar.is_some() {
            return;
        }
        let text = format!(
            "epoch {}/{}  step {}/{}  loss {:.4} (chance {:.3})  lr {:.4}  {:.0} images/s  wait \
             {waiting:.0} %  {}",
            report.epoch,
            run.started.epochs,
            report.step,
            run.started.steps,
            report.loss,
            run.started.chance_loss,
            report.lr,
            report.images_per_s,
            run.left(report.step),
        );
        self.line(text.trim_end());
    }

    fn epoch(&mut self, report: &EpochReport) {
        let Some(run) = &self.run else { return };
        // On a terminal the bar says the rest.
        if self.bar.is_some() && report.knn_top1.is_none() && report.epoch != run.started.epochs {
            return;
        }
        let knn =
            (report.knn_top1).map_or(String::new(), |top1| format!("  kNN top-1 {top1:.1} %"));
        let log_z = (report.log_z).map_or(String::new(), |z| format!("  ln Z {z:.2}"));
        let skipped = match report.skipped {
            0 => String::new(),
            n => format!("  {} skipped", count(n, "unreadable picture")),
        };
        self.line(&format!(
            "epoch {}/{} done  loss {:.4}  spread {:.2}{log_z}  {:.0} images/s{knn}{skipped}",
            report.epoch, run.started.epochs, report.loss, report.spread, report.images_per_s
        ));
        if let Some(times) = times(report) {
            self.line(&times);
        }
    }

    fn knn(&mut self, report: &KnnReport) {
        let what = match report.subject {
            KnnSubject::Pixels => "raw pixels",
            KnnSubject::Untrained => "the untrained network",
            // The epoch's line has it.
            KnnSubject::Trained => return,
        };
        self.line(&format!(
            "kNN top-1 of {what}: {:.1} % ({}, {}, k {})",
            report.knn_top1,
            count(report.queries, "query"),
            voters(report.rows),
            report.k
        ));
    }

    fn checkpoint(&mut self, path: &Path, step: u64) {
        // Every epoch has one; only a bar's message would be too short-lived to say so.
        if let Some(bar) = &self.bar {
            bar.set_message(format!("saved {} (step {step})", path.display()));
        }
    }

    fn note(&mut self, text: &str) {
        self.line(text);
    }

    fn warning(&mut self, text: &str) {
        let print = || complain!("warning: {text}");
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours and valid; a broken one would only look plain.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Who votes in a kNN figure.
pub fn voters(rows: usize) -> String {
    match rows {
        1 => "1 picture votes".to_string(),
        n => format!("{n} pictures vote"),
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        100.0 * part / whole
    } else {
        0.0
    }
}

/// Where the time of an epoch's steps went; `None` if there is nothing to tell.
fn times(report: &EpochReport) -> Option<String> {
    let whole = report.wait_s + report.step_s;
    if report.timed_steps == 0 || whole <= 0.0 {
        return None;
    }
    let parts = [
        ("waiting for data", report.wait_s),
        ("forward", report.forward_s?),
        ("backward", report.backward_s?),
        ("bank", report.bank_s?),
        ("optimiser", report.optimizer_s?),
    ];
    let shares = parts.map(|(what, s)| format!("{what} {:.0} %", percent(s, whole)));
    let each = whole * 1e3 / report.timed_steps as f64;
    Some(format!("  {each:.1} ms a step: {}", shares.join(", ")))
}

/// Two units at most: `3d 4h`, `2h 5m`, `1m 20s`, `45s`.
pub fn duration(time: Duration) -> String {
    let s = time.as_secs_f64().round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86400, s % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let said = [0.4, 59.4, 80.0, 7505.0, 273_600.0].map(Duration::from_secs_f64);
        assert_eq!(
            said.map(duration),
            ["0s", "59s", "1m 20s", "2h 5m", "3d 4h"]
        );
    }
}
