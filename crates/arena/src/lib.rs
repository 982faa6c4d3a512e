//! The arena: an allocator whose large blocks are born in a shareable memory file.
//!
//! What a function returns is already where others can map it: nothing is copied to hand it over. Blocks from 64 KiB and
//! anonymous maps from 2 MiB lie in one sparse memory file per *generation*; an address becomes (generation, offset) by
//! arithmetic. Everything else, and everything when the host does not allow this, passes through to libc and the kernel.
//!
//! Two faces of one implementation: the preload library (`crates/preload`) for Python functions, and [`Allocator`] as
//! `#[global_allocator]` of our own executors. [`of_process`] finds whichever there is.
//!
//! ```text
//! Allocator / malloc family ──> heap ──> units (pure: runs and lists)       fork: freeze before, thaw after
//! mmap family ──> maps ──────────┘ └───> space: addresses, generations, files    face: find, descriptor
//! ```
//!
//! Invariants: nothing here allocates from the heap, takes a lock of `std` or panics in ordinary use (it runs inside `malloc`);
//! pages of a file hold only what users wrote; after a fork neither side sees what the other writes; failure means passing a
//! request through, never an error, except for the limit, which is answered with "no memory".
//!
//! `unsafe` is allowed in this crate: it hands out raw memory and moves mappings under it.

#![allow(unsafe_code)]

mod face;
mod fork;
mod heap;
mod huge;
mod lock;
pub mod maps;
mod pagemap;
mod protections;
mod space;
mod statistics;
mod system;
#[cfg(test)]
mod tests;
mod units;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

pub use face::{Arena, Face, Found, SYMBOL, VERSION, of_process};
pub use fork::{can_fork, child, parent, prepare};
pub use heap::{Request, Served, allocate, free, reallocate, requested};
pub use huge::gives_huge_pages;
pub use space::{is_ours, reserved_bytes, windows};
pub use statistics::Statistics;
pub use system::{errno, keeping_errno, set_errno};
pub use units::Kind;

/// How the arena behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Blocks from this size on are the arena's.
    pub min_bytes: usize,
    /// Anonymous maps from this size on are the arena's (preload library only).
    pub map_min_bytes: usize,
    /// Memory of freed blocks that is kept for the next request.
    pub keep_bytes: usize,
    /// Memory that the arena may hold; beyond it requests are refused. `usize::MAX`: no limit.
    pub limit_bytes: usize,
}

impl Default for Settings {
    /// Without a limit.
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

impl Settings {
    /// The usual ones, for a limit: blocks from 64 KiB (smaller ones are 1 % of the bytes of tables, measured over five
    /// libraries), maps from 2 MiB (so Python's own 1 MiB arenas stay out), and an eighth of the limit, up to 1 GiB, is kept.
    #[must_use]
    pub fn within(limit_bytes: usize) -> Self {
        Self { min_bytes: 64 << 10, map_min_bytes: 2 << 20, keep_bytes: (limit_bytes / 8).min(1 << 30), limit_bytes }
    }
}

/// Smallest blocks and maps that are the arena's; `usize::MAX` until started.
static MIN_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);
static MAP_MIN_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);
static PHASE: AtomicU32 = AtomicU32::new(UNTRIED);
const UNTRIED: u32 = 0;
const STARTING: u32 = 1;
const STARTED: u32 = 2;
const FORBIDDEN: u32 = 3;

/// Switches the arena of this process on. Only the first call counts. `false`: the host forbids it (no addresses, say), and
/// everything passes through.
pub fn start(settings: &Settings) -> bool {
    if PHASE.compare_exchange(UNTRIED, STARTING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return is_started();
    }
    if !space::reserve() {
        PHASE.store(FORBIDDEN, Ordering::Release);
        return false;
    }
    fork::install();
    heap::KEEP_BYTES.store(settings.keep_bytes, Ordering::Relaxed);
    heap::LIMIT_BYTES.store(settings.limit_bytes, Ordering::Relaxed);
    MIN_BYTES.store(settings.min_bytes, Ordering::Release);
    MAP_MIN_BYTES.store(settings.map_min_bytes.max(1), Ordering::Release);
    PHASE.store(STARTED, Ordering::Release);
    true
}

/// Whether the arena was started.
#[must_use]
pub fn is_started() -> bool {
    PHASE.load(Ordering::Acquire) == STARTED
}

/// Whether a block of so many bytes is the arena's.
#[inline]
#[must_use]
pub fn takes_block(bytes: usize) -> bool {
    bytes >= MIN_BYTES.load(Ordering::Relaxed)
}

/// Whether an anonymous map of so many bytes is the arena's.
#[inline]
#[must_use]
pub fn takes_map(bytes: usize) -> bool {
    bytes >= MAP_MIN_BYTES.load(Ordering::Relaxed)
}

/// Whether a descriptor is one that the arena needs. Asks no kernel: safe anywhere.
#[must_use]
pub fn needs_descriptor(file: i32) -> bool {
    file >= 0
        && (fork::witness() == Some(file) || space::generations().any(|(_, generation)| generation.descriptor() == Some(file)))
}

/// The descriptors that the arena needs, in ascending order.
pub fn descriptors() -> impl Iterator<Item = u32> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let ours = || space::generations().filter_map(|(_, generation)| generation.descriptor()).chain(fork::witness());
        let next = ours().map(|file| file as u32).filter(|&file| file >= from).min()?;
        from = next + 1;
        Some(next)
    })
}

/// A block of the malloc family.
#[must_use]
pub fn allocate_block(bytes: usize, alignment: usize, zeroed: bool) -> Served {
    allocate(Request { bytes, alignment, zeroed, kind: Kind::Block, growing: false, reserved: false })
}

/// The allocator of our own programs: large blocks in the arena once it was started, all others in libc.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

// SAFETY: every block comes from the arena or from `System`, and goes back to where its address says it came from. Blocks of the
// arena are aligned to 64 KiB or to what was asked for, span what was asked for, and belong to nobody else until freed.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match serve(layout, false) {
            Served::At(address) => address as *mut u8,
            Served::Refused => std::ptr::null_mut(),
            // SAFETY: the caller's promise is passed on.
            Served::Elsewhere => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match serve(layout, true) {
            Served::At(address) => address as *mut u8,
            Served::Refused => std::ptr::null_mut(),
            // SAFETY: the caller's promise is passed on.
            Served::Elsewhere => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_ours(block as usize) {
            free(block as usize);
        } else {
            // SAFETY: the block is not the arena's, so it is of `System`.
            unsafe { System.dealloc(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let ours = is_ours(block as usize);
        if !ours && !takes_block(size) {
            // SAFETY: the block is of `System`, and stays there.
            return unsafe { System.realloc(block, layout, size) };
        }
        if ours && takes_block(size) {
            match reallocate(block as usize, size, layout.align()) {
                Served::At(address) => return address as *mut u8,
                Served::Refused => return std::ptr::null_mut(),
                Served::Elsewhere => {}
            }
        }
        // SAFETY: the block moves between the two allocators: a new one is made, as much as fits is copied, the old one goes.
        // `size` is a valid one for this alignment, as the caller promised.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[inline]
fn serve(layout: Layout, zeroed: bool) -> Served {
    if takes_block(layout.size()) { allocate_block(layout.size(), layout.align(), zeroed) } else { Served::Elsewhere }
}
