//! From flags to an engine.

use npid_engine::cpu::{Cpu, Isa, Options};
use npid_engine::reference::Reference;
use npid_engine::{Description, Dtype, Engine, Sizes};
use npid_learn::Error;

use crate::args::{Device, Machine};

/// Threads to compute on: `--threads`, else all cores.
pub fn threads(machine: &Machine) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    machine.threads.unwrap_or_else(cores)
}

/// The engine that `machine` names, compiled; `dtype` is what activations are made of, if anything
/// says so, else what suits the device best.
///
/// # Errors
/// If the description can't be compiled, `NPID_CPU` names instructions this CPU hasn't, or the
/// engine has no such numbers.
pub fn engine(
    machine: &Machine,
    description: &Description,
    sizes: Sizes,
    dtype: Option<Dtype>,
) -> Result<Box<dyn Engine>, Error> {
    Ok(match machine.device {
        Device::Reference if dtype == Some(Dtype::Bf16) => {
            return Err(Error::input(
                "--device reference: it computes in f32, and bf16 is asked for (by --dtype or the \
                 key dtype); take --device cpu, or f32",
            ));
        }
        Device::Reference => Box::new(Reference::<f32>::compile(description, sizes)?),
        Device::Auto | Device::Cpu => {
            let isa = Isa::detect().map_err(|error| Error::input(error.to_string()))?;
            let options = Options {
                threads: threads(machine),
                isa,
                dtype: dtype.unwrap_or(isa.best_dtype()),
            };
            Box::new(Cpu::compile(description, sizes, options)?)
        }
    })
}

/// [`engine`] to look at what a run has learned: in the numbers it was trained with, where the
/// engine has them.
///
/// # Errors
/// As [`engine`]'s.
pub fn looking(
    machine: &Machine,
    description: &Description,
    sizes: Sizes,
    dtype: Option<Dtype>,
) -> Result<Box<dyn Engine>, Error> {
    let dtype = dtype.filter(|_| machine.device != Device::Reference);
    engine(machine, description, sizes, dtype)
}
