//! Blocks: born, grown, given back. The malloc family is here; `maps` builds the mmap family on it.
//!
//! Order of search for a block: dirty runs of this processor's shard, then of shards nobody is using just now, then clean runs,
//! then a new chunk. Touching fresh pages costs several times what rewriting recycled ones does, so fresh comes last.
//! A freed block stays dirty up to `keep_bytes` in total; beyond that its pages go back to the host at once.
//!
//! System calls that take time are made without a lock: the block is *leaving* meanwhile, nobody's.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use crate::fork;
use crate::huge;
use crate::lock::Guard;
use crate::space::{self, NONE, Shard, State, UNIT_BYTES, units_for};
use crate::statistics::{COUNTERS, count, held_bytes, lower};
use crate::system;
use crate::units::Kind;

pub static KEEP_BYTES: AtomicUsize = AtomicUsize::new(0);
pub static LIMIT_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);
/// No generation could be opened: so many requests pass through before it is tried again.
static EXHAUSTED: AtomicU32 = AtomicU32::new(0);
const TRY_AGAIN_AFTER: u32 = 256;
/// Bytes that were newly taken, or became stale, since it was last tried to give stale memory back.
static UNTRIED_BYTES: AtomicUsize = AtomicUsize::new(0);
const UNTRIED_BYTES_MAX: usize = 16 << 20;

const HUGE_UNITS: u32 = (huge::HUGE_BYTES / UNIT_BYTES) as u32;
/// Maps from this size on start at a multiple of 64 MiB: allocators that align by mapping more then have nothing to cut off.
const WIDE_FROM_BYTES: usize = 32 << 20;
const WIDE_UNITS: u32 = (64 << 20) / UNIT_BYTES as u32;
/// Maps and zeroed blocks from these sizes on may be used in part only: their pages come as they are touched.
const SPARSE_MAP_BYTES: usize = 1 << 30;
const SPARSE_ZEROS_BYTES: usize = 64 << 20;
/// A block that moves because it grows gets this many times its new size as spare addresses behind it. They cost nothing.
const SPARE_TIMES: u32 = 3;
/// Attempts at a request while generations change under it, before it is passed through.
const ATTEMPTS: usize = 4;

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// A block at this address.
    At(usize),
    /// The limit does not allow it.
    Refused,
    /// Not ours to serve: ask libc, or the kernel.
    Elsewhere,
}

/// What a block must be like.
#[derive(Clone, Copy)]
pub struct Request {
    pub bytes: usize,
    /// A power of two, in bytes.
    pub alignment: usize,
    /// The block must read as zeros.
    pub zeroed: bool,
    /// `Block` or `Map`.
    pub kind: Kind,
    /// Keep spare addresses behind it.
    pub growing: bool,
    /// Only addresses are wanted, no memory yet.
    pub reserved: bool,
}

impl Request {
    fn alignment_units(&self) -> u32 {
        let usual = match (self.kind, self.bytes) {
            (Kind::Map, WIDE_FROM_BYTES..) => WIDE_UNITS,
            (Kind::Map, _) | (_, huge::ALIGNED_FROM_BYTES..) => HUGE_UNITS,
            _ => 1,
        };
        usual.max((self.alignment / UNIT_BYTES) as u32)
    }

    /// Whether its bytes will all be written, as far as can be told. Zeros may be the start of something sparse, and very large
    /// maps are what allocators cut pieces from.
    fn will_be_filled(&self) -> bool {
        let sparse_from = match (self.kind, self.zeroed) {
            (Kind::Map, _) => SPARSE_MAP_BYTES,
            (_, true) => SPARSE_ZEROS_BYTES,
            _ => usize::MAX,
        };
        !self.reserved && self.bytes < sparse_from
    }
}

/// Backs the fresh units of a block that was `before` bytes long by huge pages, while less than half of the limit is promised:
/// near the limit only what is touched may count. `room` bytes behind it are free and fresh, too, and for blocks to come; none are
/// behind maps, which allocators fill in part and give back as a whole.
fn back(at: usize, before: usize, bytes: usize, room: usize) {
    let promised = promised();
    if promised <= LIMIT_BYTES.load(Relaxed) / 2 {
        let fresh = at + units_for(before) as usize * UNIT_BYTES..at + units_for(bytes) as usize * UNIT_BYTES;
        huge::back(fresh, room, promised);
    }
}

