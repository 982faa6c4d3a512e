//! Huge pages for fresh memory, whatever the host's setting for shared memory says.
//!
//! Most hosts forbid huge pages in memory files (`shmem_enabled` is `never`), so a file would be filled with pages of 4 KiB:
//! 262,144 faults per GiB for its writer, as many page table entries to take down when it exits, to look at when the file is
//! sealed, and to set up again in each reader. `MADV_COLLAPSE` (Linux 6.1) is not bound by that setting: where one page of
//! 2 MiB is there, it makes the whole a huge page. Measured on 4 KiB pages against this, per GiB: filling 850 against 105 ms,
//! exit 45 against 0.3, seal 10 against 0.1, a reader's first look at each page 90 against 4 (`docs/decisions`).
//!
//! Invariants: only ever speed and memory change, never contents: collapsing keeps the bytes, also under concurrent writers.
//! A kernel that does not know it, or has no huge page to give, is not asked for ever.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::system::{self, PAGE_BYTES};

/// Bytes of a huge page.
pub const HUGE_BYTES: usize = 2 << 20;
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_COLLAPSE: i32 = 25;
/// After so many refusals in a row the kernel is not asked again.
const PATIENCE: u32 = 16;

static REFUSALS: AtomicU32 = AtomicU32::new(0);
pub static BACKED: AtomicU64 = AtomicU64::new(0);

/// Backs fresh, writable memory of a shared window by huge pages, as far as it begins them.
///
/// A huge page belongs to the request that begins it: small blocks that follow share it. Of a large block's last one, half
/// must be used, so that little memory is spent on what nobody asked for.
pub fn back(fresh: Range<usize>) {
    if REFUSALS.load(Relaxed) >= PATIENCE {
        return;
    }
    system::keeping_errno(|| {
        let mut at = fresh.start.next_multiple_of(HUGE_BYTES);
        while at < fresh.end && is_worth_it(&fresh, at) {
            if !back_one(at) {
                return;
            }
            at += HUGE_BYTES;
        }
    });
}

fn is_worth_it(fresh: &Range<usize>, at: usize) -> bool {
    fresh.len() < HUGE_BYTES || fresh.end - at >= HUGE_BYTES / 2
}

/// `false`: do not go on.
fn back_one(at: usize) -> bool {
    // There must be a page to start from.
    if !system::advise(at, PAGE_BYTES, MADV_POPULATE_WRITE) {
        return false;
    }
    if system::advise(at, HUGE_BYTES, MADV_COLLAPSE) {
        REFUSALS.store(0, Relaxed);
        BACKED.fetch_add(HUGE_BYTES as u64, Relaxed);
        return true;
    }
    let refusals = if system::errno() == libc::EINVAL { PATIENCE } else { REFUSALS.load(Relaxed) + 1 };
    REFUSALS.store(refusals, Relaxed);
    refusals < PATIENCE
}

/// Tries it: whether the kernel gives memory files huge pages.
#[must_use]
pub fn gives_huge_pages() -> bool {
    let Some(file) = system::memory_file(c"forebay-probe") else { return false };
    // SAFETY: the descriptor is ours.
    let sized = unsafe { libc::ftruncate(file, HUGE_BYTES as libc::off_t) } == 0;
    let mut gives = false;
    if let Some(reserved) = system::reserve(0, 2 * HUGE_BYTES).filter(|_| sized) {
        let at = reserved.next_multiple_of(HUGE_BYTES);
        gives = system::map(at, HUGE_BYTES, system::READ_WRITE, libc::MAP_SHARED | libc::MAP_FIXED, file, 0).is_some()
            && system::advise(at, PAGE_BYTES, MADV_POPULATE_WRITE)
            && system::advise(at, HUGE_BYTES, MADV_COLLAPSE);
        system::unmap(reserved, 2 * HUGE_BYTES);
    }
    system::close(file);
    gives
}
