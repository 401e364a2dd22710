//! NPID in a loop of one's own: `cargo run --release -p npid-learn --example custom_loop`.
//! The programs are called one by one (`Engine::step` is the three of a step in one).

use std::{collections::BTreeSet, sync::Arc};

use npid_data::loader::{Epoch, Loader};
use npid_data::patterns::{Patterns, Split};
use npid_data::source::Source;
use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::{Draws, Dtype, Engine, Images, Norm, Objective, Output, Sizes, state::BANK};
use npid_learn::{Error, config::load::load, feed, method, recipes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sets = ["model.head.temperature=0.3".into()];
    let config = load(&recipes::find("patterns")?, &sets)?;
    let source: Arc<dyn Source> = Arc::new(Patterns::new(Split::Train, 256, 32, 0));
    let (n, dim, batch) = (source.len(), config.feat_dim(), config.data.batch_size);
    let sizes = Sizes {
        batch,
        height: 32,
        width: 32,
    };
    let (threads, isa) = (2, Isa::detect()?);
    let options = Options {
        threads,
        isa,
        dtype: Dtype::F32,
    };
    let mut engine = Cpu::compile(&method::describe(&config, n)?, sizes, options)?;

    // The bank starts from the untrained network's features, which also move the batch norms.
    let loading = feed::load_options(batch, 1, false);
    let (mut bank, mut features) = (vec![0.0; n * dim], [Vec::new()]);
    for views in feed::views(&source, (0..n as u64).collect(), 32, loading) {
        let views = views?;
        let (pixels, count) = (&views.pixels[..], views.len());
        let (images, outputs) = (Images { pixels, count }, [Output::Embedding]);
        engine.features(images, Norm::Track, &outputs, &mut features)?;
        for (&row, feature) in views.rows.iter().zip(features[0].chunks_exact(dim)) {
            bank[row as usize * dim..][..dim].copy_from_slice(feature);
        }
    }
    engine.write(BANK, &bank)?;
    let pipeline = Arc::new(config.pipeline().map_err(Error::from)?);
    let mut which = Epoch::default();
    for epoch in 0..30 {
        which.epoch = epoch;
        let (none, mut total) = (BTreeSet::new(), 0.0);
        for shown in Loader::new(source.clone(), pipeline.clone(), loading, which, &none) {
            let shown = shown?;
            let (pixels, count) = (&shown.pixels[..], shown.len());
            let (rows, occurrences) = (&shown.rows[..], &shown.occurrences[..]);
            let draws = Draws::Sampled { epoch, occurrences };
            let losses =
                engine.gradient(Images { pixels, count }, Objective::Npid { rows, draws })?;
            engine.apply(0.03, 1.0); // the learning rate, and what gradients are multiplied by
            engine.update_bank()?;
            total += f64::from(losses[0].value) * count as f64;
        }
        println!("epoch {epoch}: loss {:.3}", total / n as f64); // chance: ln 256 = 5.545
    }
    Ok(())
}