/// Bytes behind what is used of the block at `unit` that are free and fresh: its spare ones, and the run that follows.
fn room_behind(index: u32, owner: usize, shard: &mut Guard<'_, Shard>, unit: u32) -> usize {
    let head = &space::units(index)[unit as usize];
    let spare = head.length() - units_for(head.requested() as usize);
    (spare + space::runs(index, owner, shard).clean_at(unit + head.length())) as usize * UNIT_BYTES
}

/// Serves a request. A recycled block is zeroed here when it must be.
pub fn allocate(mut request: Request) -> Served {
    request.bytes = request.bytes.max(1);
    if request.bytes > space::span_bytes() / 4 || request.alignment > space::ALIGNMENT_BYTES_MAX {
        return elsewhere();
    }
    if !request.reserved && !fits_limit(request.bytes) {
        count(&COUNTERS.refused);
        return Served::Refused;
    }
    for _ in 0..ATTEMPTS {
        let index = space::here();
        let mut shard = space::shard(index).lock();
        let current = space::CURRENT.load(Relaxed);
        if current == NONE || space::generation(current).state() != State::Shared {
            drop(shard);
            if !renew() {
                break;
            }
            continue;
        }
        let Some((at, dirty)) = find_room(current, index, &mut shard, request) else { break };
        let fills = !dirty && request.will_be_filled();
        let shares = fills && request.kind == Kind::Block;
        let room = if shares { room_behind(current, index, &mut shard, (space::locate(at).1 / UNIT_BYTES) as u32) } else { 0 };
        drop(shard);
        if !dirty {
            spare_others(request.bytes);
        }
        if dirty && request.zeroed {
            // SAFETY: the block was just made ours; it spans at least the requested bytes of a shared, writable window.
            unsafe { std::ptr::write_bytes(at as *mut u8, 0, request.bytes) };
        }
        if fills {
            back(at, 0, request.bytes, room);
        }
        return Served::At(at);
    }
    elsewhere()
}

fn elsewhere() -> Served {
    count(&COUNTERS.passed_through);
    Served::Elsewhere
}

/// Finds units for the request, in the order told at the top of this file, and makes them a block.
fn find_room(current: u32, index: usize, shard: &mut Guard<'_, Shard>, request: Request) -> Option<(usize, bool)> {
    let (length, alignment) = (units_for(request.bytes), request.alignment_units());
    // Maps get clean units only: to clean dirty ones costs more than fresh ones do.
    let recycle = request.kind == Kind::Block;
    if recycle && let Some(at) = place(current, index, shard, request, true, length, alignment) {
        return Some((at, true));
    }
    for other in (0..space::shard_count() as usize).filter(|&other| recycle && other != index) {
        if let Some(mut shard) = space::shard(other).try_lock()
            && let Some(at) = place(current, other, &mut shard, request, true, length, alignment)
        {
            return Some((at, true));
        }
    }
    let spare = if request.growing { length.saturating_mul(SPARE_TIMES) } else { 0 };
    let roomy = length.saturating_add(spare).min((space::span_bytes() / 16 / UNIT_BYTES) as u32).max(length);
    for whole in [roomy, length] {
        let mut fresh = || place(current, index, shard, request, false, whole, alignment);
        if let Some(at) = fresh() {
            return Some((at, false));
        }
        if space::take_chunk(current, index, shard, whole, alignment) {
            return place(current, index, shard, request, false, whole, alignment).map(|at| (at, false));
        }
    }
    None
}

