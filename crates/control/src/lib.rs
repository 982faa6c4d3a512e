//! The control plane: sessions, jobs, transactions. It plans, schedules and commits, and sees metadata only.
//!
//! ```text
//! client ──unix socket──> server ──> service ──> runs, refs, tables, queries ──> catalog, plan, lake, worker
//! ```
//!
//! - [`home`], [`config`]: where things are, and which settings are in force;
//! - [`api`]: the protocol; [`client`] speaks it, [`server`] answers it;
//! - [`rest`]: the lake as an Iceberg REST catalog for other engines, a server of its own;
//! - [`project`]: immutable copies of sources; `jobs`: records of what ran; `runs`: the transaction.
//!
//! Invariants: no row of user data passes here (functions read and write them, in processes of their own);
//! one daemon per home; a target branch moves once per run, or not at all.

pub mod api;
mod cancel;
pub mod client;
pub mod config;
mod connection;
mod diff;
pub mod error;
mod external;
mod filter;
mod history;
pub mod home;
mod imports;
mod jobs;
mod limits;
mod maintenance;
pub mod project;
mod queries;
mod refs;
mod replay;
pub mod rest;
mod runs;
pub mod secrets;
pub mod server;
mod service;
pub mod settings;
mod snapshots;
pub mod storage;
mod table;
mod table_history;
mod table_plans;
mod tables;
#[cfg(test)]
mod tests;
mod version;

pub use error::Error;
