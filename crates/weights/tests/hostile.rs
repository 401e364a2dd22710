//! Files made to do harm, and files that are broken: one line says so, nothing is executed, and
//! memory stays bounded.

use std::path::{Path, PathBuf};

use npid_network::philox::{Purpose, Stream};
use npid_weights::{Tensor, Tensors, pth, read, resnet, safetensors};

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/weights");
    std::fs::read(folder.join(name)).unwrap()
}

/// A folder with one file in it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("file")
    }

    /// What reading `bytes`, and every tensor in them, says.
    fn says(&self, bytes: &[u8]) -> Result<usize, String> {
        std::fs::write(self.path(), bytes).unwrap();
        self.says_now()
    }

    /// What reading the file as it is says.
    fn says_now(&self) -> Result<usize, String> {
        let file = read(&self.path()).map_err(|error| error.to_string())?;
        let names: Vec<String> = file.tensors().map(|(name, _)| name.to_string()).collect();
        for name in &names {
            file.load(name).map_err(|error| error.to_string())?;
        }
        Ok(names.len())
    }

    /// The error, which is one line that names the file.
    fn refuses(&self, bytes: &[u8]) -> String {
        std::fs::write(self.path(), bytes).unwrap();
        self.refuses_now()
    }

    fn refuses_now(&self) -> String {
        let error = self.says_now().unwrap_err();
        assert!(
            error.starts_with(&*self.path().to_string_lossy()),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

/// A zip archive with these entries, stored.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = out.len() as u32;
        let size = data.len() as u32;
        let mut common = vec![10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend([0; 4]);
        common.extend(size.to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*data);
        directory.extend(b"PK\x01\x02\x0a\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([(entries.len() as u16).to_le_bytes(); 2].concat());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// A file of PyTorch's zip format with this pickle and a storage `0` of four floats.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let data = [0; 16];
    zip(&[
        ("a/data.pkl", pickle),
        ("a/version", b"3\n"),
        ("a/data/0", &data),
    ])
}

/// A file of the old format with this pickle as its object.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.");
    out.extend(b"\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    out.extend(pickle);
    out.extend(b"\x80\x02].");
    out
}

/// The pickle of a dict with one tensor `w`, of this storage length, offset, shape and strides.
fn tensor(len: &str, offset: &str, shape: &str, strides: &str) -> Vec<u8> {
    let mut out = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    out.extend(b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu");
    out.extend(format!("I{len}\ntQI{offset}\n({shape}t({strides}t\x00").as_bytes());
    out.pop();
    out.extend(b"\x89}tRs.");
    out
}

#[test]
fn the_pickle_of_these_tests_is_a_good_one() {
    let scratch = Scratch::new();
    assert_eq!(
        scratch.says(&archive(&tensor("4", "0", "I2\nI2\n", "I2\nI1\n"))),
        Ok(1)
    );
    assert_eq!(
        scratch.says(&archive(&tensor("4", "1", "I3\n", "I1\n"))),
        Ok(1)
    );
    assert_eq!(scratch.says(&legacy(b"\x80\x02}.")), Ok(0));
}

#[test]
fn what_would_run_a_program_is_refused_and_not_run() {
    let scratch = Scratch::new();
    let marker = scratch.0.path().join("marker");
    let command = format!("touch {}", marker.display());
    let calls: [(&str, &str); 6] = [
        ("posix", "system"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("runpy", "_run_code"),
    ];
    for (module, name) in calls {
        // By REDUCE, NEWOBJ, INST, OBJ, and STACK_GLOBAL; alone, and beside good weights.
        let text = format!("X{}{command}", {
            let n = (command.len() as u32).to_le_bytes();
            n.iter().map(|&b| b as char).collect::<String>()
        });
        let programs = [
            format!("c{module}\n{name}\n({text}tR"),
            format!("c{module}\n{name}\n({text}t\u{81}"),
            format!("({text}i{module}\n{name}\n"),
            format!("(c{module}\n{name}\n{text}o"),
            format!("S'{module}'\nS'{name}'\n\u{93}({text}tR"),
        ];
        for program in programs {
            let program: Vec<u8> = program.chars().map(|c| c as u8).collect();
            let alone = [b"\x80\x02", &program[..], b"."].concat();
            let good = tensor("4", "0", "I4\n", "I1\n");
            let beside = [
                &good[..good.len() - 1],
                b"X\x01\0\0\0x",
                &program[..],
                b"s.",
            ]
            .concat();
            for pickle in [alone, beside] {
                for file in [archive(&pickle), legacy(&pickle), pickle.clone()] {
                    let error = scratch.refuses(&file);
                    let named = format!("calls {module}.{name}");
                    assert!(error.contains(&named), "{error}");
                }
            }
        }
    }
    assert!(!marker.exists());
}

/// Python's protocol 0 has no magic byte: such a file isn't one of weights at all.
#[test]
fn a_bare_text_pickle_is_no_file_of_weights() {
    let error = Scratch::new().refuses(b"cos\nsystem\n(S'touch marker'\ntR.");
    assert!(error.contains("not a file of weights"), "{error}");
}

#[test]
fn an_unknown_call_is_kept_as_data_and_named_where_a_tensor_must_be() {
    let scratch = Scratch::new();
    // A dict whose conv1.weight is the result of a function.
    let strange = b"\x80\x02}(X\x0c\0\0\0conv1.weightcmine\nmake\n)RX\x15\0\0\0layer1.0.conv1.weightctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0(K\x04t(K\x01t\x89}tRu.";
    std::fs::write(scratch.path(), archive(strange)).unwrap();
    let file = read(&scratch.path()).unwrap();
    assert_eq!(file.opaque("conv1.weight"), Some("mine.make"));
    let wanted = [("backbone.conv1.weight", &[4][..])];
    let error = resnet::matched(&file, "", wanted, &|_| None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("conv1.weight: calls mine.make"), "{error}");

    std::fs::write(scratch.path(), archive(b"\x80\x02cmine\nModel\n)\x81}b.")).unwrap();
    let error = resnet::prefix(&read(&scratch.path()).unwrap(), None).unwrap_err();
    assert!(error.to_string().contains("mine.Model"), "{error}");
}

#[test]
fn tensors_beyond_their_storage_are_refused() {
    let scratch = Scratch::new();
    let cases = [
        ("4", "0", "I5\n", "I1\n", "doesn't have"),
        ("4", "2", "I3\n", "I1\n", "doesn't have"),
        ("400", "0", "I4\n", "I1\n", "doesn't have"),
        (
            "4000000000000",
            "0",
            "I4000000000000\n",
            "I1\n",
            "doesn't have",
        ),
        ("9223372036854775807", "0", "I4\n", "I1\n", "doesn't have"),
        ("4", "9223372036854775807", "I4\n", "I1\n", "doesn't have"),
        (
            "4",
            "0",
            "I9223372036854775807\nI9223372036854775807\n",
            "I1\nI1\n",
            "doesn't have",
        ),
        ("4", "0", "I2\n", "I9223372036854775807\n", "doesn't have"),
        (
            "4",
            "0",
            "I1000000000000\n",
            "I0\n",
            "elements made of 1 numbers",
        ),
        ("4", "3", "I4\n", "I-1\n", "negative stride"),
        ("4", "0", "I-4\n", "I1\n", "negative size"),
        ("4", "-1", "I4\n", "I1\n", "negative offset"),
        ("-4", "0", "I4\n", "I1\n", "without a length"),
        ("4", "0", "I2\nI2\n", "I1\n", "2 sizes and 1 strides"),
    ];
    for (len, offset, shape, strides, says) in cases {
        let error = scratch.refuses(&archive(&tensor(len, offset, shape, strides)));
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn files_cut_short_at_any_byte_are_refused() {
    let scratch = Scratch::new();
    let tensors = Tensors::from_iter([("a".to_string(), Tensor::new(&[2, 3], vec![1.0; 6]))]);
    let safe = safetensors::write(Vec::new(), &tensors, &[]).unwrap();
    for whole in [golden("plain-zip.pth"), golden("plain-legacy.pth"), safe] {
        assert!(scratch.says(&whole).is_ok());
        let file = std::fs::File::options()
            .write(true)
            .open(scratch.path())
            .unwrap();
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).unwrap();
            let error = scratch.refuses_now();
            assert!(error.len() > 20, "{length}: {error}");
        }
    }
}

/// Whatever the bytes are, the answer is a file or an error: no panic, no endless loop, and no
/// memory beyond what the file's size explains (the process would be killed for it).
#[test]
fn flipped_bytes_do_no_harm() {
    let scratch = Scratch::new();
    let mut refused = 0;
    for (item, name) in ["plain-zip.pth", "plain-legacy.pth"]
        .into_iter()
        .enumerate()
    {
        let whole = golden(name);
        for round in 0..3000 {
            let mut bytes = whole.clone();
            let mut stream = Stream::new(1, Purpose::Order, 0, item as u64, round);
            for _ in 0..=(round % 4) {
                let at = stream.below(bytes.len() as u64) as usize;
                bytes[at] = stream.below(256) as u8;
            }
            refused += usize::from(scratch.says(&bytes).is_err());
        }
    }
    // Most flips hit numbers, which may be any.
    assert!((500..6000).contains(&refused), "{refused}");
}

#[test]
fn archives_that_are_not_what_they_say_are_refused() {
    let scratch = Scratch::new();
    for (bytes, says) in [
        (zip(&[("a/other", b"x")]), "no data.pkl"),
        (
            zip(&[("a/data.pkl", b"\x80\x02}."), ("a/constants.pkl", b"")]),
            "TorchScript",
        ),
        (
            zip(&[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]),
            "big-endian",
        ),
        (
            zip(&[("a/data.pkl", &tensor("4", "0", "I4\n", "I1\n"))]),
            "storage 0 is missing",
        ),
        (
            b"\x89HDF\r\n\x1a\n        ".to_vec(),
            "not a file of weights",
        ),
        (b"\x80\x02}.".to_vec(), "isn't PyTorch's magic number"),
        (Vec::new(), "an empty file"),
        ([&[b'a'; 257][..], b"ustar\0"].concat(), "a tar archive"),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\x7f{\"a\"".to_vec(),
            "header would be longer",
        ),
    ] {
        let error = scratch.refuses(&bytes);
        assert!(error.contains(says), "{error}");
    }
    // An entry that says it is compressed, and one whose sizes reach beyond the file.
    let good = archive(b"\x80\x02}.");
    let directory = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let mut compressed = good.clone();
    compressed[directory + 10] = 8;
    assert!(scratch.refuses(&compressed).contains("is compressed"));
    let mut bomb = good.clone();
    bomb[directory + 10] = 8;
    bomb[directory + 24..directory + 28].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    assert!(scratch.refuses(&bomb).contains("is compressed"));
    let mut large = good;
    for at in [20, 24] {
        let size = directory + at;
        large[size..size + 4].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    }
    assert!(scratch.refuses(&large).contains("beyond its end"));
}

/// Small pickles that would grow without bound.
#[test]
fn pickles_that_grow_are_refused() {
    let scratch = Scratch::new();
    // Dicts in dicts in dicts: no recursion in the reader, a limit in the walk.
    let mut deep = b"\x80\x02".to_vec();
    for _ in 0..100_000 {
        deep.extend(b"}X\x01\0\0\0a");
    }
    deep.extend(b"}");
    deep.extend([b's'; 100_000]);
    deep.push(b'.');
    assert!(scratch.refuses(&archive(&deep)).contains("deep"));

    // Each dict holds the one before it twice: 2^60 tensors by name.
    let mut doubling = tensor("4", "0", "I4\n", "I1\n");
    doubling.pop();
    for i in 0..60_u8 {
        doubling.extend([b'q', i, b'}', b'(']);
        doubling.extend([b'X', 1, 0, 0, 0, b'a', b'h', i]);
        doubling.extend([b'X', 1, 0, 0, 0, b'b', b'h', i, b'u']);
    }
    doubling.push(b'.');
    let error = scratch.refuses(&archive(&doubling));
    assert!(error.contains("more than"), "{error}");

    // A list that is appended to itself, doubled by copies.
    let mut copies = b"\x80\x02(".to_vec();
    copies.extend([b'N'; 10_000]);
    copies.extend(b"tq\0");
    for _ in 0..20_000 {
        copies.extend(b"cbuiltins\nlist\nh\0\x85R");
    }
    copies.push(b'.');
    assert!(
        scratch
            .refuses(&archive(&copies))
            .contains("more than 256 MiB")
    );

    // A text of four gigabytes in a file of a few bytes.
    let error = scratch.refuses(&archive(b"\x80\x02X\xff\xff\xff\xff."));
    assert!(error.contains("cut short"), "{error}");

    // A dict that holds itself.
    let error = scratch.refuses(&archive(b"\x80\x02}q\0X\x01\0\0\0ah\0s."));
    assert!(error.contains("deep"), "{error}");
}

#[test]
fn what_is_written_is_read_again() {
    let scratch = Scratch::new();
    let numbers = |n: usize| (0..n).map(|x| x as f32 / 3.0 - 1.0).collect();
    let mut tensors = Tensors::new();
    tensors.insert("b.weight", Tensor::new(&[3, 2, 1, 1], numbers(6)));
    tensors.insert("a.bias", Tensor::new(&[70_000], numbers(70_000)));
    tensors.insert("scalar", Tensor::new(&[], vec![2.5]));
    tensors.insert("empty", Tensor::new(&[0, 4], vec![]));
    tensors.count("counted", 7);
    let pth = |under| pth::write(Vec::new(), &tensors, under).unwrap();
    let safe = safetensors::write(Vec::new(), &tensors, &[("npid", "a text")]).unwrap();
    let files = [
        (pth(None), ""),
        (pth(Some("state_dict")), "state_dict."),
        (safe, ""),
    ];
    for (bytes, before) in files {
        std::fs::write(scratch.path(), bytes).unwrap();
        let file = read(&scratch.path()).unwrap();
        assert_eq!(file.tensors().count(), 5);
        for (name, tensor) in tensors.iter() {
            assert_eq!(file.load(&format!("{before}{name}")).unwrap(), *tensor);
        }
        let counted = file.load(&format!("{before}counted")).unwrap();
        assert_eq!(counted, Tensor::new(&[], vec![7.0]));
    }
    assert_eq!(read(&scratch.path()).unwrap().text("npid"), Some("a text"));
}
