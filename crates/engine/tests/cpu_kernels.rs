//! What the comparison with the reference over ResNets can't reach: graphs no ResNet builds, and
//! numbers that aren't.

use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::reference::Reference;
use npid_engine::{
    Description, Draws, Dtype, Engine, Error, Images, Norm, Objective, Output, Sizes,
};
use npid_network::graph::{Init, Network, NodeId};
use npid_network::method::{Head, MemoryBank, Npid, RowStorage, RowType, Sgd};
use npid_network::neck::{Neck, embed};

const SIZES: Sizes = Sizes {
    batch: 4,
    height: 6,
    width: 5,
};

fn describe(build: impl Fn(&mut Network, NodeId) -> NodeId, norm: bool) -> Description {
    let mut network = Network::new();
    let x = network.input(&[0.5; 3], &[0.25; 3]).unwrap();
    let x = build(&mut network, x);
    embed(&mut network, x, Some(&Neck::linear(8, norm))).unwrap();
    Description {
        network,
        method: Some(Npid {
            head: Head::Softmax { temperature: 0.2 },
            memory_bank: MemoryBank {
                length: 9,
                feat_dim: 8,
                momentum: 0.5,
                dtype: RowType::F32,
                storage: RowStorage::Memory,
            },
            neg_num: 1,
            ensure_neg: false,
        }),
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
            lars: None,
        },
        seed: 3,
    }
}

fn engines(description: &Description) -> Vec<Cpu> {
    let compile = |isa| {
        Cpu::compile(
            description,
            SIZES,
            Options {
                threads: 2,
                isa,
                dtype: Dtype::F32,
            },
        )
        .unwrap()
    };
    Isa::available().into_iter().map(compile).collect()
}

fn pixels(count: usize) -> Vec<u8> {
    let n = count * SIZES.height * SIZES.width * 3;
    (0..n).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect()
}

fn gradient(engine: &mut dyn Engine, count: usize) -> f32 {
    let rows: Vec<u64> = (0..count as u64).collect();
    let pixels = pixels(count);
    let images = Images {
        pixels: &pixels,
        count,
    };
    let objective = Objective::Npid {
        rows: &rows,
        draws: Draws::Given(&[]),
    };
    engine.gradient(images, objective).unwrap()[0].value
}

fn conv(network: &mut Network, name: &str, x: NodeId, out: usize, kernel: usize) -> NodeId {
    let init = Init::UniformFanIn(kernel * kernel * network.node(x).channels);
    network
        .conv2d(name, x, out, kernel, 1, kernel / 2, init)
        .unwrap()
}

