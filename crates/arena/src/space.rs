//! The address space: one reservation, cut into generations, each the window on one sparse memory file.
//!
//! ```text
//! START                                                   START + SPAN * GENERATIONS        + metadata
//! | generation 0: [units handed out | not yet]| generation 1 | ... | 63 | units of 0 | units of 1 | ... | 63 |
//!   address = START + generation * SPAN + offset in its file
//! ```
//!
//! States of a generation: *empty* (reserved addresses) → *shared* (the window is the file; blocks are born here) → *frozen*
//! (the window is a private view; what is written now stays in this process) → shared again by a thaw, or empty once no block
//! is left. In a forked child the parent's generations are *inherited*: frozen, and their files are not the child's to name.
//!
//! Invariants: at most one generation is current, and only it hands out units. State, current generation and file of a
//! generation change only while all shard locks and the pool lock are held; units of a chunk only under their shard's lock.
//! Metadata is private memory outside the windows, so pages of a file hold nothing but what users wrote.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::lock::{Guard, Lock};
use crate::protections::Protections;
use crate::statistics::{COUNTERS, lower};
use crate::system::{self, Identity};
use crate::units::{CHUNK_UNITS, Lists, Runs, Unit};

/// Bytes of a unit.
pub const UNIT_BYTES: usize = 64 << 10;
pub const GENERATIONS: usize = 64;
const SHARDS_MAX: usize = 8;
/// "No generation is current."
pub const NONE: u32 = u32::MAX;

const SPAN_BYTES_MAX: usize = 512 << 30;
const SPAN_BYTES_MIN: usize = 16 << 30;
/// The reservation starts at a multiple of this, so offsets keep the alignment of addresses up to it.
pub const ALIGNMENT_BYTES_MAX: usize = 1 << 30;
const CHUNKS_MAX: usize = SPAN_BYTES_MAX / UNIT_BYTES / CHUNK_UNITS as usize;
/// Metadata becomes writable in steps for this many units (1 GiB of window: 256 KiB).
const METADATA_STEP_UNITS: u32 = 16 * CHUNK_UNITS;

/// What a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Empty = 0,
    Shared = 1,
    Frozen = 2,
    Inherited = 3,
}

/// One window and its file.
pub struct Generation {
    state: AtomicU8,
    file: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
    /// Units handed out to shards: a multiple of a chunk.
    top: AtomicU32,
    /// Units whose metadata is writable.
    described: AtomicU32,
    /// Units of blocks, including those that are being given back.
    pub used: AtomicU32,
    /// Bytes of blocks that were freed while this was frozen and not current: still in the file, because a child may see them.
    pub stale: AtomicUsize,
    /// Some pages may have a protection other than read and write.
    pub protected: AtomicBool,
    /// Some pages no longer show the file: see `Unit::is_replaced`.
    pub replaced: AtomicBool,
    /// The shard of each chunk.
    owners: [AtomicU8; CHUNKS_MAX],
}

