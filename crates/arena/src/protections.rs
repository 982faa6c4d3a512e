//! The protections of pages, as the kernel tells them. Needed when user code has changed some (`mprotect`): a freeze maps pages
//! anew, and must not open what was closed.

use std::ops::Range;

use crate::system::{self, READ_WRITE};

const BUFFER_BYTES: usize = 4096;
/// What a line of `/proc/self/maps` must fit into; longer ones (paths) are cut.
const LINE_BYTES: usize = 80;

/// Pages of a range with their protections, in ascending order.
pub struct Protections {
    whole: Range<usize>,
    file: i32,
    buffer: [u8; BUFFER_BYTES],
    filled: usize,
    next: usize,
    piece: Option<(Range<usize>, i32)>,
}

impl Protections {
    /// `mixed`: not all pages are simply readable and writable.
    pub fn of(whole: Range<usize>, mixed: bool) -> Self {
        // SAFETY: the path is a C string; the descriptor is closed by `drop`.
        let open = || unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        let file = if mixed { open() } else { -1 };
        Self { whole, file, buffer: [0; BUFFER_BYTES], filled: 0, next: 0, piece: None }
    }

    /// Calls `found` with pieces that cover `range`. Ranges must be asked for in ascending order.
    pub fn each(&mut self, range: Range<usize>, mut found: impl FnMut(Range<usize>, i32)) {
        let mut at = range.start;
        while at < range.end {
            let (end, protection) = self.at(at);
            let end = end.min(range.end);
            found(at..end, protection);
            at = end;
        }
    }

    /// The protection at an address, and where it ends.
    fn at(&mut self, address: usize) -> (usize, i32) {
        while self.file >= 0 {
            match &self.piece {
                Some((pages, protection)) if pages.contains(&address) => return (pages.end, *protection),
                Some((pages, _)) if pages.start > address => return (pages.start, READ_WRITE),
                _ => {}
            }
            self.piece = self.read_line();
            if self.piece.is_none() {
                system::close(self.file);
                self.file = -1;
            }
        }
        (self.whole.end.max(address + 1), READ_WRITE)
    }

    /// The next line: `7f00-7f10 rw-p ...`.
    fn read_line(&mut self) -> Option<(Range<usize>, i32)> {
        let mut line = [0u8; LINE_BYTES];
        let mut length = 0;
        loop {
            let byte = self.read_byte()?;
            if byte == b'\n' {
                break;
            }
            if length < LINE_BYTES {
                line[length] = byte;
                length += 1;
            }
        }
        let mut fields = line[..length].split(|&byte| byte == b' ');
        let mut ends = fields.next()?.split(|&byte| byte == b'-').map(hexadecimal);
        let pages = ends.next()?..ends.next()?;
        let letters = fields.next()?;
        let bits = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
        Some((pages, bits.iter().filter(|(letter, _)| letters.contains(letter)).map(|(_, bit)| bit).sum()))
    }

    fn read_byte(&mut self) -> Option<u8> {
        if self.next == self.filled {
            // SAFETY: the buffer has room for as many bytes as asked for.
            let read = unsafe { libc::read(self.file, self.buffer.as_mut_ptr().cast(), BUFFER_BYTES) };
            self.filled = usize::try_from(read).ok().filter(|&read| read > 0)?;
            self.next = 0;
        }
        self.next += 1;
        Some(self.buffer[self.next - 1])
    }
}

impl Drop for Protections {
    fn drop(&mut self) {
        if self.file >= 0 {
            system::close(self.file);
        }
    }
}

fn hexadecimal(digits: &[u8]) -> usize {
    digits.iter().fold(0, |value, digit| value << 4 | (*digit as char).to_digit(16).unwrap_or(0) as usize)
}
