//! Fork: before it the current generation is *frozen*, so that parent and child have ordinary copy-on-write memory.
//!
//! ```text
//! prepare  all locks; the blocks of the current generation are mapped private over themselves, everything else is reserved
//! parent   locks go; the next allocation thaws if nobody else sees the file, else opens a new generation
//! child    locks are reset; inherited files are closed; its next allocation opens a generation of its own
//! ```
//!
//! It must be done before the fork and in the parent: what either side writes after it is that side's alone. (Remapping only in
//! the child is wrong: the parent's writes between the fork and the remapping would be seen.)
//!
//! *Who else sees the file?* One page of a second memory file, the *witness*, is mapped shared by this process, and so by every
//! process forked from it that has not ended or called `exec`. The kernel seals a file against writing only when nobody maps it
//! so: we unmap our page and try. That counts grandchildren, other process namespaces and children we never heard of.
//!
//! A thaw writes the pages that were copied since the freeze back to the file. It needs a process of one thread: no other
//! thread may write while pages move. (Nor may the kernel: a read into such a page that was started with io_uring or AIO and is
//! not finished would be lost.)
//!
//! What is freed in a frozen generation stays in its file, because a child may still see it: it is *stale*. Once nobody else is
//! left, [`reclaim`] gives it back, and the originals of pages that were copied since.
//!
//! A child that no handler knows of (`syscall(SYS_fork)`) finds the shared windows empty, so it cannot write into its parent's
//! memory; and in a child that shares our memory (`vfork`) nothing is thawed: its parent's threads run on.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::heap::forget_exhaustion;
use crate::pagemap;
use crate::protections::{Piece, Protections};
use crate::space::{self, Generation, NONE, State, UNIT_BYTES, units_for};
use crate::statistics::{COUNTERS, count};
use crate::system::{self, Identity, PAGE_BYTES};
use crate::units::Kind;

/// Gaps up to this many units are mapped private with the blocks around them: fewer mappings.
const GAP_UNITS: u32 = 16;

static WITNESS_FILE: AtomicI32 = AtomicI32::new(-1);
static WITNESS_PAGE: AtomicUsize = AtomicUsize::new(0);
static WITNESS_DEVICE: AtomicU64 = AtomicU64::new(0);
static WITNESS_INODE: AtomicU64 = AtomicU64::new(0);
/// A child was born without a witness: we are never sure again to be alone.
static LOST: AtomicBool = AtomicBool::new(false);
/// The process that the arena belongs to.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Has the handlers below called at every `fork` of libc.
pub fn install() {
    PROCESS.store(system::process(), Relaxed);
    // SAFETY: the handlers are functions of this library, which is never unloaded: it was preloaded, or is linked into the program.
    unsafe {
        libc::pthread_atfork(Some(prepare), Some(parent), Some(child));
    }
}

/// Before a fork. Ends the process if memory cannot be made private: to go on would let parent and child write into each other.
pub extern "C" fn prepare() {
    system::keeping_errno(|| {
        // SAFETY: all locks are held.
        if !space::acquire_all() || !unsafe { freeze() } {
            system::give_up("forebay: no memory to fork: the process holds too much under its limit\n");
        }
    });
}

/// After a fork, in the parent.
pub extern "C" fn parent() {
    system::keeping_errno(space::release_all);
}

/// After a fork, in the child.
pub extern "C" fn child() {
    system::keeping_errno(|| {
        for (_, generation) in space::generations().filter(|(_, generation)| generation.state() != State::Empty) {
            generation.close();
            generation.set_state(State::Inherited);
            generation.stale.store(0, Relaxed);
        }
        PROCESS.store(system::process(), Relaxed);
        space::CURRENT.store(NONE, Relaxed);
        COUNTERS.live.store(0, Relaxed);
        COUNTERS.stale.store(0, Relaxed);
        if witness_is_ours() {
            system::close(WITNESS_FILE.load(Relaxed));
        }
        // The page stays mapped, and so tells the parent that we live. Our own children get a witness of ours.
        WITNESS_FILE.store(-1, Relaxed);
        LOST.store(false, Relaxed);
        // SAFETY: this is the only thread, and it held all locks when it was forked.
        unsafe { space::forget_lists() };
        forget_exhaustion();
        space::release_all();
    });
}

/// Tries to make the current generation private before `fork` is called, which then finds it done.
/// `false`: there is no memory for it, or a signal handler asks in the middle of our work; the caller had better not fork.
pub fn can_fork() -> bool {
    system::keeping_errno(|| {
        if !space::acquire_all() {
            return false;
        }
        // SAFETY: all locks are held.
        let done = unsafe { freeze() };
        space::release_all();
        done
    })
}