impl Generation {
    const EMPTY: Self = Self {
        state: AtomicU8::new(State::Empty as u8),
        file: AtomicI32::new(-1),
        device: AtomicU64::new(0),
        inode: AtomicU64::new(0),
        top: AtomicU32::new(0),
        described: AtomicU32::new(0),
        used: AtomicU32::new(0),
        stale: AtomicUsize::new(0),
        protected: AtomicBool::new(false),
        replaced: AtomicBool::new(false),
        owners: [const { AtomicU8::new(0) }; CHUNKS_MAX],
    };

    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            1 => State::Shared,
            2 => State::Frozen,
            3 => State::Inherited,
            _ => State::Empty,
        }
    }

    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub fn top(&self) -> u32 {
        self.top.load(Ordering::Acquire)
    }

    /// The shard that units of this chunk belong to.
    pub fn owner(&self, unit: u32) -> usize {
        usize::from(self.owners[(unit / CHUNK_UNITS) as usize].load(Ordering::Relaxed))
    }

    /// What makes its file that file.
    pub fn identity(&self) -> Identity {
        Identity { device: self.device.load(Ordering::Relaxed), inode: self.inode.load(Ordering::Relaxed) }
    }

    /// The descriptor, if it still is that of our file: user code can close any descriptor and open something else in its place.
    pub fn file(&self) -> Option<i32> {
        self.examine().map(|(file, _)| file)
    }

    /// The descriptor, if it still is ours, and the bytes of memory that the file holds.
    pub fn examine(&self) -> Option<(i32, u64)> {
        let file = self.descriptor()?;
        let (identity, held) = system::identify(file)?;
        (identity == self.identity()).then_some((file, held))
    }

    /// The descriptor as we left it.
    pub fn descriptor(&self) -> Option<i32> {
        Some(self.file.load(Ordering::Relaxed)).filter(|&file| file >= 0)
    }

    /// What stands at pages of its window.
    pub fn protections(&self, pages: Range<usize>) -> Protections {
        let mixed = self.protected.load(Ordering::Relaxed) || self.replaced.load(Ordering::Relaxed);
        Protections::of(pages, self.identity(), mixed)
    }

    /// Closes the file if it still is ours.
    pub fn close(&self) {
        if let Some(file) = self.file() {
            system::close(file);
        }
        self.file.store(-1, Ordering::Relaxed);
    }
}

/// A shard: its free runs in the current generation.
pub struct Shard {
    pub lists: Lists,
}

/// What chunks are cut from. The lock is taken after shard locks, never before.
pub struct Pool;

static START: AtomicUsize = AtomicUsize::new(0);
/// Bytes of all windows; 0 until started, so that no address is ours.
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static SPAN_SHIFT: AtomicU32 = AtomicU32::new(0);
static SHARD_COUNT: AtomicU32 = AtomicU32::new(1);
pub static CURRENT: AtomicU32 = AtomicU32::new(NONE);
static TABLE: [Generation; GENERATIONS] = [const { Generation::EMPTY }; GENERATIONS];
static SHARDS: [Lock<Shard>; SHARDS_MAX] = [const { Lock::new(Shard { lists: Lists::EMPTY }) }; SHARDS_MAX];
static POOL: Lock<Pool> = Lock::new(Pool);

/// Reserves the addresses. `false`: the host does not give them.
pub fn reserve() -> bool {
    let mut span = SPAN_BYTES_MAX;
    while span >= SPAN_BYTES_MIN {
        if let Some(at) = system::reserve(0, reserved_by(span)) {
            START.store(at.next_multiple_of(ALIGNMENT_BYTES_MAX), Ordering::Relaxed);
            SPAN_SHIFT.store(span.trailing_zeros(), Ordering::Relaxed);
            SHARD_COUNT.store(system::processors().min(SHARDS_MAX as u32), Ordering::Relaxed);
            LENGTH.store(span * GENERATIONS, Ordering::Release);
            return true;
        }
        span /= 2;
    }
    false
}

/// Addresses that windows of `span` bytes, their metadata and their alignment take.
fn reserved_by(span: usize) -> usize {
    (span + span / UNIT_BYTES * size_of::<Unit>()) * GENERATIONS + ALIGNMENT_BYTES_MAX
}

/// Bytes of addresses that are reserved, none of which is memory.
pub fn reserved_bytes() -> usize {
    if LENGTH.load(Ordering::Acquire) == 0 { 0 } else { reserved_by(span_bytes()) }
}

/// Whether the address lies in a window.
#[inline]
pub fn is_ours(address: usize) -> bool {
    address.wrapping_sub(START.load(Ordering::Relaxed)) < LENGTH.load(Ordering::Relaxed)
}

/// The windows, as addresses.
pub fn windows() -> std::ops::Range<usize> {
    let start = START.load(Ordering::Relaxed);
    start..start + LENGTH.load(Ordering::Acquire)
}

/// Bytes of one window.
pub fn span_bytes() -> usize {
    1 << SPAN_SHIFT.load(Ordering::Relaxed)
}

