//! Training steps of small NPID models, held against PyTorch's numbers (`golden/npid/make.py`).

mod common;

use common::{assert_close, images};
use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::reference::Reference;
use npid_engine::state::BANK;
use npid_engine::{Description, Draws, Dtype, Engine, Objective, Sizes};
use npid_network::graph::{Network, Param};
use npid_network::method::{Head, Lars, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::neck::{Layers, Neck, embed};
use npid_network::resnet::{ResNet, Stem};
use safetensors::SafeTensors;
use serde_json::Value;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../golden/npid/npid.safetensors"
);

struct Golden<'a> {
    tensors: SafeTensors<'a>,
    about: Value,
}

impl<'a> Golden<'a> {
    fn parse(bytes: &'a [u8]) -> Self {
        let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        let about = &metadata.metadata().as_ref().unwrap()["about"];
        Golden {
            tensors: SafeTensors::deserialize(bytes).unwrap(),
            about: serde_json::from_str(about).unwrap(),
        }
    }

    fn bytes(&self, name: &str) -> &'a [u8] {
        let found = self.tensors.tensor(name);
        found.unwrap_or_else(|e| panic!("{name}: {e}")).data()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let chunks = self.bytes(name).chunks_exact(4);
        chunks
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn rows(&self, name: &str) -> Vec<u64> {
        self.bytes(name).iter().map(|b| u64::from(*b)).collect()
    }

    /// Names of the tensors under `prefix`, without it.
    fn names(&self, prefix: &str) -> Vec<String> {
        let all = self.tensors.names();
        let under = all.iter().filter_map(|n| n.strip_prefix(prefix));
        under.map(str::to_string).collect()
    }
}

