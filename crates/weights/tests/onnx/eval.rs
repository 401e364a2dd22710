//! Runs an ONNX model by plain loops in f64, by the operators' own definitions (ONNX's
//! `docs/Operators.md`): what a file means is found out from the file alone.

use std::collections::HashMap;

use npid_weights::onnx::proto::{ModelProto, NodeProto};

/// A tensor, row-major.
#[derive(Clone, Debug)]
pub struct Value {
    pub dims: Vec<usize>,
    pub data: Vec<f64>,
}

/// The model's outputs for `image`. Panics for anything that isn't as ONNX has it: an unknown
/// operator or attribute, a name that nothing computes or that two compute, a shape that isn't the
/// declared one.
pub fn run(model: &ModelProto, image: Value) -> HashMap<String, Value> {
    let graph = model.graph.as_ref().unwrap();
    let mut values: HashMap<String, Value> = HashMap::new();
    for tensor in &graph.initializer {
        assert_eq!(tensor.data_type, 1);
        let data: Vec<f64> = (tensor.raw_data.chunks_exact(4))
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
            .collect();
        let dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
        assert_eq!(
            dims.iter().product::<usize>(),
            data.len(),
            "{}",
            tensor.name
        );
        let before = values.insert(tensor.name.clone(), Value { dims, data });
        assert!(before.is_none(), "two tensors {}", tensor.name);
    }
    assert_eq!(graph.input.len(), 1);
    let before = values.insert(graph.input[0].name.clone(), image);
    assert!(before.is_none());
    for node in &graph.node {
        let inputs: Vec<&Value> = (node.input.iter())
            .map(|name| (values.get(name)).unwrap_or_else(|| panic!("{name} is not there")))
            .collect();
        let result = compute(node, &inputs);
        assert_eq!(result.dims.iter().product::<usize>(), result.data.len());
        let before = values.insert(node.output[0].clone(), result);
        assert!(before.is_none(), "{} is computed twice", node.output[0]);
    }
    (graph.output.iter())
        .map(|out| (out.name.clone(), values.remove(&out.name).unwrap()))
        .collect()
}

