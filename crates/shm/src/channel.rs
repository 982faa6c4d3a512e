//! Frames over a unix socket: a JSON header, binary blobs, and file descriptors.
//!
//! ```text
//! u32 magic "FBY1"   u32 header length   u32 blobs B   u32 descriptors D   B × u32 blob length
//! ceil(D / 250) × one byte 0xFD that carries up to 250 descriptors (SCM_RIGHTS)
//! header   blobs
//! ```
//!
//! Numbers are little-endian. Descriptors ride on bytes of their own, because the kernel never merges such messages: a reader
//! knows which byte brings how many. Whatever a peer sends elsewhere the kernel discards. Received descriptors are
//! close-on-exec from the first instant. A peer that goes away is an error of `send`, never a signal.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::Error;

/// Longest header, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 20;
/// Most blobs of a frame.
pub const BLOBS_MAX: usize = 16_384;
/// Longest blob, in bytes.
pub const BLOB_BYTES_MAX: usize = 1 << 30;
/// Most descriptors of a frame.
pub const DESCRIPTORS_MAX: usize = 16_384;

/// Descriptors on one byte; the kernel allows 253.
const DESCRIPTORS_PER_MESSAGE: usize = 250;
const MAGIC: u32 = u32::from_le_bytes(*b"FBY1");
const PRELUDE_BYTES: usize = 16;
const CARRIER: u8 = 0xfd;
/// How often a waiting reader looks up, in milliseconds.
const TICK_MS: u64 = 100;
/// A number well away from 0 to 2 and below the smallest limits of open files.
const STDIN_COPY_MIN: i32 = 60;
/// Room in `sockaddr_un.sun_path`, with its closing zero byte.
const SOCKET_PATH_BYTES: usize = 108;

