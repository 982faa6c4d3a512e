//! `forebay`: the command line, and every role of the program.
//!
//! The same binary is the client (`forebay run`), the background process (`forebay daemon serve`) and, under the
//! hidden names, `forebay function`: the process of one scan, SQL or write node, and `forebay launcher`: the parent of all
//! functions of a daemon. The last two are told apart before the command line is parsed, since they should be light.

mod args;
mod commands;
mod context;
mod error;
mod exit;
mod interrupt;
mod output;
mod render;
mod secrets;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::context::Context;
use crate::error::Failure;
use crate::exit::Exit;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(role) if role == "function" => std::process::exit(forebay_runtime::executor::run()),
        Some(role) if role == forebay_runtime::LAUNCHER_ROLE => {
            forebay_runtime::launch(forebay_runtime::executor::run);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    // clap prints help and usage errors itself, and exits with 0 or 2.
    let cli = Cli::parse();
    let context = Context::new(&cli.global);
    match commands::run(&context, cli.command) {
        Ok(exit) => exit.into(),
        Err(Failure::StdoutClosed) => Exit::Done.into(),
        Err(Failure::Error(error)) => context.tell(&error).into(),
    }
}

/// Serves the heap as usual, until [`forebay_runtime::executor::main`] starts the arena in a function's process.
#[global_allocator]
static ALLOCATOR: forebay_runtime::Allocator = forebay_runtime::Allocator;

#[cfg(test)]
mod testkit;