/// Sums in every place where fusion could take them: after a batch norm of frozen maps, after a
/// convolution without one, of a map with itself, of a map that is read elsewhere too.
#[test]
fn unusual_graphs_have_the_references_gradients() {
    type Build = fn(&mut Network, NodeId) -> NodeId;
    let builds: [(&str, Build); 5] = [
        ("norm of the input, then a sum", |net, x| {
            let a = net.batch_norm("a", x, true);
            let b = conv(net, "b", x, 3, 3);
            let sum = net.add("sum", a, b).unwrap();
            net.relu("relu", sum)
        }),
        ("plain norm of the input, then a sum", |net, x| {
            let a = net.batch_norm("a", x, false);
            let b = conv(net, "b", x, 3, 1);
            let sum = net.add("sum", a, b).unwrap();
            net.relu("relu", sum)
        }),
        ("a sum without a norm", |net, x| {
            let a = conv(net, "a", x, 4, 3);
            let b = conv(net, "b", a, 4, 3);
            let sum = net.add("sum", b, a).unwrap();
            net.relu("relu", sum)
        }),
        ("a map with itself", |net, x| {
            let a = conv(net, "a", x, 4, 3);
            let sum = net.add("sum", a, a).unwrap();
            net.relu("relu", sum)
        }),
        ("a map read three times", |net, x| {
            let a = conv(net, "a", x, 4, 3);
            let r = net.relu("r", a);
            let n = net.batch_norm("n", r, true);
            let b = conv(net, "b", r, 4, 3);
            let b = net.batch_norm("bn", b, true);
            let sum = net.add("sum", b, n).unwrap();
            net.add("again", sum, r).unwrap()
        }),
    ];
    for (name, build) in builds {
        let description = describe(build, true);
        let mut reference = Reference::<f64>::compile(&description, SIZES).unwrap();
        let loss = gradient(&mut reference, 4);
        for mut cpu in engines(&description) {
            let got = gradient(&mut cpu, 4);
            assert!((got - loss).abs() < 1e-4, "{name}: loss {got}, not {loss}");
            let state = cpu.state();
            let gradients = || state.iter().filter(|e| !e.saved());
            // A bias before a batch norm has a gradient of 0: what cancels there is as large as
            // any other.
            let all = gradients().flat_map(|e| reference.read(&e.name).unwrap());
            let everywhere = all.fold(0f32, |a, b| a.max(b.abs()));
            for entry in gradients() {
                let want = reference.read(&entry.name).unwrap();
                let largest = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
                for (got, want) in cpu.read(&entry.name).unwrap().iter().zip(&want) {
                    assert!(
                        (got - want).abs() < 1e-3 * largest + 1e-4 * everywhere.max(1.0),
                        "{name}: {} is {got}, not {want} ({})",
                        entry.name,
                        cpu.info().device
                    );
                }
            }
        }
    }
}

fn residual(net: &mut Network, x: NodeId) -> NodeId {
    let a = conv(net, "a", x, 4, 3);
    let a = net.batch_norm("bn", a, true);
    net.relu("relu", a)
}

/// A network that has blown up must say so: a ReLU that turned NaN into 0 would hide it.
#[test]
fn nan_reaches_the_loss() {
    for mut cpu in engines(&describe(residual, true)) {
        let mut weights = cpu.read("a.weight").unwrap();
        weights[5] = f32::NAN;
        cpu.write("a.weight", &weights).unwrap();
        assert!(gradient(&mut cpu, 4).is_nan(), "{}", cpu.info().device);
    }
    for mut cpu in engines(&describe(residual, true)) {
        let mut bank = cpu.read("memory_bank.feature_bank").unwrap();
        bank[8 * 8 + 1] = f32::NAN; // row 8, which is no image's own
        cpu.write("memory_bank.feature_bank", &bank).unwrap();
        assert!(gradient(&mut cpu, 4).is_nan(), "{}", cpu.info().device);
    }
}

/// Through a batch norm over one value nothing comes back, on every instruction set.
#[test]
fn one_image_has_no_gradient_through_its_norm() {
    for mut cpu in engines(&describe(residual, true)) {
        gradient(&mut cpu, 1);
        let d = cpu.read("gradient.neck.fc.weight").unwrap();
        assert!(d.iter().all(|d| *d == 0.0), "{}", cpu.info().device);
    }
}

/// Images that are all alike become β exactly, at any number of values.
#[test]
fn equal_images_are_normalised_to_zero() {
    for mut cpu in engines(&describe(residual, true)) {
        let pixels = vec![77; 3 * SIZES.height * SIZES.width * 3];
        let images = Images {
            pixels: &pixels,
            count: 3,
        };
        let mut out = [Vec::new()];
        cpu.features(images, Norm::Batch, &[Output::Embedding], &mut out)
            .unwrap();
        assert!(out[0].iter().all(|x| *x == 0.0), "{}", cpu.info().device);
    }
}

#[test]
fn what_no_system_gives_is_refused() {
    let description = describe(residual, false);
    let options = Options {
        threads: 1,
        isa: Isa::Portable,
        dtype: Dtype::F32,
    };
    let sizes = Sizes {
        batch: 1 << 60,
        ..SIZES
    };
    let error = Cpu::compile(&description, sizes, options).err().unwrap();
    assert!(
        matches!(&error, Error::Argument(m) if m.contains("memory")),
        "{error}"
    );
}
