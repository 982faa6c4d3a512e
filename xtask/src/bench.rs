//! `cargo xtask bench [name …] [--option …]`: runs `bench/<name>.py` in `target/venv`, with the options. Each compares
//! A to B in one run on one machine, prints ratios and bytes copied, and appends a line to `bench/history.jsonl`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::setup::{path_with, setup};
use crate::{run, step};

/// Runs the named benchmarks, or all; what follows the first `--option` is theirs.
pub fn bench(arguments: &[String]) -> Result<()> {
    let paths = setup()?;
    let (names, options) =
        arguments.split_at(arguments.iter().position(|word| word.starts_with("--")).unwrap_or(arguments.len()));
    let mut scripts: Vec<_> = std::fs::read_dir(paths.root.join("bench"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "py") && !is_part(path))
        .filter(|path| names.is_empty() || names.iter().any(|name| path.file_stem().is_some_and(|stem| stem == name.as_str())))
        .collect();
    scripts.sort();
    for script in scripts {
        step(&format!("bench {}", script.file_stem().unwrap_or_default().to_string_lossy()));
        run(Command::new(&paths.python)
            .current_dir(&paths.root)
            .arg(&script)
            .args(options)
            .env("FOREBAY_BIN", &paths.forebay)
            .env("FOREBAY_TEST_CACHE", paths.target.join("test-cache"))
            .env("PATH", path_with(&[&paths.target.join("venv/bin")])))?;
    }
    Ok(())
}

/// What benchmarks import is no benchmark.
fn is_part(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('_'))
}
