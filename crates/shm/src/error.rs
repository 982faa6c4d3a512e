//! What can go wrong with segments and channels.

use forebay_types::{Coded, Fault, OPEN_FILES_HINT, Report};
use rustix::io::Errno;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no memory for another segment, or this process may not have more.
    #[error("there is no memory for {bytes} more bytes of a segment")]
    Memory {
        /// What was wanted.
        bytes: u64,
        /// The kernel's word.
        #[source]
        source: Errno,
    },
    /// A descriptor that is not a segment anybody may map.
    #[error("segment {id} cannot be mapped: {why}")]
    Unsafe {
        /// Identity.
        id: u64,
        /// Not sealed, shorter than declared, not a memory file.
        why: String,
    },
    /// A system call failed.
    #[error("could not {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
    /// The other side went away in the middle of a frame.
    #[error("the other process closed the channel in the middle of a message")]
    Closed,
    /// A frame that breaks the rules of the channel.
    #[error("the other process sent a message that breaks the protocol: {0}")]
    Frame(String),
    /// A frame that is too big to send.
    #[error("{what} of a message: {found} is more than the {max} allowed")]
    Limit {
        /// Part of the frame.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// File descriptors ran out, here or on the way.
    #[error("there are too many open files")]
    Descriptors(#[source] Errno),
    /// What is wrong with a table or its message.
    #[error(transparent)]
    Table(#[from] forebay_sipc::Error),
}

impl Error {
    /// A failed system call, with the failures people can act on told apart.
    pub(crate) fn system(action: &'static str, error: Errno) -> Self {
        match error {
            Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS => Self::Descriptors(error),
            other => Self::System { action, source: other.into() },
        }
    }

    /// An error met while writing `bytes` to a segment.
    pub(crate) fn writing(bytes: u64, error: Errno) -> Self {
        match error {
            Errno::NOMEM | Errno::NOSPC | Errno::FBIG | Errno::DQUOT => Self::Memory { bytes, source: error },
            other => Self::system("write a segment", other),
        }
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        let platform = |code, message: &str| Report::new(code, Fault::Platform, message).with_chain(self);
        match self {
            Self::Memory { .. } => Report::new("IPC0101", Fault::Request, "could not write a table into shared memory")
                .with_chain(self)
                .with_hint("free memory, or make the table smaller: fewer columns, a filter"),
            Self::Unsafe { .. } => platform("IPC0102", "could not open a table's memory"),
            Self::System { .. } => platform("IPC0103", "could not use shared memory"),
            Self::Closed => platform("IPC0104", "could not talk to another process of forebay"),
            Self::Frame(_) => platform("IPC0105", "could not talk to another process of forebay")
                .with_hint("restart the background process: `forebay daemon stop`"),
            Self::Limit { .. } => Report::new("IPC0106", Fault::Request, "could not pass a message on").with_chain(self),
            Self::Descriptors(_) => platform("IPC0107", "could not open another file").with_hint(OPEN_FILES_HINT),
            Self::Table(error) => error.report(),
        }
    }
}