/// Takes `whole` units from the shard's runs, if it has them, and makes them a block.
fn place(
    current: u32,
    index: usize,
    shard: &mut Guard<'_, Shard>,
    request: Request,
    dirty: bool,
    whole: u32,
    alignment: u32,
) -> Option<usize> {
    let taken = space::runs(current, index, shard).take(dirty, whole, alignment)?;
    let unit = &space::units(current)[taken.start as usize];
    unit.set_used(request.kind, whole, request.bytes as u64);
    space::generation(current).used.fetch_add(whole, Relaxed);
    let bytes = units_for(request.bytes) as usize * UNIT_BYTES;
    COUNTERS.live.fetch_add(bytes, Relaxed);
    if dirty {
        COUNTERS.dirty.fetch_sub(bytes, Relaxed);
        count(&COUNTERS.recycled);
    }
    count(if request.kind == Kind::Block { &COUNTERS.allocations } else { &COUNTERS.maps });
    Some(space::address_of(current, taken.start))
}

/// Makes a generation current: the frozen one again if nobody else sees it, else a new one.
fn renew() -> bool {
    if EXHAUSTED.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        return false;
    }
    if !space::acquire_all() {
        return false;
    }
    let current = space::CURRENT.load(Relaxed);
    let shared = current != NONE && space::generation(current).state() == State::Shared;
    // SAFETY: all locks are held, as both ask.
    let done = shared || unsafe { current != NONE && fork::thaw(current) || space::open() };
    EXHAUSTED.store(if done { 0 } else { TRY_AGAIN_AFTER }, Relaxed);
    space::release_all();
    // While it was frozen everything was kept.
    if done && COUNTERS.dirty.load(Relaxed) > KEEP_BYTES.load(Relaxed) {
        purge();
    }
    done
}

/// New memory was taken: what is kept for nobody goes back, if together they are too much.
fn spare_others(bytes: usize) {
    if promised() > LIMIT_BYTES.load(Relaxed) && COUNTERS.dirty.load(Relaxed) > 0 {
        purge();
    }
    give_stale_back(bytes);
}

/// Bytes that blocks may hold, and that are kept without one.
fn promised() -> usize {
    [&COUNTERS.live, &COUNTERS.dirty, &COUNTERS.stale].iter().fold(0, |sum, gauge| sum.saturating_add(gauge.load(Relaxed)))
}

/// Tries now and then to give back what was freed after a fork: a few system calls for each so many bytes.
fn give_stale_back(bytes: usize) {
    if COUNTERS.stale.load(Relaxed) > 0 && UNTRIED_BYTES.fetch_add(bytes, Relaxed) + bytes >= UNTRIED_BYTES_MAX {
        UNTRIED_BYTES.store(0, Relaxed);
        fork::reclaim();
    }
}

/// A fork or a retirement may have made room for a new generation.
pub fn forget_exhaustion() {
    EXHAUSTED.store(0, Relaxed);
}

/// Whether `bytes` more may be held. What is promised is compared first; only when that is too much do we ask what is held.
fn fits_limit(bytes: usize) -> bool {
    let limit = LIMIT_BYTES.load(Relaxed);
    // What is kept for recycling does not count here: it is used, or given back once new memory is taken (`spare_others`).
    if limit == usize::MAX || promised().saturating_sub(COUNTERS.dirty.load(Relaxed)).saturating_add(bytes) <= limit {
        return true;
    }
    let fits = |spared: usize| (held_bytes() as usize).saturating_sub(spared).saturating_add(bytes) <= limit;
    // Memory that nobody uses is given back before anything is refused: kept for recycling, or left behind by a fork.
    fits(0) || (fits(COUNTERS.dirty.load(Relaxed)) && purge() && fits(0)) || (fork::reclaim() && (fits(0) || purge() && fits(0)))
}

/// Gives the memory of all dirty runs back.
fn purge() -> bool {
    for index in 0..space::shard_count() as usize {
        let mut shard = space::shard(index).lock();
        let current = space::CURRENT.load(Relaxed);
        if current == NONE || space::generation(current).state() != State::Shared {
            continue;
        }
        while space::runs(current, index, &mut shard).clean_one(|start, length| {
            let done = punch(space::address_of(current, start), length as usize * UNIT_BYTES);
            if done {
                lower(&COUNTERS.dirty, length as usize * UNIT_BYTES);
            }
            done
        }) {}
    }
    true
}

