//! Writing a segment, once, trimming it to what a table needs, and sealing it.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use rustix::io::Errno;

use forebay_sipc::call::Keep;

use crate::Error;

/// Buffers in a segment begin at multiples of this many bytes: a cache line, and the widest vector register.
pub const ALIGNMENT_BYTES: u64 = 64;

/// What is punched out of a file is a multiple of this; larger pages are a multiple of it, too.
const PAGE_BYTES: u64 = 4096;

/// From this length on a gap is worth two more calls, which keep the kernel from zeroing what it is about to free.
const SPLIT_FROM_BYTES: u64 = 256 << 10;

/// Longest piece given to one `pwrite`; Linux takes at most 2 GiB less a page.
const WRITE_BYTES_MAX: usize = 1 << 30;

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// A segment under construction. The memory file appears with the first byte.
///
/// Bytes are written with `pwrite`, so no writable mapping ever exists that could keep the file from being sealed.
#[derive(Debug, Default)]
pub struct SegmentWriter {
    file: Option<OwnedFd>,
    length: u64,
}

impl SegmentWriter {
    /// A segment without bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes` at the next multiple of [`ALIGNMENT_BYTES`] and returns where.
    ///
    /// # Errors
    /// [`Error::Memory`] when the kernel has no room.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, Error> {
        if self.file.is_none() {
            self.file = Some(create()?);
        }
        let file = self.file.as_ref().expect("created above");
        let start = self.length.next_multiple_of(ALIGNMENT_BYTES);
        write(file, bytes, start)?;
        self.length = start + bytes.len() as u64;
        Ok(start)
    }

    /// As [`SegmentWriter::append`], but only the ranges `live` of `bytes` are written; the rest is left as holes, which read as
    /// zeros.
    ///
    /// # Errors
    /// As for `append`.
    pub fn append_parts(&mut self, bytes: &[u8], live: &[Range<usize>]) -> Result<u64, Error> {
        let start = self.append(&[])?;
        let file = self.file.as_ref().expect("created by append");
        for range in live {
            write(file, &bytes[range.clone()], start + range.start as u64)?;
        }
        self.length = start + bytes.len() as u64;
        Ok(start)
    }

    /// Bytes so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file and its length; `None` if nothing was written.
    #[must_use]
    pub fn finish(self) -> Option<(OwnedFd, u64)> {
        self.file.map(|file| (file, self.length))
    }
}

fn write(file: &OwnedFd, bytes: &[u8], mut at: u64) -> Result<(), Error> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(WRITE_BYTES_MAX)];
        match rustix::io::pwrite(file, piece, at) {
            Ok(0) => return Err(Error::writing(rest.len() as u64, Errno::NOSPC)),
            Ok(written) => {
                rest = &rest[written..];
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::writing(rest.len() as u64, error)),
        }
    }
    Ok(())
}

/// A memory file that can be sealed, never executed where the kernel knows how (6.3), and is closed by `exec`.
fn create() -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("forebay-segment", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("forebay-segment", flags),
        other => other,
    }
    .map_err(|error| match error {
        Errno::NOMEM => Error::Memory { bytes: 0, source: error },
        other => Error::system("create a segment", other),
    })
}

/// Makes a segment what its table needs and immutable: trims it, then seals it. Says `false` if it cannot be sealed yet, since a
/// process still maps it for writing; to be tried again when that process is gone.
///
/// The writer may still live, without such a mapping. What it does with its descriptor in between is its table's loss only: it
/// cannot write after the seal, and the length is looked at again.
///
/// # Errors
/// [`Error::Frame`] for a length beyond the file or a file that is no memory file, [`Error::System`].
pub fn publish(file: impl AsFd, keep: &Keep) -> Result<bool, Error> {
    let file = file.as_fd();
    trim(file, keep)?;
    match seal(file) {
        Err(Error::System { source, .. }) if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => return Ok(false),
        other => other?,
    }
    if size(file)? == keep.length {
        return Ok(true);
    }
    Err(Error::Frame("a segment that changed while it was published".into()))
}

fn size(file: BorrowedFd<'_>) -> Result<u64, Error> {
    let size = rustix::fs::fstat(file).map_err(|error| Error::system("look at a segment", error))?.st_size;
    Ok(u64::try_from(size).unwrap_or(0))
}

/// Cuts a segment off and erases everything but what is live of it. Whole pages go back to the kernel, what is left of the others
/// is overwritten with zeros.
///
/// To be done when the writer maps it no more and before anybody else is given the file: until then, the writer's heap lies in it.
///
/// # Errors
/// [`Error::Frame`] for a length beyond the file or a file that is no memory file, [`Error::System`].
pub fn trim(file: impl AsFd, keep: &Keep) -> Result<(), Error> {
    let file = file.as_fd();
    fcntl_get_seals(file).map_err(|_| Error::Frame("a segment that is no memory file".into()))?;
    let size = size(file)?;
    if size < keep.length {
        return Err(Error::Frame(format!("a segment of {size} bytes, of which {} are to be kept", keep.length)));
    }
    ftruncate(file, keep.length).map_err(|error| Error::system("trim a segment", error))?;
    let mut gap_start = 0;
    for range in &keep.live {
        punch(file, gap_start..range.start)?;
        gap_start = range.end;
    }
    punch(file, gap_start..keep.length)
}

/// Makes a range read as zeros, and frees the pages that lie in it as a whole.
fn punch(file: BorrowedFd<'_>, gap: Range<u64>) -> Result<(), Error> {
    let (first_page, last_page) = (gap.start.next_multiple_of(PAGE_BYTES), gap.end / PAGE_BYTES * PAGE_BYTES);
    if first_page >= last_page {
        return erase(file, gap);
    }
    if last_page - first_page >= SPLIT_FROM_BYTES {
        // Of a huge page that lies in the gap in part, the kernel zeroes that part, up to 2 MiB, and then splits the page and
        // frees what it zeroed. Split for one page at either end, what is between is freed without.
        free(file, first_page..first_page + PAGE_BYTES)?;
        free(file, last_page - PAGE_BYTES..last_page)?;
    }
    free(file, first_page..last_page)?;
    erase(file, gap.start..first_page)?;
    erase(file, last_page..gap.end)
}

/// Gives whole pages back to the kernel.
fn free(file: BorrowedFd<'_>, pages: Range<u64>) -> Result<(), Error> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, pages.start, pages.end - pages.start).map_err(|error| Error::system("trim a segment", error))
}

/// Overwrites at most two pages with zeros.
fn erase(file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Error> {
    const ZEROS: [u8; 2 * PAGE_BYTES as usize] = [0; 2 * PAGE_BYTES as usize];
    let mut at = range.start;
    while at < range.end {
        let bytes = usize::try_from(range.end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        match rustix::io::pwrite(file, &ZEROS[..bytes], at) {
            Ok(written) => at += written as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::writing(range.end - at, error)),
        }
    }
    Ok(())
}

/// Makes a segment immutable for ever, for everybody. Fails while a writable mapping of it exists.
///
/// # Errors
/// [`Error::System`].
pub fn seal(file: impl AsFd) -> Result<(), Error> {
    match fcntl_add_seals(&file, SEALS) {
        // Sealed before, seals included.
        Err(Errno::PERM) if is_sealed(&file) => Ok(()),
        Err(error) => Err(Error::system("seal a segment", error)),
        Ok(()) => Ok(()),
    }
}

/// Whether the file can neither change nor shrink any more.
pub fn is_sealed(file: impl AsFd) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::WRITE | SealFlags::SHRINK))
}
