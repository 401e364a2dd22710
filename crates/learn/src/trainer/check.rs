//! What is checked before a run writes anything.

use npid_data::loader::LoadOptions;
use npid_data::source;
use npid_engine::{Description, Dtype, Engine, Sizes};

use super::{Options, reading_of};
use crate::collections::Collections;
use crate::config::Config;
use crate::error::Error;
use crate::feed::{self, load_options};
use crate::images::ImageTable;
use crate::{method, neg_weights};

/// Fewer pictures can't be told apart.
pub(super) const FEWEST: usize = 2;

/// Whether there is anything to read at all: asked first, since no other setting matters where
/// there isn't.
pub(crate) fn anything_readable(collections: &Collections) -> Result<(), Error> {
    source::first_readable(collections.train.as_ref(), |_| false)?;
    if let Some(val) = &collections.val {
        source::first_readable(val.as_ref(), |_| false)?;
    }
    Ok(())
}

/// Ends what is under way if it should stop.
pub(crate) fn poll(options: &Options<'_>) -> Result<(), Error> {
    if options.stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Error::Interrupted(
            "stopped before the run began; nothing was written".into(),
        ));
    }
    Ok(())
}

/// Checks what can be checked before anything is written, and makes the engine.
pub(crate) fn prepare<F>(
    config: &Config,
    collections: &Collections,
    options: &Options<'_>,
    make_engine: F,
) -> Result<Box<dyn Engine>, Error>
where
    F: FnOnce(&Description, Sizes, Option<Dtype>) -> Result<Box<dyn Engine>, Error>,
{
    let mut description = method::describe(config, collections.train.len())?;
    description.neg_weights = neg_weights::of(config, collections.train.as_ref())?;
    full_batch(config, collections, options)?;
    make_engine(&description, method::sizes(config), config.dtype)
}

/// Reads pictures until there are enough for one batch, which in most collections are the first.
fn full_batch(
    config: &Config,
    collections: &Collections,
    options: &Options<'_>,
) -> Result<(), Error> {
    let reading = reading_of(config, options);
    let source = &collections.train;
    let rows = (0..source.len() as u64).collect();
    let load = LoadOptions {
        ahead: 1, // the first batch is all that is wanted
        ..load_options(reading.batch, reading.workers, false)
    };
    let mut readable = 0;
    let mut first = None;
    for batch in feed::views(source, rows, reading.size, load) {
        reading.poll()?;
        let batch = batch?;
        readable += batch.rows.len();
        if readable >= reading.batch.max(FEWEST) {
            return Ok(());
        }
        first = first.or(batch.skipped.into_iter().next());
    }
    let example = first.map_or(String::new(), |skipped| {
        format!("; {} can't: {}", skipped.name, skipped.reason)
    });
    let text = too_few(readable, source.len(), reading.batch, &example);
    Err(Error::input(text))
}

/// What to say where fewer pictures can be read than make a batch. `example` is empty or begins
/// with a semicolon.
pub(super) fn too_few(readable: usize, images: usize, batch: usize, example: &str) -> String {
    let (needed, cure) = match readable {
        n if n < FEWEST => (
            format!("at least {FEWEST} are needed to tell pictures apart"),
            String::new(),
        ),
        n => (
            format!("data.batch_size is {batch}"),
            format!(", or make data.batch_size {n} at most"),
        ),
    };
    format!(
        "only {readable} of {images} training pictures can be read, and {needed}{example}; repair \
         the others or add some{cure}"
    )
}

/// Reads every picture once, for `--strict`, which promises an answer before the run.
pub(super) fn all(
    collections: &Collections,
    config: &Config,
    options: &Options<'_>,
) -> Result<(), Error> {
    let reading = reading_of(config, options);
    let load = load_options(reading.batch, reading.workers, false);
    for source in [Some(&collections.train), collections.val.as_ref()] {
        let Some(source) = source else { continue };
        let mut table = ImageTable::new(source.len());
        let rows = (0..source.len() as u64).collect();
        for batch in feed::views(source, rows, reading.size, load) {
            reading.poll()?;
            table.skip(&batch?.skipped, true, &mut ())?;
        }
    }
    Ok(())
}