fn compute(node: &NodeProto, inputs: &[&Value]) -> Value {
    let attribute = |name: &str| {
        let found = node.attribute.iter().find(|a| a.name == name);
        found.unwrap_or_else(|| panic!("{}: no {name}", node.op_type))
    };
    let ints = |name: &str| {
        assert_eq!(attribute(name).r#type, 7);
        let all = &attribute(name).ints;
        assert!(all.iter().all(|v| *v == all[0]), "{name}: {all:?}");
        (all.len(), all[0] as usize)
    };
    let int = |name: &str| {
        assert_eq!(attribute(name).r#type, 2);
        attribute(name).i.unwrap()
    };
    let only = |names: &[&str]| {
        let mut there: Vec<&str> = node.attribute.iter().map(|a| a.name.as_str()).collect();
        there.sort_unstable();
        assert_eq!(there, names, "{}", node.op_type);
    };
    let x = inputs[0];
    let map = |f: &dyn Fn(f64) -> f64| Value {
        dims: x.dims.clone(),
        data: x.data.iter().map(|&v| f(v)).collect(),
    };
    match node.op_type.as_str() {
        "Sub" => broadcast(x, inputs[1], |a, b| a - b),
        "Div" => broadcast(x, inputs[1], |a, b| a / b),
        "Add" => broadcast(x, inputs[1], |a, b| a + b),
        "Max" => broadcast(x, inputs[1], f64::max),
        "Relu" => map(&|v| v.max(0.0)),
        "Conv" => {
            only(&["kernel_shape", "pads", "strides"]);
            let w = inputs[1];
            let out = w.dims[0];
            assert_eq!(ints("kernel_shape"), (2, w.dims[2]));
            assert_eq!((w.dims[1], w.dims[3]), (x.dims[1], w.dims[2]));
            assert_eq!(ints("strides").0, 2);
            assert_eq!(ints("pads").0, 4);
            let (k, c) = (w.dims[2], w.dims[1]);
            slide(
                x,
                out,
                k,
                ints("strides").1,
                ints("pads").1,
                |n, o, taps| {
                    let mut sum = 0.0;
                    for i in 0..c {
                        for &(tap, pixel) in taps {
                            sum += w.data[(o * c + i) * k * k + tap]
                                * x.data[(n * c + i) * x.dims[2] * x.dims[3] + pixel];
                        }
                    }
                    sum
                },
            )
        }
        "MaxPool" => {
            only(&["kernel_shape", "pads", "strides"]);
            let c = x.dims[1];
            let (k, s, p) = (ints("kernel_shape").1, ints("strides").1, ints("pads").1);
            slide(x, c, k, s, p, |n, o, taps| {
                let pixels = taps.iter().map(|&(_, pixel)| pixel);
                pixels
                    .map(|pixel| x.data[(n * c + o) * x.dims[2] * x.dims[3] + pixel])
                    .fold(f64::NEG_INFINITY, f64::max)
            })
        }
        "BatchNormalization" => {
            only(&["epsilon"]);
            assert_eq!(attribute("epsilon").r#type, 1);
            let epsilon = f64::from(attribute("epsilon").f.unwrap());
            let c = x.dims[1];
            let area: usize = x.dims[2..].iter().product();
            assert!(inputs[1..].iter().all(|v| v.dims == [c]) && inputs.len() == 5);
            let data = x.data.iter().enumerate().map(|(i, v)| {
                let at = i / area % c;
                let [scale, shift, mean, var] = [1, 2, 3, 4].map(|i: usize| inputs[i].data[at]);
                (v - mean) / (var + epsilon).sqrt() * scale + shift
            });
            Value {
                dims: x.dims.clone(),
                data: data.collect(),
            }
        }
        "GlobalAveragePool" => {
            let area = x.dims[2] * x.dims[3];
            Value {
                dims: vec![x.dims[0], x.dims[1], 1, 1],
                data: (x.data.chunks(area))
                    .map(|map| map.iter().sum::<f64>() / area as f64)
                    .collect(),
            }
        }
        "Flatten" => {
            assert_eq!(int("axis"), 1);
            Value {
                dims: vec![x.dims[0], x.dims[1..].iter().product()],
                data: x.data.clone(),
            }
        }
        "Gemm" => {
            only(&["transB"]);
            assert_eq!(int("transB"), 1);
            let w = inputs[1];
            let (n, c, d) = (x.dims[0], x.dims[1], w.dims[0]);
            assert_eq!((x.dims.len(), w.dims[1]), (2, c));
            let bias = |o: usize| inputs.get(2).map_or(0.0, |b| b.data[o]);
            let dot = |i: usize, o: usize| -> f64 {
                let (a, b) = (&x.data[i * c..][..c], &w.data[o * c..][..c]);
                a.iter().zip(b).map(|(a, b)| a * b).sum()
            };
            Value {
                dims: vec![n, d],
                data: (0..n * d)
                    .map(|i| dot(i / d, i % d) + bias(i % d))
                    .collect(),
            }
        }
        "ReduceL2" => {
            assert_eq!((ints("axes"), int("keepdims")), ((1, 1), 1));
            let c = x.dims[1];
            assert_eq!(x.dims.len(), 2);
            Value {
                dims: vec![x.dims[0], 1],
                data: (x.data.chunks(c))
                    .map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt())
                    .collect(),
            }
        }
        other => panic!("unknown operator {other}"),
    }
}

/// Each output position of a window of `k` x `k`, as the window's `(tap, input pixel)` pairs.
fn slide(
    x: &Value,
    out: usize,
    k: usize,
    stride: usize,
    pad: usize,
    f: impl Fn(usize, usize, &[(usize, usize)]) -> f64,
) -> Value {
    let [n, _, h, w] = x.dims[..] else {
        panic!("{:?}", x.dims)
    };
    let [oh, ow] = [h, w].map(|size| (size + 2 * pad - k) / stride + 1);
    let mut taps: Vec<Vec<(usize, usize)>> = Vec::new();
    for (oy, ox) in (0..oh * ow).map(|i| (i / ow, i % ow)) {
        let all = (0..k * k).filter_map(|tap| {
            let y = (oy * stride + tap / k).checked_sub(pad)?;
            let x = (ox * stride + tap % k).checked_sub(pad)?;
            (y < h && x < w).then_some((tap, y * w + x))
        });
        taps.push(all.collect());
    }
    let mut data = Vec::new();
    for (image, channel) in (0..n * out).map(|i| (i / out, i % out)) {
        data.extend(taps.iter().map(|taps| f(image, channel, taps)));
    }
    Value {
        dims: vec![n, out, oh, ow],
        data,
    }
}

/// By ONNX's (NumPy's) rule, `b` having no more axes than `a`.
fn broadcast(a: &Value, b: &Value, f: impl Fn(f64, f64) -> f64) -> Value {
    let lead = a.dims.len() - b.dims.len();
    let data = a.data.iter().enumerate().map(|(i, &v)| {
        let (mut rest, mut at, mut step) = (i, 0, 1);
        for axis in (0..a.dims.len()).rev() {
            let index = rest % a.dims[axis];
            rest /= a.dims[axis];
            if axis >= lead {
                let length = b.dims[axis - lead];
                assert!(length == 1 || length == a.dims[axis], "{:?}", b.dims);
                if length != 1 {
                    at += index * step;
                }
                step *= length;
            }
        }
        f(v, b.data[at])
    });
    Value {
        dims: a.dims.clone(),
        data: data.collect(),
    }
}
