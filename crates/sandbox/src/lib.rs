//! The sandbox of a function: what it may see and use, and the means to keep it there.
//!
//! ```text
//! Policy (what is allowed) ┐
//!                          ├─ plan ─▶ steps      pure
//! Host (what is possible)  ┘            │
//!                                       ▼
//! supervisor ─ Order ─▶ launcher ─ clone ─▶ first process ─ steps, fork, exec ─▶ function
//! ```
//!
//! Invariants: a function ends, with everything it has started, when its first process does, and that one ends with the
//! function, with the supervisor, and at the supervisor's word. What a host lacks is left out of the plan and told, never
//! passed over in silence.
//!
//! A function may also come in as the child of a *zygote*, a warm interpreter in a sandbox of its own: see `zygote`.
//!
//! `unsafe` is allowed in `sys.rs` and `twin.rs` alone: system calls, and the fork into other namespaces.

#![deny(unsafe_code)]

mod child;
mod enter;
mod error;
pub mod filter;
pub mod group;
pub mod host;
mod init;
mod launcher;
pub mod limits;
mod nest;
mod order;
mod planning;
mod policy;
mod step;
#[allow(unsafe_code)]
mod sys;
#[allow(unsafe_code)]
mod twin;
pub mod zygote;

pub use enter::{Refused, enter};
pub use error::Error;
pub use launcher::{Killer, Launcher, OWN_PROGRAM, ROLE, Sandboxed, serve};
pub use order::{Answer, Command, Ending, Order, Refusal, Role, resource};
pub use planning::{Nest, beginning, nest, plan};
pub use policy::{Feature, Host, Identity, Policy};
pub use step::{Bind, Plan, Step};
pub use zygote::Zygote;

/// Waits until a process has ended.
pub fn wait(pidfd: std::os::fd::BorrowedFd<'_>) {
    // It fails for what is no descriptor, which this is.
    let _ = sys::wait_readable([pidfd]);
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod zygote_tests;
