//! `doctor`: is everything there that a run needs, and what to do about what is not.
//!
//! Invariant: it makes the folders of the home and the copy of the Python runtime, as any run would, and changes
//! nothing else; it starts no background process and downloads nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forebay_control::home::Home;
use forebay_runtime::PythonRuntime;
use forebay_types::Coded;
use rustix::fs::{Access, MemfdFlags, SealFlags};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Failure, Result};
use crate::exit::Exit;
use crate::render::style::Style;

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do, if something is off.
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    /// Some projects will not run.
    Warning,
    /// Nothing will.
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: None }
    }

    fn off(name: &'static str, state: State, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), fix: Some(fix.into()) }
    }
}

pub fn run(context: &Context) -> Result<Exit> {
    let mut checks = vec![shared_memory()];
    match context.home() {
        Ok(home) => checks.extend([folders(&home), settings(context), background(&home), python_runtime(&home)]),
        Err(failure) => checks.push(Check::off("home", State::Failed, told(failure), "set `FOREBAY_HOME` to a folder")),
    }
    if let Ok(settings) = context.settings() {
        checks.push(lake(&settings.lake));
    }
    let uv = find_uv();
    checks.push(check_uv(uv.as_deref()));
    checks.push(interpreters(uv.as_deref()));
    if context.out.is_json() {
        context.out.object(json!({ "checks": checks.iter().map(object).collect::<Vec<_>>() }))?;
    } else {
        let style = context.out.data_style;
        context.out.data(&checks.iter().map(|check| line(style, check)).collect::<Vec<_>>().join("\n"))?;
    }
    let worst = checks.iter().map(|check| check.state).max();
    Ok(if worst == Some(State::Failed) { Exit::Platform } else { Exit::Done })
}

fn object(check: &Check) -> Value {
    json!({ "name": check.name, "status": check.state.as_str(), "found": check.found, "fix": check.fix })
}

fn line(style: Style, check: &Check) -> String {
    let mut line = format!("{}  {:18}  {}", style.status(&format!("{:7}", check.state.as_str())), check.name, check.found);
    if let Some(fix) = &check.fix {
        line.push_str(&format!("\n{:29}fix: {fix}", ""));
    }
    line
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Error(error) => {
            error.causes.first().map_or_else(|| error.message.clone(), |cause| format!("{}: {cause}", error.message))
        }
        Failure::StdoutClosed => "stdout is closed".to_owned(),
    }
}

/// Segments are memory files that can be sealed.
fn shared_memory() -> Check {
    let try_it = || {
        let file = rustix::fs::memfd_create("forebay-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, 4096)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    };
    match try_it() {
        Ok(()) => Check::ok("shared memory", "memory files can be made and sealed"),
        Err(error) => Check::off(
            "shared memory",
            State::Failed,
            format!("memory files cannot be sealed: {error}"),
            "use Linux 3.17 or newer",
        ),
    }
}

fn folders(home: &Home) -> Check {
    let shown = home.root().unwrap_or_else(|| home.state_dir()).display().to_string();
    let fix = format!("make {shown} a folder you may write to, or set `FOREBAY_HOME`");
    if let Err(error) = home.prepare() {
        return Check::off("home", State::Failed, told(error.into()), fix);
    }
    match can_write(home.state_dir()).and_then(|()| can_write(home.cache_dir())) {
        Ok(()) => Check::ok("home", shown),
        Err(why) => Check::off("home", State::Failed, why, fix),
    }
}

fn settings(context: &Context) -> Check {
    match context.settings() {
        Ok(settings) => Check::ok("settings", format!("profile `{}`, branch `{}`", settings.profile, settings.active_branch)),
        Err(failure) => Check::off("settings", State::Failed, told(failure), "see `forebay config get --all`"),
    }
}

fn background(home: &Home) -> Check {
    match super::daemon::ask(home) {
        Ok(daemon) => Check::ok("background process", super::info::state(daemon.as_ref())),
        Err(failure) => Check::off("background process", State::Warning, told(failure), "stop it with `forebay daemon stop`"),
    }
}

fn lake(uri: &str) -> Check {
    let Some(path) = uri.strip_prefix("file://") else {
        return Check::off("lake", State::Failed, format!("{uri} is not a local folder"), "set `FOREBAY_LAKE` to a path");
    };
    // A lake that is not there is made by the first command: what counts is the folder it would be made in.
    let Some(there) = Path::new(path).ancestors().find(|path| path.exists()) else {
        return Check::off("lake", State::Failed, format!("{path} cannot be reached"), "set `FOREBAY_LAKE` to another path");
    };
    match can_write(there) {
        Ok(()) if there == Path::new(path) => Check::ok("lake", uri),
        Ok(()) => Check::ok("lake", format!("{uri} (not made yet)")),
        Err(why) => Check::off("lake", State::Failed, why, "make it writable, or set `FOREBAY_LAKE` to another path"),
    }
}

fn can_write(folder: &Path) -> Result<(), String> {
    let why = |error: &dyn std::fmt::Display| format!("{} cannot be written to: {error}", folder.display());
    if !folder.is_dir() {
        return Err(why(&"it is not a folder"));
    }
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| why(&error))
}

/// As `envs` looks for it: `FOREBAY_UV`, beside our program, in the development layout, on the PATH.
fn find_uv() -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os("FOREBAY_UV") {
        return Some(chosen.into());
    }
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).map(|folder| vec![folder.to_owned(), folder.join("../venv/bin")]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.unwrap_or_default().into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join("uv")).find(|path| path.is_file())
}

