//! The kernel, without libc in between: inside the preload library `mmap` and its kin are our own functions.
//!
//! Nothing here allocates or panics. Addresses are `usize`: this layer moves pages, it never looks into them.

use std::os::fd::RawFd;

/// Bytes of a page. Linux on the machines we support maps memory files in pages of 4 KiB; a larger base page only makes
/// some of our ranges refused by the kernel, which is answered by passing the request through.
pub const PAGE_BYTES: usize = 4096;

pub const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A mapping, or `None` with `errno` set.
pub fn map(address: usize, length: usize, protection: i32, flags: i32, file: RawFd, offset: usize) -> Option<usize> {
    // SAFETY: callers pass addresses only of ranges that they own (see each of them), else none, and the kernel chooses.
    let at = unsafe { libc::syscall(libc::SYS_mmap, address, length, protection, flags, file, offset) };
    (at != -1).then_some(at as usize)
}

/// Takes the pages away for good.
pub fn unmap(address: usize, length: usize) -> bool {
    // SAFETY: as for `map`.
    unsafe { libc::syscall(libc::SYS_munmap, address, length) == 0 }
}

/// Changes the protection of pages.
pub fn protect(address: usize, length: usize, protection: i32) -> bool {
    // SAFETY: as for `map`.
    unsafe { libc::syscall(libc::SYS_mprotect, address, length, protection) == 0 }
}

/// `madvise`.
pub fn advise(address: usize, length: usize, advice: i32) -> bool {
    // SAFETY: as for `map`; advice that drops contents is given only for ranges whose contents are no longer needed.
    unsafe { libc::syscall(libc::SYS_madvise, address, length, advice) == 0 }
}

/// Whether the page at this address has memory, in a mapping that we may write to. Changes `errno` where it is not mapped.
pub fn is_there(address: usize) -> bool {
    let mut page = 0_u8;
    // SAFETY: the kernel writes one byte, for one page; numbers otherwise.
    unsafe { libc::syscall(libc::SYS_mincore, address, PAGE_BYTES, &raw mut page) == 0 && page & 1 == 1 }
}

/// Makes pages of an unmapped, inaccessible range at these addresses: reserved, without memory.
pub fn reserve(address: usize, length: usize) -> Option<usize> {
    let fixed = if address == 0 { 0 } else { libc::MAP_FIXED };
    map(address, length, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed, -1, 0)
}

/// Empties a part of a memory file: it reads as zeros and holds no memory then.
pub fn punch_file(file: RawFd, offset: usize, length: usize) -> bool {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: numbers only; callers own the file's bytes.
    unsafe { libc::fallocate(file, mode, offset as libc::off_t, length as libc::off_t) == 0 }
}

/// A memory file that can be sealed, is never executable where the kernel knows how (6.3), and is closed by `exec`.
/// Its descriptor is moved out of the way of programs that count on low numbers, as far as the limit of open files allows.
pub fn memory_file(name: &std::ffi::CStr) -> Option<RawFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; numbers otherwise.
    let create = |flags: u32| unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) as RawFd };
    let mut file = create(flags | libc::MFD_NOEXEC_SEAL);
    if file < 0 {
        file = create(flags);
    }
    if file < 0 {
        return None;
    }
    for lowest in [900, 200, 100, 40] {
        // SAFETY: duplicating a descriptor touches no memory.
        let moved = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, lowest) };
        if moved >= 0 {
            close(file);
            return Some(moved);
        }
    }
    Some(file)
}

/// Closes a descriptor of ours.
pub fn close(file: RawFd) {
    // SAFETY: callers own the descriptor.
    unsafe { libc::syscall(libc::SYS_close, file) };
}

/// What makes a file that file, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

/// Identity of an open file, and the bytes of memory it holds.
pub fn identify(file: RawFd) -> Option<(Identity, u64)> {
    // SAFETY: all zeros is a valid `stat`, and `fstat` fills it.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let done = unsafe { libc::fstat(file, &raw mut about) } == 0;
    done.then_some((Identity { device: about.st_dev, inode: about.st_ino }, about.st_blocks as u64 * 512))
}

/// The soft limit of a resource.
pub fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    limit.rlim_cur
}

/// Processors that this process may use.
pub fn processors() -> u32 {
    // SAFETY: all zeros is an empty set, and the kernel fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return 1;
        }
        libc::CPU_COUNT(&set).max(1) as u32
    }
}

/// The processor that runs us now, or was a moment ago.
pub fn processor() -> u32 {
    // SAFETY: no arguments.
    unsafe { libc::sched_getcpu() }.max(0) as u32
}

/// The number of this process.
pub fn process() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::getpid() }
}

/// A number that no other thread of this process has now, neither 0 nor odd. Asks no kernel.
pub fn thread() -> usize {
    // SAFETY: no arguments.
    unsafe { libc::pthread_self() as usize }
}

/// Whether this is the only thread of the process.
pub fn is_single_threaded() -> bool {
    // SAFETY: all zeros is a valid `stat`, and `stat` fills it.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above; the path is a C string.
    let done = unsafe { libc::stat(c"/proc/self/task".as_ptr(), &raw mut about) } == 0;
    // A folder has two links and one per folder in it.
    done && about.st_nlink == 3
}

/// This thread's `errno`.
pub fn errno() -> i32 {
    // SAFETY: the location is valid for the life of the thread.
    unsafe { *libc::__errno_location() }
}

/// Sets this thread's `errno`.
pub fn set_errno(value: i32) {
    // SAFETY: the location is valid for the life of the thread.
    unsafe { *libc::__errno_location() = value };
}

/// Runs `work` and puts `errno` back as it was.
pub fn keeping_errno<T>(work: impl FnOnce() -> T) -> T {
    let before = errno();
    let result = work();
    set_errno(before);
    result
}

/// Says one line on stderr and ends the process: to go on would corrupt memory.
pub fn give_up(line: &str) -> ! {
    // SAFETY: the bytes live as long as the call; `abort` does not return.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::abort()
    }
}