/// The end of this process as a writer: no shared and writable mapping of its blocks is left, and none will be made. To be
/// called right before `_exit`: whoever asks for a large block from now on waits. `false`: it is as it was.
pub fn retire() -> bool {
    if !space::acquire_all() {
        return false;
    }
    // SAFETY: all locks are held, and kept.
    let done = unsafe { make_private() };
    if !done {
        space::release_all();
    }
    done
}

/// Makes the current generation private, and sees to it that children can be counted. `false`: it is as it was.
///
/// # Safety
/// This thread holds all locks.
unsafe fn freeze() -> bool {
    // Before every fork: the child will see all our files. Where no descriptor is left it is born without.
    if space::generations().any(|(_, this)| this.descriptor().is_some()) && !post_witness() {
        LOST.store(true, Relaxed);
    }
    // SAFETY: the caller's promise.
    unsafe { make_private() }
}

/// Maps the blocks of the current generation private over themselves. `false`: they are as they were.
///
/// # Safety
/// This thread holds all locks.
unsafe fn make_private() -> bool {
    let index = space::CURRENT.load(Relaxed);
    if index == NONE || space::generation(index).state() != State::Shared {
        return true;
    }
    let this = space::generation(index);
    let Some(file) = this.file() else {
        system::give_up("forebay: the descriptor of the memory arena was closed or reused, fork is impossible\n");
    };
    let at = space::address_of(index, 0);
    if !has_room(private_bytes(index, this)) {
        return false;
    }
    // First: who reads the state without a lock must not take private pages for the file's.
    this.set_state(State::Frozen);
    let mut reserved = at;
    let mut protections = protections_of(index, this);
    let mut done = true;
    each_extent(index, GAP_UNITS, |start, end| {
        // Addresses between blocks hold nothing anybody may use.
        done &= start == reserved || system::reserve(reserved, start - reserved).is_some();
        reserved = end;
        protections.each(start..end, |Piece { pages, protection, is_ours }| {
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
            done &= !is_ours || system::map(pages.start, pages.len(), protection, flags, file, pages.start - at).is_some();
        });
    });
    done &= system::reserve(reserved, at + space::span_bytes() - reserved).is_some();
    if !done {
        // Other threads may have written to either kind of page by now.
        system::give_up("forebay: the kernel refused to make memory private before a fork\n");
    }
    count(&COUNTERS.freezes);
    true
}

/// Whether the kernel would let us map so much private memory. Asked before anything is changed.
fn has_room(bytes: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    bytes == 0 || system::map(0, bytes, system::READ_WRITE, flags, -1, 0).is_some_and(|at| system::unmap(at, bytes))
}

fn protections_of(index: u32, this: &Generation) -> Protections {
    let at = space::address_of(index, 0);
    this.protections(at..at + this.top() as usize * UNIT_BYTES)
}

/// Bytes of blocks that will be private and writable; reservations are not.
fn private_bytes(index: u32, this: &Generation) -> usize {
    let mut bytes = 0;
    let mut protections = protections_of(index, this);
    each_extent(index, GAP_UNITS, |start, end| {
        protections.each(start..end, |piece| {
            let counts = piece.is_ours && piece.protection & libc::PROT_WRITE != 0;
            bytes += if counts { piece.pages.len() } else { 0 };
        });
    });
    bytes
}

/// Calls `found` with the addresses of blocks, those with at most `gap` units between them together.
fn each_extent(index: u32, gap: u32, mut found: impl FnMut(usize, usize)) {
    let units = space::units(index);
    let mut open: Option<(u32, u32)> = None;
    let mut at = 0;
    while (at as usize) < units.len() {
        let unit = &units[at as usize];
        let kind = unit.kind();
        if matches!(kind, Kind::Block | Kind::Map) {
            let end = at + units_for(unit.requested() as usize);
            open = match open {
                Some((start, before)) if at - before <= gap => Some((start, end)),
                Some((start, before)) => {
                    found(space::address_of(index, start), space::address_of(index, before));
                    Some((at, end))
                }
                None => Some((at, end)),
            };
        }
        at += if kind.is_used() || kind.is_free() { unit.length() } else { 1 };
    }
    if let Some((start, end)) = open {
        found(space::address_of(index, start), space::address_of(index, end));
    }
}

/// Makes a frozen generation shared again, if this process is the only one that sees it and has one thread.
///
/// # Safety
/// This thread holds all locks.
pub unsafe fn thaw(index: u32) -> bool {
    let this = space::generation(index);
    let whole = !this.replaced.load(Relaxed) && !this.protected.load(Relaxed);
    if this.state() != State::Frozen || !whole || !system::is_single_threaded() || !is_alone() {
        return false;
    }
    let Some(file) = this.file() else { return false };
    let done = without_signals(|| {
        let mut written = true;
        each_extent(index, GAP_UNITS, |start, end| {
            written = written && pagemap::each_written(start, end - start, |page| write_back(index, file, page));
        });
        written && space::share(index, file)
    });
    if done {
        this.set_state(State::Shared);
        count(&COUNTERS.thaws);
    }
    done
}

