//! The supervisor's end of a function's channel: one call out, one reply in, on a thread of its own.
//!
//! After the reply the thread waits for the end of the channel, with which a process says that it has let go of its memory.
//! Blocking is harmless there: when the process is gone, [`Exchange::finish`] shuts the channel down, which wakes the
//! thread wherever it waits; what the process had sent before is still received.

use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use forebay_shm::{Channel, Error, Frame};
use forebay_sipc::call::Call;

/// Our end, before the call.
pub(crate) struct Line {
    channel: Channel,
}

impl Line {
    /// Our end, and the descriptor that becomes the child's standard input.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = Channel::pair().map_err(io::Error::other)?;
        Ok((Self { channel: ours }, theirs.into()))
    }
}

/// A call under way.
pub(crate) struct Exchange {
    channel: Channel,
    thread: JoinHandle<Result<Option<Frame>, Error>>,
    done: PipeReader,
}

impl Exchange {
    /// Sends the call and waits for the reply, in the background.
    pub fn start(line: Line, call: &Call, blobs: Vec<Arc<Vec<u8>>>, fds: Vec<Arc<OwnedFd>>) -> io::Result<Self> {
        let header = serde_json::to_vec(call)?;
        let (done, finished) = io::pipe()?;
        let channel = line.channel.try_clone().map_err(io::Error::other)?;
        let thread = std::thread::Builder::new().name("exchange".into()).spawn(move || {
            // Closed when the thread ends, which is what the supervisor's poll sees.
            let mut finished = finished;
            let blobs: Vec<&[u8]> = blobs.iter().map(|blob| blob.as_slice()).collect();
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            line.channel.send_parts(&header, &blobs, &fds)?;
            let reply = line.channel.recv()?;
            if reply.is_some() {
                // Nobody listens to a process that is gone; and what comes after a reply is of no interest but its end.
                let _ = finished.write_all(b"r").and_then(|()| line.channel.recv().map_err(io::Error::other));
            }
            Ok(reply)
        })?;
        Ok(Self { channel, thread, done })
    }

    /// Readable when [`Exchange::news`] has something to say.
    pub fn done(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// What has happened. To be asked when [`Exchange::done`] is readable.
    pub fn news(&self) -> News {
        match (&self.done).read(&mut [0]) {
            Ok(1) => News::Replied,
            _ => News::Over,
        }
    }

    /// To be called when the process is gone or the channel at its end: the reply, `None` if it closed the channel without one, or what went wrong.
    pub fn finish(self) -> Result<Option<Frame>, Broken> {
        self.channel.shutdown();
        match self.thread.join() {
            Ok(Err(error @ Error::Descriptors(_))) => Err(Broken::OutOfFiles(error)),
            Ok(result) => result.map_err(|error| Broken::Other(chain(&error))),
            Err(_) => Err(Broken::Other("the exchange panicked".into())),
        }
    }
}

/// A step of an exchange.
pub(crate) enum News {
    /// There is a reply.
    Replied,
    /// The process has ended the channel, after its reply or without one.
    Over,
}

/// Why there is no reply although there may have been one.
pub(crate) enum Broken {
    /// This process had no room for the descriptors that came with it.
    OutOfFiles(Error),
    /// Anything else, in words.
    Other(String),
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
