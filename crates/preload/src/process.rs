//! Fork: refused with `ENOMEM`, instead of ending the process, when memory cannot be made private; and `_Fork` and `clone`, which
//! do not call the handlers that the arena has registered.
//!
//! And limits of the address space: they are about what the program uses, so what the arena has reserved is added on the way to
//! the kernel and taken off on the way back. Without that, a program that limits its addresses would have none left. A program
//! that is started by `execve` gets the limit as it was meant; by other means (`posix_spawn`) it inherits the larger number.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::{__rlimit_resource_t, c_char, c_int, c_void, pid_t, rlim_t, rlimit};

static REAL_FORK: AtomicUsize = AtomicUsize::new(0);
static REAL_BARE_FORK: AtomicUsize = AtomicUsize::new(0);
static REAL_CLONE: AtomicUsize = AtomicUsize::new(0);
static REAL_EXECVE: AtomicUsize = AtomicUsize::new(0);
static REAL_EXECV: AtomicUsize = AtomicUsize::new(0);
static REAL_FEXECVE: AtomicUsize = AtomicUsize::new(0);

/// Looks up what stands behind us.
pub fn find_real() {
    REAL_FORK.store(crate::next(c"fork"), Relaxed);
    REAL_BARE_FORK.store(crate::next(c"_Fork"), Relaxed);
    REAL_CLONE.store(crate::next(c"clone"), Relaxed);
    REAL_EXECVE.store(crate::next(c"execve"), Relaxed);
    REAL_EXECV.store(crate::next(c"execv"), Relaxed);
    REAL_FEXECVE.store(crate::next(c"fexecve"), Relaxed);
}

/// Calls libc's function, whose address is in `real`.
fn call(real: &AtomicUsize) -> pid_t {
    // SAFETY: the address is that of libc's function of this type.
    found(real).map_or(-1, |real| unsafe { std::mem::transmute::<usize, extern "C" fn() -> pid_t>(real)() })
}

