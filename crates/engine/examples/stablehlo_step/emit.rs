//! StableHLO as text: each method appends one operation and returns its result.

use std::fmt::Write as _;

/// A result: its SSA name and type.
#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: &'static str,
}

impl Value {
    pub fn ty(&self) -> String {
        tensor(&self.shape, self.element)
    }
}

pub fn tensor(shape: &[usize], element: &str) -> String {
    let dims: String = shape.iter().map(|d| format!("{d}x")).collect();
    format!("tensor<{dims}{element}>")
}

/// A window over the two middle dimensions: padding is (low, high).
pub struct Conv<'a> {
    /// For example `[b, 0, 1, f]x[o, i, 0, 1]->[b, 0, 1, f]`.
    pub dims: &'a str,
    pub stride: usize,
    pub padding: [(i64, i64); 2],
    pub lhs_dilate: usize,
    pub rhs_dilate: usize,
}

#[derive(Default)]
pub struct Emit {
    pub body: String,
    next: usize,
}

impl Emit {
    fn push(&mut self, shape: &[usize], element: &'static str, text: &str) -> Value {
        let name = format!("%v{}", self.next);
        self.next += 1;
        // Writing to a string can't fail.
        let _ = writeln!(self.body, "    {name} = {text}");
        Value {
            name,
            shape: shape.to_vec(),
            element,
        }
    }

    /// All elements `value`, bit for bit.
    pub fn splat(&mut self, shape: &[usize], value: f32) -> Value {
        let ty = tensor(shape, "f32");
        let text = format!("stablehlo.constant dense<0x{:08X}> : {ty}", value.to_bits());
        self.push(shape, "f32", &text)
    }

    pub fn integers(&mut self, shape: &[usize], value: i32) -> Value {
        let text = format!(
            "stablehlo.constant dense<{value}> : {}",
            tensor(shape, "i32")
        );
        self.push(shape, "i32", &text)
    }

    pub fn vector(&mut self, values: &[f32]) -> Value {
        let shape = [values.len()];
        // One element is a splat, several are one string of little-endian bytes.
        if let [value] = values {
            return self.splat(&shape, *value);
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes());
        let digits: String = bytes.map(|b| format!("{b:02X}")).collect();
        let text = format!(
            "stablehlo.constant dense<\"0x{digits}\"> : {}",
            tensor(&shape, "f32")
        );
        self.push(&shape, "f32", &text)
    }

    pub fn unary(&mut self, op: &str, x: &Value) -> Value {
        let text = format!("stablehlo.{op} {} : {}", x.name, x.ty());
        self.push(&x.shape, x.element, &text)
    }

    pub fn binary(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        assert_eq!(a.shape, b.shape, "{op}");
        let text = format!("stablehlo.{op} {}, {} : {}", a.name, b.name, a.ty());
        self.push(&a.shape, a.element, &text)
    }

    /// x · value.
    pub fn scale(&mut self, x: &Value, value: f32) -> Value {
        let s = self.splat(&x.shape, value);
        self.binary("multiply", x, &s)
    }

    pub fn f32_of(&mut self, x: &Value) -> Value {
        let text = format!(
            "stablehlo.convert {} : ({}) -> {}",
            x.name,
            x.ty(),
            tensor(&x.shape, "f32")
        );
        self.push(&x.shape, "f32", &text)
    }

    pub fn compare(&mut self, direction: &str, a: &Value, b: &Value) -> Value {
        let kind = if a.element == "f32" {
            "FLOAT"
        } else {
            "SIGNED"
        };
        let ty = tensor(&a.shape, "i1");
        let text = format!(
            "stablehlo.compare {direction}, {}, {}, {kind} : ({}, {}) -> {ty}",
            a.name,
            b.name,
            a.ty(),
            b.ty()
        );
        self.push(&a.shape, "i1", &text)
    }

    pub fn select(&mut self, p: &Value, a: &Value, b: &Value) -> Value {
        let text = format!(
            "stablehlo.select {}, {}, {} : {}, {}",
            p.name,
            a.name,
            b.name,
            p.ty(),
            a.ty()
        );
        self.push(&a.shape, a.element, &text)
    }

    pub fn iota(&mut self, shape: &[usize], dim: usize) -> Value {
        let text = format!("stablehlo.iota dim = {dim} : {}", tensor(shape, "i32"));
        self.push(shape, "i32", &text)
    }

    /// `x`'s dimensions become the dimensions `dims` of `shape`.
    pub fn broadcast(&mut self, x: &Value, dims: &[usize], shape: &[usize]) -> Value {
        let text = format!(
            "stablehlo.broadcast_in_dim {}, dims = {dims:?} : ({}) -> {}",
            x.name,
            x.ty(),
            tensor(shape, x.element)
        );
        self.push(shape, x.element, &text)
    }

    pub fn reshape(&mut self, x: &Value, shape: &[usize]) -> Value {
        let ty = tensor(shape, x.element);
        let text = format!("stablehlo.reshape {} : ({}) -> {ty}", x.name, x.ty());
        self.push(shape, x.element, &text)
    }

