//! Huge pages for fresh memory, whatever the host's setting for shared memory says.
//!
//! Most hosts forbid huge pages in memory files (`shmem_enabled` is `never`), so a file would be filled with pages of 4 KiB:
//! 262,144 faults per GiB for its writer, as many page table entries to take down when it exits, to look at when the file is
//! sealed, and to set up again in each reader. `MADV_COLLAPSE` (Linux 6.1) is not bound by that setting: where one page of
//! 2 MiB is there, it makes the whole a huge page. Measured on 4 KiB pages against this, per GiB: filling 850 against 105 ms,
//! exit 45 against 0.3, seal 10 against 0.1, a reader's first look at each page 90 against 4 (`docs/decisions`).
//!
//! Each call costs 0.1 ms per huge page, and a wait for the other processors, which may be a tick (4 ms) when one of them idles:
//! more than the small pages cost that one huge page saves. So a block is one call. A block that saves less than the last call
//! waited shares its call with the blocks to come: what is free behind it is backed *ahead*, little and in proportion to what
//! is used. One for which that does not suffice goes without, and lets the memory of that wait fade, so that the kernel is tried
//! again.
//!
//! Invariants: only ever speed and memory change, never contents: collapsing keeps the bytes, also under concurrent writers.
//! A kernel that does not know it, or has no huge page to give, is not asked for ever. What was backed ahead and is not begun by
//! a block yet is at most `AHEAD_BYTES_MAX`, and at most a quarter of what blocks hold.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::statistics::lower;
use crate::system::{self, PAGE_BYTES};

/// Bytes of a huge page.
pub const HUGE_BYTES: usize = 2 << 20;
/// Blocks from this size on start at a multiple of a huge page.
pub const ALIGNED_FROM_BYTES: usize = 8 << 20;
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_COLLAPSE: i32 = 25;
/// After so many refusals in a row the kernel is not asked again.
const PATIENCE: u32 = 16;

/// Most that is asked for in one call: nothing interrupts it.
const BATCH_BYTES: usize = 32 * HUGE_BYTES;
/// What a huge page costs the kernel, and what it saves against small ones, filling alone, in microseconds.
const COST_US: u32 = 150;
const SAVED_US: u32 = 1500;
/// Longest wait that is remembered, in microseconds: one that took longer was an accident.
const WAIT_US_MAX: u32 = 8000;
/// Most that is backed before a block begins it: enough to be worth the longest wait, 12 MiB.
const AHEAD_BYTES_MAX: usize = WAIT_US_MAX.div_ceil(SAVED_US) as usize * HUGE_BYTES;
/// The same as a part of what blocks hold.
const AHEAD_PART: usize = 4;

/// Microseconds the last call waited, faded.
static WAIT_US: AtomicU32 = AtomicU32::new(0);
static REFUSALS: AtomicU32 = AtomicU32::new(0);
/// Bytes that were backed ahead and are not begun yet.
static AHEAD: AtomicUsize = AtomicUsize::new(0);
pub static BACKED: AtomicU64 = AtomicU64::new(0);

/// Backs fresh, writable memory of a shared window by huge pages, as far as it begins them. `room`: bytes behind it that are
/// free and fresh, too, and will be blocks; `used`: bytes that blocks hold.
///
/// A huge page belongs to the request that begins it: blocks that follow share it. Large ones begin one of their own, so of a
/// large block's last one half must be used, as where nothing follows: little memory is spent on what nobody asked for.
pub fn back(fresh: Range<usize>, room: usize, used: usize) {
    if REFUSALS.load(Relaxed) >= PATIENCE {
        return;
    }
    let mut pages = without_backed(worth_it(&fresh, room));
    if pages.is_empty() {
        return;
    }
    let own_end = pages.end;
    if !saves_more_than_it_waits(count(&pages)) {
        pages.end += ahead(fresh.end + room, own_end, used);
        if !saves_more_than_it_waits(count(&pages)) {
            fade();
            return;
        }
    }
    system::keeping_errno(|| {
        while !pages.is_empty() && back_some(pages.start..pages.end.min(pages.start + BATCH_BYTES)) {
            pages.start = pages.end.min(pages.start + BATCH_BYTES);
        }
    });
    AHEAD.fetch_add(pages.start.saturating_sub(own_end), Relaxed);
}

/// What is left of the huge pages that a request begins, without those at its start that were backed ahead for it.
fn without_backed(mut pages: Range<usize>) -> Range<usize> {
    for page in pages.clone().step_by(HUGE_BYTES) {
        if AHEAD.load(Relaxed) == 0 {
            break;
        }
        if system::keeping_errno(|| system::is_there(page)) {
            lower(&AHEAD, HUGE_BYTES);
            pages.start += if page == pages.start { HUGE_BYTES } else { 0 };
        }
    }
    pages
}

/// Bytes that may be backed ahead from `start` on, of what is free there.
fn ahead(end: usize, start: usize, used: usize) -> usize {
    let allowed = AHEAD_BYTES_MAX.min(used / AHEAD_PART).saturating_sub(AHEAD.load(Relaxed));
    allowed.min(end.saturating_sub(start)) / HUGE_BYTES * HUGE_BYTES
}

/// Another file is filled from now on, so nothing of it was backed.
pub fn forget_ahead() {
    AHEAD.store(0, Relaxed);
}

/// The huge pages that begin in a request and are worth it.
fn worth_it(fresh: &Range<usize>, room: usize) -> Range<usize> {
    let start = fresh.start.next_multiple_of(HUGE_BYTES);
    let used = fresh.end.saturating_sub(start);
    let is_shared = room > 0 && fresh.len() < ALIGNED_FROM_BYTES;
    let spare = if is_shared { HUGE_BYTES - 1 } else { HUGE_BYTES / 2 };
    start..start + (used + spare) / HUGE_BYTES * HUGE_BYTES
}

/// Whether so many huge pages are worth a call.
fn saves_more_than_it_waits(pages: u32) -> bool {
    WAIT_US.load(Relaxed) <= pages.saturating_mul(SAVED_US)
}

/// The last call's wait is remembered a little less.
fn fade() {
    let wait = WAIT_US.load(Relaxed);
    WAIT_US.store(wait - wait.div_ceil(32), Relaxed);
}

fn count(pages: &Range<usize>) -> u32 {
    u32::try_from(pages.len() / HUGE_BYTES).unwrap_or(u32::MAX)
}

/// `false`: do not go on.
fn back_some(pages: Range<usize>) -> bool {
    // There must be a page to start from in each.
    if !pages.clone().step_by(HUGE_BYTES).all(|at| system::advise(at, PAGE_BYTES, MADV_POPULATE_WRITE)) {
        return false;
    }
    let started = Instant::now();
    let done = system::advise(pages.start, pages.len(), MADV_COLLAPSE);
    let took = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
    WAIT_US.store(took.saturating_sub(COST_US * count(&pages)).min(WAIT_US_MAX), Relaxed);
    if done {
        REFUSALS.store(0, Relaxed);
        BACKED.fetch_add(pages.len() as u64, Relaxed);
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