fn found(real: &AtomicUsize) -> Option<usize> {
    let real = real.load(Relaxed);
    if real == 0 {
        forebay_arena::set_errno(libc::ENOSYS);
    }
    (real != 0).then_some(real)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fork() -> pid_t {
    if !forebay_arena::can_fork() {
        forebay_arena::set_errno(libc::ENOMEM);
        return -1;
    }
    call(&REAL_FORK)
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Fork() -> pid_t {
    forebay_arena::prepare();
    let child = call(&REAL_BARE_FORK);
    if child == 0 {
        forebay_arena::child();
    } else {
        forebay_arena::parent();
    }
    child
}

type Entry = extern "C" fn(*mut c_void) -> c_int;
type Clone = unsafe extern "C" fn(Entry, *mut c_void, c_int, *mut c_void, *mut c_void, *mut c_void, *mut c_void) -> c_int;

/// What a cloned process is to run.
struct Start {
    entry: Entry,
    argument: *mut c_void,
}

extern "C" fn start(start: *mut c_void) -> c_int {
    forebay_arena::child();
    // SAFETY: it lies on the stack of the caller of `clone`, of which this process has a copy.
    let Start { entry, argument } = unsafe { start.cast::<Start>().read() };
    entry(argument)
}

/// In C it takes a variable number of arguments; on the machines we support they arrive where these do.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clone(
    entry: Entry,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent: *mut c_void,
    storage: *mut c_void,
    child: *mut c_void,
) -> c_int {
    let Some(real) = found(&REAL_CLONE) else { return -1 };
    // SAFETY: the address is that of libc's function of this type; the caller's promises are passed on.
    unsafe {
        let real = std::mem::transmute::<usize, Clone>(real);
        if flags & libc::CLONE_VM != 0 {
            return real(entry, stack, flags, argument, parent, storage, child);
        }
        if !forebay_arena::can_fork() {
            forebay_arena::set_errno(libc::ENOMEM);
            return -1;
        }
        forebay_arena::prepare();
        let mut work = Start { entry, argument };
        let process = real(start, stack, flags, (&raw mut work).cast(), parent, storage, child);
        forebay_arena::parent();
        process
    }
}

/// Runs `exec` with the limit of addresses that the program meant. The hard limit stays: it could not be raised again.
fn with_meant_limit(exec: impl FnOnce() -> c_int) -> c_int {
    let mut limit = rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    let kernel = |new: *const rlimit, old: *mut rlimit| {
        // SAFETY: the pointers are null or to limits of ours.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_AS, new, old) }
    };
    kernel(std::ptr::null(), &raw mut limit);
    let reserved = forebay_arena::reserved_bytes() as rlim_t;
    if limit.rlim_cur == libc::RLIM_INFINITY || reserved == 0 {
        return exec();
    }
    kernel(&rlimit { rlim_cur: limit.rlim_cur.saturating_sub(reserved), ..limit }, std::ptr::null_mut());
    let status = exec();
    forebay_arena::keeping_errno(|| kernel(&raw const limit, std::ptr::null_mut()));
    status
}

type Strings = *const *const c_char;

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    let Some(real) = found(&REAL_EXECVE) else { return -1 };
    // SAFETY: the address is that of libc's function of this type; the caller's promise is passed on.
    let real = unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(*const c_char, Strings, Strings) -> c_int>(real) };
    // SAFETY: as above.
    with_meant_limit(|| unsafe { real(path, arguments, environment) })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    let Some(real) = found(&REAL_EXECV) else { return -1 };
    // SAFETY: the address is that of libc's function of this type; the caller's promise is passed on.
    let real = unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(*const c_char, Strings) -> c_int>(real) };
    // SAFETY: as above.
    with_meant_limit(|| unsafe { real(path, arguments) })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fexecve(file: c_int, arguments: Strings, environment: Strings) -> c_int {
    let Some(real) = found(&REAL_FEXECVE) else { return -1 };
    // SAFETY: the address is that of libc's function of this type; the caller's promise is passed on.
    let real = unsafe { std::mem::transmute::<usize, unsafe extern "C" fn(c_int, Strings, Strings) -> c_int>(real) };
    // SAFETY: as above.
    with_meant_limit(|| unsafe { real(file, arguments, environment) })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit(process: pid_t, resource: __rlimit_resource_t, new: *const rlimit, old: *mut rlimit) -> c_int {
    // SAFETY: numbers only.
    let ours = resource == libc::RLIMIT_AS && (process == 0 || process == unsafe { libc::getpid() });
    let reserved = if ours { forebay_arena::reserved_bytes() as rlim_t } else { 0 };
    let wider = |value: rlim_t| if value == libc::RLIM_INFINITY { value } else { value.saturating_add(reserved) };
    let narrower = |value: rlim_t| if value == libc::RLIM_INFINITY { value } else { value.saturating_sub(reserved) };
    // SAFETY: the caller's pointers are null or valid; the kernel gets a copy of the limit.
    unsafe {
        let copy = new.as_ref().map(|new| rlimit { rlim_cur: wider(new.rlim_cur), rlim_max: wider(new.rlim_max) });
        let copy = copy.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let status = libc::syscall(libc::SYS_prlimit64, process, resource, copy, old) as c_int;
        if status == 0
            && let Some(old) = old.as_mut()
        {
            *old = rlimit { rlim_cur: narrower(old.rlim_cur), rlim_max: narrower(old.rlim_max) };
        }
        status
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prlimit64(process: pid_t, resource: __rlimit_resource_t, new: *const rlimit, old: *mut rlimit) -> c_int {
    // SAFETY: the caller's promise is passed on; the two types are one on 64-bit machines.
    unsafe { prlimit(process, resource, new, old) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit(resource: __rlimit_resource_t, limit: *const rlimit) -> c_int {
    // SAFETY: the caller's promise is passed on.
    unsafe { prlimit(0, resource, limit, std::ptr::null_mut()) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setrlimit64(resource: __rlimit_resource_t, limit: *const rlimit) -> c_int {
    // SAFETY: the caller's promise is passed on.
    unsafe { prlimit(0, resource, limit, std::ptr::null_mut()) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrlimit(resource: __rlimit_resource_t, limit: *mut rlimit) -> c_int {
    // SAFETY: the caller's promise is passed on.
    unsafe { prlimit(0, resource, std::ptr::null(), limit) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrlimit64(resource: __rlimit_resource_t, limit: *mut rlimit) -> c_int {
    // SAFETY: the caller's promise is passed on.
    unsafe { prlimit(0, resource, std::ptr::null(), limit) }
}
