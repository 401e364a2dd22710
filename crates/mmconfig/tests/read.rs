//! What is understood, and what it means: each expectation is what Python prints.

mod common;

use common::{folder, one, written};
use npid_mmconfig::read;

#[test]
fn literals() {
    for (text, value) in [
        ("5e-4", "0.0005"),
        ("1_000", "1000"),
        ("-3", "-3"),
        ("+3", "3"),
        ("1.", "1.0"),
        (".5", "0.5"),
        ("1E3", "1000.0"),
        ("0x1F", "31"),
        ("0o17", "15"),
        ("0b101", "5"),
        ("None", "None"),
        ("True", "True"),
        ("[1, (2,), (), (3), 'a']", "[1, (2,), (), 3, 'a']"),
        ("1, 2", "(1, 2)"),
        ("[*[1, 2], 3]", "[1, 2, 3]"),
        ("{'a': 1, 'b': {}}", "dict(a=1, b=dict())"),
        ("dict(a=1, b=dict())", "dict(a=1, b=dict())"),
        ("dict({'a': 1}, a=2)", "dict(a=2)"),
        ("{**dict(a=1, b=2), 'a': 3}", "dict(a=3, b=2)"),
        ("list((1, 2))", "[1, 2]"),
        ("tuple([1])", "(1,)"),
        ("range(0, 8, 3)", "[0, 3, 6]"),
        ("range(3, 0, -1)", "[3, 2, 1]"),
    ] {
        assert_eq!(written(&format!("x = {text}\n"), "x"), value, "{text}");
    }
}

