//! The pure part: which units are used, which are free, and where a request fits. No pointers, no system calls, no clock.
//!
//! A *unit* is a fixed piece of a generation (its size does not matter here), named by its index. Units form *runs*: used
//! blocks and free runs. What is known about a run stands at its first unit, and for free runs also at the last one, so that
//! a neighbour is found in one step:
//!
//! ```text
//!            head            last                 head (one unit long)
//! free run   Clean|Dirty, n  Tail, n      ...     Clean|Dirty, 1
//! used block Block|Map, n    Inner
//! ```
//!
//! *Clean* runs read as zeros and hold no memory; *dirty* ones hold bytes of an earlier owner, and memory.
//! Units are handed to shards in chunks; a shard changes only units of its own chunks, under its own lock. Fields are relaxed
//! atomics (plain loads and stores on every machine we know) because a neighbour may belong to another shard: its units may be
//! looked at, and are then found to be foreign by `owners`, which never changes while a generation lives.
//!
//! Invariants (`tests.rs` checks them against a naive model): runs never overlap; no two free runs of the same state and the
//! same shard touch; a free run is in exactly the list of its size; `dirty units` is the sum over dirty runs.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// Units in a chunk, the smallest piece that a shard takes: 64 MiB of 64 KiB units.
pub const CHUNK_UNITS: u32 = 1024;
/// Four lists per power of two, up to 2^23 units.
const BINS: usize = 96;
/// How many runs of the first list, whose runs may be too small, are looked at.
const TRIES: u32 = 16;

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing is known here: the inside of a run, or never used.
    Inner = 0,
    /// The last unit of a free run of two or more.
    Tail = 1,
    /// A free run that reads as zeros.
    Clean = 2,
    /// A free run that holds old bytes.
    Dirty = 3,
    /// A block of the malloc family.
    Block = 4,
    /// A block of the mmap family.
    Map = 5,
    /// A block that is being given back: no longer the user's, not yet free.
    Leaving = 6,
}

impl Kind {
    fn from(tag: u32) -> Self {
        match tag & KIND {
            1 => Self::Tail,
            2 => Self::Clean,
            3 => Self::Dirty,
            4 => Self::Block,
            5 => Self::Map,
            6 => Self::Leaving,
            _ => Self::Inner,
        }
    }

    /// Whether this is the head of a free run.
    #[must_use]
    pub fn is_free(self) -> bool {
        matches!(self, Self::Clean | Self::Dirty)
    }

    /// Whether this is the head of a block, also of one that is being given back.
    #[must_use]
    pub fn is_used(self) -> bool {
        matches!(self, Self::Block | Self::Map | Self::Leaving)
    }
}

const KIND: u32 = 0xff;
/// At the head of a map: how many of its first pages were unmapped, less than a unit of them.
const LEAD_SHIFT: u32 = 16;
/// The pages of this unit no longer show the memory file (something else was mapped over them).
const REPLACED: u32 = 0x100;

/// What is known about one unit. All zeros: an inner unit.
#[derive(Debug, Default)]
pub struct Unit {
    tag: AtomicU32,
    /// Length of the run, at its head and at a free run's last unit.
    length: AtomicU32,
    /// Free: next run of the list, plus one. Used: requested bytes, low half.
    low: AtomicU32,
    /// Free: previous run of the list, plus one. Used: requested bytes, high half.
    high: AtomicU32,
}

impl Unit {
    /// What the unit is.
    pub fn kind(&self) -> Kind {
        Kind::from(self.tag.load(Relaxed))
    }

    /// Units of the run, at its head.
    pub fn length(&self) -> u32 {
        self.length.load(Relaxed)
    }

    /// Changes the units of the run, at its head.
    pub fn set_length(&self, length: u32) {
        self.length.store(length, Relaxed);
    }

    /// Bytes that the owner asked for, at the head of a block.
    pub fn requested(&self) -> u64 {
        u64::from(self.low.load(Relaxed)) | u64::from(self.high.load(Relaxed)) << 32
    }

    /// Changes the bytes that the owner asked for, at the head of a block.
    pub fn set_requested(&self, bytes: u64) {
        self.low.store(bytes as u32, Relaxed);
        self.high.store((bytes >> 32) as u32, Relaxed);
    }

    /// Pages at the start of a map that were unmapped before the rest.
    pub fn lead(&self) -> u32 {
        self.tag.load(Relaxed) >> LEAD_SHIFT
    }

    /// Changes how many of a map's first pages were unmapped.
    pub fn set_lead(&self, pages: u32) {
        self.tag.store(self.tag.load(Relaxed) & (KIND | REPLACED) | pages << LEAD_SHIFT, Relaxed);
    }

    /// Makes this unit the head of a block.
    pub fn set_used(&self, kind: Kind, length: u32, requested: u64) {
        self.tag.store(self.tag.load(Relaxed) & REPLACED | kind as u32, Relaxed);
        self.length.store(length, Relaxed);
        self.set_requested(requested);
    }

    /// Forgets what the unit was.
    pub fn set_inner(&self) {
        self.set_kind(Kind::Inner);
    }

