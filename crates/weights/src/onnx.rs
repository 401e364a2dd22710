//! Networks as ONNX models.
//!
//! A model has one input, `image`, and one output. The input is RGB in 0..1, N x 3 x H x W, of the
//! run's size and any N: the first two operations subtract the mean and divide by the deviation,
//! so that no caller can forget or mistake them. Each batch norm stays an operation of its own
//! beside its convolution, with its weights under torchvision's names: runtimes fold it when they
//! load the model, and what a converter or a person finds in the file is what was trained.
//!
//! The operators are ONNX's of version 17, all of them older and unchanged since; the version of
//! the format is the one that came with them, 8 (ONNX 1.12, 2022). Source: the tables in ONNX's
//! `docs/Operators.md` and `docs/Versioning.md`.

pub mod proto;

use std::collections::HashSet;

use npid_network::graph::{Network, NodeId, Op, Shape};
use prost::Message;

use proto::{
    AttributeProto, Dimension, GraphProto, Length, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
    attribute_type,
};

/// Version of ONNX's operators that models use.
pub const OPSET: i64 = 17;
/// Version of the file format.
pub const IR_VERSION: i64 = 8;
/// The name of a model's input.
pub const INPUT: &str = "image";
/// The most bytes that a protobuf message can have.
pub const MAX_BYTES: usize = i32::MAX as usize;
/// Smallest length that the L2 norm divides by, as in [`Op::L2Norm`].
const FLOOR: f32 = 1e-12;

/// What can be wrong with a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The network doesn't fit itself or the image size.
    #[error(transparent)]
    Network(#[from] npid_network::Error),
    /// A tensor of the network wasn't given, or has another number of elements.
    #[error("{0} is missing, or of another size than the network's")]
    Tensor(String),
    /// The model would be larger than protobuf allows.
    #[error("an ONNX file of {0} bytes isn't possible, its format ends at 2 GB; write weights")]
    TooLarge(usize),
}

/// What to write.
pub struct Model<'a> {
    /// The network.
    pub network: &'a Network,
    /// The node whose value is the model's output.
    pub output: NodeId,
    /// Whether the mean over the node's positions is the output, rather than its map.
    pub pooled: bool,
    /// The name of the output.
    pub name: &'a str,
    /// Height of the images.
    pub height: usize,
    /// Width of the images.
    pub width: usize,
    /// Metadata, by name.
    pub metadata: Vec<(String, String)>,
}

impl Model<'_> {
    /// The model's message. `tensor` gives the elements of a parameter or running statistic of
    /// the network by its name; it is asked once for each that the output depends on.
    ///
    /// # Errors
    /// See [`Error`]; nothing is asked of `tensor` for a model that would be too large.
    pub fn to_proto<E>(
        &self,
        mut tensor: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<ModelProto, E>
    where
        E: From<Error>,
    {
        let network = self.network;
        let shapes = (network.check())
            .and_then(|()| network.shapes(self.height, self.width))
            .map_err(Error::from)?;
        let needed = self.needed();
        let bytes = 4 * self.elements(&needed);
        if bytes > MAX_BYTES {
            return Err(Error::TooLarge(bytes).into());
        }
        let mut graph = Graph {
            network,
            proto: GraphProto {
                name: "npid".into(),
                ..GraphProto::default()
            },
            names: [INPUT, self.name].map(String::from).into(),
            values: Vec::with_capacity(shapes.len()),
        };
        for id in 0..shapes.len() {
            let value = match needed[id] {
                true => graph.lower(NodeId(id), &mut tensor)?,
                false => Value::default(),
            };
            graph.values.push(value);
        }
        let mut out = graph.values[self.output.0].clone();
        let mut shape = shapes[self.output.0];
        if self.pooled {
            out = graph.pool("pool", &out);
            shape = Shape {
                h: 1,
                w: 1,
                ..shape
            };
        }
        graph.rename(&out.name, self.name);
        let mut sizes = vec![shape.c];
        if !out.flat {
            sizes.extend([shape.h, shape.w]);
        }
        let channels = network.in_channels();
        graph.proto.input = vec![value_info(
            INPUT,
            &[channels, self.height, self.width],
            "RGB, values in 0 to 1",
        )];
        graph.proto.output = vec![value_info(self.name, &sizes, "")];
        Ok(ModelProto {
            ir_version: IR_VERSION,
            producer_name: "npid".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            doc_string: String::new(),
            graph: Some(graph.proto),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET,
            }],
            metadata_props: (self.metadata.iter())
                .map(|(key, value)| StringStringEntryProto {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
        })
    }

    /// The bytes of the file; see [`Model::to_proto`].
    ///
    /// # Errors
    /// As [`Model::to_proto`].
    pub fn encode<E>(&self, tensor: impl FnMut(&str) -> Result<Vec<f32>, E>) -> Result<Vec<u8>, E>
    where
        E: From<Error>,
    {
        let model = self.to_proto(tensor)?;
        match model.encoded_len() {
            bytes if bytes > MAX_BYTES => Err(Error::TooLarge(bytes).into()),
            _ => Ok(model.encode_to_vec()),
        }
    }

    /// For each node, whether the output depends on it.
    fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.network.nodes.len()];
        needed[self.output.0] = true;
        for id in (0..needed.len()).rev() {
            if needed[id] {
                (self.network.nodes[id].inputs.iter()).for_each(|input| needed[input.0] = true);
            }
        }
        needed
    }

    /// Elements of all weights of the nodes that are needed.
    fn elements(&self, needed: &[bool]) -> usize {
        let param = |id: npid_network::graph::ParamId| self.network.param(id).len();
        let nodes = self.network.nodes.iter().zip(needed);
        nodes
            .filter(|(_, needed)| **needed)
            .map(|(node, _)| match &node.op {
                Op::Conv2d(k) => param(k.weight),
                Op::Linear(l) => param(l.weight) + l.bias.map_or(0, param),
                Op::BatchNorm(_) => 4 * node.channels,
                Op::Input { .. } => 2 * node.channels,
                _ => 0,
            })
            .sum()
    }
}

