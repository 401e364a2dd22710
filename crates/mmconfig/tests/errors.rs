//! What isn't understood, or is wrong: the line, and words that help.

mod common;

use common::{fault, folder, one, put};
use npid_mmconfig::{limits, read};

#[test]
fn nothing_is_run() {
    let folder = folder(&[]);
    let marker = folder.path().join("ran");
    let shown = marker.display();
    for text in [
        format!("x = 1\nimport os\nos.system('touch {shown}')\n"),
        format!("x = 1\nopen('{shown}', 'w')\n"),
        format!("x = 1\ny = __import__('os').system('touch {shown}')\n"),
        format!("x = 1\ny = open('{shown}', 'w')\n"),
        format!("x = 1\nexec('open({shown})')\n"),
        format!("x = 1\nwith open('{shown}', 'w') as f:\n    pass\n"),
        format!("x = 1\n[].__class__('{shown}')\n"),
    ] {
        let (line, what) = fault(&text);
        assert_eq!(line, Some(2), "{text}");
        assert!(what.contains("isn't understood"), "{what}");
        assert!(what.contains("runs nothing"), "{what}");
    }
    assert!(!marker.exists());
}

#[test]
fn what_isnt_understood_is_named_with_its_line() {
    for (text, line, words) in [
        (
            "import os\n",
            1,
            "`import os` isn't understood; npid reads the literal part",
        ),
        ("\nfrom a import b\n", 2, "`from a import b`"),
        ("x = 1\nfor i in x:\n    pass\n", 2, "`for i in x:`"),
        ("x = [i for i in y]\n", 1, "a comprehension"),
        ("x = dict(a=1,\n  b=[j for j in y])\n", 2, "a comprehension"),
        ("def f():\n    return 1\n", 1, "`def f():`"),
        ("class A: pass\n", 1, "`class A: pass`"),
        ("x = lambda: 1\n", 1, "`x = lambda: 1`"),
        ("x = f'a{b}'\n", 1, "a string with the prefix `f`"),
        ("x = b'a'\n", 1, "a string with the prefix `b`"),
        ("x = {1, 2}\n", 1, "a set"),
        ("x = {1: 2}\n", 1, "a dict's key that is no string"),
        ("x = [1, 2]\ny = x[:1]\n", 2, "a slice"),
        ("x = 1 << 2\n", 1, "the operator `<<`"),
        ("x = int('3')\n", 1, "the call `int(...)`"),
        ("x = []\nx.sort()\n", 2, "the call `x.sort(...)`"),
        ("x: int = 3\n", 1, "`x: int = 3`"),
        ("x = 'a' % 3\n", 1, "this calculation"),
        ("x = 'a' * 3\n", 1, "this calculation"),
        ("x = {{ $HOME:x }}\n", 1, "`{{$HOME:x}}`"),
        ("x = '{{_base_.a}}'\n", 1, "inside of a string"),
        ("_base_ = 'mmcls::a.py'\n", 1, "a base of another library"),
        ("x = dict(a=1)\nx.a = 2\n", 2, "write ['a']"),
        ("x = dict(a=1)\ny = x.a\n", 2, "write ['a']"),
    ] {
        let (at, what) = fault(text);
        assert!(what.contains(words), "{text:?}: {what}");
        assert_eq!(at, Some(line), "{text:?}: {what}");
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, line, words) in [
        ("x = dict(\n    a=1,\n", 1, "`(` is never closed"),
        ("x = [1)\n", 1, "`)` closes the `[` of line 1"),
        ("x = 1)\n", 1, "`)` closes nothing"),
        ("x = 'abc\ny = 1\n", 1, "isn't closed on its line"),
        ("x = '''abc\n\n", 1, "never closed"),
        ("x = \n", 1, "the line ends too early"),
        ("x = 1 2\n", 1, "the number 2 has no meaning here"),
        (
            "x = dict(a=1\n  b=2)\n",
            2,
            "`b` has no meaning here; `,` or `)` was expected",
        ),
        ("x = 1\n  y = 2\n", 2, "indented without a reason"),
        ("if True:\nx = 1\n", 2, "an indented block was expected"),
        ("if True:\n    x = 1\n  y = 2\n", 3, "line it up"),
        ("x = 010\n", 1, "doesn't begin with 0"),
        ("x = 99999999999999999999\n", 1, "64 bits"),
        ("x = 1e999\n", 1, "too large"),
        ("x = 1__0\n", 1, "underscore"),
        ("x = 3j\n", 1, "complex"),
        ("x = '\\xZZ'\n", 1, "hexadecimal"),
        ("x = y\n", 1, "`y` has no value"),
        ("x = 1 / 0\n", 1, "division by zero"),
        ("x = 9223372036854775807 + 1\n", 1, "64 bits"),
        ("x = dict(a=1, **dict(a=2))\n", 1, "given `a` twice"),
        ("x = dict(a=1)\ny = x['b']\n", 2, "has no `b`"),
        ("x = [1]\nx[1] = 2\n", 2, "has no item 1"),
        ("x\n", 1, "assigns nothing"),
        ("a, b = 1, 2, 3\n", 1, "3 values for 2 names"),
        ("x = $\n", 1, "`$` has no meaning"),
        ("<<<<<<< HEAD\nx = 1\n", 1, "`<<` has no meaning"),
        ("x = {{_base_.a}}\n", 1, "before a line assigns it"),
        ("_base_ = 3\n", 1, "takes a path"),
        (
            "_base_ = 'gone.py'\n",
            1,
            "`_base_` names gone.py, and there is no file",
        ),
        ("if True:\n    _base_ = 'a.py'\n", 2, "outside of any `if`"),
        ("_base_ = []\n_base_ = []\n", 2, "a second time"),
    ] {
        let (at, what) = fault(text);
        assert!(what.contains(words), "{text:?}: {what}");
        assert_eq!(at, Some(line), "{text:?}: {what}");
    }
}

