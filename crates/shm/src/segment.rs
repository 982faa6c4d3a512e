//! Writing a segment, once, and sealing it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

use crate::Error;

/// Buffers in a segment begin at multiples of this many bytes: a cache line, and the widest vector register.
pub const ALIGNMENT_BYTES: u64 = 64;

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
        let mut at = start;
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
