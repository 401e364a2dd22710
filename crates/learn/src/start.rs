//! The memory bank before the first step.

use std::sync::Arc;

use npid_data::loader::Batch;
use npid_data::source::Source;
use npid_engine::{Engine, Norm};
use npid_network::philox::{Purpose, Stream};

use crate::bank_file::Begun;
use crate::config::{Config, Start};
use crate::error::Error;
use crate::knn::{Reading, embed_each};
use crate::method;

/// Rows that are made at once.
const CHUNK: u64 = 4096;

/// Fills the bank as `memory_bank.init` says: the engine's, or that of `file`. The start `features`
/// reads every image on the way: `each` hears of every batch of it; the other starts read nothing.
///
/// `features`: one pass of the untrained network over the clean evaluation views in an order drawn
/// by the seed, batch norm using each batch's statistics and moving its running ones. Rows whose
/// image can't be read keep a random row; the caller excludes them.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop; [`Error::Run`] if the file can't be written; what
/// `each` returns.
pub fn fill_bank(
    engine: &mut dyn Engine,
    mut file: Option<&mut Begun>,
    config: &Config,
    source: &Arc<dyn Source>,
    reading: Reading<'_>,
    each: &mut dyn FnMut(&Batch) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut put = |engine: &mut dyn Engine, rows: &[u64], values: &[f32]| match &mut file {
        Some(file) => file.write_rows(rows, values),
        None => Ok(engine.write_rows(rows, values)?),
    };
    let (images, dim) = (source.len() as u64, config.feat_dim());
    let start = config.model.memory_bank.init;
    // What becomes a feature is random until then.
    let first = match start {
        Start::Random | Start::Features => Start::Random,
        Start::Uniform => Start::Uniform,
    };
    for begin in (0..images).step_by(CHUNK as usize) {
        reading.poll()?;
        let rows: Vec<u64> = (begin..images.min(begin + CHUNK)).collect();
        let values: Vec<f32> = (rows.iter())
            .filter_map(|&row| method::initial_row(first, row, dim, config.seed))
            .flatten()
            .collect();
        put(engine, &rows, &values)?;
    }
    if start != Start::Features {
        return Ok(());
    }
    let mut order: Vec<u64> = (0..images).collect();
    // Item 0 is the order of the epochs.
    Stream::new(config.seed, Purpose::Order, 0, 1, 0).shuffle(&mut order);
    embed_each(
        engine,
        source,
        order,
        Norm::Track,
        reading,
        &mut |engine, batch, features| {
            put(engine, &batch.rows, features)?;
            each(batch)
        },
    )
}