#[test]
fn wrong_bases() {
    let folder = folder(&[
        ("a.py", "x = 1\n_base_ = 'b/b.py'\n"),
        ("b/b.py", "_base_ = ['../a.py']\n"),
        ("self.py", "_base_ = './self.py'\n"),
        ("one.py", "model = dict(a=1)\nlr = 1\n"),
        ("two.py", "\nlr = 2\n"),
        ("both.py", "_base_ = [\n    'one.py',\n    'two.py',\n]\n"),
        ("typed.py", "_base_ = 'one.py'\nlr = dict(a=1)\n"),
        ("deep.py", "_base_ = 'broken.py'\n"),
        ("broken.py", "y = 1\nx = (\n"),
        ("name.py", "_base_ = 'one.py'\ny = lr\n"),
        ("part.py", "_base_ = 'one.py'\ny = {{_base_.model.b}}\n"),
        ("list.py", "_base_ = ['one.py',\n  7]\n"),
    ]);
    for (file, words) in [
        ("a.py", "b.py, line 1: `_base_` goes round in a circle: "),
        (
            "self.py",
            "self.py, line 1: `_base_` goes round in a circle: ",
        ),
        ("both.py", "both.py, line 3: two bases assign `lr`, in "),
        (
            "typed.py",
            "typed.py, line 2: `lr` is a dict here, but 1 in ",
        ),
        ("deep.py", "broken.py, line 2: `(` is never closed"),
        ("name.py", "a base's name is written {{_base_.lr}}"),
        ("part.py", "part.py, line 2: `_base_` has no `b`"),
        ("list.py", "list.py, line 2: `_base_` is 7; it takes a path"),
        ("none.py", "none.py: can't be read"),
        (".", ": is no file"),
    ] {
        let error = read(&folder.path().join(file)).expect_err(file).to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let latin = put(folder.path(), "latin.py", b"x = 1\ny = '\xe4'\n");
    let error = read(&latin).unwrap_err();
    assert_eq!(error.line, Some(2));
    assert!(error.what.contains("not UTF-8"), "{error}");
}

/// Each of these takes a moment, where Python would take gigabytes or overflow its stack.
#[test]
fn hostile_sizes() {
    let deep =
        |open: &str, close: &str, n: usize| format!("x = {}1{}\n", open.repeat(n), close.repeat(n));
    let doubling = (1..60).fold("x0 = [1]\n".to_string(), |text, i| {
        text + &format!("x{i} = [x{0}, x{0}]\n", i - 1)
    });
    let adding = "x = [1]\n".to_string() + &"x = x + x\n".repeat(60);
    let texts = "x = 'abcdefgh'\n".to_string() + &"x = x + x\n".repeat(60);
    let nesting = "x = [1]\n".to_string() + &"x = [x]\n".repeat(20_000);
    let names: String = (0..20_000).map(|i| format!("n{i} = {i}\n")).collect();
    let blocks: String = (0..200)
        .map(|i| format!("{}if 1:\n", " ".repeat(i)))
        .collect();
    let spreads = format!("x = [{}]\n", "0, ".repeat(30_000)) + &"y = [*x]\n".repeat(1000);
    for (what, text) in [
        ("brackets", deep("[", "]", 10_000)),
        ("parentheses", deep("(", ")", 10_000)),
        ("signs", deep("-", "", 100_000)),
        ("nots", deep("not ", "", 50_000)),
        ("sums", deep("1+", "", 100_000)),
        ("powers", deep("2**", "", 80_000)),
        ("choices", deep("1 if 1 else ", "", 20_000)),
        (
            "subscripts",
            format!("x = []\ny = x{}\n", "[0]".repeat(80_000)),
        ),
        (
            "attributes",
            format!("x = []\ny = x{}\n", ".a".repeat(100_000)),
        ),
        ("calls", format!("x = dict{}\n", "()".repeat(100_000))),
        ("doubling", doubling),
        ("adding", adding),
        ("texts", texts),
        ("nesting", nesting),
        ("names", names),
        ("blocks", blocks),
        ("spreads", spreads),
        ("itself", "x = []\nx.append(x)\n".to_string()),
        ("range", "x = range(10000000000)\n".to_string()),
        ("repeat", "x = [0] * 10000000000\n".to_string()),
        ("power", "x = 9 ** 9 ** 9\n".to_string()),
        ("length", " ".repeat(limits::FILE_BYTES + 1)),
        (
            "folders",
            format!("x = '{}'\n", "{{fileDirname}}".repeat(17_000)),
        ),
    ] {
        // A range of folders that are short may fit; the rest can't.
        match one(&text) {
            Err(error) => assert!(error.to_string().len() < 1000, "{what}: {error}"),
            Ok(_) => assert_eq!(what, "folders"),
        }
    }
}

#[test]
fn too_many_files() {
    let n = limits::FILES + 10;
    let folder = folder(&[]);
    for i in 0..n {
        put(
            folder.path(),
            &format!("{i}.py"),
            format!("_base_ = '{}.py'\n", i + 1),
        );
    }
    put(folder.path(), &format!("{n}.py"), "x = 1\n");
    let error = read(&folder.path().join("0.py")).unwrap_err();
    assert!(error.what.contains("files belong to"), "{error}");
    // Every level reads the next one twice: 2^10 files, if nobody counted.
    for i in 0..10 {
        let text = format!("_base_ = ['d{0}.py', 'd{0}.py']\n", i + 1);
        put(folder.path(), &format!("d{i}.py"), text);
    }
    put(folder.path(), "d10.py", "");
    let error = read(&folder.path().join("d0.py")).unwrap_err();
    assert!(error.what.contains("files belong to"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_pipe_or_device_is_no_base() {
    let folder = folder(&[("a.py", "_base_ = '/dev/zero'\n")]);
    let error = read(&folder.path().join("a.py")).unwrap_err();
    assert!(error.what.contains("there is no file /dev/zero"), "{error}");
    assert!(read(std::path::Path::new("/dev/zero")).is_err());
}