/// One message.
#[derive(Debug, Default)]
pub struct Frame {
    /// JSON text.
    pub header: Vec<u8>,
    /// Binary parts, in the order the header gives them meaning.
    pub blobs: Vec<Vec<u8>>,
    /// Open files.
    pub fds: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl From<UnixStream> for Channel {
    fn from(stream: UnixStream) -> Self {
        Self { stream }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.stream.into()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self { stream: socket.into() }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// [`Error::Descriptors`] or [`Error::System`].
    pub fn pair() -> Result<(Self, Self), Error> {
        let (a, b) = UnixStream::pair().map_err(|error| system("make a channel", &error))?;
        Ok((a.into(), b.into()))
    }

    /// Connects to a listener at `path`, which may be longer than a socket address.
    ///
    /// # Errors
    /// The error of the system, so that callers can tell "nobody listens" from "no such file".
    pub fn connect(path: &Path) -> io::Result<Self> {
        let (short, _folder) = short_path(path)?;
        Ok(UnixStream::connect(short)?.into())
    }

    /// Takes file descriptor 0 as the channel, and puts `/dev/null` in its place, so that nobody else reads from it.
    /// To be called once, before anything else uses standard input.
    ///
    /// # Errors
    /// [`Error::System`], for example when descriptor 0 is closed.
    pub fn from_stdin() -> Result<Self, Error> {
        let take = || -> Result<OwnedFd, Errno> {
            // SAFETY: descriptor 0 is only borrowed for the calls below; if it is closed they fail with EBADF.
            let stdin = unsafe { BorrowedFd::borrow_raw(0) };
            let socket = rustix::io::fcntl_dupfd_cloexec(stdin, STDIN_COPY_MIN)?;
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            // SAFETY: `dup2` needs an owner of the number it replaces. Nobody owns descriptor 0, it is standard input for the
            // life of the process, so the owner made here is forgotten at once and never closes it.
            let mut target = unsafe { OwnedFd::from_raw_fd(0) };
            let result = rustix::io::dup2(&null, &mut target);
            std::mem::forget(target);
            result.map(|()| socket)
        };
        Ok(take().map_err(|error| Error::system("take the channel from standard input", error))?.into())
    }

    /// Another handle of the same end, for a second thread: one sends while the other receives.
    ///
    /// # Errors
    /// [`Error::Descriptors`] or [`Error::System`].
    pub fn try_clone(&self) -> Result<Self, Error> {
        Ok(self.stream.try_clone().map_err(|error| system("share a channel", &error))?.into())
    }

    /// Ends the connection in both directions: every handle on both sides sees its end.
    pub fn shutdown(&self) {
        // Fails only when it has been shut down before.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Ends the connection in one direction: the other side sees its end after what was sent.
    pub fn shutdown_sending(&self) {
        // Fails only when it has been shut down before.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The user who runs the other side.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn peer_uid(&self) -> Result<u32, Error> {
        let peer = rustix::net::sockopt::socket_peercred(&self.stream);
        Ok(peer.map_err(|error| Error::system("ask who is on the channel", error))?.uid.as_raw())
    }

    /// Sends a frame. Its descriptors are duplicated to the receiver; the frame's own are closed with it.
    ///
    /// # Errors
    /// [`Error::Limit`] before anything is sent; [`Error::Closed`] when nobody receives any more.
    pub fn send(&self, frame: &Frame) -> Result<(), Error> {
        let blobs: Vec<&[u8]> = frame.blobs.iter().map(Vec::as_slice).collect();
        let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(AsFd::as_fd).collect();
        self.send_parts(&frame.header, &blobs, &fds)
    }

    /// Sends a frame made of borrowed parts.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_parts(&self, header: &[u8], blobs: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let within = |what, found: usize, max: usize| match found > max {
            true => Err(Error::Limit { what, found: found as u64, max: max as u64 }),
            false => Ok(()),
        };
        within("header bytes", header.len(), HEADER_BYTES_MAX)?;
        within("blobs", blobs.len(), BLOBS_MAX)?;
        within("descriptors", fds.len(), DESCRIPTORS_MAX)?;
        let mut head = Vec::with_capacity(PRELUDE_BYTES + 4 * blobs.len() + header.len());
        for number in [MAGIC as usize, header.len(), blobs.len(), fds.len()] {
            head.extend_from_slice(&u32::try_from(number).expect("below the limits").to_le_bytes());
        }
        for blob in blobs {
            within("blob bytes", blob.len(), BLOB_BYTES_MAX)?;
            head.extend_from_slice(&u32::try_from(blob.len()).expect("below the limit").to_le_bytes());
        }
        if fds.is_empty() {
            head.extend_from_slice(header);
            self.write(&head)?;
        } else {
            self.write(&head)?;
            fds.chunks(DESCRIPTORS_PER_MESSAGE).try_for_each(|chunk| self.write_fds(chunk))?;
            self.write(header)?;
        }
        blobs.iter().try_for_each(|blob| self.write(blob))
    }

    /// Receives the next frame, or `None` when the other side has closed the channel between frames.
    ///
    /// # Errors
    /// [`Error::Closed`] in the middle of a frame, [`Error::Frame`] for one that breaks the rules.
    pub fn recv(&self) -> Result<Option<Frame>, Error> {
        match self.recv_while(&mut || Ok::<(), std::convert::Infallible>(())) {
            Ok(frame) => frame,
            Err(never) => match never {},
        }
    }

    /// As [`Channel::recv`], and calls `check` about ten times a second while it waits and whenever a signal comes;
    /// an error of `check` ends the wait (the channel is of no use afterwards if a frame had begun).
    ///
    /// # Errors
    /// The outer error is `check`'s.
    pub fn recv_while<E>(&self, check: &mut dyn FnMut() -> Result<(), E>) -> Result<Result<Option<Frame>, Error>, E> {
        let mut reader = Reader { channel: self, check };
        match reader.frame() {
            Ok(frame) => Ok(Ok(frame)),
            Err(Stop::Channel(error)) => Ok(Err(error)),
            Err(Stop::Caller(error)) => Err(error),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::net::send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => self.wait_to_send(error)?,
            }
        }
        Ok(())
    }

    fn write_fds(&self, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "the space is for as many descriptors as a chunk has");
            match sendmsg(&self.stream, &[IoSlice::new(&[CARRIER])], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(error) => self.wait_to_send(error)?,
            }
        }
    }

    /// After a failed send: returns when it is worth another try.
    fn wait_to_send(&self, error: Errno) -> Result<(), Error> {
        match error {
            Errno::INTR => Ok(()),
            Errno::AGAIN => {
                let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
                match poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => Ok(()),
                    Err(error) => Err(Error::system("wait for a channel", error)),
                }
            }
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Err(Error::Closed),
            other => Err(Error::system("send to another process", other)),
        }
    }
}

enum Stop<E> {
    Channel(Error),
    Caller(E),
}

impl<E> From<Error> for Stop<E> {
    fn from(error: Error) -> Self {
        Self::Channel(error)
    }
}

struct Reader<'a, E> {
    channel: &'a Channel,
    check: &'a mut dyn FnMut() -> Result<(), E>,
}

fn broken<E>(why: &str) -> Stop<E> {
    Stop::Channel(Error::Frame(why.to_owned()))
}