    /// Changes the kind alone.
    pub fn set_kind(&self, kind: Kind) {
        self.tag.store(self.tag.load(Relaxed) & REPLACED | kind as u32, Relaxed);
    }

    /// Whether something else was mapped over this unit.
    pub fn is_replaced(&self) -> bool {
        self.tag.load(Relaxed) & REPLACED != 0
    }

    /// Notes whether something else was mapped over this unit.
    pub fn set_replaced(&self, replaced: bool) {
        let flag = if replaced { REPLACED } else { 0 };
        self.tag.store(self.tag.load(Relaxed) & !REPLACED | flag, Relaxed);
    }
}

/// The heads of one shard's lists of free runs, in the current generation.
#[derive(Debug)]
pub struct Lists {
    /// By state (clean, dirty), then by size: the first run, plus one.
    heads: [[u32; BINS]; 2],
    /// By state: which lists have a run.
    filled: [u128; 2],
}

impl Lists {
    /// No free run at all.
    pub const EMPTY: Self = Self { heads: [[0; BINS]; 2], filled: [0; 2] };
}

/// A free run that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its first unit.
    pub start: u32,
    /// What its units were.
    pub dirty: bool,
}

/// The runs of one shard in one generation.
pub struct Runs<'a> {
    units: &'a [Unit],
    owners: &'a [AtomicU8],
    lists: &'a mut Lists,
    shard: u8,
}

impl<'a> Runs<'a> {
    /// `units`: all that were handed out so far, to any shard; `owners`: the shard of each chunk of them.
    pub fn new(units: &'a [Unit], owners: &'a [AtomicU8], lists: &'a mut Lists, shard: u8) -> Self {
        Self { units, owners, lists, shard }
    }

    /// Takes `length` units, the first one a multiple of `alignment` (a power of two), out of the smallest run that fits.
    /// They are the caller's now, without a head.
    pub fn take(&mut self, dirty: bool, length: u32, alignment: u32) -> Option<Taken> {
        let start = self.fit(dirty, length, alignment)?;
        let aligned = start.next_multiple_of(alignment);
        let whole = self.remove(start);
        self.add(start, aligned - start, dirty);
        self.add(aligned + length, start + whole - aligned - length, dirty);
        Some(Taken { start: aligned, dirty })
    }

    fn fit(&self, dirty: bool, length: u32, alignment: u32) -> Option<u32> {
        let mut bins = self.lists.filled[usize::from(dirty)] >> bin(length) << bin(length);
        while bins != 0 {
            let mut next = self.lists.heads[usize::from(dirty)][bins.trailing_zeros() as usize];
            for _ in 0..TRIES {
                let Some(start) = next.checked_sub(1) else { break };
                let unit = &self.units[start as usize];
                if start.next_multiple_of(alignment) - start + length <= unit.length() {
                    return Some(start);
                }
                next = unit.low.load(Relaxed);
            }
            bins &= bins - 1;
        }
        None
    }

    /// Gives `length` units back. Neighbours of the same state and shard become one run with them.
    pub fn give(&mut self, mut start: u32, mut length: u32, dirty: bool) {
        if length == 0 {
            return;
        }
        self.units[start as usize].set_inner();
        let state = state(dirty);
        if let Some(behind) = self.run_at(start + length).filter(|&(kind, _)| kind == state) {
            self.remove(start + length);
            length += behind.1;
        }
        if let Some(before) = self.run_before(start).filter(|&head| self.units[head as usize].kind() == state) {
            length += self.remove(before);
            start = before;
        }
        self.add(start, length, dirty);
    }

    /// Takes `more` units right behind a block that ends at `end`, if they are free.
    /// Returns how many of them were dirty.
    pub fn extend(&mut self, end: u32, more: u32) -> Option<u32> {
        let mut room = 0;
        while room < more {
            room += self.run_at(end + room)?.1;
        }
        let mut dirty_units = 0;
        let mut at = end;
        while at < end + more {
            let dirty = self.units[at as usize].kind() == Kind::Dirty;
            let length = self.remove(at);
            let rest = (at + length).saturating_sub(end + more);
            self.add(at + length - rest, rest, dirty);
            dirty_units += if dirty { length - rest } else { 0 };
            at += length;
        }
        Some(dirty_units)
    }

    /// Takes the units of `start..start + length` that are free, and calls `claimed` with each run of them.
    pub fn claim(&mut self, start: u32, length: u32, mut claimed: impl FnMut(u32, u32, bool)) {
        let end = start + length;
        let mut at = start;
        while at < end {
            let Some(head) = head_of(self.units, at).filter(|_| self.is_own(at)) else {
                at += 1;
                continue;
            };
            if !self.units[head as usize].kind().is_free() {
                at = head + self.units[head as usize].length();
                continue;
            }
            let dirty = self.units[head as usize].kind() == Kind::Dirty;
            let run_end = head + self.remove(head);
            let until = run_end.min(end);
            self.add(head, at - head, dirty);
            self.add(until, run_end - until, dirty);
            claimed(at, until - at, dirty);
            at = until;
        }
    }