/// A value in the graph under construction.
#[derive(Clone, Default)]
struct Value {
    name: String,
    /// Whether it is N x C, rather than N x C x H x W.
    flat: bool,
}

struct Graph<'a> {
    network: &'a Network,
    proto: GraphProto,
    /// Names of values and weights that are taken.
    names: HashSet<String>,
    /// What the network's nodes became; without a name, those that aren't needed.
    values: Vec<Value>,
}

impl Graph<'_> {
    /// `wanted`, or it with a number if it is taken.
    fn free(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        for number in 2.. {
            if self.names.insert(name.clone()) {
                break;
            }
            name = format!("{wanted}.{number}");
        }
        name
    }

    /// Adds an operation and returns the name of what it computes.
    fn push(
        &mut self,
        name: &str,
        op_type: &str,
        input: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        let name = self.free(name);
        self.proto.node.push(NodeProto {
            input: input.iter().map(|x| x.to_string()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op_type.to_string(),
            attribute,
        });
        name
    }

    /// Adds a weight or constant and returns its name.
    fn constant(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let name = self.free(name);
        self.proto.initializer.push(TensorProto {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: proto::FLOAT,
            name: name.clone(),
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        });
        name
    }

    /// Adds a tensor of the network.
    fn weight<E: From<Error>>(
        &mut self,
        name: &str,
        dims: &[usize],
        tensor: &mut impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<String, E> {
        let values = tensor(name)?;
        if values.len() != dims.iter().product::<usize>() {
            return Err(Error::Tensor(name.to_string()).into());
        }
        Ok(self.constant(name, dims, &values))
    }

    fn lower<E: From<Error>>(
        &mut self,
        id: NodeId,
        tensor: &mut impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Value, E> {
        let node = self.network.node(id);
        let (name, c) = (node.name.as_str(), node.channels);
        let inputs: Vec<Value> = (node.inputs.iter())
            .map(|id| self.values[id.0].clone())
            .collect();
        let flat = inputs.first().is_some_and(|x| x.flat);
        let x = || inputs[0].name.as_str();
        let network = self.network;
        let param = |id: npid_network::graph::ParamId| {
            let param = network.param(id);
            (param.name.as_str(), param.shape.as_slice())
        };
        let done = |name: String| Ok(Value { name, flat });
        match &node.op {
            Op::Input { mean, std } => {
                let dims = [1, c, 1, 1];
                let mean = self.constant("image.mean", &dims, mean);
                let std = self.constant("image.std", &dims, std);
                let centred = self.push("image.centred", "Sub", &[INPUT, &mean], vec![]);
                done(self.push(name, "Div", &[&centred, &std], vec![]))
            }
            Op::Conv2d(k) => {
                let (weight, shape) = param(k.weight);
                let weight = self.weight(weight, shape, tensor)?;
                let attributes = vec![
                    ints("kernel_shape", &[k.kernel; 2]),
                    ints("strides", &[k.stride; 2]),
                    ints("pads", &[k.padding; 4]),
                ];
                done(self.push(name, "Conv", &[x(), &weight], attributes))
            }
            Op::BatchNorm(norm) => {
                // Scale and shift are not optional in ONNX.
                let scale = match norm.weight {
                    Some(id) => self.weight(param(id).0, &[c], tensor)?,
                    None => self.constant(&format!("{name}.ones"), &[c], &vec![1.0; c]),
                };
                let shift = match norm.bias {
                    Some(id) => self.weight(param(id).0, &[c], tensor)?,
                    None => self.constant(&format!("{name}.zeros"), &[c], &vec![0.0; c]),
                };
                let mut statistic =
                    |id: usize| self.weight(&network.statistics[id].name, &[c], tensor);
                let mean = statistic(norm.mean.0)?;
                let var = statistic(norm.var.0)?;
                let inputs = [x(), &scale, &shift, &mean, &var];
                let epsilon = vec![float("epsilon", norm.eps)];
                done(self.push(name, "BatchNormalization", &inputs, epsilon))
            }
            Op::Relu => done(self.push(name, "Relu", &[x()], vec![])),
            Op::Add => done(self.push(name, "Add", &[x(), &inputs[1].name], vec![])),
            Op::MaxPool(window) => {
                // Like the network's, its border never wins.
                let attributes = vec![
                    ints("kernel_shape", &[window.kernel; 2]),
                    ints("strides", &[window.stride; 2]),
                    ints("pads", &[window.padding; 4]),
                ];
                done(self.push(name, "MaxPool", &[x()], attributes))
            }
            Op::GlobalAvgPool => Ok(self.pool(name, &inputs[0])),
            Op::Linear(linear) => {
                let x = self.flattened(name, &inputs[0]);
                let (weight, shape) = param(linear.weight);
                let weight = self.weight(weight, shape, tensor)?;
                let bias = match linear.bias {
                    Some(id) => Some(self.weight(param(id).0, &[c], tensor)?),
                    None => None,
                };
                let mut inputs = vec![x.as_str(), &weight];
                inputs.extend(bias.as_deref());
                let name = self.push(name, "Gemm", &inputs, vec![int("transB", 1)]);
                Ok(Value { name, flat: true })
            }
            Op::L2Norm => {
                let x = self.flattened(name, &inputs[0]);
                let attributes = vec![ints("axes", &[1]), int("keepdims", 1)];
                let length = format!("{name}.length");
                let length = self.push(&length, "ReduceL2", &[&x], attributes);
                let floor = self.constant(&format!("{name}.floor"), &[], &[FLOOR]);
                let divisor = format!("{name}.divisor");
                let divisor = self.push(&divisor, "Max", &[&length, &floor], vec![]);
                let name = self.push(name, "Div", &[&x, &divisor], vec![]);
                Ok(Value { name, flat: true })
            }
        }
    }

    /// The mean over all positions, N x C.
    fn pool(&mut self, name: &str, x: &Value) -> Value {
        if x.flat {
            return x.clone();
        }
        let mean = format!("{name}.mean");
        let mean = self.push(&mean, "GlobalAveragePool", &[&x.name], vec![]);
        let name = self.push(name, "Flatten", &[&mean], vec![int("axis", 1)]);
        Value { name, flat: true }
    }

    /// A 1 x 1 map as N x C.
    fn flattened(&mut self, name: &str, x: &Value) -> String {
        match x.flat {
            true => x.name.clone(),
            false => {
                let name = format!("{name}.flat");
                self.push(&name, "Flatten", &[&x.name], vec![int("axis", 1)])
            }
        }
    }

    /// Gives a value another name, wherever it stands.
    fn rename(&mut self, from: &str, to: &str) {
        for node in &mut self.proto.node {
            let names = node.input.iter_mut().chain(&mut node.output);
            names
                .filter(|name| *name == from)
                .for_each(|name| *name = to.to_string());
        }
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        f: Some(f),
        r#type: attribute_type::FLOAT,
        ..AttributeProto::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        i: Some(i),
        r#type: attribute_type::INT,
        ..AttributeProto::default()
    }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        ints: values.iter().map(|&v| v as i64).collect(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    }
}

/// A value of any batch: `batch` x `sizes`.
fn value_info(name: &str, sizes: &[usize], doc: &str) -> ValueInfoProto {
    let lengths = std::iter::once(Length::Param("batch".into()))
        .chain(sizes.iter().map(|&size| Length::Value(size as i64)));
    let dim = lengths
        .map(|length| Dimension {
            value: Some(length),
        })
        .collect();
    ValueInfoProto {
        name: name.to_string(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorType {
                elem_type: proto::FLOAT,
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
        doc_string: doc.to_string(),
    }
}