/// Accounts for free units that became a map without a request.
pub fn claimed(index: u32, length: u32, dirty: bool) {
    let bytes = length as usize * UNIT_BYTES;
    space::generation(index).used.fetch_add(length, Relaxed);
    COUNTERS.live.fetch_add(bytes, Relaxed);
    lower(&COUNTERS.dirty, if dirty { bytes } else { 0 });
}

/// Gives the memory of pages back to the host: they read as zeros afterwards. Only through the mapping: a descriptor may be
/// somebody else's by now. Fails in a private window, which is right: the file is not ours to change then.
pub fn punch(address: usize, bytes: usize) -> bool {
    let done = system::advise(address, bytes, libc::MADV_REMOVE);
    if done {
        COUNTERS.punched.fetch_add(bytes as u64, Relaxed);
    }
    done
}

/// Frees a block of the malloc family.
pub fn free(address: usize) {
    let (index, owner, unit) = place_of(address);
    let shard = space::shard(owner).lock();
    let head = &space::units(index)[unit as usize];
    if head.kind() != Kind::Block {
        invalid();
    }
    let (length, touched) = (head.length(), units_for(head.requested() as usize));
    give_back(Given { index, owner, unit, length, touched, keep: true }, shard);
}

/// Generation, shard and unit of an address that should be a block's.
fn place_of(address: usize) -> (u32, usize, u32) {
    let (index, offset) = space::locate(address);
    let unit = (offset / UNIT_BYTES) as u32;
    if unit >= space::generation(index).top() || offset % UNIT_BYTES != 0 {
        invalid();
    }
    (index, space::generation(index).owner(unit), unit)
}

fn invalid() -> ! {
    system::give_up("forebay: free() of an address that is not a block, or that was freed before\n")
}

/// Units on their way back.
#[derive(Clone, Copy)]
pub struct Given {
    pub index: u32,
    pub owner: usize,
    pub unit: u32,
    pub length: u32,
    /// Units at the start that may hold memory. The rest is spare.
    pub touched: u32,
    /// Whether the memory may stay for the next request.
    pub keep: bool,
}

impl Given {
    fn address(&self) -> usize {
        space::address_of(self.index, self.unit)
    }

    fn bytes(&self) -> usize {
        self.touched as usize * UNIT_BYTES
    }

    /// Whether the shard's lists are about this generation.
    fn is_listed(&self) -> bool {
        space::CURRENT.load(Relaxed) == self.index
    }
}

/// Gives units of a block back. `shard` is their owner's lock.
pub fn give_back(given: Given, mut shard: Guard<'_, Shard>) {
    let this = space::generation(given.index);
    if this.state() != State::Inherited {
        lower(&COUNTERS.live, given.bytes());
    }
    let head = &space::units(given.index)[given.unit as usize];
    if this.state() != State::Shared {
        // Only private copies are dropped: the file is what a forked child, or whoever was handed it, still sees.
        head.set_used(Kind::Leaving, given.length, given.bytes() as u64);
        drop(shard);
        system::advise(given.address(), given.bytes(), libc::MADV_DONTNEED);
        shard = space::shard(given.owner).lock();
        settle(given, &mut shard, true);
    } else if given.keep && COUNTERS.dirty.load(Relaxed) + given.bytes() <= KEEP_BYTES.load(Relaxed) {
        settle(given, &mut shard, true);
    } else {
        head.set_used(Kind::Leaving, given.length, given.bytes() as u64);
        drop(shard);
        let clean = punch(given.address(), given.bytes());
        shard = space::shard(given.owner).lock();
        settle(given, &mut shard, !clean);
    }
    let left = this.used.fetch_sub(given.length, Relaxed) - given.length;
    let stale = !given.is_listed() && this.state() == State::Frozen;
    let over = left == 0 && !given.is_listed();
    if stale {
        space::add_stale(this, given.bytes());
    }
    drop(shard);
    if over {
        retire(given.index);
    } else if stale {
        give_stale_back(given.bytes());
    }
}

