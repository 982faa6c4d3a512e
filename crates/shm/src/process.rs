//! Ties a function process to its supervisor, and gives both the same clock.

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

/// `CLOCK_MONOTONIC` in nanoseconds: the same clock in every process of the machine.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, to a place that holds one.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(done, 0, "Linux has a monotonic clock");
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