/// The generation and the offset of an address of ours.
pub fn locate(address: usize) -> (u32, usize) {
    let from_start = address - START.load(Ordering::Relaxed);
    ((from_start >> SPAN_SHIFT.load(Ordering::Relaxed)) as u32, from_start & (span_bytes() - 1))
}

/// The address of a unit.
pub fn address_of(generation: u32, unit: u32) -> usize {
    START.load(Ordering::Relaxed) + generation as usize * span_bytes() + unit as usize * UNIT_BYTES
}

/// Units that hold so many bytes.
pub fn units_for(bytes: usize) -> u32 {
    bytes.div_ceil(UNIT_BYTES) as u32
}

pub fn generation(index: u32) -> &'static Generation {
    &TABLE[index as usize]
}

/// All generations with their numbers.
pub fn generations() -> impl Iterator<Item = (u32, &'static Generation)> {
    (0..).zip(TABLE.iter())
}

/// The units of a generation that were handed out.
pub fn units(index: u32) -> &'static [Unit] {
    let length = generation(index).top() as usize;
    // SAFETY: metadata of units below `top` was made writable before `top` was raised, is zero or was written as `Unit`, whose
    // fields are atomic, and is never unmapped.
    unsafe { std::slice::from_raw_parts(metadata(index) as *const Unit, length) }
}

fn metadata(index: u32) -> usize {
    windows().end + index as usize * (span_bytes() / UNIT_BYTES) * size_of::<Unit>()
}

/// The shard for a request of this thread.
pub fn here() -> usize {
    (system::processor() % shard_count()) as usize
}

pub fn shard_count() -> u32 {
    SHARD_COUNT.load(Ordering::Relaxed)
}

pub fn shard(index: usize) -> &'static Lock<Shard> {
    &SHARDS[index]
}

/// The free runs of a shard whose lock is held, in the current generation.
pub fn runs<'a>(generation: u32, index: usize, shard: &'a mut Guard<'_, Shard>) -> Runs<'a> {
    Runs::new(units(generation), &self::generation(generation).owners, &mut shard.lists, index as u8)
}

/// Gives the shard whose lock is held a chunk that has `length` units at that alignment. The chunk follows the last one, whoever
/// has that, so offsets stay dense. `false`: the generation is full, or there is no memory for metadata.
pub fn take_chunk(index: u32, shard_index: usize, shard: &mut Guard<'_, Shard>, length: u32, alignment: u32) -> bool {
    let _pool = POOL.lock();
    let this = generation(index);
    let top = this.top();
    let start = top.next_multiple_of(alignment.max(CHUNK_UNITS));
    let Some(end) = start.checked_add(length).and_then(|end| end.checked_next_multiple_of(CHUNK_UNITS)) else { return false };
    if end as usize > span_bytes() / UNIT_BYTES || !describe(index, end) {
        return false;
    }
    // The units before an aligned start are given as well: nothing is lost.
    for chunk in top / CHUNK_UNITS..end / CHUNK_UNITS {
        this.owners[chunk as usize].store(shard_index as u8, Ordering::Relaxed);
    }
    this.top.store(end, Ordering::Release);
    runs(index, shard_index, shard).give(top, end - top, false);
    true
}

/// Makes metadata writable for the units below `end`.
fn describe(index: u32, end: u32) -> bool {
    let described = generation(index).described.load(Ordering::Relaxed);
    if end <= described {
        return true;
    }
    let wanted = end.next_multiple_of(METADATA_STEP_UNITS).min((span_bytes() / UNIT_BYTES) as u32);
    let (from, to) = (described as usize * size_of::<Unit>(), wanted as usize * size_of::<Unit>());
    let done = system::protect(metadata(index) + from, to - from, system::READ_WRITE);
    if done {
        generation(index).described.store(wanted, Ordering::Relaxed);
    }
    done
}

/// Takes all locks. Between this and [`release_all`] nothing in the arena changes but by this thread.
/// `false`, and none is taken: this thread holds one already, so a signal handler asks in the middle of our work.
#[must_use]
pub fn acquire_all() -> bool {
    if SHARDS.iter().any(Lock::is_ours) || POOL.is_ours() {
        return false;
    }
    SHARDS.iter().for_each(Lock::acquire);
    POOL.acquire();
    true
}

