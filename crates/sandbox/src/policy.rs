//! What a function may do, and what its host can enforce: values, without any deed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What one function may see and use. Paths are the same inside as outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Files and folders it may read and execute, beside the system's libraries and programs.
    pub read: Vec<PathBuf>,
    /// Files and folders it may change.
    pub write: Vec<PathBuf>,
    /// Symbolic links that must be there, and where they lead.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Whether it may reach the network.
    pub internet: bool,
    /// As whom it runs.
    pub identity: Identity,
    /// Bytes of `/tmp`, and of `/dev/shm`.
    pub tmp_bytes: u64,
    /// Processes and threads.
    pub processes_max: u64,
}

/// As whom a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// As a user nobody else is, where the supervisor has root's rights; else as [`Identity::Own`]. For user code.
    Apart,
    /// As the user who runs the supervisor: what it writes belongs to them. For our own code, which landlock is not asked to keep in.
    Own,
}

/// One layer of protection. A host may lack some; each then is reported with what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// A user namespace: the ground of all others.
    Users,
    /// A user of its own, where the supervisor is root.
    Identity,
    /// A root file system that holds nothing but what was allowed.
    Files,
    /// Process ids of its own, and the death of all of them with the first.
    Processes,
    /// No network.
    Network,
    /// Message queues and shared memory of its own.
    Ipc,
    /// Landlock: the kernel's rules for paths, signals and sockets.
    Landlock,
    /// Seccomp: system calls that no function needs.
    Calls,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Users, Self::Identity, Self::Files, Self::Processes, Self::Network, Self::Ipc, Self::Landlock, Self::Calls];

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "user namespaces",
            Self::Identity => "a user id of its own",
            Self::Files => "a root file system of its own",
            Self::Processes => "process ids of its own",
            Self::Network => "a network of its own",
            Self::Ipc => "message queues of its own",
            Self::Landlock => "landlock",
            Self::Calls => "seccomp",
        }
    }

    /// How to allow it on this host.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Users => {
                "allow user namespaces: `sysctl user.max_user_namespaces=10000`, on Debian `sysctl kernel.unprivileged_userns_clone=1`, on \
                 Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; in a container, run it with `--security-opt seccomp=unconfined`"
            }
            Self::Identity => "map more than one user id into the container this runs in, or run it as an ordinary user",
            Self::Files | Self::Processes => {
                "use Linux 5.12 or newer and let user namespaces mount; in a container, run it with `--security-opt systempaths=unconfined`"
            }
            Self::Network | Self::Ipc => {
                "allow network and IPC namespaces: `sysctl user.max_net_namespaces`, `sysctl user.max_ipc_namespaces`"
            }
            Self::Landlock => "use Linux 5.13 or newer with `landlock` in the kernel's `lsm=` parameter",
            Self::Calls => "use a kernel with `CONFIG_SECCOMP_FILTER`",
        }
    }

    /// Layers that cannot be without this one.
    fn needed_by(self) -> &'static [Self] {
        match self {
            Self::Users => &[Self::Identity, Self::Files, Self::Processes, Self::Network, Self::Ipc],
            Self::Files => &[Self::Processes],
            _ => &[],
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a host allows, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// User and group of the supervisor.
    pub uid: u32,
    /// Group of the supervisor.
    pub gid: u32,
    /// Version of landlock; 0: none.
    pub landlock: u32,
    /// Folders and files of the system that every function may read.
    pub system: Vec<PathBuf>,
    /// Symbolic links of the system (`/lib` to `usr/lib`).
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Name servers, as in `/etc/resolv.conf`.
    pub resolv: String,
    /// What is not possible here, and why.
    pub lost: BTreeMap<Feature, String>,
}

impl Host {
    /// Whether the layer is there.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        !self.lost.contains_key(&feature)
    }

    /// Takes note that a layer is not possible, and with it those that need it.
    pub fn lose(&mut self, feature: Feature, why: &str) {
        self.lost.entry(feature).or_insert_with(|| why.to_owned());
        for other in feature.needed_by() {
            self.lost.entry(*other).or_insert_with(|| format!("it needs {feature}"));
        }
    }

    /// Whether a path is the system's, and therefore readable anyway.
    #[must_use]
    pub fn is_system(&self, path: &Path) -> bool {
        self.system.iter().any(|folder| path.starts_with(folder))
    }
}
