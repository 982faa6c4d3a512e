//! The mmap family: anonymous private maps from the arena; what is done to addresses of the arena is done there; all else is
//! the kernel's, asked directly.

use std::ops::Range;

use forebay_arena::maps::{self, Fixed};
use forebay_arena::{Served, set_errno, takes_map, windows};
use libc::{c_int, c_long, c_void, off_t, size_t};

const PAGE_BYTES: usize = 4096;
const ANYTHING: c_int = libc::PROT_READ | libc::PROT_WRITE;
/// Flags of an anonymous map that the arena can serve: they say nothing, or nothing that it does not do.
const SERVED: c_int = libc::MAP_PRIVATE
    | libc::MAP_ANONYMOUS
    | libc::MAP_NORESERVE
    | libc::MAP_POPULATE
    | libc::MAP_DENYWRITE
    | libc::MAP_EXECUTABLE;

/// The part of a range, in whole pages, that is the arena's; `None`: none, or the range is not well-formed.
fn ours(address: *const c_void, length: size_t) -> Option<Range<usize>> {
    let start = address as usize;
    let end = start.checked_add(length)?.checked_next_multiple_of(PAGE_BYTES)?;
    let windows = windows();
    let part = start.max(windows.start)..end.min(windows.end);
    (start % PAGE_BYTES == 0 && part.start < part.end).then_some(part)
}

fn failed(errno: c_int) -> *mut c_void {
    set_errno(errno);
    libc::MAP_FAILED
}

fn status(done: bool) -> c_int {
    if done { 0 } else { -1 }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    let anonymous = flags & (libc::MAP_TYPE | libc::MAP_ANONYMOUS) == libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let plain = anonymous && protection & !ANYTHING == 0;
    if plain && flags & !SERVED == 0 && takes_map(length) {
        match maps::map(length, protection, flags & libc::MAP_POPULATE != 0) {
            Served::At(address) => return address as *mut c_void,
            Served::Refused => return failed(libc::ENOMEM),
            Served::Elsewhere => {}
        }
    } else if flags & libc::MAP_FIXED != 0
        && let Some(range) = ours(address, length)
        && let Fixed::Done = maps::fixed(range, protection, plain && flags & !SERVED == libc::MAP_FIXED)
    {
        return address;
    }
    // SAFETY: the caller's promise is passed on.
    unsafe { libc::syscall(libc::SYS_mmap, address, length, protection, flags, file, offset) as *mut c_void }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise is passed on.
    unsafe { mmap(address, length, protection, flags, file, offset) }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(address: *mut c_void, length: size_t) -> c_int {
    // SAFETY: the caller's promise is passed on, for what is not the arena's.
    let kernel =
        |range: Range<usize>| range.is_empty() || unsafe { libc::syscall(libc::SYS_munmap, range.start, range.len()) } == 0;
    let whole = address as usize..(address as usize).saturating_add(length);
    match ours(address, length) {
        Some(range) => {
            maps::unmap(range.clone());
            status(kernel(whole.start..range.start) && kernel(range.end..whole.end.max(range.end)))
        }
        // SAFETY: the caller's promise is passed on.
        None => unsafe { libc::syscall(libc::SYS_munmap, address, length) as c_int },
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(address: *mut c_void, length: size_t, protection: c_int) -> c_int {
    match ours(address, length) {
        Some(_) => status(maps::protect(address as usize, length, protection)),
        // SAFETY: the caller's promise is passed on.
        None => unsafe { libc::syscall(libc::SYS_mprotect, address, length, protection) as c_int },
    }
}

/// In C it takes a variable number of arguments; on the machines we support the fifth arrives in the same register.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    address: *mut c_void,
    old_length: size_t,
    new_length: size_t,
    flags: c_int,
    new_address: *mut c_void,
) -> *mut c_void {
    if ours(address, old_length.max(1)).is_some() {
        if flags & !libc::MREMAP_MAYMOVE != 0 {
            return remap_to(address as usize, old_length, new_length, flags, new_address as usize);
        }
        return match maps::remap(address as usize, old_length, new_length, flags & libc::MREMAP_MAYMOVE != 0) {
            Served::At(address) => address as *mut c_void,
            _ => failed(libc::ENOMEM),
        };
    }
    if flags & libc::MREMAP_FIXED != 0
        && let Some(range) = ours(new_address, new_length)
    {
        maps::replace(range);
    }
    // SAFETY: the caller's promise is passed on.
    unsafe { libc::syscall(libc::SYS_mremap, address, old_length, new_length, flags as c_long, new_address) as *mut c_void }
}

/// `mremap` of addresses of ours to an address that the caller names, or of which the old pages stay, as zeros.
/// The bytes are copied: pages of the arena cannot leave it.
fn remap_to(address: usize, old: size_t, new: size_t, flags: c_int, wanted: usize) -> *mut c_void {
    let known = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let (fixed, stays) = (flags & libc::MREMAP_FIXED != 0, flags & libc::MREMAP_DONTUNMAP != 0);
    let whole = |bytes: size_t| bytes.checked_next_multiple_of(PAGE_BYTES).filter(|&bytes| bytes > 0);
    let (Some(old), Some(new)) = (whole(old), whole(new)) else { return failed(libc::EINVAL) };
    let (Some(old_end), Some(new_end)) = (address.checked_add(old), wanted.checked_add(new)) else { return failed(libc::EINVAL) };
    let overlap = fixed && wanted < old_end && address < new_end;
    let odd = address % PAGE_BYTES != 0 || fixed && wanted % PAGE_BYTES != 0 || stays && old != new;
    if flags & !known != 0 || flags & libc::MREMAP_MAYMOVE == 0 || odd || overlap {
        return failed(libc::EINVAL);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if fixed { libc::MAP_FIXED } else { 0 };
    // SAFETY: the caller gives up what is at the address it names, as `MREMAP_FIXED` says; else the map is new.
    unsafe {
        let at = mmap(if fixed { wanted as *mut c_void } else { std::ptr::null_mut() }, new, ANYTHING, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return at;
        }
        if !maps::move_pages(address..address + old.min(new), at as usize, new) {
            munmap(at, new);
            return failed(libc::EFAULT);
        }
        if stays {
            madvise(address as *mut c_void, old, libc::MADV_DONTNEED);
        } else {
            munmap(address as *mut c_void, old);
        }
        at
    }
}

/// # Safety
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int {
    match ours(address, length).and_then(|range| maps::advise(range, advice)) {
        Some(done) => status(done),
        // SAFETY: the caller's promise is passed on.
        None => unsafe { libc::syscall(libc::SYS_madvise, address, length, advice) as c_int },
    }
}
