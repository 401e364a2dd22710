//! From flags to an engine.

use npid_engine::cpu::{Cpu, Dtype, Isa, Options};
use npid_engine::reference::Reference;
use npid_engine::{Description, Engine, Sizes};
use npid_learn::Error;

use crate::args::{Device, Machine};

/// Threads to compute on: `--threads`, else all cores.
pub fn threads(machine: &Machine) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    machine.threads.unwrap_or_else(cores)
}

/// The engine that `machine` names, compiled.
///
/// # Errors
/// If the description can't be compiled, or `NPID_CPU` names instructions this CPU hasn't.
pub fn engine(
    machine: &Machine,
    description: &Description,
    sizes: Sizes,
) -> Result<Box<dyn Engine>, Error> {
    Ok(match machine.device {
        Device::Reference => Box::new(Reference::<f32>::compile(description, sizes)?),
        Device::Auto | Device::Cpu => {
            let isa = Isa::detect().map_err(|error| Error::input(error.to_string()))?;
            let options = Options {
                threads: threads(machine),
                isa,
                dtype: Dtype::F32,
            };
            Box::new(Cpu::compile(description, sizes, options)?)
        }
    })
}
