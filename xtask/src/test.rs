//! `cargo xtask test`: the whole gate. `cargo xtask lint`: rustfmt and clippy. `cargo xtask sanitize`: the arena under sanitizers.

use std::process::Command;

use anyhow::{Result, bail};

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

/// The arena's tests under `address` or `thread`, with the pinned compiler and its own standard library (which is not
/// instrumented: what ThreadSanitizer makes of its channels is suppressed). In a target folder of its own.
pub fn sanitize(which: &str) -> Result<()> {
    if !["address", "thread"].contains(&which) {
        bail!("`{which}` is no sanitizer for the arena: say `address` or `thread`");
    }
    let root = root();
    let suppressions = root.join("crates/arena/sanitizer.supp");
    step(&format!("tests of the arena under the {which} sanitizer"));
    run(cargo(&root)
        // Told the target, cargo builds nothing for the host with these flags.
        .args([
            "test",
            "--release",
            "-p",
            "forebay-arena",
            "--lib",
            "--target",
            &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-Zsanitizer={which} -Cunsafe-allow-abi-mismatch=sanitizer"))
        .env("CARGO_TARGET_DIR", root.join("target/sanitize").join(which))
        .env("ASAN_OPTIONS", "detect_leaks=0")
        // Its children, forked from several threads, go on as the arena's users do.
        .env("TSAN_OPTIONS", format!("die_after_fork=0 suppressions={}", suppressions.display())))
}

/// Format and lints, warnings as errors.
pub fn lint() -> Result<()> {
    let root = root();
    run(cargo(&root).args(["fmt", "--all", "--check"]))?;
    run(cargo(&root).args(["clippy", "--release", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}
