//! Ties a function process to its supervisor.

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::Error;

/// Asks the kernel to kill this process when the thread that started it ends. First thing a function process does.
///
/// A supervisor that died before this call is noticed as the end of the channel: there is no call to take.
///
/// # Errors
/// [`Error::System`].
pub fn die_with_parent() -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::system("watch the parent process", error))
}
