//! `npid bench step` does the work of training: its loss is the reference engine's.

use crate::scratch::Scratch;
use serde_json::Value;

/// The object that `bench step` prints on `device`.
fn step(s: &Scratch, device: &str, more: &str) -> Value {
    let arguments = format!(
        "bench step --depth 18 --width 4 --batch 6 --bank 50 --dim 16 --steps 3 \
         --warmup 2 --threads 1 --json --device {device} {more}"
    );
    let output = s.npid(&arguments).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_loss_after_its_steps_is_the_reference_engines() {
    let s = Scratch::new();
    for stem in ["--stem cifar --size 16", "--stem imagenet --size 64"] {
        let [cpu, reference] = ["cpu", "reference"].map(|device| step(&s, device, stem));
        let loss = |line: &Value| line["loss"].as_f64().unwrap();
        let (cpu_loss, expected) = (loss(&cpu), loss(&reference));
        assert!(
            (cpu_loss - expected).abs() < 1e-3 * expected,
            "{cpu_loss}, but the reference engine has {expected}"
        );
        assert_eq!(cpu["steps"], 5);
        assert_eq!(cpu["device"], "cpu");
        assert_eq!(reference["device"], "reference");
    }
}

#[test]
fn its_keys_are_those_of_the_scripts_it_is_read_beside() {
    let s = Scratch::new();
    for (more, what) in [("--size 9", "train"), ("--size 9 --eval", "eval")] {
        let line = step(&s, "cpu", more);
        for key in [
            "peer",
            "depth",
            "stem",
            "width",
            "batch",
            "size",
            "dtype",
            "device",
            "compile",
            "threads",
            "median_s",
            "min_s",
            "images_per_s",
            "peak_mb",
        ] {
            assert!(line.get(key).is_some(), "{key}: {line}");
        }
        for part in ["forward_s", "backward_s", "bank_s", "optimizer_s"] {
            assert_eq!(line[part].is_number(), what == "train", "{part}: {line}");
        }
        assert_eq!(line["what"], what);
        assert!(line["median_s"].as_f64() >= line["min_s"].as_f64());
    }
}

#[test]
fn the_banks_loss_and_gradient_are_the_reference_engines() {
    let s = Scratch::new();
    for head in [
        "contrastive --neg-num 300",
        "nce --neg-num 40",
        "softmax --batch 19",
        "contrastive --neg-num 300 --dtype bf16",
        "nce --neg-num 40 --dtype f16",
        "softmax --batch 19 --dtype bf16",
    ] {
        let [cpu, reference] =
            ["cpu", "reference"].map(|device| {
                let arguments = format!(
                "bench bank --rows 700 --dim 24 --batch 5 --steps 3 --warmup 1 --threads 2 --json \
                 --device {device} --head {head}"
            )
            .replace("--batch 5", if head.contains("--batch") { "" } else { "--batch 5" });
                let output = s.npid(&arguments).output().unwrap();
                assert!(output.status.success());
                serde_json::from_slice::<Value>(&output.stdout).unwrap()
            });
        // Exact softmax over 16-bit rows multiplies integers of 16 bits.
        let integers = head.starts_with("softmax") && head.ends_with("16");
        let limit = if integers { 1e-3 } else { 1e-4 };
        for key in ["loss", "gradient_norm"] {
            let of = |line: &Value| line[key].as_f64().unwrap();
            let (got, want) = (of(&cpu), of(&reference));
            assert!(
                (got - want).abs() < limit * want,
                "{head}: {key} {got}, not {want}"
            );
        }
        for key in [
            "rows",
            "dim",
            "batch",
            "neg_num",
            "median_ms",
            "min_ms",
            "extra_mb",
        ] {
            assert!(cpu.get(key).is_some(), "{key}: {cpu}");
        }
    }
}

#[test]
fn operations_are_told_beside_the_machine_s_peaks() {
    let s = Scratch::new();
    let flags = "bench ops --depth 18 --width 4 --batch 4 --size 16 --bank 64 --dim 16 --threads 1 \
                 --steps 2 --warmup 1";
    let output = s.npid(&format!("{flags} --json")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = (text.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let positive = |line: &Value, key: &str| line[key].as_f64().is_some_and(|v| v > 0.0);
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    assert_eq!(
        (&first["what"], &last["what"]),
        (&"peaks".into(), &"step".into())
    );
    for key in ["gflop_per_s", "read_gb_per_s", "copy_gb_per_s"] {
        assert!(positive(first, key), "{first}");
    }
    let of = |what: &str| -> Vec<&Value> { lines.iter().filter(|l| l["what"] == what).collect() };
    let count = |what: &str| -> u64 { of(what).iter().map(|l| l["n"].as_u64().unwrap()).sum() };
    // 17 of 3x3, 3 of 1x1 and the linear layer; the stem's input has no gradient.
    let counts = [
        "convolution",
        "weight gradient",
        "data gradient",
        "head",
        "optimiser",
    ]
    .map(count);
    assert_eq!(counts, [21, 21, 20, 1, 1]);
    assert_eq!(count("batch norm gradient"), 20);
    // Some may be part of the convolution that reads what they write.
    assert!((1..=20).contains(&count("batch norm")));
    for line in of("convolution") {
        for key in [
            "flops",
            "gflop_per_s",
            "peak_percent",
            "gb_per_s",
            "step_percent",
        ] {
            assert!(positive(line, key), "{key}: {line}");
        }
    }
    let head = of("head")[0];
    assert_eq!(head["flops"], 4 * 4 * 64 * 16);

    let output = s
        .npid(&format!("{flags} --eval --filter layer2"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("measured peaks: ") && text.contains("3x3/2  4 -> 8, 8x8"),
        "{text}"
    );
    assert!(
        !text.contains("pooling") && !text.contains("gradient"),
        "{text}"
    );
    s.refuses(
        &format!("{flags} --filter layer9"),
        &["--filter layer9", "weight gradient"],
    );
    s.refuses(&format!("{flags} --device reference"), &["--device", "cpu"]);
}
