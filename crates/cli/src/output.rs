//! The two voices of a command: stdout for data, stderr for talk.
//!
//! Invariants: nothing else in this crate writes to either; a closed stdout ends a command quietly, a closed
//! stderr is ignored; no colour unless the stream is a terminal and `NO_COLOR` is unset.

use std::io::{ErrorKind, IsTerminal, Write};

use serde_json::{Map, Value, json};

use crate::args::{Global, OutputFormat};
use crate::error::{Failure, Result};
use crate::render::style::Style;

/// Version of the objects that `-o json` prints.
pub const SCHEMA: u32 = 1;

/// Where a command speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// For people or programs.
    pub format: OutputFormat,
    /// Colours of stdout.
    pub data_style: Style,
    /// Colours of stderr.
    pub talk_style: Style,
    /// Whether stderr may be redrawn: a terminal, and no CI.
    pub animated: bool,
    quiet: bool,
    verbose: u8,
}

impl Output {
    /// From the options and the process' streams and variables.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = |terminal: bool| Style { colour: terminal && !set("NO_COLOR") && !dumb };
        let stderr = std::io::stderr().is_terminal();
        Self {
            format: global.output,
            data_style: colour(std::io::stdout().is_terminal()),
            talk_style: colour(stderr),
            animated: stderr && !dumb && !set("CI") && !global.quiet,
            quiet: global.quiet,
            verbose: global.verbose,
        }
    }

    /// Whether stdout is for a program.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Whether more talk is wanted.
    #[must_use]
    pub fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Data: `text` and a line end, unless it has one or is empty.
    pub fn data(&self, text: &str) -> Result<()> {
        self.stream(|out| {
            out.write_all(text.as_bytes())?;
            if text.is_empty() || text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") }
        })
    }

    /// Data written piece by piece.
    pub fn stream(&self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        write(&mut out).and_then(|()| out.flush()).map_err(|error| stdout_failure(&error))
    }

    /// Data written piece by piece by something that may fail for other reasons. What was written before leaves in any case.
    pub fn stream_to(&self, write: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<()> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let written = write(&mut out);
        let flushed = out.flush().map_err(|error| stdout_failure(&error));
        written.and(flushed)
    }

    /// Data for a program: one object, with the version of its shape first.
    pub fn object(&self, fields: Value) -> Result<()> {
        self.data(&versioned(fields).to_string())
    }

    /// Talk: a line on stderr, unless `--quiet`.
    pub fn talk(&self, text: &str) {
        if !self.quiet {
            self.insist(text);
        }
    }

    /// Talk that `--quiet` does not silence: errors.
    pub fn insist(&self, text: &str) {
        // Nobody to tell if stderr is gone.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// A failed write to stdout.
pub fn stdout_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::StdoutClosed,
        _ => crate::error::Error::file("write", "stdout", error).into(),
    }
}

/// The object with `"schema": 1` in front; what is not an object becomes the field `value`.
#[must_use]
pub fn versioned(fields: Value) -> Value {
    let mut object = Map::from_iter([("schema".to_owned(), json!(SCHEMA))]);
    match fields {
        Value::Object(fields) => object.extend(fields.into_iter().filter(|(name, _)| name != "schema")),
        other => object.extend([("value".to_owned(), other)]),
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_carry_their_version_first() {
        assert_eq!(versioned(json!({"b": 1, "a": 2})).to_string(), r#"{"schema":1,"b":1,"a":2}"#);
        assert_eq!(versioned(json!({"a": 2, "schema": 7})).to_string(), r#"{"schema":1,"a":2}"#);
        assert_eq!(versioned(json!([1])).to_string(), r#"{"schema":1,"value":[1]}"#);
    }
}
