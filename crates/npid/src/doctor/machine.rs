//! What the operating system says of the machine and of what this process may have of it.
//!
//! Sources on Linux: `/proc/cpuinfo`, `/proc/meminfo`, and the limits of the process's control
//! group (`cpu.max` and `memory.max` of version 2, `cpu.cfs_quota_us` and
//! `memory.limit_in_bytes` of version 1). Elsewhere what isn't known is left out.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A machine, as far as it concerns this process.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Instruction sets that matter to npid.
    pub features: Vec<Feature>,
    /// Cores that this process may use: affinity and quota counted in.
    pub cores: usize,
    /// Cores (hardware threads) of the machine.
    pub cores_of_machine: usize,
    /// Cores' worth of time that the control group may take.
    pub cpu_quota: Option<f64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Bytes that can be had: what is free or can be freed, within the limit.
    pub memory_available: Option<u64>,
    /// Bytes that the control group may have, where that is less than there are.
    pub memory_limit: Option<u64>,
}

/// An instruction set.
#[derive(Debug, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Whether the processor has it and the operating system saves its registers.
    pub there: bool,
}

/// Where runs go.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// The folder that was looked at: the wanted one, or the nearest above it that exists.
    pub path: PathBuf,
    /// Bytes that can be written.
    pub available: u64,
}

impl Machine {
    /// What there is.
    pub fn of_this_process() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Machine {
            features: features(),
            ..Machine::read(Path::new("/"), cores)
        }
    }

    /// What the files below `root` say, for a process that may use `cores` cores.
    fn read(root: &Path, cores: usize) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let cpuinfo = text("proc/cpuinfo");
        let of = |key: &str| {
            let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(name, _)| name.trim() == key)
        };
        let model = of("model name").map(|(_, model)| model.trim());
        let known = cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count();
        let meminfo = text("proc/meminfo");
        let kilobytes = |key: &str| -> Option<u64> {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
            let number = line.trim_start_matches(':').trim().strip_suffix("kB")?;
            Some(number.trim().parse::<u64>().ok()? * 1024)
        };
        let memory_total = kilobytes("MemTotal");
        let groups = Groups::of(root);
        let memory_limit =
            (groups.memory_limit()).filter(|&limit| memory_total.is_none_or(|total| limit < total));
        let left = memory_limit
            .map(|limit| limit.saturating_sub(groups.memory_used().unwrap_or_default()));
        let memory_available = match (kilobytes("MemAvailable"), left) {
            (Some(free), Some(left)) => Some(free.min(left)),
            (free, left) => free.or(left),
        };
        Machine {
            cpu: model.unwrap_or(std::env::consts::ARCH).to_string(),
            features: Vec::new(),
            cores,
            cores_of_machine: known.max(cores),
            cpu_quota: groups.cpu_quota(),
            memory_total,
            memory_available,
            memory_limit,
        }
    }
}

/// What the processor can do of what npid uses, or might.
fn features() -> Vec<Feature> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        Feature {
            name: "AVX2 with FMA",
            there: is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        },
        Feature {
            name: "AVX-512",
            there: is_x86_feature_detected!("avx512f"),
        },
        Feature {
            name: "AVX-512 bf16",
            there: is_x86_feature_detected!("avx512bf16"),
        },
    ];
    #[cfg(not(target_arch = "x86_64"))]
    return Vec::new();
}

impl Disk {
    /// The room for a folder that may not be there yet.
    pub fn around(wanted: &Path) -> Option<Self> {
        let whole = std::path::absolute(wanted).ok()?;
        let path = whole.ancestors().find(|folder| folder.exists())?;
        Some(Disk {
            available: available(path)?,
            path: path.to_path_buf(),
        })
    }
}

#[cfg(unix)]
fn available(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    // The types differ between systems.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    Some(u64::from(found.blocks_available()) * found.fragment_size() as u64)
}

#[cfg(not(unix))]
fn available(_path: &Path) -> Option<u64> {
    None
}

/// The control groups of a process: for each controller the folders whose limits hold, its own
/// first.
struct Groups {
    unified: Vec<PathBuf>,
    memory: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
}

impl Groups {
    fn of(root: &Path) -> Self {
        let mounted = root.join("sys/fs/cgroup");
        let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let lines: Vec<(&str, &str)> = (text.lines())
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .collect();
        let folders = |controller: &str, base: &Path| -> Vec<PathBuf> {
            let named = |names: &str| names.split(',').any(|name| name == controller);
            let Some((_, path)) = lines.iter().find(|(names, _)| named(names)) else {
                return Vec::new();
            };
            // In a container the path may be the host's, of which only the top can be seen.
            let path = Path::new(path.trim_start_matches('/'));
            path.ancestors().map(|part| base.join(part)).collect()
        };
        Groups {
            unified: folders("", &mounted),
            memory: folders("memory", &mounted.join("memory")),
            cpu: folders("cpu", &mounted.join("cpu")),
        }
    }

