//! Which pages of a private view were written since it was made: they are no longer the file's.

use std::ffi::CStr;

use crate::system::PAGE_BYTES;

const PATH: &CStr = c"/proc/self/pagemap";
/// Bits of an entry that an unprivileged process sees: present, swapped out, a page of a file.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
/// Entries read at once; they stand on the stack, which may be small.
const ENTRIES: usize = 512;

/// Calls `found` with the address of each written page of `address..address + length`, until it returns `false`.
/// Returns `false` if it did, or if the kernel does not tell: then any page may have been written.
pub fn each_written(address: usize, length: usize, mut found: impl FnMut(usize) -> bool) -> bool {
    // SAFETY: the path is a C string; the descriptor is closed below.
    let file = unsafe { libc::open(PATH.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    let mut page = address / PAGE_BYTES;
    let end = (address + length).div_ceil(PAGE_BYTES);
    let mut entries = [0u64; ENTRIES];
    let mut all = true;
    while all && page < end {
        let count = (end - page).min(ENTRIES);
        // SAFETY: `entries` has room for `count` of them.
        let read = unsafe { libc::pread(file, entries.as_mut_ptr().cast(), count * 8, (page * 8) as libc::off_t) };
        let Some(read) = usize::try_from(read).ok().map(|bytes| bytes / 8).filter(|&read| read > 0) else {
            all = false;
            break;
        };
        for (number, entry) in entries[..read].iter().enumerate() {
            let written = entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0;
            if written && !found((page + number) * PAGE_BYTES) {
                all = false;
                break;
            }
        }
        page += read;
    }
    crate::system::close(file);
    all
}
