//! `npid doctor`: what this machine has, whether npid works on it, and how fast.

mod machine;
mod measure;

use std::io::IsTerminal;

use npid_engine::cpu::Isa;
use npid_learn::Error;
use serde::Serialize;

use crate::args::Doctor;
use crate::out::count;
use machine::{Disk, Machine};
use measure::{Agreement, Speed};

/// All that is found out.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    #[serde(flatten)]
    machine: Machine,
    disk: Option<Disk>,
    /// Whether standard error is a terminal, where progress is a bar.
    terminal: bool,
    /// The engines of this build.
    engines: [&'static str; 2],
    /// The instruction set that the cpu engine takes.
    instruction_set: &'static str,
    /// Those that the machine has.
    instruction_sets: Vec<&'static str>,
    /// `NPID_CPU`, where it is set.
    npid_cpu: Option<String>,
    check: Agreement,
    speed: Speed,
}

/// Looks, checks and measures, and prints what was found.
///
/// # Errors
/// [`Error::Input`] if `NPID_CPU` names no instruction set of this machine; [`Error::Run`] if the
/// engines disagree.
pub fn run(args: &Doctor) -> Result<(), Error> {
    let isa = Isa::detect().map_err(|error| Error::input(error.to_string()))?;
    let machine = Machine::of_this_process();
    let threads = args.threads.unwrap_or(machine.cores);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        disk: Disk::around(&args.out),
        terminal: std::io::stderr().is_terminal(),
        engines: ["cpu", "reference"],
        instruction_set: isa.name(),
        instruction_sets: Isa::available().iter().map(|isa| isa.name()).collect(),
        npid_cpu: std::env::var("NPID_CPU")
            .ok()
            .filter(|name| !name.is_empty()),
        check: measure::self_check(isa, threads)?,
        speed: measure::speed(isa, threads, machine.memory_available)?,
        machine,
    };
    if args.output.json {
        crate::out::json(&report)?;
    } else {
        show(&report, args);
    }
    if report.check.agrees {
        return Ok(());
    }
    Err(Error::run(format!(
        "the cpu engine ({}) differs from the reference engine: loss by {:.1e}, weights and bank \
         by {:.1e} of the largest; try NPID_CPU=portable, and --device reference is right but slow",
        isa.name(),
        report.check.loss_difference,
        report.check.state_difference
    )))
}

fn show(report: &Report, args: &Doctor) {
    let machine = &report.machine;
    say!("npid {}", report.version);
    say!("CPU        {}", machine.cpu);
    let mut cores = count(machine.cores, "core");
    if machine.cores != machine.cores_of_machine {
        cores += &format!(" for this process, of {}", machine.cores_of_machine);
    }
    if let Some(quota) = machine.cpu_quota {
        cores += &format!("; a quota of {quota:.1} cores");
    }
    say!("           {cores}");
    if !machine.features.is_empty() {
        let features: Vec<String> = (machine.features.iter())
            .map(|feature| format!("{} {}", feature.name, yes(feature.there)))
            .collect();
        say!("           {}", features.join(", "));
    }
    let because = match &report.npid_cpu {
        Some(_) => "by NPID_CPU".to_string(),
        None => format!(
            "the best of {}; NPID_CPU chooses another",
            report.instruction_sets.join(", ")
        ),
    };
    say!(
        "           npid takes {} ({because})",
        report.instruction_set
    );
    if let (Some(total), Some(available)) = (machine.memory_total, machine.memory_available) {
        let limit = (machine.memory_limit).map_or(String::new(), |bytes| {
            format!("; this process may have {}", gigabytes(bytes))
        });
        say!(
            "Memory     {}, {} available{limit}",
            gigabytes(total),
            gigabytes(available)
        );
    }
    if let Some(disk) = &report.disk {
        say!(
            "Disk       {} free for {}",
            gigabytes(disk.available),
            args.out.display()
        );
    }
    say!(
        "Terminal   {}",
        match report.terminal {
            true => "yes: progress is a bar",
            false => "no: progress is plain lines",
        }
    );
    say!("Engines    cpu, reference (slow, the definition in code)");
    let check = &report.check;
    say!(
        "Check      {}: a training step of a tiny network on both engines, {:.2} s; loss differs \
         by {:.1e}, weights and bank by {:.1e} of the largest",
        match check.agrees {
            true => "good",
            false => "BAD",
        },
        check.seconds,
        check.loss_difference,
        check.state_difference
    );
    let speed = &report.speed;
    say!(
        "Speed      {:.0} GFLOP/s in 3x3 convolutions of 64 channels on {}, measured for {:.1} s",
        speed.gflop_per_s,
        count(speed.threads, "thread"),
        speed.seconds
    );
    say!(
        "           {:.1} GB/s reading {} MB of memory, the best of {} times",
        speed.read_gb_per_s,
        speed.read_bytes / 1_000_000,
        measure::READS
    );
}

fn yes(there: bool) -> &'static str {
    match there {
        true => "yes",
        false => "no",
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
