//! What can go wrong while an environment is made, and what to do about it.

use std::io;
use std::path::PathBuf;

use forebay_types::{Coded, Fault, Report};

/// An environment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `uv` binary.
    #[error("could not find `uv`, which makes Python environments")]
    UvMissing {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// No interpreter of the wanted version.
    #[error("could not find Python {wanted}")]
    NoInterpreter {
        /// `3.11`
        wanted: String,
        /// What there is: `3.10 (/usr/bin/python3.10)`.
        found: Vec<String>,
        /// Why it could not be downloaded; `None`: not tried.
        download: Option<String>,
    },
    /// The packages contradict each other, or do not exist.
    #[error("could not resolve {packages} for Python {python}")]
    Resolve {
        /// `pandas==2.0.*, pyarrow`
        packages: String,
        /// `3.11`
        python: String,
        /// What uv says, cleaned.
        uv: String,
        /// What may help.
        hint: Option<String>,
    },
    /// Download or unpacking failed.
    #[error("could not install {packages}")]
    Install {
        /// `pandas==2.0.3, pyarrow==25.0.0`
        packages: String,
        /// What uv says, cleaned.
        uv: String,
    },
    /// Installed, but does not import.
    #[error("could not import package `{package}` {version} in its new environment (Python {python})")]
    Import {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// `3.11`
        python: String,
        /// The last line of the traceback.
        message: String,
        /// All packages beside it: `numpy 2.4.6, pytz 2026.6`.
        beside: String,
    },
    /// Not a version, or not a package name (then `version` is empty).
    #[error("could not read {}", if version.is_empty() { format!("the package name `{package}`") } else { format!("the version `{version}` of package `{package}`") })]
    Version {
        /// The package.
        package: String,
        /// What was written.
        version: String,
        /// Why not.
        why: String,
    },
    /// The cache folder does not let us.
    #[error("could not {verb} `{}`", path.display())]
    Io {
        /// `create`, `read`, …
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A package without a wheel did not build.
    #[error("could not build a package of {packages} from its sources")]
    Build {
        /// `pandas==2.0.3, pyarrow`
        packages: String,
        /// What uv says, cleaned.
        uv: String,
    },
    /// A package without a wheel, and nowhere to build it.
    #[error("could not build a package of {packages} from its sources: that takes a sandbox")]
    Unconfined {
        /// `pandas==2.0.3, pyarrow`
        packages: String,
        /// Why there is none.
        why: String,
    },
    /// No space left.
    #[error("could not make the environment: the disk is full")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// What was said.
        cause: String,
    },
    /// The project's `forebay.lock` cannot be used.
    #[error("could not read `forebay.lock`")]
    Lock {
        /// Why not.
        why: String,
    },
    /// No environment, or more than one, has this hash.
    #[error("could not find the environment `{hash}`")]
    NotFound {
        /// As given.
        hash: String,
        /// Hashes that begin so.
        matches: Vec<String>,
    },
    /// The project's `forebay.lock` is not what its files ask for.
    #[error("`forebay.lock` is stale")]
    Stale {
        /// Environments it says nothing about, or too much.
        why: Vec<String>,
    },
    /// The caller gave up.
    #[error("the environment was not made: cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn io(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, cause: source.to_string() },
            _ => Self::Io { verb, path, source },
        }
    }

    /// What uv's words mean: a full disk, a package that does not build, or something else.
    pub(crate) fn install(packages: String, uv: String, folder: &std::path::Path) -> Self {
        let says = |words: &[&str]| words.iter().any(|word| uv.contains(word));
        if says(&["No space left on device", "os error 28", "Disk quota exceeded", "os error 122"]) {
            return Self::DiskFull { path: folder.to_owned(), cause: uv };
        }
        if says(&["Failed to build", "build backend", "Build backend", "Failed to download and build"]) {
            return Self::Build { packages, uv };
        }
        Self::Install { packages, uv }
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        let message = self.to_string();
        match self {
            Self::UvMissing { tried } => Report::new("ENV0001", Fault::Platform, message)
                .with_cause(format!("not found: {}", join(tried.iter().map(|path| format!("`{}`", path.display())))))
                .with_hint("install it with `python3 -m pip install uv`, or name the binary in the environment variable FOREBAY_UV"),
            Self::NoInterpreter { wanted, found, download } => {
                let found = if found.is_empty() { "no Python at all was found".to_owned() } else { format!("found: {}", found.join(", ")) };
                let report = Report::new("ENV0002", Fault::Request, message).with_cause(found);
                let report = if let Some(why) = download { report.with_cause(format!("download: {why}")) } else { report };
                report.with_hint(format!(
                    "install it (`uv python install {wanted}`, pyenv or your system's packages), name one in FOREBAY_PYTHONS, or use a version that is there in `@forebay.python(…)`"
                ))
            }
            Self::Resolve { uv, hint, .. } => {
                let report = Report::new("ENV0003", Fault::Request, message).with_cause(uv);
                report.with_hint(hint.as_deref().unwrap_or("check names and versions in `@forebay.python(…, pip={…})`"))
            }
            Self::Install { uv, .. } => Report::new("ENV0004", Fault::Platform, message)
                .with_cause(uv)
                .with_hint("check the network and the space on disk, then run again: what was downloaded is kept"),
            Self::Import { package, version, message: cause, beside, .. } => Report::new("ENV0005", Fault::Request, message)
                .with_cause(cause)
                .with_cause(format!("installed beside it: {beside}"))
                .with_hint(format!(
                    "two of these packages do not fit each other without saying so: pin the one named above to a version from the time of {package} {version}"
                )),
            Self::Version { why, .. } => Report::new("ENV0006", Fault::Request, message)
                .with_cause(why)
                .with_hint("write an exact version (`2.2.0`), a prefix (`2.0` is the newest 2.0.x) or a PEP 440 specifier (`>=2,<3`)"),
            Self::Io { source, .. } => Report::new("ENV0007", Fault::Platform, message)
                .with_cause(source)
                .with_hint("check permissions and free space of the cache folder"),
            Self::Build { uv, .. } => Report::new("ENV0009", Fault::Request, message)
                .with_cause(uv)
                .with_hint("use a version that has a wheel for this Python, or install what the build misses (often a compiler or headers)"),
            Self::Unconfined { why, .. } => Report::new("ENV0014", Fault::Request, message)
                .with_cause(why)
                .with_hint(
                    "use a version that has a wheel; `forebay doctor` says how to allow the sandbox; if you trust what is built, FOREBAY_BUILDS=trusted (for the background process) builds with your rights",
                ),
            Self::DiskFull { path, cause } => Report::new("ENV0010", Fault::Platform, message)
                .with_cause(cause)
                .with_cause(format!("in `{}`", path.display()))
                .with_hint("free some space; `forebay env gc --max-size 5G` removes the environments that were not used for longest"),
            Self::Lock { why } => Report::new("ENV0011", Fault::Request, message)
                .with_cause(why)
                .with_hint("write it anew: `forebay env lock`"),
            Self::NotFound { matches, .. } => {
                let report = Report::new("ENV0012", Fault::Request, message);
                let report = if matches.is_empty() { report } else { report.with_cause(format!("it could be {}", matches.join(", "))) };
                report.with_hint("list environments with `forebay env ls`")
            }
            Self::Stale { why } => {
                let report = Report::new("ENV0013", Fault::Request, message);
                why.iter().fold(report, |report, why| report.with_cause(why)).with_hint("write it anew: `forebay env lock`")
            }
            Self::Cancelled => Report::new("ENV0008", Fault::Request, message),
        }
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
