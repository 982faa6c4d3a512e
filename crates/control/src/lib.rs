//! Control plane (being built).
pub mod api;
