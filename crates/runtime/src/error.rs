//! How a function can end without a result, and what to tell its author.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use forebay_types::{Code, Coded, Fault, OPEN_FILES_HINT, Report, is_out_of_files};

/// A function did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It said so itself: user code raised, a query failed, the lake refused.
    #[error("{}", .report.message)]
    Told {
        /// What it says.
        report: Box<Report>,
        /// The user's traceback, trimmed to their frames.
        traceback: Option<String>,
    },
    /// The process ended without a reply.
    #[error("`{node}` exited with code {code} before returning")]
    Exited {
        /// The node.
        node: String,
        /// Exit code.
        code: i32,
    },
    /// The process was killed.
    #[error("`{node}` was killed by signal {signal} ({})", signal_name(*.signal))]
    Killed {
        /// The node.
        node: String,
        /// Signal number.
        signal: i32,
        /// Its memory limit, if it had one.
        memory_bytes: Option<u64>,
    },
    /// It ran longer than it may.
    #[error("`{node}` ran longer than its limit of {} s", .limit.as_secs())]
    TimedOut {
        /// The node.
        node: String,
        /// Its limit.
        limit: Duration,
    },
    /// The run was cancelled, by the user or because another function failed.
    #[error("`{node}` was cancelled")]
    Cancelled {
        /// The node.
        node: String,
    },
    /// The process could not be started.
    #[error("could not start the process of `{node}`")]
    Start {
        /// The node.
        node: String,
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its answer makes no sense.
    #[error("could not read the answer of `{node}`")]
    Answer {
        /// The node.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// The Python package that runs functions is not there, or cannot be copied.
    #[error("could not find the Python side of Forebay")]
    Runtime {
        /// Where it was looked for, or what failed.
        why: String,
    },
}

impl Failure {
    /// The user's traceback, if their code raised.
    #[must_use]
    pub fn traceback(&self) -> Option<&str> {
        match self {
            Self::Told { traceback, .. } => traceback.as_deref(),
            _ => None,
        }
    }

    /// Whether it ended because somebody gave up, not because of itself.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. })
    }
}

impl Coded for Failure {
    fn report(&self) -> Report {
        let message = self.to_string();
        match self {
            Self::Told { report, .. } => (**report).clone(),
            Self::Exited { code, .. } => {
                let report = Report::new("RUN0010", Fault::Request, message);
                match code {
                    0 => report.with_hint("do not call `sys.exit()`, `exit()` or `os._exit()` in a function: return its result"),
                    _ => report.with_hint("look for `sys.exit()` or `os._exit()` in the function, and at its last printed lines"),
                }
            }
            Self::Killed { signal, memory_bytes, .. } => killed(message, *signal, *memory_bytes),
            Self::TimedOut { limit, .. } => Report::new("RUN0012", Fault::Request, message).with_hint(format!(
                "give it more time with `@forebay.resources(timeout={})`, or less to do",
                limit.as_secs().saturating_mul(2).max(1)
            )),
            Self::Cancelled { .. } => Report::new("RUN0013", Fault::Request, message),
            Self::Start { program, source, .. } => Report::new("RUN0014", Fault::Platform, message)
                .with_cause(format!("`{}`: {source}", program.display()))
                .with_hint(match lacks_files(source) {
                    true => OPEN_FILES_HINT,
                    false => "check the limits on processes and open files (`ulimit -a`), and free memory",
                }),
            Self::Answer { why, .. } => Report::new("RUN0015", Fault::Platform, message)
                .with_cause(why)
                .with_hint("user code must leave file descriptor 0 alone; otherwise this is a defect of Forebay"),
            Self::Runtime { why } => Report::new("RUN0016", Fault::Platform, message).with_cause(why).with_hint(
                "install the package again (`pip install .`), or name the folder that holds `forebay/` in FOREBAY_RUNTIME",
            ),
        }
    }
}

/// Whether it was open files that ran out: told by the system, or by a channel that met it.
fn lacks_files(error: &io::Error) -> bool {
    let channel = error.get_ref().and_then(|inner| inner.downcast_ref::<forebay_shm::Error>());
    is_out_of_files(error) || matches!(channel, Some(forebay_shm::Error::Descriptors(_)))
}

fn killed(message: String, signal: i32, memory_bytes: Option<u64>) -> Report {
    let report = Report::new("RUN0011", Fault::Request, message);
    let limit = memory_bytes.map_or(String::new(), |bytes| format!(" (its limit is {} MiB)", bytes >> 20));
    match signal {
        9 => report.with_hint(format!("the system kills a process that uses too much memory{limit}: read fewer columns or rows, or give it more with `@forebay.resources(memory=…)`")),
        11 | 7 | 6 | 4 => report.with_hint(format!("a native library crashed{limit}: try another version of the packages the function uses, and less data")),
        _ => report.with_hint("look at its last printed lines"),
    }
}

/// `SIGKILL` for 9.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => "see `kill -l`",
    }
}

/// The `Failed` reply as a failure.
pub(crate) fn told(
    code: String,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    traceback: Option<String>,
    fault: &str,
) -> Failure {
    let fault = match fault {
        "platform" => Fault::Platform,
        "usage" => Fault::Usage,
        _ => Fault::Request,
    };
    let report = Report { code: Code(code), message, causes, hint, at: None, fault };
    Failure::Told { report: Box::new(report), traceback }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_its_code_and_says_who() {
        let node = || "daily".to_owned();
        let cases = [
            (Failure::Exited { node: node(), code: 3 }, "RUN0010", "`daily` exited with code 3 before returning"),
            (
                Failure::Killed { node: node(), signal: 9, memory_bytes: Some(1 << 30) },
                "RUN0011",
                "`daily` was killed by signal 9 (SIGKILL)",
            ),
            (
                Failure::TimedOut { node: node(), limit: Duration::from_secs(2) },
                "RUN0012",
                "`daily` ran longer than its limit of 2 s",
            ),
            (Failure::Cancelled { node: node() }, "RUN0013", "`daily` was cancelled"),
            (
                Failure::Start { node: node(), program: "/x".into(), source: io::Error::other("no") },
                "RUN0014",
                "could not start the process of `daily`",
            ),
            (Failure::Answer { node: node(), why: String::new() }, "RUN0015", "could not read the answer of `daily`"),
            (Failure::Runtime { why: String::new() }, "RUN0016", "could not find the Python side of Forebay"),
        ];
        for (failure, code, message) in cases {
            let report = failure.report();
            assert_eq!((report.code.0.as_str(), report.message.as_str()), (code, message));
        }
        let report = |source| Failure::Start { node: node(), program: "/x".into(), source }.report();
        let out_of_files = || io::Error::from_raw_os_error(24);
        for source in [out_of_files(), io::Error::other(forebay_shm::Error::Descriptors(rustix::io::Errno::MFILE))] {
            assert_eq!(report(source).hint.as_deref(), Some(OPEN_FILES_HINT));
        }
        assert!(report(io::Error::other("no")).hint.unwrap().contains("ulimit -a"));
        let report = Failure::Killed { node: node(), signal: 9, memory_bytes: Some(1 << 30) }.report();
        assert!(report.hint.unwrap().contains("1024 MiB"));
    }
}
