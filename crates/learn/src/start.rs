//! The memory bank before the first step.

use std::sync::Arc;

use npid_data::loader::Batch;
use npid_data::source::Source;
use npid_engine::state::BANK;
use npid_engine::{Engine, Norm};
use npid_network::philox::{Purpose, Stream};

use crate::config::{Config, Start};
use crate::error::Error;
use crate::knn::{Reading, embed_each};
use crate::method;

/// Fills the bank as `memory_bank.init` says. The start `features` reads every image on the way:
/// `each` hears of every batch of it; the other starts read nothing.
///
/// `features`: one pass of the untrained network over the clean evaluation views in an order drawn
/// by the seed, batch norm using each batch's statistics and moving its running ones. Rows whose
/// image can't be read keep a random row; the caller excludes them.
///
/// # Errors
/// [`Error::Interrupted`] when asked to stop; what `each` returns.
pub fn fill_bank(
    engine: &mut dyn Engine,
    config: &Config,
    source: &Arc<dyn Source>,
    reading: Reading<'_>,
    each: &mut dyn FnMut(&Batch) -> Result<(), Error>,
) -> Result<(), Error> {
    let (images, dim) = (source.len(), config.feat_dim());
    let start = config.model.memory_bank.init;
    if let Some(bank) = method::initial_bank(start, images, dim, config.seed) {
        return Ok(engine.write(BANK, &bank)?);
    }
    let random = method::initial_bank(Start::Random, images, dim, config.seed);
    let mut bank = random.unwrap_or_default();
    let mut order: Vec<u64> = (0..images as u64).collect();
    // Item 0 is the order of the epochs.
    Stream::new(config.seed, Purpose::Order, 0, 1, 0).shuffle(&mut order);
    embed_each(
        engine,
        source,
        order,
        Norm::Track,
        reading,
        &mut |batch, features| {
            for (&row, feature) in batch.rows.iter().zip(features.chunks_exact(dim)) {
                let row = row as usize;
                bank[row * dim..(row + 1) * dim].copy_from_slice(feature);
            }
            each(batch)
        },
    )?;
    Ok(engine.write(BANK, &bank)?)
}
