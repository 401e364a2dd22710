//! The real binary, killed and out of room: what was saved stays good, and a resumed run ends in
//! the bits of one that was never stopped.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use npid_engine::mapped::decode;
use npid_engine::state::BANK;
use npid_learn::checkpoint::Checkpoint;
use npid_network::method::RowType;
use npid_network::philox::{Purpose, Stream};
use serde_json::Value;

/// Fields of metrics that clocks fill.
const CLOCKS: [&str; 8] = [
    "images_per_s",
    "wait_s",
    "step_s",
    "eval_s",
    "forward_s",
    "backward_s",
    "bank_s",
    "optimizer_s",
];

/// A run whose checkpoints take a good part of its time.
const SETTINGS: [&str; 11] = [
    "model.backbone.type=ResNet_CIFAR",
    "model.backbone.base_channels=12",
    "model.neck.out_channels=16",
    "data.size=8",
    "data.batch_size=6",
    "data.pipeline=[{type=\"RandomResizedCrop\",scale=[0.5,1.0]},{type=\"RandomHorizontalFlip\"}]",
    "evaluation.interval=2",
    "evaluation.k=5",
    "log.interval=1",
    "optimizer.lr=0.02",
    "seed=3",
];

/// The same with rows of 4 KB, and with them in a file: a checkpoint comes every third step, since
/// 150,000 bytes are room for what six steps change.
const WIDE: [&str; 2] = [
    "model.neck.out_channels=2048",
    "model.memory_bank.dtype=bf16",
];
const IN_FILE: [&str; 4] = [
    WIDE[0],
    WIDE[1],
    "model.memory_bank.storage=file",
    "model.memory_bank.max_dirty_bytes=150000",
];

/// A folder with pictures, two of which can't be read, and runs.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pictures = folder.path().join("pictures");
        npid_data::patterns::write(&pictures, 40, 20, 16, 0).unwrap();
        fs::write(pictures.join("train/dots/notes.jpg"), "not a picture").unwrap();
        let whole = fs::read(pictures.join("train/rays/0005.png")).unwrap();
        fs::write(pictures.join("train/rays/cut.png"), &whole[..99]).unwrap();
        Scratch(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn npid(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npid"));
        command.args(arguments).current_dir(self.0.path());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// A new run of `epochs` epochs in the folder `out`.
    fn train(&self, out: &str, epochs: u32, threads: &str, workers: &str) -> Command {
        let data = ["train", "--data", "pictures/train", "--val", "pictures/val"];
        let mut command = self.npid(&data);
        command.args(["--out", out, "--threads", threads, "--workers", workers]);
        command.args(["--set", &format!("runner.max_epochs={epochs}")]);
        for setting in SETTINGS {
            command.args(["--set", setting]);
        }
        command
    }

    fn resume(&self, out: &str) -> Command {
        self.npid(&["train", "--resume", out, "--threads", "1"])
    }

    /// Names and bytes of a run's checkpoints, oldest first; also of what isn't one.
    fn checkpoints(&self, out: &str) -> Vec<(String, Vec<u8>)> {
        let folder = self.path(out).join("checkpoints");
        let mut all: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read(path).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    /// Files of the bank, where it is in a file.
    fn bank_files(&self, out: &str) -> Vec<(String, Vec<u8>)> {
        let Ok(entries) = fs::read_dir(self.path(out).join("bank")) else {
            return Vec::new();
        };
        let mut all: Vec<(String, Vec<u8>)> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read(path).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    /// The rows of a run's newest checkpoint, by its files alone: as docs/formats.md says.
    fn rows(&self, out: &str) -> Vec<f32> {
        let files = self.bank_files(out);
        let Some((name, base)) = files.iter().find(|(name, _)| name == "rows.bf16") else {
            let (newest, _) = Checkpoint::newest(&self.path(out).join("checkpoints"))
                .unwrap()
                .unwrap();
            return newest.read(BANK).unwrap();
        };
        assert_eq!(name, "rows.bf16");
        let mut rows = base.clone();
        for (name, bytes) in self.checkpoints(out) {
            if !name.ends_with(".rows") {
                continue;
            }
            let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let (stride, count) = (2 * number(24) as usize, number(40) as usize);
            for i in 0..count {
                let row = number(80 + 8 * i) as usize;
                let new = &bytes[80 + 8 * count + i * stride..][..stride];
                rows[row * stride..][..stride].copy_from_slice(new);
            }
        }
        decode(RowType::Bf16, &rows)
    }

    /// A run's metrics, without what clocks said.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            for clock in CLOCKS {
                line.as_object_mut().unwrap().remove(clock);
            }
            line
        });
        lines.collect()
    }

    /// The run `out` ended as the run `expected` did.
    #[track_caller]
    fn same(&self, out: &str, expected: &str) {
        assert_eq!(self.metrics(out), self.metrics(expected), "{out}: losses");
        let (ours, theirs) = (self.checkpoints(out), self.checkpoints(expected));
        let names = |all: &[(String, Vec<u8>)]| -> Vec<String> {
            all.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{out}: names");
        assert!(ours == theirs, "{out}: weights, bank or optimiser differ");
        let (ours, theirs) = (self.bank_files(out), self.bank_files(expected));
        assert!(ours == theirs, "{out}: the bank's files differ");
    }
}

