//! Engines: what compiles programs from a description and runs them.
//!
//! An [`Engine`] is made from a [`Description`] for a largest batch and an image size. It holds the
//! state it works on (parameters, optimiser, batch-norm statistics, bank) and offers five programs:
//! [`Engine::features`], [`Engine::gradient`], [`Engine::apply`], [`Engine::update_bank`] and
//! [`Engine::step`], their composition. Nothing outside this crate knows which engine runs, and
//! nothing in here knows files, flags or epochs.
//!
//! - [`mod@reference`]: plain loops over f32 or f64, one thread: the method's definition in code.
//! - [`cpu`]: fused kernels on all cores.

mod candidates;
pub mod cpu;
mod interface;
pub mod mapped;
mod operation;
pub mod reference;
pub mod state;

pub use interface::{
    BankHealth, Draws, Dtype, Engine, Error, Images, Info, Loss, Norm, Objective, Output, Sizes,
    Timings, check_images, check_objective, check_rows, objective_nodes, output_nodes,
};
pub use operation::{Operation, What};
pub use state::{StateEntry, StateKind};

pub use npid_network::method::Description;