impl<E> Reader<'_, E> {
    fn frame(&mut self) -> Result<Option<Frame>, Stop<E>> {
        let mut prelude = [0_u8; PRELUDE_BYTES];
        let first = self.some(&mut prelude)?;
        if first == 0 {
            return Ok(None);
        }
        self.all(&mut prelude[first..])?;
        let mut numbers = prelude.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let [magic, header, blobs, fds] = std::array::from_fn(|_| numbers.next().expect("four numbers in the prelude"));
        let (header, blobs, fds) = (header as usize, blobs as usize, fds as usize);
        if magic != MAGIC {
            return Err(broken("it does not begin like one"));
        }
        if header > HEADER_BYTES_MAX || blobs > BLOBS_MAX || fds > DESCRIPTORS_MAX {
            return Err(broken("it is too big"));
        }
        let lengths = self.bytes(4 * blobs)?;
        let lengths: Vec<usize> =
            lengths.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
        if lengths.iter().any(|length| *length > BLOB_BYTES_MAX) {
            return Err(broken("a blob is too big"));
        }
        let fds = self.fds(fds)?;
        let header = self.bytes(header)?;
        let blobs = lengths.into_iter().map(|length| self.bytes(length)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Frame { header, blobs, fds }))
    }

    /// Reads `count` bytes. Memory grows with what arrives, not with what was announced.
    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, Stop<E>> {
        const STEP: usize = 1 << 20;
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let start = bytes.len();
            bytes.resize(count.min(start + STEP.max(start)), 0);
            self.all(&mut bytes[start..])?;
        }
        Ok(bytes)
    }

    fn all(&mut self, mut target: &mut [u8]) -> Result<(), Stop<E>> {
        while !target.is_empty() {
            let got = self.some(target)?;
            if got == 0 {
                return Err(Error::Closed.into());
            }
            target = &mut target[got..];
        }
        Ok(())
    }

    fn some(&mut self, target: &mut [u8]) -> Result<usize, Stop<E>> {
        self.patiently(|stream| rustix::net::recv(stream, &mut *target, RecvFlags::DONTWAIT).map(|(got, _)| got))
    }

    fn fds(&mut self, count: usize) -> Result<Vec<OwnedFd>, Stop<E>> {
        let mut fds = Vec::new();
        while fds.len() < count {
            let expected = (count - fds.len()).min(DESCRIPTORS_PER_MESSAGE);
            let before = fds.len();
            let carrier = self.patiently(|stream| recv_carrier(stream, &mut fds))?;
            match carrier {
                Some(CARRIER) if fds.len() - before == expected => {}
                Some(CARRIER) if fds.len() - before < expected => {
                    // The kernel drops descriptors that this process has no numbers for.
                    return Err(Error::Descriptors(Errno::MFILE).into());
                }
                Some(_) => return Err(broken("its descriptors are not where they should be")),
                None => return Err(Error::Closed.into()),
            }
        }
        Ok(fds)
    }

    /// Repeats a call that must not block until it has something to return, waiting and checking in between.
    fn patiently<T>(&mut self, mut call: impl FnMut(&UnixStream) -> Result<T, Errno>) -> Result<T, Stop<E>> {
        loop {
            match call(&self.channel.stream) {
                Ok(value) => return Ok(value),
                Err(Errno::INTR) => (self.check)().map_err(Stop::Caller)?,
                Err(Errno::AGAIN) => self.wait()?,
                Err(Errno::CONNRESET) => return Err(Error::Closed.into()),
                Err(error) => return Err(Error::system("receive from another process", error).into()),
            }
        }
    }

    fn wait(&mut self) -> Result<(), Stop<E>> {
        let mut fds = [PollFd::new(&self.channel.stream, PollFlags::IN)];
        let tick = Timespec::try_from(Duration::from_millis(TICK_MS)).expect("a tenth of a second is a time");
        match poll(&mut fds, Some(&tick)) {
            Ok(0) | Err(Errno::INTR) => (self.check)().map_err(Stop::Caller),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::system("wait for a channel", error).into()),
        }
    }
}

/// Receives one byte and the descriptors on it; `None` at the end of the stream.
fn recv_carrier(stream: &UnixStream, fds: &mut Vec<OwnedFd>) -> Result<Option<u8>, Errno> {
    let mut byte = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE + 3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes == 1).then_some(byte[0]))
}

/// A socket that others connect to. The file is not removed when the listener is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
}

impl Listener {
    /// Listens at `path`, which may be longer than a socket address. Only the owner may connect. Whoever calls this has made
    /// sure that nobody else listens there: a file left over at `path` is replaced.
    ///
    /// # Errors
    /// The error of the system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (short, _folder) = short_path(path)?;
        let listener = UnixListener::bind(short)?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
        Ok(Self { listener })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The error of the system.
    pub fn accept(&self) -> io::Result<Channel> {
        self.listener.accept().map(|(stream, _)| stream.into())
    }

    /// Whether [`Listener::accept`] waits. For callers that poll the listener's descriptor.
    ///
    /// # Errors
    /// The error of the system.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.listener.set_nonblocking(nonblocking)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The path itself if it fits a socket address, else one through an open descriptor of its folder, which must stay open.
fn short_path(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if path.as_os_str().len() < SOCKET_PATH_BYTES {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name), Some(folder)))
}

fn system(action: &'static str, error: &io::Error) -> Error {
    Error::system(action, error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}
