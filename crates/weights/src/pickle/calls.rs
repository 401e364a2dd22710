//! What the harmless calls of a pickle mean, and which calls no weights have a use for.

use super::value::{Dtype, Graph, Id, Node, Object, StorageRef, TensorRef};

/// Modules whose functions run programs or code, or reach out of the process.
const MODULES: [&str; 34] = [
    "os",
    "posix",
    "nt",
    "posixpath",
    "ntpath",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "importlib",
    "runpy",
    "ctypes",
    "pty",
    "commands",
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "code",
    "codeop",
    "webbrowser",
    "multiprocessing",
    "asyncio",
    "threading",
    "_thread",
    "signal",
    "timeit",
    "pdb",
    "bdb",
    "cProfile",
    "profile",
    "urllib",
    "requests",
    "operator",
];

/// What `builtins` has that is only data.
const PLAIN: [&str; 14] = [
    "set",
    "frozenset",
    "list",
    "dict",
    "tuple",
    "int",
    "long",
    "float",
    "complex",
    "bool",
    "str",
    "bytes",
    "bytearray",
    "object",
];

/// Whether calling `name` (`module.function`) runs programs or code. This is no line of defence,
/// since nothing is ever called: it only tells a file made to do harm from one that holds an object
/// unknown here.
pub fn runs_code(name: &str) -> bool {
    let (module, function) = name.split_once('.').unwrap_or((name, ""));
    match module {
        "builtins" | "__builtin__" => !PLAIN.contains(&function) && function != "slice",
        _ => MODULES.contains(&module),
    }
}

/// Why a call that is understood can't be carried out.
pub type Refusal = String;

/// The result of calling `callable` with `args`; for what isn't known, an object that says so.
pub fn reduce(graph: &Graph, callable: &str, args: &[Id]) -> Result<Node, Refusal> {
    let arg = |i: usize| args.get(i).map(|&id| &graph.nodes[id as usize]);
    Ok(match callable {
        "collections.OrderedDict"
        | "builtins.dict"
        | "__builtin__.dict"
        | "collections.Counter" => dict(graph, args.first().copied())
            .ok_or_else(|| format!("a {callable} of something that isn't a list of pairs"))?,
        "collections.defaultdict" => dict(graph, args.get(1).copied())
            .ok_or_else(|| format!("a {callable} of something that isn't a list of pairs"))?,
        "torch._utils._rebuild_tensor_v2"
        | "torch._utils._rebuild_tensor"
        | "torch._utils._rebuild_tensor_v3" => tensor(graph, callable, args)?,
        // The last two: modules that PyTorch 0.4 and earlier pickled whole.
        "torch._utils._rebuild_parameter"
        | "torch._utils._rebuild_parameter_with_state"
        | "torch.nn.parameter.Parameter"
        | "torch.autograd.variable.Variable" => match arg(0) {
            Some(Node::Tensor(tensor)) => Node::Tensor(tensor.clone()),
            _ => return Err("a parameter that isn't a tensor".into()),
        },
        "torch.Size"
        | "builtins.tuple"
        | "builtins.list"
        | "builtins.set"
        | "__builtin__.set"
        | "builtins.frozenset"
        | "__builtin__.frozenset" => match arg(0) {
            Some(Node::Tuple(items) | Node::List(items)) => Node::List(items.clone()),
            None => Node::List(Vec::new()),
            _ => return Err(format!("a {callable} of something that isn't a list")),
        },
        "torch.device" => match (arg(0), arg(1)) {
            (Some(Node::Text(kind)), Some(Node::Int(index))) => {
                Node::Text(format!("{kind}:{index}").into())
            }
            (Some(Node::Text(kind)), _) => Node::Text(kind.clone()),
            _ => return Err("a torch.device without a name".into()),
        },
        // Protocol 2 writes bytes as Latin-1 text.
        "_codecs.encode" => match arg(0) {
            Some(Node::Text(text)) => {
                let bytes: Option<Box<[u8]>> =
                    text.chars().map(|c| u8::try_from(c as u32).ok()).collect();
                Node::Bytes(bytes.ok_or("bytes above 255")?)
            }
            _ => return Err("bytes that aren't text".into()),
        },
        "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" => {
            scalar(graph, args).unwrap_or_else(|| object(callable, args))
        }
        _ => object(callable, args),
    })
}

fn object(class: &str, args: &[Id]) -> Node {
    Node::Object(Box::new(Object {
        class: class.into(),
        args: args.to_vec(),
        state: None,
    }))
}

