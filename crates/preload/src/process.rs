//! Fork: refused with `ENOMEM`, instead of ending the process, when memory cannot be made private; and `_Fork`, which does not
//! call the handlers that the arena has registered. And limits of the address space: they are about what the program uses, so
//! what the arena has reserved is added on the way to the kernel and taken off on the way back. (Without that, a program that
//! limits its addresses would have none left. Programs that it starts inherit the larger number.)

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::{__rlimit_resource_t, c_int, pid_t, rlim_t, rlimit};

static REAL_FORK: AtomicUsize = AtomicUsize::new(0);
static REAL_BARE_FORK: AtomicUsize = AtomicUsize::new(0);

/// Looks up what stands behind us.
pub fn find_real() {
    REAL_FORK.store(crate::next(c"fork"), Relaxed);
    REAL_BARE_FORK.store(crate::next(c"_Fork"), Relaxed);
}

fn call(real: &AtomicUsize) -> pid_t {
    match real.load(Relaxed) {
        0 => {
            forebay_arena::set_errno(libc::ENOSYS);
            -1
        }
        // SAFETY: the address is that of libc's function of this type.
        real => unsafe { std::mem::transmute::<usize, extern "C" fn() -> pid_t>(real)() },
    }
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