#[track_caller]
fn succeeds(output: Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}

/// Waits until a file is being written in a folder, at most for `patience`.
fn wait_for_a_write(folder: &Path, patience: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let names = fs::read_dir(folder);
        let writing = names.is_ok_and(|mut names| {
            names.any(|n| n.is_ok_and(|n| n.file_name().to_string_lossy().ends_with(".tmp")))
        });
        if writing {
            return;
        }
    }
}

/// Lets a run be killed `kills` times, every second time while it writes a file in one of `folders`
/// (in turn) where it comes to that, until it ends by itself; begins another where it ended before.
/// All of them must end as an uninterrupted run does.
fn kill(s: &Scratch, kills: usize, sets: &[&str], folders: &[&str]) {
    let epochs = 6;
    let train = |out: &str, threads: &str, workers: &str| {
        let mut command = s.train(out, epochs, threads, workers);
        for set in sets {
            command.args(["--set", set]);
        }
        command
    };
    let begun = Instant::now();
    succeeds(train("whole", "2", "3").output().unwrap());
    let whole = begun.elapsed();
    let mut random = Stream::new(1, Purpose::Bench, 0, 0, 0);
    let (mut killed, mut runs, mut resumed) = (0, 0, 0);
    while killed < kills {
        runs += 1;
        let out = format!("run-{runs}");
        let mut child: Child = train(&out, "1", "1").spawn().unwrap();
        loop {
            if killed < kills {
                sleep(whole.mul_f64(random.uniform(0.0, 0.7)));
                if killed % 2 == 1 {
                    let folder = folders[killed / 2 % folders.len()];
                    wait_for_a_write(&s.path(&out).join(folder), whole / 3);
                    // Somewhere in what follows it.
                    sleep(Duration::from_micros(random.uniform(0.0, 1500.0) as u64));
                }
                if child.try_wait().unwrap().is_none() {
                    child.kill().unwrap();
                    killed += 1;
                }
            }
            let output = child.wait_with_output().unwrap();
            if output.status.code().is_some() {
                succeeds(output);
                s.same(&out, "whole");
                break;
            }
            if !s.path(&out).exists() {
                break; // killed before there was a run
            }
            resumed += 1;
            child = s.resume(&out).spawn().unwrap();
        }
    }
    assert!(resumed > 0, "every run was killed before it had a folder");
}

#[test]
fn killed_at_twenty_random_moments_runs_resume_to_the_same_bits() {
    kill(&Scratch::new(), 20, &[], &["checkpoints"]);
}

