//! The malloc family: large blocks from the arena, all others from glibc by its internal names.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use forebay_arena::{Served, allocate_block, free as give_back, is_ours, keeping_errno, reallocate, requested, takes_block};
use libc::{c_int, c_void, size_t};

use crate::out_of_memory;

unsafe extern "C" {
    fn __libc_malloc(size: size_t) -> *mut c_void;
    fn __libc_calloc(count: size_t, size: size_t) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: size_t) -> *mut c_void;
    fn __libc_memalign(alignment: size_t, size: size_t) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
}

const PAGE_BYTES: usize = 4096;

static REAL_USABLE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Looks up what stands behind us, once, while nothing can go wrong.
pub fn find_real() {
    REAL_USABLE_SIZE.store(crate::next(c"malloc_usable_size"), Relaxed);
}

/// Usable bytes of a block of libc; `None`: we cannot tell.
fn real_usable_size(block: *mut c_void) -> Option<usize> {
    let real = REAL_USABLE_SIZE.load(Relaxed);
    // SAFETY: the address is that of libc's function of this type, and the block is libc's.
    (real != 0).then(|| unsafe { std::mem::transmute::<usize, extern "C" fn(*mut c_void) -> size_t>(real)(block) })
}

/// The answer of the arena, or that of libc.
#[inline]
fn answer(served: Served, libc: impl FnOnce() -> *mut c_void) -> *mut c_void {
    match served {
        Served::At(address) => address as *mut c_void,
        Served::Refused => out_of_memory(),
        Served::Elsewhere => libc(),
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: size_t) -> *mut c_void {
    // SAFETY: libc's own function.
    let libc = || unsafe { __libc_malloc(size) };
    if takes_block(size) { answer(allocate_block(size, 1, false), libc) } else { libc() }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: size_t, size: size_t) -> *mut c_void {
    // SAFETY: libc's own function, which also refuses what overflows.
    let libc = || unsafe { __libc_calloc(count, size) };
    match count.checked_mul(size) {
        Some(bytes) if takes_block(bytes) => answer(allocate_block(bytes, 1, true), libc),
        _ => libc(),
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if is_ours(block as usize) {
        keeping_errno(|| give_back(block as usize));
    } else {
        // SAFETY: not ours, so libc's.
        unsafe { __libc_free(block) };
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: size_t) -> *mut c_void {
    // SAFETY: the caller's promise is passed on; blocks go back where their addresses say they came from, and what is copied
    // fits into both.
    unsafe {
        if block.is_null() {
            return malloc(size);
        }
        if !is_ours(block as usize) {
            return realloc_of_libc(block, size);
        }
        if size == 0 {
            free(block);
            return std::ptr::null_mut();
        }
        // What has become small moves out: a unit of the arena would be mostly empty.
        if takes_block(size.saturating_mul(2)) {
            match reallocate(block as usize, size, 1) {
                Served::At(address) => return address as *mut c_void,
                Served::Refused => return out_of_memory(),
                Served::Elsewhere => {}
            }
        }
        let new = __libc_malloc(size);
        if !new.is_null() {
            std::ptr::copy_nonoverlapping(block.cast::<u8>(), new.cast::<u8>(), requested(block as usize).min(size));
            free(block);
        }
        new
    }
}

/// A block of libc stays there unless it has become large.
unsafe fn realloc_of_libc(block: *mut c_void, size: size_t) -> *mut c_void {
    // SAFETY: the block is libc's; what is copied fits into both.
    unsafe {
        let Some(old) = real_usable_size(block).filter(|&old| takes_block(size) && old < size) else {
            return __libc_realloc(block, size);
        };
        match allocate_block(size, 1, false) {
            Served::At(new) => {
                std::ptr::copy_nonoverlapping(block.cast::<u8>(), new as *mut u8, old);
                __libc_free(block);
                new as *mut c_void
            }
            Served::Refused => out_of_memory(),
            Served::Elsewhere => __libc_realloc(block, size),
        }
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(block: *mut c_void, count: size_t, size: size_t) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's promise is passed on.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => out_of_memory(),
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memalign(alignment: size_t, size: size_t) -> *mut c_void {
    // SAFETY: libc's own function.
    let libc = || unsafe { __libc_memalign(alignment, size) };
    if takes_block(size) && alignment.is_power_of_two() { answer(allocate_block(size, alignment, false), libc) } else { libc() }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(alignment: size_t, size: size_t) -> *mut c_void {
    // SAFETY: the caller's promise is passed on.
    unsafe { memalign(alignment, size) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(into: *mut *mut c_void, alignment: size_t, size: size_t) -> c_int {
    if !alignment.is_power_of_two() || alignment % size_of::<*mut c_void>() != 0 {
        return libc::EINVAL;
    }
    keeping_errno(|| {
        // SAFETY: the caller's promise is passed on; `into` is written only on success.
        unsafe {
            let block = memalign(alignment, size);
            if block.is_null() {
                return libc::ENOMEM;
            }
            *into = block;
        }
        0
    })
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valloc(size: size_t) -> *mut c_void {
    // SAFETY: the caller's promise is passed on.
    unsafe { memalign(PAGE_BYTES, size) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pvalloc(size: size_t) -> *mut c_void {
    match size.checked_next_multiple_of(PAGE_BYTES) {
        // SAFETY: the caller's promise is passed on.
        Some(size) => unsafe { memalign(PAGE_BYTES, size) },
        None => out_of_memory(),
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> size_t {
    if is_ours(block as usize) {
        // Not the rest of the last unit: `realloc` moves only what was asked for.
        return requested(block as usize);
    }
    if block.is_null() { 0 } else { real_usable_size(block).unwrap_or(0) }
}
