//! Named bounds of a run.

/// Functions of one run: `step` is linear in them.
pub const TASKS_MAX: usize = 10_000;
