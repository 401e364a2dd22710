//! A description's `step`, walked node by node into one StableHLO function.

use npid_engine::state::{self, StateKind};
use npid_engine::{Description, Error, Sizes};
use npid_network::graph::{BatchNorm, Conv2d, Op, ParamId, Shape};
use npid_network::method::{Head, Npid};

use crate::emit::{Conv, Emit, Value, tensor};

/// The text of the function `main`, and the states it takes and returns, in order.
pub struct Program {
    pub text: String,
    pub states: Vec<(String, Vec<usize>)>,
}

struct Lower<'a> {
    description: &'a Description,
    emit: Emit,
    batch: usize,
    shapes: Vec<Shape>,
    params: Vec<Value>,
    statistics: Vec<Value>,
    gradients: Vec<Option<Value>>,
    /// Output of each node, B x H x W x C.
    values: Vec<Value>,
    /// x̂ and 1/sqrt(σ² + ε) of each batch norm.
    norms: Vec<Option<(Value, Value)>>,
}

/// Lowers `gradient`, `apply` and `update_bank` in one.
///
/// # Errors
/// For what this proof leaves out: another head than exact softmax.
pub fn step(description: &Description, sizes: Sizes) -> Result<Program, Error> {
    description.check()?;
    let refuse = |what: &str| Error::Argument(format!("this proof lowers {what}"));
    let method = description.method.ok_or_else(|| refuse("NPID alone"))?;
    let Head::Softmax { temperature } = method.head else {
        return Err(refuse("the exact softmax alone"));
    };
    let network = &description.network;
    // Gradients live inside the program; all other state goes in and comes out.
    let entries: Vec<_> = state::entries(description);
    let states: Vec<_> = entries.into_iter().filter(|e| e.saved()).collect();
    let argument = |i: usize, shape: &[usize]| Value {
        name: format!("%s{i}"),
        shape: shape.to_vec(),
        element: "f32",
    };
    let arguments: Vec<Value> = (states.iter().enumerate())
        .map(|(i, e)| argument(i, &e.shape))
        .collect();
    let of = |wanted: fn(&StateKind) -> bool| -> Vec<Value> {
        let both = states.iter().zip(&arguments);
        both.filter(|(e, _)| wanted(&e.kind))
            .map(|(_, a)| a.clone())
            .collect()
    };
    let mut lower = Lower {
        description,
        emit: Emit::default(),
        batch: sizes.batch,
        shapes: network.shapes(sizes.height, sizes.width)?,
        params: of(|k| matches!(k, StateKind::Param(_))),
        statistics: of(|k| matches!(k, StateKind::Statistic(_))),
        gradients: vec![None; network.params.len()],
        values: Vec::new(),
        norms: vec![None; network.nodes.len()],
    };
    let pixels = Value {
        name: "%pixels".into(),
        shape: lower.shape(0),
        element: "ui8",
    };
    let rows = Value {
        name: "%rows".into(),
        shape: vec![sizes.batch],
        element: "i32",
    };
    let lr = Value {
        name: "%lr".into(),
        shape: vec![],
        element: "f32",
    };
    for i in 0..network.nodes.len() {
        let value = lower.forward(i, &pixels);
        lower.values.push(value);
    }
    let embedding = network.embedding.ok_or_else(|| refuse("an embedding"))?;
    let f = {
        let v = lower.values[embedding.0].clone();
        lower.emit.reshape(&v, &[sizes.batch, network.feat_dim()])
    };
    let mut bank = of(|k| matches!(k, StateKind::Bank)).remove(0);
    let own = lower.emit.gather_rows(&bank, &rows);
    let (loss, df) = lower.softmax(&f, &bank, &own, temperature);
    lower.backward(embedding.0, df);
    bank = lower.update_bank(&method, &bank, &rows, &own, &f);
    let momentum = of(|k| matches!(k, StateKind::Momentum(_)));
    let momentum = lower.apply(&lr, momentum);

    let mut momentum = momentum.into_iter();
    let mut results = vec![loss];
    for entry in &states {
        let of_kind = match entry.kind {
            StateKind::Param(i) => Some(lower.params[i].clone()),
            StateKind::Statistic(i) => Some(lower.statistics[i].clone()),
            StateKind::Momentum(_) => momentum.next(),
            StateKind::Bank => Some(bank.clone()),
            // This example has the exact softmax alone.
            StateKind::LogZ | StateKind::Gradient(_) => None,
        };
        results.extend(of_kind);
    }
    let inputs = [&pixels, &rows, &lr].into_iter().chain(&arguments);
    let inputs: Vec<String> = inputs.map(|v| format!("{}: {}", v.name, v.ty())).collect();
    let names: Vec<&str> = results.iter().map(|v| v.name.as_str()).collect();
    let types: Vec<String> = results.iter().map(Value::ty).collect();
    let text = format!(
        "module @step {{\n  func.func public @main({}) -> ({}) {{\n{}    return {} : {}\n  }}\n}}\n",
        inputs.join(", "),
        types.join(", "),
        lower.emit.body,
        names.join(", "),
        types.join(", ")
    );
    let states = states.into_iter().map(|e| (e.name, e.shape)).collect();
    Ok(Program { text, states })
}

