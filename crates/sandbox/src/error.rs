//! Why a function could not be started.

use std::io;

use crate::order::Refusal;

/// A function was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refuses a layer of the sandbox, or the start of a process.
    #[error("could not {}", .0.what)]
    Refused(Refusal),
    /// The launcher cannot be started or does not answer.
    #[error("could not reach the launcher")]
    Launcher(#[source] io::Error),
    /// A zygote did not bring forth what it should, or not in time.
    #[error("could not fork a zygote")]
    Zygote(#[source] io::Error),
}

impl Error {
    /// The system's word.
    #[must_use]
    pub fn cause(&self) -> io::Error {
        match self {
            Self::Refused(refusal) => refusal.cause(),
            Self::Launcher(error) | Self::Zygote(error) => {
                error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
            }
        }
    }
}