    /// The first number of `file` in each folder that has one.
    fn numbers(folders: &[PathBuf], file: &str) -> impl Iterator<Item = u64> {
        folders.iter().filter_map(move |folder| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            text.split_whitespace().next()?.parse().ok()
        })
    }

    /// The smallest limit; version 1 says an absurdly large number where there is none.
    fn memory_limit(&self) -> Option<u64> {
        let new = Groups::numbers(&self.unified, "memory.max");
        let old = Groups::numbers(&self.memory, "memory.limit_in_bytes");
        new.chain(old).min()
    }

    /// What the process's own group has taken.
    fn memory_used(&self) -> Option<u64> {
        let new = Groups::numbers(&self.unified, "memory.current");
        let old = Groups::numbers(&self.memory, "memory.usage_in_bytes");
        new.chain(old).next()
    }

    /// The smallest quota, in cores.
    fn cpu_quota(&self) -> Option<f64> {
        let new = self.unified.iter().filter_map(|folder| {
            let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            Some((quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?))
        });
        let old = self.cpu.iter().filter_map(|folder| {
            let number = |file: &str| {
                let text = fs::read_to_string(folder.join(file)).ok()?;
                text.trim().parse::<f64>().ok()
            };
            Some((number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?))
        });
        let quotas = new
            .chain(old)
            .filter(|&(quota, period)| quota > 0.0 && period > 0.0);
        quotas
            .map(|(quota, period)| quota / period)
            .min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in all {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: [(&str, &str); 2] = [
        (
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: A Processor: 9\n\nprocessor\t: 1\nmodel name\t: B\n",
        ),
        (
            "proc/meminfo",
            "MemTotal:        8000 kB\nMemFree: 5 kB\nMemAvailable:    6000 kB\n",
        ),
    ];

    #[test]
    fn a_machine_without_limits() {
        let root = files(&MACHINE);
        let machine = Machine::read(root.path(), 2);
        assert_eq!(machine.cpu, "A Processor: 9");
        assert_eq!((machine.cores, machine.cores_of_machine), (2, 2));
        assert_eq!(machine.memory_total, Some(8000 * 1024));
        assert_eq!(machine.memory_available, Some(6000 * 1024));
        assert_eq!((machine.memory_limit, machine.cpu_quota), (None, None));
        // Nothing at all is known of another system.
        let empty = tempfile::tempdir().unwrap();
        let machine = Machine::read(empty.path(), 3);
        assert_eq!(machine.cpu, std::env::consts::ARCH);
        assert_eq!((machine.cores_of_machine, machine.memory_total), (3, None));
    }

    #[test]
    fn limits_of_a_container() {
        // Version 2: the tightest on the way up holds.
        let group = [
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "1024000\n"),
            ("sys/fs/cgroup/a/memory.max", "4096000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
        ];
        let root = files(&[&MACHINE[..], &group].concat());
        let machine = Machine::read(root.path(), 2);
        assert_eq!(machine.memory_limit, Some(4_096_000));
        assert_eq!(machine.memory_available, Some(3_072_000));
        assert_eq!(machine.cpu_quota, Some(1.5));

        // Version 1, seen from inside: the path is the host's.
        let group = [
            (
                "proc/self/cgroup",
                "5:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2048000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "48000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        let root = files(&[&MACHINE[..], &group].concat());
        let machine = Machine::read(root.path(), 2);
        assert_eq!(machine.memory_limit, Some(2_048_000));
        assert_eq!(machine.memory_available, Some(2_000_000));
        assert_eq!(machine.cpu_quota, Some(0.5));

        // No limit: -1, and a number beyond all memory.
        let group = [
            ("proc/self/cgroup", "5:memory:/\n3:cpu:/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        let root = files(&[&MACHINE[..], &group].concat());
        let machine = Machine::read(root.path(), 2);
        assert_eq!((machine.memory_limit, machine.cpu_quota), (None, None));
        assert_eq!(machine.memory_available, Some(6000 * 1024));
    }

    #[cfg(unix)]
    #[test]
    fn room_is_found_for_a_folder_that_is_not_there_yet() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::around(&root.path().join("a/b/runs")).unwrap();
        assert_eq!(disk.path, root.path());
        assert!(disk.available > 0);
    }
}