    /// `op` is `add` or `maximum`; `dims` disappear.
    pub fn reduce(&mut self, op: &str, x: &Value, dims: &[usize]) -> Value {
        let initial = match (x.element, op) {
            ("i32", _) => self.integers(&[], i32::MIN),
            (_, "maximum") => self.splat(&[], f32::NEG_INFINITY),
            _ => self.splat(&[], 0.0),
        };
        let kept = (0..x.shape.len()).filter(|d| !dims.contains(d));
        let shape: Vec<usize> = kept.map(|d| x.shape[d]).collect();
        let text = format!(
            "stablehlo.reduce({} init: {}) applies stablehlo.{op} across dimensions = {dims:?} : \
             ({}, {}) -> {}",
            x.name,
            initial.name,
            x.ty(),
            initial.ty(),
            tensor(&shape, x.element)
        );
        self.push(&shape, x.element, &text)
    }

    /// Σ over dimension `dims.0` of `a` and `dims.1` of `b`, both matrices.
    pub fn dot(&mut self, a: &Value, b: &Value, dims: (usize, usize)) -> Value {
        let shape = [a.shape[1 - dims.0], b.shape[1 - dims.1]];
        let text = format!(
            "stablehlo.dot_general {}, {}, contracting_dims = [{}] x [{}], \
             precision = [HIGHEST, HIGHEST] : ({}, {}) -> {}",
            a.name,
            b.name,
            dims.0,
            dims.1,
            a.ty(),
            b.ty(),
            tensor(&shape, "f32")
        );
        self.push(&shape, "f32", &text)
    }

    pub fn reverse(&mut self, x: &Value, dims: &[usize]) -> Value {
        let text = format!("stablehlo.reverse {}, dims = {dims:?} : {}", x.name, x.ty());
        self.push(&x.shape, x.element, &text)
    }

    pub fn convolution(&mut self, x: &Value, w: &Value, conv: &Conv<'_>, shape: &[usize]) -> Value {
        let [(a, b), (c, d)] = conv.padding;
        let text = format!(
            "stablehlo.convolution({}, {}) dim_numbers = {}, window = {{stride = [{s}, {s}], \
             pad = [[{a}, {b}], [{c}, {d}]], lhs_dilate = [{l}, {l}], rhs_dilate = [{r}, {r}]}} \
             {{batch_group_count = 1 : i64, feature_group_count = 1 : i64, precision_config = \
             [#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]}} : ({}, {}) -> {}",
            x.name,
            w.name,
            conv.dims,
            x.ty(),
            w.ty(),
            tensor(shape, "f32"),
            s = conv.stride,
            l = conv.lhs_dilate,
            r = conv.rhs_dilate,
        );
        self.push(shape, "f32", &text)
    }

    /// Rows `index` (B) of `x` (N x D).
    pub fn gather_rows(&mut self, x: &Value, index: &Value) -> Value {
        let shape = [index.shape[0], x.shape[1]];
        let index = self.reshape(index, &[index.shape[0], 1]);
        let text = format!(
            "\"stablehlo.gather\"({}, {}) <{{dimension_numbers = #stablehlo.gather<offset_dims = \
             [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, \
             slice_sizes = array<i64: 1, {}>, indices_are_sorted = false}}> : ({}, {}) -> {}",
            x.name,
            index.name,
            x.shape[1],
            x.ty(),
            index.ty(),
            tensor(&shape, "f32")
        );
        self.push(&shape, "f32", &text)
    }

    fn window(kernel: usize, stride: usize, padding: usize) -> String {
        format!(
            "window_dimensions = array<i64: 1, {kernel}, {kernel}, 1>, window_strides = array<i64: \
             1, {stride}, {stride}, 1>, padding = dense<[[0, 0], [{p}, {p}], [{p}, {p}], [0, 0]]> \
             : tensor<4x2xi64>",
            p = padding
        )
    }

    /// The largest of each window, -∞ at the border.
    pub fn max_pool(&mut self, x: &Value, window: [usize; 3], shape: &[usize]) -> Value {
        let border = self.splat(&[], f32::NEG_INFINITY);
        let [kernel, stride, padding] = window;
        let text = format!(
            "\"stablehlo.reduce_window\"({}, {}) <{{{}}}> ({{\n    ^bb0(%a: tensor<f32>, %b: \
             tensor<f32>):\n      %m = stablehlo.maximum %a, %b : tensor<f32>\n      \
             stablehlo.return %m : tensor<f32>\n    }}) : ({}, tensor<f32>) -> {}",
            x.name,
            border.name,
            Self::window(kernel, stride, padding),
            x.ty(),
            tensor(shape, "f32")
        );
        self.push(shape, "f32", &text)
    }

    /// Each element of `dy` goes to the winner of its window in `x`, the first of equals.
    pub fn max_pool_backward(&mut self, x: &Value, dy: &Value, window: [usize; 3]) -> Value {
        let zero = self.splat(&[], 0.0);
        let [kernel, stride, padding] = window;
        let text = format!(
            "\"stablehlo.select_and_scatter\"({}, {}, {}) <{{{}}}> ({{\n    ^bb0(%a: tensor<f32>, \
             %b: tensor<f32>):\n      %p = stablehlo.compare GE, %a, %b, FLOAT : (tensor<f32>, \
             tensor<f32>) -> tensor<i1>\n      stablehlo.return %p : tensor<i1>\n    }}, {{\n    \
             ^bb0(%a: tensor<f32>, %b: tensor<f32>):\n      %s = stablehlo.add %a, %b : \
             tensor<f32>\n      stablehlo.return %s : tensor<f32>\n    }}) : ({}, {}, tensor<f32>) \
             -> {}",
            x.name,
            dy.name,
            zero.name,
            Self::window(kernel, stride, padding),
            x.ty(),
            dy.ty(),
            x.ty()
        );
        self.push(&x.shape, "f32", &text)
    }
}
