//! The arena as a preload library: large blocks and maps of any program are born in shareable memory files.
//!
//! Loaded by `LD_PRELOAD` into Python functions. It stands in front of libc's malloc family (`heap`), mmap family (`memory`),
//! of what closes descriptors (`files`) and of fork (`process`). Small blocks, and all that the arena leaves, are libc's.
//! `forebay_arena_face` is the table by which `forebay_arena::of_process` finds the arena in here.
//!
//! Environment, read once when the library is loaded, in bytes, each optional: `FOREBAY_ARENA_LIMIT` (memory that the arena
//! may hold); `FOREBAY_ARENA_MIN` and `FOREBAY_ARENA_KEEP` (for tests and benchmarks); with `FOREBAY_ARENA_LATER=1` the arena
//! is not started before somebody asks (`Face`): a zygote has none, each child of it its own. They and `LD_PRELOAD` are then removed,
//! so that programs which this one starts run without; children made by fork keep the arena.
//!
//! Invariants: nothing here allocates or panics; it works before libc is initialised (everything passes through then).
//!
//! `unsafe` is allowed in this crate: it is the C library's interface.

#![allow(unsafe_code)]

mod files;
mod heap;
mod memory;
mod process;

use std::ffi::{CStr, c_char, c_int};

use forebay_arena::{Face, Settings};

/// The table by which others in this process find the arena.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static forebay_arena_face: Face = Face::linked();

/// Called by the dynamic linker when the library is loaded, with the arguments of `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) = loaded;

unsafe extern "C" fn loaded(_count: c_int, _arguments: *mut *mut c_char, environment: *mut *mut c_char) {
    heap::find_real();
    process::find_real();
    // SAFETY: the linker passes the environment of the process, which nobody else uses yet.
    let (settings, later) = unsafe { read_settings(environment) };
    if !later {
        forebay_arena::start(&settings);
    }
}

/// Reads our variables, and takes them and `LD_PRELOAD` out of the list. The list itself is changed, because programs such as
/// bash bring an `unsetenv` of their own that does not work yet.
unsafe fn read_settings(environment: *mut *mut c_char) -> (Settings, bool) {
    let mut limit = None;
    let mut min = None;
    let mut keep = None;
    let mut later = None;
    if environment.is_null() {
        return (Settings::default(), false);
    }
    let (mut from, mut to) = (environment, environment);
    // SAFETY: the list ends with a null pointer, its strings with a null byte; `to` never passes `from`.
    unsafe {
        while !(*from).is_null() {
            let variable = CStr::from_ptr(*from).to_bytes();
            let mut ours = variable.starts_with(b"LD_PRELOAD=");
            for (name, value) in
                [(&b"LIMIT="[..], &mut limit), (b"MIN=", &mut min), (b"KEEP=", &mut keep), (b"LATER=", &mut later)]
            {
                if let Some(text) = variable.strip_prefix(b"FOREBAY_ARENA_").and_then(|rest| rest.strip_prefix(name)) {
                    *value = bytes(text);
                    ours = true;
                }
            }
            if !ours {
                *to = *from;
                to = to.add(1);
            }
            from = from.add(1);
        }
        *to = std::ptr::null_mut();
    }
    let usual = Settings::within(limit.unwrap_or(usize::MAX));
    let settings = Settings { min_bytes: min.unwrap_or(usual.min_bytes), keep_bytes: keep.unwrap_or(usual.keep_bytes), ..usual };
    (settings, later.is_some_and(|later| later > 0))
}

/// A number in decimal digits; `None` if it is none.
fn bytes(text: &[u8]) -> Option<usize> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0usize, |value, digit| value.saturating_mul(10).saturating_add(usize::from(digit - b'0'))))
}

/// Sets `errno` and returns null.
fn out_of_memory() -> *mut libc::c_void {
    forebay_arena::set_errno(libc::ENOMEM);
    std::ptr::null_mut()
}

/// The next definition of a symbol after ours; 0: none.
fn next(name: &CStr) -> usize {
    // SAFETY: the name is a C string.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) as usize }
}