/// Lets all locks go; in a forked child, frees them.
pub fn release_all() {
    POOL.release();
    SHARDS.iter().rev().for_each(Lock::release);
}

/// Notes bytes that were freed in a frozen generation which is not current.
pub fn add_stale(this: &Generation, bytes: usize) {
    this.stale.fetch_add(bytes, Ordering::Relaxed);
    COUNTERS.stale.fetch_add(bytes, Ordering::Relaxed);
}

/// Stale bytes of a generation were given back.
pub fn forget_stale(this: &Generation) {
    lower(&COUNTERS.stale, this.stale.swap(0, Ordering::Relaxed));
}

/// Forgets all free runs, because another generation becomes current.
///
/// # Safety
/// This thread holds all locks by [`acquire_all`].
pub unsafe fn forget_lists() {
    for shard in &SHARDS {
        // SAFETY: the caller holds all locks.
        unsafe { shard.held().lists = Lists::EMPTY };
    }
    COUNTERS.dirty.store(0, Ordering::Relaxed);
    crate::huge::forget_ahead();
}

/// Opens an empty generation as the current one. All locks are held.
///
/// # Safety
/// This thread holds all locks by [`acquire_all`].
pub unsafe fn open() -> bool {
    let Some((index, this)) = generations().find(|(_, this)| this.state() == State::Empty) else { return false };
    if system::limit(libc::RLIMIT_FSIZE) < span_bytes() as u64 {
        return false;
    }
    let Some(file) = system::memory_file(c"forebay-arena") else { return false };
    // SAFETY: the descriptor is ours.
    let sized = unsafe { libc::ftruncate(file, span_bytes() as libc::off_t) } == 0;
    let identity = system::identify(file).filter(|_| sized);
    let Some((identity, _)) = identity.filter(|_| share(index, file)) else {
        system::close(file);
        return false;
    };
    this.device.store(identity.device, Ordering::Relaxed);
    this.inode.store(identity.inode, Ordering::Relaxed);
    this.file.store(file, Ordering::Relaxed);
    this.set_state(State::Shared);
    let last = CURRENT.load(Ordering::Relaxed);
    if last != NONE {
        // Freed since it was frozen, and now nobody's to recycle.
        add_stale(generation(last), COUNTERS.dirty.load(Ordering::Relaxed));
    }
    // SAFETY: the caller holds all locks.
    unsafe { forget_lists() };
    CURRENT.store(index, Ordering::Release);
    COUNTERS.generations.fetch_add(1, Ordering::Relaxed);
    true
}

/// Maps the file over the whole window of its generation, shared.
pub fn share(index: u32, file: i32) -> bool {
    share_part(index, file, 0, span_bytes())
}

/// Maps the file over a part of the window of its generation, shared.
pub fn share_part(index: u32, file: i32, offset: usize, length: usize) -> bool {
    let at = address_of(index, 0) + offset;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let done = system::map(at, length, system::READ_WRITE, flags, file, offset).is_some();
    if done {
        // A child that was made past our handlers must not write into its parent's memory: it gets none of it.
        system::advise(at, length, libc::MADV_DONTFORK);
        // Nothing happens where the host forbids huge pages in memory files.
        system::advise(at, length, libc::MADV_HUGEPAGE);
    }
    done
}

/// Empties a generation that has no block left and is not current: its memory goes back, its addresses can be used again.
/// All locks are held.
pub fn retire(index: u32) {
    let this = generation(index);
    let metadata_bytes = this.described.load(Ordering::Relaxed) as usize * size_of::<Unit>();
    if system::reserve(address_of(index, 0), span_bytes()).is_none()
        || !system::advise(metadata(index), metadata_bytes, libc::MADV_DONTNEED)
    {
        return;
    }
    this.close();
    forget_stale(this);
    this.top.store(0, Ordering::Release);
    this.protected.store(false, Ordering::Relaxed);
    this.replaced.store(false, Ordering::Relaxed);
    this.set_state(State::Empty);
}
