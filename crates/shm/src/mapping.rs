//! Reading a segment: a read-only mapping of a sealed file.

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::buffer::Buffer;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::{Error, is_sealed};

/// Bytes of a huge page.
const HUGE_BYTES: usize = 2 << 20;

/// A segment's bytes in this process. Buffers made of it keep it alive.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    length: usize,
    held: u64,
}

// SAFETY: the mapping is read-only memory that nobody can change (the file is sealed), owned by this value alone.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of a segment.
    ///
    /// # Errors
    /// [`Error::Unsafe`] unless the file is sealed and at least `length` bytes long: otherwise its bytes could change under
    /// the reader, or reading could raise SIGBUS.
    pub fn map(id: u64, file: impl AsFd, length: u64) -> Result<Arc<Self>, Error> {
        let refuse = |why: String| Error::Unsafe { id, why };
        let file = file.as_fd();
        if !is_sealed(file) {
            return Err(refuse("it is not sealed".into()));
        }
        let status = rustix::fs::fstat(file).map_err(|error| Error::system("look at a segment", error))?;
        let size = status.st_size;
        let held = u64::try_from(status.st_blocks).unwrap_or(0) * 512;
        if u64::try_from(size).unwrap_or(0) < length {
            return Err(refuse(format!("it has {size} bytes, {length} were declared")));
        }
        let bytes = usize::try_from(length).map_err(|_| refuse("it does not fit this machine".into()))?;
        if bytes == 0 {
            return Ok(Arc::new(Self { address: NonNull::dangling(), length: 0, held }));
        }
        let address = map_aligned(bytes, file).map_err(|error| match error {
            Errno::NOMEM => Error::Memory { bytes: length, source: error },
            other => Error::system("map a segment", other),
        })?;
        let address = NonNull::new(address.cast::<u8>()).expect("the kernel maps nothing at address zero unasked");
        Ok(Arc::new(Self { address, length: bytes, held }))
    }

    /// All of it as an Arrow buffer. No copy; the buffer and its slices keep the mapping.
    #[must_use]
    pub fn buffer(self: &Arc<Self>) -> Buffer {
        if self.length == 0 {
            return Buffer::from(Vec::<u8>::new());
        }
        // SAFETY: `address` is valid for reads of `length` bytes as long as `self` lives, which the buffer's owner (a clone of
        // this Arc) ensures; the bytes are initialised file contents and immutable because the file is sealed.
        unsafe { Buffer::from_custom_allocation(self.address, self.length, Arc::clone(self) as _) }
    }

    /// Memory the segment holds, in bytes; less than its length where it has holes.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// First address and the one past the end.
    pub(crate) fn range(&self) -> (usize, usize) {
        let start = self.address.as_ptr() as usize;
        (start, start + self.length)
    }
}

/// Maps a file for reading. From the size of a huge page on, at a multiple of it, so that the huge pages of the file are
/// mapped as such: a reader then pays one page fault for 2 MiB.
fn map_aligned(bytes: usize, file: BorrowedFd<'_>) -> Result<*mut c_void, Errno> {
    if bytes < HUGE_BYTES {
        return map_at(std::ptr::null_mut(), MapFlags::empty(), bytes, file);
    }
    let spare = bytes.checked_add(HUGE_BYTES).ok_or(Errno::NOMEM)?;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let reserved =
        unsafe { mmap_anonymous(std::ptr::null_mut(), spare, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
    let before = reserved.align_offset(HUGE_BYTES);
    let at = reserved.wrapping_byte_add(before);
    let mapped = map_at(at, MapFlags::FIXED, bytes, file);
    let used = if mapped.is_ok() { bytes.next_multiple_of(4096) } else { 0 };
    // SAFETY: what was reserved is ours; the part that the file now stands in is left out.
    unsafe {
        if before > 0 {
            munmap(reserved, before)?;
        }
        munmap(at.wrapping_byte_add(used), spare - before - used)?;
    }
    mapped
}

/// Maps a file for reading, at an address that is ours if `fixed`.
fn map_at(at: *mut c_void, fixed: MapFlags, bytes: usize, file: BorrowedFd<'_>) -> Result<*mut c_void, Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory, and a fixed one replaces a
    // reservation of the caller's that nobody uses.
    let map = |flags| unsafe { mmap(at, bytes, ProtFlags::READ, flags | fixed, file, 0) };
    match map(MapFlags::SHARED) {
        // Before Linux 6.7 a write-sealed file cannot be mapped shared. A private mapping nobody writes is the same pages.
        Err(Errno::PERM) => map(MapFlags::PRIVATE),
        other => other,
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: exactly the range mapped in `map`; no buffer refers to it, because each holds an Arc of `self`.
            let result = unsafe { munmap(self.address.as_ptr().cast::<c_void>(), self.length) };
            debug_assert!(result.is_ok(), "unmapping one's own mapping succeeds");
        }
    }
}
