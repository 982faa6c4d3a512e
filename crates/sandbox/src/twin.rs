//! Forks this process into other namespaces: the child is process of a namespace that was made before, with copies of all memory.
//!
//! ```text
//! this process ─ swapcontext ─▶ (other stack) clone, sharing memory ─▶ joiner: joins the namespaces
//!      ▲                                        waits meanwhile          └─ clone, sharing memory ─▶ stranger: is in the namespaces
//!      │ setcontext, number of nobody                                                               └─ fork ─▶ the child
//!      └──────────────────────────────────────────────────────────────────────────────── setcontext ─────────────┘
//! ```
//!
//! A process cannot move to another process namespace, only its children can; and who joins a user namespace stays there. So
//! that is done by two short-lived processes, which share this one's memory while it waits (as after `vfork`): pages are copied
//! (marked, that is) once, by the one fork at the end. When the stranger has ended, the first process of its namespace is the
//! child's parent.
//!
//! Invariants: one fork at a time; what runs on the other stacks allocates nothing and takes no lock but those of libc's `fork`.
//!
//! `unsafe` is allowed here: stacks and contexts are raw memory.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limits::{FORK_STACK_BYTES, NAMESPACES};
use crate::zygote::Side;

/// One fork under way. It lies on the stack of who wants it, which all of its processes see.
struct Fork {
    namespaces: [c_int; NAMESPACES],
    home: libc::ucontext_t,
    stacks: [*mut u8; 3],
    /// Number of the error that stopped it.
    error: c_int,
    /// Whether this memory is the child's.
    is_child: bool,
}

/// `makecontext` hands over nothing but numbers.
static UNDER_WAY: AtomicPtr<Fork> = AtomicPtr::new(std::ptr::null_mut());
static ONE_AT_A_TIME: Mutex<Option<Stacks>> = Mutex::new(None);

/// Addresses of the three stacks, made once.
#[derive(Clone, Copy)]
struct Stacks([usize; 3]);

/// Forks. The child is in these namespaces, of which the first is a user namespace that gives the right to join the others; it
/// has all rights in it, and the open files of this process.
///
/// # Errors
/// The system's. Nothing has happened then.
pub fn fork_into(namespaces: &[OwnedFd; NAMESPACES]) -> io::Result<Side> {
    let mut guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let stacks = match *guard {
        Some(stacks) => stacks,
        None => *guard.insert(Stacks([new_stack()?, new_stack()?, new_stack()?])),
    };
    // SAFETY: contexts are filled in by the calls below before they are used.
    let mut fork = Fork {
        namespaces: std::array::from_fn(|index| namespaces[index].as_raw_fd()),
        home: unsafe { std::mem::zeroed() },
        stacks: stacks.0.map(|address| address as *mut u8),
        error: 0,
        is_child: false,
    };
    let fork = &raw mut fork;
    UNDER_WAY.store(fork, Ordering::SeqCst);
    // SAFETY: the context runs `away` on a stack of its own, and comes back here through `home`: once in this process and once in
    // the child, whose memory is another. `fork` outlives both, and is accessed through the pointer only.
    let (error, is_child) = unsafe {
        let mut there: libc::ucontext_t = std::mem::zeroed();
        libc::getcontext(&raw mut there);
        there.uc_stack.ss_sp = (*fork).stacks[0].cast();
        there.uc_stack.ss_size = FORK_STACK_BYTES;
        there.uc_link = std::ptr::null_mut();
        libc::makecontext(&raw mut there, away, 0);
        libc::swapcontext(&raw mut (*fork).home, &raw const there);
        ((&raw const (*fork).error).read_volatile(), (&raw const (*fork).is_child).read_volatile())
    };
    match (is_child, error) {
        (true, _) => Ok(Side::Child),
        (false, 0) => Ok(Side::Parent),
        (false, error) => Err(io::Error::from_raw_os_error(error)),
    }
}

fn new_stack() -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
    // SAFETY: new memory, of which nobody knows yet.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), FORK_STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at as usize) }
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// On the first of the other stacks, in this process.
extern "C" fn away() {
    let fork = UNDER_WAY.load(Ordering::SeqCst);
    // SAFETY: `fork_into` waits with the memory that this points to.
    unsafe {
        in_shared_memory(joiner, fork, 1);
        libc::setcontext(&raw const (*fork).home);
    }
    // There is nothing to go back to.
    std::process::abort();
}

/// Runs `body` in a new process that shares our memory, on that stack; returns when it has ended.
unsafe fn in_shared_memory(body: extern "C" fn(*mut c_void) -> c_int, fork: *mut Fork, stack: usize) {
    // SAFETY: the stack is free: those who used it have ended. This process waits until the other one has.
    unsafe {
        let top = (*fork).stacks[stack].add(FORK_STACK_BYTES);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let process = libc::clone(body, top.cast(), flags, fork.cast());
        if process == -1 {
            (*fork).error = errno();
            return;
        }
        let mut status = 0;
        while libc::waitpid(process, &raw mut status, 0) == -1 && errno() == libc::EINTR {}
        if status != 0 && (*fork).error == 0 {
            (*fork).error = libc::ECHILD;
        }
    }
}

extern "C" fn joiner(fork: *mut c_void) -> c_int {
    let fork = fork.cast::<Fork>();
    // SAFETY: the memory of `fork_into`, which waits.
    unsafe {
        for namespace in (*fork).namespaces {
            if libc::setns(namespace, 0) == -1 {
                (*fork).error = errno();
                return 0;
            }
        }
        in_shared_memory(stranger, fork, 2);
    }
    0
}

extern "C" fn stranger(fork: *mut c_void) -> c_int {
    let fork = fork.cast::<Fork>();
    // SAFETY: as in `joiner`. The one thread of this process is a copy of that of `fork_into`, so libc finds its own data; the
    // child goes on in the context of `fork_into`, in memory that is its own.
    unsafe {
        match libc::fork() {
            -1 => (*fork).error = errno(),
            0 => {
                (*fork).is_child = true;
                libc::setcontext(&raw const (*fork).home);
                libc::_exit(127);
            }
            _ => {}
        }
    }
    0
}
