//! What stands at pages of a window, and with which protection, as the kernel tells it. Needed when user code has changed some
//! (`mprotect`, `MAP_FIXED`): who maps pages anew must not open what was closed, nor take away what is not the arena's.

use std::ops::Range;

use crate::system::{self, Identity, READ_WRITE};

const BUFFER_BYTES: usize = 4096;
/// What a line of `/proc/self/maps` must fit into; longer ones (paths) are cut.
const LINE_BYTES: usize = 80;

/// Neighbouring pages that have the same of everything.
#[derive(Clone, Debug)]
pub struct Piece {
    pub pages: Range<usize>,
    pub protection: i32,
    /// They show the memory file of the window; else something was mapped over it.
    pub is_ours: bool,
}

/// Pages of a range with their protections, in ascending order.
pub struct Protections {
    whole: Range<usize>,
    ours: Identity,
    file: i32,
    buffer: [u8; BUFFER_BYTES],
    filled: usize,
    next: usize,
    piece: Option<Piece>,
}

impl Protections {
    /// `ours`: the file of the window. `mixed`: not all pages are simply that file's, readable and writable.
    pub fn of(whole: Range<usize>, ours: Identity, mixed: bool) -> Self {
        // SAFETY: the path is a C string; the descriptor is closed by `drop`.
        let open = || unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        let file = if mixed { open() } else { -1 };
        Self { whole, ours, file, buffer: [0; BUFFER_BYTES], filled: 0, next: 0, piece: None }
    }

    /// Calls `found` with pieces that cover `range`. Ranges must be asked for in ascending order.
    pub fn each(&mut self, range: Range<usize>, mut found: impl FnMut(Piece)) {
        let mut at = range.start;
        while at < range.end {
            let mut piece = self.at(at);
            piece.pages = at..piece.pages.end.min(range.end);
            at = piece.pages.end;
            found(piece);
        }
    }

    /// What stands at an address and behind it.
    fn at(&mut self, address: usize) -> Piece {
        let plain = |end| Piece { pages: address..end, protection: READ_WRITE, is_ours: true };
        while self.file >= 0 {
            match &self.piece {
                Some(piece) if piece.pages.contains(&address) => return piece.clone(),
                Some(piece) if piece.pages.start > address => return plain(piece.pages.start),
                _ => {}
            }
            self.piece = self.read_line();
            if self.piece.is_none() {
                system::close(self.file);
                self.file = -1;
            }
        }
        plain(self.whole.end.max(address + 1))
    }

    /// The next line: `7f00-7f10 rw-p 00001000 00:01 1234 ...`: addresses, protection, offset, device, inode.
    fn read_line(&mut self) -> Option<Piece> {
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
        let protection = bits.iter().filter(|(letter, _)| letters.contains(letter)).map(|(_, bit)| bit).sum();
        let mut device = fields.nth(1)?.split(|&byte| byte == b':').map(hexadecimal);
        let device = libc::makedev(device.next()? as u32, device.next()? as u32);
        let inode = fields
            .next()?
            .iter()
            .fold(0u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0'))));
        Some(Piece { pages, protection, is_ours: Identity { device, inode } == self.ours })
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
