//! ONNX models, read back and run by an interpreter written here, give the features of the
//! reference engine.

mod eval;

use npid_engine::reference::Reference;
use npid_engine::{Description, Engine, Images, Norm, Output, Sizes};
use npid_network::graph::{Network, NodeId};
use npid_network::method::Sgd;
use npid_network::neck::{self, Neck};
use npid_network::philox::{Purpose, Stream};
use npid_network::resnet::{ResNet, Stem};
use npid_weights::onnx::proto::{Length, ModelProto};
use npid_weights::onnx::{Error, Model};
use prost::Message;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A backbone of width 4 with all stages named; the network and the backbone's last node.
fn backbone(depth: usize, stem: Stem) -> (Network, NodeId) {
    let mut net = Network::new();
    let x = net.input(&MEAN, &STD).unwrap();
    let resnet = ResNet {
        out_indices: vec![0, 1, 2, 3, 4],
        ..ResNet::new(depth, stem, 4)
    };
    let map = resnet.build(&mut net, x, "backbone.").unwrap();
    (net, map)
}

fn linear_neck(with_avg_pool: bool, norm: bool) -> Neck {
    Neck {
        with_avg_pool,
        ..Neck::linear(6, norm)
    }
}

/// The reference engine of a network, for two images of `h` x `w`, with statistics that are not
/// those of an untrained network.
fn engine(network: &Network, h: usize, w: usize) -> Reference<f32> {
    let description = Description {
        network: network.clone(),
        method: None,
        neg_weights: None,
        optimizer: Sgd {
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            lars: None,
        },
        seed: 3,
    };
    let sizes = Sizes {
        batch: 2,
        height: h,
        width: w,
    };
    let mut engine = Reference::compile(&description, sizes).unwrap();
    let mut stream = Stream::new(11, Purpose::Bench, 0, 0, 0);
    for entry in engine.state() {
        let name = entry.name.as_str();
        if name.starts_with("gradient.") || entry.shape.len() > 1 {
            continue;
        }
        // Scales and variances around 1, shifts and means around 0.
        let centre = f64::from(u8::from(name.ends_with("weight") || name.ends_with("var")));
        let values: Vec<f32> = (0..entry.len())
            .map(|_| (centre + stream.uniform(-0.15, 0.15)) as f32)
            .collect();
        engine.write(name, &values).unwrap();
    }
    engine
}

fn pixels(n: usize) -> Vec<u8> {
    let mut stream = Stream::new(12, Purpose::Bench, 0, 0, 0);
    (0..n).map(|_| stream.next_u32() as u8).collect()
}

fn features(engine: &mut Reference<f32>, pixels: &[u8], output: Output) -> Vec<f32> {
    let images = Images { pixels, count: 2 };
    let mut into = [Vec::new()];
    (engine.features(images, Norm::Eval, &[output], &mut into)).unwrap();
    std::mem::take(&mut into[0])
}

/// `model` written, read back and run on two images of bytes.
fn run(model: &Model<'_>, engine: &Reference<f32>, pixels: &[u8]) -> (ModelProto, eval::Value) {
    let bytes = model
        .encode(|name| {
            let values = engine.read(name);
            values.map_err(|_| Error::Tensor(name.to_string()))
        })
        .unwrap();
    let proto = ModelProto::decode(&bytes[..]).unwrap();
    let (h, w) = (model.height, model.width);
    // B x H x W x C bytes to N x C x H x W numbers.
    let image = eval::Value {
        dims: vec![2, 3, h, w],
        data: (0..2 * 3 * h * w)
            .map(|i| {
                let (n, c, p) = (i / (3 * h * w), i / (h * w) % 3, i % (h * w));
                f64::from(pixels[(n * h * w + p) * 3 + c]) / 255.0
            })
            .collect(),
    };
    let mut results = eval::run(&proto, image);
    let result = results.remove(model.name).unwrap();
    assert!(results.is_empty());
    (proto, result)
}

#[track_caller]
fn assert_close(got: &[f64], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(scale > 0.01, "nothing to compare: {scale}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let off = (g - f64::from(*w)).abs();
        assert!(off < 1e-5 * f64::from(scale), "{i}: {g} for {w}");
    }
}