fn int(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn float(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(float).collect()
}

fn describe(about: &Value, case: &Value) -> (Description, Sizes) {
    let mut net = Network::new();
    let x = net
        .input(&floats(&about["mean"]), &floats(&about["std"]))
        .unwrap();
    let stem = if case["stem"] == "cifar" {
        Stem::Cifar
    } else {
        Stem::ImageNet
    };
    let resnet = ResNet {
        frozen_stages: usize::try_from(case["frozen_stages"].as_i64().unwrap()).ok(),
        norm_eval: case["norm_eval"].as_bool().unwrap(),
        ..ResNet::new(int(&case["depth"]), stem, int(&case["base"]))
    };
    let x = resnet.build(&mut net, x, "backbone.").unwrap();
    let hid_channels = int(&case["hid"]);
    let neck = Neck {
        layers: match case["neck"].as_str().unwrap() {
            "linear" => Layers::Linear,
            "MoCoV2Neck" => Layers::MoCoV2 { hid_channels },
            "NonLinearNeck" => Layers::NonLinear {
                hid_channels,
                num_layers: 2,
                with_bias: false,
                with_last_bn: true,
                with_last_bn_affine: true,
                with_last_bias: false,
            },
            other => panic!("neck {other}"),
        },
        ..Neck::linear(int(&case["dim"]), case["norm"].as_bool().unwrap())
    };
    embed(&mut net, x, Some(&neck)).unwrap();
    let temperature = float(&case["tau"]);
    let softmax = case["head"] == "softmax";
    let method = Npid {
        head: match case["head"].as_str().unwrap() {
            "softmax" => Head::Softmax { temperature },
            "contrastive" => Head::Contrastive { temperature },
            "nce" => Head::Nce {
                temperature,
                z_momentum: float(&case["z_momentum"]),
                proximal: float(&case["proximal"]),
            },
            other => panic!("head {other}"),
        },
        memory_bank: MemoryBank {
            length: int(&case["rows"]),
            feat_dim: int(&case["dim"]),
            momentum: float(&case["bank_momentum"]),
            dtype: RowType::F32,
            storage: RowStorage::Memory,
        },
        neg_num: if softmax { 0 } else { int(&case["k"]) },
        ensure_neg: !softmax && case["ensure_neg"].as_bool().unwrap(),
    };
    if case["lars"].is_f64() {
        // Norms and biases.
        for p in net.params.iter_mut().filter(|p| p.shape.len() == 1) {
            (p.decay_mult, p.lars_exclude) = (0.0, true);
        }
    }
    let description = Description {
        network: net,
        method: Some(method),
        neg_weights: None,
        optimizer: Sgd {
            momentum: float(&about["momentum"]),
            nesterov: false,
            weight_decay: float(&about["weight_decay"]),
            lars: case["lars"].as_f64().map(|eta| Lars {
                eta: eta as f32,
                eps: 1e-8,
            }),
        },
        seed: 0,
    };
    let sizes = Sizes {
        batch: int(&case["batch"]),
        height: int(&case["size"][0]),
        width: int(&case["size"][1]),
    };
    (description, sizes)
}

fn norm(values: &[f32]) -> f64 {
    let square = |v: &f32| f64::from(*v).powi(2);
    values.iter().map(square).sum::<f64>().sqrt()
}

/// Every case, on the engine that `make` compiles.
fn follows_pytorch(make: common::Make<'_>) {
    let bytes = std::fs::read(FILE).unwrap();
    let golden = Golden::parse(&bytes);
    let cases = golden.about["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 14);
    for (name, case) in cases {
        let (description, sizes) = describe(&golden.about, case);
        let mut engine = make(&description, sizes);
        let start = format!("{}.", case["start"].as_str().unwrap());
        // A neck of its own has a start of its own.
        let own = golden.names(&format!("{name}.initial."));
        for param in &description.network.params {
            let values = if own.contains(&param.name) {
                golden.floats(&format!("{name}.initial.{}", param.name))
            } else {
                golden.floats(&format!("{start}{}", param.name))
            };
            engine.write(&param.name, &values).unwrap();
        }
        if own.is_empty() {
            assert_eq!(golden.names(&start).len(), description.network.params.len());
        }
        let of = |what: &str| format!("{name}.{what}");
        engine
            .write(BANK, &golden.floats(&of("bank_initial")))
            .unwrap();
        let losses = golden.floats(&of("losses"));
        let (pixels, rows) = (golden.bytes(&of("pixels")), golden.rows(&of("rows")));
        let draws = golden.rows(&of("draws"));
        let (batch, steps, lr) = (sizes.batch, losses.len(), float(&case["lr"]));
        assert_eq!(steps, int(&case["steps"]));
        let accumulate = int(&case["accumulate"]);
        for step in 0..steps {
            let part = |n: usize| n / steps * step..n / steps * (step + 1);
            let objective = Objective::Npid {
                rows: &rows[part(rows.len())],
                draws: Draws::Given(&draws[part(draws.len())]),
            };
            let batch = images(&pixels[part(pixels.len())], batch);
            let loss = engine.gradient(batch, objective).unwrap();
            assert_close(
                &of(&format!("loss of step {step}")),
                &[loss[0].value],
                &losses[step..=step],
                0.0,
                1e-4,
            );
            if step == 0 {
                first_gradients(&golden, name, engine.as_ref(), &case["all_gradients"]);
            }
            if step % accumulate == accumulate - 1 {
                engine.apply(lr, 1.0 / accumulate as f32);
            }
            engine.update_bank().unwrap();
        }
        let bank = golden.floats(&of("bank"));
        // Relative to the rows, which are unit vectors.
        assert_close(&of("bank"), &engine.read(BANK).unwrap(), &bank, 1e-4, 1e-4);
        let d = bank.len() / int(&case["rows"]);
        for (got, want) in engine.read(BANK).unwrap().chunks(d).zip(bank.chunks(d)) {
            let off: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
            assert!(norm(&off) < 1e-4 * norm(want), "{name}: a row of the bank");
        }
        let finals = golden.names(&of("final."));
        assert_eq!(finals.is_empty(), !case["final"].as_bool().unwrap());
        for state in finals {
            let want = golden.floats(&of(&format!("final.{state}")));
            let got = engine.read(&state).unwrap();
            let largest = want.iter().fold(0f64, |a, v| a.max(f64::from(v.abs())));
            assert_close(&of(&state), &got, &want, 1e-4 * largest + 1e-6, 1e-3);
        }
    }
}

/// Within 1e-3 of each gradient's norm; where the true gradient is 0 (the bias before a batch
/// norm), within 1e-6 of the norm of all gradients together.
fn first_gradients(golden: &Golden<'_>, name: &str, engine: &dyn Engine, complete: &Value) {
    let prefix = format!("{name}.gradient.");
    let names = golden.names(&prefix);
    let params = &engine.description().network.params;
    let kept = |p: &&Param| p.trainable && (complete == &Value::Bool(true) || p.len() <= 1500);
    assert_eq!(names.len(), params.iter().filter(kept).count());
    let of = |param: &str| golden.floats(&format!("{prefix}{param}"));
    let all: Vec<f32> = names.iter().flat_map(|n| of(n)).collect();
    for param in names {
        let want = of(&param);
        let got = engine.read(&format!("gradient.{param}")).unwrap();
        assert_eq!(got.len(), want.len());
        let off: Vec<f32> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        let (off, allowed) = (norm(&off), 1e-3 * norm(&want) + 1e-6 * norm(&all));
        assert!(
            off <= allowed,
            "{name}: gradient of {param} is off by {off:e} > {allowed:e}"
        );
    }
}

#[test]
fn reference_follows_pytorch_in_f32() {
    follows_pytorch(&|d, s| Box::new(Reference::<f32>::compile(d, s).unwrap()));
}

#[test]
fn reference_follows_pytorch_in_f64() {
    follows_pytorch(&|d, s| Box::new(Reference::<f64>::compile(d, s).unwrap()));
}

#[test]
fn cpu_follows_pytorch() {
    for isa in Isa::available() {
        println!("{isa:?}");
        let options = Options {
            threads: 2,
            isa,
            dtype: Dtype::F32,
        };
        follows_pytorch(&|d, s| Box::new(Cpu::compile(d, s, options).unwrap()));
    }
}
