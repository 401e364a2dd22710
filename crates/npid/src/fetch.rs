//! `npid data fetch`: known data sets from their home pages.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use npid_fetch::{Listener, Options, catalog, fetch};
use npid_learn::Error;
use serde_json::json;

use crate::args::{DataSet, Fetch};

/// Without a bar, a download says how far it is this often.
const EVERY: Duration = Duration::from_secs(10);

/// Brings a data set and says how to train on it.
///
/// # Errors
/// See [`npid_fetch::fetch`].
pub fn run(args: &Fetch) -> Result<(), Error> {
    let name = args.name.name();
    let Some(set) = catalog::known(name) else {
        return Err(Error::input(format!("no data set {name}"))); // a test holds the two lists equal
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| Path::new("data").join(name));
    let options = Options {
        mirror: args.mirror.clone(),
        ..Options::default()
    };
    let mut shown = Shown::new(args.output.json);
    let fetched = fetch(&set, &out, &options, &mut shown);
    shown.finish();
    let fetched = fetched.map_err(|error| match error {
        npid_fetch::Error::Input(text) => Error::Input(text),
        npid_fetch::Error::Failed(text) => Error::Run(text),
    })?;
    if args.output.json {
        let text = |path: &PathBuf| path.display().to_string();
        say!(
            "{}",
            json!({
                "data": name,
                "path": text(&out),
                "files": fetched.paths.iter().map(text).collect::<Vec<_>>(),
                "downloaded_bytes": fetched.downloaded,
                "already_there": fetched.already,
            })
        );
        return Ok(());
    }
    let there = match fetched.already {
        true => "already in",
        false => "now in",
    };
    say!("{}, {there} {}", set.about, out.display());
    let recipe = match args.name {
        DataSet::Cifar10 => "cifar10-resnet18-w16-10e ",
        _ => "",
    };
    say!("train on it: npid train {recipe}--data {}", out.display());
    Ok(())
}

/// Shows a download: a bar on a terminal, a line now and then elsewhere.
struct Shown {
    bar: Option<ProgressBar>,
    /// Whether standard output is for a machine.
    json: bool,
    name: String,
    total: u64,
    spoke: Instant,
}

impl Shown {
    fn new(json: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
            let style = "{msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
            // The template is ours and valid; a broken one would only look plain.
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        Shown {
            bar,
            json,
            name: String::new(),
            total: 0,
            spoke: Instant::now(),
        }
    }

    fn line(&mut self, text: &str) {
        self.spoke = Instant::now();
        let print = || match self.json {
            true => complain!("{text}"),
            false => say!("{text}"),
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Listener for Shown {
    fn begin(&mut self, name: &str, url: &str, done: u64, total: u64) {
        let from = match done {
            0 => String::new(),
            n => format!(", going on after {}", HumanBytes(n)),
        };
        self.line(&format!("{url} ({}{from})", HumanBytes(total)));
        (self.name, self.total) = (name.to_string(), total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            // What came before is not part of this connection's speed.
            bar.reset_eta();
            bar.set_message(name.to_string());
        }
    }

    fn progress(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.spoke.elapsed() > EVERY {
            let (done, total) = (HumanBytes(done), HumanBytes(self.total));
            let text = format!("{}: {done} of {total}", self.name);
            self.line(&text);
        }
    }

    fn working(&mut self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_string());
        }
    }

    fn note(&mut self, text: &str) {
        let print = || complain!("{text}");
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}
