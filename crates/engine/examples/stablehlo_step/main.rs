//! Proves that a [`Description`] is enough for an engine that compiles whole programs: walks the
//! one of a small network and writes its `step` program (gradient, optimiser, bank update) as one
//! StableHLO function, with two batches and what the reference engine makes of them.
//!
//! ```sh
//! cargo run -p npid-engine --example stablehlo_step -- OUT
//! python golden/stablehlo/run.py OUT        # compiles and runs it through PJRT, and compares
//! ```
//!
//! `OUT/step.mlir` takes (pixels, rows, lr, state...) and returns (loss, state...), with the states
//! in the order of `OUT/step.safetensors`'s metadata. What it taught is in
//! `docs/stablehlo-proof.md`.

mod emit;
mod lower;

use std::collections::BTreeMap;
use std::path::Path;

use npid_engine::reference::Reference;
use npid_engine::{Description, Draws, Engine, Images, Objective, Sizes};
use npid_network::graph::{Init, Network, Window};
use npid_network::method::{Head, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::neck::{Neck, embed};
use npid_network::philox::{Purpose, Stream};
use safetensors::tensor::{Dtype, TensorView};

type Failure = Box<dyn std::error::Error>;

/// Two convolutions with batch norms, a pool, a sum, and `LinearNeck`.
fn description() -> Result<Description, npid_network::Error> {
    let mut net = Network::new();
    let init = Init::KaimingNormalFanOut;
    let x = net.input(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])?;
    let x = net.conv2d("backbone.conv1", x, 5, 3, 2, 1, init)?;
    let x = net.batch_norm("backbone.bn1", x, true);
    let x = net.relu("backbone.relu", x);
    let window = Window {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let x = net.max_pool("backbone.maxpool", x, window)?;
    let y = net.conv2d("backbone.conv2", x, 5, 3, 1, 1, init)?;
    let y = net.batch_norm("backbone.bn2", y, true);
    let y = net.add("backbone.add", y, x)?;
    let y = net.relu("backbone.relu2", y);
    embed(&mut net, y, Some(&Neck::linear(6, true)))?;
    Ok(Description {
        network: net,
        method: Some(Npid {
            head: Head::Softmax { temperature: 0.2 },
            memory_bank: MemoryBank {
                length: 10,
                feat_dim: 6,
                momentum: 0.9,
                dtype: RowType::F32,
                storage: RowStorage::Memory,
            },
            neg_num: 0,
            ensure_neg: false,
        }),
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
            lars: None,
        },
        seed: 1,
    })
}

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("usage: stablehlo_step OUT")?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    let sizes = Sizes {
        batch: 4,
        height: 13,
        width: 10,
    };
    let description = description()?;
    let program = lower::step(&description, sizes)?;
    std::fs::write(folder.join("step.mlir"), &program.text)?;

    let mut engine = Reference::<f32>::compile(&description, sizes)?;
    let mut out = Tensors::default();
    for (name, shape) in &program.states {
        out.floats(&format!("state0.{name}"), shape, &engine.read(name)?);
    }
    let mut stream = Stream::new(1, Purpose::Bench, 0, 0, 0);
    // The second batch has an image twice: both read the old row, the last one stays.
    for (step, rows) in [[3u64, 0, 9, 5], [7, 2, 7, 3]].into_iter().enumerate() {
        let count = sizes.batch * sizes.height * sizes.width * 3;
        let pixels: Vec<u8> = (0..count).map(|_| stream.next_u32() as u8).collect();
        let images = Images {
            pixels: &pixels,
            count: sizes.batch,
        };
        let objective = Objective::Npid {
            rows: &rows,
            draws: Draws::Given(&[]),
        };
        let lr = 0.1 / (step + 1) as f32;
        let losses = engine.step(images, objective, lr)?;
        let (at, next) = (step, step + 1);
        let shape = [sizes.batch, sizes.height, sizes.width, 3];
        out.add(&format!("pixels{at}"), Dtype::U8, &shape, pixels);
        let rows = rows.iter().flat_map(|r| (*r as i32).to_le_bytes());
        out.add(
            &format!("rows{at}"),
            Dtype::I32,
            &[sizes.batch],
            rows.collect(),
        );
        out.floats(&format!("lr{at}"), &[], &[lr]);
        out.floats(&format!("loss{next}"), &[], &[losses[0].value]);
        for (name, shape) in &program.states {
            out.floats(&format!("state{next}.{name}"), shape, &engine.read(name)?);
        }
    }
    let order: Vec<&str> = program.states.iter().map(|s| s.0.as_str()).collect();
    out.save(&folder.join("step.safetensors"), &order.join("\n"))
}

#[derive(Default)]
struct Tensors(BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn add(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        self.0
            .insert(name.to_string(), (dtype, shape.to_vec(), bytes));
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(name, Dtype::F32, shape, bytes);
    }

    fn save(&self, path: &Path, order: &str) -> Result<(), Failure> {
        let mut views = Vec::new();
        for (name, (dtype, shape, bytes)) in &self.0 {
            views.push((name, TensorView::new(*dtype, shape.clone(), bytes)?));
        }
        let about = [("states".to_string(), order.to_string())];
        let about = Some(about.into_iter().collect());
        std::fs::write(path, safetensors::serialize(views, about)?)?;
        Ok(())
    }
}
