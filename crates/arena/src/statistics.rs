//! What the arena did, as numbers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::space;

/// Counters and gauges of this process's arena. Bytes of blocks count whole units of 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// Bytes of blocks that are in use: malloc family and maps (reservations included).
    pub live_bytes: u64,
    /// Bytes of freed blocks that are kept, with their memory, for the next request.
    pub dirty_bytes: u64,
    /// Bytes of memory that the memory files hold.
    pub held_bytes: u64,
    /// Blocks given out by the malloc family.
    pub allocations: u64,
    /// Those of them that came from memory of freed blocks.
    pub recycled: u64,
    /// Blocks given out by the mmap family.
    pub maps: u64,
    /// Bytes whose memory was given back to the host.
    pub punched_bytes: u64,
    /// Blocks that grew or shrank where they are.
    pub in_place: u64,
    /// Times that a generation became private, before a fork.
    pub freezes: u64,
    /// Times that a frozen generation became shared again.
    pub thaws: u64,
    /// Generations opened.
    pub generations: u64,
    /// Requests refused because of the limit.
    pub refused: u64,
    /// Bytes of fresh memory that came in huge pages.
    pub huge_bytes: u64,
    /// Large requests that the arena could not serve, and left to the host's allocator or kernel.
    pub passed_through: u64,
    /// Bytes of blocks that were freed after a fork and are kept because a forked process may still see them.
    pub stale_bytes: u64,
}

pub struct Counters {
    pub live: AtomicUsize,
    pub dirty: AtomicUsize,
    pub stale: AtomicUsize,
    pub allocations: AtomicU64,
    pub recycled: AtomicU64,
    pub maps: AtomicU64,
    pub punched: AtomicU64,
    pub in_place: AtomicU64,
    pub freezes: AtomicU64,
    pub thaws: AtomicU64,
    pub generations: AtomicU64,
    pub refused: AtomicU64,
    pub passed_through: AtomicU64,
}

pub static COUNTERS: Counters = Counters {
    live: AtomicUsize::new(0),
    dirty: AtomicUsize::new(0),
    stale: AtomicUsize::new(0),
    allocations: AtomicU64::new(0),
    recycled: AtomicU64::new(0),
    maps: AtomicU64::new(0),
    punched: AtomicU64::new(0),
    in_place: AtomicU64::new(0),
    freezes: AtomicU64::new(0),
    thaws: AtomicU64::new(0),
    generations: AtomicU64::new(0),
    refused: AtomicU64::new(0),
    passed_through: AtomicU64::new(0),
};

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Takes from a gauge, not below zero: a forked child starts from zero and frees what it inherited.
pub fn lower(gauge: &AtomicUsize, bytes: usize) {
    let _ = gauge.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(bytes)));
}

/// Bytes that the memory files of this process hold.
pub fn held_bytes() -> u64 {
    space::generations().filter_map(|(_, generation)| generation.examine()).map(|(_, held)| held).sum()
}

pub fn statistics() -> Statistics {
    Statistics {
        live_bytes: COUNTERS.live.load(Relaxed) as u64,
        dirty_bytes: COUNTERS.dirty.load(Relaxed) as u64,
        held_bytes: held_bytes(),
        allocations: COUNTERS.allocations.load(Relaxed),
        recycled: COUNTERS.recycled.load(Relaxed),
        maps: COUNTERS.maps.load(Relaxed),
        punched_bytes: COUNTERS.punched.load(Relaxed),
        in_place: COUNTERS.in_place.load(Relaxed),
        freezes: COUNTERS.freezes.load(Relaxed),
        thaws: COUNTERS.thaws.load(Relaxed),
        generations: COUNTERS.generations.load(Relaxed),
        refused: COUNTERS.refused.load(Relaxed),
        huge_bytes: crate::huge::BACKED.load(Relaxed),
        passed_through: COUNTERS.passed_through.load(Relaxed),
        stale_bytes: COUNTERS.stale.load(Relaxed) as u64,
    }
}
