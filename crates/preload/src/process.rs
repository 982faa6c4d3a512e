//! Fork: refused with `ENOMEM`, instead of ending the process, when memory cannot be made private; and `_Fork`, which does not
//! call the handlers that the arena has registered.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::pid_t;

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
