//! What goes between a supervisor and its launcher, and what the first process of a sandbox tells of its end.
//!
//! ```text
//! supervisor ── Order, descriptors of 0, 1, 2 and of `told` ──▶ launcher
//! supervisor ◀── Answer, pidfd of the first process ───────────
//! supervisor ◀── Ending, one line, through `told` ───────────── first process
//! ```

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::policy::Feature;
use crate::step::{Plan, Step};

/// A function to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// How its sandbox is entered.
    pub plan: Plan,
    /// The doors of the groups it joins.
    pub groups: Vec<PathBuf>,
    /// Limits of each of its processes: numbers of `setrlimit`, and values.
    pub limits: Vec<(u32, u64)>,
    /// What is executed; nothing: it ends when its sandbox stands.
    pub command: Option<Command>,
    /// What the first process does when the sandbox stands.
    #[serde(default)]
    pub role: Role,
}

/// What a sandbox is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Role {
    /// One function, executed in it.
    #[default]
    Function,
    /// A zygote: the program is executed after these further steps, and the first process takes orders for its children.
    Zygote {
        /// What is left to give up.
        inside: Vec<Step>,
    },
    /// One function, which comes in as the child of a zygote.
    Child,
}

/// A program with all that it is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Command {
    /// Its path.
    pub program: String,
    /// Its arguments, its own name first.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The folder it starts in.
    pub folder: String,
}

/// What the launcher says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It runs; its process descriptor comes along.
    Started,
    /// It does not.
    Refused(Refusal),
}

/// What was refused, and by what error of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The layer it belongs to; `None`: not the sandbox, but the start of the program.
    pub feature: Option<Feature>,
    /// What was tried, in words.
    pub what: String,
    /// Number of the error.
    pub errno: i32,
}

impl Refusal {
    /// The system's word, and what it was about.
    #[must_use]
    pub fn cause(&self) -> io::Error {
        let error = io::Error::from_raw_os_error(self.errno);
        io::Error::new(error.kind(), format!("could not {}: {error}", self.what))
    }
}

/// How a function ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Its sandbox could not be made, or its program not executed.
    Refused(Refusal),
    /// It ran.
    Ended {
        /// As `wait` tells it.
        status: i32,
        /// The most memory that its first process held, in bytes.
        peak_bytes: u64,
    },
}

/// Numbers of `setrlimit`.
pub mod resource {
    /// Private memory.
    pub const DATA: u32 = 2;
    /// Core files.
    pub const CORE: u32 = 4;
    /// Processes and threads of the user.
    pub const PROCESSES: u32 = 6;
}

/// The numbers above are Linux's on all machines this runs on.
#[cfg(test)]
mod tests {
    use super::resource;

    #[test]
    #[allow(clippy::unnecessary_cast)] // the type differs between C libraries
    fn numbers_of_limits() {
        let system = [libc::RLIMIT_DATA as u32, libc::RLIMIT_CORE as u32, libc::RLIMIT_NPROC as u32];
        assert_eq!([resource::DATA, resource::CORE, resource::PROCESSES], system);
    }
}
