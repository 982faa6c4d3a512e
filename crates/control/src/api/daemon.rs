//! The background process and its warm interpreters, as the protocol says them.

use serde::{Deserialize, Serialize};

/// What a daemon says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Daemon {
    /// Version and build of the program.
    pub version: String,
    pub protocol: u32,
    pub pid: u32,
    pub home: String,
    pub started_at: String,
    pub running_jobs: u64,
    /// Warm interpreters that functions are forked from.
    #[serde(default)]
    pub zygotes: Vec<Zygote>,
}

/// A warm interpreter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Zygote {
    /// Hash of its environment.
    pub environment: String,
    /// What it has imported.
    pub modules: Vec<String>,
    /// `starting`, `ready`, or why there is none.
    pub state: String,
    /// Private memory, its waiting children's included.
    pub bytes: u64,
    /// Children that wait for a call.
    pub waiting: u64,
    /// Functions that were forked from it so far.
    pub forks: u64,
}
