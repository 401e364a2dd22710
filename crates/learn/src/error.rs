//! What can go wrong, and what the process should answer with.

/// Why a command did not finish. Each message is one line that names the flag, key or file, says
/// what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something given can't be used: a flag, a key of the configuration, a path, a collection.
    /// Nothing has been written.
    #[error("{0}")]
    Input(String),
    /// Something failed during a run: a loss that isn't finite, a full disk.
    #[error("{0}")]
    Run(String),
    /// The user asked to stop; what there was to save has been saved.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// An [`Error::Input`] with this message.
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// An [`Error::Run`] with this message.
    pub fn run(message: impl Into<String>) -> Self {
        Error::Run(message.into())
    }

    /// The process's exit code: 2 for input, 1 for a failed run, 130 after an interruption.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 2,
            Error::Run(_) => 1,
            Error::Interrupted(_) => 130,
        }
    }
}

/// A collection that can't be used is the user's to mend.
impl From<npid_data::source::Error> for Error {
    fn from(error: npid_data::source::Error) -> Self {
        Error::Input(error.to_string())
    }
}

/// A file of weights that can't be used is the user's to replace.
impl From<npid_weights::Error> for Error {
    fn from(error: npid_weights::Error) -> Self {
        Error::Input(error.to_string())
    }
}

/// A network or method that can't be built comes from the configuration.
impl From<npid_network::Error> for Error {
    fn from(error: npid_network::Error) -> Self {
        Error::Input(error.to_string())
    }
}

/// A model that can't be exported is too large for its format.
impl From<npid_weights::onnx::Error> for Error {
    fn from(error: npid_weights::onnx::Error) -> Self {
        Error::Input(format!("--out: {error}"))
    }
}

/// An engine refuses a description that the configuration asked for; anything else it refuses
/// happened during a run.
impl From<npid_engine::Error> for Error {
    fn from(error: npid_engine::Error) -> Self {
        match error {
            npid_engine::Error::Description(error) => error.into(),
            other => Error::Run(other.to_string()),
        }
    }
}
