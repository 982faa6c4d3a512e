//! Errors of the control plane, and how any coded error becomes one on the wire.
//!
//! Errors of the planner, catalog, lake and runtime pass through unchanged, with their own codes;
//! only what goes wrong here has a `CTL` code.

use std::path::PathBuf;

use forebay_types::{Coded, Fault, InvalidName, Location, OPEN_FILES_HINT, Report, is_out_of_files};

use crate::api;

/// What can go wrong in the control plane itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or file of ours cannot be used.
    #[error("could not {verb} `{}`", path.display())]
    Storage {
        /// What was tried: `create`, `read`, …
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("could not read the configuration `{}`", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, from 1, if known.
        line: Option<u32>,
        /// What is wrong.
        why: String,
    },
    /// A profile that is in no configuration.
    #[error("could not find the profile `{name}` in `{}`", path.display())]
    UnknownProfile {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Profiles that exist.
        known: Vec<String>,
    },
    /// The background process did not come up.
    #[error("could not start the background process `{}`", program.display())]
    DaemonStart {
        /// The program.
        program: PathBuf,
        /// What happened.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// The connection broke in the middle of a request.
    #[error("lost the connection to the background process")]
    ConnectionLost {
        /// What happened.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// No daemon runs, and none was to be started.
    #[error("no background process is running for `{}`", socket.display())]
    NotRunning {
        /// Where it would listen.
        socket: PathBuf,
    },
    /// A daemon of another protocol is busy with jobs.
    #[error("a background process of version {version} is busy with {jobs} jobs")]
    DaemonBusy {
        /// Its version.
        version: String,
        /// Its jobs.
        jobs: u64,
    },
    /// A second daemon for one home.
    #[error("a background process is already running for `{}`", lock.display())]
    AlreadyRunning {
        /// The lock it holds.
        lock: PathBuf,
    },
    /// A request that this daemon does not understand.
    #[error("could not understand the request")]
    BadRequest {
        /// Why.
        why: String,
    },
    /// A defect of ours.
    #[error("the background process hit a defect while it worked on `{op}`")]
    Defect {
        /// The operation.
        op: String,
        /// The panic's words.
        why: String,
    },
    /// The project folder cannot be read.
    #[error("could not read the project folder `{}`", path.display())]
    Project {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The project is too large to be source code.
    #[error("could not take the project `{}`: it is too large", path.display())]
    ProjectTooLarge {
        /// The folder.
        path: PathBuf,
        /// Which limit.
        why: String,
    },
    /// A source file is not text.
    #[error("could not read `{file}`: it is not UTF-8 text")]
    NotText {
        /// File relative to the project.
        file: String,
    },
    /// A write needs a branch.
    #[error("could not write to `{at}`: it is not a branch")]
    NotABranch {
        /// The ref.
        at: String,
    },
    /// No branch of that name to run on.
    #[error("could not find the branch `{name}`")]
    NoBranch {
        /// Its name.
        name: String,
        /// Branches that exist.
        known: Vec<String>,
    },
    /// No such job.
    #[error("could not find the job `{id}`")]
    NoJob {
        /// The id or prefix.
        id: String,
        /// Jobs the prefix fits, if it fits several.
        matches: Vec<String>,
    },
    /// What a job of a killed daemon ends with.
    #[error("the background process was killed while this job ran")]
    DaemonKilled,
    /// The job was stopped.
    #[error("the job was cancelled")]
    Cancelled {
        /// By whom.
        why: &'static str,
    },
    /// No such table.
    #[error("could not find the table `{name}` at `{at}`")]
    NoTable {
        /// Full name.
        name: String,
        /// The ref.
        at: String,
        /// Tables with names near to it.
        near: Vec<String>,
    },
    /// `table create` without `replace` over an existing table.
    #[error("could not create the table `{name}`: it exists on `{branch}`")]
    TableExists {
        /// Full name.
        name: String,
        /// Branch.
        branch: String,
    },
    /// A write to a table of another engine.
    #[error("could not write to the table `{name}`: it is external, and read only")]
    ReadOnlyTable {
        /// Full name.
        name: String,
    },
    /// A plan of a table that does not say what to create.
    #[error("could not apply the plan: {why}")]
    BadPlan {
        /// Why.
        why: String,
    },
    /// A metadata file that is not another engine's.
    #[error("could not register `{location}`: it is in the lake's own warehouse")]
    NotExternal {
        /// The metadata file.
        location: String,
    },
    /// A filter that is no regular expression.
    #[error("could not understand the filter `{pattern}`")]
    BadPattern {
        /// The text.
        pattern: String,
        /// Why.
        why: String,
    },
    /// A name that cannot be used.
    #[error("could not use the name")]
    BadName(#[from] InvalidName),
    /// A value of the request that cannot be used.
    #[error("could not use {what} `{value}`")]
    BadValue {
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
        /// Why.
        why: String,
    },
    /// A branch where a tag is wanted.
    #[error("could not use `{at}` as a tag: it is a branch")]
    NotATag {
        /// The name.
        at: String,
    },
    /// A merge of a ref into a branch that is there already.
    #[error("could not merge `{a}` into `{b}`: both are the same commit")]
    SameRef {
        /// The source.
        a: String,
        /// The target.
        b: String,
    },
    /// What the daemon answered makes no sense.
    #[error("could not understand the answer of the background process")]
    BadAnswer {
        /// Why.
        why: String,
    },
    /// The daemon is leaving.
    #[error("the background process is shutting down")]
    ShuttingDown,
}

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on I/O: what was tried, and on what.
    pub(crate) fn storage(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Storage { verb, path, source }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Storage { .. } => "CTL0001",
            Self::Config { .. } => "CTL0002",
            Self::UnknownProfile { .. } => "CTL0003",
            Self::DaemonStart { .. } => "CTL0004",
            Self::ConnectionLost { .. } => "CTL0005",
            Self::NotRunning { .. } => "CTL0006",
            Self::DaemonBusy { .. } => "CTL0007",
            Self::AlreadyRunning { .. } => "CTL0008",
            Self::BadRequest { .. } => "CTL0009",
            Self::Defect { .. } => "CTL0010",
            Self::Project { .. } => "CTL0011",
            Self::ProjectTooLarge { .. } => "CTL0012",
            Self::NotText { .. } => "CTL0013",
            Self::NotABranch { .. } => "CTL0014",
            Self::NoBranch { .. } => "CTL0015",
            Self::NoJob { .. } => "CTL0016",
            Self::DaemonKilled => "CTL0017",
            Self::Cancelled { .. } => "CTL0018",
            Self::NoTable { .. } => "CTL0019",
            Self::TableExists { .. } => "CTL0020",
            Self::BadPattern { .. } => "CTL0021",
            Self::BadName(_) => "CTL0022",
            Self::BadValue { .. } => "CTL0023",
            Self::ShuttingDown => "CTL0024",
            Self::BadAnswer { .. } => "CTL0025",
            Self::NotATag { .. } => "CTL0026",
            Self::SameRef { .. } => "CTL0027",
            Self::ReadOnlyTable { .. } => "CTL0051",
            Self::BadPlan { .. } => "CTL0052",
            Self::NotExternal { .. } => "CTL0053",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Config { .. }
            | Self::UnknownProfile { .. }
            | Self::NotRunning { .. }
            | Self::AlreadyRunning { .. }
            | Self::Project { .. }
            | Self::ProjectTooLarge { .. }
            | Self::BadPattern { .. }
            | Self::BadName(_)
            | Self::BadValue { .. } => Fault::Usage,
            Self::Storage { .. }
            | Self::DaemonStart { .. }
            | Self::ConnectionLost { .. }
            | Self::BadRequest { .. }
            | Self::Defect { .. }
            | Self::DaemonKilled
            | Self::BadAnswer { .. }
            | Self::ShuttingDown => Fault::Platform,
            Self::DaemonBusy { .. }
            | Self::NotText { .. }
            | Self::NotABranch { .. }
            | Self::NotATag { .. }
            | Self::SameRef { .. }
            | Self::NoBranch { .. }
            | Self::NoJob { .. }
            | Self::Cancelled { .. }
            | Self::NoTable { .. }
            | Self::TableExists { .. }
            | Self::ReadOnlyTable { .. }
            | Self::BadPlan { .. }
            | Self::NotExternal { .. } => Fault::Request,
        }
    }

    fn cause(&self) -> Option<String> {
        match self {
            Self::Storage { source, .. } => Some(source.to_string()),
            Self::Config { why, line: Some(line), .. } => Some(format!("line {line}: {why}")),
            Self::Config { why, .. }
            | Self::DaemonStart { why, .. }
            | Self::ConnectionLost { why, .. }
            | Self::BadRequest { why }
            | Self::BadAnswer { why }
            | Self::Defect { why, .. }
            | Self::Project { why, .. }
            | Self::ProjectTooLarge { why, .. }
            | Self::BadPattern { why, .. }
            | Self::BadValue { why, .. } => Some(why.clone()),
            Self::BadName(name) => Some(name.to_string()),
            Self::Cancelled { why } => Some((*why).to_owned()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let list = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Some(match self {
            Self::Storage { source, .. } if is_out_of_files(source) => OPEN_FILES_HINT.to_owned(),
            Self::UnknownProfile { known, .. } if known.is_empty() => "the configuration has no profiles".to_owned(),
            Self::UnknownProfile { known, .. } => format!("the profiles are {}", list(known)),
            Self::DaemonStart { log, .. } | Self::ConnectionLost { log, .. } => {
                format!("its log is `{}`; the next command starts it again", log.display())
            }
            Self::NotRunning { .. } => "start it with `forebay daemon start`".to_owned(),
            Self::DaemonBusy { .. } => "wait for its jobs, or stop them with `forebay daemon stop`".to_owned(),
            Self::AlreadyRunning { .. } => "see it with `forebay daemon status`".to_owned(),
            Self::Defect { .. } => "please report it, with the log that `forebay daemon logs` shows".to_owned(),
            Self::ProjectTooLarge { .. } => "keep data out of the project folder, or list it in `.gitignore`".to_owned(),
            Self::NotABranch { .. } => "name a branch; make one with `forebay branch create <name> --from <ref>`".to_owned(),
            Self::NoBranch { name, known } => {
                let near = near(name, known.iter().map(String::as_str));
                let or = near.first().map(|near| format!(", or did you mean `{near}`?")).unwrap_or_default();
                format!("create it with `forebay branch create {name}`{or}")
            }
            Self::NoJob { matches, .. } if !matches.is_empty() => format!("give more digits; it fits {}", list(matches)),
            Self::NoJob { .. } => "list jobs with `forebay job list`".to_owned(),
            Self::DaemonKilled => "nothing of it is on its branch; run it again".to_owned(),
            Self::NoTable { near, .. } if !near.is_empty() => format!("did you mean {}?", list(near)),
            Self::NoTable { .. } => "list tables with `forebay table list`".to_owned(),
            Self::TableExists { .. } => {
                "import into it with `forebay table import`, or create it anew with `--replace`".to_owned()
            }
            Self::ReadOnlyTable { .. } => {
                "copy it into a table of your own: a model `SELECT * FROM …` with the strategy REPLACE".to_owned()
            }
            Self::BadPlan { .. } => {
                "leave one type under each `dst_datatype`, and `conflicts: []`; `forebay table create-plan` makes a plan"
                    .to_owned()
            }
            Self::NotExternal { .. } => "tables of the lake are on its branches already; see `forebay table ls`".to_owned(),
            Self::BadPattern { .. } => {
                "a filter is exact text, or a regular expression that begins with `^`: `^dev-.*$`".to_owned()
            }
            Self::NotATag { .. } => "list tags with `forebay tag list`".to_owned(),
            Self::ShuttingDown => "repeat the command; it starts a new one".to_owned(),
            _ => return None,
        })
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        let mut report = Report::new(self.code(), self.fault(), self.to_string());
        report.causes.extend(self.cause());
        report.hint = self.hint();
        if let Self::Config { path, line: Some(line), .. } = self {
            report.at = Some(Location { file: path.display().to_string(), line: *line, column: 1, excerpt: None });
            report.causes = vec![self.cause().unwrap_or_default()];
        }
        report
    }
}

/// Up to three of `names` that `wanted` may have meant, nearest first.
pub(crate) fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(usize, &str)> = names
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4)
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// Edit distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl From<Report> for api::Error {
    fn from(report: Report) -> Self {
        Self {
            code: report.code.0,
            message: report.message,
            causes: report.causes,
            hint: report.hint,
            at: report.at.map(|at| api::Place { file: at.file, line: at.line, column: at.column, excerpt: at.excerpt }),
            fault: fault_name(report.fault).to_owned(),
            others: Vec::new(),
            traceback: None,
            node: None,
        }
    }
}

impl From<Error> for api::Error {
    fn from(error: Error) -> Self {
        error.report().into()
    }
}

impl From<InvalidName> for api::Error {
    fn from(error: InvalidName) -> Self {
        Error::from(error).into()
    }
}

impl api::Error {
    /// Any coded error, for the wire.
    pub fn of(error: &impl Coded) -> Self {
        error.report().into()
    }

    /// Several reports found at the same time: the first one carries the others.
    pub fn all(reports: Vec<Report>) -> Self {
        let mut errors = reports.into_iter().map(Self::from);
        let mut first =
            errors.next().unwrap_or_else(|| Error::Defect { op: "plan".into(), why: "it failed without a reason".into() }.into());
        first.others = errors.collect();
        first
    }

    /// The report a person reads (without `others` and `traceback`).
    #[must_use]
    pub fn to_report(&self) -> Report {
        let mut report = Report::new(&self.code, self.fault_kind(), self.message.clone());
        report.causes.clone_from(&self.causes);
        report.hint.clone_from(&self.hint);
        report.at = self.at.as_ref().map(|at| Location {
            file: at.file.clone(),
            line: at.line,
            column: at.column,
            excerpt: at.excerpt.clone(),
        });
        report
    }

    /// Whose turn it is; decides the exit code.
    #[must_use]
    pub fn fault_kind(&self) -> Fault {
        match self.fault.as_str() {
            "usage" => Fault::Usage,
            "request" => Fault::Request,
            _ => Fault::Platform,
        }
    }
}

/// The word on the wire.
#[must_use]
pub fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Request => "request",
        Fault::Usage => "usage",
        Fault::Platform => "platform",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let source = include_str!("error.rs");
        let codes = source.split('"').filter(|text| text.len() == 7 && text.starts_with("CTL0"));
        let codes: std::collections::BTreeSet<&str> = codes.collect();
        assert!(codes.len() > 20);
        for code in codes {
            let page = std::fs::read_to_string(folder.join(format!("{code}.md"))).unwrap_or_default();
            assert!(page.starts_with(&format!("# {code}: ")), "{code} has no page");
        }
    }

    #[test]
    fn near_names_come_nearest_first() {
        let names = ["flights", "flight", "weather"];
        assert_eq!(near("flihgts", names.into_iter()), ["flights"]);
        assert_eq!(near("flightss", names.into_iter()), ["flights", "flight"]);
        assert!(near("zzz", names.into_iter()).is_empty());
    }

    #[test]
    fn reports_survive_the_wire() {
        let error = Error::NoBranch { name: "mian".into(), known: vec!["main".into()] };
        let sent = api::Error::from(error);
        assert_eq!(
            sent.to_report().to_string(),
            "error[CTL0015]: could not find the branch `mian`\n\nhint: create it with `forebay branch create mian`, or did you mean `main`?"
        );
        let json = serde_json::to_string(&sent).unwrap();
        assert_eq!(serde_json::from_str::<api::Error>(&json).unwrap(), sent);
    }
}