impl Lower<'_> {
    fn shape(&self, node: usize) -> Vec<usize> {
        let s = self.shapes[node];
        vec![self.batch, s.h, s.w, s.c]
    }

    /// A vector over channels, spread over a map.
    fn channels(&mut self, v: &Value, shape: &[usize]) -> Value {
        self.emit.broadcast(v, &[3], shape)
    }

    fn forward(&mut self, i: usize, pixels: &Value) -> Value {
        let node = &self.description.network.nodes[i];
        let shape = self.shape(i);
        let from = node.inputs.first().map(|x| x.0);
        let x = from.map_or_else(|| pixels.clone(), |x| self.values[x].clone());
        match &node.op {
            Op::Input { mean, std } => {
                let x = self.emit.f32_of(&x);
                let by = self.emit.splat(&shape, 255.0);
                let x = self.emit.binary("divide", &x, &by);
                let (mean, std) = (self.emit.vector(mean), self.emit.vector(std));
                let (mean, std) = (self.channels(&mean, &shape), self.channels(&std, &shape));
                let x = self.emit.binary("subtract", &x, &mean);
                self.emit.binary("divide", &x, &std)
            }
            Op::Conv2d(conv) => {
                let p = conv.padding as i64;
                let w = self.params[conv.weight.0].clone();
                let window = Conv {
                    dims: "[b, 0, 1, f]x[o, i, 0, 1]->[b, 0, 1, f]",
                    stride: conv.stride,
                    padding: [(p, p), (p, p)],
                    lhs_dilate: 1,
                    rhs_dilate: 1,
                };
                self.emit.convolution(&x, &w, &window, &shape)
            }
            Op::BatchNorm(bn) => self.batch_norm(i, bn, &x),
            Op::Relu => {
                let zero = self.emit.splat(&shape, 0.0);
                self.emit.binary("maximum", &x, &zero)
            }
            Op::Add => {
                let other = self.values[node.inputs[1].0].clone();
                self.emit.binary("add", &x, &other)
            }
            Op::MaxPool(w) => self
                .emit
                .max_pool(&x, [w.kernel, w.stride, w.padding], &shape),
            Op::GlobalAvgPool => {
                let pixels = (x.shape[1] * x.shape[2]) as f32;
                let sum = self.emit.reduce("add", &x, &[1, 2]);
                let by = self.emit.splat(&sum.shape, pixels);
                let mean = self.emit.binary("divide", &sum, &by);
                self.emit.reshape(&mean, &shape)
            }
            Op::Linear(l) => {
                let x = self.emit.reshape(&x, &[self.batch, l.in_features]);
                let w = self.params[l.weight.0].clone();
                let y = self.emit.dot(&x, &w, (1, 1));
                let y = self.emit.reshape(&y, &shape);
                let Some(b) = l.bias else { return y };
                let b = self.params[b.0].clone();
                let b = self.channels(&b, &shape);
                self.emit.binary("add", &y, &b)
            }
            Op::L2Norm => {
                let norm = self.norm_of(&x, 3);
                self.emit.binary("divide", &x, &norm)
            }
        }
    }

    /// max(‖x‖, 1e-12) over the last dimension, spread over `x`.
    fn norm_of(&mut self, x: &Value, last: usize) -> Value {
        let square = self.emit.binary("multiply", x, x);
        let sum = self.emit.reduce("add", &square, &[last]);
        let norm = self.emit.unary("sqrt", &sum);
        let floor = self.emit.splat(&norm.shape, 1e-12);
        let norm = self.emit.binary("maximum", &norm, &floor);
        let dims: Vec<usize> = (0..last).collect();
        self.emit.broadcast(&norm, &dims, &x.shape)
    }

    fn batch_norm(&mut self, i: usize, bn: &BatchNorm, x: &Value) -> Value {
        let shape = x.shape.clone();
        let count = shape[..3].iter().product::<usize>() as f32;
        let mean_of = |e: &mut Emit, x: &Value| {
            let sum = e.reduce("add", x, &[0, 1, 2]);
            let by = e.splat(&sum.shape, count);
            e.binary("divide", &sum, &by)
        };
        let mean = mean_of(&mut self.emit, x);
        let spread = self.channels(&mean, &shape);
        let centred = self.emit.binary("subtract", x, &spread);
        let square = self.emit.binary("multiply", &centred, &centred);
        let var = mean_of(&mut self.emit, &square);
        let eps = self.emit.splat(&var.shape, bn.eps);
        let shifted = self.emit.binary("add", &var, &eps);
        let inverse = self.emit.unary("rsqrt", &shifted);
        let scale = self.channels(&inverse, &shape);
        let hat = self.emit.binary("multiply", &centred, &scale);
        let mut y = hat.clone();
        if let Some(gamma) = bn.weight {
            let gamma = self.params[gamma.0].clone();
            let gamma = self.channels(&gamma, &shape);
            y = self.emit.binary("multiply", &y, &gamma);
        }
        if let Some(beta) = bn.bias {
            let beta = self.params[beta.0].clone();
            let beta = self.channels(&beta, &shape);
            y = self.emit.binary("add", &y, &beta);
        }
        self.norms[i] = Some((hat, inverse));
        // With one value the running variance stays; the count is known when this is compiled.
        let mut moves = vec![(bn.mean, mean)];
        if count > 1.0 {
            let unbiased = self.emit.scale(&var, count / (count - 1.0));
            moves.push((bn.var, unbiased));
        }
        for (id, batch) in moves {
            let old = self.statistics[id.0].clone();
            let old = self.emit.scale(&old, 1.0 - bn.momentum);
            let new = self.emit.scale(&batch, bn.momentum);
            self.statistics[id.0] = self.emit.binary("add", &old, &new);
        }
        y
    }

    /// Mean loss and its gradient with respect to the features.
    fn softmax(&mut self, f: &Value, bank: &Value, own: &Value, tau: f32) -> (Value, Value) {
        let e = &mut self.emit;
        let similarity = e.dot(f, bank, (1, 1));
        let logits = e.scale(&similarity, 1.0 / tau);
        let all = logits.shape.clone();
        let top = e.reduce("maximum", &logits, &[1]);
        let spread = e.broadcast(&top, &[0], &all);
        let shifted = e.binary("subtract", &logits, &spread);
        let exp = e.unary("exponential", &shifted);
        let sum = e.reduce("add", &exp, &[1]);
        let log = e.unary("log", &sum);
        let log_sum = e.binary("add", &top, &log);
        let products = e.binary("multiply", f, own);
        let positive = e.reduce("add", &products, &[1]);
        let positive = e.scale(&positive, 1.0 / tau);
        let losses = e.binary("subtract", &log_sum, &positive);
        let total = e.reduce("add", &losses, &[0]);
        let loss = e.scale(&total, 1.0 / self.batch as f32);
        let spread = e.broadcast(&sum, &[0], &all);
        let p = e.binary("divide", &exp, &spread);
        let mean_row = e.dot(&p, bank, (1, 0));
        let difference = e.binary("subtract", &mean_row, own);
        let df = e.scale(&difference, 1.0 / (tau * self.batch as f32));
        (loss, df)
    }

    fn backward(&mut self, from: usize, df: Value) {
        let needs = self.description.network.needs_gradient();
        let mut grads: Vec<Option<Value>> = vec![None; self.values.len()];
        grads[from] = Some(self.emit.reshape(&df, &self.shape(from)));
        for i in (0..=from).rev() {
            let Some(dy) = grads[i].take().filter(|_| needs[i]) else {
                continue;
            };
            let inputs = self.description.network.nodes[i].inputs.clone();
            for (input, dx) in inputs.iter().zip(self.backward_node(i, &dy)) {
                if needs[input.0] {
                    grads[input.0] = Some(match grads[input.0].take() {
                        None => dx,
                        Some(other) => self.emit.binary("add", &other, &dx),
                    });
                }
            }
        }
    }

    /// The gradients of node `i`'s inputs. (XLA drops those that nobody reads.)
    fn backward_node(&mut self, i: usize, dy: &Value) -> Vec<Value> {
        let node = &self.description.network.nodes[i];
        let Some(from) = node.inputs.first() else {
            return Vec::new();
        };
        let x = self.values[from.0].clone();
        let dx = match &node.op {
            Op::Input { .. } => return Vec::new(),
            Op::Add => return vec![dy.clone(), dy.clone()],
            Op::Conv2d(conv) => self.backward_conv(conv, &x, dy),
            Op::BatchNorm(bn) => self.backward_norm(i, bn, dy),
            Op::Relu => {
                let zero = self.emit.splat(&x.shape, 0.0);
                let positive = self.emit.compare("GT", &x, &zero);
                self.emit.select(&positive, dy, &zero)
            }
            Op::MaxPool(w) => {
                let window = [w.kernel, w.stride, w.padding];
                self.emit.max_pool_backward(&x, dy, window)
            }
            Op::GlobalAvgPool => {
                let flat = self.emit.reshape(dy, &[dy.shape[0], dy.shape[3]]);
                let by = (x.shape[1] * x.shape[2]) as f32;
                let by = self.emit.splat(&flat.shape, by);
                let share = self.emit.binary("divide", &flat, &by);
                self.emit.broadcast(&share, &[0, 3], &x.shape)
            }
            Op::Linear(l) => {
                let flat_dy = self.emit.reshape(dy, &[self.batch, l.out_features]);
                let flat_x = self.emit.reshape(&x, &[self.batch, l.in_features]);
                let dw = self.emit.dot(&flat_dy, &flat_x, (0, 0));
                self.gradients[l.weight.0] = Some(dw);
                if let Some(b) = l.bias {
                    self.gradients[b.0] = Some(self.emit.reduce("add", &flat_dy, &[0]));
                }
                let w = self.params[l.weight.0].clone();
                let dx = self.emit.dot(&flat_dy, &w, (1, 0));
                self.emit.reshape(&dx, &x.shape)
            }
            Op::L2Norm => {
                // (dy - y·(y·dy)) / ‖x‖; 0 below the floor only in the limit, as y is 0 there.
                let y = self.values[i].clone();
                let products = self.emit.binary("multiply", &y, dy);
                let along = self.emit.reduce("add", &products, &[3]);
                let along = self.emit.broadcast(&along, &[0, 1, 2], &y.shape);
                let part = self.emit.binary("multiply", &y, &along);
                let rest = self.emit.binary("subtract", dy, &part);
                let norm = self.norm_of(&x, 3);
                self.emit.binary("divide", &rest, &norm)
            }
        };
        vec![dx]
    }

    fn backward_conv(&mut self, conv: &Conv2d, x: &Value, dy: &Value) -> Value {
        let (k, s, p) = (conv.kernel as i64, conv.stride, conv.padding as i64);
        let w = self.params[conv.weight.0].clone();
        // Length that the strided outputs span, for height and width.
        let span = |d: usize| (dy.shape[d] as i64 - 1) * s as i64 + 1;
        let size = |d: usize| x.shape[d] as i64;
        // dW: x slides over dy, channels as batch and batch as channels.
        let high = |d: usize| k - 1 + span(d) - size(d) - p;
        let window = Conv {
            dims: "[f, 0, 1, b]x[i, 0, 1, o]->[f, b, 0, 1]",
            stride: 1,
            padding: [(p, high(1)), (p, high(2))],
            lhs_dilate: 1,
            rhs_dilate: s,
        };
        let dw = self.emit.convolution(x, dy, &window, &w.shape);
        self.gradients[conv.weight.0] = Some(dw);
        // dx: dy with zeros between, and the kernel turned round.
        let low = k - 1 - p;
        let high = |d: usize| size(d) + k - 1 - span(d) - low;
        let window = Conv {
            dims: "[b, 0, 1, f]x[i, o, 0, 1]->[b, 0, 1, f]",
            stride: 1,
            padding: [(low, high(1)), (low, high(2))],
            lhs_dilate: s,
            rhs_dilate: 1,
        };
        let turned = self.emit.reverse(&w, &[2, 3]);
        self.emit.convolution(dy, &turned, &window, &x.shape)
    }

    fn backward_norm(&mut self, i: usize, bn: &BatchNorm, dy: &Value) -> Value {
        let shape = dy.shape.clone();
        let count = shape[..3].iter().product::<usize>() as f32;
        let Some((hat, inverse)) = self.norms[i].clone() else {
            return dy.clone();
        };
        let sum = self.emit.reduce("add", dy, &[0, 1, 2]);
        let products = self.emit.binary("multiply", dy, &hat);
        let sum_hat = self.emit.reduce("add", &products, &[0, 1, 2]);
        let mut scale = inverse;
        if let Some(gamma) = bn.weight {
            self.gradients[gamma.0] = Some(sum_hat.clone());
            let gamma = self.params[gamma.0].clone();
            scale = self.emit.binary("multiply", &scale, &gamma);
        }
        if let Some(beta) = bn.bias {
            self.gradients[beta.0] = Some(sum.clone());
        }
        let mean = self.emit.scale(&sum, 1.0 / count);
        let mean = self.channels(&mean, &shape);
        let mean_hat = self.emit.scale(&sum_hat, 1.0 / count);
        let mean_hat = self.channels(&mean_hat, &shape);
        let inner = self.emit.binary("subtract", dy, &mean);
        let part = self.emit.binary("multiply", &hat, &mean_hat);
        let inner = self.emit.binary("subtract", &inner, &part);
        let scale = self.channels(&scale, &shape);
        self.emit.binary("multiply", &inner, &scale)
    }

    /// One optimiser step: replaces the parameters, returns the momentum.
    fn apply(&mut self, lr: &Value, momentum: Vec<Value>) -> Vec<Value> {
        let sgd = self.description.optimizer;
        let network = &self.description.network;
        let trainable = (0..network.params.len()).filter(|&i| network.params[i].trainable);
        let mut moved = Vec::new();
        for (at, i) in trainable.enumerate() {
            let (param, w) = (network.param(ParamId(i)), self.params[i].clone());
            let gradient = self.gradients[i].clone();
            let gradient = gradient.unwrap_or_else(|| self.emit.splat(&w.shape, 0.0));
            let decay = self.emit.scale(&w, sgd.weight_decay * param.decay_mult);
            let g = self.emit.binary("add", &gradient, &decay);
            let mut direction = g.clone();
            if let Some(u) = momentum.get(at) {
                let kept = self.emit.scale(u, sgd.momentum);
                let u = self.emit.binary("add", &kept, &g);
                direction = u.clone();
                if sgd.nesterov {
                    let ahead = self.emit.scale(&u, sgd.momentum);
                    direction = self.emit.binary("add", &g, &ahead);
                }
                moved.push(u);
            }
            let rate = self.emit.broadcast(lr, &[], &w.shape);
            let rate = self.emit.scale(&rate, param.lr_mult);
            let change = self.emit.binary("multiply", &rate, &direction);
            self.params[i] = self.emit.binary("subtract", &w, &change);
        }
        moved
    }

    /// A scatter may write equal rows in any order, so the last image of each row is found first:
    /// the largest position in the batch that names it, or -1.
    fn update_bank(
        &mut self,
        method: &Npid,
        bank: &Value,
        rows: &Value,
        own: &Value,
        f: &Value,
    ) -> Value {
        let m = method.memory_bank.momentum;
        let old = self.emit.scale(own, 1.0 - m);
        let new = self.emit.scale(f, m);
        let blended = self.emit.binary("add", &old, &new);
        let norm = self.norm_of(&blended, 1);
        let new = self.emit.binary("divide", &blended, &norm);
        let e = &mut self.emit;
        let pairs = [self.batch, bank.shape[0]];
        let (row, position) = (e.iota(&pairs, 1), e.iota(&pairs, 0));
        let named = e.broadcast(rows, &[0], &pairs);
        let hit = e.compare("EQ", &row, &named);
        let none = e.integers(&pairs, -1);
        let candidates = e.select(&hit, &position, &none);
        let last = e.reduce("maximum", &candidates, &[0]);
        let zero = e.integers(&last.shape, 0);
        let index = e.binary("maximum", &last, &zero);
        let chosen = e.gather_rows(&new, &index);
        let written = e.compare("GE", &last, &zero);
        let written = e.broadcast(&written, &[0], &bank.shape);
        assert_eq!(tensor(&chosen.shape, "f32"), bank.ty());
        e.select(&written, &chosen, bank)
    }
}
