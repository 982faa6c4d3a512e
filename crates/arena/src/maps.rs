//! The mmap family over blocks: what `mmap`, `munmap`, `mremap`, `mprotect` and `madvise` mean for addresses of ours.
//!
//! Allocators inside libraries (jemalloc, mimalloc) take their memory with `mmap`. They rely on details, kept here: fresh pages
//! and pages after `MADV_DONTNEED` read as zeros; parts of a map can be unmapped; `MAP_FIXED` replaces what was there.
//! An address of ours is never really unmapped: its block becomes free.
//!
//! Where something else stands over our addresses (a file mapped with `MAP_FIXED`, zeros in a frozen window), the units are
//! marked as *replaced*: they are not the file's any more, for `find` and for a thaw.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use crate::heap::{self, Given, Request, Served, punch};
use crate::protections::Piece;
use crate::space::{self, State, UNIT_BYTES, units_for};
use crate::system::{self, PAGE_BYTES, READ_WRITE};
use crate::units::{Kind, head_of};

const MADV_POPULATE_WRITE: i32 = 23;
const MADV_DONTNEED_LOCKED: i32 = 24;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Serves an anonymous private map of so many bytes.
pub fn map(bytes: usize, protection: i32, populate: bool) -> Served {
    let Some(bytes) = bytes.checked_next_multiple_of(PAGE_BYTES) else { return Served::Elsewhere };
    let served = heap::allocate(Request {
        bytes,
        alignment: 1,
        zeroed: true,
        kind: Kind::Map,
        growing: false,
        reserved: protection == libc::PROT_NONE,
    });
    if let Served::At(at) = served {
        if protection != READ_WRITE {
            protect(at, bytes, protection);
        } else if populate {
            system::advise(at, bytes, MADV_POPULATE_WRITE);
        }
    }
    served
}

/// `mprotect`. Remembers that a generation has such pages.
pub fn protect(address: usize, bytes: usize, protection: i32) -> bool {
    if protection != READ_WRITE {
        for_each_generation(address..address.saturating_add(bytes), |index, _| {
            space::generation(index).protected.store(true, Relaxed);
        });
    }
    system::protect(address, bytes, protection)
}

/// `munmap` of addresses of ours, of any part of any maps.
pub fn unmap(range: Range<usize>) {
    for_each_generation(range, |index, range| {
        let mut at = range.start;
        while at < range.end {
            at = unmap_block(index, at, range.end);
        }
    });
}

/// Unmaps what of `at..end` belongs to the block at `at`; returns where to go on.
fn unmap_block(index: u32, at: usize, end: usize) -> usize {
    let base = space::address_of(index, 0);
    let unit = ((at - base) / UNIT_BYTES) as u32;
    if unit >= space::generation(index).top() {
        return end;
    }
    let owner = space::generation(index).owner(unit);
    let shard = space::shard(owner).lock();
    let units = space::units(index);
    let head = head_of(units, unit).filter(|&head| units[head as usize].kind() == Kind::Map);
    let Some(head) = head else { return space::address_of(index, unit + 1) };
    let block = &units[head as usize];
    let (length, start) = (block.length(), space::address_of(index, head));
    let first = start + block.lead() as usize * PAGE_BYTES;
    let last = start + block.requested() as usize;
    let next = (start + length as usize * UNIT_BYTES).min(end);
    let (at, end) = (at.max(first), end.min(last));
    if at >= end {
        return next;
    }
    // Whole units become free; pages of a unit that stays are emptied, and the block is told where it now begins or ends.
    let from = if at == first { head } else { units_for(at - base) };
    let to = if end == last { head + length } else { ((end - base) / UNIT_BYTES) as u32 };
    if from >= to {
        if at == first {
            block.set_lead(((end - start) / PAGE_BYTES) as u32);
        } else if end == last {
            block.set_requested((at - start) as u64);
        }
        empty(index, at..end);
        return next;
    }
    let (after, before) = (space::address_of(index, from), space::address_of(index, to));
    if to < head + length {
        units[to as usize].set_used(Kind::Map, head + length - to, (last - before) as u64);
        units[to as usize].set_lead(((end - before) / PAGE_BYTES) as u32);
        empty(index, before..end);
    }
    if from > head {
        block.set_length(from - head);
        block.set_requested((at - start) as u64);
        empty(index, at..after);
    }
    restore(index, from, to - from);
    let touched = units_for(last - base).min(to).saturating_sub(from);
    heap::give_back(Given { index, owner, unit: from, length: to - from, touched, keep: false }, shard);
    next
}

/// Gives the memory of pages back, without caring what they read as.
fn empty(index: u32, pages: Range<usize>) {
    if pages.is_empty() {
        return;
    }
    let this = space::generation(index);
    let shared = this.state() == State::Shared;
    this.protections(pages.clone()).each(pages, |Piece { pages, is_ours, .. }| {
        if !is_ours {
            // Not to be emptied: it may be somebody's file.
            system::reserve(pages.start, pages.len());
        } else if shared {
            punch(pages.start, pages.len());
        } else {
            system::advise(pages.start, pages.len(), libc::MADV_DONTNEED);
        }
    });
}