fn shape_of(proto: &ModelProto) -> Vec<Option<Length>> {
    let graph = proto.graph.as_ref().unwrap();
    let kind = graph.output[0].r#type.as_ref().unwrap();
    let shape = kind.tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
    shape.dim.iter().map(|d| d.value.clone()).collect()
}

/// Every neck, both stems and kinds of block, odd sizes.
#[test]
fn embeddings_are_the_engines() {
    let mlp = |net: &mut Network, x: NodeId| {
        let x = net.global_avg_pool("neck.avgpool", x);
        let x = net.linear("neck.fc0", x, 10, false).unwrap();
        let x = net.batch_norm("neck.bn0", x, true);
        let x = net.relu("neck.relu", x);
        let x = net.linear("neck.fc1", x, 6, true).unwrap();
        net.embedding = Some(net.l2_norm("embedding", x));
    };
    type Neck<'a> = &'a dyn Fn(&mut Network, NodeId);
    let linear = |pool, norm| {
        move |net: &mut Network, x| {
            neck::embed(net, x, Some(&linear_neck(pool, norm))).unwrap();
        }
    };
    let none = |net: &mut Network, x| {
        neck::embed(net, x, None).unwrap();
    };
    let cases: [(usize, Stem, (usize, usize), Neck<'_>); 6] = [
        (18, Stem::Cifar, (16, 16), &linear(true, true)),
        (18, Stem::ImageNet, (37, 45), &linear(true, false)),
        (34, Stem::Cifar, (9, 11), &none),
        (50, Stem::Cifar, (13, 10), &mlp),
        // A map of one pixel needs no pool.
        (50, Stem::ImageNet, (31, 29), &linear(false, true)),
        (18, Stem::ImageNet, (1, 1), &linear(false, false)),
    ];
    for (depth, stem, (h, w), neck) in cases {
        let (mut net, map) = backbone(depth, stem);
        neck(&mut net, map);
        let mut engine = engine(&net, h, w);
        let pixels = pixels(2 * h * w * 3);
        let model = Model {
            network: &net,
            output: net.embedding.unwrap(),
            pooled: false,
            name: "feature",
            height: h,
            width: w,
            metadata: vec![],
        };
        let (proto, got) = run(&model, &engine, &pixels);
        let want = features(&mut engine, &pixels, Output::Embedding);
        assert_close(&got.data, &want);
        let dim = net.feat_dim();
        assert_eq!(got.dims, [2, dim]);
        let batch = Some(Length::Param("batch".into()));
        assert_eq!(shape_of(&proto), [batch, Some(Length::Value(dim as i64))]);
    }
}

#[test]
fn maps_and_their_means_are_the_engines() {
    let (mut net, map) = backbone(18, Stem::ImageNet);
    neck::embed(&mut net, map, Some(&linear_neck(true, true))).unwrap();
    let (h, w) = (70, 40);
    let mut engine = engine(&net, h, w);
    let pixels = pixels(2 * h * w * 3);
    let want = features(&mut engine, &pixels, Output::Stage(4));
    let mut model = Model {
        network: &net,
        output: map,
        pooled: false,
        name: "map",
        height: h,
        width: w,
        metadata: vec![],
    };
    let (proto, got) = run(&model, &engine, &pixels);
    assert_eq!(got.dims, [2, 32, 3, 2]);
    let lengths = [32, 3, 2].map(|n| Some(Length::Value(n)));
    assert_eq!(shape_of(&proto)[1..], lengths);
    // B x H x W x C of the engine to N x C x H x W.
    let turned: Vec<f32> = (0..want.len())
        .map(|i| want[(i / (32 * 6) * 6 + i % 6) * 32 + i / 6 % 32])
        .collect();
    assert_close(&got.data, &turned);
    // Nothing of the neck is in the file.
    let graph = proto.graph.unwrap();
    let foreign = |name: &String| name.contains("neck") || name.contains("embedding");
    assert!(!graph.initializer.iter().any(|t| foreign(&t.name)));
    assert!(!graph.node.iter().any(|n| foreign(&n.name)));

    model.pooled = true;
    // A name that a node of the network has already.
    model.name = "backbone.layer1.0.conv1";
    let (_, got) = run(&model, &engine, &pixels);
    assert_eq!(got.dims, [2, 32]);
    let means: Vec<f32> = (turned.chunks(6))
        .map(|map| map.iter().sum::<f32>() / 6.0)
        .collect();
    assert_close(&got.data, &means);
}

/// What a person finds who opens the file.
#[test]
fn the_file_says_what_it_is() {
    let (mut net, map) = backbone(18, Stem::ImageNet);
    neck::embed(&mut net, map, Some(&linear_neck(true, true))).unwrap();
    let engine = engine(&net, 64, 48);
    let model = Model {
        network: &net,
        output: net.embedding.unwrap(),
        pooled: false,
        name: "feature",
        height: 64,
        width: 48,
        metadata: vec![("npid.size".into(), "64".into())],
    };
    let (proto, _) = run(&model, &engine, &pixels(2 * 64 * 48 * 3));
    assert_eq!((proto.ir_version, proto.opset_import.len()), (8, 1));
    assert_eq!(proto.opset_import[0].version, 17);
    assert_eq!(proto.producer_name, "npid");
    assert_eq!(proto.metadata_props[0].key, "npid.size");
    assert_eq!(proto.metadata_props[0].value, "64");
    let graph = proto.graph.unwrap();
    assert_eq!(graph.input[0].name, "image");
    let count = |op: &str| graph.node.iter().filter(|n| n.op_type == op).count();
    // 20 convolutions with a batch norm each, and the neck's.
    let counts = [
        "Conv",
        "BatchNormalization",
        "Relu",
        "Add",
        "MaxPool",
        "Gemm",
    ]
    .map(count);
    assert_eq!(counts, [20, 21, 17, 8, 1, 1]);
    let shape = |name: &str| {
        let found = graph.initializer.iter().find(|t| t.name == name);
        found.map(|t| t.dims.clone())
    };
    for param in &net.params {
        let dims: Vec<i64> = param.shape.iter().map(|&d| d as i64).collect();
        assert_eq!(shape(&param.name), Some(dims), "{}", param.name);
    }
    for statistic in &net.statistics {
        let dims = vec![statistic.channels as i64];
        assert_eq!(shape(&statistic.name), Some(dims), "{}", statistic.name);
    }
    // Beside them: mean, deviation, the neck's scale and shift, and the least length.
    let constants = graph.initializer.len() - net.params.len() - net.statistics.len();
    assert_eq!(constants, 5);
}

#[test]
fn a_model_that_can_not_be_is_an_error() {
    let (mut net, map) = backbone(18, Stem::Cifar);
    neck::embed(&mut net, map, None).unwrap();
    fn model(network: &Network, output: NodeId) -> Model<'_> {
        Model {
            network,
            output,
            pooled: false,
            name: "feature",
            height: 8,
            width: 8,
            metadata: vec![],
        }
    }
    let missing = model(&net, map).encode(|name| match name {
        "backbone.bn1.running_var" => Ok(vec![1.0; 3]),
        _ => Ok(net_values(&net, name)),
    });
    assert_eq!(
        missing,
        Err(Error::Tensor("backbone.bn1.running_var".into()))
    );

    // 32 x 2^24 weights of 4 bytes: refused before a single one is asked for.
    let pooled = net.global_avg_pool("pool", map);
    let huge = net.linear("huge", pooled, 1 << 24, false).unwrap();
    let refused = model(&net, huge).encode::<Error>(|name| panic!("{name} is asked for"));
    assert!(matches!(refused, Err(Error::TooLarge(n)) if n > 1 << 31));
    // What the output doesn't depend on isn't counted.
    assert!(
        model(&net, map)
            .encode(|name| Ok::<_, Error>(net_values(&net, name)))
            .is_ok()
    );
}

fn net_values(net: &Network, name: &str) -> Vec<f32> {
    let param = net.params.iter().find(|p| p.name == name);
    let statistic = || net.statistics.iter().find(|s| s.name == name);
    let length = param.map_or_else(|| statistic().map_or(0, |s| s.channels), |p| p.len());
    vec![0.5; length]
}
