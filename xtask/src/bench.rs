//! `cargo xtask bench [name …]`: runs `bench/<name>.py` in `target/venv`. Each compares A to B in one run on one
//! machine, prints ratios and bytes copied, and appends a line to `bench/history.jsonl`.

use std::process::Command;

use anyhow::Result;

use crate::setup::{path_with, setup};
use crate::{run, step};

/// Runs the named benchmarks, or all.
pub fn bench(names: &[String]) -> Result<()> {
    let paths = setup()?;
    let mut scripts: Vec<_> = std::fs::read_dir(paths.root.join("bench"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "py"))
        .filter(|path| names.is_empty() || names.iter().any(|name| path.file_stem().is_some_and(|stem| stem == name.as_str())))
        .collect();
    scripts.sort();
    for script in scripts {
        step(&format!("bench {}", script.file_stem().unwrap_or_default().to_string_lossy()));
        run(Command::new(&paths.python)
            .current_dir(&paths.root)
            .arg(&script)
            .env("FOREBAY_BIN", &paths.forebay)
            .env("FOREBAY_TEST_CACHE", paths.target.join("test-cache"))
            .env("PATH", path_with(&[&paths.target.join("venv/bin")])))?;
    }
    Ok(())
}
