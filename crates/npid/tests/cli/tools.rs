//! `doctor`, `completions`, `man` and `data fetch`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::scratch::Scratch;

/// Every command, as words.
const COMMANDS: [&str; 13] = [
    "train",
    "eval",
    "eval-knn",
    "embed",
    "data",
    "data-inspect",
    "data-patterns",
    "data-fetch",
    "bench",
    "bench-step",
    "doctor",
    "completions",
    "man",
];

#[test]
fn doctor_finds_this_machine_well() {
    let s = Scratch::new();
    let output = s.npid("doctor --json --threads 1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["check"]["agrees"], true);
    assert!(found["check"]["loss_difference"].as_f64().unwrap() < 1e-4);
    assert!(found["speed"]["gflop_per_s"].as_f64().unwrap() > 0.0);
    assert!(found["speed"]["read_gb_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(found["speed"]["threads"], 1);
    assert!(found["cores"].as_u64().unwrap() >= 1);
    let sets = found["instruction_sets"].as_array().unwrap();
    assert_eq!(sets.last().unwrap(), &found["instruction_set"]);
    assert!(!s.path("runs").exists());

    let output = s
        .npid("doctor --threads 1")
        .env("NPID_CPU", "portable")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "npid takes portable (by NPID_CPU)",
        "Check      good",
        "GFLOP/s",
        "GB/s",
    ] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
    let output = s.npid("doctor").env("NPID_CPU", "mmx").output().unwrap();
    s.check_refused(output, "doctor", &["NPID_CPU is 'mmx'", "portable"]);
}

#[test]
fn completions_are_scripts_of_their_shells() {
    let s = Scratch::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = s.npid(&format!("completions {shell}")).output().unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        for part in ["train", "mirror", "fetch"] {
            assert!(script.contains(part), "{shell}: no {part}");
        }
        fs::write(s.path(shell), script).unwrap();
    }
    s.refuses("completions tcsh", &["tcsh", "bash", "zsh"]);
    s.refuses("completions", &["<SHELL>"]);

    // Where the shells are, they take the scripts; bash also completes by its own.
    let bash = |script: &str| {
        Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(s.path("bash"))
            .output()
    };
    let Ok(sourced) = bash("set -eu; . \"$1\"; complete -p npid") else {
        return;
    };
    assert!(
        sourced.status.success() && sourced.stderr.is_empty(),
        "{sourced:?}"
    );
    let completed = bash(
        ". \"$1\"; COMP_WORDS=(npid data fe); COMP_CWORD=2; _npid npid fe data; echo \"${COMPREPLY[*]}\"",
    );
    assert_eq!(
        String::from_utf8_lossy(&completed.unwrap().stdout).trim(),
        "fetch"
    );
    for (shell, arguments) in [("zsh", ["-n"]), ("fish", ["-n"])] {
        if let Ok(checked) = Command::new(shell)
            .args(arguments)
            .arg(s.path(shell))
            .output()
        {
            assert!(checked.status.success(), "{checked:?}");
        }
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let s = Scratch::new();
    let own = s.npid("man").output().unwrap();
    assert!(own.status.success());
    let own = String::from_utf8(own.stdout).unwrap();
    for command in COMMANDS.iter().filter(|command| !command.contains('-')) {
        assert!(
            own.contains(&format!("npid\\-{command}(1)")),
            "no {command}"
        );
    }
    let output = s.npid("man --out pages").output().unwrap();
    assert!(output.status.success());
    let page = |name: &str| fs::read_to_string(s.path(&format!("pages/{name}.1"))).unwrap();
    assert_eq!(page("npid").trim_end(), own.trim_end());
    for command in COMMANDS {
        let page = page(&format!("npid-{command}"));
        assert!(page.contains(".SH NAME"), "{command}");
        let escaped = command.replace('-', "\\-");
        assert!(
            page.contains(&format!("npid\\-{escaped}")),
            "{command}: {page}"
        );
    }
    assert!(page("npid-data-fetch").contains("\\-\\-mirror"));
    s.refuses("man --out pictures/cats/0.png", &["--out", "0.png"]);

    // Where groff is, it renders every page without a complaint.
    for entry in fs::read_dir(s.path("pages")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(shown) = (Command::new("groff")
            .args(["-man", "-Tutf8", "-ww"])
            .arg(&path))
        .stderr(Stdio::piped())
        .output() else {
            return;
        };
        assert!(
            shown.status.success() && shown.stderr.is_empty(),
            "{shown:?}"
        );
        assert!(String::from_utf8_lossy(&shown.stdout).contains("General Commands Manual"));
    }
}

/// Answers every request with a status line and a body.
fn server(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    url
}

#[test]
fn fetch_says_what_is_wrong_and_leaves_nothing() {
    let s = Scratch::new();
    let fails = |arguments: &str, parts: &[&str]| {
        let output = (s
            .npid(arguments)
            .envs([("NO_PROXY", "*"), ("no_proxy", "*")]))
        .output()
        .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "no {part:?} in: {stderr}");
        }
        assert!(!s.path("data").exists());
    };
    let missing = server("404 Not Found", "nothing");
    let url = format!("{missing}cifar-10-binary.tar.gz");
    fails(
        &format!("data fetch cifar10 --mirror {missing}"),
        &[
            &url,
            "404 Not Found",
            "data/cifar10/cifar-10-binary.tar.gz",
            "--mirror",
        ],
    );
    let page = server("200 OK", "<html>");
    fails(
        &format!("data fetch mnist --json --mirror {page}"),
        &["train-images-idx3-ubyte.gz", "6 bytes", "9912422"],
    );
    s.refuses("data fetch imagenet", &["imagenet", "cifar10", "stl10"]);
    s.refuses("data fetch stl10 --mirror here", &["--mirror here", "URL"]);
    s.refuses(
        "data fetch stl10 --out pictures/cats/0.png",
        &["--out", "0.png"],
    );
}

#[test]
fn fetch_recognises_what_is_there() {
    // The unpacked files of CIFAR-100, by their sizes; a sparse file takes no room.
    let s = Scratch::new();
    let folder = s.path("mine/cifar-100-binary");
    fs::create_dir_all(&folder).unwrap();
    for (name, pictures) in [("train.bin", 50_000), ("test.bin", 10_000)] {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_len(pictures * 3074).unwrap();
    }
    let nobody = "--mirror http://127.0.0.1:9/";
    let output = s
        .npid(&format!("data fetch cifar100 --out mine --json {nobody}"))
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["already_there"], true);
    assert_eq!(found["downloaded_bytes"], 0);
    assert_eq!(found["path"], "mine");
    fs::File::create(folder.join("test.bin")).unwrap();
    s.refuses(
        &format!("data fetch cifar100 --out mine {nobody}"),
        &["cifar-100-binary", "test.bin", "remove the folder"],
    );
}
