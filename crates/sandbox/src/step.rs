//! The steps into a sandbox, as values: [`crate::plan`] lists them, [`crate::enter`] takes them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::policy::Feature;

/// Steps in the order in which they are taken, by the first process of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether it starts in a user namespace of its own, in which [`INSIDE_ID`](crate::limits::INSIDE_ID) stands for this user and
    /// group of the outside.
    pub user: Option<(u32, u32)>,
    /// Whether it has process ids of its own, so that everything in it ends with its first process.
    pub processes: bool,
    /// User and group ids, from the first on so many, that stand for themselves in its user namespace: those of its children.
    #[serde(default)]
    pub others: Option<(u32, u32)>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// A file or folder of the host that is there inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Its path, outside and inside.
    pub path: PathBuf,
    /// Whether it may be changed.
    pub write: bool,
}

/// One step. Paths of steps before [`Step::Pivot`] are of the old root, unless they are made: those are of the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Namespaces of its own: mounts and host name, and if wanted network and IPC.
    Unshare {
        /// Mounts and host name.
        files: bool,
        /// Network.
        network: bool,
        /// IPC.
        ipc: bool,
    },
    /// Takes hold of these parts of the host, with the right to read, or to write. While the rights of the supervisor last.
    Sources(Vec<Bind>),
    /// Becomes the user inside.
    Become {
        /// User and group.
        id: u32,
        /// Whether it is in no other groups.
        leave_groups: bool,
    },
    /// Starts the loopback device of its own network.
    Loopback,
    /// Starts a new, empty root in memory.
    Root,
    /// A folder and those above it.
    Folder(PathBuf),
    /// A symbolic link.
    Link {
        /// Where it is.
        path: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// A small file.
    Text {
        /// Where it is.
        path: PathBuf,
        /// What is in it.
        text: String,
    },
    /// Puts the sources to their places.
    Attach,
    /// A file system in memory.
    Memory {
        /// Where.
        path: PathBuf,
        /// How large it gets.
        bytes: u64,
    },
    /// `/proc` of its own processes.
    Proc,
    /// Leaves the old root, and makes the new one read-only.
    Pivot,
    /// Gives up every way to more rights.
    Drop,
    /// Landlock: what may be read, and what changed.
    Landlock {
        /// Version of the kernel's interface.
        version: u32,
        /// Files and folders to read and execute.
        read: Vec<PathBuf>,
        /// Files and folders to change.
        write: Vec<PathBuf>,
    },
    /// Landlock: no signals to, and no abstract sockets of, what is outside.
    Scopes,
    /// Lets go of what is mounted at these paths.
    Forget(Vec<PathBuf>),
    /// Seccomp: forbids the calls of `filter`.
    Calls {
        /// No sockets to other machines, and none to other processes but its own.
        no_sockets: bool,
        /// Namespaces may be joined, by who holds descriptors of them: a zygote's child does.
        joins: bool,
    },
}

impl Step {
    /// The layer that is missing if this step is refused.
    #[must_use]
    pub fn feature(&self) -> Feature {
        match self {
            Self::Unshare { network: true, .. } | Self::Loopback => Feature::Network,
            Self::Unshare { ipc: true, .. } => Feature::Ipc,
            Self::Become { .. } => Feature::Identity,
            Self::Proc => Feature::Processes,
            Self::Landlock { .. } | Self::Scopes => Feature::Landlock,
            Self::Calls { .. } | Self::Drop => Feature::Calls,
            _ => Feature::Files,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unshare { files, network, ipc } => {
                let names = [(files, "mounts"), (network, "network"), (ipc, "ipc")];
                let names: Vec<&str> = names.iter().filter(|(wanted, _)| **wanted).map(|(_, name)| *name).collect();
                write!(f, "namespaces of its own: {}", names.join(", "))
            }
            Self::Sources(binds) => {
                write!(f, "take hold of")?;
                binds.iter().try_for_each(|bind| write!(f, " {}{}", bind.path.display(), if bind.write { "(rw)" } else { "" }))
            }
            Self::Become { id, leave_groups } => write!(f, "become {id}{}", if *leave_groups { " without groups" } else { "" }),
            Self::Loopback => f.write_str("start the loopback device"),
            Self::Root => f.write_str("a new root"),
            Self::Folder(path) => write!(f, "folder {}", path.display()),
            Self::Link { path, to } => write!(f, "link {} -> {}", path.display(), to.display()),
            Self::Text { path, .. } => write!(f, "file {}", path.display()),
            Self::Attach => f.write_str("attach"),
            Self::Memory { path, bytes } => write!(f, "memory {} of {bytes}", path.display()),
            Self::Proc => f.write_str("mount /proc"),
            Self::Pivot => f.write_str("leave the old root"),
            Self::Drop => f.write_str("drop all rights"),
            Self::Landlock { version, read, write } => {
                let list = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
                write!(f, "landlock {version}: read {}; write {}", list(read), list(write))
            }
            Self::Scopes => f.write_str("landlock: nobody outside"),
            Self::Forget(paths) => {
                write!(f, "forget")?;
                paths.iter().try_for_each(|path| write!(f, " {}", path.display()))
            }
            Self::Calls { no_sockets, joins } => {
                let (sockets, but) = (if *no_sockets { " and sockets" } else { "" }, if *joins { ", not joining" } else { "" });
                write!(f, "forbid calls{sockets}{but}")
            }
        }
    }
}