fn check_uv(uv: Option<&Path>) -> Check {
    let fix = "install it with `pip install uv`, or set `FOREBAY_UV` to the program";
    let Some(uv) = uv else {
        return Check::off("uv", State::Failed, "not found: it makes the Python environments", fix);
    };
    match output(uv, &["--version"]) {
        Ok(version) => Check::ok("uv", format!("{} ({})", version.trim(), uv.display())),
        Err(why) => Check::off("uv", State::Failed, format!("{} does not run: {why}", uv.display()), fix),
    }
}

fn interpreters(uv: Option<&Path>) -> Check {
    let fix = "install Python 3.11 or newer, or let `uv python install 3.11` do it";
    let Some(uv) = uv else {
        return Check::off("Python", State::Warning, "not looked for without uv", "see uv above");
    };
    let list = ["python", "list", "--only-installed", "--output-format", "json"];
    let versions = output(uv, &list).map(|text| versions(&text));
    match versions {
        Ok(versions) if versions.is_empty() => Check::off("Python", State::Warning, "no interpreter found", fix),
        Ok(versions) => Check::ok("Python", versions.join(", ")),
        Err(why) => Check::off("Python", State::Warning, why, fix),
    }
}

/// The versions in uv's list, each once, newest first as uv lists them.
fn versions(list: &str) -> Vec<String> {
    let entries: Vec<Value> = serde_json::from_str(list).unwrap_or_default();
    let mut versions = Vec::new();
    for entry in &entries {
        let cpython = entry["implementation"].as_str().is_none_or(|name| name == "cpython");
        if let Some(version) = entry["version"].as_str().filter(|version| cpython && !versions.iter().any(|v| v == version)) {
            versions.push(version.to_owned());
        }
    }
    versions
}

fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let command = Command::new(program).args(arguments).env("UV_OFFLINE", "1").stdin(Stdio::null()).output();
    let output = command.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or("it failed without a word").to_owned())
}

/// The package `forebay` that functions import, from the copy in the cache that a run makes as well.
fn python_runtime(home: &Home) -> Check {
    match PythonRuntime::new(home.cache_dir()).folder() {
        Ok(folder) => Check::ok("Python runtime", folder.display().to_string()),
        Err(failure) => {
            let report = failure.report();
            let fix = report.hint.clone().unwrap_or_default();
            Check::off("Python runtime", State::Failed, told(report.into()), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_in_lines() {
        let off = Check::off("uv", State::Failed, "not found", "install it");
        assert_eq!(
            line(Style::PLAIN, &off),
            "failed   uv                  not found\n                             fix: install it"
        );
        assert_eq!(object(&Check::ok("lake", "x")), json!({"name": "lake", "status": "ok", "found": "x", "fix": null}));
    }

    #[test]
    fn this_machine_has_shared_memory() {
        assert_eq!(shared_memory().state, State::Ok);
    }

    #[test]
    fn lakes_are_looked_at_but_not_made() {
        let root = tempfile::tempdir().unwrap();
        let uri = format!("file://{}/a/b", root.path().display());
        assert_eq!(lake(&uri), Check::ok("lake", format!("{uri} (not made yet)")));
        assert!(!root.path().join("a").exists());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(lake(&format!("file://{}/file/lake", root.path().display())).state, State::Failed);
        assert_eq!(lake("s3://bucket").state, State::Failed);
    }

    #[test]
    fn versions_of_uvs_list() {
        let list = r#"[{"version":"3.12.1","implementation":"cpython"},{"version":"3.12.1","implementation":"cpython"},
                       {"version":"3.11.2","implementation":"pypy"},{"version":"3.11.7","implementation":"cpython"}]"#;
        assert_eq!(versions(list), ["3.12.1", "3.11.7"]);
        assert!(versions("nonsense").is_empty());
    }
}
