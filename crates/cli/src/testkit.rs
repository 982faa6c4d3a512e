//! What the tests of several modules need.

use crate::args::{Global, OutputFormat};
use crate::context::Context;
use crate::error::Failure;

/// A silent context.
pub fn context() -> Context {
    Context::new(&Global { profile: None, output: OutputFormat::Tty, quiet: true, verbose: 0 })
}

/// The code of the error a command ended with.
pub fn error_code<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result.unwrap_err() {
        Failure::Error(error) => error.code,
        Failure::StdoutClosed => panic!("stdout was closed"),
    }
}
