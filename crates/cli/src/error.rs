//! What can go wrong in the command line itself, and how any failure of a command travels to `main`.
//!
//! Errors of other crates arrive as [`api::Error`] and keep their codes; only the `CLI` codes are made here.

use std::path::PathBuf;

use forebay_control::api;
use forebay_types::{Coded, Fault, Report};

/// Code of an answer that makes no sense, or that broke off.
pub const UNREADABLE: &str = "CLI0009";

/// Errors with a `CLI` code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `init` where a project is.
    #[error("could not make a project in `{}`: `{found}` is there already", folder.display())]
    ProjectExists {
        /// The folder.
        folder: PathBuf,
        /// The project file in it.
        found: String,
    },
    /// No project file.
    #[error("could not find a project in `{}`", folder.display())]
    NoProject {
        /// The folder.
        folder: PathBuf,
    },
    /// A project file that cannot be edited.
    #[error("could not edit `{}`", file.display())]
    ProjectFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: String,
    },
    /// A parameter that is not in the project file.
    #[error("could not find the parameter `{name}` in `{}`", file.display())]
    NoParameter {
        /// Its name.
        name: String,
        /// The file.
        file: PathBuf,
        /// Names that are there.
        known: Vec<String>,
    },
    /// A parameter that makes no sense as asked for.
    #[error("could not set the parameter `{name}`: {why}")]
    BadParameter {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// `--to` with an ending that names no form.
    #[error("could not tell the form of `{}` from its ending", file.display())]
    UnknownForm {
        /// The file.
        file: PathBuf,
    },
    /// A result that the form of the file cannot hold.
    #[error("could not write column `{column}` of type {kind} as CSV")]
    NoCsvForm {
        /// The column.
        column: String,
        /// Its Arrow type.
        kind: String,
    },
    /// A file that cannot be read or written.
    #[error("could not {verb} `{}`", file.display())]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
        /// Whether it was named by the user (their fault) or is one of ours.
        fault: Fault,
    },
    /// What came back cannot be understood.
    #[error("could not read the answer of the background process")]
    Answer {
        /// Why.
        why: String,
    },
    /// A job that moved no tables between functions, or did not get to tell.
    #[error("could not explain the job `{id}`")]
    NothingToExplain {
        /// Its id.
        id: String,
        /// Why not.
        why: String,
    },
    /// `explain` in a lake nothing ran in.
    #[error("could not find a run to explain in the lake `{lake}`")]
    NoRun {
        /// URI of the lake.
        lake: String,
    },
    /// A secret whose value cannot be had.
    #[error("could not read the secret `{name}`")]
    NoSecret {
        /// Name of the parameter.
        name: String,
        /// `env:TOKEN`
        place: String,
        /// Why not.
        why: String,
    },
    /// A secret's value where everybody can read it.
    #[error("could not take the value of the secret `{name}` from the command line")]
    SecretInPlain {
        /// Name of the parameter.
        name: String,
    },
    /// Ctrl-C handling cannot be set up, or a thread cannot be started.
    #[error("could not prepare for Ctrl-C")]
    Signals {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// A file the user named could not be used.
    pub fn file(verb: &'static str, file: impl Into<PathBuf>, error: &dyn std::fmt::Display) -> Self {
        Self::File { verb, file: file.into(), why: error.to_string(), fault: Fault::Usage }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::ProjectExists { .. } => "CLI0001",
            Self::NoProject { .. } => "CLI0002",
            Self::ProjectFile { .. } => "CLI0003",
            Self::NoParameter { .. } => "CLI0004",
            Self::BadParameter { .. } => "CLI0005",
            Self::UnknownForm { .. } => "CLI0006",
            Self::NoCsvForm { .. } => "CLI0007",
            Self::File { .. } => "CLI0008",
            Self::Answer { .. } => UNREADABLE,
            Self::Signals { .. } => "CLI0010",
            Self::NothingToExplain { .. } | Self::NoRun { .. } => "CLI0011",
            Self::NoSecret { .. } => "CLI0020",
            Self::SecretInPlain { .. } => "CLI0021",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::NoCsvForm { .. } | Self::NothingToExplain { .. } | Self::NoRun { .. } => Fault::Request,
            Self::File { fault, .. } => *fault,
            Self::Answer { .. } | Self::Signals { .. } => Fault::Platform,
            _ => Fault::Usage,
        }
    }

    fn cause(&self) -> Option<String> {
        match self {
            Self::ProjectFile { why, .. }
            | Self::File { why, .. }
            | Self::Answer { why }
            | Self::NothingToExplain { why, .. } => Some(why.clone()),
            Self::Signals { source } => Some(source.to_string()),
            Self::NoSecret { place, why, .. } => Some(format!("`{place}`: {why}")),
            Self::SecretInPlain { .. } => {
                Some("what is written there is seen by every user of the machine, and kept by the shell".to_owned())
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::ProjectExists { folder, .. } => format!("run it with `forebay run -p {}`", folder.display()),
            Self::NoProject { .. } => "make one with `forebay init`, or name its folder with `--project-dir`".to_owned(),
            Self::ProjectFile { hint, .. } => hint.clone(),
            Self::NoParameter { known, .. } if known.is_empty() => "the project has no parameters".to_owned(),
            Self::NoParameter { known, .. } => {
                let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                format!("its parameters are {}", names.join(", "))
            }
            Self::UnknownForm { .. } => "end it in `.arrow`, `.csv`, `.json`, `.jsonl` or `.parquet`".to_owned(),
            Self::NoCsvForm { .. } => {
                "write `.parquet`, `.arrow`, `.json` or `.jsonl`, or cast the column in the query".to_owned()
            }
            Self::Answer { .. } => {
                "restart the background process with `forebay daemon stop`; the next command starts it".to_owned()
            }
            Self::NothingToExplain { .. } => "list runs with `forebay job ls -k run`".to_owned(),
            Self::NoRun { .. } => "run a project first: `forebay run`".to_owned(),
            Self::NoSecret { name, .. } => format!(
                "put it there, or say where it is: `--param {name}=env:VARIABLE`, `{name}=file:PATH` or `{name}=keyring:SERVICE/USER`"
            ),
            Self::SecretInPlain { name } => {
                format!("say where it is: `--param {name}=env:VARIABLE`, `{name}=file:PATH` or `{name}=keyring:SERVICE/USER`")
            }
            Self::BadParameter { .. } | Self::File { .. } | Self::Signals { .. } => return None,
        })
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        let mut report = Report::new(self.code(), self.fault(), self.to_string());
        report.causes.extend(self.cause());
        report.hint = self.hint();
        report
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// An error to tell.
    Error(Box<api::Error>),
    /// Nobody reads stdout any more (`forebay … | head`): not worth a word.
    StdoutClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(Box::new(error.report().into()))
    }
}

impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Self {
        Self::Error(Box::new(error))
    }
}

impl From<forebay_control::error::Error> for Failure {
    fn from(error: forebay_control::error::Error) -> Self {
        Self::Error(Box::new(error.into()))
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::Error(Box::new(report.into()))
    }
}

/// Results of commands.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let error = Error::UnknownForm { file: "out.xlsx".into() };
        assert_eq!(
            error.report().to_string(),
            "error[CLI0006]: could not tell the form of `out.xlsx` from its ending\n\n\
             hint: end it in `.arrow`, `.csv`, `.json`, `.jsonl` or `.parquet`"
        );
        let error = Error::NoParameter { name: "x".into(), file: "forebay.toml".into(), known: vec!["a".into(), "b".into()] };
        assert_eq!(error.report().hint.as_deref(), Some("its parameters are `a`, `b`"));
        assert_eq!(error.report().fault, Fault::Usage);
    }

    #[test]
    fn what_the_system_refuses_is_the_platforms_fault() {
        let report = Error::Signals { source: std::io::Error::other("too many open files") }.report();
        assert_eq!(report.to_string(), "error[CLI0010]: could not prepare for Ctrl-C\n  Caused by: too many open files");
        assert_eq!(report.fault, Fault::Platform);
    }

    #[test]
    fn each_code_has_a_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        for number in (1..=11).chain([20, 21]) {
            let code = format!("CLI{number:04}");
            let page = std::fs::read_to_string(pages.join(format!("{code}.md"))).unwrap();
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
        }
    }
}