/// Gives stale memory back if this process is the only one that sees it.
pub fn reclaim() -> bool {
    if !space::acquire_all() {
        return false;
    }
    let current = space::CURRENT.load(Relaxed);
    let stale = || space::generations().filter(|&(index, this)| index != current && this.stale.load(Relaxed) > 0);
    let done = stale().next().is_some() && is_alone();
    if done {
        stale().for_each(|(index, this)| {
            empty_stale(index, this);
            space::forget_stale(this);
        });
    }
    space::release_all();
    done
}

/// Takes out of a frozen generation's file what no block needs: all between blocks, and the originals of copied pages.
fn empty_stale(index: u32, this: &Generation) {
    let Some(file) = this.file() else { return };
    let start = space::address_of(index, 0);
    let empty = |pages: Range<usize>| {
        if !pages.is_empty() {
            let done = system::punch_file(file, pages.start - start, pages.len());
            COUNTERS.punched.fetch_add(if done { pages.len() as u64 } else { 0 }, Relaxed);
        }
    };
    let mut at = start;
    each_extent(index, 0, |from, to| {
        empty(at..from);
        at = to;
        let mut copied = from..from;
        pagemap::each_written(from, to - from, |page| {
            if page != copied.end {
                empty(copied.clone());
                copied = page..page;
            }
            copied.end += PAGE_BYTES;
            true
        });
        empty(copied);
    });
    empty(at..start + this.top() as usize * UNIT_BYTES);
}

fn write_back(index: u32, file: i32, page: usize) -> bool {
    let offset = (page - space::address_of(index, 0)) as libc::off_t;
    // SAFETY: the page is one of a block, mapped readable: generations with other protections are not thawed.
    unsafe { libc::pwrite(file, page as *const libc::c_void, PAGE_BYTES, offset) == PAGE_BYTES as isize }
}

/// Runs `work` with all signals blocked: a handler is no other thread, but writes like one.
fn without_signals(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: both sets are filled before they are read.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) != 0 {
            return false;
        }
        let done = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        done
    }
}

fn witness_is_ours() -> bool {
    let expected = Identity { device: WITNESS_DEVICE.load(Relaxed), inode: WITNESS_INODE.load(Relaxed) };
    system::identify(WITNESS_FILE.load(Relaxed)).is_some_and(|(identity, _)| identity == expected)
}

/// The witness's descriptor.
pub fn witness() -> Option<i32> {
    Some(WITNESS_FILE.load(Relaxed)).filter(|&file| file >= 0)
}

/// Sees to it that the witness's page is mapped, for the child to inherit. `false`: no descriptor is left, say.
fn post_witness() -> bool {
    if WITNESS_FILE.load(Relaxed) >= 0 {
        return true;
    }
    let Some(file) = system::memory_file(c"forebay-witness") else { return false };
    // SAFETY: the descriptor is ours.
    let sized = unsafe { libc::ftruncate(file, PAGE_BYTES as libc::off_t) } == 0;
    let identity = system::identify(file).filter(|_| sized);
    let page = system::map(0, PAGE_BYTES, system::READ_WRITE, libc::MAP_SHARED, file, 0);
    let (Some((identity, _)), Some(page)) = (identity, page) else {
        system::close(file);
        return false;
    };
    WITNESS_DEVICE.store(identity.device, Relaxed);
    WITNESS_INODE.store(identity.inode, Relaxed);
    WITNESS_PAGE.store(page, Relaxed);
    WITNESS_FILE.store(file, Relaxed);
    true
}

/// Whether no process forked from this one is left.
fn is_alone() -> bool {
    if LOST.load(Relaxed) || PROCESS.load(Relaxed) != system::process() || !witness_is_ours() {
        return false;
    }
    let (file, page) = (WITNESS_FILE.load(Relaxed), WITNESS_PAGE.load(Relaxed));
    system::unmap(page, PAGE_BYTES);
    // SAFETY: numbers only.
    if unsafe { libc::fcntl(file, libc::F_ADD_SEALS, libc::F_SEAL_WRITE) } == 0 {
        system::close(file);
        WITNESS_FILE.store(-1, Relaxed);
        return true;
    }
    match system::map(page, PAGE_BYTES, system::READ_WRITE, libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE, file, 0)
        .or_else(|| system::map(0, PAGE_BYTES, system::READ_WRITE, libc::MAP_SHARED, file, 0))
    {
        Some(page) => WITNESS_PAGE.store(page, Relaxed),
        // Without a page children cannot be seen.
        None => LOST.store(true, Relaxed),
    }
    false
}
