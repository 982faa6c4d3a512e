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
        /// What it printed last.
        last_lines: Vec<String>,
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
        /// What it printed last.
        last_lines: Vec<String>,
    },
    /// The kernel killed it because it used more memory than it may.
    #[error("`{node}` used more memory than its limit of {}", size(.memory.limit_bytes))]
    OutOfMemory {
        /// The node.
        node: String,
        /// Limit and use.
        memory: Memory,
        /// What it printed last.
        last_lines: Vec<String>,
    },
    /// It ran longer than it may.
    #[error("`{node}` ran longer than its limit of {} s", .limit.as_secs())]
    TimedOut {
        /// The node.
        node: String,
        /// Its limit.
        limit: Duration,
        /// What it printed last.
        last_lines: Vec<String>,
    },
    /// The host cannot give it the sandbox that is asked for.
    #[error("could not run `{node}` in the strict sandbox")]
    Strict {
        /// The node.
        node: String,
        /// What is missing.
        missing: Vec<String>,
    },
    /// Its sandbox could not be made.
    #[error("could not make the sandbox of `{node}`")]
    Sandbox {
        /// The node.
        node: String,
        /// The layer.
        layer: &'static str,
        /// The step that failed.
        step: String,
        /// The cause.
        source: io::Error,
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

/// What a function may use of memory, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Its limit, in bytes.
    pub limit_bytes: u64,
    /// The most it used at a time, in bytes, if that is known.
    pub peak_bytes: Option<u64>,
}

impl Memory {
    fn hint(&self) -> String {
        let more = (self.limit_bytes >> 20).saturating_mul(2).max(1);
        format!(
            "read fewer columns or rows, or give it more: `@forebay.resources(memory=\"{more}MiB\")`, or `forebay run --memory {more}MiB`"
        )
    }
}

impl Failure {
    /// A refused step of the sandbox.
    pub(crate) fn sandbox(node: String, refusal: forebay_sandbox::Refusal) -> Self {
        let layer = refusal.feature.map_or("the process", forebay_sandbox::Feature::name);
        Self::Sandbox { node, layer, step: refusal.what, source: io::Error::from_raw_os_error(refusal.errno) }
    }

    /// With a word on memory, if a process of the function was killed for it.
    pub(crate) fn beside(mut self, memory: Option<Memory>) -> Self {
        if let (Self::Told { report, .. }, Some(memory)) = (&mut self, memory) {
            let limit = size(memory.limit_bytes);
            report.causes.push(format!(
                "a process that it had started was killed: together they used more memory than the limit of {limit}"
            ));
            report.hint.get_or_insert_with(|| memory.hint());
        }
        self
    }

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
            Self::Exited { code, last_lines, .. } => {
                let report = printed(Report::new("RUN0010", Fault::Request, message), last_lines);
                match code {
                    0 => report.with_hint("do not call `sys.exit()`, `exit()` or `os._exit()` in a function: return its result"),
                    _ => report.with_hint("look for `sys.exit()` or `os._exit()` in the function, and at its last printed lines"),
                }
            }
            Self::Killed { signal, memory_bytes, last_lines, .. } => printed(killed(message, *signal, *memory_bytes), last_lines),
            Self::OutOfMemory { memory, last_lines, .. } => {
                let report = Report::new("RUN0031", Fault::Request, message);
                let report = match memory.peak_bytes {
                    Some(peak) => report.with_cause(format!("at most it used {} at a time", size(peak))),
                    None => report,
                };
                printed(report, last_lines).with_hint(memory.hint())
            }
            Self::Strict { missing, .. } => {
                let report = Report::new("RUN0030", Fault::Platform, message);
                let report =
                    missing.iter().fold(report, |report, missing| report.with_cause(format!("this host has no {missing}")));
                report.with_hint(
                    "`forebay doctor` says how to allow it; or set `mode = \"auto\"` in `[sandbox]` of the configuration",
                )
            }
            Self::Sandbox { layer, step, source, .. } => Report::new("RUN0032", Fault::Platform, message)
                .with_cause(format!("{layer}: could not {step}: {source}"))
                .with_hint("run `forebay doctor`, which tries every layer; free memory and process ids if they have run out"),
            Self::TimedOut { limit, last_lines, .. } => printed(Report::new("RUN0012", Fault::Request, message), last_lines)
                .with_hint(format!(
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

/// With what the function printed last.
fn printed(report: Report, last_lines: &[String]) -> Report {
    if last_lines.is_empty() { report } else { report.with_cause(format!("it printed last: {}", last_lines.join(" ⏎ "))) }
}

/// `300 MiB`
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 10 << 30 => format!("{} GiB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes => format!("{bytes} bytes"),
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
            (
                Failure::Exited { node: node(), code: 3, last_lines: vec![] },
                "RUN0010",
                "`daily` exited with code 3 before returning",
            ),
            (
                Failure::Killed { node: node(), signal: 9, memory_bytes: Some(1 << 30), last_lines: vec![] },
                "RUN0011",
                "`daily` was killed by signal 9 (SIGKILL)",
            ),
            (
                Failure::TimedOut { node: node(), limit: Duration::from_secs(2), last_lines: vec![] },
                "RUN0012",
                "`daily` ran longer than its limit of 2 s",
            ),
            (
                Failure::OutOfMemory {
                    node: node(),
                    memory: Memory { limit_bytes: 300 << 20, peak_bytes: None },
                    last_lines: vec![],
                },
                "RUN0031",
                "`daily` used more memory than its limit of 300 MiB",
            ),
            (Failure::Strict { node: node(), missing: vec![] }, "RUN0030", "could not run `daily` in the strict sandbox"),
            (
                Failure::Sandbox { node: node(), layer: "x", step: "y".into(), source: io::Error::other("no") },
                "RUN0032",
                "could not make the sandbox of `daily`",
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
        let report = Failure::Killed { node: node(), signal: 9, memory_bytes: Some(1 << 30), last_lines: vec![] }.report();
        assert!(report.hint.unwrap().contains("1024 MiB"));
    }
}