/// Makes units what they were when they were born: pages of the file, readable and writable. The owner's lock is held.
fn restore(index: u32, unit: u32, length: u32) {
    let this = space::generation(index);
    let (at, bytes) = (space::address_of(index, unit), length as usize * UNIT_BYTES);
    let units = &space::units(index)[unit as usize..(unit + length) as usize];
    let replaced = this.replaced.load(Relaxed) && units.iter().any(crate::units::Unit::is_replaced);
    if replaced && this.state() != State::Shared {
        // The file is not to be seen here again while the generation is frozen.
        system::reserve(at, bytes);
    } else if replaced {
        if !this.file().is_some_and(|file| space::share_part(index, file, at - space::address_of(index, 0), bytes)) {
            system::give_up("forebay: the descriptor of the memory arena was closed or reused\n");
        }
        units.iter().for_each(|unit| unit.set_replaced(false));
    } else if this.protected.load(Relaxed) && this.state() == State::Shared {
        system::protect(at, bytes, READ_WRITE);
    }
}

/// What `mmap` with `MAP_FIXED` at addresses of ours is to do.
pub enum Fixed {
    /// It is done: the pages are zeros, and still the file's.
    Done,
    /// The kernel does it; the units are marked as replaced.
    Kernel,
}

/// `MAP_FIXED` over addresses of ours. `anonymous`: private zeros, not executable, are wanted.
pub fn fixed(range: Range<usize>, protection: i32, anonymous: bool) -> Fixed {
    let (index, _) = space::locate(range.start);
    let zeros = anonymous && is_within_map(index, &range) && zero(range.clone());
    if zeros
        && (protection == READ_WRITE && !space::generation(index).protected.load(Relaxed)
            || protect(range.start, range.len(), protection))
    {
        return Fixed::Done;
    }
    replace(range);
    Fixed::Kernel
}

/// Whether the range lies in one map, in a shared window, with nothing else over it.
fn is_within_map(index: u32, range: &Range<usize>) -> bool {
    space::generation(index).state() == State::Shared
        && map_over(index, range, |units| units.iter().any(crate::units::Unit::is_replaced)) == Some(false)
}

/// What `asked` says of the units of the range, if it lies in one map.
fn map_over<T>(index: u32, range: &Range<usize>, asked: impl FnOnce(&[crate::units::Unit]) -> T) -> Option<T> {
    let base = space::address_of(index, 0);
    let this = space::generation(index);
    let (first, last) = ((range.start - base) / UNIT_BYTES, (range.end - 1 - base) / UNIT_BYTES);
    if range.is_empty() || last >= this.top() as usize {
        return None;
    }
    let _shard = space::shard(this.owner(first as u32)).lock();
    let units = space::units(index);
    let head = head_of(units, first as u32)?;
    let block = &units[head as usize];
    let within = block.kind() == Kind::Map && last < (head + block.length()) as usize;
    within.then(|| asked(&units[first..=last]))
}

/// Makes pages of a shared window read as zeros. `false`: a fork has frozen it, or its descriptor is not ours any more.
fn zero(range: Range<usize>) -> bool {
    if punch(range.start, range.len()) {
        return true;
    }
    // Pages that may not be written cannot be emptied through the mapping. Any lock keeps a freeze away meanwhile: after it the
    // file is not ours to change.
    let (index, offset) = space::locate(range.start);
    let this = space::generation(index);
    let _shard = space::shard(space::here()).lock();
    this.state() == State::Shared && this.file().is_some_and(|file| system::punch_file(file, offset, range.len()))
}

/// Marks units as replaced, and takes free ones out of circulation: the caller is about to map something over them.
pub fn replace(range: Range<usize>) {
    for_each_generation(range, |index, range| {
        let base = space::address_of(index, 0);
        let this = space::generation(index);
        let first = ((range.start - base) / UNIT_BYTES) as u32;
        let end = units_for(range.end - base).min(this.top());
        this.replaced.store(true, Relaxed);
        let mut at = first;
        while at < end {
            // One chunk at a time: it has one owner.
            let until = (at + 1).next_multiple_of(crate::units::CHUNK_UNITS).min(end);
            let owner = this.owner(at);
            let mut shard = space::shard(owner).lock();
            let units = space::units(index);
            if space::CURRENT.load(Relaxed) == index {
                space::runs(index, owner, &mut shard).claim(at, until - at, |start, length, dirty| {
                    units[start as usize].set_used(Kind::Map, length, length as u64 * UNIT_BYTES as u64);
                    heap::claimed(index, length, dirty);
                });
            }
            units[at as usize..until as usize].iter().for_each(|unit| unit.set_replaced(true));
            at = until;
        }
    });
}

