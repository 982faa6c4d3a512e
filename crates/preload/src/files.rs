//! Descriptors: those of the arena stay open when user code closes all it finds.
//!
//! They are closed by `exec` (CLOEXEC), so to skip them is right also in a child made by `vfork`, which runs in our memory.

use forebay_arena::{needs_descriptor, set_errno};
use libc::{c_int, c_uint};

/// Set by the kernel on ranges to close by `exec` instead of now.
const CLOSE_RANGE_CLOEXEC: c_uint = 4;
const CLOSE_RANGE_UNSHARE: c_uint = 2;
/// Highest descriptor that is looked at where the kernel has no `close_range`.
const DESCRIPTORS_MAX: c_uint = 65_536;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(file: c_int) -> c_int {
    if needs_descriptor(file) {
        return 0;
    }
    // SAFETY: the caller's promise is passed on.
    unsafe { libc::syscall(libc::SYS_close, file) as c_int }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let mut flags = flags as c_uint;
    // SAFETY: the caller's promise is passed on.
    let kernel =
        |first: c_uint, last: c_uint, flags: c_uint| unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int };
    // Ours are closed by `exec` anyway.
    if flags & CLOSE_RANGE_CLOEXEC != 0 || first > last {
        return kernel(first, last, flags);
    }
    let mut from = first;
    for file in forebay_arena::descriptors() {
        if file < from || file > last {
            continue;
        }
        if from < file {
            if kernel(from, file - 1, flags) != 0 {
                return -1;
            }
            flags &= !CLOSE_RANGE_UNSHARE;
        }
        from = file + 1;
    }
    if from <= last { kernel(from, last, flags) } else { 0 }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn closefrom(lowest: c_int) {
    let lowest = lowest.max(0) as c_uint;
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if close_range(lowest, c_uint::MAX, 0) == 0 {
            return;
        }
        for file in lowest..DESCRIPTORS_MAX {
            close(file as c_int);
        }
    }
    set_errno(0);
}