#[test]
fn strings() {
    for (text, value) in [
        (r#""a'b""#, "a'b"),
        (r"'a\'b'", "a'b"),
        (r"'\\Ahead.'", r"\Ahead."),
        (r"'\Ahead.'", r"\Ahead."),
        (r"r'(bn|gn)(\d+)?'", r"(bn|gn)(\d+)?"),
        (r"r'a\'b'", r"a\'b"),
        (r"'\x41\u00e9\101\n'", "A\u{e9}A\n"),
        (r"u'a'", "a"),
        ("'a' \"b\"", "ab"),
        ("('a'\n  'b')", "ab"),
        ("'''a\n'b''c'''", "a\n'b''c"),
        ("'a\\\nb'", "ab"),
        ("''", ""),
        ("'\u{e4}\u{6c34}'", "\u{e4}\u{6c34}"),
        ("'{{ fileBasenameNoExtension }}-{{fileExtname}}'", "a-.py"),
        ("'{{ other }}'", "{{ other }}"),
    ] {
        let config = one(&format!("x = {text}\n")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            config.root.get("x").unwrap().as_str(),
            Some(value),
            "{text}"
        );
    }
}

#[test]
fn calculations() {
    for (text, value) in [
        ("0.05 * 256 / 256", "0.05"),
        ("1 + 2 * 3 - 4", "3"),
        ("(1 + 2) * 3", "9"),
        ("7 / 2", "3.5"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7 % -3", "-2"),
        ("-7.5 // 2", "-4.0"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ** -1", "0.5"),
        ("'a' + 'b'", "'ab'"),
        ("[1] + [2] * 2", "[1, 2, 2]"),
        ("1 if 2 > 1 else 3", "1"),
        ("1 < 2 < 2", "False"),
        ("not [] and 'x'", "'x'"),
        ("0 or None", "None"),
        ("'a' in ['a']", "True"),
        ("'a' not in dict(a=1)", "False"),
        ("None is not None", "False"),
        ("(1, 2) == [1, 2]", "False"),
        ("1 == 1.0", "True"),
    ] {
        assert_eq!(written(&format!("x = {text}\n"), "x"), value, "{text}");
    }
}

#[test]
fn names_and_shared_values() {
    let text = "
norm = dict(mean=[0.5], std=[0.25])
steps = [dict(type='Crop', size=8)]
kept = steps.copy()
data = dict(train=dict(pipeline=steps))
if not False:
    steps.extend([dict(type='ToTensor'),
                  dict(type='Normalize', **norm)])
elif undefined:
    steps = None
else: steps = 3
steps.append('x'); data['train']['workers'] = 4
data.update(dict(a=1), b=2)
data['train']['pipeline'][0]['size'] = 9
steps += ['y']
steps.insert(-1, 'z')
last = steps.pop()
lr = rate = 0.1
rate *= 2
a, (b, c) = 1, [2, 3]
__hidden = 1
";
    let config = one(text).unwrap_or_else(|error| panic!("{error}"));
    let data = config.root.get("data").unwrap();
    // `data` holds the list itself, so what happens to `steps` later happens to it.
    let pipeline = data.get("train").unwrap().get("pipeline").unwrap();
    let items = pipeline.as_items().unwrap();
    let kinds = items.iter().map(|step| match step.get("type") {
        Some(kind) => kind.as_str().unwrap(),
        None => step.as_str().unwrap(),
    });
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["Crop", "ToTensor", "Normalize", "x", "z"]);
    assert_eq!(items[2].get("mean").unwrap().to_string(), "[0.5]");
    assert_eq!(items[2].get("mean").unwrap().place.line, 2);
    assert_eq!(items[0].get("size").unwrap().as_int(), Some(9));
    assert_eq!(items[0].get("size").unwrap().place.line, 14);
    assert_eq!(data.get("b").unwrap().as_int(), Some(2));
    // The copy shares its items, as Python's does, but not its length.
    assert_eq!(
        config.root.get("kept").unwrap().to_string(),
        "[dict(type='Crop', size=9)]"
    );
    let number = |name| config.root.get(name).unwrap().as_number().unwrap();
    assert_eq!((number("lr"), number("rate")), (0.1, 0.2));
    assert_eq!((number("a"), number("b"), number("c")), (1.0, 2.0, 3.0));
    assert!(config.root.get("__hidden").is_none());
    assert!(config.read.contains("norm") && !config.read.contains("lr"));
}

#[test]
fn lines_of_any_kind() {
    let text = "\u{feff}'''A text by itself.'''\r\n# comment\r\n\r\nx = dict(\r\n    a=1,  # one\r\n\r\n    \
                b=[\r\n        2,\r\n    ],\r\n)\r\ny = 1 + \\\r\n    2; z = 3;\rw = 4";
    let config = one(text).unwrap_or_else(|error| panic!("{error}"));
    let line = |name: &str| config.root.get(name).unwrap().place.line;
    assert_eq!(
        config.root.get("x").unwrap().get("b").unwrap().place.line,
        7
    );
    assert_eq!(
        (line("x"), line("y"), line("z"), line("w")),
        (4, 11, 12, 13)
    );
    assert_eq!(config.root.get("y").unwrap().as_int(), Some(3));
}

#[test]
fn bases_are_merged_as_mmcv_does() {
    let folder = folder(&[
        (
            "_base_/model.py",
            "model = dict(type='A', neck=dict(type='L', c=1), keep=[1, 2], h=dict(t=1))\n",
        ),
        ("_base_/run.py", "_base_ = './log.py'\nepochs = 200\n"),
        (
            "_base_/log.py",
            "log = dict(interval=50, hooks=[dict(type='T')])\n",
        ),
        (
            "npid/child.py",
            "_base_ = ['../_base_/model.py', '../_base_/run.py']
model = dict(
    neck=dict(_delete_=True, type='M'),
    keep=[3],
    h=dict(t=2, fresh=dict(_delete_=True, x=1)))
copied = {{_base_.model.neck.c}}
also = _base_.log.hooks
fresh = dict(_delete_=True, a=1)
",
        ),
        (
            "npid/grandchild.py",
            "_base_ = 'child.py'\nmodel = dict(h=dict(t=3))\nepochs = 1\n",
        ),
    ]);
    let config = read(&folder.path().join("npid/grandchild.py")).unwrap_or_else(|e| panic!("{e}"));
    let model = config.root.get("model").unwrap();
    assert_eq!(
        model.get("neck").unwrap().to_string(),
        "dict(type='M')",
        "replaced as a whole"
    );
    assert_eq!(model.get("keep").unwrap().to_string(), "[3]");
    assert_eq!(
        model.get("h").unwrap().to_string(),
        "dict(t=3, fresh=dict(x=1))"
    );
    assert_eq!(model.get("type").unwrap().as_str(), Some("A"));
    assert_eq!(config.root.get("epochs").unwrap().as_int(), Some(1));
    assert_eq!(config.root.get("copied").unwrap().as_int(), Some(1));
    assert_eq!(
        config.root.get("also").unwrap().to_string(),
        "[dict(type='T')]"
    );
    assert_eq!(config.root.get("fresh").unwrap().to_string(), "dict(a=1)");
    assert!(config.root.get("_base_").is_none());
    // Each value knows its own file.
    let file = |value: &npid_mmconfig::Value| value.place.file.file_name().unwrap().to_owned();
    assert_eq!(file(model.get("type").unwrap()), "model.py");
    assert_eq!(
        file(model.get("h").unwrap().get("t").unwrap()),
        "grandchild.py"
    );
    let order: Vec<_> = config
        .files
        .iter()
        .map(|f| f.file_name().unwrap())
        .collect();
    assert_eq!(
        order,
        ["model.py", "log.py", "run.py", "child.py", "grandchild.py"]
    );
    assert!(
        !config
            .files
            .iter()
            .any(|f| f.to_string_lossy().contains(".."))
    );
}
