//! The Iceberg REST catalog: every branch of a lake as a catalog of its own, at `/iceberg/{ref}`, for other engines.
//!
//! ```text
//! PyIceberg, DuckDB, … ──HTTP──> server ──> route ──> access ──> site ──> lake::foreign (what becomes of a table)
//!                                                                   └───> catalog (one commit a request)
//! ```
//!
//! - [`server`]: the HTTP shell: connections, limits, threads; it decides nothing;
//! - `route`: what a method and a path ask for (pure); `access`: who may (pure);
//! - `site`: the lake as the protocol sees it; `tables`, `namespaces`: its requests;
//! - `error`: errors with the statuses and types that clients know; `token`: the token of a home; `hello`: what to paste into a client.
//!
//! Invariants: a request that writes is one commit of the catalog, whatever the number of its tables, with the rules of every
//! other commit (protected branches, failed runs, history); a request sent twice is done once; what a request says of one
//! table is checked against the state of that table the commit is put upon; tags and commits are only read; nothing of a
//! table but its metadata is looked at; the server is a process of its own, which shares nothing with the daemon but the lake.

mod access;
mod error;
mod hello;
mod namespaces;
mod route;
mod server;
mod site;
mod tables;
#[cfg(test)]
mod tests;
mod token;

pub use access::Access;
pub use error::Error;
pub use hello::hello;
pub use server::{Options, Server};
pub use token::token_of;