/// A dict of nothing, of another dict, or of a list of pairs.
fn dict(graph: &Graph, from: Option<Id>) -> Option<Node> {
    let Some(from) = from else {
        return Some(Node::Dict(Vec::new()));
    };
    match &graph.nodes[from as usize] {
        Node::Dict(items) => Some(Node::Dict(items.clone())),
        Node::List(pairs) | Node::Tuple(pairs) => {
            let pair = |&id: &Id| match &graph.nodes[id as usize] {
                Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => Some((pair[0], pair[1])),
                _ => None,
            };
            pairs
                .iter()
                .map(pair)
                .collect::<Option<_>>()
                .map(Node::Dict)
        }
        _ => None,
    }
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides, ...)`; v3 has a dtype after two more.
fn tensor(graph: &Graph, callable: &str, args: &[Id]) -> Result<Node, Refusal> {
    let node = |i: usize| args.get(i).map(|&id| &graph.nodes[id as usize]);
    let Some(Node::Storage(storage)) = node(0) else {
        return Err("a tensor without a storage".into());
    };
    let mut storage = storage.clone();
    let whole = |node: Option<&Node>, what: &str| match node {
        Some(Node::Int(value)) => {
            u64::try_from(*value).map_err(|_| format!("a tensor with a negative {what}, {value}"))
        }
        _ => Err(format!("a tensor whose {what} is no whole number")),
    };
    let wholes = |node: Option<&Node>, what: &str| match node {
        Some(Node::Tuple(items) | Node::List(items)) => (items.iter())
            .map(|&id| whole(Some(&graph.nodes[id as usize]), what))
            .collect::<Result<Vec<u64>, _>>(),
        _ => Err(format!("a tensor without {what}s")),
    };
    let offset = whole(node(1), "offset")?;
    let shape = wholes(node(2), "size")?;
    let strides = wholes(node(3), "stride")?;
    if shape.len() != strides.len() {
        return Err(format!(
            "a tensor of {} sizes and {} strides",
            shape.len(),
            strides.len()
        ));
    }
    if callable.ends_with("_v3") {
        // The storage is of bytes; lengths and offsets count elements of the dtype.
        let Some(Node::Global(dtype)) = node(6) else {
            return Err("a tensor without a dtype".into());
        };
        let name = dtype.strip_prefix("torch.").unwrap_or(dtype);
        let dtype = Dtype::of_torch(name)
            .ok_or_else(|| format!("a tensor of {dtype}, which isn't read"))?;
        if storage.dtype.size() != 1 {
            return Err("a tensor of a dtype in a storage of another".into());
        }
        storage.len /= dtype.size() as u64;
        storage.dtype = dtype;
    }
    Ok(Node::Tensor(Box::new(TensorRef {
        storage: *storage,
        offset,
        shape,
        strides,
    })))
}

/// The storage of a persistent id: `("storage", type, key, location, elements[, view])`; or the
/// class of `("module", class, file, source)`, whose source code is left alone.
pub fn persistent(graph: &Graph, id: Id) -> Result<Node, Refusal> {
    let Node::Tuple(items) = &graph.nodes[id as usize] else {
        return Err("a persistent id that isn't a tuple".into());
    };
    let node = |i: usize| items.get(i).map(|&id| &graph.nodes[id as usize]);
    let text = |i: usize| match node(i) {
        Some(Node::Text(text)) => Some(&**text),
        Some(Node::Bytes(bytes)) => std::str::from_utf8(bytes).ok(),
        _ => None,
    };
    match (text(0), node(1)) {
        (Some("module"), Some(Node::Global(class))) => Ok(Node::Global(class.clone())),
        (Some("storage"), Some(Node::Global(kind))) => {
            let known = kind.rsplit_once('.').and_then(|(module, name)| {
                let known = matches!(module, "torch" | "torch.cuda" | "torch.storage");
                known.then(|| Dtype::of_torch(name)).flatten()
            });
            let dtype = known.ok_or_else(|| format!("a {kind}, which isn't read"))?;
            // Very old files number their storages.
            let key = match node(2) {
                Some(Node::Int(key)) => key.to_string(),
                _ => text(2).ok_or("a storage without a key")?.to_string(),
            };
            let whole = |node: Option<&Node>| match node {
                Some(Node::Int(value)) => u64::try_from(*value).ok(),
                _ => None,
            };
            let len = whole(node(4)).ok_or("a storage without a length")?;
            // A view of another storage: (key, elements before it, length).
            let (skip, len) = match node(5) {
                None | Some(Node::None) => (0, len),
                Some(Node::Tuple(view)) => {
                    let at = |i: usize| view.get(i).map(|&id| &graph.nodes[id as usize]);
                    let skip = whole(at(1)).ok_or("a view of a storage without an offset")?;
                    let len = whole(at(2)).ok_or("a view of a storage without a length")?;
                    (skip, len)
                }
                Some(_) => return Err("a storage with an unknown view".into()),
            };
            Ok(Node::Storage(Box::new(StorageRef {
                key,
                dtype,
                len,
                skip,
            })))
        }
        _ => Err("a persistent id that is neither a storage nor a module".into()),
    }
}

/// numpy's number of a dtype and its bytes.
fn scalar(graph: &Graph, args: &[Id]) -> Option<Node> {
    let [dtype, bytes] = args else { return None };
    let Node::Object(dtype) = &graph.nodes[*dtype as usize] else {
        return None;
    };
    let Node::Text(kind) = &graph.nodes[*dtype.args.first()? as usize] else {
        return None;
    };
    let Node::Bytes(bytes) = &graph.nodes[*bytes as usize] else {
        return None;
    };
    Some(match &**kind {
        "f8" => Node::Float(f64::from_le_bytes(bytes[..].try_into().ok()?)),
        "f4" => Node::Float(f32::from_le_bytes(bytes[..].try_into().ok()?).into()),
        "i8" => Node::Int(i64::from_le_bytes(bytes[..].try_into().ok()?)),
        "i4" => Node::Int(i32::from_le_bytes(bytes[..].try_into().ok()?).into()),
        _ => return None,
    })
}