#[test]
fn killed_at_twenty_moments_runs_with_a_mapped_bank_resume_to_the_same_bits() {
    let s = Scratch::new();
    // While rows or a checkpoint are written, and while rows are folded into the file.
    kill(&s, 20, &IN_FILE, &["checkpoints", "bank"]);
    // Which are those of a run that has its bank in memory.
    let mut memory = s.train("memory", 6, "1", "1");
    for set in WIDE {
        memory.args(["--set", set]);
    }
    succeeds(memory.output().unwrap());
    assert_eq!(s.metrics("whole"), s.metrics("memory"));
    let (file, memory) = (s.rows("whole"), s.rows("memory"));
    assert_eq!(file.len(), 42 * 2048);
    assert!(file == memory, "the last rows differ");
    let changed = s.checkpoints("whole");
    let changed = changed.iter().filter(|(name, _)| name.ends_with(".rows"));
    assert_eq!(changed.count(), 1, "changes are folded");
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Waits until the run's folder or its checkpoints hold a name that ends like this, at most for
/// `patience`.
fn wait_for_name(run: &Path, ending: &str, patience: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        for folder in [run.to_path_buf(), run.join("checkpoints")] {
            let mut names = fs::read_dir(folder).unwrap().flatten();
            if names.any(|name| name.file_name().to_string_lossy().ends_with(ending)) {
                return;
            }
        }
    }
}

#[test]
fn killed_while_its_collection_changes_a_run_is_the_old_one_or_the_new_one() {
    let s = Scratch::new();
    succeeds(s.train("base", 2, "1", "1").output().unwrap());
    // A fifth of the pictures goes, some come, others are called otherwise.
    let train = s.path("pictures/train");
    npid_data::patterns::write(&s.path("more"), 10, 1, 16, 9).unwrap();
    copy(&s.path("more/train"), &train.join("more"));
    for class in ["checks", "dots", "rings"] {
        let names = fs::read_dir(train.join(class)).unwrap();
        let mut names: Vec<PathBuf> = names.map(|name| name.unwrap().path()).collect();
        names.sort();
        fs::remove_file(&names[0]).unwrap();
        fs::rename(&names[1], train.join(class).join("zz.png")).unwrap();
    }
    let resume = |out: &str| {
        let go_on = ["train", "--resume", out, "--epochs", "3", "--threads", "1"];
        s.npid(&go_on)
    };
    copy(&s.path("base"), &s.path("whole"));
    let begun = Instant::now();
    succeeds(resume("whole").output().unwrap());
    let whole = begun.elapsed();
    let file = |out: &str, name: &str| fs::read(s.path(out).join(name)).unwrap();
    assert!(file("whole", "images.parquet") != file("base", "images.parquet"));
    let mut random = Stream::new(2, Purpose::Bench, 0, 0, 0);
    let endings = [
        "images.parquet.next.tmp",
        ".images.parquet.next",
        ".config.toml.next",
        ".safetensors.tmp",
    ];
    for number in 0..12 {
        let out = format!("run-{number}");
        copy(&s.path("base"), &s.path(&out));
        for _ in 0..2 {
            let mut child = resume(&out).spawn().unwrap();
            match number % 3 {
                0 => sleep(whole.mul_f64(random.uniform(0.0, 0.9))),
                _ => {
                    let ending = endings[(random.uniform(0.0, 4.0) as usize).min(3)];
                    wait_for_name(&s.path(&out), ending, whole);
                    sleep(Duration::from_micros(random.uniform(0.0, 3000.0) as u64));
                }
            }
            let _ = child.kill(); // it may have ended
            child.wait().unwrap();
        }
        succeeds(resume(&out).output().unwrap());
        s.same(&out, "whole");
        for name in ["images.parquet", "config.toml"] {
            assert!(file(&out, name) == file("whole", name), "{out}: {name}");
        }
        let names = fs::read_dir(s.path(&out)).unwrap().flatten();
        let left = |name: &fs::DirEntry| name.file_name().to_string_lossy().contains(".next");
        assert_eq!(names.filter(left).count(), 0, "{out}");
    }
}

/// The command in a shell that lets no file grow beyond so many blocks.
fn limited(blocks: u32, command: &Command, folder: PathBuf) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.current_dir(folder);
    shell
}

