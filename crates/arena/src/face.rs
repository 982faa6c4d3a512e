//! Looking into an arena from outside: where an address lies in which file. As a table of C functions, because the arena of a
//! process may be another copy of this code (a preloaded library) than the one that asks.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::space::{self, State, UNIT_BYTES};
use crate::statistics::{Statistics, statistics};
use crate::{pagemap, system};
use std::sync::atomic::Ordering::Relaxed;

/// Version of [`Face`]; a table of another version is not used.
pub const VERSION: u32 = 4;
/// Name under which the preload library exports its table.
pub const SYMBOL: &std::ffi::CStr = c"forebay_arena_face";

/// Where bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not in the arena, or in a part of it that only a parent process can name.
    Elsewhere,
    /// In the file of this generation, at this offset, and so in one piece.
    Here { generation: u32, offset: u64 },
    /// In the arena, but written after a fork froze that part: the file has older bytes.
    Rewritten,
}

/// The functions of an arena.
#[repr(C)]
pub struct Face {
    /// [`VERSION`].
    pub version: u32,
    find: extern "C" fn(*const u8, usize, *mut u32, *mut u64) -> i32,
    descriptor: extern "C" fn(u32) -> i32,
    statistics: extern "C" fn(*mut Statistics),
    retire: extern "C" fn() -> i32,
}

impl Face {
    /// The table of the arena that is linked in here. The preload library exports it as `forebay_arena_face`.
    #[must_use]
    pub const fn linked() -> Self {
        Self { version: VERSION, find: c_find, descriptor: c_descriptor, statistics: c_statistics, retire: c_retire }
    }
}

static LINKED: Face = Face::linked();

/// The arena of this process.
#[derive(Clone, Copy)]
pub struct Arena(&'static Face);

/// The arena of this process: the one linked in if it was started, else that of a preloaded library, else none.
#[must_use]
pub fn of_process() -> Option<Arena> {
    if crate::is_started() {
        return Some(Arena(&LINKED));
    }
    // SAFETY: the name is a C string; a symbol of this name is a `Face` that lives as long as the process, checked by its version.
    let face = unsafe { libc::dlsym(libc::RTLD_DEFAULT, SYMBOL.as_ptr()).cast::<Face>().as_ref() }?;
    (face.version == VERSION).then_some(Arena(face))
}

impl Arena {
    /// Where `bytes` are. Costs a look at the kernel's page table for parts frozen by a fork, else next to nothing.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Found {
        self.find_at(bytes.as_ptr(), bytes.len())
    }

    /// The same by address; nothing there is read.
    #[must_use]
    pub fn find_at(&self, address: *const u8, length: usize) -> Found {
        let (mut generation, mut offset) = (0, 0);
        match (self.0.find)(address, length, &raw mut generation, &raw mut offset) {
            1 => Found::Here { generation, offset },
            2 => Found::Rewritten,
            _ => Found::Elsewhere,
        }
    }

    /// A new descriptor of the memory file of a generation.
    ///
    /// # Errors
    /// The generation has no file, user code has closed its descriptor, or there is no room for another one.
    pub fn descriptor(&self, generation: u32) -> io::Result<OwnedFd> {
        match (self.0.descriptor)(generation) {
            file if file < 0 => Err(io::Error::from_raw_os_error(-file)),
            // SAFETY: the function made this descriptor for us.
            file => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
        }
    }

    /// What the arena did so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut statistics = Statistics::default();
        (self.0.statistics)(&raw mut statistics);
        statistics
    }

    /// Ends this process as a writer of the arena's files, which can then be sealed. The process has to `_exit` next: a thread
    /// that asks for a large block waits for ever. `false`: nothing was done, for want of memory say.
    #[must_use]
    pub fn retire(&self) -> bool {
        (self.0.retire)() != 0
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Arena").field(&self.statistics()).finish()
    }
}

extern "C" fn c_find(address: *const u8, length: usize, generation: *mut u32, offset: *mut u64) -> i32 {
    match find(address as usize, length) {
        Found::Elsewhere => 0,
        Found::Here { generation: found, offset: at } => {
            // SAFETY: the only caller is `find_at`, which passes places of its own.
            unsafe {
                *generation = found;
                *offset = at;
            }
            1
        }
        Found::Rewritten => 2,
    }
}

fn find(address: usize, length: usize) -> Found {
    if !space::is_ours(address) {
        return Found::Elsewhere;
    }
    let (index, offset) = space::locate(address);
    let this = space::generation(index);
    let state = this.state();
    let end = offset.checked_add(length.max(1));
    let Some(end) = end.filter(|&end| end <= this.top() as usize * UNIT_BYTES) else { return Found::Elsewhere };
    if !matches!(state, State::Shared | State::Frozen) {
        return Found::Elsewhere;
    }
    let units = &space::units(index)[offset / UNIT_BYTES..end.div_ceil(UNIT_BYTES)];
    if this.replaced.load(Relaxed) && units.iter().any(crate::units::Unit::is_replaced) {
        return Found::Rewritten;
    }
    if state == State::Frozen && !pagemap::each_written(address, length, |_| false) {
        return Found::Rewritten;
    }
    Found::Here { generation: index, offset: offset as u64 }
}

extern "C" fn c_descriptor(generation: u32) -> RawFd {
    if generation as usize >= space::GENERATIONS {
        return -libc::EINVAL;
    }
    let Some(file) = space::generation(generation).file() else { return -libc::EBADF };
    // SAFETY: duplicating a descriptor touches no memory.
    let copy = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 { -system::errno() } else { copy }
}

extern "C" fn c_retire() -> i32 {
    i32::from(crate::fork::retire())
}

extern "C" fn c_statistics(into: *mut Statistics) {
    // SAFETY: the only caller is `Arena::statistics`, which passes a place of its own.
    unsafe { *into = statistics() };
}