/// Makes given units free.
fn settle(given: Given, shard: &mut Guard<'_, Shard>, dirty: bool) {
    if !given.is_listed() {
        space::units(given.index)[given.unit as usize].set_inner();
        return;
    }
    let mut runs = space::runs(given.index, given.owner, shard);
    runs.give(given.unit, given.touched, dirty);
    runs.give(given.unit + given.touched, given.length - given.touched, false);
    if dirty {
        COUNTERS.dirty.fetch_add(given.bytes(), Relaxed);
    }
}

/// Empties a generation whose last block was given back.
fn retire(index: u32) {
    if !space::acquire_all() {
        return;
    }
    let this = space::generation(index);
    if this.used.load(Relaxed) == 0 && space::CURRENT.load(Relaxed) != index && this.state() != State::Empty {
        space::retire(index);
        forget_exhaustion();
    }
    space::release_all();
}

/// Bytes that the owner of a block of the malloc family asked for.
pub fn requested(address: usize) -> usize {
    let (index, offset) = space::locate(address);
    space::units(index).get(offset / UNIT_BYTES).map_or(0, |unit| unit.requested() as usize)
}

/// Changes the size of a block where it is, if that is possible and sensible. `bytes` is not 0.
pub fn resize(address: usize, bytes: usize) -> bool {
    let (index, owner, unit) = place_of(address);
    let this = space::generation(index);
    let before = requested(address);
    // Asked before the lock is taken: giving memory back takes it too.
    if units_for(bytes) > units_for(before) && !fits_limit(bytes - before) {
        return false;
    }
    let mut shard = space::shard(owner).lock();
    let head = &space::units(index)[unit as usize];
    let (length, touched, wanted) = (head.length(), units_for(head.requested() as usize), units_for(bytes));
    if head.kind() != Kind::Block {
        invalid();
    }
    // Within the same units nothing changes but the number.
    if wanted == touched {
        head.set_requested(bytes as u64);
        return true;
    }
    if this.state() != State::Shared || bytes > space::span_bytes() / 4 {
        return false;
    }
    if wanted < touched {
        head.set_used(Kind::Block, wanted, bytes as u64);
        count(&COUNTERS.in_place);
        let (unit, length, touched) = (unit + wanted, length - wanted, touched - wanted);
        give_back(Given { index, owner, unit, length, touched, keep: true }, shard);
        return true;
    }
    if wanted > length && !extend(index, owner, &mut shard, unit + length, wanted - length) {
        return false;
    }
    head.set_used(Kind::Block, wanted.max(length), bytes as u64);
    COUNTERS.live.fetch_add((wanted - touched) as usize * UNIT_BYTES, Relaxed);
    count(&COUNTERS.in_place);
    let room = room_behind(index, owner, &mut shard, unit);
    drop(shard);
    spare_others((wanted - touched) as usize * UNIT_BYTES);
    back(address, before, bytes, room);
    true
}

/// Takes free units behind a block, from a new chunk if the block ends where the last one does.
fn extend(index: u32, owner: usize, shard: &mut Guard<'_, Shard>, end: u32, more: u32) -> bool {
    if end == space::generation(index).top() && !space::take_chunk(index, owner, shard, more, 1) {
        return false;
    }
    let Some(dirty) = space::runs(index, owner, shard).extend(end, more) else { return false };
    space::generation(index).used.fetch_add(more, Relaxed);
    lower(&COUNTERS.dirty, dirty as usize * UNIT_BYTES);
    true
}

/// Gives a block of the malloc family another size; it may move. `Elsewhere`: the caller copies it to where it likes.
pub fn reallocate(address: usize, bytes: usize, alignment: usize) -> Served {
    if resize(address, bytes) {
        return Served::At(address);
    }
    let old = requested(address);
    let growing = bytes > old;
    let served = allocate(Request { bytes, alignment, zeroed: false, kind: Kind::Block, growing, reserved: false });
    if let Served::At(new) = served {
        // SAFETY: both blocks are live and apart; the caller owns the old one, and the new one is at least as long as copied.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, new as *mut u8, old.min(bytes)) };
        free(address);
    }
    served
}