#[test]
fn a_checkpoint_that_does_not_fit_leaves_the_one_before_it() {
    let s = Scratch::new();
    succeeds(s.train("whole", 12, "1", "1").output().unwrap());

    // Killed soon after its first checkpoint.
    let mut child = s.train("run", 12, "1", "1").spawn().unwrap();
    let first = s.path("run/checkpoints/step-00000000.safetensors");
    while !first.exists() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    let _ = child.kill(); // it may have ended
    child.wait().unwrap();
    let before = s.checkpoints("run");
    let before: Vec<_> = before
        .into_iter()
        .filter(|(name, _)| !name.ends_with(".tmp"))
        .collect();
    // 100 blocks are 50 KB by POSIX, 100 KB to some shells; a checkpoint here has megabytes.
    assert!(before[0].1.len() > 1_000_000);
    let output = limited(100, &s.resume("run"), s.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(
        last.contains("step-") && last.contains("can't be written"),
        "{stderr}"
    );
    assert_eq!(stderr.matches("can't be written").count(), 1, "{stderr}");
    assert!(
        s.checkpoints("run") == before,
        "the checkpoint before changed"
    );

    succeeds(s.resume("run").output().unwrap());
    s.same("run", "whole");

    // Nor does an embedding of which half fits leave that half.
    let embed = s.npid(&["embed", "--run", "run", "--out", "f.npy"]);
    let output = limited(1, &embed, s.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("can't be written"), "{stderr}");
    let left = fs::read_dir(s.path("")).unwrap();
    let mut left = left.map(|entry| entry.unwrap().file_name());
    assert!(left.all(|name| !name.to_string_lossy().contains("f.")));
}

#[test]
fn changed_rows_that_do_not_fit_leave_the_checkpoint_before_them() {
    let s = Scratch::new();
    let train = |out: &str| {
        let mut command = s.train(out, 3, "1", "1");
        for set in IN_FILE {
            command.args(["--set", set]);
        }
        command
    };
    succeeds(train("whole").output().unwrap());
    // Not even the bank fits: nothing is begun, and a resume begins again.
    let output = limited(100, &train("run"), s.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(
        last.contains("bank/rows.bf16: the memory bank can't be written"),
        "{stderr}"
    );
    assert!(last.contains("--resume"), "{stderr}");
    assert!(s.checkpoints("run").is_empty() && s.bank_files("run").is_empty());
    // Killed soon after its first checkpoint.
    let mut child = s.resume("run").spawn().unwrap();
    let first = s.path("run/checkpoints/step-00000000.safetensors");
    while !first.exists() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    let _ = child.kill(); // it may have ended
    child.wait().unwrap();
    let files = || -> Vec<(String, Vec<u8>)> {
        let all = [s.checkpoints("run"), s.bank_files("run")].concat();
        (all.into_iter())
            .filter(|(name, _)| !name.ends_with(".tmp"))
            .collect()
    };
    let before = files();
    let output = limited(60, &s.resume("run"), s.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(
        last.contains("can't be written") && last.contains("step-"),
        "{stderr}"
    );
    let whole =
        |(name, _): &&(String, Vec<u8>)| name.contains("step-00000000") || name == "rows.bf16";
    let kept = |all: &[(String, Vec<u8>)]| all.iter().filter(whole).cloned().collect::<Vec<_>>();
    assert!(kept(&files()) == kept(&before), "what was there changed");
    succeeds(s.resume("run").output().unwrap());
    s.same("run", "whole");
}

#[test]
fn a_run_folder_that_does_not_fit_is_no_run() {
    let s = Scratch::new();
    // Not even the first checkpoint can be written: the run ends at once, and says what to do.
    let train = s.train("run", 3, "1", "1");
    let output = limited(100, &train, s.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    assert!(s.checkpoints("run").is_empty());
    // With room, it begins.
    succeeds(s.resume("run").output().unwrap());
    succeeds(s.train("whole", 3, "2", "2").output().unwrap());
    s.same("run", "whole");
}
