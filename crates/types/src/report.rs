//! One form for every error a user can meet: a code, where, why, and what to do next.
//!
//! Crates keep their own `thiserror` enums; at the edge each becomes a [`Report`] through [`Coded`].
//! A report is rendered in one place only ([`Report`]'s `Display`), as
//!
//! ```text
//! error[PLN0004]: could not find the input `flihgts` of model `delays`
//!   --> models.py:12:9
//!    |     data=forebay.Model("flihgts"),
//!   Caused by: …
//!
//! hint: did you mean `flights`?
//! ```

use std::fmt;

/// A stable error code, three letters of the area and four digits: `PLN0004`. Each has a page in `docs/errors/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub String);

impl From<&str> for Code {
    fn from(code: &str) -> Self {
        Self(code.to_owned())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose turn it is after an error; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request failed: user code, data or a conflict (exit 1).
    Request,
    /// Wrong usage or configuration (exit 2).
    Usage,
    /// The platform failed: disk, process start, a defect of ours (exit 3).
    Platform,
}

impl Fault {
    /// The process exit code of a command that ends with this fault.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Usage => 2,
            Self::Platform => 3,
        }
    }
}

/// A place in a file of the user's project. Line and column count from 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Path relative to the project folder, with `/` separators.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// The text of that line, if at hand.
    pub excerpt: Option<String>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// An error as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Stable code.
    pub code: Code,
    /// "could not <verb> `thing`", without a final stop.
    pub message: String,
    /// The chain of causes, outermost first.
    pub causes: Vec<String>,
    /// The next action, if we know one.
    pub hint: Option<String>,
    /// Where in the user's project.
    pub at: Option<Location>,
    /// Whose fault; decides the exit code.
    pub fault: Fault,
}

impl Report {
    /// A report with a code, a fault and a message; add the rest with the `with_…` methods.
    pub fn new(code: &str, fault: Fault, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), causes: Vec::new(), hint: None, at: None, fault }
    }

    /// Adds one cause to the chain.
    #[must_use]
    pub fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds the chain of `error`'s sources, itself included.
    #[must_use]
    pub fn with_chain(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the place in the project.
    #[must_use]
    pub fn with_location(mut self, at: Location) -> Self {
        self.at = Some(at);
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(at) = &self.at {
            write!(f, "\n  --> {at}")?;
            if let Some(excerpt) = &at.excerpt {
                write!(f, "\n   | {excerpt}")?;
            }
        }
        for cause in &self.causes {
            write!(f, "\n  Caused by: {}", cause.replace('\n', "\n    "))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// What to do when no more files can be opened. The background process raises its soft limit by itself, so the hard one counts.
pub const OPEN_FILES_HINT: &str = "raise the limit of open files (`ulimit -Hn`, `nofile` in /etc/security/limits.conf), then restart \
    the background process with `forebay daemon stop`; or run less at once: every table under way is an open file or more";

/// Whether a system call failed because this process, or the machine, has as many open files as it may.
#[must_use]
pub fn is_out_of_files(error: &std::io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// An error that can be told to a person.
pub trait Coded {
    /// The error as a report.
    fn report(&self) -> Report;
}

impl Coded for Report {
    fn report(&self) -> Report {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_are_known_by_their_number() {
        let error = std::io::Error::from_raw_os_error;
        assert!(is_out_of_files(&error(24)) && is_out_of_files(&error(23)));
        assert!(!is_out_of_files(&error(2)) && !is_out_of_files(&std::io::Error::other("24")));
    }

    #[test]
    fn a_report_reads_top_down() {
        let report = Report::new("PLN0004", Fault::Request, "could not find the input `flihgts`")
            .with_location(Location {
                file: "models.py".into(),
                line: 3,
                column: 9,
                excerpt: Some("data=forebay.Model(\"flihgts\")".into()),
            })
            .with_cause("no such table")
            .with_hint("did you mean `flights`?");
        assert_eq!(
            report.to_string(),
            "error[PLN0004]: could not find the input `flihgts`\n  --> models.py:3:9\n   | data=forebay.Model(\"flihgts\")\n  \
             Caused by: no such table\n\nhint: did you mean `flights`?"
        );
        assert_eq!(report.fault.exit_code(), 1);
    }
}