    /// Turns one dirty run into a clean one, once `punch` has emptied it. `false`: there is no dirty run left.
    pub fn clean_one(&mut self, punch: impl FnOnce(u32, u32) -> bool) -> bool {
        let bins = self.lists.filled[1];
        if bins == 0 {
            return false;
        }
        let start = self.lists.heads[1][bins.trailing_zeros() as usize] - 1;
        let length = self.units[start as usize].length();
        if !punch(start, length) {
            return false;
        }
        self.remove(start);
        self.give(start, length, false);
        true
    }

    /// Units of the clean run of this shard that begins at `start`; 0 if none does.
    pub fn clean_at(&self, start: u32) -> u32 {
        self.run_at(start).filter(|&(kind, _)| kind == Kind::Clean).map_or(0, |(_, length)| length)
    }

    fn is_own(&self, unit: u32) -> bool {
        (unit as usize) < self.units.len() && self.owners[(unit / CHUNK_UNITS) as usize].load(Relaxed) == self.shard
    }

    /// The free run of this shard that begins at `start`.
    fn run_at(&self, start: u32) -> Option<(Kind, u32)> {
        let unit = self.is_own(start).then(|| &self.units[start as usize])?;
        unit.kind().is_free().then(|| (unit.kind(), unit.length()))
    }

    /// The head of the free run of this shard that ends before `start`.
    fn run_before(&self, start: u32) -> Option<u32> {
        let last = start.checked_sub(1).filter(|&last| self.is_own(last))?;
        let unit = &self.units[last as usize];
        match unit.kind() {
            Kind::Clean | Kind::Dirty => Some(last),
            Kind::Tail => Some(start - unit.length()),
            _ => None,
        }
    }

    fn add(&mut self, start: u32, length: u32, dirty: bool) {
        if length == 0 {
            return;
        }
        let list = &mut self.lists.heads[usize::from(dirty)][bin(length)];
        let unit = &self.units[start as usize];
        unit.length.store(length, Relaxed);
        unit.low.store(*list, Relaxed);
        unit.high.store(0, Relaxed);
        if let Some(next) = list.checked_sub(1) {
            self.units[next as usize].high.store(start + 1, Relaxed);
        }
        *list = start + 1;
        self.lists.filled[usize::from(dirty)] |= 1 << bin(length);
        if length > 1 {
            let tail = &self.units[(start + length - 1) as usize];
            tail.set_kind(Kind::Tail);
            tail.length.store(length, Relaxed);
        }
        unit.set_kind(state(dirty));
    }

    /// Takes the run at `start` out of its list; returns its length.
    fn remove(&mut self, start: u32) -> u32 {
        let unit = &self.units[start as usize];
        let length = unit.length();
        let dirty = usize::from(unit.kind() == Kind::Dirty);
        let (next, previous) = (unit.low.load(Relaxed), unit.high.load(Relaxed));
        match previous.checked_sub(1) {
            Some(previous) => self.units[previous as usize].low.store(next, Relaxed),
            None => {
                self.lists.heads[dirty][bin(length)] = next;
                if next == 0 {
                    self.lists.filled[dirty] &= !(1 << bin(length));
                }
            }
        }
        if let Some(next) = next.checked_sub(1) {
            self.units[next as usize].high.store(previous, Relaxed);
        }
        unit.set_inner();
        self.units[(start + length - 1) as usize].set_inner();
        length
    }

    /// Every free run in the lists, for tests: first unit, length, state.
    #[cfg(test)]
    pub fn listed(&self) -> Vec<(u32, u32, bool)> {
        let mut found = Vec::new();
        for dirty in [false, true] {
            for (index, &head) in self.lists.heads[usize::from(dirty)].iter().enumerate() {
                assert_eq!(self.lists.filled[usize::from(dirty)] >> index & 1 == 1, head != 0);
                let mut next = head;
                while let Some(start) = next.checked_sub(1) {
                    let unit = &self.units[start as usize];
                    assert_eq!((bin(unit.length()), unit.kind()), (index, state(dirty)));
                    found.push((start, unit.length(), dirty));
                    next = unit.low.load(Relaxed);
                }
            }
        }
        found.sort_unstable();
        found
    }
}

/// The head of the run or block that has unit `at`. A walk backwards, of at most the run's length.
pub fn head_of(units: &[Unit], at: u32) -> Option<u32> {
    let head = (0..=at).rev().find(|&unit| {
        let kind = units[unit as usize].kind();
        kind.is_free() || kind.is_used() || (kind == Kind::Tail && unit < at)
    })?;
    (units[head as usize].kind() != Kind::Tail && at - head < units[head as usize].length()).then_some(head)
}

fn state(dirty: bool) -> Kind {
    if dirty { Kind::Dirty } else { Kind::Clean }
}

/// The list for runs of `length` units: every run of a later list is longer.
fn bin(length: u32) -> usize {
    let power = length.ilog2();
    if power < 2 { length as usize } else { ((power << 2) as usize) + (length >> (power - 2) & 3) as usize - 4 }
}
