//! The two commands of the README, and what they are made of.
//!
//! ```text
//! cargo xtask demo    set up, then the tour of examples/flights
//! cargo xtask test    set up, then tidy, unit, property and end-to-end tests
//! ```
//!
//! Everything lands under `target/`; the machine needs Rust and Python 3.11 with pip, nothing else.

mod bench;
mod demo;
mod setup;
mod test;
mod tidy;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

const HELP: &str = "\
usage: cargo xtask <command>

  demo    build, set up and run the tour of examples/flights
  test    build, set up and run every test (what CI runs)
  tidy    check the house rules only (no build)
  sanitize  address | thread: the arena's tests, its stress test included, under that sanitizer
  lint    rustfmt and clippy, warnings are errors
  setup   build target/release/forebay and target/venv, nothing else
  bench   run the benchmarks in bench/ and append to their history: bench [name ...] [--quick ...]
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let done = match arguments.first().map(String::as_str) {
        Some("demo") => demo::demo(),
        Some("test") => test::test(rest),
        Some("tidy") => tidy::tidy(),
        Some("lint") => test::lint(),
        Some("sanitize") => test::sanitize(rest.first().map_or("address", String::as_str)),
        Some("setup") => setup::setup().map(|_| ()),
        Some("bench") => bench::bench(rest),
        _ => {
            say(HELP);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Talk goes to stderr.
#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprint!("{text}");
}

/// Prints a step, so that long work is never silent.
fn step(text: &str) {
    say(&format!("==> {text}\n"));
}

/// Runs a command to its end; its failure is ours.
fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("could not start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}
