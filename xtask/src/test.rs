//! `cargo xtask test`: the whole gate. `cargo xtask lint`: rustfmt and clippy.

use std::process::Command;

use anyhow::Result;

use crate::setup::{cargo, path_with, root, setup};
use crate::{run, step, tidy};

/// Tidy, then unit and property tests of every crate, then Python and end-to-end tests against the built binary.
/// Words in `only` go to pytest (`cargo xtask test -k crash`) and leave the crates out.
pub fn test(only: &[String]) -> Result<()> {
    tidy::tidy()?;
    let paths = setup()?;
    if only.is_empty() {
        step("unit and property tests of the crates");
        run(cargo(&paths.root).args(["test", "--release", "--workspace", "--exclude", "forebay-python", "--quiet"]))?;
    }
    step("Python and end-to-end tests");
    run(Command::new(&paths.python)
        .current_dir(&paths.root)
        .args(["-m", "pytest", "-q", "-x", "--durations=10", "-p", "no:cacheprovider"])
        .args(["python/tests", "tests"])
        .args(only)
        .env("FOREBAY_BIN", &paths.forebay)
        .env("FOREBAY_TEST_CACHE", paths.target.join("test-cache"))
        .env("PATH", path_with(&[&paths.target.join("venv/bin")])))?;
    step("all tests passed");
    Ok(())
}

/// Format and lints, warnings as errors.
pub fn lint() -> Result<()> {
    let root = root();
    run(cargo(&root).args(["fmt", "--all", "--check"]))?;
    run(cargo(&root).args(["clippy", "--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}
