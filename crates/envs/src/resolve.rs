//! From requirements to a lock: exact versions with the hashes of their files.
//!
//! Offline first when the user left no choice of versions, because uv then needs no index (100 ms instead of 200 to
//! 800); otherwise online first, because "the newest 2.0.x" must not depend on what happens to be in a cache.

use std::os::unix::fs::PermissionsExt as _;

use crate::interpreters::Interpreter;
use crate::lock::{LOCK_BYTES_MAX, Lock};
use crate::{Error, Requirement, Tools, compatibility, confined, uv};

/// What to resolve.
pub(crate) struct Question<'a> {
    /// What was asked for.
    pub asked: &'a [Requirement],
    /// `3.11`
    pub python: &'a str,
    /// The interpreter it is for.
    pub interpreter: &'a Interpreter,
    /// An older lock, whose versions are kept where they can be.
    pub preferences: &'a str,
    /// Ask the index even if the user left no choice.
    pub fresh: bool,
}

impl Question<'_> {
    /// Whether the user named exact versions only. The last named requirement is usually the runtime's own; only what the user wrote
    /// decides.
    pub fn leaves_no_choice(&self) -> bool {
        !self.fresh && self.asked.iter().all(|r| r.is_exact() || r.name == "pyarrow")
    }
}

/// Resolves, and resolves again if an undeclared break is in the result.
pub(crate) fn resolve(tools: &Tools<'_>, question: &Question<'_>) -> Result<Lock, Error> {
    let asked = question.asked;
    if asked.is_empty() {
        return Ok(Lock::parse(String::new()));
    }
    let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    tools.watch.progress(&format!("resolving {names} for Python {}", question.python));
    let attempt = |constraints: &[String]| compile(tools, question, constraints, &names);
    let lock = attempt(&[])?;
    let constraints = compatibility::missing_constraints(&lock.packages, asked);
    if constraints.is_empty() {
        return Ok(lock);
    }
    tools.watch.progress(&format!("adding {}: newer versions do not import beside these packages", constraints.join(", ")));
    // The constraints are ours: when they cannot be met, the user's own packages decide.
    match attempt(&constraints) {
        Err(Error::Resolve { .. }) => Ok(lock),
        other => other,
    }
}

fn compile(tools: &Tools<'_>, question: &Question<'_>, constraints: &[String], names: &str) -> Result<Lock, Error> {
    let asked = question.asked;
    let input: String =
        asked.iter().map(ToString::to_string).chain(constraints.iter().cloned()).map(|line| line + "\n").collect();
    let path = question.interpreter.path.to_string_lossy();
    // uv keeps the versions it finds in the file it is about to write.
    let output_file = tempfile::Builder::new().prefix("lock-").suffix(".txt").tempfile_in(tools.folder);
    let output_file = output_file.map_err(Error::io("create", tools.folder))?;
    let file = output_file.path().to_string_lossy();
    let mut arguments = vec!["--python", &path, "--generate-hashes", "--no-header", "--no-annotate"];
    arguments.extend(["--no-emit-index-url", "--no-emit-find-links"]);
    let run = |offline: bool| {
        std::fs::write(output_file.path(), question.preferences).map_err(Error::io("write", output_file.path()))?;
        let extra = offline.then_some("--offline");
        let whole = ["pip", "compile", "-", "--output-file", &file, "--only-binary", ":all:"]
            .into_iter()
            .chain(arguments.iter().copied());
        uv::run(uv::command(tools.uv, tools.folder, whole.chain(extra)), &input, tools.watch)
    };
    let no_choice = question.leaves_no_choice();
    let mut output = run(tools.offline || no_choice)?;
    if !output.status.success() && !tools.offline {
        let first = output;
        output = run(!no_choice)?;
        // Online first, then offline: the first message says what is wrong.
        if !output.status.success() && !no_choice {
            output = first;
        }
    }
    if confined::needs_build(&output) {
        return build(tools, question, &arguments, &input, names);
    }
    if output.status.success() {
        let text = std::fs::read_to_string(output_file.path()).map_err(Error::io("read", output_file.path()))?;
        return Ok(Lock::parse(text));
    }
    Err(failure(question, names, uv::message_of(&output)))
}

/// The same where packages may be built, for one that tells only then what it requires.
fn build(tools: &Tools<'_>, question: &Question<'_>, arguments: &[&str], input: &str, names: &str) -> Result<Lock, Error> {
    let folder =
        tempfile::Builder::new().prefix("resolving-").tempdir_in(tools.folder).map_err(Error::io("create", tools.folder))?;
    let (wanted, lock) = (folder.path().join("wanted.in"), folder.path().join("lock.txt"));
    for (path, text) in [(&wanted, input), (&lock, question.preferences)] {
        std::fs::write(path, text).map_err(Error::io("write", path))?;
        // It may be another user who writes there.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(Error::io("write", path))?;
    }
    let (wanted, file) = (wanted.to_string_lossy(), lock.to_string_lossy());
    let wheels_only = compatibility::WHEELS_ONLY.iter().flat_map(|package| ["--only-binary", package]);
    let whole: Vec<&str> = ["pip", "compile", &wanted, "--output-file", &file]
        .into_iter()
        .chain(arguments.iter().copied())
        .chain(wheels_only)
        .collect();
    let output = confined::run(tools, folder.path(), &whole, &question.interpreter.path, names)?;
    if !output.status.success() {
        return Err(failure(question, names, uv::message_of(&output)));
    }
    let is_file = lock.symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() < LOCK_BYTES_MAX);
    if !is_file {
        return Err(Error::Build { packages: names.to_owned(), uv: "it left no lock".to_owned() });
    }
    let text = std::fs::read_to_string(&lock).map_err(Error::io("read", &lock))?;
    Ok(Lock::parse(text))
}

fn failure(question: &Question<'_>, names: &str, uv: String) -> Error {
    let hint = compatibility::python_advice(question.asked, question.python);
    match Error::install(names.to_owned(), uv, std::path::Path::new("")) {
        // What failed is a build for its metadata, or the disk; anything else is a resolution.
        Error::Install { packages, uv } => Error::Resolve { packages, python: question.python.to_owned(), uv, hint },
        other => other,
    }
}
