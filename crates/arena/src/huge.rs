//! Huge pages for fresh memory, whatever the host's setting for shared memory says.
//!
//! Most hosts forbid huge pages in memory files (`shmem_enabled` is `never`), so a file would be filled with pages of 4 KiB:
//! 262,144 faults per GiB for its writer, as many page table entries to take down when it exits, to look at when the file is
//! sealed, and to set up again in each reader. `MADV_COLLAPSE` (Linux 6.1) is not bound by that setting: where one page of
//! 2 MiB is there, it makes the whole a huge page. Measured on 4 KiB pages against this, per GiB: filling 850 against 105 ms,
//! exit 45 against 0.3, seal 10 against 0.1, a reader's first look at each page 90 against 4 (`docs/decisions`).
//!
//! The kernel may wait for the other processors in each call: 0.1 ms per huge page as a rule, but in some states a tick (4 ms) per
//! call, which is more than the small pages cost that it saves. So a block is one call, and after a slow call the next
//! requests go without, for twice as many after each slow one.
//!
//! Invariants: only ever speed and memory change, never contents: collapsing keeps the bytes, also under concurrent writers.
//! A kernel that does not know it, or has no huge page to give, is not asked for ever.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::system::{self, PAGE_BYTES};

/// Bytes of a huge page.
pub const HUGE_BYTES: usize = 2 << 20;
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_COLLAPSE: i32 = 25;
/// After so many refusals in a row the kernel is not asked again.
const PATIENCE: u32 = 16;

/// Most that is asked for in one call: nothing interrupts it.
const BATCH_BYTES: usize = 32 * HUGE_BYTES;
/// A call that takes longer than this and what its pages may take was slow.
const CALL: Duration = Duration::from_millis(1);
/// What filling 2 MiB by small pages costs.
const SMALL_PAGES: Duration = Duration::from_micros(850);
/// Most requests that go without after a slow call.
const DETOUR_MAX: u32 = 256;

/// Requests that go without before the kernel is asked again, and how many it will be after the next slow call.
static DETOUR: AtomicU32 = AtomicU32::new(0);
static DETOUR_NEXT: AtomicU32 = AtomicU32::new(1);
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
    let pages = worth_it(&fresh);
    if pages.is_empty() || is_on_a_detour() {
        return;
    }
    system::keeping_errno(|| {
        let mut rest = pages.clone();
        while !rest.is_empty() && back_some(rest.start..rest.end.min(rest.start + BATCH_BYTES)) {
            rest.start += BATCH_BYTES;
        }
    });
}

/// The huge pages that begin in a request and are worth it.
fn worth_it(fresh: &Range<usize>) -> Range<usize> {
    let start = fresh.start.next_multiple_of(HUGE_BYTES);
    let used = fresh.end.saturating_sub(start);
    let spare = if fresh.len() < HUGE_BYTES { HUGE_BYTES - 1 } else { HUGE_BYTES / 2 };
    start..start + (used + spare) / HUGE_BYTES * HUGE_BYTES
}

/// Whether this request goes without. Counts it.
fn is_on_a_detour() -> bool {
    DETOUR.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// `false`: do not go on.
fn back_some(pages: Range<usize>) -> bool {
    // There must be a page to start from in each.
    if !pages.clone().step_by(HUGE_BYTES).all(|at| system::advise(at, PAGE_BYTES, MADV_POPULATE_WRITE)) {
        return false;
    }
    let started = Instant::now();
    let done = system::advise(pages.start, pages.len(), MADV_COLLAPSE);
    let is_slow = started.elapsed() > CALL + SMALL_PAGES * u32::try_from(pages.len() / HUGE_BYTES).unwrap_or(u32::MAX);
    let next = DETOUR_NEXT.load(Relaxed);
    DETOUR_NEXT.store(if is_slow { (2 * next).min(DETOUR_MAX) } else { 1 }, Relaxed);
    DETOUR.store(if is_slow { next } else { 0 }, Relaxed);
    if done {
        REFUSALS.store(0, Relaxed);
        BACKED.fetch_add(pages.len() as u64, Relaxed);
        return !is_slow;
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
