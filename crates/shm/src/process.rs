//! Ties a function process to its supervisor, and gives both the same clock.

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::{Channel, Error, arena};

/// Asks the kernel to kill this process when the thread that started it ends. First thing a function process does.
///
/// A supervisor that died before this call is noticed as the end of the channel: there is no call to take.
///
/// # Errors
/// [`Error::System`].
pub fn die_with_parent() -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| Error::system("watch the parent process", error))
}

/// Ends this process after its reply: first it lets go of the memory its table was born in, so that the supervisor can seal it,
/// and tells so by closing its side of the channel. The exit of a process with many libraries takes milliseconds; nobody waits
/// for it. No exit handler runs.
pub fn leave(channel: &Channel) -> ! {
    // Where it cannot let go, it does so by exiting.
    if arena::of_process().is_none_or(|arena| arena.retire()) {
        channel.shutdown_sending();
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
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
