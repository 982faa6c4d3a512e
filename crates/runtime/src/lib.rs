//! Function processes, from both ends: how a supervisor starts, calls and buries one, and what our own binary does
//! inside one (scan, SQL, write, import).
//!
//! ```text
//! supervisor   FunctionProcess::spawn ─▶ call ─▶ Answer or Failure, nothing left running
//! function     executor::main: one Call from descriptor 0, one Reply, exit
//! ```
//!
//! Threads and `poll` on the supervisor's side; tokio only inside the executor.

mod builds;
mod cancel;
mod confine;
mod error;
mod exchange;
pub mod executor;
mod import;
pub mod limits;
mod lines;
mod parted;
mod pool;
mod process;
mod python;
mod query;
mod sql;
mod zygote;
mod zygotes;

pub use builds::Builds;
pub use cancel::CancelToken;
pub use confine::{Access, Mode, Sandbox, Settings, query_memory_bytes};
pub use error::Failure;
pub use forebay_sandbox::{Launcher, OWN_PROGRAM, ROLE as LAUNCHER_ROLE, serve as launch};
pub use forebay_shm::arena::{Allocator, gives_huge_pages};
pub use forebay_shm::monotonic_ns;
pub use limits::SPILL_BYTES_MAX;
pub use lines::Stream;
pub use process::{Answer, FunctionProcess, Launch, NewSegment, ProcessLimits, Program, Remains};
pub use python::PythonRuntime;
pub use zygote::installed;
pub use zygotes::{Expected, ZygoteStatus, Zygotes, denied};
