//! A pipe of a function process, read without blocking and cut into lines of bounded length.

use std::io::{ErrorKind, Read};

use crate::limits::{LOG_BYTES_MAX, LOG_LINE_BYTES_MAX};

/// Which pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What the function printed.
    Stdout,
    /// What it, or a library, wrote to standard error.
    Stderr,
    /// What the platform says of it.
    System,
}

impl Stream {
    /// `stdout`, `stderr` or `system`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::System => "system",
        }
    }
}

/// One pipe and what was read of its last, unfinished line.
pub(crate) struct Lines<R> {
    pub pipe: R,
    pub stream: Stream,
    pub open: bool,
    partial: Vec<u8>,
    passed_bytes: u64,
}

impl<R: Read> Lines<R> {
    pub fn new(pipe: R, stream: Stream) -> Self {
        Self { pipe, stream, open: true, partial: Vec::new(), passed_bytes: 0 }
    }

    /// Reads what is there, at most about one line's bound, so that one loud pipe cannot hold up the other.
    pub fn read(&mut self, on_line: &mut dyn FnMut(Stream, &str)) {
        let mut chunk = [0; 16 * 1024];
        for _ in 0..LOG_LINE_BYTES_MAX / chunk.len() {
            match self.pipe.read(&mut chunk) {
                Ok(0) => {
                    self.open = false;
                    return self.flush(on_line);
                }
                Ok(length) => self.take(&chunk[..length], on_line),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.open = false;
                    return self.flush(on_line);
                }
            }
        }
    }

    /// Reads everything that is left after the writers are gone; a writer that escaped is not waited for.
    pub fn drain(&mut self, on_line: &mut dyn FnMut(Stream, &str)) {
        for _ in 0..64 {
            if !self.open {
                return;
            }
            self.read(on_line);
        }
        self.flush(on_line);
    }

    fn take(&mut self, mut bytes: &[u8], on_line: &mut dyn FnMut(Stream, &str)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            self.pass(on_line);
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LOG_LINE_BYTES_MAX {
            self.pass(on_line);
        }
    }

    fn flush(&mut self, on_line: &mut dyn FnMut(Stream, &str)) {
        if !self.partial.is_empty() {
            self.pass(on_line);
        }
    }

    fn pass(&mut self, on_line: &mut dyn FnMut(Stream, &str)) {
        let line = std::mem::take(&mut self.partial);
        let before = self.passed_bytes;
        self.passed_bytes = before.saturating_add(line.len() as u64 + 1);
        if self.passed_bytes <= LOG_BYTES_MAX {
            let text = String::from_utf8_lossy(&line);
            on_line(self.stream, text.strip_suffix('\r').unwrap_or(&text));
        } else if before <= LOG_BYTES_MAX {
            let notice =
                format!("printed more than {} MiB: the rest of its {} is dropped", LOG_BYTES_MAX >> 20, self.stream.as_str());
            on_line(Stream::System, &notice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(input: &[u8]) -> Vec<(Stream, String)> {
        let mut lines = Lines::new(input, Stream::Stdout);
        let mut seen = Vec::new();
        while lines.open {
            lines.read(&mut |stream, line| seen.push((stream, line.to_owned())));
        }
        seen
    }

    #[test]
    fn lines_are_cut_at_line_ends() {
        let seen: Vec<String> = collect("one\r\n\nthrée\nlast".as_bytes()).into_iter().map(|(_, line)| line).collect();
        assert_eq!(seen, ["one", "", "thrée", "last"]);
        assert_eq!(collect(b"\xff\n")[0].1, "\u{fffd}");
    }

    #[test]
    fn long_lines_are_cut_and_endless_output_is_dropped_with_one_notice() {
        let seen = collect(&vec![b'x'; LOG_LINE_BYTES_MAX * 3]);
        assert!(seen.len() >= 3 && seen.iter().all(|(_, line)| line.len() <= LOG_LINE_BYTES_MAX + 16 * 1024));
        let endless: Vec<u8> = b"yes, and again and again and again\n".repeat(1_000_000);
        let seen = collect(&endless);
        let passed: usize = seen.iter().filter(|(s, _)| *s == Stream::Stdout).map(|(_, line)| line.len() + 1).sum();
        assert!(passed as u64 <= LOG_BYTES_MAX);
        assert_eq!(seen.iter().filter(|(s, _)| *s == Stream::System).count(), 1);
    }
}
