//! What a pickle holds: a graph of values.

/// Position of a node in its [`Graph`].
pub(crate) type Id = u32;

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 64-bit floating point.
    F64,
    /// 32-bit floating point.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an [`Dtype::F32`].
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// The type that PyTorch calls by this name, `FloatStorage` or `float32`.
    pub(crate) fn of_torch(name: &str) -> Option<Dtype> {
        Some(match name {
            "DoubleStorage" | "float64" | "double" => Dtype::F64,
            "FloatStorage" | "float32" | "float" => Dtype::F32,
            "HalfStorage" | "float16" | "half" => Dtype::F16,
            "BFloat16Storage" | "bfloat16" => Dtype::Bf16,
            "LongStorage" | "int64" | "long" => Dtype::I64,
            "IntStorage" | "int32" | "int" => Dtype::I32,
            "ShortStorage" | "int16" | "short" => Dtype::I16,
            "CharStorage" | "int8" => Dtype::I8,
            "ByteStorage" | "UntypedStorage" | "uint8" => Dtype::U8,
            "BoolStorage" | "bool" => Dtype::Bool,
            _ => return None,
        })
    }
}

/// A storage that a tensor lies in, named by a persistent id.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageRef {
    /// Its key in the file.
    pub key: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Number of its elements, as the pickle says.
    pub len: u64,
    /// Elements of the file's storage that come before it (very old files have such views).
    pub skip: u64,
}

/// A tensor: which elements of which storage.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorRef {
    /// Where its elements lie.
    pub storage: StorageRef,
    /// Elements of the storage before its first.
    pub offset: u64,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Elements between neighbours along each index.
    pub strides: Vec<u64>,
}

/// A value in the graph.
#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number beyond 64 bits: its digits in little-endian two's complement.
    Big(Box<[u8]>),
    Float(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dict of any kind, in its order.
    Dict(Vec<(Id, Id)>),
    /// `module.name` of a class, function or constant, which isn't looked up.
    Global(Box<str>),
    Storage(Box<StorageRef>),
    Tensor(Box<TensorRef>),
    /// Anything else.
    Object(Box<Object>),
}

/// What is known of an object that isn't built: nothing of it was run.
#[derive(Debug)]
pub(crate) struct Object {
    /// `module.name` of its class, or of the function whose result it would be.
    pub class: Box<str>,
    /// What the class or function would have been given.
    pub args: Vec<Id>,
    /// The state that would have been set, mostly a dict of its attributes.
    pub state: Option<Id>,
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    pub root: Id,
}

impl Graph {
    /// The outermost value.
    pub fn value(&self) -> Value<'_> {
        self.at(self.root)
    }

    pub fn at(&self, id: Id) -> Value<'_> {
        Value { graph: self, id }
    }
}

/// A value of a file, to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    graph: &'a Graph,
    id: Id,
}

impl<'a> Value<'a> {
    pub(crate) fn node(self) -> &'a Node {
        &self.graph.nodes[self.id as usize]
    }

    fn many(self, ids: &'a [Id]) -> Vec<Value<'a>> {
        ids.iter().map(|&id| self.graph.at(id)).collect()
    }

    /// The text, if it is one.
    pub fn text(self) -> Option<&'a str> {
        match self.node() {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one within 64 bits.
    pub fn integer(self) -> Option<i64> {
        match self.node() {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn number(self) -> Option<f64> {
        match self.node() {
            Node::Float(value) => Some(*value),
            _ => self.integer().map(|value| value as f64),
        }
    }

    /// The elements of a list, set or tuple.
    pub fn list(self) -> Option<Vec<Value<'a>>> {
        match self.node() {
            Node::List(items) | Node::Tuple(items) => Some(self.many(items)),
            _ => None,
        }
    }

    /// The keys and values of a dict.
    pub fn dict(self) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        match self.node() {
            Node::Dict(items) => Some(
                (items.iter())
                    .map(|&(key, value)| (self.graph.at(key), self.graph.at(value)))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The value of a key of a dict, the last one set.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let Node::Dict(items) = self.node() else {
            return None;
        };
        let found = items
            .iter()
            .rev()
            .find(|&&(k, _)| self.graph.at(k).text() == Some(key));
        found.map(|&(_, value)| self.graph.at(value))
    }

    /// An attribute of an object that wasn't built: its state's entry of this name.
    pub fn attribute(self, name: &str) -> Option<Value<'a>> {
        match self.node() {
            Node::Object(object) => self.graph.at(object.state?).get(name),
            _ => None,
        }
    }

    /// The tensor, if it is one.
    pub fn tensor(self) -> Option<&'a TensorRef> {
        match self.node() {
            Node::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// `module.name` of an object's class, or of what would have made it.
    pub fn class(self) -> Option<&'a str> {
        match self.node() {
            Node::Object(object) => Some(&object.class),
            _ => None,
        }
    }

    /// Whether this is a `torch.nn.Module` kept as data: it has parameters, buffers, or modules.
    pub fn is_module(self) -> bool {
        ["_parameters", "_buffers", "_modules"]
            .iter()
            .any(|name| self.attribute(name).is_some_and(|v| v.dict().is_some()))
    }

    /// Whether this is the whole number with these digits (little-endian two's complement).
    pub(crate) fn is_whole(self, digits: &[u8]) -> bool {
        matches!(self.node(), Node::Big(found) if **found == *digits)
    }

    /// Two values are the same where their ids are.
    pub(crate) fn id(self) -> Id {
        self.id
    }
}