/// `madvise` for addresses of ours; `None`: ask the kernel.
pub fn advise(range: Range<usize>, advice: i32) -> Option<bool> {
    match advice {
        // "May or may not be zeroed": it is not.
        libc::MADV_FREE => Some(true),
        // Each would cut the window into pieces, or does not matter.
        libc::MADV_HUGEPAGE | libc::MADV_NOHUGEPAGE | libc::MADV_DONTFORK | libc::MADV_DOFORK => Some(true),
        libc::MADV_MERGEABLE | libc::MADV_UNMERGEABLE => Some(true),
        // Guard pages would be lost by a freeze: who asks is told that this kernel knows none.
        MADV_GUARD_INSTALL | MADV_GUARD_REMOVE => {
            system::set_errno(libc::EINVAL);
            Some(false)
        }
        libc::MADV_DONTNEED | MADV_DONTNEED_LOCKED => {
            let mut done = true;
            for_each_generation(range, |index, range| done &= dismiss(index, range, advice));
            Some(done)
        }
        _ => None,
    }
}

/// `MADV_DONTNEED`. On a shared mapping the kernel would only forget where the pages are, and the old bytes would come back.
fn dismiss(index: u32, range: Range<usize>, advice: i32) -> bool {
    let this = space::generation(index);
    if this.state() == State::Shared {
        let done = dismiss_shared(index, &range, advice);
        // A fork may have frozen it meanwhile.
        if done || this.state() == State::Shared {
            return done;
        }
    }
    // The kernel would show the file's old bytes.
    let mut protections = this.protections(range.clone());
    replace(range.clone());
    let mut done = true;
    protections.each(range, |Piece { pages, protection, is_ours }| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        done &= if is_ours {
            system::map(pages.start, pages.len(), protection, flags, -1, 0).is_some()
        } else {
            system::advise(pages.start, pages.len(), advice)
        };
    });
    done
}

fn dismiss_shared(index: u32, range: &Range<usize>, advice: i32) -> bool {
    let this = space::generation(index);
    if !this.replaced.load(Relaxed) {
        return zero(range.clone());
    }
    // Piece by piece: what stands over our addresses is the kernel's.
    let mut done = true;
    this.protections(range.clone()).each(range.clone(), |Piece { pages, is_ours, .. }| {
        done &= if is_ours { zero(pages) } else { system::advise(pages.start, pages.len(), advice) };
    });
    done
}

/// `mremap` of a map of ours to another length, without a wish for an address. `Elsewhere`: it cannot be done.
pub fn remap(address: usize, old: usize, new: usize, may_move: bool) -> Served {
    let (Some(old), Some(new)) = (old.checked_next_multiple_of(PAGE_BYTES), new.checked_next_multiple_of(PAGE_BYTES)) else {
        return Served::Elsewhere;
    };
    let (index, _) = space::locate(address);
    if old == 0 || new == 0 || address.checked_add(old).is_none_or(|end| end > space::address_of(index, 0) + space::span_bytes())
    {
        return Served::Elsewhere;
    }
    if new <= old {
        unmap(address + new..address + old);
        return Served::At(address);
    }
    if !may_move {
        return Served::Elsewhere;
    }
    let served = map(new, READ_WRITE, false);
    if let Served::At(to) = served {
        if !move_pages(address..address + old, to, new) {
            unmap(to..to + new);
            return Served::Elsewhere;
        }
        unmap(address..address + old);
    }
    served
}

/// Copies pages of ours to the start of a new map of `length` bytes, apart from them and writable, which then gets their
/// protection. `false`: they are not of one map, or have not all the same protection.
pub fn move_pages(from: Range<usize>, to: usize, length: usize) -> bool {
    let (index, _) = space::locate(from.start);
    if map_over(index, &from, |_| ()).is_none() {
        return false;
    }
    let mut found = None;
    let mut same = true;
    space::generation(index).protections(from.clone()).each(from.clone(), |piece| {
        same &= *found.get_or_insert(piece.protection) == piece.protection;
    });
    let protection = found.unwrap_or(READ_WRITE);
    let readable = protection & libc::PROT_READ != 0;
    if !same || !readable && !system::protect(from.start, from.len(), libc::PROT_READ) {
        return false;
    }
    // SAFETY: the caller owns both maps, the new one is at least as long, and they are apart.
    unsafe { std::ptr::copy_nonoverlapping(from.start as *const u8, to as *mut u8, from.len().min(length)) };
    protection == READ_WRITE || protect(to, length, protection)
}

/// Calls `found` for each generation that has a part of the range, with that part.
fn for_each_generation(range: Range<usize>, mut found: impl FnMut(u32, Range<usize>)) {
    let windows = space::windows();
    let end = range.end.min(windows.end);
    let mut at = range.start.max(windows.start);
    while at < end {
        let (index, _) = space::locate(at);
        let until = (space::address_of(index, 0) + space::span_bytes()).min(end);
        found(index, at..until);
        at = until;
    }
}
