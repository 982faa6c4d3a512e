//! `cargo xtask demo`: the tour of `examples/flights`, told by the project itself.
//!
//! A fresh home each time, so that the story is always the same; caches stay, so that the second telling is quick.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::setup::{path_with, setup};
use crate::{run, step};

/// Sets up and runs `examples/flights/tour.py`.
pub fn demo() -> Result<()> {
    let paths = setup()?;
    let demo = paths.target.join("demo");
    let home = demo.join("home");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(&demo)?;
    step("the tour of examples/flights");
    run(Command::new(&paths.python)
        .current_dir(paths.root.join("examples/flights"))
        .arg("tour.py")
        .arg(demo.join("data"))
        .env("FOREBAY_HOME", home)
        .env("FOREBAY_CACHE", demo.join("cache"))
        .env("FOREBAY_BIN", &paths.forebay)
        .env("PATH", path_with(&[&paths.target.join("release"), &paths.target.join("venv/bin")])))
}
